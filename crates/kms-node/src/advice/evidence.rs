//! Causes in the evidence: etcd data, backup records, states of peers.

use super::{
    Cause, Step, act, at_risk, key::KEEP_KEY, lost, none_lost, not_lost_yet, run, snapshot::SAVE,
    unknown,
};
use crate::exit::Exit;

/// The step after those of a verification or a drill.
pub const AGAIN: Step = run("then verify again", "{again}");
/// The step after those of a comparison of objects and versions.
pub const SAME_SOURCES: Step = run("then run it again with the same sources", "{again}");
const FIRST_DAMAGED: Step = run(
    "name the first damaged values",
    "bao-kms-provider scan-etcd {etcd} --show-names",
);
const TRY_ALL: Step = run(
    "name each cause and its steps (FILE is the named source)",
    "bao-kms-provider verify-backup --etcd-snapshot FILE --depth data --config {config}",
);
const WITH_THEIR_NAMES: Step = run(
    "verify these objects with the configuration of their provider (FILE)",
    "bao-kms-provider verify-backup {etcd} --depth data --config FILE",
);
/// Options for the resources of objects: `{resources}`, and `{elsewhere}` for those below another prefix.
pub(super) const REWRITE: Step = run(
    "write these objects again, with the rights of an administrator of the cluster",
    "bao-kms-provider rewrite {resources}",
);
pub(super) const REWRITE_ELSEWHERE: Step = run(
    "write these objects again through the API server with their prefix, by its kubeconfig (FILE)",
    "bao-kms-provider rewrite {elsewhere} --kubeconfig FILE",
);
/// Warnings of findings about versions: known needs, a plan without evidence, gaps in the evidence.
pub(super) const KEEP_VERSIONS: &str = "do not retire an older version, do not raise min_decryption_version, and \
    do not trim the key";
pub(super) const KEEP_MINIMUM: &str =
    "do not raise min_decryption_version, and do not trim the key";
pub(super) const NO_BLIND_APPLY: &str =
    "do not apply without the evidence: nothing else shows that no object needs the versions";

pub(super) const KEEP_EVIDENCE: &str = "do not edit the evidence to have it accepted";

causes! {
    OBJECTS_DAMAGED = lost(
        "objects_damaged",
        "values in etcd are damaged or were changed",
        "the damaged objects need an earlier backup of etcd; the key is present, and all other \
         objects are readable",
    )
    .steps(&[
        run(
            "name the first damaged objects",
            "bao-kms-provider verify-backup {etcd} --depth data --show-names --config {config}",
        ),
        act(
            "restore an earlier etcd snapshot, or create these objects again from their source \
             once the others are in service",
        ),
    ])
    .warnings(&["do not edit values in etcd"]);

    UNUSABLE = unknown(
        "evidence_unusable",
        "the etcd data or the record is unreadable, damaged, or of another cluster or key",
        "this evidence was not used",
    )
    .steps(&[act(
        "give the evidence of this cluster and this key, or an undamaged copy of it; without \
         evidence fewer checks are made",
    )]);

    OTHER_IDENTITY = not_lost_yet(
        "other_identity",
        "some objects were written under another identity; the configured one fits the others",
        "these objects are readable under their own names, by a provider with those names",
    )
    .steps(&[
        act("keep the names in {config}: the other objects need them"),
        WITH_THEIR_NAMES,
        act("if their provider is gone, create these objects again from their source"),
    ])
    .warnings(&["do not change the names in the configuration for the sake of these objects"]);

    OTHER_PROVIDER = unknown(
        "other_provider",
        "objects of this key belong to another provider, with names unknown here",
        "its objects decrypt only with the names of the other provider",
    )
    .steps(&[act("name its configuration: objects are stored under {provider}"), WITH_THEIR_NAMES])
    .warnings(&[KEEP_KEY]);

    NO_OBJECTS = unknown(
        "no_objects",
        "the etcd data has no object of this provider, so it shows nothing about the key",
        "this etcd may be of another cluster, or from before this provider was in use",
    )
    .steps(&[
        run("list the providers and keys in \
            it", "bao-kms-provider scan-etcd {etcd} --config {config}"),
        act(
            "compare providerName in {config} with the EncryptionConfiguration, and give the etcd \
             data of this cluster, without snapshots from before this provider was in use",
        ),
        SAME_SOURCES,
    ])
    .warnings(&[KEEP_MINIMUM, NO_BLIND_APPLY]);

    KEYS_UNREAD = unknown(
        "keys_unread",
        "keys of the running etcd were not read",
        "objects among the unread keys may need any version of this key",
    )
    .steps(&[
        run("read all keys", "{unbounded}"),
        act("read all keys: leave out --etcd-prefix-only, which limits the reading to {below}"),
        act("read as an etcd user with access to every key of {refusing} (--cert, --key)"),
        run(
            "or save a snapshot, and give it with --etcd-snapshot",
            "etcdctl snapshot save FILE",
        ),
        act("if none of the unread keys is encrypted with this key, add --allow-unread-prefixes \
            {unread}"),
    ])
    .warnings(&[KEEP_MINIMUM, NO_BLIND_APPLY]);

    OTHERWISE_PROTECTED = none_lost(
        "otherwise_protected",
        "objects are stored in plaintext, or not encrypted by this provider",
        "these objects do not depend on this key; plaintext is readable in etcd and its backups",
    )
    .steps(&[
        act("name this provider first for these resources in the EncryptionConfiguration"),
        REWRITE,
        REWRITE_ELSEWHERE,
    ]);

    LEGACY_LEFT = none_lost(
        "legacy_left",
        "objects in etcd are still encrypted by vault-kubernetes-kms",
        "these objects are readable through the socket of legacy.vaultKubernetesKms",
    )
    .steps(&[
        REWRITE,
        REWRITE_ELSEWHERE,
        act("remove the block legacy.vaultKubernetesKms and its kms entry once none is left"),
    ])
    .warnings(&["do not remove that block or its key in OpenBao before"]);

    RECORD_IMPOSSIBLE = unknown(
        "record_impossible",
        "the facts of this node make no valid backup record",
        "a record was not written",
    )
    .exit(Exit::CheckFailed)
    .steps(&[act("report this message with the output of `inspect-state` and `verify-key`")]);

    SET_UNFIT = not_lost_yet(
        "set_unfit",
        "the key does not decrypt all objects of the etcd snapshot",
        "a restore of this set lacks the objects named by the checks",
    )
    .steps(&[TRY_ALL])
    .warnings(&["do not delete an older backup set before every object of this one decrypts"]);

    DAMAGED_OF_OTHERS = unknown(
        "damaged_of_others",
        "values of other encryption providers are damaged in etcd",
        "this verdict leaves out the values of other providers; kube-apiserver refuses them, and \
         every list of their resource",
    )
    .exit(Exit::CheckFailed)
    .steps(&[FIRST_DAMAGED, act("restore them with the owner of the other provider")]);

    KEY_IDS_UNKNOWN = unknown(
        "key_ids_unknown",
        "the key version of some objects in etcd is unknown",
        "these objects may need any version of the key",
    )
    .exit(Exit::CheckFailed)
    .steps(&[TRY_ALL, SAME_SOURCES])
    .warnings(&[KEEP_MINIMUM, NO_BLIND_APPLY, "do not delete the objects"]);

    VALUES_DAMAGED = lost(
        "values_damaged",
        "values in etcd are damaged",
        "the damaged objects need an earlier backup of etcd; the others were read, and nothing was \
         decrypted",
    )
    .steps(&[
        FIRST_DAMAGED,
        act("restore them from an earlier snapshot, and keep a snapshot with their present \
            content"),
    ])
    .warnings(&["do not delete the damaged objects before they are restored"]);

    UNVERIFIED = unknown(
        "source_unverified",
        "the integrity of the etcd data could not be verified",
        "the source may lack objects of etcd, or have unnoticed damage",
    )
    .exit(Exit::CheckFailed)
    .steps(&[SAVE]);

    RECORD_INVALID = unknown(
        "record_untrusted",
        "the backup record was changed or damaged",
        "none of its content is proven",
    )
    .exit(Exit::CheckFailed)
    .steps(&[act("use another copy of the record")])
    .warnings(&[KEEP_EVIDENCE]);

    NEWER_RELEASE = unknown(
        "newer_evidence",
        "a newer release of the provider wrote the evidence",
        "this release cannot read the evidence",
    )
    .steps(&[act("use the newer release, or give other evidence")])
    .warnings(&[KEEP_EVIDENCE]);

    NO_BACKUPS = unknown(
        "no_backups",
        "the directories have no pair of an etcd snapshot and an OpenBao snapshot",
        "there is no backup to compare",
    )
    .steps(&[act(
        "give the directories of etcdctl, k3s, RKE2, etcd-druid or Talos, and of `bao operator raft \
         snapshot save`; the table `left out` of `backups` has the reason for each other file",
    )]);

    BACKUPS_NEWEST_UNKNOWN = unknown(
        "backups_newest_unknown",
        "which etcd snapshot is the newest is unknown: a later file cannot be read, or times and revisions \
         contradict each other",
        "a restore would begin with the newest etcd snapshot",
    )
    .steps(&[
        act("see why the named file cannot be read: decrypt it, make it readable, or remove the rest of a \
            snapshot that failed"),
        act("copy etcd snapshots with their times, by `cp -p` or `rsync -t`"),
        act("if the last etcd snapshot failed, save another one, then one of OpenBao, and run record-backup"),
    ]);

    BACKUPS_INCOMPATIBLE = at_risk(
        "backups_incompatible",
        "every OpenBao snapshot is older than a version of the key that the newest etcd snapshot needs",
        "a restore of the newest etcd snapshot with these OpenBao snapshots loses objects",
    )
    .steps(&[act("save a snapshot of OpenBao now, and run record-backup for the set")])
    .warnings(&["do not delete or trim versions of the key before a snapshot of OpenBao has them"]);

    BACKUPS_UNPROVEN = unknown(
        "backups_unproven",
        "nothing shows that an OpenBao snapshot has all versions that the newest etcd snapshot needs",
        "the backups may be complete: an OpenBao snapshot is encrypted, and neither a record nor the times \
         prove its versions",
    )
    .steps(&[
        act("run record-backup with each later set, and keep the record in the directory"),
        act("run a drill with the newest pair: it decrypts every object"),
    ]);
}
