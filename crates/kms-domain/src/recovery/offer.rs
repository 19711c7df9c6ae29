//! Versions of the key in an OpenBao snapshot, judged without any key of OpenBao.
//!
//! The content of a snapshot is encrypted. Two facts stand outside: its creation time, and a backup
//! record with its hash. Whatever they leave open stays open: only a decryption proves a pair.

use std::collections::BTreeSet;

use super::record::BackupRecord;
use crate::{
    key::TransitKey,
    transit::{CreatedAt, TransitVersion},
};

/// Largest difference between the clocks of OpenBao servers, in seconds. Within it, the order of a
/// rotation and a snapshot is open.
const SKEW: u64 = 300;

/// Facts about an OpenBao snapshot.
#[derive(Debug, Clone, Copy)]
pub struct SnapshotFacts<'r> {
    /// Creation time in the archive.
    pub created: Option<CreatedAt>,
    /// A record with the hash of this snapshot, written after it.
    pub record: Option<&'r BackupRecord>,
}

/// Whether a snapshot has a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer {
    /// The record lists the version as decryptable, and the version is older than the snapshot.
    Offered,
    /// The version was created after the snapshot.
    Missing,
    /// The facts do not decide.
    Unknown,
}

/// Relation of an etcd snapshot and an OpenBao snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Match {
    /// The record of the OpenBao snapshot offers all versions that the etcd snapshot needs.
    Matching,
    /// The etcd snapshot needs a version that was created after the OpenBao snapshot.
    Incompatible,
    /// The facts do not decide.
    Inconclusive,
}

impl Match {
    /// Word of reports.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Matching => "matching",
            Self::Incompatible => "incompatible",
            Self::Inconclusive => "inconclusive",
        }
    }
}

/// Versions that an etcd snapshot needs.
#[derive(Debug, Clone, Default)]
pub struct Needs<'k> {
    /// Versions that a record or a state names with their creation second.
    pub known: Vec<&'k TransitKey>,
    /// Whether objects or damaged values exist that no known version explains.
    pub has_unknown: bool,
}

impl SnapshotFacts<'_> {
    /// Whether the snapshot has this version.
    #[must_use]
    pub fn offer(&self, version: &TransitKey) -> Offer {
        let Some(snapshot) = self.created.map(CreatedAt::get) else {
            return Offer::Unknown;
        };
        let created = version.created_at().get();
        if created > snapshot.saturating_add(SKEW) {
            return Offer::Missing;
        }
        // A version that exists after the snapshot, and was created before it, existed in it: a trimmed
        // version never returns.
        let listed = self.record.is_some_and(|record| {
            let versions = record.note().versions.values();
            let mut listed = versions.filter(|it| it.decryptable);
            listed.any(|it| *it.key == *version)
        });
        match listed && created.saturating_add(SKEW) < snapshot {
            true => Offer::Offered,
            false => Offer::Unknown,
        }
    }

    /// Judges a pair, and names the versions that are missing and those that are open.
    #[must_use]
    pub fn judge(
        &self,
        needs: &Needs<'_>,
    ) -> (Match, BTreeSet<TransitVersion>, BTreeSet<TransitVersion>) {
        let (mut missing, mut open) = (BTreeSet::new(), BTreeSet::new());
        for version in &needs.known {
            match self.offer(version) {
                Offer::Offered => false,
                Offer::Missing => missing.insert(version.version()),
                Offer::Unknown => open.insert(version.version()),
            };
        }
        let verdict = if !missing.is_empty() {
            Match::Incompatible
        } else if needs.known.is_empty() || needs.has_unknown || !open.is_empty() {
            Match::Inconclusive
        } else {
            Match::Matching
        };
        (verdict, missing, open)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        recovery::record::tests::noted,
        registry::RecordState,
        vectors::{created_at, version},
    };

    /// Version `n` was created at second `n`.
    fn record(decryptable: bool) -> BackupRecord {
        let mut note = noted(&[(1, Some(RecordState::Active)), (400, None), (900, None)]);
        for version in note.versions.values_mut() {
            version.decryptable = decryptable;
        }
        BackupRecord::new(note).unwrap()
    }

    fn offer(snapshot: Option<u64>, record: Option<&BackupRecord>, number: u64) -> Offer {
        let named = self::record(true);
        let key = &named.note().versions[&version(number)].key;
        let facts = SnapshotFacts {
            created: snapshot.map(created_at),
            record,
        };
        facts.offer(key)
    }

    #[test]
    fn a_version_is_in_a_snapshot_by_a_record_and_the_order_in_time() {
        let record = record(true);
        for (snapshot, with_record, number, expected) in [
            (Some(1_000), true, 400, Offer::Offered),
            (Some(1_000), false, 400, Offer::Unknown),
            (Some(700), true, 400, Offer::Unknown),
            (Some(701), true, 400, Offer::Offered),
            (Some(100), true, 400, Offer::Unknown),
            (Some(99), true, 400, Offer::Missing),
            (Some(99), false, 400, Offer::Missing),
            (None, true, 400, Offer::Unknown),
        ] {
            let record = with_record.then_some(&record);
            assert_eq!(offer(snapshot, record, number), expected, "{snapshot:?}");
        }
        let hidden = self::record(false);
        assert_eq!(offer(Some(1_000), Some(&hidden), 400), Offer::Unknown);
    }

    #[test]
    fn a_pair_matches_only_if_every_need_is_known_and_offered() {
        let record = record(true);
        let key = |number| &*record.note().versions[&version(number)].key;
        let judge = |snapshot, known: Vec<&TransitKey>, has_unknown| {
            let facts = SnapshotFacts {
                created: Some(created_at(snapshot)),
                record: Some(&record),
            };
            facts.judge(&Needs { known, has_unknown }).0
        };
        assert_eq!(judge(1_000, vec![key(1), key(400)], false), Match::Matching);
        assert_eq!(
            judge(1_000, vec![key(1), key(900)], false),
            Match::Inconclusive
        );
        assert_eq!(judge(1_000, vec![key(1)], true), Match::Inconclusive);
        assert_eq!(judge(1_000, Vec::new(), false), Match::Inconclusive);
        // A missing version is lost, whatever else is open.
        assert_eq!(
            judge(500, vec![key(400), key(900)], true),
            Match::Incompatible
        );
    }
}
