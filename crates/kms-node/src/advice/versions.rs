//! Causes at single versions of the key.

use super::{
    Cause, DataImpact, Step, act,
    key::{OLDER_ETCD, PROVE_PAIR, RECORDED_BACKUP},
    run,
};
use crate::exit::Exit;

pub const ALL: &[&Cause] = &[&ROLLED_BACK, &LOST, &BELOW_MINIMUM, &ENCRYPTION_BLOCKED];

const NEW_VERSIONS: &str = "do not rotate the key to reach the missing numbers: a new version decrypts \
    nothing of an old one";

pub const LOWER_MINIMUM: Step = run(
    "lower the minimum, as an administrator",
    "bao write {bao} {mount}/keys/{key}/config min_decryption_version={lowest}",
);
pub const RAISE_MINIMUM: Step = run(
    "later, when no object and no retained backup needs version {lowest}, set the minimum back",
    "bao write {bao} {mount}/keys/{key}/config min_decryption_version={minimum}",
);

pub const ROLLED_BACK: Cause = Cause {
    code: "openbao_rolled_back",
    headline: "OpenBao was restored to a point before the last key rotation",
    impact: DataImpact::LostWithoutBackup,
    data: "lost without a backup: objects of the later versions are readable only with a later backup \
           of OpenBao, or replaced by an earlier one of etcd; older objects stay readable",
    steps: &[
        act("restore a later backup of OpenBao, made after the rotation"),
        act("take one that has version {highest} of the key{made}"),
        RECORDED_BACKUP,
        PROVE_PAIR,
        OLDER_ETCD,
    ],
    warnings: &[NEW_VERSIONS],
    exit: Exit::CheckFailed,
};

pub const LOST: Cause = Cause {
    code: "versions_lost",
    headline: "the key lacks versions that stored data needs",
    impact: DataImpact::LostWithoutBackup,
    data: "lost without a backup: objects of the missing versions are readable only with a backup of \
           OpenBao made before their deletion; all others stay readable",
    steps: &[
        act("restore a backup of OpenBao made before the versions were deleted"),
        RECORDED_BACKUP,
        PROVE_PAIR,
        OLDER_ETCD,
    ],
    warnings: &[NEW_VERSIONS],
    exit: Exit::CheckFailed,
};

pub const BELOW_MINIMUM: Cause = Cause {
    code: "versions_below_minimum",
    headline: "min_decryption_version is above key versions that stored data needs",
    impact: DataImpact::Unknown,
    data: "unknown: OpenBao neither lists nor uses versions below min_decryption_version, so they are \
           untested until it is lowered",
    steps: &[LOWER_MINIMUM],
    warnings: &[
        "do not delete a backup of OpenBao or etcd before the versions were tested: a recreated key \
         looks the same below the minimum",
    ],
    exit: Exit::CheckFailed,
};

pub const ENCRYPTION_BLOCKED: Cause = Cause {
    code: "encryption_blocked",
    headline: "min_encryption_version is above the active version",
    impact: DataImpact::NoneLost,
    data: "no data is lost: objects are readable, and writes fail until the minimum is lowered",
    steps: &[run(
        "lower the minimum, as an administrator, and leave min_decryption_version as it is",
        "bao write {bao} {mount}/keys/{key}/config min_encryption_version={active}",
    )],
    warnings: &[],
    exit: Exit::CheckFailed,
};
