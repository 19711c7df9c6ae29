//! Causes at the registry state of the node and its checkpoint.

use kms_domain::registry::checkpoint::Rollback;

use super::{Cause, DataImpact, Step, act, command, configuration, node, run};
use crate::{
    exit::Exit,
    state::{
        CommitError, LockError, StateError, StorageFault,
        disk::{DiskError, Flaw},
    },
};

pub const ALL: &[&Cause] = &[
    &LOST,
    &CORRUPT,
    &OTHER_RELEASE,
    &ROLLED_BACK,
    &CHECKPOINT_LOST,
    &REPLACED,
    &ABSENT,
    &TOO_OPEN,
    &UNREADABLE,
    &UNSAVED_NO_SPACE,
    &UNSAVED_READ_ONLY,
    &UNSAVED_DIRECTORY_GONE,
    &UNSAVED_NO_DESCRIPTORS,
    &UNSAVED_FOREIGN_STATE,
    &UNSAVED,
    &VERSIONS_REMOVED,
    &NOTHING_TO_RECORD,
    &CONFLICT,
    &NOT_SAVED,
    &JOURNAL_UNUSABLE,
    &DISK_FULL,
    &DISK_READ_ONLY,
    &DISK_FAILING,
];

const FROM_BACKUP: Step = act(
    "stop the provider, and put {state} and {checkpoint} back together, from a backup of this node or \
     a copy of a healthy peer",
);
const REBUILD: Step = run(
    "without a backup, rebuild them from evidence, first as a plan (also from --record FILE or \
     --peer-state FILE)",
    "bao-kms-provider recover-state --etcd-snapshot FILE --config {config}",
);
const BEFORE_RESTART: &str =
    "do not restart a provider that still serves before its state is restored";
const NO_BLIND_ACCEPTANCE: &str = "do not start with --accept-missing-checkpoint before the state was \
    compared with a peer";

const EDIT_NOTHING: &str = "do not edit the state, and do not delete the checkpoint";

pub const LOST: Cause = Cause {
    code: "state_lost",
    headline: "the registry state of this node is missing",
    impact: DataImpact::NoneLost,
    data: "no data is lost: the key is present, and objects are readable again once this node knows \
           its versions",
    steps: &[FROM_BACKUP, REBUILD],
    warnings: &[BEFORE_RESTART, EDIT_NOTHING],
    exit: Exit::CheckFailed,
};

pub const CORRUPT: Cause = Cause {
    code: "state_corrupt",
    headline: "the registry state or its checkpoint is invalid",
    impact: DataImpact::NoneLost,
    data: "no data is lost: the files record the versions in use, and the key is present",
    steps: &[FROM_BACKUP, REBUILD],
    warnings: &[EDIT_NOTHING],
    exit: Exit::CheckFailed,
};

pub const OTHER_RELEASE: Cause = Cause {
    code: "state_other_release",
    headline: "a newer release of the provider wrote the registry state or its checkpoint",
    impact: DataImpact::NoneLost,
    data: "no data is lost: the release that wrote the state reads it, and the key is present",
    steps: &[
        act("use that release or a later one"),
        run(
            "only to give up what that release knew, rebuild the state, first as a plan",
            "bao-kms-provider recover-state --replace-newer-release --etcd-snapshot FILE --config {config}",
        ),
    ],
    warnings: &["do not edit, delete or rebuild files of a newer release"],
    exit: Exit::CheckFailed,
};

pub const ROLLED_BACK: Cause = Cause {
    code: "state_rolled_back",
    headline: "the registry state is older than its checkpoint, or has another history",
    impact: DataImpact::AtRisk,
    data: "at risk: no data is lost yet; the provider refuses this state, since it may lack versions \
           that are in use",
    steps: &[FROM_BACKUP, REBUILD],
    warnings: &[NO_BLIND_ACCEPTANCE, EDIT_NOTHING],
    exit: Exit::CheckFailed,
};

pub const CHECKPOINT_LOST: Cause = Cause {
    code: "checkpoint_lost",
    headline: "the checkpoint is missing, so the registry state may be an older one",
    impact: DataImpact::NoneLost,
    data: "no data is lost: the provider refuses a state without proof that it is the newest",
    steps: &[
        FROM_BACKUP,
        run(
            "or compare generation and hash with another node, and start the newest state once with \
             `serve --accept-missing-checkpoint`",
            "bao-kms-provider inspect-state --config {config}",
        ),
        REBUILD,
    ],
    warnings: &[NO_BLIND_ACCEPTANCE, EDIT_NOTHING],
    exit: Exit::CheckFailed,
};

pub const REPLACED: Cause = Cause {
    code: "state_replaced",
    headline: "the running provider uses another key than the state on disk",
    impact: DataImpact::AtRisk,
    data: "at risk: no data is lost yet, but after a restart this node may not know the key of objects \
           that it writes now",
    steps: &[
        act("find out what replaced the state while the provider ran"),
        act(
            "put the files of the running provider back, {state} and {checkpoint}, from a backup of this \
             node or a copy of a healthy peer",
        ),
        run(
            "only then restart the provider",
            "systemctl restart bao-kms-provider",
        ),
    ],
    warnings: &[BEFORE_RESTART],
    exit: Exit::CheckFailed,
};

pub const ABSENT: Cause = Cause {
    code: "state_absent",
    headline: "this node has no registry state",
    impact: DataImpact::NoneLost,
    data: "no data is lost: a new node creates its state at the first start, if the key was never rotated",
    steps: &[run(
        "if this node had a state, rebuild it from evidence, first as a plan (also from --record FILE or \
         --peer-state FILE)",
        "bao-kms-provider recover-state --etcd-snapshot FILE --config {config}",
    )],
    warnings: &[],
    exit: Exit::CheckFailed,
};

pub const TOO_OPEN: Cause = Cause {
    code: "state_too_open",
    headline: "other users can change the registry state or its checkpoint",
    impact: DataImpact::NoneLost,
    data: "no data is lost: the provider refuses a state that another user may have changed",
    steps: &[
        act("compare {path} with a peer or a backup"),
        run("if it is unchanged, correct its mode", "chmod 0640 {path}"),
    ],
    warnings: &[],
    exit: Exit::CheckFailed,
};

pub const UNREADABLE: Cause = Cause {
    code: "state_unreadable",
    headline: "the registry state or its directory is unreadable or unsafe",
    impact: DataImpact::NoneLost,
    data: "no data is lost: the files record the versions in use, and OpenBao keeps the key",
    steps: &[
        run(
            "if you are not the user of the provider, run the command as that user",
            "sudo -u openbao-kms {again}",
        ),
        run(
            "see owner and mode of the files",
            "ls -la {state_directory}",
        ),
        act(
            "let the user of the provider own {state_directory} with mode 0750, and the files in it \
             with mode 0640",
        ),
    ],
    warnings: &[],
    exit: Exit::CheckFailed,
};

const UNSAVED_DATA: &str = "no data is lost: the running provider continues with its versions, and promotes \
    no new version until it can save";

pub const UNSAVED_NO_SPACE: Cause = Cause {
    code: "state_unsaved_no_space",
    headline: "the running provider cannot save its state: the file system is full",
    impact: DataImpact::NoneLost,
    data: UNSAVED_DATA,
    steps: &[run(
        "free space or inodes",
        "df -h {state_directory}; df -i {state_directory}",
    )],
    warnings: &[],
    exit: Exit::CheckFailed,
};

pub const UNSAVED_READ_ONLY: Cause = Cause {
    code: "state_unsaved_read_only",
    headline: "the running provider cannot save its state: the file system is read-only",
    impact: DataImpact::NoneLost,
    data: UNSAVED_DATA,
    steps: &[
        run("see its mount options", "findmnt -T {state_directory}"),
        act("read the errors of its disk with dmesg, and mount it read-write"),
    ],
    warnings: &[],
    exit: Exit::CheckFailed,
};

pub const UNSAVED_DIRECTORY_GONE: Cause = Cause {
    code: "state_unsaved_directory_gone",
    headline: "the running provider cannot save its state: its directory is gone or was replaced",
    impact: DataImpact::NoneLost,
    data: UNSAVED_DATA,
    steps: &[
        run("see the mount", "findmnt -T {state_directory}"),
        act("mount {state_directory}, or put it back with its files"),
    ],
    warnings: &[BEFORE_RESTART],
    exit: Exit::CheckFailed,
};

pub const UNSAVED_NO_DESCRIPTORS: Cause = Cause {
    code: "state_unsaved_no_descriptors",
    headline: "the running provider cannot save its state: it has no free file descriptors",
    impact: DataImpact::NoneLost,
    data: UNSAVED_DATA,
    steps: &[
        run(
            "see its open files",
            "ls -l /proc/$(pidof bao-kms-provider)/fd",
        ),
        run("raise LimitNOFILE=", "systemctl edit bao-kms-provider"),
    ],
    warnings: &[],
    exit: Exit::CheckFailed,
};

pub const UNSAVED_FOREIGN_STATE: Cause = Cause {
    code: "state_unsaved_foreign_state",
    headline: "the running provider cannot save its state: other files replaced it",
    impact: DataImpact::AtRisk,
    data: REPLACED.data,
    steps: REPLACED.steps,
    warnings: REPLACED.warnings,
    exit: Exit::CheckFailed,
};

pub const UNSAVED: Cause = Cause {
    code: "state_unsaved",
    headline: "the running provider cannot save its state",
    impact: DataImpact::NoneLost,
    data: UNSAVED_DATA,
    steps: &[run(
        "see owner, mode and mount of its directory",
        "ls -ld {state_directory}; findmnt -T {state_directory}",
    )],
    warnings: &[],
    exit: Exit::CheckFailed,
};

pub const RESTORE_VERSIONS: Step = run(
    "take the versions back into use on this node",
    "bao-kms-provider restore-versions --config {config} --versions {removed}",
);

pub const VERSIONS_REMOVED: Cause = Cause {
    code: "versions_removed",
    headline: "the state of this node has versions as removed that stored data needs",
    impact: DataImpact::NoneLost,
    data: "no data is lost: the key has the versions, and this node reads their objects again once \
           they are restored in its state",
    steps: &[RESTORE_VERSIONS],
    warnings: &["do not delete the state to make the node accept the versions"],
    exit: Exit::CheckFailed,
};

pub const NOTHING_TO_RECORD: Cause = Cause {
    code: "no_state_to_record",
    headline: "this node has no registry state, so its active version is unknown",
    impact: DataImpact::Unknown,
    data: "unknown: no record was written, and nothing else was examined",
    steps: &[
        act("run record-backup on a node that serves"),
        run(
            "if this node served before, rebuild its state, first as a plan",
            "bao-kms-provider recover-state --etcd-snapshot FILE --config {config}",
        ),
    ],
    warnings: &[],
    exit: Exit::CheckFailed,
};

pub const CONFLICT: Cause = Cause {
    code: "state_key_conflict",
    headline: "the registry state and the key in OpenBao contradict each other",
    impact: DataImpact::AtRisk,
    data: "at risk: no data is lost yet; one of the two is not the one that data was encrypted with",
    steps: &[
        run(
            "compare state and key",
            "bao-kms-provider verify-key --config {config}",
        ),
        run(
            "let stored objects decide",
            "bao-kms-provider verify-backup --etcd-snapshot FILE --config {config}",
        ),
    ],
    warnings: &["do not edit the state, and do not recreate the key"],
    exit: Exit::CheckFailed,
};

pub const NOT_SAVED: Cause = Cause {
    code: "state_not_saved",
    headline: "the registry state could not be written to disk",
    impact: DataImpact::NoneLost,
    data: "no data is lost: the disk has the old state or the new one, and OpenBao keeps the key",
    steps: &[
        act("correct the cause above: free space, permissions, or a disk that fails"),
        run(
            "see which state is on disk",
            "bao-kms-provider inspect-state --config {config}",
        ),
        run(
            "if it is the old one, run the command again; the next start of the provider completes a \
             new one",
            "{again}",
        ),
    ],
    warnings: &[EDIT_NOTHING],
    exit: Exit::CheckFailed,
};

pub const JOURNAL_UNUSABLE: Cause = Cause {
    code: "recovery_journal_unusable",
    headline: "another file is in the place of the recovery journal, and nothing was written",
    impact: DataImpact::NoneLost,
    data: "no data is lost: nothing was changed",
    steps: &[act(
        "if a newer release wrote the file, run recover-state of that release; else move the file \
         away, and run the same command again",
    )],
    warnings: &[EDIT_NOTHING],
    exit: Exit::CheckFailed,
};

pub const DISK_FULL: Cause = Cause {
    code: "state_disk_full",
    headline: "the file system of the state is full: no version of the key can be saved",
    impact: DataImpact::NoneLost,
    data: "no data is lost: a running provider continues with the saved versions, and a rotation waits",
    steps: &[
        run(
            "see whether bytes or inodes are used up",
            "df -h {state_directory}; df -i {state_directory}",
        ),
        run(
            "find the largest directories on that file system, and free space there",
            "du -xh --max-depth=2 \"$(findmnt -no TARGET -T {state_directory})\" | sort -h | tail",
        ),
        act("a running provider saves by itself afterwards; start a stopped one"),
    ],
    warnings: &[EDIT_NOTHING],
    exit: Exit::CheckFailed,
};

pub const DISK_READ_ONLY: Cause = Cause {
    code: "state_disk_read_only",
    headline: "the file system of the state is read-only: no version of the key can be saved",
    impact: DataImpact::NoneLost,
    data: DISK_FULL.data,
    steps: &[
        run("see its mount options", "findmnt -T {state_directory}"),
        run(
            "look for errors of its disk",
            "dmesg --level=err,warn | tail -n 30",
        ),
        act("mount it read-write; a running provider saves by itself afterwards"),
    ],
    warnings: &[EDIT_NOTHING],
    exit: Exit::CheckFailed,
};

pub const DISK_FAILING: Cause = Cause {
    code: "state_disk_failing",
    headline: "the disk of the state refuses to write, or does not answer",
    impact: DataImpact::NoneLost,
    data: DISK_FULL.data,
    steps: &[
        run(
            "see owner, mode and mount of the directory",
            "ls -ld {state_directory}; findmnt -T {state_directory}",
        ),
        run(
            "look for errors of its disk",
            "dmesg --level=err,warn | tail -n 30",
        ),
    ],
    warnings: &[EDIT_NOTHING],
    exit: Exit::CheckFailed,
};

/// The cause of a disk that takes no new state.
#[must_use]
pub fn of_storage(fault: StorageFault) -> &'static Cause {
    match fault {
        StorageFault::NoSpace => &DISK_FULL,
        StorageFault::ReadOnly => &DISK_READ_ONLY,
        StorageFault::NoDescriptors
        | StorageFault::DirectoryGone
        | StorageFault::Permission
        | StorageFault::Io
        | StorageFault::NoAnswer
        | StorageFault::ForeignState
        | StorageFault::UnsafeFiles => &DISK_FAILING,
    }
}

/// The cause of a state that cannot be used.
#[must_use]
pub fn of_error(error: &StateError) -> &'static Cause {
    match error {
        StateError::CorruptCheckpoint { .. } | StateError::CorruptDocument { .. } => &CORRUPT,
        StateError::RolledBack { problem, .. } => match problem {
            Rollback::DocumentLost { .. } => &LOST,
            Rollback::Older { .. }
            | Rollback::OtherHash { .. }
            | Rollback::TooFarAhead { .. }
            | Rollback::NotLinked { .. } => &ROLLED_BACK,
        },
        StateError::OtherConfiguration { .. } => &configuration::IDENTITY_CHANGED,
        StateError::OtherRelease { .. } => &OTHER_RELEASE,
        StateError::CheckpointMissing { .. } => &CHECKPOINT_LOST,
        StateError::NoDirectory { .. } => &node::STATE_DIRECTORY_MISSING,
        StateError::Unreadable(DiskError::Unsafe {
            flaw: Flaw::TooOpen { .. },
            ..
        }) => &TOO_OPEN,
        StateError::Lock(LockError::Locked { .. }) => &node::STATE_LOCKED,
        StateError::Lock(LockError::Unusable(problem)) | StateError::CheckpointWrite(problem)
            if is_full(problem) =>
        {
            of_storage(problem.fault())
        }
        StateError::Unreadable(_) | StateError::Lock(_) | StateError::CheckpointWrite(_) => {
            &UNREADABLE
        }
    }
}

/// The cause of a state that the running provider cannot save, by the word of its `/why`.
#[must_use]
pub fn of_unsaved(word: &str) -> &'static Cause {
    match word {
        "no_space" => &UNSAVED_NO_SPACE,
        "read_only" => &UNSAVED_READ_ONLY,
        "directory_gone" => &UNSAVED_DIRECTORY_GONE,
        "no_descriptors" => &UNSAVED_NO_DESCRIPTORS,
        "foreign_state" => &UNSAVED_FOREIGN_STATE,
        _ => &UNSAVED,
    }
}

/// The cause of a state file that a command could not write.
#[must_use]
pub fn of_disk(problem: &DiskError) -> &'static Cause {
    match problem {
        DiskError::Unsafe {
            flaw: Flaw::TooOpen { .. },
            ..
        } => &TOO_OPEN,
        DiskError::Unsafe { .. } => &UNREADABLE,
        DiskError::DirectoryReplaced { .. } => &UNSAVED_DIRECTORY_GONE,
        DiskError::Exists { .. } => &command::FILE_EXISTS,
        DiskError::System { .. } if is_full(problem) => of_storage(problem.fault()),
        DiskError::System { .. } => &NOT_SAVED,
    }
}

fn is_full(problem: &DiskError) -> bool {
    let full = [StorageFault::NoSpace, StorageFault::ReadOnly];
    full.contains(&problem.fault())
}

/// The cause of a state that was not committed.
#[must_use]
pub fn of_commit(error: &CommitError) -> &'static Cause {
    match error {
        CommitError::Unfinished(_) | CommitError::NotTheNext(_) | CommitError::Foreign { .. } => {
            &UNSAVED_FOREIGN_STATE
        }
        CommitError::Examine(error) => of_error(error),
        CommitError::Store { problem, .. } => of_disk(problem),
    }
}
