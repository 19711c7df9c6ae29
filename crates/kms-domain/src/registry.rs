//! The key versions known to this node: exactly one active, at most one pending, the others
//! retired, removed or rejected.
//! Implements `docs/format/state-document.md` section 3.
//!
//! Every constructed registry is valid. [`Registry::lookup`] alone returns a [`DecryptKey`], and
//! only for active, pending and retired versions.

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    key::{KeyScope, TransitKey},
    key_id::KeyId,
    transit::TransitVersion,
};

mod bookkeeping;
pub mod checkpoint;
mod coverage;
pub mod document;
pub mod retire;
pub mod rotation;

use bookkeeping::StepClock;
pub use bookkeeping::{Bookkeeping, BookkeepingProblem, ClockRegression};
pub use coverage::RegistryConflict;

/// Every known version. The order is that of the document, whose hash covers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registry {
    records: Vec<Record>,
    active: Arc<TransitKey>,
}

/// One version and its history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The version in the scope of the registry.
    pub key: Arc<TransitKey>,
    /// Permitted use.
    pub state: RecordState,
    /// Times and counts of its history.
    pub bookkeeping: Bookkeeping,
}

/// Permitted use of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordState {
    /// Status and Encrypt use it; exactly one.
    Active,
    /// Discovered, and waiting for promotion; at most one. Decrypts, since a peer may be ahead.
    Pending,
    /// An earlier or skipped version that still decrypts.
    Retired,
    /// Recorded by other writers of the format; unusable.
    Rejected,
    /// Removed by the operator; remains as a tombstone.
    Removed,
}

/// The decryptable versions up to the active one. Nodes with the same active version have equal
/// values, unless versions were retired on one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Readable {
    /// The lowest version.
    pub oldest: TransitVersion,
    /// Number of versions, including the active one.
    pub count: u64,
}

/// Permission to decrypt with a version; returned only by [`Registry::lookup`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecryptKey(Arc<TransitKey>);

/// Permission to probe a version: the active one, or a candidate for promotion. It permits only the
/// probe's own round trip with
/// [`AssociatedData::status_probe`](crate::aad::AssociatedData::status_probe), and no encryption of
/// stored objects:
///
/// ```compile_fail,E0308
/// use kms_domain::{annotations::PluginVersion, prepare::prepare_encrypt, registry::ProbeKey};
///
/// fn encrypt_before_the_promotion(candidate: &ProbeKey, plugin_version: &PluginVersion) {
///     prepare_encrypt(candidate, plugin_version);
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeKey(Arc<TransitKey>);

/// Result of a lookup of a well-formed `key_id`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup {
    /// Active, pending or retired.
    Known(DecryptKey),
    /// Removed or rejected: refused as unknown, without discovery.
    Disabled,
    /// Absent from the registry; the only case for discovery.
    Unknown,
}

/// Rule violated by a set of records.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistryProblem {
    /// Two records have the same Transit version, with equal or different `key_id`s.
    #[error("Transit version {0} has more than one record")]
    DuplicateVersion(TransitVersion),
    /// There is no version to encrypt with.
    #[error("no record is active")]
    NoneActive,
    /// The version to encrypt with is ambiguous.
    #[error("Transit versions {0} and {1} are both active")]
    SeveralActive(TransitVersion, TransitVersion),
    /// Only the newest version can be pending.
    #[error("Transit versions {0} and {1} are both pending")]
    SeveralPending(TransitVersion, TransitVersion),
    /// The records belong to two configurations.
    #[error("Transit version {0} has another identity scope than the first record")]
    IdentityMismatch(TransitVersion),
}

impl Registry {
    /// Checks the rules between records and keeps their order.
    ///
    /// # Errors
    /// [`RegistryProblem`]. A version has one `key_id` per scope, so distinct versions imply
    /// distinct key_ids.
    pub(crate) fn new(records: Vec<Record>) -> Result<Self, RegistryProblem> {
        let active = only(
            &records,
            RecordState::Active,
            RegistryProblem::SeveralActive,
        )?
        .ok_or(RegistryProblem::NoneActive)?;
        let active = Arc::clone(active);
        only(
            &records,
            RecordState::Pending,
            RegistryProblem::SeveralPending,
        )?;

        let mut versions = BTreeSet::new();
        for Record { key, .. } in &records {
            if !versions.insert(key.version()) {
                return Err(RegistryProblem::DuplicateVersion(key.version()));
            }
            if key.scope() != active.scope() {
                return Err(RegistryProblem::IdentityMismatch(key.version()));
            }
        }

        Ok(Self { records, active })
    }

    /// A registry of one version, active since `now` (Unix seconds).
    pub(crate) fn first(key: TransitKey, now: u64) -> Self {
        let active = Arc::new(key);
        let record = Record {
            key: Arc::clone(&active),
            state: RecordState::Active,
            bookkeeping: Bookkeeping::first(&StepClock::new(now)),
        };
        Self {
            records: vec![record],
            active,
        }
    }

    /// All records in document order.
    #[must_use]
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// The scope of every record.
    #[must_use]
    pub fn scope(&self) -> &Arc<KeyScope> {
        self.active.scope()
    }

    /// The active version. [`health`](crate::health) grants the permission to encrypt with it.
    #[must_use]
    pub fn active(&self) -> &Arc<TransitKey> {
        &self.active
    }

    /// The active version, for the deep probe.
    #[must_use]
    pub fn probe_key(&self) -> ProbeKey {
        ProbeKey(Arc::clone(&self.active))
    }

    /// The version that waits for promotion.
    #[must_use]
    pub fn pending(&self) -> Option<&Record> {
        self.records
            .iter()
            .find(|record| record.state == RecordState::Pending)
    }

    /// The versions that must stay decryptable: active, pending and retired ones.
    pub fn retained(&self) -> impl Iterator<Item = &Record> {
        self.records
            .iter()
            .filter(|record| record.state.is_retained())
    }

    /// The range of versions up to the active one that this node reads.
    #[must_use]
    pub fn readable(&self) -> Readable {
        let active = self.active.version();
        let versions = self.retained().map(|record| record.key.version());
        let upto_active = versions.filter(|version| *version <= active);
        upto_active.fold(
            Readable {
                oldest: active,
                count: 0,
            },
            |readable, version| Readable {
                oldest: readable.oldest.min(version),
                count: readable.count + 1,
            },
        )
    }

    /// Looks up the permission to decrypt under `key_id`.
    #[must_use]
    pub fn lookup(&self, key_id: &KeyId) -> Lookup {
        match self.records.iter().find(|record| record.key.id() == key_id) {
            Some(record) if record.state.is_retained() => {
                Lookup::Known(DecryptKey(Arc::clone(&record.key)))
            }
            Some(_) => Lookup::Disabled,
            None => Lookup::Unknown,
        }
    }
}

impl RecordState {
    /// Whether data under this version must stay readable.
    #[must_use]
    pub fn is_retained(self) -> bool {
        match self {
            Self::Active | Self::Pending | Self::Retired => true,
            Self::Rejected | Self::Removed => false,
        }
    }

    /// The name in the state document and in reports.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Pending => "pending",
            Self::Retired => "retired",
            Self::Rejected => "rejected",
            Self::Removed => "removed",
        }
    }

    pub(crate) fn parse(word: &str) -> Option<Self> {
        [
            Self::Active,
            Self::Pending,
            Self::Retired,
            Self::Rejected,
            Self::Removed,
        ]
        .into_iter()
        .find(|state| state.as_str() == word)
    }
}

impl DecryptKey {
    /// The permitted version.
    #[must_use]
    pub fn key(&self) -> &TransitKey {
        &self.0
    }

    /// The same key without the permission.
    #[must_use]
    pub fn shared(&self) -> Arc<TransitKey> {
        Arc::clone(&self.0)
    }
}

impl ProbeKey {
    /// The version to probe.
    #[must_use]
    pub fn version(&self) -> TransitVersion {
        self.0.version()
    }
}

/// The only key in `state`, if any.
fn only(
    records: &[Record],
    state: RecordState,
    several: fn(TransitVersion, TransitVersion) -> RegistryProblem,
) -> Result<Option<&Arc<TransitKey>>, RegistryProblem> {
    let mut keys = records
        .iter()
        .filter(|record| record.state == state)
        .map(|record| &record.key);
    match (keys.next(), keys.next()) {
        (Some(first), Some(second)) => Err(several(first.version(), second.version())),
        (first, _) => Ok(first),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors;

    #[test]
    fn only_retained_versions_decrypt() {
        let registry = vectors::registry(&[
            (5, RecordState::Pending),
            (4, RecordState::Active),
            (3, RecordState::Retired),
            (2, RecordState::Removed),
            (1, RecordState::Rejected),
        ]);
        for record in registry.records() {
            let lookup = registry.lookup(record.key.id());
            match record.state {
                RecordState::Active | RecordState::Pending | RecordState::Retired => {
                    let Lookup::Known(found) = lookup else {
                        panic!("{record:?} gave {lookup:?}")
                    };
                    assert_eq!(found.key(), &*record.key);
                }
                RecordState::Removed | RecordState::Rejected => {
                    assert_eq!(lookup, Lookup::Disabled);
                }
            }
        }
        let foreign = vectors::key("with a namespace");
        assert_eq!(registry.lookup(foreign.id()), Lookup::Unknown);
        assert_eq!(registry.active().version(), vectors::version(4));
        assert_eq!(
            registry.pending().map(|record| record.key.version()),
            Some(vectors::version(5))
        );
        assert_eq!(registry.retained().count(), 3);
        let readable = Readable {
            oldest: vectors::version(3),
            count: 2,
        };
        assert_eq!(registry.readable(), readable);
    }
}
