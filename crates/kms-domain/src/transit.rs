//! The Transit key: versions, creation seconds, metadata, and its checks.

use std::{fmt, num::NonZeroU64};

mod metadata;
mod profile;
mod version_problem;

pub use metadata::{KeyEntry, KeyMetadata, KeyVersions};
pub(crate) use profile::Sentences;
pub use profile::{Finding, Impact, KeyProfile, ProfileRefused};
pub use version_problem::VersionProblem;

/// A Transit key version: 1 to `i64::MAX`, the range of the state file and of Transit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TransitVersion(NonZeroU64);

impl TransitVersion {
    /// The first version of every key.
    pub const FIRST: Self = Self(NonZeroU64::MIN);

    /// Returns `None` outside 1 to `i64::MAX`.
    #[must_use]
    pub fn new(number: u64) -> Option<Self> {
        let in_range = i64::try_from(number).is_ok();
        NonZeroU64::new(number).filter(|_| in_range).map(Self)
    }

    /// Parses the canonical decimal spelling: digits only, without leading zeros.
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

/// Creation time of a Transit version, in whole Unix seconds: 1 to `i64::MAX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CreatedAt(NonZeroU64);

impl CreatedAt {
    /// Returns `None` outside 1 to `i64::MAX` seconds.
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

    /// For people.
    #[must_use]
    pub fn utc(self) -> Utc {
        Utc(self.get())
    }
}

/// Unix seconds, shown as RFC 3339 in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Utc(pub u64);

impl fmt::Display for Utc {
    /// The date is counted in years that begin in March, so that a leap day is the last of a year.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DAY: u64 = 86_400;
        // Four centuries, and the days from March of the year 0 to 1970.
        const ERA: u64 = 146_097;
        const EPOCH: u64 = 719_468;
        let (days, second) = (self.0 / DAY + EPOCH, self.0 % DAY);
        let (era, of_era) = (days / ERA, days % ERA);
        let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year + year / 4 - year / 100);
        let march = (5 * of_year + 2) / 153;
        let day = of_year - (153 * march + 2) / 5 + 1;
        let month = if march < 10 { march + 3 } else { march - 9 };
        let year = era * 400 + year + u64::from(month <= 2);
        let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z"
        )
    }
}

impl fmt::Display for CreatedAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_shown_as_a_date() {
        for (seconds, date) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_700_000_000, "2023-11-14T22:13:20Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(Utc(seconds).to_string(), date);
        }
    }
}
