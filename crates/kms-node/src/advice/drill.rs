//! Causes of a drill that fails or proves less than a restore.

use super::{Cause, DataImpact, act, run};
use crate::exit::Exit;

pub const ALL: &[&Cause] = &[
    &NOT_ISOLATED,
    &NO_LOOPBACK,
    &NO_PROGRAM,
    &DIRECTORY_UNUSABLE,
    &LEFTOVERS,
    &SHARE_UNUSABLE,
    &SHARES_WRONG,
    &SHARES_MISSING,
    &OTHER_SEAL,
    &SNAPSHOT_REFUSED,
    &COPY_FAILED,
    &INTERRUPTED,
    &OUTDATED,
    &OTHER_SNAPSHOT,
    &COPY_LEFT,
];

const UNPROVEN: &str =
    "unknown: the drill proved nothing, and no sign of a loss was seen in the backups";
pub const KEEP_BACKUPS: &str =
    "do not delete older backups of either store before a drill has succeeded";

pub const NOT_ISOLATED: Cause = Cause {
    code: "drill_not_isolated",
    headline: "nothing keeps the restored copy from other systems",
    impact: DataImpact::Unknown,
    data: UNPROVEN,
    steps: &[
        act(
            "run it with packaging/systemd/bao-kms-drill.service, on Linux 6.7 with Landlock, or in \
             another way without a network, such as `systemd-run --pipe -p PrivateNetwork=yes`",
        ),
        act(
            "add --allow-network only if no engine in this OpenBao holds credentials of other systems",
        ),
    ],
    warnings: &[],
    exit: Exit::Runtime,
};

pub const NO_LOOPBACK: Cause = Cause {
    code: "drill_no_loopback",
    headline: "the network namespace has no loopback interface, over which the copy is asked",
    impact: DataImpact::Unknown,
    data: UNPROVEN,
    steps: &[run("bring it up in that namespace", "ip link set lo up")],
    warnings: &[],
    exit: Exit::Runtime,
};

pub const NO_PROGRAM: Cause = Cause {
    code: "bao_not_found",
    headline: "the `bao` program was not found",
    impact: DataImpact::Unknown,
    data: UNPROVEN,
    steps: &[act(
        "give the program of the version that made the snapshot, with --bao or BAO_BIN",
    )],
    warnings: &[],
    exit: Exit::Runtime,
};

pub const DIRECTORY_UNUSABLE: Cause = Cause {
    code: "drill_directory_unusable",
    headline: "the private directory of the drill cannot be made or filled",
    impact: DataImpact::Unknown,
    data: UNPROVEN,
    steps: &[act(
        "see the path, its permissions, and the free space below --work-dir",
    )],
    warnings: &[],
    exit: Exit::Runtime,
};

pub const LEFTOVERS: Cause = Cause {
    code: "drill_leftovers",
    headline: "the directory of an earlier drill cannot be removed",
    impact: DataImpact::Unknown,
    data: UNPROVEN,
    steps: &[act(
        "remove the bao-kms-drill-* directories below --work-dir that the message names",
    )],
    warnings: &[],
    exit: Exit::Runtime,
};

pub const SHARE_UNUSABLE: Cause = Cause {
    code: "unseal_share_unusable",
    headline: "a file with an unseal share or a seal key cannot be used",
    impact: DataImpact::Unknown,
    data: UNPROVEN,
    steps: &[act(
        "write one share into each file, in Base64 or hexadecimal, with mode 0600 and this user as its \
         owner",
    )],
    warnings: &[],
    exit: Exit::Runtime,
};

pub const SHARES_WRONG: Cause = Cause {
    code: "unseal_shares_wrong",
    headline: "the shares do not open this snapshot of OpenBao",
    impact: DataImpact::LostWithoutBackup,
    data: "lost without a backup: with these shares nothing of OpenBao can be restored, so no object in \
           etcd is readable after a restore",
    steps: &[act(
        "give the shares that belonged to this OpenBao when the snapshot was made; if it unseals itself, \
         give its recovery keys, and the key of its seal",
    )],
    warnings: &[KEEP_BACKUPS],
    exit: Exit::CheckFailed,
};

pub const SHARES_MISSING: Cause = Cause {
    code: "unseal_shares_missing",
    headline: "OpenBao needs more shares than were given",
    impact: DataImpact::Unknown,
    data: UNPROVEN,
    steps: &[act(
        "give more shares, each in a file of its own with --unseal-key-file",
    )],
    warnings: &[],
    exit: Exit::Runtime,
};

pub const OTHER_SEAL: Cause = Cause {
    code: "seal_unsupported",
    headline: "the snapshot is of an OpenBao with another seal than the drill can open",
    impact: DataImpact::Unknown,
    data: UNPROVEN,
    steps: &[act(
        "if OpenBao unseals itself with seal \"static\", give its key with --static-seal-key-file; a \
         drill cannot reach cloud services and HSMs",
    )],
    warnings: &[],
    exit: Exit::Runtime,
};

pub const SNAPSHOT_REFUSED: Cause = Cause {
    code: "openbao_snapshot_refused",
    headline: "OpenBao refuses its snapshot",
    impact: DataImpact::AtRisk,
    data: "at risk: no data is lost yet; OpenBao cannot be restored from this file",
    steps: &[act(
        "copy the snapshot again and compare its hash, or use an earlier one",
    )],
    warnings: &["do not delete the refused snapshot before another one was proven"],
    exit: Exit::CheckFailed,
};

pub const COPY_FAILED: Cause = Cause {
    code: "openbao_copy_failed",
    headline: "the private OpenBao of the drill failed",
    impact: DataImpact::Unknown,
    data: UNPROVEN,
    steps: &[act(
        "give the OpenBao program of the version that made the snapshot, with --bao",
    )],
    warnings: &[],
    exit: Exit::Runtime,
};

pub const INTERRUPTED: Cause = Cause {
    code: "drill_interrupted",
    headline: "the drill ended before its last step",
    impact: DataImpact::Unknown,
    data: UNPROVEN,
    steps: &[],
    warnings: &[],
    exit: Exit::Runtime,
};

pub const OUTDATED: Cause = Cause {
    code: "backups_outdated",
    headline: "a backup is older than --max-age",
    impact: DataImpact::AtRisk,
    data: "at risk: no data is lost yet; a restore of these backups loses all that was written since",
    steps: &[
        act("find out why the backup job saved no newer snapshots"),
        run(
            "back up both stores now, etcd first",
            "etcdctl snapshot save FILE",
        ),
        run(
            "then OpenBao",
            "bao operator raft snapshot save {server} FILE",
        ),
    ],
    warnings: &[KEEP_BACKUPS],
    exit: Exit::CheckFailed,
};

pub const OTHER_SNAPSHOT: Cause = Cause {
    code: "other_openbao_snapshot",
    headline: "the record belongs to another snapshot of OpenBao",
    impact: DataImpact::Unknown,
    data: "unknown: record and snapshot are of different backup sets",
    steps: &[act(
        "compare the files of the backup set with the hashes in its record",
    )],
    warnings: &[],
    exit: Exit::Runtime,
};

pub const COPY_LEFT: Cause = Cause {
    code: "drill_copy_left",
    headline: "the private directory of the drill was not removed",
    impact: DataImpact::NoneLost,
    data: "no data is lost: the directory has a copy of OpenBao's encrypted data",
    steps: &[act("remove the directory that the message names")],
    warnings: &[],
    exit: Exit::Unclassified,
};
