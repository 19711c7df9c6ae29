//! Causes in the files of a backup set, and at a running etcd that is read.

use super::{Cause, DataImpact, Step, act, run};
use crate::exit::Exit;

pub const ALL: &[&Cause] = &[
    &NOT_OPENED,
    &UNREADABLE,
    &DAMAGED,
    &OVERSIZED,
    &PACKED,
    &ARCHIVE_DAMAGED,
    &WRONG_FILE,
    &OPENBAO_AS_ETCD,
    &SQLITE,
    &DIRECTORY,
    &DEVICE,
    &NO_ROOM,
    &CHANGED,
    &ETCD_CA_MISSING,
    &ETCD_TLS_UNUSABLE,
    &ETCD_UNREACHABLE,
    &ETCD_COMPACTED,
    &NO_KEYS,
    &OPENBAO_WRONG_FILE,
    &OPENBAO_DAMAGED,
    &OPENBAO_UNSIGNED,
    &NO_HASH,
    &META_DAMAGED,
];

const NOT_READ: &str = "unknown: nothing was read, and no sign of a loss was seen";
const SAVE: Step = run(
    "or save another snapshot of the running etcd",
    "etcdctl snapshot save FILE",
);
const SAVE_OPENBAO: Step = run(
    "save another snapshot of OpenBao",
    "bao operator raft snapshot save {server} FILE",
);
const COPY_AGAIN: Step =
    act("copy the snapshot again from where it was saved, and compare its hash");

pub const NOT_OPENED: Cause = Cause {
    code: "snapshot_not_opened",
    headline: "the file of the backup set is missing, or this user may not open it",
    impact: DataImpact::Unknown,
    data: NOT_READ,
    steps: &[act("give a file that exists and that this user may read")],
    warnings: &[],
    exit: Exit::Runtime,
};

pub const UNREADABLE: Cause = Cause {
    code: "snapshot_unreadable",
    headline: "reading the file failed before its end",
    impact: DataImpact::Unknown,
    data: NOT_READ,
    steps: &[
        act("see the path, its permissions, and the log of the kernel for errors of the disk"),
        COPY_AGAIN,
    ],
    warnings: &["do not restore from a file that was not read to its end"],
    exit: Exit::Runtime,
};

pub const DAMAGED: Cause = Cause {
    code: "snapshot_damaged",
    headline: "the etcd snapshot is damaged",
    impact: DataImpact::AtRisk,
    data: "at risk: no data is lost yet; this file is no backup of its objects",
    steps: &[
        COPY_AGAIN,
        SAVE,
        act("if etcd is gone, use an earlier snapshot"),
    ],
    warnings: &["do not rely on this file as a backup, and do not restore etcd from it"],
    exit: Exit::CheckFailed,
};

pub const OVERSIZED: Cause = Cause {
    code: "etcd_oversized",
    headline: "etcd has more distinct key IDs, encrypted DEKs and resource names than a cluster writes",
    impact: DataImpact::AtRisk,
    data: "at risk: no data is lost yet; the content is damaged, or a writer fills etcd on purpose",
    steps: &[
        act("use a snapshot from before these values were written"),
        act("find their writer in the audit log of kube-apiserver"),
    ],
    warnings: &["do not rely on this etcd data as a backup"],
    exit: Exit::CheckFailed,
};

pub const PACKED: Cause = Cause {
    code: "snapshot_packed",
    headline: "the file is an archive or encrypted, and must be unpacked before it is read",
    impact: DataImpact::Unknown,
    data: NOT_READ,
    steps: &[run("unpack it, and give the result", "{unpack}")],
    warnings: &[],
    exit: Exit::Runtime,
};

pub const ARCHIVE_DAMAGED: Cause = Cause {
    code: "archive_damaged",
    headline: "the archive with the etcd snapshot is damaged or truncated",
    impact: DataImpact::Unknown,
    data: NOT_READ,
    steps: &[COPY_AGAIN],
    warnings: &["do not restore from a file that was not read to its end"],
    exit: Exit::Runtime,
};

pub const WRONG_FILE: Cause = Cause {
    code: "not_a_snapshot",
    headline: "the file is not an etcd snapshot",
    impact: DataImpact::Unknown,
    data: NOT_READ,
    steps: &[COPY_AGAIN],
    warnings: &[],
    exit: Exit::Runtime,
};

pub const OPENBAO_AS_ETCD: Cause = Cause {
    code: "openbao_snapshot_as_etcd",
    headline: "the file is a snapshot of OpenBao, not of etcd",
    impact: DataImpact::Unknown,
    data: NOT_READ,
    steps: &[act(
        "give the etcd snapshot of the set; this file belongs to --openbao-snapshot",
    )],
    warnings: &[],
    exit: Exit::Runtime,
};

pub const SQLITE: Cause = Cause {
    code: "sqlite_datastore",
    headline: "the file is an SQLite database, the datastore of a k3s server without etcd",
    impact: DataImpact::Unknown,
    data: NOT_READ,
    steps: &[act(
        "give an etcd snapshot; a k3s server with SQLite has no etcd",
    )],
    warnings: &[],
    exit: Exit::Runtime,
};

pub const DIRECTORY: Cause = Cause {
    code: "snapshot_is_directory",
    headline: "the path is a directory, not an etcd snapshot",
    impact: DataImpact::Unknown,
    data: NOT_READ,
    steps: &[act(
        "give the snapshot in it, or the database of a stopped member: {database}",
    )],
    warnings: &[],
    exit: Exit::Runtime,
};

pub const DEVICE: Cause = Cause {
    code: "snapshot_is_device",
    headline: "the path is a pipe, a socket or a device, not a file",
    impact: DataImpact::Unknown,
    data: NOT_READ,
    steps: &[act("save its content to a file, and give that file")],
    warnings: &[],
    exit: Exit::Runtime,
};

pub const NO_ROOM: Cause = Cause {
    code: "no_temporary_space",
    headline: "there is no room for the unpacked snapshot",
    impact: DataImpact::Unknown,
    data: NOT_READ,
    steps: &[act("set TMPDIR to a writable directory with more room")],
    warnings: &[],
    exit: Exit::Runtime,
};

pub const CHANGED: Cause = Cause {
    code: "snapshot_changed",
    headline: "the file was written to while it was read",
    impact: DataImpact::Unknown,
    data: NOT_READ,
    steps: &[act("run this again once the file is complete")],
    warnings: &[],
    exit: Exit::Runtime,
};

pub const ETCD_CA_MISSING: Cause = Cause {
    code: "etcd_ca_missing",
    headline: "--cacert is required to verify the running etcd",
    impact: DataImpact::Unknown,
    data: NOT_READ,
    steps: &[act(
        "give the CA of etcd, such as --cacert /etc/kubernetes/pki/etcd/ca.crt",
    )],
    warnings: &[],
    exit: Exit::Runtime,
};

pub const ETCD_TLS_UNUSABLE: Cause = Cause {
    code: "etcd_tls_unusable",
    headline: "--cacert, --cert or --key cannot be used",
    impact: DataImpact::Unknown,
    data: NOT_READ,
    steps: &[act(
        "give the files that clients of etcd use, readable for this user",
    )],
    warnings: &[],
    exit: Exit::Runtime,
};

pub const ETCD_UNREACHABLE: Cause = Cause {
    code: "etcd_unreachable",
    headline: "the running etcd did not return its objects",
    impact: DataImpact::Unknown,
    data: NOT_READ,
    steps: &[
        act(
            "check that etcd answers at --endpoints, and that --cacert, --cert and --key are those of \
             its clients",
        ),
        act("or give a snapshot with --etcd-snapshot"),
    ],
    warnings: &[],
    exit: Exit::Runtime,
};

pub const ETCD_COMPACTED: Cause = Cause {
    code: "etcd_compacted",
    headline: "etcd removed the revision that was read, several times",
    impact: DataImpact::Unknown,
    data: NOT_READ,
    steps: &[run(
        "save a snapshot, and give it with --etcd-snapshot",
        "etcdctl snapshot save FILE",
    )],
    warnings: &[],
    exit: Exit::Runtime,
};

pub const NO_KEYS: Cause = Cause {
    code: "no_keys_below_prefix",
    headline: "etcd has no key below the prefix of the API server",
    impact: DataImpact::Unknown,
    data: "unknown: nothing of the API server with this prefix was read",
    steps: &[act(
        "compare with --etcd-prefix in the manifest of kube-apiserver (without it: /registry), and with \
         its --etcd-servers",
    )],
    warnings: &[],
    exit: Exit::Runtime,
};

pub const OPENBAO_WRONG_FILE: Cause = Cause {
    code: "not_an_openbao_snapshot",
    headline: "the file is not a raft snapshot of OpenBao",
    impact: DataImpact::Unknown,
    data: NOT_READ,
    steps: &[
        act("give the file that `bao operator raft snapshot save` wrote"),
        SAVE_OPENBAO,
    ],
    warnings: &[],
    exit: Exit::Runtime,
};

pub const OPENBAO_DAMAGED: Cause = Cause {
    code: "openbao_snapshot_damaged",
    headline: "the snapshot of OpenBao is damaged",
    impact: DataImpact::AtRisk,
    data: "at risk: no data is lost yet; OpenBao cannot be restored from this file",
    steps: &[COPY_AGAIN, SAVE_OPENBAO],
    warnings: &["do not delete older snapshots of OpenBao before another one was proven"],
    exit: Exit::CheckFailed,
};

pub const OPENBAO_UNSIGNED: Cause = Cause {
    code: "openbao_snapshot_unsigned",
    headline: "the snapshot of OpenBao has no SHA256SUMS.sealed, so its writer is unproven",
    impact: DataImpact::Unknown,
    data: "unknown: OpenBao restores this snapshot only with -force",
    steps: &[SAVE_OPENBAO],
    warnings: &[],
    exit: Exit::CheckFailed,
};

pub const NO_HASH: Cause = Cause {
    code: "snapshot_without_hash",
    headline: "the etcd snapshot has no SHA-256 at its end",
    impact: DataImpact::Unknown,
    data: "unknown: damage that leaves the structure of the file whole stays unnoticed",
    steps: &[run(
        "save snapshots with etcdctl, which adds the hash",
        "etcdctl snapshot save FILE",
    )],
    warnings: &[],
    exit: Exit::CheckFailed,
};

pub const META_DAMAGED: Cause = Cause {
    code: "meta_page_damaged",
    headline: "one of the two meta pages of the etcd snapshot is damaged",
    impact: DataImpact::Unknown,
    data: "unknown: the last transaction before the snapshot may be missing",
    steps: &[SAVE],
    warnings: &[],
    exit: Exit::CheckFailed,
};
