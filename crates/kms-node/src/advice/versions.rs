//! Causes at single versions of the key.

use super::{
    Cause, Step, act,
    key::{LATER_OPENBAO, OLDER_ETCD, PROVE_PAIR, RECORDED_BACKUP},
    lost, none_lost, run, unknown,
};
use crate::exit::Exit;

pub const LOWER_MINIMUM: Step = run(
    "lower the minimum, as an administrator",
    "bao write {bao} {mount}/keys/{key}/config min_decryption_version={lowest}",
);
pub const RAISE_MINIMUM: Step = run(
    "later, when no object and no retained backup needs version {lowest}, set the minimum back",
    "bao write {bao} {mount}/keys/{key}/config min_decryption_version={minimum}",
);
pub(super) const KEEP_NUMBERS: &str = "do not rotate the key to reach the missing numbers: a new version \
    does not decrypt objects of an old one";

causes! {
    ROLLED_BACK = lost(
        "openbao_rolled_back",
        "OpenBao was restored to a point before the last key rotation",
        "objects of the later versions are readable only with a later backup of OpenBao, or \
         replaced by an earlier one of etcd; older objects stay readable",
    )
    .steps(&[
        LATER_OPENBAO,
        act("take one that has version {highest} of the key{made}"),
        RECORDED_BACKUP,
        PROVE_PAIR,
        OLDER_ETCD,
    ])
    .warnings(&[KEEP_NUMBERS]);

    LOST = lost(
        "versions_lost",
        "the key lacks versions needed by stored data",
        "objects of the missing versions are readable only with a backup of OpenBao from before \
         their deletion; all others stay readable",
    )
    .steps(&[
        act("restore a backup of OpenBao from before the versions were deleted"),
        act("take one from before version {missing} was trimmed"),
        RECORDED_BACKUP,
        PROVE_PAIR,
        OLDER_ETCD,
    ])
    .warnings(&[KEEP_NUMBERS]);

    BELOW_MINIMUM = unknown(
        "versions_below_minimum",
        "min_decryption_version is above key versions needed by stored data",
        "OpenBao neither lists nor uses versions below min_decryption_version, so they are \
         untested until it is lowered",
    )
    .exit(Exit::CheckFailed)
    .steps(&[LOWER_MINIMUM])
    .warnings(&[
        "do not delete a backup of OpenBao or etcd before the versions were tested: a recreated \
         key looks the same below the minimum",
    ]);

    ENCRYPTION_BLOCKED = none_lost(
        "encryption_blocked",
        "min_encryption_version is above the active version",
        "objects are readable, and writes fail until the minimum is lowered",
    )
    .steps(&[run(
        "lower the minimum, as an administrator, and leave min_decryption_version as it is",
        "bao write {bao} {mount}/keys/{key}/config min_encryption_version={active}",
    )])
    .warnings(&["do not rotate the key to get past the minimum"]);
}
