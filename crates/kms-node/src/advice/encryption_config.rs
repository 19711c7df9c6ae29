//! Causes in kube-apiserver's `EncryptionConfiguration`.

use super::{Cause, act, at_risk, none_lost, not_lost_yet, unknown};
use crate::exit::Exit;

const NAME_STAYS: &str = "do not change transit.keyIdScope.providerName to fit the file: that changes \
    every key_id, and stored objects become unreadable";
pub const ONE_ENTRY: &str =
    "write each resource once, and each provider once, with all of the resources in one entry";

causes! {
    UNREADABLE = unknown(
        "encryption_config_unreadable",
        "the EncryptionConfiguration of kube-apiserver is missing or unreadable",
        "the providers of kube-apiserver were not examined",
    )
    .exit(Exit::CheckFailed)
    .steps(&[act(
        "name the file of kube-apiserver's --encryption-provider-config, and run doctor as root",
    )]);

    INVALID = none_lost(
        "encryption_config_invalid",
        "kube-apiserver rejects the EncryptionConfiguration",
        "kube-apiserver does not start with this file, or keeps the previous one if it reloads",
    )
    .steps(&[act("{correction}")]);

    KEY_INVALID = not_lost_yet(
        "encryption_config_key_invalid",
        "a key of another provider in the EncryptionConfiguration is missing or damaged",
        "kube-apiserver does not start with this file, and objects of the key are readable with \
         the original key only",
    )
    .steps(&[act("restore the key from the last working file of kube-apiserver")])
    .warnings(&["do not invent a key: it decrypts nothing of the stored objects"]);

    SECOND_DOCUMENT = none_lost(
        "encryption_config_second_document",
        "the EncryptionConfiguration has content after its first YAML document",
        "kube-apiserver reads the first document and ignores the rest",
    )
    .steps(&[act("move the required entries into the first document, and remove the rest")]);

    KMS_V1 = none_lost(
        "kms_old_api",
        "a kms entry selects API v1",
        "kube-apiserver refuses v1 from 1.29 on without its feature gate KMSv1, and no v1 call \
         reaches this provider",
    )
    .steps(&[act(
        "write apiVersion: v2 in the entry of this provider; keep the v1 entry of another plugin \
         until its objects are rewritten",
    )]);

    ENTRIES_OVERLAP = none_lost(
        "entries_overlap",
        "two entries of the EncryptionConfiguration share a resource or the name of a v1 provider",
        "kube-apiserver joins the lists of a resource: the first provider of the first entry \
         encrypts; with --encryption-provider-config-automatic-reload it refuses a repeated name \
         of v1",
    )
    .steps(&[act(ONE_ENTRY)]);

    RESOURCE_UNKNOWN = none_lost(
        "resource_unknown",
        "a name in the EncryptionConfiguration is of no stored resource",
        "kube-apiserver accepts the name and encrypts nothing because of it",
    )
    .steps(&[act(
        "write the plural name, and outside of the core group, custom resources included, the \
         group: deployments.apps",
    )]);

    SECRETS_UNCOVERED = none_lost(
        "secrets_uncovered",
        "no entry of the EncryptionConfiguration covers secrets",
        "Secrets are plaintext in etcd and its backups",
    )
    .steps(&[act("list secrets under resources of the entry with this provider")]);

    PROVIDER_MISSING = not_lost_yet(
        "provider_missing",
        "the EncryptionConfiguration has no kms provider of the configured name",
        "kube-apiserver encrypts nothing with this provider, and cannot read objects of this \
         provider",
    )
    .steps(&[act(
        "list a kms provider with apiVersion: v2 and name: {name}, the value of \
         transit.keyIdScope.providerName",
    )])
    .warnings(&[NAME_STAYS]);

    PROVIDER_NAME = not_lost_yet(
        "provider_name",
        "the kms provider at this node's socket has another name than configured",
        "kube-apiserver stores objects under the name {found}, outside of the key_ids, backups and \
         recovery of this provider, and cannot read objects stored under {name}",
    )
    .steps(&[
        act("write name: {name} in this file; transit.keyIdScope.providerName stays as it is"),
        act(
            "if objects are stored under {found}, list {name} first and keep {found} after it \
             until all are rewritten",
        ),
    ])
    .warnings(&[NAME_STAYS]);

    PROVIDER_ALIAS = not_lost_yet(
        "provider_alias",
        "a second kms provider of another name leads to this provider",
        "rotation, backup and recovery do not cover objects under that name",
    )
    .steps(&[act("keep it only to read objects stored under it, until all are rewritten")])
    .warnings(&["do not list it as the first provider of a resource"]);

    PROVIDER_ENDPOINT = not_lost_yet(
        "provider_endpoint",
        "kube-apiserver calls another socket than this provider has",
        "kube-apiserver cannot read or write encrypted objects through this provider, and another \
         one at that socket would encrypt under its name",
    )
    .steps(&[act("write endpoint: unix://{socket}")])
    .warnings(&["do not let another provider encrypt under this name"]);

    TIMEOUT = none_lost(
        "kms_timeout",
        "the timeout of kube-apiserver's calls is too close to openbao.timeout",
        "with a slow OpenBao, calls of kube-apiserver fail at its own timeout, without a cause",
    )
    .steps(&[act(
        "make openbao.timeout at least {margin} shorter than timeout in this kms entry, which is \
         3s when it is absent",
    )]);

    READER_ONLY = none_lost(
        "reader_only",
        "another provider or identity comes first, so this provider only decrypts",
        "new values do not use this provider, and after identity they are plaintext in etcd, as at \
         the start or the end of a migration",
    )
    .steps(&[act(
        "once every kube-apiserver has loaded a file with this provider, put its kms entry first, \
         one node at a time",
    )]);

    NOT_COVERED = at_risk(
        "not_covered",
        "this provider is not listed for a resource",
        "identity or another provider writes these resources, and objects of this provider are \
         unreadable",
    )
    .steps(&[act(
        "leave it if these resources are excepted on purpose; otherwise list the kms entry of this \
         provider for them on every node, and then put it first",
    )])
    .warnings(&["do not delete unreadable objects"]);

    OTHERS_LEFT = none_lost(
        "others_left",
        "identity or other providers are still listed to decrypt",
        "objects without a rewriting are still plaintext or depend on the other providers, and \
         with identity kube-apiserver accepts plaintext of any writer to etcd",
    )
    .steps(&[act(
        "rewrite every object of these resources, verify that each is encrypted by this provider, \
         and then remove the others",
    )])
    .warnings(&["do not remove another provider or identity before every object is rewritten"]);

    NO_FILE = none_lost(
        "encryption_config_unused",
        "kube-apiserver encrypts nothing: it has no --encryption-provider-config",
        "objects that were encrypted before are unreadable until the flag is back",
    )
    .steps(&[act(
        "give kube-apiserver the file with --encryption-provider-config, if encryption is to be in \
         use",
    )]);

    LEGACY_UNLISTED = not_lost_yet(
        "legacy_unlisted",
        "the EncryptionConfiguration has no kms provider of the name in legacy.vaultKubernetesKms",
        "objects that vault-kubernetes-kms encrypted are unreadable with this file; without such \
         objects the block has no use",
    )
    .steps(&[act(
        "list a kms provider with apiVersion: v2, name: {name} and endpoint: unix://{socket} after \
         that of this provider, or remove the block legacy.vaultKubernetesKms once no such object \
         is left",
    )])
    .warnings(&["do not delete unreadable objects"]);

    LEGACY_ENTRY = not_lost_yet(
        "legacy_entry",
        "the kms entry of vault-kubernetes-kms leads to another socket or API than configured",
        "objects of vault-kubernetes-kms are readable only while the old plugin runs",
    )
    .steps(&[act("write apiVersion: v2 and endpoint: unix://{socket} in the entry {name}")])
    .warnings(&["do not stop the old plugin before kube-apiserver has loaded the change"]);

    LEGACY_FIRST = none_lost(
        "legacy_first",
        "the kms entry of vault-kubernetes-kms comes first and leads to this provider",
        "new objects are encrypted with the key of this provider and stored under the old name",
    )
    .steps(&[act("put the kms entry of this provider first, and {name} after it")]);
}
