//! Versions of the key that records and state files name, compared with the live key.
//!
//! A claim is no proof of key material, but it can disprove: if a live version has the claimed
//! number and another creation second, it and each later version belong to another key. Earlier
//! versions may be the original ones, because a restored OpenBao differs in the same way once its
//! key is rotated.

use std::sync::Arc;

use super::record::BackupRecord;
use crate::{
    key::TransitKey,
    registry::Registry,
    transit::{CreatedAt, KeyProfile, TransitVersion},
};

/// The versions named by one record, state file or peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionClaims {
    /// Name of the source in reports.
    pub source: String,
    /// The versions, in any order.
    pub keys: Vec<Arc<TransitKey>>,
}

/// One version number with two creation seconds, so two keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "version {version} was created at {}, the live one at {}", .recorded.utc(), .live.utc()
)]
pub struct OtherSecond {
    /// The number.
    pub version: TransitVersion,
    /// Creation second in the claim.
    pub recorded: CreatedAt,
    /// Creation second in OpenBao.
    pub live: CreatedAt,
}

impl OtherSecond {
    /// Compares a claimed version with the live one of its number. Returns `None` if they are equal
    /// or the live key does not list the number.
    #[must_use]
    pub fn of(profile: &KeyProfile, claimed: &TransitKey) -> Option<Self> {
        let (version, recorded) = (claimed.version(), claimed.created_at());
        let live = profile.created_at(version)?;
        (live != recorded).then_some(Self {
            version,
            recorded,
            live,
        })
    }
}

impl VersionClaims {
    /// All versions of a registry, in any state.
    #[must_use]
    pub fn of_registry(source: impl Into<String>, registry: &Registry) -> Self {
        let records = registry.records().iter();
        Self {
            source: source.into(),
            keys: records.map(|record| Arc::clone(&record.key)).collect(),
        }
    }

    /// The versions of a backup record.
    #[must_use]
    pub fn of_record(source: impl Into<String>, record: &BackupRecord) -> Self {
        let versions = record.note().versions.values();
        Self {
            source: source.into(),
            keys: versions.map(|version| Arc::clone(&version.key)).collect(),
        }
    }

    /// The versions that the live key lists with another creation second. From the lowest of them
    /// on, the live key is another key.
    pub fn other_seconds(&self, profile: &KeyProfile) -> impl Iterator<Item = OtherSecond> {
        let keys = self.keys.iter();
        keys.filter_map(|key| OtherSecond::of(profile, key))
    }

    /// Whether at least one version has another creation second in the live key.
    #[must_use]
    pub fn contradicts(&self, profile: &KeyProfile) -> bool {
        self.other_seconds(profile).next().is_some()
    }

    /// Whether the live key lists at least one of the versions, and all that it lists have the
    /// claimed creation second.
    #[must_use]
    pub fn agrees(&self, profile: &KeyProfile) -> bool {
        let mut keys = self.keys.iter();
        let listed = keys.any(|key| profile.created_at(key.version()).is_some());
        listed && !self.contradicts(profile)
    }
}
