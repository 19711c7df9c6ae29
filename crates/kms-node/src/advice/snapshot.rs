//! Causes in the files of a backup set, and at a running etcd that is read.

use super::{Cause, Step, act, not_lost_yet, run, unknown};
use crate::exit::Exit;

const NOT_READ: &str = "its content was not examined";
pub(super) const SAVE: Step = run(
    "save a snapshot of the running etcd with etcdctl, to have a hash",
    "etcdctl snapshot save FILE",
);
pub(super) const SAVE_OPENBAO: Step = run(
    "save another snapshot of OpenBao",
    "bao operator raft snapshot save {server} FILE",
);
const COPY_AGAIN: Step =
    act("copy the snapshot again from its original place, compare its hash, or use an earlier one");

causes! {
    NOT_OPENED = unknown(
        "snapshot_not_opened",
        "the file or directory is missing, or this user may not open it",
        NOT_READ,
    )
    .steps(&[act("give an existing file or directory, readable for this user")]);

    UNREADABLE = unknown(
        "snapshot_unreadable",
        "the file is truncated, was written to meanwhile, or could not be read to its end",
        NOT_READ,
    )
    .steps(&[
        act("see the path, its permissions, and the log of the kernel for errors of the disk"),
        act("if it is still being written, run this again once it is complete"),
        COPY_AGAIN,
    ])
    .warnings(&["do not restore from an unreadable or changing file"]);

    DAMAGED = not_lost_yet(
        "snapshot_damaged",
        "the etcd snapshot is damaged",
        "this file is no backup of its objects",
    )
    .steps(&[COPY_AGAIN, SAVE])
    .warnings(&["do not rely on this file as a backup, and do not restore etcd from it"]);

    OVERSIZED = not_lost_yet(
        "etcd_oversized",
        "etcd has more distinct key IDs, encrypted DEKs and resource names than a cluster writes",
        "the content is damaged, or a writer fills etcd on purpose",
    )
    .steps(&[
        act("use a snapshot from before these values were written"),
        act("find their writer in the audit log of kube-apiserver"),
    ])
    .warnings(&["do not rely on this etcd data as a backup"]);

    WRONG_FILE = unknown("not_a_snapshot", "the file is not a plain etcd \
        snapshot", NOT_READ).steps(&[
        run("unpack it, and give the result", "{unpack}"),
        act("give the snapshot in it, or the database of a stopped member: {database}"),
        act("give the etcd snapshot of the set; {raft} belongs to --openbao-snapshot"),
        act("give an etcd snapshot: a k3s server with SQLite, as in {sqlite}, has no etcd"),
        act("save the content of {special} to a file, and give that file"),
        act("copy the snapshot again from its original place: {wrong} is of another kind"),
    ]);

    NO_ROOM = unknown("no_temporary_space", "there is no room for the unpacked snapshot", NOT_READ)
        .steps(&[act("set TMPDIR to a writable directory with more room")]);

    ETCD_TLS_UNUSABLE = unknown(
        "etcd_tls_unusable",
        "--cacert, --cert or --key of the running etcd is missing or cannot be used",
        NOT_READ,
    )
    .steps(&[act(
        "give the readable files of an etcd client, such as --cacert \
         /etc/kubernetes/pki/etcd/ca.crt",
    )]);

    ETCD_UNREACHABLE = unknown(
        "etcd_unreachable",
        "the running etcd did not return all of its objects",
        NOT_READ,
    )
    .steps(&[
        act(
            "check that etcd answers at --endpoints, and that --cacert, --cert and --key are those \
             of its clients",
        ),
        run("or save a snapshot, and give it with --etcd-snapshot", "etcdctl snapshot save FILE"),
    ]);

    NO_KEYS = unknown(
        "no_keys_below_prefix",
        "etcd has no key below the prefix of the API server",
        "nothing of the API server with this prefix was read",
    )
    .steps(&[act(
        "compare with --etcd-prefix in the manifest of kube-apiserver (without it: /registry), and \
         with its --etcd-servers",
    )]);

    OPENBAO_WRONG_FILE = unknown(
        "not_an_openbao_snapshot",
        "the file is not a raft snapshot of OpenBao",
        NOT_READ,
    )
    .steps(&[act("give the file of `bao operator raft snapshot save`"), SAVE_OPENBAO]);

    OPENBAO_DAMAGED = not_lost_yet(
        "openbao_snapshot_damaged",
        "the snapshot of OpenBao is damaged, or OpenBao refuses it",
        "OpenBao cannot be restored from this file",
    )
    .steps(&[COPY_AGAIN, SAVE_OPENBAO])
    .warnings(&["do not delete older snapshots of OpenBao before another one was proven"]);

    OPENBAO_UNSIGNED = unknown(
        "openbao_snapshot_unsigned",
        "the snapshot of OpenBao has no SHA256SUMS.sealed, so its writer is unproven",
        "OpenBao restores this snapshot only with -force",
    )
    .exit(Exit::CheckFailed)
    .steps(&[SAVE_OPENBAO]);
}
