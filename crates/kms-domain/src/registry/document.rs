//! The persisted form of a registry: its schema, its generation and its place in a hash chain.
//! Implements `docs/format/state-document.md` sections 1 to 4.
//!
//! Every constructed [`Document`] has been checked completely. Its
//! [`checkpoint`](super::checkpoint) decides whether it is the newest one, its
//! [`fingerprint`](crate::fingerprint) whether it belongs to this configuration.

use std::{num::NonZeroU64, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{Record, RecordState, Registry, RegistryProblem};
use crate::{
    digest::{MalformedDigest, digest_type},
    fingerprint::IdentityFingerprint,
    json::{self, JsonProblem},
    key_id::KeyId,
    schema::{self, LEGACY_STATE as LEGACY_SCHEMA, NewerSchema, STATE as SCHEMA},
};

mod progress;
mod record;

pub use progress::ProgressProblem;
pub(super) use progress::Retention;
pub use record::RecordProblem;
use record::{RawRecord, read_records};

/// Maximum size of a state or checkpoint file; larger files are refused unread. A record has less
/// than 1 KiB.
pub const MAX_FILE_BYTES: usize = 4 * 1024 * 1024;

digest_type!(
    /// `krs1.` and the digest of a document's content.
    StateHash,
    "krs1."
);

/// The number of a document in its chain, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Generation(NonZeroU64);

/// A registry, the fingerprint of its configuration, and its link to the previous document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// `None` in the legacy schema.
    fingerprint: Option<IdentityFingerprint>,
    generation: Generation,
    previous_hash: Option<StateHash>,
    hash: StateHash,
    registry: Arc<Registry>,
}

/// Error of a state file. All except a schema of another release mean corruption.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// Larger than [`MAX_FILE_BYTES`].
    #[error("the state document has {0} bytes or more, beyond the limit of {MAX_FILE_BYTES}")]
    TooLarge(usize),
    /// Invalid JSON of this format.
    #[error("the state document cannot be read")]
    Json(#[source] JsonProblem),
    /// Written before states were bound to a configuration; [`Document::decode_legacy`] reads it.
    #[error(
        "the state document has the schema {LEGACY_SCHEMA} of a preview, which is not bound to a \
         configuration; bound state ({SCHEMA}) is required"
    )]
    LegacySchema,
    /// A newer release wrote the file; it is intact, and that release reads it.
    #[error("the state document was {0}")]
    NewerRelease(NewerSchema),
    /// The schema of another format.
    #[error("the state document has the schema {0:?} instead of {SCHEMA:?}")]
    OtherFormat(String),
    /// The legacy schema has no `identityFingerprint`.
    #[error("a state document of the schema {LEGACY_SCHEMA} must not have an identityFingerprint")]
    LegacyFingerprint,
    /// `identityFingerprint` is malformed.
    #[error("identityFingerprint is malformed")]
    Fingerprint(#[source] MalformedDigest),
    /// `generation` is 0.
    #[error("generation must be at least 1")]
    Generation,
    /// `activeKeyId` is malformed.
    #[error("activeKeyId is malformed")]
    ActiveKeyId(#[source] MalformedDigest),
    /// `snapshots` is empty.
    #[error("snapshots must hold at least one record")]
    NoRecords,
    /// `previousHash` is malformed.
    #[error("previousHash is malformed")]
    PreviousHash(#[source] MalformedDigest),
    /// The first document must omit it.
    #[error("generation 1 must not have a previousHash")]
    UnexpectedPreviousHash,
    /// Every later document must have it.
    #[error("generation {0} must have a previousHash")]
    MissingPreviousHash(Generation),
    /// `currentHash` is malformed.
    #[error("currentHash is malformed")]
    CurrentHash(#[source] MalformedDigest),
    /// The content was changed after it was hashed.
    #[error("currentHash is {stated}, but the content has the hash {computed}: it was changed")]
    HashMismatch {
        /// The hash in the document.
        stated: StateHash,
        /// The hash of its content.
        computed: StateHash,
    },
    /// A record violates a rule.
    #[error("snapshots[{index}] is invalid")]
    Record {
        /// The position, from 0.
        index: usize,
        /// The violated rule.
        #[source]
        problem: RecordProblem,
    },
    /// The records contradict each other.
    #[error("the records contradict each other")]
    Registry(#[source] RegistryProblem),
    /// `activeKeyId` names a record in another state, or none.
    #[error("activeKeyId names {}", match state {
        Some(state) => format!("a record whose state is {}", state.as_str()),
        None => "no record".to_owned(),
    })]
    NotActive {
        /// The state of the named record, if it exists.
        state: Option<RecordState>,
    },
}

impl Document {
    /// Decodes and checks a state file. White space between tokens is ignored; otherwise only the
    /// canonical spelling is accepted.
    ///
    /// # Errors
    /// [`DocumentError`], the first in the order of `docs/format/state-document.md` section 4.
    pub fn decode(bytes: &[u8]) -> Result<Self, DocumentError> {
        if bytes.len() > MAX_FILE_BYTES {
            return Err(DocumentError::TooLarge(bytes.len()));
        }

        schema::refuse_newer(bytes).map_err(DocumentError::NewerRelease)?;
        let raw: RawDocument = json::read(bytes).map_err(DocumentError::Json)?;
        match raw.schema_version.as_str() {
            SCHEMA => {}
            LEGACY_SCHEMA => return Err(DocumentError::LegacySchema),
            _ => return Err(DocumentError::OtherFormat(raw.schema_version)),
        }

        let fingerprint = IdentityFingerprint::parse(&raw.identity_fingerprint)
            .map_err(DocumentError::Fingerprint)?;
        Self::check(raw, Some(fingerprint))
    }

    /// Like [`decode`](Self::decode), for the schema of a preview: the same without a fingerprint. It
    /// is evidence of the versions in use; no provider starts with it.
    ///
    /// # Errors
    /// [`DocumentError`], also for any other schema.
    pub fn decode_legacy(bytes: &[u8]) -> Result<Self, DocumentError> {
        if bytes.len() > MAX_FILE_BYTES {
            return Err(DocumentError::TooLarge(bytes.len()));
        }
        let raw: RawDocument = json::read(bytes).map_err(DocumentError::Json)?;
        if raw.schema_version != LEGACY_SCHEMA {
            return Err(DocumentError::OtherFormat(raw.schema_version));
        }
        match raw.identity_fingerprint.is_empty() {
            true => Self::check(raw, None),
            false => Err(DocumentError::LegacyFingerprint),
        }
    }

    fn check(
        mut raw: RawDocument,
        fingerprint: Option<IdentityFingerprint>,
    ) -> Result<Self, DocumentError> {
        let generation = Generation::new(raw.generation).ok_or(DocumentError::Generation)?;
        let active_key_id = KeyId::parse(&raw.active_key_id).map_err(DocumentError::ActiveKeyId)?;
        if raw.snapshots.is_empty() {
            return Err(DocumentError::NoRecords);
        }

        let previous_hash = (!raw.previous_hash.is_empty())
            .then(|| StateHash::parse(&raw.previous_hash))
            .transpose()
            .map_err(DocumentError::PreviousHash)?;
        match (&previous_hash, generation) {
            (Some(_), Generation::FIRST) => return Err(DocumentError::UnexpectedPreviousHash),
            (None, later) if later != Generation::FIRST => {
                return Err(DocumentError::MissingPreviousHash(later));
            }
            _ => {}
        }

        let stated = StateHash::parse(&std::mem::take(&mut raw.current_hash))
            .map_err(DocumentError::CurrentHash)?;
        let computed = raw.content_hash();
        if stated != computed {
            return Err(DocumentError::HashMismatch { stated, computed });
        }

        let records = read_records(&raw.snapshots)
            .map_err(|(index, problem)| DocumentError::Record { index, problem })?;
        let registry = Registry::new(records).map_err(DocumentError::Registry)?;

        if registry.active().id() != &active_key_id {
            let named = |record: &&Record| record.key.id() == &active_key_id;
            return Err(DocumentError::NotActive {
                state: registry
                    .records()
                    .iter()
                    .find(named)
                    .map(|record| record.state),
            });
        }

        Ok(Self {
            fingerprint,
            generation,
            previous_hash,
            hash: stated,
            registry: Arc::new(registry),
        })
    }

    /// Encodes the state file.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut raw = RawDocument::of(
            self.fingerprint.as_ref(),
            self.generation,
            self.previous_hash.as_ref(),
            &self.registry,
        );
        raw.current_hash = self.hash.to_string();
        json::indented(&raw)
    }

    /// Fingerprint of the document's configuration; `None` in the legacy schema.
    #[must_use]
    pub fn fingerprint(&self) -> Option<&IdentityFingerprint> {
        self.fingerprint.as_ref()
    }

    /// Its number in the chain.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// The hash of the previous document; `None` only for generation 1.
    #[must_use]
    pub fn previous_hash(&self) -> Option<&StateHash> {
        self.previous_hash.as_ref()
    }

    /// The hash of everything else in the document.
    #[must_use]
    pub fn hash(&self) -> &StateHash {
        &self.hash
    }

    /// The records, shared because readers keep them across a commit.
    #[must_use]
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// The first document of a chain.
    pub(crate) fn first(fingerprint: IdentityFingerprint, registry: Registry) -> Self {
        Self::link(Some(fingerprint), Generation::FIRST, None, registry)
    }

    /// A first document in the legacy schema.
    #[cfg(test)]
    pub(crate) fn unbound(registry: Registry) -> Self {
        Self::link(None, Generation::FIRST, None, registry)
    }

    fn link(
        fingerprint: Option<IdentityFingerprint>,
        generation: Generation,
        previous_hash: Option<StateHash>,
        registry: Registry,
    ) -> Self {
        let raw = RawDocument::of(
            fingerprint.as_ref(),
            generation,
            previous_hash.as_ref(),
            &registry,
        );
        let hash = raw.content_hash();
        Self {
            fingerprint,
            generation,
            previous_hash,
            hash,
            registry: Arc::new(registry),
        }
    }
}

impl Generation {
    /// The generation of a document without a predecessor.
    pub const FIRST: Self = Self(NonZeroU64::MIN);

    /// `None` for 0.
    #[must_use]
    pub fn new(number: u64) -> Option<Self> {
        NonZeroU64::new(number).map(Self)
    }

    /// The number, at least 1.
    #[must_use]
    pub fn get(self) -> u64 {
        self.0.get()
    }
}

impl std::fmt::Display for Generation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// The members in hashing and writing order.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawDocument {
    schema_version: String,
    /// Missing in the legacy schema, which has an error of its own.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    identity_fingerprint: String,
    generation: u64,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    previous_hash: String,
    /// Empty in the hash body, which must omit it.
    #[serde(skip_serializing_if = "String::is_empty")]
    current_hash: String,
    active_key_id: String,
    snapshots: Vec<RawRecord>,
}

impl RawDocument {
    fn of(
        fingerprint: Option<&IdentityFingerprint>,
        generation: Generation,
        previous_hash: Option<&StateHash>,
        registry: &Registry,
    ) -> Self {
        Self {
            schema_version: match fingerprint {
                Some(_) => SCHEMA.to_owned(),
                None => LEGACY_SCHEMA.to_owned(),
            },
            identity_fingerprint: fingerprint.map(ToString::to_string).unwrap_or_default(),
            generation: generation.get(),
            previous_hash: previous_hash.map(StateHash::to_string).unwrap_or_default(),
            current_hash: String::new(),
            active_key_id: registry.active().id().to_string(),
            snapshots: registry.records().iter().map(RawRecord::of).collect(),
        }
    }

    /// Hash over all members but `currentHash`, which must still be empty.
    fn content_hash(&self) -> StateHash {
        StateHash::of_bytes(json::compact(self).as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        key::{KeyScope, TransitKey},
        registry::Bookkeeping,
        vectors::{any_scope, created_at, version},
    };
    use proptest::{collection::vec, prelude::*};

    fn any_bookkeeping() -> impl Strategy<Value = Bookkeeping> {
        let number = || (0..=9u64).prop_map(NonZeroU64::new);
        (number(), number(), number(), number()).prop_filter_map(
            "not one history",
            |(observed, count, stable, promoted)| {
                Bookkeeping::new(observed, count, stable, promoted).ok()
            },
        )
    }

    /// Version 1 is active, the others have any state but pending, in any order.
    fn any_registry() -> impl Strategy<Value = Registry> {
        let states = [
            RecordState::Retired,
            RecordState::Rejected,
            RecordState::Removed,
        ];
        let other = (proptest::sample::select(states.to_vec()), any_bookkeeping());
        (any_scope(), any_bookkeeping(), vec(other, 0..4))
            .prop_map(|(scope, active, others)| {
                let scope = Arc::new(KeyScope::new(scope));
                let all = std::iter::once((RecordState::Active, active)).chain(others);
                let record = |(number, (state, bookkeeping))| Record {
                    key: Arc::new(TransitKey::new(
                        Arc::clone(&scope),
                        version(number),
                        created_at(number),
                    )),
                    state,
                    bookkeeping,
                };
                (1..).zip(all).map(record).collect::<Vec<_>>()
            })
            .prop_shuffle()
            .prop_map(|records| Registry::new(records).unwrap())
    }

    fn any_document() -> impl Strategy<Value = Document> {
        let fingerprint = any::<[u8; 4]>().prop_map(|seed| {
            let text = crate::digest::text_of("cfg1.", &seed);
            IdentityFingerprint::parse(&text).unwrap()
        });
        (fingerprint, 1..=u64::MAX, any_registry()).prop_map(
            |(fingerprint, generation, registry)| {
                let generation = Generation::new(generation).unwrap();
                let previous =
                    (generation != Generation::FIRST).then(|| StateHash::of_bytes(b"before"));
                Document::link(Some(fingerprint), generation, previous, registry)
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(document in any_document()) {
            let text = document.encode();
            let read = Document::decode(text.as_bytes()).unwrap();
            prop_assert_eq!(&read, &document);
            prop_assert_eq!(read.encode(), text);
        }

        #[test]
        fn a_changed_byte_is_refused_or_white_space(
            document in any_document(),
            position: prop::sample::Index,
            byte: u8,
        ) {
            let mut bytes = document.encode().into_bytes();
            let old = std::mem::replace(position.get_mut(&mut bytes), byte);
            match Document::decode(&bytes) {
                Err(_) => prop_assert_ne!(old, byte),
                Ok(read) => {
                    let space = |byte| matches!(byte, b' ' | b'\n' | b'\r' | b'\t');
                    prop_assert!(old == byte || space(old) && space(byte));
                    prop_assert_eq!(read, document);
                }
            }
        }

        #[test]
        fn hostile_bytes_never_panic(bytes: Vec<u8>) {
            prop_assert!(Document::decode(&bytes).is_err());
        }
    }
}
