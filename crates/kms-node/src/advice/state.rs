//! Causes at the registry state of the node and its checkpoint.

use kms_domain::registry::checkpoint::Rollback;

use super::{
    Cause, Step, act, command, configuration, node, none_lost, not_lost_yet, run, unknown,
};
use crate::state::{
    CommitError, LockError, StateError, StorageFault,
    disk::{DiskError, Flaw},
};

const FROM_BACKUP: Step = act(
    "stop the provider, and put {state} and {checkpoint} back together, from a backup of this node or a copy \
     of a healthy peer",
);
pub(super) const REBUILD: Step = run(
    "without a backup, rebuild them from evidence, first as a plan (also from --record FILE or --peer-state \
     FILE)",
    "bao-kms-provider recover-state --etcd-snapshot FILE --config {config}",
);
pub const RESTORE_VERSIONS: Step = run(
    "take the versions back into use on this node",
    "bao-kms-provider restore-versions --config {config} --versions {removed}",
);
const INSPECT: &str = "bao-kms-provider inspect-state --config {config}";

const DISK_ERRORS: Step = run(
    "look for errors of its disk",
    "dmesg --level=err,warn | tail -n 30",
);

const BEFORE_RESTART: &str = "do not restart a serving provider before its state is restored";
const NO_BLIND_ACCEPTANCE: &str =
    "do not start with --accept-missing-checkpoint before the state was compared with a peer";
pub(super) const EDIT_NOTHING: &str = "do not edit the state, and do not delete the checkpoint";
const UNSAVED_DATA: &str = "the running provider continues with its versions, and promotes a new version \
    only once it can save";

causes! {
    LOST = none_lost(
        "state_lost",
        "the registry state of this node is missing",
        "the key is present, and objects are readable again once this node knows its versions",
    )
    .steps(&[FROM_BACKUP, REBUILD])
    .warnings(&[BEFORE_RESTART, EDIT_NOTHING]);

    CORRUPT = none_lost(
        "state_corrupt",
        "the registry state or its checkpoint is invalid",
        "the files record the versions in use, and the key is present",
    )
    .steps(&[FROM_BACKUP, REBUILD])
    .warnings(&[EDIT_NOTHING]);

    OF_PREVIEW = none_lost(
        "state_of_preview",
        "the registry state was written by a preview of the provider, in schema v1alpha1",
        "the state lists the versions in use, and the key is present",
    )
    .steps(&[
        run(
            "with the provider stopped, plan a state of the present schema from it; etcd data makes the \
             plan stronger (--etcd-snapshot FILE)",
            "bao-kms-provider recover-state --config {config}",
        ),
        act("apply the plan with the printed command, and start the provider"),
    ])
    .warnings(&[EDIT_NOTHING]);

    OTHER_RELEASE = none_lost(
        "state_other_release",
        "a newer release of the provider wrote the registry state or its checkpoint",
        "the newer release reads the state",
    )
    .steps(&[
        act("use the newer release or a later one"),
        run(
            "only to give up its content, rebuild the state, first as a plan",
            "bao-kms-provider recover-state --replace-newer-release --etcd-snapshot FILE --config \
             {config}",
        ),
    ])
    .warnings(&["do not edit, delete or rebuild files of a newer release"]);

    ROLLED_BACK = not_lost_yet(
        "state_rolled_back",
        "the registry state is older than its checkpoint, or has another history",
        "the provider refuses this state, since it may lack versions in use",
    )
    .steps(&[FROM_BACKUP, REBUILD])
    .warnings(&[NO_BLIND_ACCEPTANCE, EDIT_NOTHING]);

    CHECKPOINT_LOST = none_lost(
        "checkpoint_lost",
        "the checkpoint is missing, so the registry state may be an older one",
        "the provider refuses a state without proof of being the newest",
    )
    .steps(&[
        FROM_BACKUP,
        run(
            "or compare generation and hash with another node, and start the newest state once \
             with `serve --accept-missing-checkpoint`",
            INSPECT,
        ),
        REBUILD,
    ])
    .warnings(&[NO_BLIND_ACCEPTANCE, EDIT_NOTHING]);

    REPLACED = not_lost_yet(
        "state_replaced",
        "the running provider uses another key than the state on disk, or other files replaced its \
         state",
        "after a restart this node may not know the key of its newest objects",
    )
    .steps(&[
        act("find the cause of the replaced state while the provider ran"),
        act(
            "put the files of the running provider back, {state} and {checkpoint}, from a backup \
             of this node or a copy of a healthy peer",
        ),
        run("only then restart the provider", "systemctl restart {unit}"),
    ])
    .warnings(&[BEFORE_RESTART]);

    ABSENT = none_lost(
        "state_absent",
        "this node has no registry state",
        "a new node creates its state at the first start, if the key was never rotated",
    )
    .steps(&[run(
        "if this node had a state, rebuild it from evidence, first as a plan (also from --record \
         FILE or --peer-state FILE)",
        REBUILD.command,
    )]);

    TOO_OPEN = none_lost(
        "state_too_open",
        "other users can change the registry state or its checkpoint",
        "the provider refuses a state with write access for other users",
    )
    .steps(&[
        act("compare {path} with a peer or a backup"),
        run("if it is unchanged, correct its mode", "chmod 0640 {path}"),
    ]);

    UNREADABLE = none_lost(
        "state_unreadable",
        "the registry state or its directory is unreadable or unsafe",
        "the files record the versions in use, and OpenBao keeps the key",
    )
    .steps(&[
        run("run the command as root or as the user of the provider", "sudo {again}"),
        run("see owner and mode of the files", "ls -la {state_directory}"),
        act(
            "let the user of the provider own {state_directory} with mode 0750, and the files in \
             it with mode 0640",
        ),
    ])
    .warnings(&[EDIT_NOTHING]);

    UNSAVED_DIRECTORY_GONE = none_lost(
        "state_unsaved_directory_gone",
        "the running provider cannot save its state: its directory is gone or was replaced",
        UNSAVED_DATA,
    )
    .steps(&[
        run("see the mount", "findmnt -T \"$(dirname {state_directory})\""),
        act("mount {state_directory}, or put it back with its files"),
    ])
    .warnings(&[BEFORE_RESTART]);

    UNSAVED_NO_DESCRIPTORS = none_lost(
        "state_unsaved_no_descriptors",
        "the running provider cannot save its state: it has no free file descriptors",
        UNSAVED_DATA,
    )
    .steps(&[
        run("see its open files", "ls -l /proc/$(pidof bao-kms-provider)/fd"),
        run("raise LimitNOFILE=", "systemctl edit {unit}"),
    ]);

    UNSAVED = none_lost(
        "state_unsaved",
        "the running provider cannot save its state: access is denied, or its disk fails",
        UNSAVED_DATA,
    )
    .steps(&[
        run(
            "see owner, mode and mount of its directory",
            "ls -ld {state_directory}; findmnt -T {state_directory}",
        ),
        DISK_ERRORS,
    ]);

    VERSIONS_REMOVED = none_lost(
        "versions_removed",
        "stored data needs versions marked as removed in the state of this node",
        "the key has the versions, and this node reads their objects again once its state has them \
         in use",
    )
    .steps(&[RESTORE_VERSIONS])
    .warnings(&["do not delete the state to make the node accept the versions"]);

    NO_ACTIVE_VERSION = unknown(
        "no_active_version",
        "this node has no registry state, so its active version is unknown",
        "nothing else was examined",
    )
    .steps(&[
        act("run the command on a serving node"),
        run(
            "or start the provider, if this node is new",
            "systemctl start {unit}",
        ),
        run("if it served before, rebuild its state, first as a plan", REBUILD.command),
    ])
    .warnings(&["do not retire an older version before the active one is known"]);

    CONFLICT = not_lost_yet(
        "state_key_conflict",
        "the registry state and the key in OpenBao contradict each other",
        "one of the two is of another key than the stored data",
    )
    .steps(&[
        run("compare state and key", "bao-kms-provider verify-key --config {config}"),
        run(
            "let stored objects decide",
            "bao-kms-provider verify-backup --etcd-snapshot FILE --config {config}",
        ),
    ])
    .warnings(&["do not recreate the key", EDIT_NOTHING]);

    NOT_SAVED = none_lost(
        "state_not_saved",
        "the registry state could not be written to disk",
        "the disk has the old state or the new one, and OpenBao keeps the key",
    )
    .steps(&[
        act("correct the cause above: free space, permissions, or a failing disk"),
        run("see the state on disk", INSPECT),
        run(
            "if it is the old one, run the command again; the next start of the provider completes \
             a new one",
            "{again}",
        ),
    ])
    .warnings(&[EDIT_NOTHING]);

    JOURNAL_UNUSABLE = none_lost(
        "recovery_journal_unusable",
        "another file is in the place of the recovery journal, and nothing was written",
        "nothing was changed",
    )
    .steps(&[act(
        "if a newer release wrote the file, run recover-state of that release; else move the file \
         away, and run the same command again",
    )])
    .warnings(&[EDIT_NOTHING]);

    DISK_FULL = none_lost(
        "state_disk_full",
        "the file system of the state is full: the versions of the key cannot be saved",
        UNSAVED_DATA,
    )
    .steps(&[
        run(
            "see whether bytes or inodes are used up",
            "df -h {state_directory}; df -i {state_directory}",
        ),
        run(
            "find the largest directories on that file system, and free space there",
            "du -xh --max-depth=2 \"$(findmnt -no TARGET -T {state_directory})\" | sort -h | tail",
        ),
        act("a running provider saves by itself afterwards; start a stopped one"),
    ])
    .warnings(&[EDIT_NOTHING]);

    DISK_READ_ONLY = none_lost(
        "state_disk_read_only",
        "the file system of the state is read-only: the versions of the key cannot be saved",
        UNSAVED_DATA,
    )
    .steps(&[
        run("see its mount options", "findmnt -T {state_directory}"),
        DISK_ERRORS,
        act("mount it read-write; a running provider saves by itself afterwards"),
    ])
    .warnings(&[EDIT_NOTHING]);

    DISK_FAILING = none_lost(
        "state_disk_failing",
        "the disk of the state refuses to write, or does not answer",
        UNSAVED_DATA,
    )
    .steps(&[
        run(
            "see owner, mode and mount of the directory",
            "ls -ld {state_directory}; findmnt -T {state_directory}",
        ),
        DISK_ERRORS,
    ])
    .warnings(&[EDIT_NOTHING]);
}

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
        StateError::OfPreview { .. } => &OF_PREVIEW,
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
        "no_space" => &DISK_FULL,
        "read_only" => &DISK_READ_ONLY,
        "directory_gone" => &UNSAVED_DIRECTORY_GONE,
        "no_descriptors" => &UNSAVED_NO_DESCRIPTORS,
        "foreign_state" => &REPLACED,
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
        DiskError::Exists { .. } => &command::OUTPUT_NOT_WRITTEN,
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
            &REPLACED
        }
        CommitError::Examine(error) => of_error(error),
        CommitError::Store { problem, .. } => of_disk(problem),
    }
}
