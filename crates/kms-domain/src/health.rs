//! Health of a node from its last probes. Status reports it, and Encrypt gets its key from it.
//!
//! Decryption is independent of health: retained versions stay readable while encryption is
//! refused.
//!
//! Before `ok`, the active key needs no further check: a [`Registry`] has exactly one active key,
//! and its `key_id` is derived from its fields.

use std::sync::Arc;

use crate::{
    key::TransitKey,
    registry::{Registry, RegistryConflict, rotation::RotationRefused},
};

/// Permission to encrypt with the active version; part of [`Health::Healthy`] only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActiveKey(Arc<TransitKey>);

impl ActiveKey {
    /// The version to encrypt with.
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

/// Whether this node may encrypt, and with which version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// State is loaded, both probes passed, and both are recent.
    Healthy(ActiveKey),
    /// All reasons for refusing.
    Unhealthy(Reasons),
}

/// At least one reason, without duplicates, in the order of [`assess`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reasons(Vec<Reason>);

/// Result of the last metadata probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetadataOutcome {
    /// The first probe is outstanding.
    Unverified,
    /// The profile is valid, covers every retained version and allows the active one to encrypt.
    Verified,
    /// It failed; the registry is unchanged.
    Failed(MetadataFailure),
}

/// Result of the last deep probe of the active key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeepOutcome {
    /// The first probe of this active key is outstanding.
    Pending,
    /// A round trip returned its plaintext.
    Passed,
    /// It failed; only a later success or a new active key clears it.
    Failed(DeepFailure),
}

/// Whether the last metadata outcome is within `status.statusMaxStaleness`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// It is within the limit.
    Fresh,
    /// It is too old: the prober is stuck.
    Stale,
}

/// Cause of a failed metadata probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetadataFailure {
    /// There is no state, and bootstrap is refused.
    StateUnavailable,
    /// The check whether encryption creates missing keys failed.
    UpsertCheckFailed,
    /// Encryption would create a missing key.
    UpsertAllowed,
    /// Reading the key's metadata failed.
    MetadataReadFailed,
    /// The metadata violates a rule, or does not fit the registry.
    ProfileInvalid,
    /// The key's latest version is below the active version.
    VersionRollback,
    /// Writing the next state failed.
    StateSaveFailed,
    /// The next state was written but not published.
    StatePublishFailed,
    /// Transit refuses to encrypt with the active version.
    EncryptionBlocked,
    /// OpenBao is sealed.
    OpenBaoSealed,
    /// Any other cause.
    ProbeFailed,
}

/// Cause of a failed deep probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeepFailure {
    /// A call failed or returned another plaintext.
    Failed,
    /// A response with an impossible size or version.
    Invalid,
    /// OpenBao is sealed.
    OpenBaoSealed,
}

/// Whether at least three probes of a kind in a row have failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Breaker {
    /// At most two.
    Closed,
    /// Further calls are expected to fail as well.
    Open,
}

/// A reason of any kind. The set is bounded, for logs, metrics and readiness.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// See [`MetadataFailure::StateUnavailable`].
    StateUnavailable,
    /// See [`Freshness::Stale`].
    StatusStale,
    /// See [`MetadataOutcome::Unverified`].
    MetadataUnverified,
    /// See [`MetadataFailure::UpsertCheckFailed`].
    UpsertCheckFailed,
    /// See [`MetadataFailure::UpsertAllowed`].
    UpsertAllowed,
    /// See [`MetadataFailure::MetadataReadFailed`].
    MetadataReadFailed,
    /// See [`MetadataFailure::ProfileInvalid`].
    ProfileInvalid,
    /// See [`MetadataFailure::VersionRollback`].
    VersionRollback,
    /// See [`MetadataFailure::StateSaveFailed`].
    StateSaveFailed,
    /// See [`MetadataFailure::StatePublishFailed`].
    StatePublishFailed,
    /// See [`MetadataFailure::EncryptionBlocked`].
    EncryptionBlocked,
    /// See [`DeepOutcome::Pending`].
    DeepProbePending,
    /// See [`DeepFailure::Failed`].
    DeepProbeFailed,
    /// See [`DeepFailure::Invalid`].
    DeepProbeInvalid,
    /// See [`MetadataFailure::OpenBaoSealed`].
    OpenBaoSealed,
    /// See [`Breaker::Open`]; never the only reason.
    CircuitBreakerOpen,
    /// See [`MetadataFailure::ProbeFailed`].
    ProbeFailed,
}

/// Combines all inputs; `registry` is `None` until there is a state.
///
/// The order of reasons is: sealed, no state, stale, metadata, deep, breaker. A sealed OpenBao is the
/// cause of all others, and an open breaker is their consequence.
#[must_use]
pub fn assess(
    registry: Option<&Registry>,
    freshness: Freshness,
    metadata: MetadataOutcome,
    deep: DeepOutcome,
    breaker: Breaker,
) -> Health {
    let reasons = [
        registry.is_none().then_some(Reason::StateUnavailable),
        (freshness == Freshness::Stale).then_some(Reason::StatusStale),
        metadata.reason(),
        deep.reason(),
    ];

    match (registry, reasons) {
        (Some(registry), [None, None, None, None]) => {
            Health::Healthy(ActiveKey(Arc::clone(registry.active())))
        }
        (_, reasons) => {
            let sealed = [Some(Reason::OpenBaoSealed)];
            let sealed = sealed.into_iter().filter(|sealed| reasons.contains(sealed));
            let open = (breaker == Breaker::Open).then_some(Reason::CircuitBreakerOpen);
            let mut distinct = Vec::new();
            for reason in sealed.chain(reasons).chain([open]).flatten() {
                if !distinct.contains(&reason) {
                    distinct.push(reason);
                }
            }
            Health::Unhealthy(Reasons(distinct))
        }
    }
}

impl Reasons {
    /// The reasons, the most basic first.
    #[must_use]
    pub fn as_slice(&self) -> &[Reason] {
        &self.0
    }
}

impl Reason {
    /// The stable code in logs, metrics and readiness.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::StateUnavailable => "state_unavailable",
            Self::StatusStale => "status_stale",
            Self::MetadataUnverified => "metadata_unverified",
            Self::UpsertCheckFailed => "upsert_check_failed",
            Self::UpsertAllowed => "upsert_allowed",
            Self::MetadataReadFailed => "metadata_read_failed",
            Self::ProfileInvalid => "profile_invalid",
            Self::VersionRollback => "version_rollback",
            Self::StateSaveFailed => "state_save_failed",
            Self::StatePublishFailed => "state_publish_failed",
            Self::EncryptionBlocked => "encryption_blocked",
            Self::DeepProbePending => "deep_probe_pending",
            Self::DeepProbeFailed => "deep_probe_failed",
            Self::DeepProbeInvalid => "deep_probe_invalid",
            Self::OpenBaoSealed => "openbao_sealed",
            Self::CircuitBreakerOpen => "circuit_breaker_open",
            Self::ProbeFailed => "probe_failed",
        }
    }
}

impl MetadataOutcome {
    fn reason(self) -> Option<Reason> {
        match self {
            Self::Unverified => Some(Reason::MetadataUnverified),
            Self::Verified => None,
            Self::Failed(failure) => Some(failure.into()),
        }
    }
}

impl DeepOutcome {
    fn reason(self) -> Option<Reason> {
        match self {
            Self::Pending => Some(Reason::DeepProbePending),
            Self::Passed => None,
            Self::Failed(failure) => Some(failure.into()),
        }
    }
}

impl RotationRefused {
    /// The reason for Status and readiness.
    #[must_use]
    pub fn failure(&self) -> MetadataFailure {
        match self {
            Self::Conflict(RegistryConflict::VersionRollback { .. }) => {
                MetadataFailure::VersionRollback
            }
            Self::Conflict(RegistryConflict::Retained(_))
            | Self::Intermediate { .. }
            | Self::Disabled { .. } => MetadataFailure::ProfileInvalid,
            Self::Progress(_) => MetadataFailure::StateSaveFailed,
        }
    }
}

impl From<MetadataFailure> for Reason {
    fn from(failure: MetadataFailure) -> Self {
        match failure {
            MetadataFailure::StateUnavailable => Self::StateUnavailable,
            MetadataFailure::UpsertCheckFailed => Self::UpsertCheckFailed,
            MetadataFailure::UpsertAllowed => Self::UpsertAllowed,
            MetadataFailure::MetadataReadFailed => Self::MetadataReadFailed,
            MetadataFailure::ProfileInvalid => Self::ProfileInvalid,
            MetadataFailure::VersionRollback => Self::VersionRollback,
            MetadataFailure::StateSaveFailed => Self::StateSaveFailed,
            MetadataFailure::StatePublishFailed => Self::StatePublishFailed,
            MetadataFailure::EncryptionBlocked => Self::EncryptionBlocked,
            MetadataFailure::OpenBaoSealed => Self::OpenBaoSealed,
            MetadataFailure::ProbeFailed => Self::ProbeFailed,
        }
    }
}

impl From<DeepFailure> for Reason {
    fn from(failure: DeepFailure) -> Self {
        match failure {
            DeepFailure::Failed => Self::DeepProbeFailed,
            DeepFailure::Invalid => Self::DeepProbeInvalid,
            DeepFailure::OpenBaoSealed => Self::OpenBaoSealed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{registry::RecordState, vectors};

    const GOOD: (MetadataOutcome, DeepOutcome) = (MetadataOutcome::Verified, DeepOutcome::Passed);

    fn reasons(
        loaded: bool,
        freshness: Freshness,
        outcomes: (MetadataOutcome, DeepOutcome),
    ) -> Vec<&'static str> {
        with_breaker(loaded, freshness, outcomes, Breaker::Closed)
    }

    fn with_breaker(
        loaded: bool,
        freshness: Freshness,
        (metadata, deep): (MetadataOutcome, DeepOutcome),
        breaker: Breaker,
    ) -> Vec<&'static str> {
        let registry = vectors::registry(&[(2, RecordState::Active), (1, RecordState::Retired)]);
        let loaded = loaded.then_some(&registry);
        match assess(loaded, freshness, metadata, deep, breaker) {
            Health::Healthy(active) => {
                assert_eq!(active.key(), &**registry.active());
                Vec::new()
            }
            Health::Unhealthy(reasons) => reasons
                .as_slice()
                .iter()
                .map(|reason| reason.code())
                .collect(),
        }
    }

    #[test]
    fn only_all_conditions_together_are_healthy() {
        use Freshness::{Fresh, Stale};
        let unverified = (MetadataOutcome::Unverified, DeepOutcome::Pending);
        assert!(reasons(true, Fresh, GOOD).is_empty());
        assert_eq!(reasons(false, Fresh, GOOD), ["state_unavailable"]);
        assert_eq!(reasons(true, Stale, GOOD), ["status_stale"]);
        assert_eq!(
            reasons(false, Stale, unverified),
            [
                "state_unavailable",
                "status_stale",
                "metadata_unverified",
                "deep_probe_pending"
            ]
        );
    }

    #[test]
    fn every_failure_is_unhealthy_with_its_code() {
        use MetadataFailure as M;
        for (failure, code) in [
            (M::StateUnavailable, "state_unavailable"),
            (M::UpsertCheckFailed, "upsert_check_failed"),
            (M::UpsertAllowed, "upsert_allowed"),
            (M::MetadataReadFailed, "metadata_read_failed"),
            (M::ProfileInvalid, "profile_invalid"),
            (M::VersionRollback, "version_rollback"),
            (M::StateSaveFailed, "state_save_failed"),
            (M::StatePublishFailed, "state_publish_failed"),
            (M::EncryptionBlocked, "encryption_blocked"),
            (M::OpenBaoSealed, "openbao_sealed"),
            (M::ProbeFailed, "probe_failed"),
        ] {
            let outcome = (MetadataOutcome::Failed(failure), DeepOutcome::Passed);
            assert_eq!(reasons(true, Freshness::Fresh, outcome), [code]);
        }
        for (failure, code) in [
            (DeepFailure::Failed, "deep_probe_failed"),
            (DeepFailure::Invalid, "deep_probe_invalid"),
            (DeepFailure::OpenBaoSealed, "openbao_sealed"),
        ] {
            let outcome = (MetadataOutcome::Verified, DeepOutcome::Failed(failure));
            assert_eq!(reasons(true, Freshness::Fresh, outcome), [code]);
        }
    }

    #[test]
    fn a_reason_is_given_once() {
        let sealed = (
            MetadataOutcome::Failed(MetadataFailure::OpenBaoSealed),
            DeepOutcome::Failed(DeepFailure::OpenBaoSealed),
        );
        assert_eq!(reasons(true, Freshness::Fresh, sealed), ["openbao_sealed"]);
        assert_eq!(
            reasons(false, Freshness::Fresh, sealed),
            ["openbao_sealed", "state_unavailable"]
        );
        let no_state = (
            MetadataOutcome::Failed(MetadataFailure::StateUnavailable),
            DeepOutcome::Pending,
        );
        assert_eq!(
            reasons(false, Freshness::Fresh, no_state),
            ["state_unavailable", "deep_probe_pending"]
        );
    }

    #[test]
    fn an_open_breaker_is_the_last_reason_and_never_the_only_one() {
        let open = |outcomes| with_breaker(true, Freshness::Fresh, outcomes, Breaker::Open);
        let sealed = MetadataOutcome::Failed(MetadataFailure::OpenBaoSealed);
        assert_eq!(
            open((sealed, DeepOutcome::Pending)),
            [
                "openbao_sealed",
                "deep_probe_pending",
                "circuit_breaker_open"
            ]
        );
        assert!(open(GOOD).is_empty());
    }
}
