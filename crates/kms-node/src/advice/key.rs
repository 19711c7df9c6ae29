//! Causes at the Transit key and its mount.

use kms_domain::{
    registry::RegistryConflict,
    transit::{Finding, ProfileRefused, VersionProblem},
};

use super::{Cause, DataImpact, Step, act, node, openbao, run, versions};
use crate::{exit::Exit, transit_key::round_trip::DeepError};

pub const ALL: &[&Cause] = &[
    &LOST,
    &RECREATED,
    &UNUSABLE,
    &UNFIT,
    &SOFT_DELETED,
    &METADATA_INVALID,
    &UPSERT_ALLOWED,
    &ROUND_TRIP_WRONG,
    &KEY_ID_UNSTABLE,
    &UNTESTED,
];

pub(super) const PROVE_PAIR: Step = run(
    "prove the restored OpenBao in isolation before it serves",
    "bao-kms-provider verify-backup --etcd-snapshot FILE --depth data --config {config}",
);
pub(super) const OLDER_ETCD: Step = act(
    "without such a backup, restore an etcd snapshot whose objects do not need the missing key \
     versions; newer objects are lost",
);

pub(super) const RECORDED_BACKUP: Step = act(
    "use the snapshot of OpenBao with the SHA-256 {openbao_sha256}: it belongs to the record of \
     {recorded_at}",
);

/// The step after settings were corrected.
pub const CHECK: Step = run(
    "correct the named settings in OpenBao, and check the key",
    "bao-kms-provider verify-key --config {config}",
);

/// The warning of a pair whose key lacks versions, or is another key.
pub const NOT_IN_SERVICE: &str = "do not put this pair into service before OpenBao has the key and every \
    version that the objects need";

pub const LOST: Cause = Cause {
    code: "key_lost",
    headline: "OpenBao has no key at the configured mount and name",
    impact: DataImpact::LostWithoutBackup,
    data: "lost without a backup: objects of the key are readable only with a backup of OpenBao that \
           has it; a new key decrypts none of them",
    steps: &[
        act(
            "compare transit.mountPath {mount}, transit.keyName {key} and openbao.address {address} \
             with a backup record or another node",
        ),
        act("if they are right, restore a backup of OpenBao that has the key"),
        RECORDED_BACKUP,
        PROVE_PAIR,
        OLDER_ETCD,
    ],
    warnings: &["do not create a key of that name"],
    exit: Exit::CheckFailed,
};

pub const RECREATED: Cause = Cause {
    code: "key_recreated",
    headline: "the key was recreated: another key has its name",
    impact: DataImpact::LostWithoutBackup,
    data: "lost without a backup: objects of the original key are readable only with a backup of \
           OpenBao that has it; the present key decrypts none of them",
    steps: &[
        run("stop the provider", "systemctl stop bao-kms-provider"),
        act(
            "if this OpenBao has the original key, compare providerName, clusterId and instanceId in \
             {config} with a backup record: etcd does not show them",
        ),
        act("restore a backup of OpenBao that has the original key"),
        RECORDED_BACKUP,
        PROVE_PAIR,
        OLDER_ETCD,
    ],
    warnings: &[
        "do not accept the present key as the original one, and do not start a provider without its \
         state",
    ],
    exit: Exit::CheckFailed,
};

pub const UNUSABLE: Cause = Cause {
    code: "key_unusable",
    headline: "the settings of the key or of its mount are unsafe",
    impact: DataImpact::AtRisk,
    data: "at risk: no data is lost yet, but these settings permit a loss, so the provider refuses the \
           key",
    steps: &[run(
        "correct the settings, as an administrator",
        "bao write {bao} {mount}/keys/{key}/config {settings}",
    )],
    warnings: &["do not recreate the key to change its settings"],
    exit: Exit::CheckFailed,
};

pub const UNFIT: Cause = Cause {
    code: "key_unfit",
    headline: "the key was created with settings that cannot be changed and are unsafe",
    impact: DataImpact::AtRisk,
    data: "at risk: no data is lost yet; objects of this key need it until they are rewritten",
    steps: &[
        run(
            "correct the other settings, as an administrator",
            "bao write {bao} {mount}/keys/{key}/config {settings}",
        ),
        run(
            "create a key with safe settings, as an administrator (NAME is its name)",
            "bao write {bao} -f {mount}/keys/NAME",
        ),
        act(
            "point transit.keyName in {config} at it, with a keyLineageId of its own, and write the \
             policy of the role for it",
        ),
    ],
    warnings: &["do not delete the present key: objects that are encrypted with it need it"],
    exit: Exit::CheckFailed,
};

pub const SOFT_DELETED: Cause = Cause {
    code: "key_soft_deleted",
    headline: "the key is soft-deleted in OpenBao",
    impact: DataImpact::AtRisk,
    data: "at risk: no data is lost yet, since OpenBao still holds the key; objects are readable again \
           once it is restored",
    steps: &[run(
        "restore it, as an administrator",
        "bao write {bao} -f {mount}/keys/{key}/soft-delete-restore",
    )],
    warnings: &["do not delete the key for good, and do not create another one of its name"],
    exit: Exit::CheckFailed,
};

pub const METADATA_INVALID: Cause = Cause {
    code: "key_metadata_invalid",
    headline: "OpenBao reports metadata that no Transit key has, or those of another key",
    impact: DataImpact::Unknown,
    data: "unknown: the key cannot be identified, and no sign of a loss was seen",
    steps: &[
        act("check that {address} leads to your OpenBao, and which release it runs"),
        act("if it does not, find the OpenBao that holds the key, or a backup of it"),
    ],
    warnings: &["do not delete or recreate the key"],
    exit: Exit::CheckFailed,
};

pub const UPSERT_ALLOWED: Cause = Cause {
    code: "upsert_allowed",
    headline: "the Transit mount creates a missing key when a client encrypts",
    impact: DataImpact::AtRisk,
    data: "at risk: no data is lost yet; OpenBao could replace a lost key unnoticed by one that decrypts \
           nothing, so the provider does not encrypt",
    steps: &[run(
        "disable it, as an administrator",
        "bao write {bao} {mount}/config/keys disable_upsert=true",
    )],
    warnings: &["do not encrypt through this mount before it is disabled"],
    exit: Exit::CheckFailed,
};

pub const ROUND_TRIP_WRONG: Cause = Cause {
    code: "round_trip_wrong",
    headline: "OpenBao returns other bytes than were encrypted, or a ciphertext of another version",
    impact: DataImpact::AtRisk,
    data: "at risk: no data is lost yet; objects that are written with this key now may be unreadable",
    steps: &[
        run(
            "see the versions and limits of the key",
            "bao read {bao} {mount}/keys/{key}",
        ),
        act("report it to the maintainers of OpenBao, with its release"),
    ],
    warnings: &["do not encrypt with this key before it is corrected"],
    exit: Exit::CheckFailed,
};

pub const KEY_ID_UNSTABLE: Cause = Cause {
    code: "key_id_unstable",
    headline: "this build derives two key_ids for one version of the key",
    impact: DataImpact::AtRisk,
    data: "at risk: objects that this build writes may be unreadable",
    steps: &[act("use another build, and report this one")],
    warnings: &["do not serve with this build"],
    exit: Exit::CheckFailed,
};

pub const UNTESTED: Cause = Cause {
    code: "key_untested",
    headline: "the settings of the key are unsafe, so no object was tried with it",
    impact: DataImpact::Unknown,
    data: "unknown: the key was not used, so it is untested whether it decrypts the stored objects",
    steps: &[act(
        "correct in OpenBao the settings that the check openbao.key names; where they require another \
         key, keep this one until no object and no backup needs it",
    )],
    warnings: &["do not delete, rename or recreate the key: objects may need it"],
    exit: Exit::Runtime,
};

/// The cause of metadata that the provider refuses.
#[must_use]
pub fn of_profile(refused: &ProfileRefused) -> &'static Cause {
    match refused {
        ProfileRefused::SoftDeleted => &SOFT_DELETED,
        ProfileRefused::AllTrimmed { .. } => &versions::LOST,
        ProfileRefused::Findings(findings) => {
            match findings.iter().any(|finding| setting(finding).is_none()) {
                true => &UNFIT,
                false => &UNUSABLE,
            }
        }
        ProfileRefused::OtherKey { .. }
        | ProfileRefused::Number { .. }
        | ProfileRefused::KeyVersion { .. }
        | ProfileRefused::CreationSecond(_)
        | ProfileRefused::LatestMissing(_) => &METADATA_INVALID,
    }
}

/// The setting that corrects the finding; `None` if only another key does.
#[must_use]
pub fn setting(finding: &Finding) -> Option<&'static str> {
    match finding {
        Finding::DeletionAllowed => Some("deletion_allowed=false"),
        Finding::MinEncryptionVersion { .. } => Some("min_encryption_version=0"),
        Finding::MinDecryptionVersion { .. } => Some("min_decryption_version=1"),
        Finding::UnsupportedType { .. }
        | Finding::Exportable
        | Finding::PlaintextBackup
        | Finding::Derived
        | Finding::Convergent
        | Finding::EncryptionUnsupported
        | Finding::DecryptionUnsupported => None,
    }
}

/// The cause of a failed round trip through Transit.
#[must_use]
pub fn of_round_trip(error: &DeepError) -> &'static Cause {
    match error {
        DeepError::Encrypt { source, .. } | DeepError::Decrypt { source, .. } => {
            openbao::of_call(source)
        }
        DeepError::Random(_) => &node::NO_RANDOM,
        DeepError::Invalid | DeepError::WrongPlaintext => &ROUND_TRIP_WRONG,
    }
}

/// The cause of a key that lacks versions of the state.
#[must_use]
pub fn of_conflict(conflict: &RegistryConflict) -> &'static Cause {
    let RegistryConflict::Retained(problems) = conflict else {
        return &versions::ROLLED_BACK;
    };
    let causes: Vec<_> = problems.iter().map(of_version).collect();
    let worst_first = [&RECREATED, &versions::ROLLED_BACK, &versions::LOST];
    let worst = worst_first.into_iter().find(|cause| causes.contains(cause));
    // Lowering the limit is enough only if nothing else is wrong.
    worst.unwrap_or(&versions::BELOW_MINIMUM)
}

/// The cause of a version that the key lacks.
#[must_use]
pub fn of_version(problem: &VersionProblem) -> &'static Cause {
    match problem {
        VersionProblem::CreationTimeMismatch { .. } => &RECREATED,
        VersionProblem::AboveLatest { .. } => &versions::ROLLED_BACK,
        VersionProblem::Trimmed { .. } | VersionProblem::Unlisted(_) => &versions::LOST,
        VersionProblem::Hidden { .. } => &versions::BELOW_MINIMUM,
    }
}
