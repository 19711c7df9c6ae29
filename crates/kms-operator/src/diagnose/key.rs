//! The Transit key: its settings, and the versions that this node needs.

use std::sync::Arc;

use kms_domain::{
    key::{KeyScope, TransitKey},
    registry::{Record, Registry, RegistryConflict},
    transit::{Finding, Impact, KeyProfile, ProfileRefused, TransitVersion, VersionProblem},
};
use kms_node::{
    advice::{self, Advice},
    auth::CallFailure,
    report::{CheckResult, ImpactClass, counted, one_line, utc},
    transit_key::round_trip::DeepError,
};
use serde_json::{Value, json};

use super::{Check, facts::Facts};

/// The key's metadata can be read.
pub const METADATA: Check = Check {
    id: "transit.metadata",
    title: "Metadata of the key",
    needs: &["openbao.auth"],
    evaluate: |facts| Some(vec![metadata(facts)?]),
};
/// The key is safe to use.
pub const PROFILE: Check = Check {
    id: "transit.profile",
    title: "Settings of the key",
    needs: &["transit.metadata"],
    evaluate: |facts| Some(vec![profile(facts)?]),
};
/// A lost key would not be replaced unnoticed.
pub const DISABLE_UPSERT: Check = Check {
    id: "transit.disable_upsert",
    title: "Creation of missing keys by the mount",
    needs: &["openbao.auth", "transit.config_capability"],
    evaluate: |facts| Some(vec![disable_upsert(facts)?]),
};
/// The newest version encrypts and decrypts.
pub const PROBE: Check = Check {
    id: "transit.probe",
    title: "Round trip with the newest version",
    needs: &["transit.profile"],
    evaluate: |facts| Some(vec![tried(&PROBE, facts, facts.probe.as_ref()?)]),
};
/// The newest version has one key_id.
pub const KEY_ID: Check = Check {
    id: "key_id.deterministic",
    title: "key_id of the newest version",
    needs: &["transit.profile"],
    evaluate: |facts| Some(vec![key_id(facts)?]),
};
/// The version that the state says is active, which Status names, is one that Encrypt can use.
pub const ACTIVE: Check = Check {
    id: "kms.status_encrypt",
    title: "Round trip with the active version",
    needs: &["transit.profile", "registry.state"],
    evaluate: |facts| match facts.active_probe.as_ref() {
        Some(outcome) => Some(vec![tried(&ACTIVE, facts, outcome)]),
        None => Some(vec![ACTIVE.skip("there is no state")]),
    },
};
/// OpenBao lets this node read all that it must, and encrypt.
pub const RESTRICTIONS: Check = Check {
    id: "transit.version_restrictions",
    title: "Versions that the state needs",
    needs: &["transit.profile", "registry.state"],
    evaluate: |facts| Some(vec![restrictions(facts)?]),
};

fn metadata(facts: &Facts) -> Option<CheckResult> {
    let check = match facts.metadata.as_ref()? {
        Ok(metadata) => METADATA
            .pass()
            .message(format!("newest version {}", metadata.latest_version))
            .detail("latestTransitVersion", metadata.latest_version),
        Err(failure) => {
            // Only of a response about the key itself: a login can meet the same class.
            let lost = matches!(failure, CallFailure::OpenBao(failure) if failure.is_absence());
            let class = match lost {
                true => ImpactClass::DataRecovery,
                false => ImpactClass::ApiServerAvailability,
            };
            METADATA.unanswered(failure, facts, class)
        }
    };
    Some(check)
}

/// Every finding about the settings of the key, with its code and its impact.
fn profile(facts: &Facts) -> Option<CheckResult> {
    let Err(refused) = facts.profile.as_ref()? else {
        return Some(PROFILE.pass());
    };
    let found = match refused {
        ProfileRefused::Findings(findings) => &findings[..],
        _ => &[],
    };
    let secrecy = |finding: &Finding| finding.impact() == Impact::CryptographicSafety;
    let class = match refused {
        ProfileRefused::Findings(_) if found.iter().any(secrecy) => {
            ImpactClass::CryptographicSafety
        }
        ProfileRefused::Findings(_) => ImpactClass::ApiServerAvailability,
        _ => ImpactClass::DataRecovery,
    };

    let (cause, values) = advice::key::found_profile(refused);
    let values: Vec<_> = values.iter().map(|(name, it)| (*name, &**it)).collect();
    let advice = facts.advise(cause, &values);

    let mut findings: Vec<(Option<&str>, &str, String)> = found
        .iter()
        .map(|it| (Some(it.code()), impact(it.impact()), it.to_string()))
        .collect();
    if findings.is_empty() {
        let impact = impact(Impact::ApiServerAvailability);
        findings.push((None, impact, refused.to_string()));
    }
    let code = findings.first().and_then(|(code, ..)| *code);
    let message: Vec<_> = findings
        .iter()
        .map(|(_, impact, text)| format!("blocking/{impact}: {text}"))
        .collect();
    let details: Vec<Value> = findings
        .iter()
        .map(|(code, impact, text)| {
            let mut finding = json!({"severity": "blocking", "impact": impact, "text": text});
            if let Some(code) = code {
                finding["code"] = json!(code);
            }
            finding
        })
        .collect();
    let check = PROFILE
        .fail(message.join("; "))
        .because(advice)
        .code(code.unwrap_or("unusable"))
        .impact_class(class)
        .detail("findings", details);
    Some(check)
}

/// Whether the mount refuses to create a missing key.
fn disable_upsert(facts: &Facts) -> Option<CheckResult> {
    let mount = &facts.config()?.key.mount_path;
    let check = match facts.upsert_disabled.as_ref()? {
        Ok(true) => DISABLE_UPSERT.pass(),
        Ok(false) => DISABLE_UPSERT
            .fail(format!("{mount} creates missing keys on encryption"))
            .because(facts.advise(&advice::key::UPSERT_ALLOWED, &[]))
            .impact_class(ImpactClass::DataRecovery),
        Err(failure) => {
            DISABLE_UPSERT.unanswered(failure, facts, ImpactClass::ApiServerAvailability)
        }
    };
    Some(check)
}

/// A round trip through OpenBao.
fn tried(check: &Check, facts: &Facts, outcome: &Result<TransitVersion, DeepError>) -> CheckResult {
    match outcome {
        Ok(version) => check
            .pass()
            .message(format!("encrypted and decrypted with version {version}")),
        Err(error) => {
            let version = match error {
                DeepError::Encrypt { version, .. } | DeepError::Decrypt { version, .. } => {
                    version.to_string()
                }
                DeepError::Random(_) | DeepError::Invalid | DeepError::WrongPlaintext => {
                    String::new()
                }
            };
            let values = [("lowest", &*version), ("active", &*version)];
            check
                .fail(one_line(error))
                .because(facts.advise(advice::key::of_round_trip(error), &values))
                .impact_class(ImpactClass::ApiServerAvailability)
        }
    }
}

/// The key_id of the newest version, derived twice, beside the active one of the state.
fn key_id(facts: &Facts) -> Option<CheckResult> {
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
            .because(facts.advise(&advice::key::KEY_ID_UNSTABLE, &[]))
            .impact_class(ImpactClass::DataRecovery);
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
fn restrictions(facts: &Facts) -> Option<CheckResult> {
    let profile = facts.usable_key()?;
    let Some(registry) = facts.registry() else {
        let message = format!("for the newest version {}", profile.latest());
        return Some(RESTRICTIONS.pass().message(message));
    };
    if let Err(conflict) = require_retained(profile, registry) {
        let check = RESTRICTIONS
            .fail(found(&conflict))
            .because(conflict_advice(facts, &conflict))
            .code(conflict_code(&conflict))
            .impact_class(ImpactClass::DataRecovery);
        return Some(check);
    }

    let active = registry.active().version();
    if profile.blocks_encryption(active) {
        let version = active.to_string();
        let values = [("active", &*version)];
        let check = RESTRICTIONS
            .fail(format!(
                "min_encryption_version is above the active version {active}"
            ))
            .because(facts.advise(&advice::versions::ENCRYPTION_BLOCKED, &values))
            .code("min_encryption_version")
            .impact_class(ImpactClass::ApiServerAvailability);
        return Some(check);
    }
    let readable = counted(registry.retained().count(), "readable version");
    let message = format!("for {readable} and the active version {active}");
    Some(RESTRICTIONS.pass().message(message))
}

/// The versions of the state that the key lacks, unless a limit alone hides them.
#[must_use]
pub fn contradiction(facts: &Facts) -> Option<(String, Advice)> {
    let (profile, registry) = (facts.usable_key()?, facts.registry()?);
    let conflict = require_retained(profile, registry).err()?;
    let hidden = advice::key::of_conflict(&conflict) == &advice::versions::BELOW_MINIMUM;
    (!hidden).then(|| (found(&conflict), conflict_advice(facts, &conflict)))
}

/// A key with fewer versions is an older copy only if its versions are those of the state.
fn require_retained(profile: &KeyProfile, registry: &Registry) -> Result<(), RegistryConflict> {
    let conflict = profile.require_retained(registry);
    let Err(RegistryConflict::VersionRollback { .. }) = conflict else {
        return conflict;
    };
    let problem = |record: &Record| {
        let (version, recorded) = (record.key.version(), record.key.created_at());
        let found = profile.created_at(version)?;
        (found != recorded).then_some(VersionProblem::CreationTimeMismatch {
            version,
            recorded,
            found,
        })
    };
    let recreated: Vec<_> = registry.retained().filter_map(problem).collect();
    match recreated.is_empty() {
        true => conflict,
        false => Err(RegistryConflict::Retained(recreated)),
    }
}

fn conflict_code(conflict: &RegistryConflict) -> &'static str {
    match conflict {
        RegistryConflict::VersionRollback { .. } => "key_rolled_back",
        conflict if advice::key::of_conflict(conflict) == &advice::key::RECREATED => {
            advice::key::RECREATED.code
        }
        RegistryConflict::Retained(problems) => {
            let is_hidden = |it: &VersionProblem| matches!(it, VersionProblem::Hidden { .. });
            match problems.iter().all(is_hidden) {
                true => "min_decryption_version",
                false => "versions_lost",
            }
        }
    }
}

fn conflict_advice(facts: &Facts, conflict: &RegistryConflict) -> Advice {
    let problems = match conflict {
        RegistryConflict::VersionRollback { .. } => &[],
        RegistryConflict::Retained(problems) => &problems[..],
    };
    let hidden = problems.iter().filter_map(|problem| match problem {
        VersionProblem::Hidden { version, .. } => Some(*version),
        _ => None,
    });
    let lowest = hidden.min().map(|version| version.to_string());
    let mut values = Vec::new();
    if let Some(lowest) = &lowest {
        values.push(("lowest", &**lowest));
    }
    facts.advise(advice::key::of_conflict(conflict), &values)
}

/// The finding alone; data impact and steps are those of the cause.
fn found(conflict: &RegistryConflict) -> String {
    match conflict {
        RegistryConflict::VersionRollback { active, latest } => format!(
            "the newest version of the key is {latest}, and version {active} is active on this node: \
             OpenBao holds an older copy of the key"
        ),
        RegistryConflict::Retained(problems) => {
            let all: Vec<_> = problems.iter().map(problem).collect();
            all.join("; ")
        }
    }
}

fn problem(problem: &VersionProblem) -> String {
    match problem {
        VersionProblem::AboveLatest { version, latest } => {
            format!("version {version} does not exist: the newest is {latest}")
        }
        VersionProblem::Trimmed { version, minimum } => {
            format!("version {version} has been trimmed for good (min_available_version {minimum})")
        }
        VersionProblem::Hidden { version, minimum } => {
            format!("version {version} is hidden by min_decryption_version {minimum}")
        }
        VersionProblem::Unlisted(version) => {
            format!("version {version} is missing from the metadata of the key")
        }
        VersionProblem::CreationTimeMismatch {
            version,
            recorded,
            found,
        } => format!(
            "version {version} was created at {}, and at {} by the state of this node: the key was \
             recreated, or comes from another OpenBao",
            utc(found.get()),
            utc(recorded.get())
        ),
    }
}

fn impact(impact: Impact) -> &'static str {
    match impact {
        Impact::CryptographicSafety => "cryptographic_safety",
        Impact::ApiServerAvailability => "api_server_availability",
    }
}
