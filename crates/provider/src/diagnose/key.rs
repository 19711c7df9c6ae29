//! Is the Transit key there, set up safely, and does it still have what this node relies on?

use std::sync::Arc;

use kms_domain::{
    key::{KeyScope, TransitKey},
    scope::TransitKeyPath,
    transit::{Finding, Impact, ProfileRefused, RegistryConflict, TransitVersion, VersionProblem},
};
use openbao_client::failure::FailureClass;
use serde_json::{Value, json};

use super::{Question, bao, facts::Facts};
use crate::{
    auth::CallFailure,
    config::Config,
    report::{Check, ImpactClass, one_line},
    watcher::deep::DeepError,
};

/// The key's metadata can be read.
pub const METADATA: Question = Question {
    id: "transit.metadata",
    title: "Transit metadata",
    needs: &["openbao.auth"],
    judge: |facts| Some(vec![metadata(facts)?]),
};
/// The key is safe to use.
pub const PROFILE: Question = Question {
    id: "transit.profile",
    title: "Transit key profile",
    needs: &["transit.metadata"],
    judge: |facts| Some(vec![profile(facts)?]),
};
/// A lost key would not be replaced unnoticed.
pub const DISABLE_UPSERT: Question = Question {
    id: "transit.disable_upsert",
    title: "Transit disable_upsert",
    needs: &["openbao.auth", "transit.config_capability"],
    judge: |facts| Some(vec![disable_upsert(facts)?]),
};
/// The newest version encrypts and decrypts.
pub const PROBE: Question = Question {
    id: "transit.probe",
    title: "Transit probe",
    needs: &["transit.profile"],
    judge: |facts| Some(vec![tried(&PROBE, facts.probe.as_ref()?)]),
};
/// The newest version has one key_id.
pub const KEY_ID: Question = Question {
    id: "key_id.deterministic",
    title: "Key ID determinism",
    needs: &["transit.profile"],
    judge: |facts| Some(vec![key_id(facts)?]),
};
/// The version that the state says is active, which Status names, is one that Encrypt can use.
pub const ACTIVE: Question = Question {
    id: "kms.status_encrypt",
    title: "Status/encrypt consistency",
    needs: &["transit.profile", "registry.state"],
    judge: |facts| match facts.active_probe.as_ref() {
        Some(outcome) => Some(vec![tried(&ACTIVE, outcome)]),
        None => Some(vec![ACTIVE.skip("there is no state")]),
    },
};
/// OpenBao lets this node read all that it must, and encrypt.
pub const RESTRICTIONS: Question = Question {
    id: "transit.version_restrictions",
    title: "Transit version restrictions",
    needs: &["transit.profile", "registry.state"],
    judge: |facts| Some(vec![restrictions(facts)?]),
};

const NO_SERVICE: &str =
    "kube-apiserver cannot read or write encrypted objects through this node; no data is lost";

/// Only of an answer about the key itself: a login can meet the same class.
const NO_KEY: &str = "the key is not in this OpenBao: what it has encrypted is lost unless an OpenBao \
    that holds it, or a backup of one, can be found";

fn metadata(facts: &Facts) -> Option<Check> {
    let check = match facts.metadata.as_ref()? {
        Ok(metadata) => METADATA
            .pass()
            .message(format!("newest version {}", metadata.latest_version))
            .detail("latestTransitVersion", metadata.latest_version),
        Err(failure @ CallFailure::OpenBao(answer)) if answer.class() == FailureClass::NotFound => {
            METADATA.unanswered(failure, ImpactClass::DataRecovery, NO_KEY)
        }
        Err(failure) => {
            METADATA.unanswered(failure, ImpactClass::ApiServerAvailability, NO_SERVICE)
        }
    };
    Some(check)
}

/// Every finding about the key's set-up, with its code and what it endangers.
fn profile(facts: &Facts) -> Option<Check> {
    let Err(refused) = facts.profile.as_ref()? else {
        return Some(PROFILE.pass());
    };
    let config = facts.config()?;
    let key = &config.key;
    let (class, remedy) = match refused {
        ProfileRefused::Findings(findings) => {
            let secrecy = findings
                .iter()
                .any(|finding| finding.impact() == Impact::CryptographicSafety);
            let class = if secrecy {
                ImpactClass::CryptographicSafety
            } else {
                ImpactClass::ApiServerAvailability
            };
            (class, remedies(findings, config))
        }
        ProfileRefused::SoftDeleted => (
            ImpactClass::DataRecovery,
            format!(
                "run `{} -f {}/keys/{}/soft-delete-restore`",
                bao(config, "write"),
                key.mount_path,
                key.key_name
            ),
        ),
        _ => (
            ImpactClass::DataRecovery,
            "find the OpenBao, or the backup of it, that holds the key; do not delete or recreate \
             the key"
                .to_owned(),
        ),
    };
    let findings: Vec<(&str, &str, String)> = match refused {
        ProfileRefused::Findings(findings) => findings
            .iter()
            .map(|finding| {
                (
                    finding.code(),
                    impact(finding.impact()),
                    finding.to_string(),
                )
            })
            .collect(),
        other => {
            let impact = impact(Impact::ApiServerAvailability);
            vec![("", impact, other.to_string())]
        }
    };
    let code = match findings.first() {
        Some((code, ..)) if !code.is_empty() => *code,
        _ => "unusable",
    };
    let message: Vec<_> = findings
        .iter()
        .map(|(_, impact, text)| format!("blocking/{impact}: {text}"))
        .collect();
    let details: Vec<Value> = findings
        .iter()
        .map(|(code, impact, text)| {
            let mut finding = json!({"severity": "blocking", "impact": impact, "text": text});
            if !code.is_empty() {
                finding["code"] = json!(code);
            }
            finding
        })
        .collect();
    let check = PROFILE
        .fail(message.join("; "))
        .code(code)
        .impact(
            "this key is not used: kube-apiserver cannot read or write encrypted objects through \
             this node",
        )
        .impact_class(class)
        .remediation(remedy)
        .detail("findings", details);
    Some(check)
}

/// One sentence for all findings: what can be set is set, the rest takes another key.
fn remedies(findings: &[Finding], config: &Config) -> String {
    let mut settings = Vec::new();
    let mut other_key = false;
    for finding in findings {
        match finding {
            Finding::DeletionAllowed => settings.push("deletion_allowed=false".to_owned()),
            Finding::MinEncryptionVersion { .. } => {
                settings.push("min_encryption_version=0".to_owned());
            }
            Finding::MinDecryptionVersion { .. } => {
                settings.push("min_decryption_version=1".to_owned());
            }
            Finding::UnsupportedType { .. }
            | Finding::Exportable
            | Finding::PlaintextBackup
            | Finding::Derived
            | Finding::Convergent
            | Finding::EncryptionUnsupported
            | Finding::DecryptionUnsupported => other_key = true,
        }
    }
    let mut steps = Vec::new();
    if !settings.is_empty() {
        steps.push(configure(config, &settings.join(" ")));
    }
    if other_key {
        steps.push(format!(
            "make a key that is right from the start with `{} -f {}/keys/NAME`, and point \
             transit.keyName at it, with a keyLineageId of its own; what is encrypted under this \
             key needs it until it is rewritten, so do not delete it",
            bao(config, "write"),
            config.key.mount_path
        ));
    }
    steps.join("; ")
}

fn configure(config: &Config, settings: &str) -> String {
    let TransitKeyPath {
        mount_path,
        key_name,
    } = &config.key;
    let write = bao(config, "write");
    format!("run `{write} {mount_path}/keys/{key_name}/config {settings}`")
}

/// Whether the mount refuses to make a missing key.
fn disable_upsert(facts: &Facts) -> Option<Check> {
    let config = facts.config()?;
    let mount = &config.key.mount_path;
    let check = match facts.upsert_disabled.as_ref()? {
        Ok(true) => DISABLE_UPSERT.pass(),
        Ok(false) => DISABLE_UPSERT
            .fail(format!("{mount} creates missing keys on encryption"))
            .impact(
                "a lost key would be replaced unnoticed by one that decrypts nothing; the \
                 provider does not encrypt until then",
            )
            .impact_class(ImpactClass::DataRecovery)
            .remediation(format!(
                "run `{} {mount}/config/keys disable_upsert=true`",
                bao(config, "write")
            )),
        Err(failure) => DISABLE_UPSERT.unanswered(
            failure,
            ImpactClass::ApiServerAvailability,
            "the provider does not encrypt; decrypting goes on",
        ),
    };
    Some(check)
}

/// A round trip through OpenBao.
fn tried(question: &Question, outcome: &Result<TransitVersion, DeepError>) -> Check {
    match outcome {
        Ok(version) => question
            .pass()
            .message(format!("encrypted and decrypted with version {version}")),
        Err(error) => {
            let check = question
                .fail(one_line(error))
                .impact(NO_SERVICE)
                .impact_class(ImpactClass::ApiServerAvailability);
            match error.call().and_then(super::call_remedy) {
                Some(remedy) => check.remediation(remedy),
                None => check.remediation("compare the limits of the key with the versions here"),
            }
        }
    }
}

/// What the newest version is called, derived twice; beside it what the state says is active.
fn key_id(facts: &Facts) -> Option<Check> {
    let (config, profile) = (facts.config()?, facts.usable_key()?);
    let derived = || {
        let scope = Arc::new(KeyScope::new(config.scope.clone()));
        TransitKey::new(scope, profile.latest(), profile.latest_created_at())
    };
    let key = derived();
    let (version, hash) = (key.version(), key.id_hash());
    if key != derived() {
        let check = KEY_ID
            .fail(format!("version {version} has two key_ids"))
            .impact("objects could not be read back")
            .impact_class(ImpactClass::DataRecovery)
            .remediation("do not serve with this build; report it");
        return Some(check);
    }
    let check = KEY_ID
        .pass()
        .detail("derivedTransitVersion", version.get())
        .detail("derivedKeyIdHash", hash.as_str());
    let derived = format!("derived for the newest version {version}: {hash}");
    let check = match facts.registry().map(|registry| registry.active()) {
        None => check.message(derived),
        Some(active) => check
            .message(format!(
                "{derived}; active in the state, version {}: {}",
                active.version(),
                active.id_hash()
            ))
            .detail("activeTransitVersion", active.version().get())
            .detail("activeKeyIdHash", active.id_hash().as_str()),
    };
    Some(check)
}

/// Whether the key covers every version that must stay readable and may encrypt with the active
/// one. Without a state this is its newest version, of which every profile says so.
fn restrictions(facts: &Facts) -> Option<Check> {
    let (config, profile) = (facts.config()?, facts.usable_key()?);
    let Some(registry) = facts.registry() else {
        let message = format!("for the newest version {}", profile.latest());
        return Some(RESTRICTIONS.pass().message(message));
    };
    if let Err(conflict) = profile.require_retained(registry) {
        let (code, remedy) = conflict_remedy(&conflict, config);
        let check = RESTRICTIONS
            .fail(conflict.to_string())
            .code(code)
            .impact("objects under the versions named cannot be read; encrypting is refused")
            .impact_class(ImpactClass::DataRecovery)
            .remediation(remedy);
        return Some(check);
    }
    let active = registry.active().version();
    if profile.blocks_encryption(active) {
        let check = RESTRICTIONS
            .fail(format!(
                "min_encryption_version is above the active version {active}"
            ))
            .code("min_encryption_version")
            .impact("nothing can be encrypted until a newer version is active; decrypting goes on")
            .impact_class(ImpactClass::ApiServerAvailability)
            .remediation(format!(
                "{}; do not change min_decryption_version",
                configure(config, &format!("min_encryption_version={active}"))
            ));
        return Some(check);
    }
    Some(RESTRICTIONS.pass().message(format!(
        "for {} readable versions and the active version {active}",
        registry.retained().count()
    )))
}

fn conflict_remedy(conflict: &RegistryConflict, config: &Config) -> (&'static str, String) {
    let restore = "restore the OpenBao storage that has the original versions; see \
        docs/operate/doctor.md"
        .to_owned();
    let RegistryConflict::Retained(problems) = conflict else {
        return ("key_rolled_back", restore);
    };
    let hidden = problems.iter().map(|problem| match problem {
        VersionProblem::Hidden { version, .. } => Some(*version),
        _ => None,
    });
    // Only if nothing else is wrong does lowering the limit mend it.
    match hidden
        .collect::<Option<Vec<_>>>()
        .and_then(|versions| versions.into_iter().min())
    {
        Some(oldest) => {
            let remedy = configure(config, &format!("min_decryption_version={oldest}"));
            ("min_decryption_version", remedy)
        }
        None => ("versions_lost", restore),
    }
}

fn impact(impact: Impact) -> &'static str {
    match impact {
        Impact::CryptographicSafety => "cryptographic_safety",
        Impact::ApiServerAvailability => "api_server_availability",
    }
}
