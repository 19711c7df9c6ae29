//! What may be known of the Transit key: versions, creation seconds, metadata, its checks.

use std::{fmt, num::NonZeroU64};

mod coverage;
mod metadata;
mod profile;

pub use coverage::{RegistryConflict, VersionProblem};
pub use metadata::{KeyEntry, KeyMetadata, KeyVersions};
pub(crate) use profile::Sentences;
pub use profile::{Finding, Impact, KeyProfile, ProfileRefused};

/// A Transit key version: 1 to `i64::MAX`, the range of the state file and of Transit itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TransitVersion(NonZeroU64);

impl TransitVersion {
    /// The first version of every key.
    pub const FIRST: Self = Self(NonZeroU64::MIN);

    /// `None` outside 1 to `i64::MAX`.
    #[must_use]
    pub fn new(number: u64) -> Option<Self> {
        let in_range = i64::try_from(number).is_ok();
        NonZeroU64::new(number).filter(|_| in_range).map(Self)
    }

    /// Reads the one decimal spelling: digits only, no leading zero.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let canonical = text.bytes().all(|c| c.is_ascii_digit()) && !text.starts_with('0');
        text.parse().ok().filter(|_| canonical).and_then(Self::new)
    }

    /// The number, at least 1.
    #[must_use]
    pub fn get(self) -> u64 {
        self.0.get()
    }
}

impl fmt::Display for TransitVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// When a Transit version was made, in whole seconds after the Unix epoch: 1 to `i64::MAX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CreatedAt(NonZeroU64);

impl CreatedAt {
    /// `None` outside 1 to `i64::MAX` seconds.
    #[must_use]
    pub fn new(seconds: u64) -> Option<Self> {
        let in_range = i64::try_from(seconds).is_ok();
        NonZeroU64::new(seconds).filter(|_| in_range).map(Self)
    }

    /// Unix seconds, at least 1.
    #[must_use]
    pub fn get(self) -> u64 {
        self.0.get()
    }
}

impl fmt::Display for CreatedAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
