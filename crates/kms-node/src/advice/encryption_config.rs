//! Causes in kube-apiserver's `EncryptionConfiguration`.

use super::{Cause, DataImpact, act};
use crate::exit::Exit;

pub const ALL: &[&Cause] = &[
    &UNREADABLE,
    &INVALID,
    &KEY_INVALID,
    &SECOND_DOCUMENT,
    &KMS_V1,
    &NAME_REPEATED,
    &RESOURCE_UNKNOWN,
    &RESOURCE_SPLIT,
    &SECRETS_UNCOVERED,
    &PROVIDER_MISSING,
    &PROVIDER_NAME,
    &PROVIDER_ALIAS,
    &PROVIDER_API_VERSION,
    &PROVIDER_ENDPOINT,
    &TIMEOUT,
    &TIMEOUT_MARGIN,
    &IDENTITY_FIRST,
    &IDENTITY_ONLY,
    &READER_ONLY,
    &NOT_COVERED,
    &IDENTITY_LEFT,
    &OTHERS_LEFT,
];

const NAME_STAYS: &str = "do not change transit.keyIdScope.providerName to fit the file: that changes every \
    key_id, and stored objects become unreadable";

pub const UNREADABLE: Cause = Cause {
    code: "encryption_config_unreadable",
    headline: "the EncryptionConfiguration of kube-apiserver is missing or unreadable",
    impact: DataImpact::Unknown,
    data: "unknown: it is open what kube-apiserver encrypts, and with which provider",
    steps: &[act(
        "name the file that kube-apiserver gets with --encryption-provider-config, and run doctor as \
         root",
    )],
    warnings: &[],
    exit: Exit::CheckFailed,
};

pub const INVALID: Cause = Cause {
    code: "encryption_config_invalid",
    headline: "kube-apiserver rejects the EncryptionConfiguration",
    impact: DataImpact::NoneLost,
    data: "no data is lost: kube-apiserver does not start with this file, or keeps the previous one if it \
           reloads",
    steps: &[act("{correction}")],
    warnings: &[],
    exit: Exit::CheckFailed,
};

pub const KEY_INVALID: Cause = Cause {
    code: "encryption_config_key_invalid",
    headline: "a key of another provider in the EncryptionConfiguration is missing or damaged",
    impact: DataImpact::AtRisk,
    data: "at risk: no data is lost yet, and kube-apiserver does not start with this file; objects of the \
           key are readable with the original key only",
    steps: &[act(
        "restore the key from the file that kube-apiserver last ran with",
    )],
    warnings: &["do not invent a key: it decrypts nothing of the stored objects"],
    exit: Exit::CheckFailed,
};

pub const SECOND_DOCUMENT: Cause = Cause {
    code: "encryption_config_second_document",
    headline: "the EncryptionConfiguration has content after its first YAML document",
    impact: DataImpact::NoneLost,
    data: "no data is lost: kube-apiserver reads the first document and ignores the rest",
    steps: &[act(
        "move the entries that must apply into the first document, and remove the rest",
    )],
    warnings: &[],
    exit: Exit::CheckFailed,
};

pub const KMS_V1: Cause = Cause {
    code: "kms_old_api",
    headline: "a kms entry selects API v1",
    impact: DataImpact::NoneLost,
    data: "no data is lost: kube-apiserver refuses v1 from 1.29 on unless its feature gate KMSv1 is set, \
           and this provider has no v1",
    steps: &[act(
        "write apiVersion: v2 in the entry of this provider; keep the v1 entry of another plugin until \
         its objects are rewritten",
    )],
    warnings: &[],
    exit: Exit::CheckFailed,
};

pub const NAME_REPEATED: Cause = Cause {
    code: "kms_name_repeated",
    headline: "several kms entries of API v1 have one name",
    impact: DataImpact::NoneLost,
    data: "no data is lost: kube-apiserver refuses a repeated name of v1 if \
           --encryption-provider-config-automatic-reload is set",
    steps: &[act(ONE_ENTRY)],
    warnings: &[],
    exit: Exit::CheckFailed,
};

pub const ONE_ENTRY: &str =
    "put the resources of these entries into one entry, so that the provider is listed once";

pub const RESOURCE_UNKNOWN: Cause = Cause {
    code: "resource_unknown",
    headline: "a name in the EncryptionConfiguration is of no stored resource",
    impact: DataImpact::NoneLost,
    data: "no data is lost: kube-apiserver accepts the name and encrypts nothing because of it",
    steps: &[act(
        "write the plural name, and outside of the core group, custom resources included, the group: \
         deployments.apps",
    )],
    warnings: &[],
    exit: Exit::CheckFailed,
};

pub const RESOURCE_SPLIT: Cause = Cause {
    code: "resource_split",
    headline: "two entries of the EncryptionConfiguration list one resource",
    impact: DataImpact::NoneLost,
    data: "no data is lost: kube-apiserver joins the two lists; the first provider of the first entry \
           encrypts, and those of the second entry only decrypt",
    steps: &[act(
        "write the resource once, with all of its providers in one list",
    )],
    warnings: &[],
    exit: Exit::CheckFailed,
};

pub const SECRETS_UNCOVERED: Cause = Cause {
    code: "secrets_uncovered",
    headline: "no entry of the EncryptionConfiguration covers secrets",
    impact: DataImpact::NoneLost,
    data: "no data is lost: Secrets are plaintext in etcd and its backups",
    steps: &[act(
        "list secrets under resources of the entry with this provider",
    )],
    warnings: &[],
    exit: Exit::CheckFailed,
};

pub const PROVIDER_MISSING: Cause = Cause {
    code: "provider_missing",
    headline: "the EncryptionConfiguration has no kms provider of the configured name",
    impact: DataImpact::AtRisk,
    data: "at risk: no data is lost yet; kube-apiserver encrypts nothing with this provider, and cannot \
           read objects that it encrypted before",
    steps: &[act(
        "list a kms provider with apiVersion: v2 and name: {name}, the value of \
         transit.keyIdScope.providerName",
    )],
    warnings: &[NAME_STAYS],
    exit: Exit::CheckFailed,
};

pub const PROVIDER_NAME: Cause = Cause {
    code: "provider_name",
    headline: "the kms provider at this node's socket has another name than configured",
    impact: DataImpact::AtRisk,
    data: "at risk: no data is lost yet; kube-apiserver stores objects under the name {found}, which \
           key_ids, backups and recovery of this provider do not cover, and cannot read objects stored \
           under {name}",
    steps: &[
        act("write name: {name} in this file; transit.keyIdScope.providerName stays as it is"),
        act(
            "if objects are stored under {found}, list {name} first and keep {found} after it until all \
             are rewritten",
        ),
    ],
    warnings: &[NAME_STAYS],
    exit: Exit::CheckFailed,
};

pub const PROVIDER_ALIAS: Cause = Cause {
    code: "provider_alias",
    headline: "a second kms provider of another name leads to this provider",
    impact: DataImpact::AtRisk,
    data: "at risk: no data is lost yet; rotation, backup and recovery do not cover objects under that \
           name",
    steps: &[act(
        "keep it only to read objects stored under it, until all are rewritten",
    )],
    warnings: &["do not list it as the first provider of a resource"],
    exit: Exit::CheckFailed,
};

pub const PROVIDER_API_VERSION: Cause = Cause {
    code: "provider_api_version",
    headline: "kube-apiserver calls this provider with API v1, and it has v2 only",
    impact: DataImpact::NoneLost,
    data: "no data is lost: no call of kube-apiserver succeeds until the entry is corrected",
    steps: &[act("write apiVersion: v2 in its kms entry")],
    warnings: &[],
    exit: Exit::CheckFailed,
};

pub const PROVIDER_ENDPOINT: Cause = Cause {
    code: "provider_endpoint",
    headline: "kube-apiserver calls another socket than that of this provider",
    impact: DataImpact::AtRisk,
    data: "at risk: no data is lost yet; kube-apiserver cannot read or write encrypted objects through \
           this provider, and another one at that socket would encrypt under its name",
    steps: &[act("write endpoint: unix://{socket}")],
    warnings: &["do not let another provider encrypt under this name"],
    exit: Exit::CheckFailed,
};

pub const TIMEOUT: Cause = Cause {
    code: "kms_timeout",
    headline: "kube-apiserver waits no longer for the provider than the provider for OpenBao",
    impact: DataImpact::NoneLost,
    data: "no data is lost: with a slow OpenBao, calls fail that would succeed, and without a cause",
    steps: TIMEOUT_STEPS,
    warnings: &[],
    exit: Exit::CheckFailed,
};

pub const TIMEOUT_MARGIN: Cause = Cause {
    code: "kms_timeout_margin",
    headline: "kube-apiserver waits hardly longer for the provider than the provider for OpenBao",
    impact: DataImpact::NoneLost,
    data: "no data is lost: the answer to a call that takes all of openbao.timeout may come too late",
    steps: TIMEOUT_STEPS,
    warnings: &[],
    exit: Exit::CheckFailed,
};

const TIMEOUT_STEPS: &[super::Step] = &[act(
    "make openbao.timeout at least {margin} shorter than timeout in this kms entry, which is 3s when it \
     is absent",
)];

pub const IDENTITY_FIRST: Cause = Cause {
    code: "identity_first",
    headline: "identity is the first provider, so new values are not encrypted",
    impact: DataImpact::NoneLost,
    data: "no data is lost: kube-apiserver reads objects of this provider and writes plaintext into etcd. \
           That is right before every kube-apiserver has this provider, or on the way back",
    steps: &[act(
        "once every kube-apiserver has loaded a file with this provider, put its kms entry before \
         identity, one node at a time",
    )],
    warnings: &[],
    exit: Exit::CheckFailed,
};

pub const IDENTITY_ONLY: Cause = Cause {
    code: "identity_only",
    headline: "identity is the first provider and this one is not listed, so new values are not encrypted",
    impact: DataImpact::AtRisk,
    data: "at risk: these resources are plaintext in etcd and its backups, and objects of this provider \
           are unreadable",
    steps: &[act(
        "leave it if these resources are excepted on purpose; otherwise list the kms entry of this \
         provider after identity on every node, and then before it",
    )],
    warnings: &["do not delete objects that are unreadable"],
    exit: Exit::CheckFailed,
};

pub const READER_ONLY: Cause = Cause {
    code: "reader_only",
    headline: "another provider comes first, so this one only decrypts",
    impact: DataImpact::NoneLost,
    data: "no data is lost: new values do not depend on this provider, as in the first phase of a \
           migration to it",
    steps: &[act(
        "once every kube-apiserver has loaded a file with this provider, put its kms entry first, one \
         node at a time",
    )],
    warnings: &[],
    exit: Exit::CheckFailed,
};

pub const NOT_COVERED: Cause = Cause {
    code: "not_covered",
    headline: "this provider is not listed for a resource",
    impact: DataImpact::AtRisk,
    data: "at risk: another provider encrypts these resources, and objects of this provider are \
           unreadable",
    steps: &[act(
        "leave it if another provider is meant for them; otherwise list the kms entry of this provider \
         for them too",
    )],
    warnings: &["do not delete objects that are unreadable"],
    exit: Exit::CheckFailed,
};

pub const IDENTITY_LEFT: Cause = Cause {
    code: "identity_left",
    headline: "identity is still among the providers",
    impact: DataImpact::NoneLost,
    data: "no data is lost: objects that were never rewritten may be plaintext in etcd, and a writer to \
           etcd can put plaintext there that kube-apiserver accepts",
    steps: &[act(
        "rewrite every object of these resources, verify that none is plaintext, and then remove \
         identity",
    )],
    warnings: &["do not remove identity before every object is rewritten"],
    exit: Exit::CheckFailed,
};

pub const OTHERS_LEFT: Cause = Cause {
    code: "others_left",
    headline: "other providers are still listed to decrypt",
    impact: DataImpact::NoneLost,
    data: "no data is lost: objects that were never rewritten depend on the other providers, and their \
           keys may be in this file",
    steps: &[act(
        "rewrite every object of these resources, verify that none depends on the others, and then \
         remove them",
    )],
    warnings: &["do not remove another provider before every object is rewritten"],
    exit: Exit::CheckFailed,
};
