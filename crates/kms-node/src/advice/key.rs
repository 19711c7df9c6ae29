//! Causes at the Transit key and its mount.

use kms_domain::{
    registry::RegistryConflict,
    transit::{Finding, ProfileRefused, VersionProblem},
};

use super::{
    Cause, Found, Step, act, at_risk, lost, node, none_lost, not_lost_yet, openbao, run, unknown,
    versions,
};
use crate::{exit::Exit, transit_key::round_trip::DeepError};

pub(super) const PROVE_PAIR: Step = run(
    "prove the restored OpenBao in isolation before it serves",
    "bao-kms-provider verify-backup --etcd-snapshot FILE --depth data --config {config}",
);
pub(super) const OLDER_ETCD: Step = act(
    "without such a backup, restore an etcd snapshot from before the missing key versions; newer objects are lost",
);
pub(super) const RECORDED_BACKUP: Step = act(
    "use the snapshot of OpenBao with the SHA-256 {openbao_sha256}: it belongs to the record of \
     {recorded_at}",
);
pub(super) const LATER_OPENBAO: Step =
    act("restore a later backup of OpenBao, made after the rotation");
pub(super) const ORIGINAL_KEY: Step = act("restore a backup of OpenBao with the original key");

/// The step after settings were corrected.
pub const CHECK: Step = run(
    "correct the named settings in OpenBao, and check the key",
    "bao-kms-provider verify-key --config {config}",
);
const CORRECT: Step = run(
    "correct the settings, as an administrator",
    "bao write {bao} {mount}/keys/{key}/config {settings}",
);
const ENABLE_MOUNT: Step = run(
    "at a first installation, enable the mount, unless it exists, as an administrator",
    "bao secrets enable {bao} -path={mount} transit",
);
const CREATE: Step = run(
    "at a first installation, create the key, as an administrator",
    "bao write {bao} -f {mount}/keys/{key}",
);

/// The warning of a pair whose key lacks versions, or is another key.
pub const NOT_IN_SERVICE: &str = "do not put this pair into service before OpenBao has the key and every \
    version that the objects need";
/// The warning of each finding that casts doubt on the key.
pub const KEEP_KEY: &str =
    "do not rotate, trim or recreate the key, and do not delete the data in etcd";
const KEEP_PRESENT: &str = "do not delete, rename or recreate the key: objects may need it";

causes! {
    LOST = lost(
        "key_lost",
        "OpenBao has no key at the configured mount and name",
        "objects of the key are readable only with a backup of it; a new key decrypts none of them",
    )
    .steps(&[
        act(
            "compare transit.mountPath {mount}, transit.keyName {key} and openbao.address \
             {address} with a backup record or another node",
        ),
        act("if they are right, restore a backup of OpenBao with the key"),
        RECORDED_BACKUP,
        PROVE_PAIR,
        OLDER_ETCD,
    ])
    .warnings(&["do not create a key of that name"]);

    RECREATED = lost(
        "key_recreated",
        "the key was recreated: another key has its name",
        "objects of the original key are readable only with a backup of that key; the present key \
         decrypts none of them",
    )
    .steps(&[
        run("stop the provider", "systemctl stop {unit}"),
        act(
            "if this OpenBao has the original key, compare providerName, clusterId and instanceId \
             in {config} with a backup record: etcd does not show them",
        ),
        ORIGINAL_KEY,
        RECORDED_BACKUP,
        PROVE_PAIR,
        OLDER_ETCD,
    ])
    .warnings(&[
        "do not accept the present key as the original one, and do not start a provider without \
         its state",
    ]);

    UNEXPLAINED = unknown(
        "objects_unexplained",
        "objects need another key than the present one, or other names than the configured ones",
        "no state, record or peer has their key_id, so nothing proves which of both it is",
    )
    .exit(Exit::CheckFailed)
    .steps(&[
        act(
            "compare providerName, clusterId and instanceId in {config} with those of every other \
             provider of this etcd, and with a backup record: etcd does not show them",
        ),
        act("if they are right, the key was recreated: restore a backup of OpenBao with the original key"),
        RECORDED_BACKUP,
        PROVE_PAIR,
    ])
    .warnings(&[
        "do not delete these objects, and do not start a provider without its state",
    ]);

    UNUSABLE = not_lost_yet(
        "key_unusable",
        "the settings of the key or of its mount are unsafe",
        "these settings permit a loss, so the provider refuses the key",
    )
    .steps(&[CORRECT, CHECK])
    .warnings(&[KEEP_PRESENT]);

    UNFIT = not_lost_yet(
        "key_unfit",
        "the key was created with unsafe settings, and they cannot be changed",
        "objects of this key need it until they are rewritten",
    )
    .steps(&[
        CORRECT,
        run(
            "create a key with safe settings, as an administrator (NAME is its name)",
            "bao write {bao} -f {mount}/keys/NAME",
        ),
        act(
            "point transit.keyName in {config} at it, with a keyLineageId of its own, and write \
             the policy of the role for it",
        ),
    ])
    .warnings(&[KEEP_PRESENT]);

    SOFT_DELETED = not_lost_yet(
        "key_soft_deleted",
        "the key is soft-deleted in OpenBao",
        "OpenBao still holds the key, and objects are readable again once it is restored",
    )
    .steps(&[run(
        "restore it, as an administrator",
        "bao write {bao} -f {mount}/keys/{key}/soft-delete-restore",
    )])
    .warnings(&["do not delete the key for good, and do not create another one of its name"]);

    METADATA_INVALID = unknown(
        "key_metadata_invalid",
        "OpenBao reports impossible metadata of the key, or those of another key",
        "the key cannot be identified",
    )
    .exit(Exit::CheckFailed)
    .steps(&[
        act("check that {address} leads to your OpenBao, and its release"),
        act("if it does not, find the OpenBao with the key, or a backup of it"),
    ])
    .warnings(&[KEEP_PRESENT]);

    UPSERT_ALLOWED = not_lost_yet(
        "upsert_allowed",
        "the Transit mount creates a missing key when a client encrypts",
        "OpenBao could replace a lost key unnoticed by another one, so the provider does not \
         encrypt",
    )
    .steps(&[run(
        "disable it, as an administrator",
        "bao write {bao} {mount}/config/keys disable_upsert=true",
    )])
    .warnings(&["do not encrypt through this mount before it is disabled"]);

    ROUND_TRIP_WRONG = at_risk(
        "round_trip_wrong",
        "a round trip returns other bytes than were encrypted, or a ciphertext of another version",
        "objects written with this key now may be unreadable later",
    )
    .steps(&[
        run("stop the provider", "systemctl stop {unit}"),
        run("see the versions and limits of the key", "bao read {bao} {mount}/keys/{key}"),
        act("report it, with the releases of provider and OpenBao"),
    ])
    .warnings(&["do not encrypt with this key before it is corrected"]);

    KEY_ID_UNSTABLE = at_risk(
        "key_id_unstable",
        "this build derives two key_ids for one version of the key",
        "objects of this build may be unreadable",
    )
    .steps(&[act("use another build, and report this one")])
    .warnings(&["do not serve with this build"]);

    UNTESTED = unknown(
        "key_untested",
        "the settings of the key are unsafe, so no object was tried with it",
        "the key was not compared with the stored objects",
    )
    .steps(&[act(
        "correct in OpenBao the settings named by the check openbao.key; where they require \
         another key, keep this one until no object and no backup needs it",
    )])
    .warnings(&[KEEP_PRESENT]);

    ABSENT = unknown(
        "key_absent",
        "OpenBao has no key at the configured mount and name, and this node has no state: a first \
         installation, or a loss of both",
        "nothing on this node tells whether objects were encrypted before, and etcd does",
    )
    .exit(Exit::CheckFailed)
    .steps(&[
        run(
            "have etcd decide it, with the options for the etcd of this cluster",
            "bao-kms-provider triage --endpoints URLS --cacert FILE --cert FILE --key FILE \
             --config {config}",
        ),
        ENABLE_MOUNT,
        CREATE,
        act(
            "otherwise compare transit.mountPath {mount} and transit.keyName {key} with another \
             node, and restore a backup of OpenBao with the key",
        ),
    ])
    .warnings(&["do not create a key of that name while etcd may hold objects of an earlier one"]);

    FIRST_INSTALLATION = none_lost(
        "first_installation",
        "this is a first installation: the key is yet to be created",
        "this node has no state, and the given etcd data holds no object of such a provider",
    )
    .steps(&[ENABLE_MOUNT, CREATE])
    .warnings(&[
        "do not create the key if another etcd holds objects of a key of this mount and name",
    ]);
}

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

/// The cause of metadata that the provider refuses, with the settings to correct.
#[must_use]
pub fn found_profile(refused: &ProfileRefused) -> Found {
    let settings: Vec<_> = match refused {
        ProfileRefused::Findings(findings) => findings.iter().filter_map(setting).collect(),
        _ => Vec::new(),
    };
    let settings = Some(settings.join(" ")).filter(|it| !it.is_empty());
    let settings = settings.map(|settings| ("settings", settings));
    (of_profile(refused), settings.into_iter().collect())
}

/// The setting that corrects the finding; `None` if only another key does.
fn setting(finding: &Finding) -> Option<&'static str> {
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
