//! Causes in the evidence: etcd data, backup records, states of peers.

use super::{Cause, DataImpact, Step, act, run};
use crate::exit::Exit;

pub const ALL: &[&Cause] = &[
    &OBJECTS_DAMAGED,
    &UNUSABLE,
    &OTHER_IDENTITY,
    &OTHER_PROVIDER,
    &NO_OBJECTS,
    &KEYS_UNREAD,
    &PLAINTEXT,
    &RECORD_IMPOSSIBLE,
    &SET_UNFIT,
    &DAMAGED_OF_OTHERS,
    &KEY_IDS_UNKNOWN,
    &VALUES_DAMAGED,
];

/// The step after those of a verification or a drill.
pub const AGAIN: Step = run("then verify again", "{again}");

pub const OBJECTS_DAMAGED: Cause = Cause {
    code: "objects_damaged",
    headline: "values in etcd are damaged or were changed",
    impact: DataImpact::LostWithoutBackup,
    data: "lost without a backup: the damaged objects need an earlier backup of etcd; the key is \
           present, and all other objects are readable",
    steps: &[
        run(
            "name the first damaged objects",
            "bao-kms-provider verify-backup --etcd-snapshot FILE --depth data --show-names --config {config}",
        ),
        act(
            "restore an earlier etcd snapshot, or create these objects again from their source once \
             the others are in service",
        ),
    ],
    warnings: &["do not edit values in etcd"],
    exit: Exit::CheckFailed,
};

pub const UNUSABLE: Cause = Cause {
    code: "evidence_unusable",
    headline: "the etcd data or the record is unreadable, damaged, or of another cluster or key",
    impact: DataImpact::Unknown,
    data: "unknown: this evidence proves nothing, and no sign of a loss was seen",
    steps: &[act(
        "give the evidence of this cluster and this key, or an undamaged copy of it; without evidence \
         fewer checks are made",
    )],
    warnings: &[],
    exit: Exit::Runtime,
};

pub const OTHER_IDENTITY: Cause = Cause {
    code: "other_identity",
    headline: "some objects were written under another identity; the configured one fits the others",
    impact: DataImpact::AtRisk,
    data: "at risk: no data is lost yet; these objects are readable under the names that they were \
           written with, by a provider that has those names",
    steps: &[
        act("keep the names in {config}: the other objects need them"),
        act(
            "verify these objects with the configuration of the provider that wrote them, or create \
             them again from their source",
        ),
    ],
    warnings: &["do not change the names in the configuration for the sake of these objects"],
    exit: Exit::CheckFailed,
};

pub const OTHER_PROVIDER: Cause = Cause {
    code: "other_provider",
    headline: "objects of this key belong to another provider, whose names are unknown here",
    impact: DataImpact::Unknown,
    data: "unknown: only the names of that provider decide whether its objects decrypt",
    steps: &[act(
        "verify with the configuration of the provider that writes under the name {provider}",
    )],
    warnings: &["do not trim or retire versions of the key before its objects were verified"],
    exit: Exit::Runtime,
};

pub const NO_OBJECTS: Cause = Cause {
    code: "no_objects",
    headline: "etcd has no object of this provider",
    impact: DataImpact::Unknown,
    data: "unknown: there was nothing to compare with the key",
    steps: &[act(
        "compare providerName in {config} with the EncryptionConfiguration, and give the etcd data of \
         this cluster",
    )],
    warnings: &[],
    exit: Exit::Runtime,
};

pub const KEYS_UNREAD: Cause = Cause {
    code: "keys_unread",
    headline: "keys of the running etcd were not read",
    impact: DataImpact::Unknown,
    data: "unknown: objects among the unread keys may need any version of this key",
    steps: &[
        act(
            "read all keys: leave out --etcd-prefix-only, or give --cert and --key of an etcd user that \
             may read every key",
        ),
        run(
            "or save a snapshot, and give it with --etcd-snapshot",
            "etcdctl snapshot save FILE",
        ),
        act(
            "if none of the unread keys is encrypted with this key, add --allow-unread-prefixes \
             {unread}",
        ),
    ],
    warnings: &[],
    exit: Exit::Runtime,
};

pub const PLAINTEXT: Cause = Cause {
    code: "plaintext_objects",
    headline: "objects are stored in plaintext",
    impact: DataImpact::NoneLost,
    data: "no data is lost: every reader of etcd or of its backups can read these objects",
    steps: &[
        act("name these resources in the EncryptionConfiguration"),
        run(
            "then rewrite them",
            "kubectl get RESOURCE -A -o json | kubectl replace -f -",
        ),
    ],
    warnings: &[],
    exit: Exit::CheckFailed,
};

pub const RECORD_IMPOSSIBLE: Cause = Cause {
    code: "record_impossible",
    headline: "the facts of this node make no valid backup record",
    impact: DataImpact::Unknown,
    data: "unknown: no record was written, and no sign of a loss was seen",
    steps: &[act(
        "report this message with the output of `inspect-state` and `verify-key`",
    )],
    warnings: &[],
    exit: Exit::CheckFailed,
};

pub const SET_UNFIT: Cause = Cause {
    code: "set_unfit",
    headline: "the key does not decrypt all objects of the etcd snapshot",
    impact: DataImpact::AtRisk,
    data: "at risk: no data is lost yet; restored as it is, this set lacks the objects that the checks \
           name",
    steps: &[run(
        "name each cause and its steps",
        "bao-kms-provider verify-backup --etcd-snapshot FILE --depth data --config {config}",
    )],
    warnings: &["do not delete an older backup set before every object of this one decrypts"],
    exit: Exit::CheckFailed,
};

pub const DAMAGED_OF_OTHERS: Cause = Cause {
    code: "damaged_of_others",
    headline: "values of other encryption providers are damaged in etcd",
    impact: DataImpact::Unknown,
    data: "unknown: the values of other providers are no part of this verdict; kube-apiserver refuses \
           them, and every list of their resource",
    steps: &[
        run(
            "name the first damaged values",
            "bao-kms-provider scan-etcd --etcd-snapshot FILE --show-names",
        ),
        act("restore them with the owner of that provider"),
    ],
    warnings: &[],
    exit: Exit::CheckFailed,
};

pub const KEY_IDS_UNKNOWN: Cause = Cause {
    code: "key_ids_unknown",
    headline: "etcd has key_ids of this provider without a known version of the key",
    impact: DataImpact::Unknown,
    data: "unknown: nothing was decrypted, so objects of these key_ids may be unreadable",
    steps: &[run(
        "let the key decide, and name each cause",
        "bao-kms-provider verify-backup --etcd-snapshot FILE --config {config}",
    )],
    warnings: &[],
    exit: Exit::CheckFailed,
};

pub const VALUES_DAMAGED: Cause = Cause {
    code: "values_damaged",
    headline: "values in etcd are damaged",
    impact: DataImpact::LostWithoutBackup,
    data: "lost without a backup: the damaged objects need an earlier backup of etcd; the others were \
           read, and nothing was decrypted",
    steps: &[
        run(
            "name the first damaged objects",
            "bao-kms-provider scan-etcd --etcd-snapshot FILE --show-names",
        ),
        act("restore them from an earlier snapshot; keep a snapshot that has them as they are"),
    ],
    warnings: &["do not delete the damaged objects before they are restored"],
    exit: Exit::CheckFailed,
};
