//! Causes of a drill that fails or proves less than a restore.

use super::{Cause, Step, act, none_lost, not_lost_yet, run, snapshot::SAVE_OPENBAO, unknown};
use crate::exit::Exit;

const UNPROVEN: &str = "the backups stay unproven";
pub const KEEP_BACKUPS: &str =
    "do not delete older backups of either store before a drill has succeeded";
const ISOLATE: Step = act(
    "run it with packaging/systemd/bao-kms-drill.service, on Linux 6.7 with Landlock, or in another way \
     without a network, such as `systemd-run --pipe -p PrivateNetwork=yes`",
);

causes! {
    NOT_ISOLATED = unknown(
        "drill_not_isolated",
        "the restored copy is not isolated from other systems",
        UNPROVEN,
    )
    .steps(&[
        ISOLATE,
        act("add --allow-network only if no engine in this OpenBao holds credentials of other \
            systems"),
    ]);

    NO_LOOPBACK = unknown(
        "drill_no_loopback",
        "the network namespace has no loopback interface for the connection to the copy",
        UNPROVEN,
    )
    .steps(&[run("bring it up in the namespace", "ip link set lo up")]);

    COPY_FAILED = unknown(
        "openbao_copy_failed",
        "the `bao` program is missing, or the private OpenBao of the drill failed",
        UNPROVEN,
    )
    .steps(&[act("give the program of the snapshot's release of OpenBao, with --bao or BAO_BIN")]);

    DIRECTORY_UNUSABLE = unknown(
        "drill_directory_unusable",
        "the private directory of the drill cannot be made or filled",
        UNPROVEN,
    )
    .steps(&[act("see the path, its permissions, and the free space below --work-dir")]);

    LEFTOVERS = none_lost(
        "drill_leftovers",
        "the private directory of a drill was not removed",
        "the directory has a copy of OpenBao's encrypted data",
    )
    .exit(Exit::Runtime)
    .steps(&[act("remove the named bao-kms-drill-* directories below --work-dir")]);

    SHARE_UNUSABLE = unknown(
        "unseal_share_unusable",
        "a file with an unseal share or a seal key cannot be used, or too few shares were given",
        UNPROVEN,
    )
    .steps(&[act(
        "write each share into a file of its own, in Base64 or hexadecimal, with mode 0600 and \
         this user as its owner, and name all of them with --unseal-key-file",
    )]);

    SHARES_WRONG = unknown(
        "unseal_shares_wrong",
        "the shares do not open this snapshot of OpenBao",
        UNPROVEN,
    )
    .steps(&[
        act("compare each share with its holder: one wrong character is enough"),
        act("give the shares of this OpenBao at the time of the snapshot: a rekey replaces them, and \
            another OpenBao has others; for an auto-unseal, its recovery keys and the key of its seal"),
    ])
    .warnings(&[KEEP_BACKUPS]);

    OTHER_SEAL = unknown(
        "seal_unsupported",
        "the snapshot is of an OpenBao with a seal unsupported by the drill",
        UNPROVEN,
    )
    .steps(&[act(
        "if OpenBao unseals itself with seal \"static\", give its key with --static-seal-key-file; \
         a drill cannot reach cloud services and HSMs",
    )]);

    INTERRUPTED = unknown("drill_interrupted", "the drill ended before its last step", UNPROVEN);

    OUTDATED = not_lost_yet(
        "backups_outdated",
        "a backup is older than --max-age",
        "a restore of these backups loses all later changes",
    )
    .steps(&[
        act("find out why the backup job saved no newer snapshots"),
        run("back up both stores now, etcd first", "etcdctl snapshot save FILE"),
        SAVE_OPENBAO,
    ])
    .warnings(&[KEEP_BACKUPS]);

    OTHER_SNAPSHOT = unknown(
        "other_openbao_snapshot",
        "the record belongs to another snapshot of OpenBao",
        "record and snapshot are of different backup sets",
    )
    .steps(&[act("compare the files of the backup set with the hashes in its record")]);
}
