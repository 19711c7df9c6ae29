//! Checks whether the key is safe to use. Each setting to be changed in OpenBao is a [`Finding`],
//! and all are reported together.

use std::{collections::BTreeMap, fmt};

use super::{CreatedAt, KeyEntry, KeyMetadata, TransitVersion};
use crate::scope::KeyName;

const KEY_TYPE: &str = "aes256-gcm96";

/// Metadata of a key that is safe for the provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyProfile {
    latest: TransitVersion,
    latest_created_at: CreatedAt,
    min_available: u64,
    min_decryption: u64,
    min_encryption: u64,
    created: BTreeMap<TransitVersion, CreatedAt>,
}

/// Reason why metadata is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProfileRefused {
    /// OpenBao answered for another key.
    #[error("OpenBao answered for the key {found:?} instead of {configured:?}")]
    OtherKey {
        /// The name in the response.
        found: String,
        /// The configured name.
        configured: String,
    },
    /// A number outside the range of Transit keys.
    #[error("{field} is {value}, impossible for a Transit key")]
    Number {
        /// The member.
        field: &'static str,
        /// The value.
        value: i64,
    },
    /// The key is soft-deleted.
    #[error("the key is soft-deleted")]
    SoftDeleted,
    /// All versions were trimmed, including the newest.
    #[error("every version up to {latest} has been trimmed (min_available_version {minimum})")]
    AllTrimmed {
        /// The lowest available version.
        minimum: u64,
        /// The newest version.
        latest: TransitVersion,
    },
    /// All findings on the configuration of the key.
    #[error("the key must not be used: {}", Sentences(.0))]
    Findings(Vec<Finding>),
    /// `keys` has a duplicate version, or one other than a canonical number from 1 to the newest
    /// version.
    #[error("keys lists a version outside 1 to {latest}, or one twice")]
    KeyVersion {
        /// The newest version.
        latest: TransitVersion,
    },
    /// A creation time other than a positive whole second.
    #[error("keys has no positive Unix second for version {0}")]
    CreationSecond(TransitVersion),
    /// The newest version has no creation time.
    #[error("keys does not list the newest version {0}")]
    LatestMissing(TransitVersion),
}

/// A setting of the key to be changed in OpenBao.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Finding {
    /// Another key type.
    #[error(
        "its type is {found:?}, but {KEY_TYPE} is required for authenticated encryption with \
         associated data"
    )]
    UnsupportedType {
        /// The type, truncated to 64 characters.
        found: String,
    },
    /// `exportable`.
    #[error("it is exportable, so its key material can leave OpenBao")]
    Exportable,
    /// `allow_plaintext_backup`.
    #[error("it allows plaintext backup, so its key material can leave OpenBao")]
    PlaintextBackup,
    /// `derived`.
    #[error("it derives keys from a context, and the provider sends none")]
    Derived,
    /// `convergent_encryption`.
    #[error("it encrypts equal plaintexts to equal ciphertexts")]
    Convergent,
    /// `deletion_allowed`.
    #[error("it may be deleted, and all data with it (deletion_allowed)")]
    DeletionAllowed,
    /// `supports_encryption` is false or missing.
    #[error("it does not support encryption, unlike type {KEY_TYPE}")]
    EncryptionUnsupported,
    /// `supports_decryption` is false or missing.
    #[error("it does not support decryption, unlike type {KEY_TYPE}")]
    DecryptionUnsupported,
    /// Every version is blocked from encryption.
    #[error(
        "no version may encrypt, since min_encryption_version {minimum} is above the newest \
         version {latest}"
    )]
    MinEncryptionVersion {
        /// The configured minimum.
        minimum: u64,
        /// The newest version.
        latest: TransitVersion,
    },
    /// Every version is blocked from decryption.
    #[error(
        "no version may decrypt, since min_decryption_version {minimum} is above the newest \
         version {latest}"
    )]
    MinDecryptionVersion {
        /// The configured minimum.
        minimum: u64,
        /// The newest version.
        latest: TransitVersion,
    },
}

/// The consequence of a [`Finding`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Impact {
    /// Secrecy or integrity of the data is at risk.
    CryptographicSafety,
    /// The API server may be unable to read or write protected objects.
    ApiServerAvailability,
}

impl KeyProfile {
    /// Checks the metadata of the key with the configured `name`.
    ///
    /// # Errors
    /// [`ProfileRefused`]; all findings are reported together.
    pub fn check(metadata: &KeyMetadata, name: &KeyName) -> Result<Self, ProfileRefused> {
        if let Some(found) = &metadata.name
            && found != name.as_str()
        {
            return Err(ProfileRefused::OtherKey {
                found: readable(found),
                configured: name.to_string(),
            });
        }

        let number = |field, value: i64| {
            u64::try_from(value).map_err(|_| ProfileRefused::Number { field, value })
        };
        let latest = number("latest_version", metadata.latest_version)?;
        let latest = TransitVersion::new(latest).ok_or(ProfileRefused::Number {
            field: "latest_version",
            value: metadata.latest_version,
        })?;
        let min_available = number("min_available_version", metadata.min_available_version)?;
        let min_decryption = number("min_decryption_version", metadata.min_decryption_version)?;
        let min_encryption = number("min_encryption_version", metadata.min_encryption_version)?;

        if metadata.soft_deleted {
            return Err(ProfileRefused::SoftDeleted);
        }
        if min_available > latest.get() {
            return Err(ProfileRefused::AllTrimmed {
                minimum: min_available,
                latest,
            });
        }

        let findings = findings(metadata, latest, min_encryption, min_decryption);
        if !findings.is_empty() {
            return Err(ProfileRefused::Findings(findings));
        }

        let created = creation_seconds(metadata, latest)?;
        let latest_created_at = *created
            .get(&latest)
            .ok_or(ProfileRefused::LatestMissing(latest))?;

        Ok(Self {
            latest,
            latest_created_at,
            min_available,
            min_decryption,
            min_encryption,
            created,
        })
    }

    /// Whether Transit refuses to encrypt with `version` (`min_encryption_version`).
    #[must_use]
    pub fn blocks_encryption(&self, version: TransitVersion) -> bool {
        self.min_encryption > version.get()
    }

    /// The newest version.
    #[must_use]
    pub fn latest(&self) -> TransitVersion {
        self.latest
    }

    /// Creation second of the newest version.
    #[must_use]
    pub fn latest_created_at(&self) -> CreatedAt {
        self.latest_created_at
    }

    /// Lower versions were trimmed permanently. 0 and 1 mean no limit.
    #[must_use]
    pub fn min_available(&self) -> u64 {
        self.min_available
    }

    /// Lower versions are undecryptable. 0 and 1 mean no limit.
    #[must_use]
    pub fn min_decryption(&self) -> u64 {
        self.min_decryption
    }

    /// Lower versions are blocked from encryption. 0 and 1 mean no limit.
    #[must_use]
    pub fn min_encryption(&self) -> u64 {
        self.min_encryption
    }

    /// Every version in the metadata, ascending. Versions below [`Self::min_decryption`] are hidden
    /// even while they exist.
    pub fn listed(&self) -> impl Iterator<Item = (TransitVersion, CreatedAt)> {
        self.created
            .iter()
            .map(|(&version, &created_at)| (version, created_at))
    }

    /// Creation second of `version`; `None` if the metadata does not list it.
    #[must_use]
    pub fn created_at(&self, version: TransitVersion) -> Option<CreatedAt> {
        self.created.get(&version).copied()
    }
}

impl Finding {
    /// The stable code in reports.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::UnsupportedType { .. } => "unsupported_type",
            Self::Exportable => "exportable",
            Self::PlaintextBackup => "plaintext_backup",
            Self::Derived => "derived",
            Self::Convergent => "convergent",
            Self::DeletionAllowed => "deletion_allowed",
            Self::EncryptionUnsupported => "encryption_unsupported",
            Self::DecryptionUnsupported => "decryption_unsupported",
            Self::MinEncryptionVersion { .. } => "min_encryption_version",
            Self::MinDecryptionVersion { .. } => "min_decryption_version",
        }
    }

    /// The consequence of the finding.
    #[must_use]
    pub fn impact(&self) -> Impact {
        match self {
            Self::UnsupportedType { .. }
            | Self::Exportable
            | Self::PlaintextBackup
            | Self::Derived
            | Self::Convergent => Impact::CryptographicSafety,
            Self::DeletionAllowed
            | Self::EncryptionUnsupported
            | Self::DecryptionUnsupported
            | Self::MinEncryptionVersion { .. }
            | Self::MinDecryptionVersion { .. } => Impact::ApiServerAvailability,
        }
    }
}

fn findings(
    metadata: &KeyMetadata,
    latest: TransitVersion,
    min_encryption: u64,
    min_decryption: u64,
) -> Vec<Finding> {
    let unsupported_type = Finding::UnsupportedType {
        found: readable(&metadata.key_type),
    };
    let min_encryption_version = Finding::MinEncryptionVersion {
        minimum: min_encryption,
        latest,
    };
    let min_decryption_version = Finding::MinDecryptionVersion {
        minimum: min_decryption,
        latest,
    };

    [
        (metadata.key_type != KEY_TYPE, unsupported_type),
        (metadata.exportable, Finding::Exportable),
        (metadata.allow_plaintext_backup, Finding::PlaintextBackup),
        (metadata.derived, Finding::Derived),
        (metadata.convergent_encryption, Finding::Convergent),
        (metadata.deletion_allowed, Finding::DeletionAllowed),
        (
            !metadata.supports_encryption,
            Finding::EncryptionUnsupported,
        ),
        (
            !metadata.supports_decryption,
            Finding::DecryptionUnsupported,
        ),
        (min_encryption > latest.get(), min_encryption_version),
        (min_decryption > latest.get(), min_decryption_version),
    ]
    .into_iter()
    .filter_map(|(found, finding)| found.then_some(finding))
    .collect()
}

/// `keys` starts at `min_decryption_version`, so lower versions may be missing.
fn creation_seconds(
    metadata: &KeyMetadata,
    latest: TransitVersion,
) -> Result<BTreeMap<TransitVersion, CreatedAt>, ProfileRefused> {
    let mut created = BTreeMap::new();

    for (version, entry) in &metadata.keys.0 {
        let version = TransitVersion::parse(version)
            .filter(|version| *version <= latest)
            .ok_or(ProfileRefused::KeyVersion { latest })?;

        let seconds = match entry {
            KeyEntry::Created(seconds) => u64::try_from(*seconds).ok(),
            KeyEntry::Other => None,
        };
        let seconds = seconds
            .and_then(CreatedAt::new)
            .ok_or(ProfileRefused::CreationSecond(version))?;
        if created.insert(version, seconds).is_some() {
            return Err(ProfileRefused::KeyVersion { latest });
        }
    }

    Ok(created)
}

/// Text from the server, truncated so that it cannot flood a message.
fn readable(text: &str) -> String {
    text.chars().take(64).collect()
}

/// Several messages joined into one.
pub(crate) struct Sentences<'a, T>(pub(crate) &'a [T]);

impl<T: fmt::Display> fmt::Display for Sentences<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, sentence) in self.0.iter().enumerate() {
            if position > 0 {
                f.write_str("; ")?;
            }
            sentence.fmt(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors;
    use serde_json::{Value, json};

    /// Response of OpenBao 2.7.2 for a new key that was rotated twice.
    fn metadata() -> Value {
        json!({
            "allow_plaintext_backup": false,
            "auto_rotate_period": 0,
            "deletion_allowed": false,
            "derived": false,
            "exportable": false,
            "imported_key": false,
            "keys": {"1": 1, "2": 2, "3": 3},
            "latest_version": 3,
            "min_available_version": 0,
            "min_decryption_version": 1,
            "min_encryption_version": 0,
            "name": "kubernetes-etcd",
            "soft_deleted": false,
            "supports_decryption": true,
            "supports_derivation": true,
            "supports_encryption": true,
            "supports_signing": false,
            "type": "aes256-gcm96"
        })
    }

    fn check(edits: &Value) -> Result<KeyProfile, ProfileRefused> {
        let mut data = metadata();
        for (member, value) in edits.as_object().unwrap() {
            data[member] = value.clone();
        }
        let name = KeyName::parse("kubernetes-etcd").unwrap();
        KeyProfile::check(&serde_json::from_value(data).unwrap(), &name)
    }

    #[test]
    fn a_sound_key_passes_also_with_hidden_versions() {
        let profile = check(&json!({})).unwrap();
        assert_eq!(profile.latest(), vectors::version(3));
        assert_eq!(profile.latest_created_at(), vectors::created_at(3));
        assert_eq!(
            profile.created_at(vectors::version(2)),
            Some(vectors::created_at(2))
        );
        let hidden = json!({"min_decryption_version": 3, "keys": {"3": 3}});
        let profile = check(&hidden).unwrap();
        assert_eq!(profile.created_at(vectors::version(2)), None);
        assert!(check(&json!({"name": null})).is_ok());
    }

    #[test]
    fn impossible_metadata_is_refused() {
        use ProfileRefused as P;
        let latest = vectors::version(3);
        let number = |field, value| P::Number { field, value };
        for (edits, refused) in [
            (
                json!({"name": "other"}),
                P::OtherKey {
                    found: "other".to_owned(),
                    configured: "kubernetes-etcd".to_owned(),
                },
            ),
            (json!({"latest_version": 0}), number("latest_version", 0)),
            (json!({"latest_version": -1}), number("latest_version", -1)),
            (
                json!({"min_available_version": -1}),
                number("min_available_version", -1),
            ),
            (json!({"soft_deleted": true}), P::SoftDeleted),
            (
                json!({"min_available_version": 4}),
                P::AllTrimmed { minimum: 4, latest },
            ),
            (json!({"keys": {"0": 1, "3": 3}}), P::KeyVersion { latest }),
            (json!({"keys": {"4": 1, "3": 3}}), P::KeyVersion { latest }),
            (json!({"keys": {"01": 1, "3": 3}}), P::KeyVersion { latest }),
            (json!({"keys": {"x": 1, "3": 3}}), P::KeyVersion { latest }),
            (json!({"keys": {"3": 0}}), P::CreationSecond(latest)),
            (json!({"keys": {"3": -3}}), P::CreationSecond(latest)),
            (json!({"keys": {"3": "2024"}}), P::CreationSecond(latest)),
            (json!({"keys": {"2": 2}}), P::LatestMissing(latest)),
            (json!({"keys": {}}), P::LatestMissing(latest)),
        ] {
            assert_eq!(check(&edits), Err(refused), "{edits}");
        }
    }

    #[test]
    fn a_version_that_is_sent_twice_is_refused() {
        let data = metadata().to_string().replace("\"2\":2", "\"2\":2,\"2\":9");
        let metadata: KeyMetadata = serde_json::from_str(&data).unwrap();
        let name = KeyName::parse("kubernetes-etcd").unwrap();
        let latest = vectors::version(3);
        assert_eq!(
            KeyProfile::check(&metadata, &name),
            Err(ProfileRefused::KeyVersion { latest })
        );
    }

    #[test]
    fn each_unsafe_setting_is_a_finding_with_its_impact() {
        use Impact::{ApiServerAvailability, CryptographicSafety};
        for (edits, code, impact) in [
            (
                json!({"type": "chacha20-poly1305"}),
                "unsupported_type",
                CryptographicSafety,
            ),
            (
                json!({"exportable": true}),
                "exportable",
                CryptographicSafety,
            ),
            (
                json!({"allow_plaintext_backup": true}),
                "plaintext_backup",
                CryptographicSafety,
            ),
            (json!({"derived": true}), "derived", CryptographicSafety),
            (
                json!({"convergent_encryption": true}),
                "convergent",
                CryptographicSafety,
            ),
            (
                json!({"deletion_allowed": true}),
                "deletion_allowed",
                ApiServerAvailability,
            ),
            (
                json!({"supports_encryption": false}),
                "encryption_unsupported",
                ApiServerAvailability,
            ),
            (
                json!({"supports_decryption": false}),
                "decryption_unsupported",
                ApiServerAvailability,
            ),
            (
                json!({"min_encryption_version": 4}),
                "min_encryption_version",
                ApiServerAvailability,
            ),
            (
                json!({"min_decryption_version": 4}),
                "min_decryption_version",
                ApiServerAvailability,
            ),
        ] {
            let Err(ProfileRefused::Findings(findings)) = check(&edits) else {
                panic!("{edits} passed")
            };
            let found: Vec<_> = findings.iter().map(|f| (f.code(), f.impact())).collect();
            assert_eq!(found, [(code, impact)], "{edits}");
        }
    }

    #[test]
    fn all_findings_are_reported_together_also_for_a_foreign_key_type() {
        let public_keys = json!({"3": {"creation_time": "2024", "public_key": "…"}});
        let edits = json!({"type": "ed25519", "keys": public_keys, "deletion_allowed": true});
        let Err(ProfileRefused::Findings(findings)) = check(&edits) else {
            panic!("{edits} passed")
        };
        let codes: Vec<_> = findings.iter().map(Finding::code).collect();
        assert_eq!(codes, ["unsupported_type", "deletion_allowed"]);
    }

    #[test]
    fn missing_members_read_as_false_and_zero() {
        let metadata: KeyMetadata = serde_json::from_value(json!({})).unwrap();
        assert_eq!(metadata, KeyMetadata::default());
        let metadata: KeyMetadata =
            serde_json::from_value(json!({"latest_version": 1, "keys": {"1": 1}})).unwrap();
        let name = KeyName::parse("kubernetes-etcd").unwrap();
        let Err(ProfileRefused::Findings(findings)) = KeyProfile::check(&metadata, &name) else {
            panic!("passed")
        };
        let codes: Vec<_> = findings.iter().map(Finding::code).collect();
        assert_eq!(
            codes,
            [
                "unsupported_type",
                "encryption_unsupported",
                "decryption_unsupported"
            ]
        );
    }

    #[test]
    fn encryption_is_blocked_below_its_minimum_only() {
        let profile = check(&json!({"min_encryption_version": 3})).unwrap();
        assert!(profile.blocks_encryption(vectors::version(2)));
        assert!(!profile.blocks_encryption(vectors::version(3)));
        let profile = check(&json!({})).unwrap();
        assert!(!profile.blocks_encryption(TransitVersion::FIRST));
    }
}
