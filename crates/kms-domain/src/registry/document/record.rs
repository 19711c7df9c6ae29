//! One version in the state document.
//! Implements `docs/format/state-document.md` section 3.

use std::{num::NonZeroU64, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    digest::MalformedDigest,
    key::{KeyScope, TransitKey},
    key_id::KeyId,
    registry::{Bookkeeping, BookkeepingProblem, Record, RecordState},
    scope::{
        ClusterId, IdentityScope, KeyLineageId, NameProblem, Namespace, OpenBaoInstanceId,
        ProviderName, TransitMountId,
    },
    transit::{CreatedAt, TransitVersion},
};

const AAD_REQUIRED: &str = "aad.required";

/// Rule violated by a record.
#[derive(Debug, thiserror::Error)]
pub enum RecordProblem {
    /// A name of the identity scope violates its rule.
    #[error("{field} is invalid")]
    Name {
        /// The member.
        field: &'static str,
        /// The violated rule.
        #[source]
        problem: NameProblem,
    },
    /// A version, creation second, time or count outside its range.
    #[error("{field} is {value}, outside {lowest} to {}", i64::MAX)]
    Number {
        /// The member.
        field: &'static str,
        /// The value.
        value: i128,
        /// 1 for versions and creation seconds, 0 for bookkeeping.
        lowest: u8,
    },
    /// `kubernetesKeyId` is malformed.
    #[error("kubernetesKeyId is malformed")]
    KeyId(#[source] MalformedDigest),
    /// The key_id belongs to other fields.
    #[error("kubernetesKeyId is {stated}, but the record's fields give {derived}")]
    ForeignKeyId {
        /// The key_id in the record.
        stated: KeyId,
        /// The key_id derived from its fields.
        derived: KeyId,
    },
    /// Unknown state.
    #[error("state {0:?} does not exist")]
    State(String),
    /// Associated data is always required.
    #[error("aadMode is {0:?} instead of {AAD_REQUIRED:?}")]
    AadMode(String),
    /// The bookkeeping is contradictory.
    #[error("the bookkeeping is impossible")]
    Bookkeeping(#[source] BookkeepingProblem),
}

/// Wider integers than those of the format, so that each range check has its own message.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RawRecord {
    provider_name: String,
    cluster_id: String,
    openbao_instance_id: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    openbao_namespace: String,
    transit_mount_id: String,
    transit_key_lineage_id: String,
    transit_version: i128,
    transit_version_created_at_unix: i128,
    kubernetes_key_id: String,
    state: String,
    aad_mode: String,
    #[serde(default, skip_serializing_if = "is_zero")]
    observed_at_unix: i128,
    #[serde(default, skip_serializing_if = "is_zero")]
    stable_observation_count: i128,
    #[serde(default, skip_serializing_if = "is_zero")]
    stable_at_unix: i128,
    #[serde(default, skip_serializing_if = "is_zero")]
    promoted_at_unix: i128,
}

/// Reads all records; equal scopes are hashed once and shared.
pub(super) fn read_records(raw: &[RawRecord]) -> Result<Vec<Record>, (usize, RecordProblem)> {
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
        .map(|(index, raw)| read(raw).map_err(|problem| (index, problem)))
        .collect()
}

impl RawRecord {
    pub(super) fn of(record: &Record) -> Self {
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

/// 0 means unset.
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
