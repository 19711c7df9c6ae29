//! Is the Transit key there, set up safely, and does it still have what this node relies on?

use std::sync::Arc;

use kms_domain::{
    key::{KeyScope, TransitKey},
    registry::Registry,
    scope::{IdentityScope, TransitKeyPath},
    transit::{Impact, KeyMetadata, KeyProfile, ProfileRefused},
};
use serde_json::{Value, json};

use super::{Name, skipped, unanswered};
use crate::{auth::CallFailure, report::Check};

/// The key's metadata can be read.
pub const METADATA: Name = ("transit.metadata", "Transit metadata");
/// The key is safe to use.
pub const PROFILE: Name = ("transit.profile", "Transit key profile");
/// A lost key would not be replaced unnoticed.
pub const DISABLE_UPSERT: Name = ("transit.disable_upsert", "Transit disable_upsert");
/// The newest version has one key_id.
pub const KEY_ID: Name = ("key_id.deterministic", "Key ID determinism");
/// OpenBao lets this node read all that it must, and encrypt.
pub const RESTRICTIONS: Name = (
    "transit.version_restrictions",
    "Transit version restrictions",
);

const NO_SERVICE: &str =
    "kube-apiserver cannot read or write encrypted objects through this node; no data is lost";

/// Whether the metadata could be read.
#[must_use]
pub fn metadata(read: &Result<KeyMetadata, CallFailure>) -> Check {
    let (id, title) = METADATA;
    match read {
        Ok(metadata) => Check::pass(id, title)
            .message(format!("newest version {}", metadata.latest_version))
            .detail("latestTransitVersion", metadata.latest_version),
        Err(failure) => unanswered(METADATA, failure, NO_SERVICE),
    }
}

/// Every finding about the key's set-up, with its code and what it endangers.
#[must_use]
pub fn profile(judged: Option<&Result<KeyProfile, ProfileRefused>>) -> Check {
    let (id, title) = PROFILE;
    let refused = match judged {
        None => return skipped(PROFILE),
        Some(Ok(_)) => return Check::pass(id, title),
        Some(Err(refused)) => refused,
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
    Check::fail(id, title, message.join("; "))
        .impact("this key is not used: kube-apiserver cannot read or write encrypted objects through this node")
        .remediation("correct the key in OpenBao; if data is encrypted under it, do not delete or recreate it")
        .detail("findings", details)
}

/// Whether the mount refuses to make a missing key.
#[must_use]
pub fn disable_upsert(read: Result<bool, CallFailure>, key: &TransitKeyPath) -> Check {
    let (id, title) = DISABLE_UPSERT;
    let mount = &key.mount_path;
    match read {
        Ok(true) => Check::pass(id, title),
        Ok(false) => Check::fail(
            id,
            title,
            format!("{mount} creates missing keys on encryption"),
        )
        .impact(
            "a lost key would be replaced unnoticed by one that decrypts nothing; the provider \
                 does not encrypt until then",
        )
        .remediation(format!(
            "run `bao write {mount}/config/keys disable_upsert=true`"
        )),
        Err(failure) => unanswered(
            DISABLE_UPSERT,
            &failure,
            "the provider does not encrypt; decrypting goes on",
        ),
    }
}

/// What the newest version is called, derived twice; beside it what the state says is active.
#[must_use]
pub fn key_id(profile: &KeyProfile, scope: &IdentityScope, registry: Option<&Registry>) -> Check {
    let (id, title) = KEY_ID;
    let derived = || {
        let scope = Arc::new(KeyScope::new(scope.clone()));
        TransitKey::new(scope, profile.latest(), profile.latest_created_at())
    };
    let key = derived();
    let (version, hash) = (key.version(), key.id_hash());
    if key != derived() {
        return Check::fail(id, title, format!("version {version} has two key_ids"))
            .impact("objects could not be read back")
            .remediation("do not serve with this build; report it");
    }
    let check = Check::pass(id, title)
        .detail("derivedTransitVersion", version.get())
        .detail("derivedKeyIdHash", hash.as_str());
    let derived = format!("derived for the newest version {version}: {hash}");
    match registry.map(Registry::active) {
        None => check.message(derived),
        Some(active) => check
            .message(format!(
                "{derived}; active in the state, version {}: {}",
                active.version(),
                active.id_hash()
            ))
            .detail("activeTransitVersion", active.version().get())
            .detail("activeKeyIdHash", active.id_hash().as_str()),
    }
}

/// Whether the key covers every version that must stay readable and may encrypt with the active
/// one. Without a state this is its newest version, of which every profile says so.
#[must_use]
pub fn restrictions(profile: &KeyProfile, registry: Option<&Registry>) -> Check {
    let (id, title) = RESTRICTIONS;
    let Some(registry) = registry else {
        return Check::pass(id, title)
            .message(format!("for the newest version {}", profile.latest()));
    };
    if let Err(conflict) = profile.require_retained(registry) {
        return Check::fail(id, title, conflict.to_string())
            .impact("objects under the versions named cannot be read; encrypting is refused");
    }
    let active = registry.active().version();
    if profile.blocks_encryption(active) {
        return Check::fail(
            id,
            title,
            format!("min_encryption_version is above the active version {active}"),
        )
        .impact("nothing can be encrypted until a newer version is active; decrypting goes on")
        .remediation(format!(
            "set min_encryption_version to {active} or 0; do not change min_decryption_version"
        ));
    }
    Check::pass(id, title).message(format!(
        "for {} readable versions and the active version {active}",
        registry.retained().count()
    ))
}

fn impact(impact: Impact) -> &'static str {
    match impact {
        Impact::CryptographicSafety => "cryptographic_safety",
        Impact::ApiServerAvailability => "api_server_availability",
    }
}
