//! The persisted form of a registry: its schema, its generation and its place in a hash chain.
//! Implements `docs/format/state-document.md` sections 1 to 4.
//!
//! A [`Document`] that exists has been checked whole. Whether it is the newest one is decided by
//! its checkpoint ([`anchor`](super::anchor)), whether it belongs to this configuration by
//! [`fingerprint`](crate::fingerprint).

use std::{num::NonZeroU64, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{Bookkeeping, BookkeepingProblem, Record, RecordState, Registry, RegistryProblem};
use crate::{
    digest::{MalformedDigest, digest_type},
    fingerprint::IdentityFingerprint,
    json::{self, JsonProblem},
    key::{KeyScope, TransitKey},
    key_id::KeyId,
    scope::{
        ClusterId, IdentityScope, KeyLineageId, NameProblem, Namespace, OpenBaoInstanceId,
        ProviderName, TransitMountId,
    },
    transit::{CreatedAt, TransitVersion},
};

/// A larger state or checkpoint file is refused unread; a record has less than 1 KiB.
pub const MAX_FILE_BYTES: usize = 4 * 1024 * 1024;

const SCHEMA: &str = "keyregistry.openbao-kms/v1alpha2";
const LEGACY_SCHEMA: &str = "keyregistry.openbao-kms/v1alpha1";
const AAD_REQUIRED: &str = "aad.required";

digest_type!(
    /// `krs1.` and the digest of a document's content.
    StateHash,
    "krs1."
);

/// The number of a document in its chain, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Generation(NonZeroU64);

/// A registry, the configuration that it is bound to, and its link to the document before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    fingerprint: IdentityFingerprint,
    generation: Generation,
    previous_hash: Option<StateHash>,
    hash: StateHash,
    registry: Arc<Registry>,
}

/// Why bytes are not a state document. All but the legacy schema mean corruption.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// Larger than [`MAX_FILE_BYTES`].
    #[error("the state document has {0} bytes, more than the limit of {MAX_FILE_BYTES}")]
    TooLarge(usize),
    /// Not this format's JSON.
    #[error("the state document cannot be read")]
    Json(#[source] JsonProblem),
    /// Written before state was bound to a configuration.
    #[error(
        "the state document has the schema {LEGACY_SCHEMA}, which is not bound to a configuration; \
         bound state ({SCHEMA}) is required, so nothing was changed: restore a newer pair of state \
         and checkpoint"
    )]
    LegacySchema,
    /// Another schema.
    #[error("the state document has the schema {0:?} instead of {SCHEMA:?}")]
    UnknownSchema(String),
    /// `identityFingerprint` has no valid form.
    #[error("identityFingerprint is malformed")]
    Fingerprint(#[source] MalformedDigest),
    /// `generation` is 0 or missing.
    #[error("generation must be at least 1")]
    Generation,
    /// `activeKeyId` has no valid form.
    #[error("activeKeyId is malformed")]
    ActiveKeyId(#[source] MalformedDigest),
    /// `snapshots` is empty or missing.
    #[error("snapshots must hold at least one record")]
    NoRecords,
    /// `previousHash` has no valid form.
    #[error("previousHash is malformed")]
    PreviousHash(#[source] MalformedDigest),
    /// The first document has no predecessor.
    #[error("generation 1 must not have a previousHash")]
    UnexpectedPreviousHash,
    /// Every later document has one.
    #[error("generation {0} must have a previousHash")]
    MissingPreviousHash(Generation),
    /// `currentHash` has no valid form.
    #[error("currentHash is malformed")]
    CurrentHash(#[source] MalformedDigest),
    /// The content was changed after it was hashed.
    #[error("currentHash is {stated}, but the content has the hash {computed}: it was changed")]
    HashMismatch {
        /// As the document says.
        stated: StateHash,
        /// As computed from its content.
        computed: StateHash,
    },
    /// One record breaks a rule.
    #[error("snapshots[{index}] is invalid")]
    Record {
        /// The position, from 0.
        index: usize,
        /// The rule.
        #[source]
        problem: RecordProblem,
    },
    /// The records contradict each other.
    #[error("the records contradict each other")]
    Registry(#[source] RegistryProblem),
    /// `activeKeyId` names no record, or one that is not active.
    #[error("activeKeyId names {}", match state {
        Some(state) => format!("a record whose state is {}", state.as_str()),
        None => "no record".to_owned(),
    })]
    NotActive {
        /// The state of the record that is named, if one is.
        state: Option<RecordState>,
    },
}

/// Why one record is invalid.
#[derive(Debug, thiserror::Error)]
pub enum RecordProblem {
    /// A name of the identity scope breaks its rule.
    #[error("{field} is invalid")]
    Name {
        /// The member.
        field: &'static str,
        /// The rule.
        #[source]
        problem: NameProblem,
    },
    /// A version, creation second, time or count outside its range.
    #[error("{field} is {value}, outside {lowest} to {}", i64::MAX)]
    Number {
        /// The member.
        field: &'static str,
        /// What it holds.
        value: i128,
        /// 1 for versions and creation seconds, 0 for bookkeeping.
        lowest: u8,
    },
    /// `kubernetesKeyId` has no valid form.
    #[error("kubernetesKeyId is malformed")]
    KeyId(#[source] MalformedDigest),
    /// The key_id was made from other fields.
    #[error("kubernetesKeyId is {stated}, but the record's fields give {derived}")]
    ForeignKeyId {
        /// As the record says.
        stated: KeyId,
        /// As derived from its fields.
        derived: KeyId,
    },
    /// A state that does not exist.
    #[error("state {0:?} does not exist")]
    State(String),
    /// Associated data is always required.
    #[error("aadMode is {0:?} instead of {AAD_REQUIRED:?}")]
    AadMode(String),
    /// The history cannot be true.
    #[error("the bookkeeping is impossible")]
    Bookkeeping(#[source] BookkeepingProblem),
}

impl Document {
    /// Reads and checks the bytes of a state file. White space between tokens is free; any other
    /// spelling than the written one is refused.
    ///
    /// # Errors
    /// [`DocumentError`], the first in the order of `docs/format/state-document.md` section 4.
    pub fn decode(bytes: &[u8]) -> Result<Self, DocumentError> {
        if bytes.len() > MAX_FILE_BYTES {
            return Err(DocumentError::TooLarge(bytes.len()));
        }
        let mut raw: RawDocument = json::read(bytes).map_err(DocumentError::Json)?;
        match raw.schema_version.as_str() {
            SCHEMA => {}
            LEGACY_SCHEMA => return Err(DocumentError::LegacySchema),
            _ => return Err(DocumentError::UnknownSchema(raw.schema_version)),
        }
        let fingerprint = IdentityFingerprint::parse(&raw.identity_fingerprint)
            .map_err(DocumentError::Fingerprint)?;
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
        let registry =
            Registry::new(read_records(&raw.snapshots)?).map_err(DocumentError::Registry)?;
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

    /// The text of the state file.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut raw = RawDocument::of(
            &self.fingerprint,
            self.generation,
            self.previous_hash.as_ref(),
            &self.registry,
        );
        raw.current_hash = self.hash.to_string();
        json::indented(&raw)
    }

    /// The configuration that the document is bound to.
    #[must_use]
    pub fn fingerprint(&self) -> &IdentityFingerprint {
        &self.fingerprint
    }

    /// Its number in the chain.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// The hash of the document before; `None` for generation 1 only.
    #[must_use]
    pub fn previous_hash(&self) -> Option<&StateHash> {
        self.previous_hash.as_ref()
    }

    /// The hash of everything else in the document.
    #[must_use]
    pub fn hash(&self) -> &StateHash {
        &self.hash
    }

    /// The records. Shared, since readers keep them over a commit.
    #[must_use]
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// The first document of a chain.
    pub(crate) fn first(fingerprint: IdentityFingerprint, registry: Registry) -> Self {
        Self::link(fingerprint, Generation::FIRST, None, registry)
    }

    fn link(
        fingerprint: IdentityFingerprint,
        generation: Generation,
        previous_hash: Option<StateHash>,
        registry: Registry,
    ) -> Self {
        let raw = RawDocument::of(&fingerprint, generation, previous_hash.as_ref(), &registry);
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
    /// That of a document without predecessor.
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

/// The members in the order in which they are hashed and written. A missing member reads as its
/// default and is then refused by its own rule.
#[derive(Serialize, Deserialize, Default)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct RawDocument {
    schema_version: String,
    identity_fingerprint: String,
    generation: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    previous_hash: String,
    /// Empty in the hash body, which must not contain it.
    #[serde(skip_serializing_if = "String::is_empty")]
    current_hash: String,
    active_key_id: String,
    snapshots: Vec<RawRecord>,
}

/// Wider numbers than the format has, so that each range is checked with a message of its own.
#[derive(Serialize, Deserialize, Default)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct RawRecord {
    provider_name: String,
    cluster_id: String,
    openbao_instance_id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    openbao_namespace: String,
    transit_mount_id: String,
    transit_key_lineage_id: String,
    transit_version: i128,
    transit_version_created_at_unix: i128,
    kubernetes_key_id: String,
    state: String,
    aad_mode: String,
    #[serde(skip_serializing_if = "is_zero")]
    observed_at_unix: i128,
    #[serde(skip_serializing_if = "is_zero")]
    stable_observation_count: i128,
    #[serde(skip_serializing_if = "is_zero")]
    stable_at_unix: i128,
    #[serde(skip_serializing_if = "is_zero")]
    promoted_at_unix: i128,
}

impl RawDocument {
    fn of(
        fingerprint: &IdentityFingerprint,
        generation: Generation,
        previous_hash: Option<&StateHash>,
        registry: &Registry,
    ) -> Self {
        Self {
            schema_version: SCHEMA.to_owned(),
            identity_fingerprint: fingerprint.to_string(),
            generation: generation.get(),
            previous_hash: previous_hash.map(StateHash::to_string).unwrap_or_default(),
            current_hash: String::new(),
            active_key_id: registry.active().id().to_string(),
            snapshots: registry.records().iter().map(RawRecord::of).collect(),
        }
    }

    /// Over all members but `currentHash`, which must still be empty.
    fn content_hash(&self) -> StateHash {
        StateHash::of_bytes(json::compact(self).as_bytes())
    }
}

impl RawRecord {
    fn of(record: &Record) -> Self {
        let Record {
            key,
            state,
            bookkeeping,
        } = record;
        let identity = key.scope().identity();
        let namespace = identity.openbao_namespace.as_ref();
        let number = |number: Option<NonZeroU64>| number.map_or(0, |n| i128::from(n.get()));
        Self {
            provider_name: identity.provider_name.to_string(),
            cluster_id: identity.cluster_id.to_string(),
            openbao_instance_id: identity.openbao_instance_id.to_string(),
            openbao_namespace: namespace.map(Namespace::to_string).unwrap_or_default(),
            transit_mount_id: identity.transit_mount_id.to_string(),
            transit_key_lineage_id: identity.key_lineage_id.to_string(),
            transit_version: key.version().get().into(),
            transit_version_created_at_unix: key.created_at().get().into(),
            kubernetes_key_id: key.id().to_string(),
            state: state.as_str().to_owned(),
            aad_mode: AAD_REQUIRED.to_owned(),
            observed_at_unix: number(bookkeeping.observed_at()),
            stable_observation_count: number(bookkeeping.stable_observation_count()),
            stable_at_unix: number(bookkeeping.stable_at()),
            promoted_at_unix: number(bookkeeping.promoted_at()),
        }
    }

    fn identity(&self) -> Result<IdentityScope, RecordProblem> {
        let of = |field| move |problem| RecordProblem::Name { field, problem };
        Ok(IdentityScope {
            provider_name: ProviderName::parse(&self.provider_name).map_err(of("providerName"))?,
            cluster_id: ClusterId::parse(&self.cluster_id).map_err(of("clusterId"))?,
            openbao_instance_id: OpenBaoInstanceId::parse(&self.openbao_instance_id)
                .map_err(of("openbaoInstanceId"))?,
            openbao_namespace: (!self.openbao_namespace.is_empty())
                .then(|| Namespace::parse(&self.openbao_namespace))
                .transpose()
                .map_err(of("openbaoNamespace"))?,
            transit_mount_id: TransitMountId::parse(&self.transit_mount_id)
                .map_err(of("transitMountId"))?,
            key_lineage_id: KeyLineageId::parse(&self.transit_key_lineage_id)
                .map_err(of("transitKeyLineageId"))?,
        })
    }

    fn read(&self, scope: &Arc<KeyScope>) -> Result<Record, RecordProblem> {
        let version = positive("transitVersion", self.transit_version, TransitVersion::new)?;
        let created_at = positive(
            "transitVersionCreatedAtUnix",
            self.transit_version_created_at_unix,
            CreatedAt::new,
        )?;
        let stated = KeyId::parse(&self.kubernetes_key_id).map_err(RecordProblem::KeyId)?;
        let key = TransitKey::new(Arc::clone(scope), version, created_at);
        if *key.id() != stated {
            return Err(RecordProblem::ForeignKeyId {
                stated,
                derived: key.id().clone(),
            });
        }
        let state = RecordState::parse(&self.state)
            .ok_or_else(|| RecordProblem::State(self.state.clone()))?;
        if self.aad_mode != AAD_REQUIRED {
            return Err(RecordProblem::AadMode(self.aad_mode.clone()));
        }
        let bookkeeping = Bookkeeping::new(
            bookkeeping("observedAtUnix", self.observed_at_unix)?,
            bookkeeping("stableObservationCount", self.stable_observation_count)?,
            bookkeeping("stableAtUnix", self.stable_at_unix)?,
            bookkeeping("promotedAtUnix", self.promoted_at_unix)?,
        )
        .map_err(RecordProblem::Bookkeeping)?;
        Ok(Record {
            key: Arc::new(key),
            state,
            bookkeeping,
        })
    }
}

/// Reads all records; equal scopes are hashed once and shared.
fn read_records(raw: &[RawRecord]) -> Result<Vec<Record>, DocumentError> {
    let mut scope: Option<Arc<KeyScope>> = None;
    let mut read = |raw: &RawRecord| {
        let identity = raw.identity()?;
        let scope = match &scope {
            Some(known) if *known.identity() == identity => known,
            _ => scope.insert(Arc::new(KeyScope::new(identity))),
        };
        raw.read(scope)
    };
    raw.iter()
        .enumerate()
        .map(|(index, raw)| read(raw).map_err(|problem| DocumentError::Record { index, problem }))
        .collect()
}

fn positive<T>(
    field: &'static str,
    value: i128,
    new: fn(u64) -> Option<T>,
) -> Result<T, RecordProblem> {
    let number = u64::try_from(value).ok().and_then(new);
    number.ok_or(RecordProblem::Number {
        field,
        value,
        lowest: 1,
    })
}

/// 0 stands for a number that is not set.
fn bookkeeping(field: &'static str, value: i128) -> Result<Option<NonZeroU64>, RecordProblem> {
    let number = i64::try_from(value)
        .ok()
        .and_then(|n| u64::try_from(n).ok());
    number.map(NonZeroU64::new).ok_or(RecordProblem::Number {
        field,
        value,
        lowest: 0,
    })
}

fn is_zero(number: &i128) -> bool {
    *number == 0
}
