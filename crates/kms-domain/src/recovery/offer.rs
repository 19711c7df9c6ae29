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

/// Longest time from a snapshot to its record, in seconds. A later record lists the versions of an
/// OpenBao that was possibly restored in between, with versions that were trimmed in the snapshot.
pub const RECORDED_WITHIN: u64 = 3600;

/// Facts about an OpenBao snapshot.
#[derive(Debug, Clone, Copy)]
pub struct SnapshotFacts<'r> {
    /// Creation time in the archive.
    pub created: Option<CreatedAt>,
    /// A record with the hash of this snapshot, and the second of its `recordedAt`.
    pub record: Option<(&'r BackupRecord, u64)>,
}

/// Whether a snapshot has a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer {
    /// The record of the same hour lists the version as decryptable, and the version is older than the
    /// snapshot.
    Offered,
    /// The version was created after the snapshot, and the record does not list it.
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
        let listed = self.record.is_some_and(|(record, recorded)| {
            let is_prompt = snapshot <= recorded.saturating_add(SKEW)
                && recorded <= snapshot.saturating_add(RECORDED_WITHIN);
            let versions = record.note().versions.values();
            let mut listed = versions.filter(|it| it.decryptable);
            is_prompt && listed.any(|it| *it.key == *version)
        });
        // A version that exists soon after the snapshot, and was created before it, existed in it.
        match listed {
            true if created.saturating_add(SKEW) < snapshot => Offer::Offered,
            // The record contradicts the times: OpenBao's clock was wrong at one of them.
            false if created > snapshot.saturating_add(SKEW) => Offer::Missing,
            _ => Offer::Unknown,
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

    fn offer(snapshot: Option<u64>, record: Option<(&BackupRecord, u64)>, number: u64) -> Offer {
        let named = self::record(true);
        let key = &named.note().versions[&version(number)].key;
        let facts = SnapshotFacts {
            created: snapshot.map(created_at),
            record,
        };
        facts.offer(key)
    }

    #[test]
    fn a_version_is_in_a_snapshot_by_a_prompt_record_and_the_order_in_time() {
        let record = record(true);
        for (snapshot, recorded, number, expected) in [
            (Some(1_000), Some(1_000), 400, Offer::Offered),
            (Some(1_000), None, 400, Offer::Unknown),
            (Some(700), Some(700), 400, Offer::Unknown),
            (Some(701), Some(701), 400, Offer::Offered),
            (Some(100), Some(100), 400, Offer::Unknown),
            (Some(99), None, 400, Offer::Missing),
            (None, Some(1_000), 400, Offer::Unknown),
            // A trimmed version possibly returned before the record.
            (Some(1_000), Some(4_600), 400, Offer::Offered),
            (Some(1_000), Some(4_601), 400, Offer::Unknown),
            (Some(1_000), Some(700), 400, Offer::Offered),
            (Some(1_000), Some(699), 400, Offer::Unknown),
            // The clock was ahead at the rotation, or the rotation came before the record.
            (Some(99), Some(99), 400, Offer::Unknown),
            (Some(99), Some(3_700), 400, Offer::Missing),
        ] {
            let with = recorded.map(|recorded| (&record, recorded));
            let case = (snapshot, recorded);
            assert_eq!(offer(snapshot, with, number), expected, "{case:?}");
        }
        let hidden = self::record(false);
        let with = Some((&hidden, 1_000));
        assert_eq!(offer(Some(1_000), with, 400), Offer::Unknown);
    }

    #[test]
    fn a_pair_matches_only_if_every_need_is_known_and_offered() {
        let record = record(true);
        let key = |number| &*record.note().versions[&version(number)].key;
        let judge = |snapshot, known: Vec<&TransitKey>, has_unknown| {
            let facts = SnapshotFacts {
                created: Some(created_at(snapshot)),
                record: Some((&record, snapshot)),
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
        let facts = SnapshotFacts {
            created: Some(created_at(500)),
            record: None,
        };
        let needs = Needs {
            known: vec![key(400), key(900)],
            has_unknown: true,
        };
        assert_eq!(facts.judge(&needs).0, Match::Incompatible);
    }
}
