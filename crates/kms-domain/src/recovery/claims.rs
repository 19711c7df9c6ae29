//! The versions of the key that records and state files name, compared with the live key.
//!
//! A claim proves nothing about key material. It can disprove: a live version of the same number with
//! another creation second is a version of another key, and so is each later one. Earlier versions may
//! be the original ones, since a restored OpenBao whose key is rotated again differs in this way.

use std::sync::Arc;

use super::record::BackupRecord;
use crate::{
    key::TransitKey,
    registry::Registry,
    transit::{CreatedAt, KeyProfile, TransitVersion},
};

/// The versions that one record, state file or peer names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionClaims {
    /// The file, as reports name it.
    pub source: String,
    /// The versions, in any order.
    pub keys: Vec<Arc<TransitKey>>,
}

/// One number for two versions, so for two keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("version {version} was created at {recorded}, the live one at {live}")]
pub struct OtherSecond {
    /// The number.
    pub version: TransitVersion,
    /// In the claim.
    pub recorded: CreatedAt,
    /// In OpenBao.
    pub live: CreatedAt,
}

impl OtherSecond {
    /// Compares a claimed version with the live one of its number; `None` if they are equal or the
    /// live key does not list the number.
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
    /// The versions of a registry, whatever their state.
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

    /// The versions that the live key lists with another creation second. Each proves that the live
    /// key is another one from that version on.
    pub fn other_seconds(&self, profile: &KeyProfile) -> impl Iterator<Item = OtherSecond> {
        let keys = self.keys.iter();
        keys.filter_map(|key| OtherSecond::of(profile, key))
    }

    /// Whether a version shows that the live key is another one from that version on.
    #[must_use]
    pub fn contradicts(&self, profile: &KeyProfile) -> bool {
        self.other_seconds(profile).next().is_some()
    }

    /// Whether the live key lists at least one of the versions, and each that it lists with the same
    /// creation second.
    #[must_use]
    pub fn agrees(&self, profile: &KeyProfile) -> bool {
        let mut keys = self.keys.iter();
        let listed = keys.any(|key| profile.created_at(key.version()).is_some());
        listed && !self.contradicts(profile)
    }
}
