//! Promotion of a new key version: discovery, counting, waiting, probing, activation.
//! Implements `docs/format/state-document.md` section 9.
//!
//! Each successful metadata read makes at most one step. A step only returns the next document; the
//! caller commits it before use. Encryption and decryption results never make a step, so requests
//! cannot move the active version.

use std::num::NonZeroU32;

use self::observation::Observation;
use super::{
    ClockRegression, Registry, RegistryConflict, StepClock,
    document::{Document, ProgressProblem},
};
use crate::transit::{KeyProfile, TransitVersion, VersionProblem};

mod observation;
mod promotion;
mod wait;

pub(crate) use observation::in_order;
pub use promotion::Promotion;
pub use wait::{Activation, ActivationWait};

/// The operator's settings for rotation. The activation delay is part of [`ActivationWait`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RotationRules {
    /// Number of observations until a new version is stable.
    pub required_observations: NonZeroU32,
    /// Whether a key behind the active version is reported as a rollback. If false, it is refused
    /// as well, because the higher versions are missing.
    pub reject_version_rollback: bool,
}

/// Whether an observation counts towards stability.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counting {
    /// At least one probe interval has passed since the last counted observation or the start of
    /// this process. Restarts and retries therefore cannot make a version stable.
    Counts,
    /// Less than one probe interval has passed.
    TooSoon,
}

/// Result of an observation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// There is nothing to commit.
    Unchanged,
    /// A document to commit and then to publish.
    Recorded(Transition),
    /// The newest version may be promoted after a successful probe.
    Due(Promotion),
}

/// The next document of a chain, with its change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transition {
    next: Document,
    change: Change,
    clock_regression: Option<ClockRegression>,
}

/// Kind of change in a [`Transition`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Versions were discovered, or a pending one was superseded.
    Discovered,
    /// Only the count or the stable time of the pending version changed.
    Counted,
    /// The pending version is now active.
    Promoted,
}

/// State of the rotation, for reports and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RotationState {
    /// There is no state document.
    Unknown,
    /// No version is pending.
    Active,
    /// A version waits for promotion.
    Pending,
}

/// Reason why an observation or discovery makes no step. The registry is unchanged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RotationRefused {
    /// OpenBao lacks versions that the registry relies on.
    #[error(transparent)]
    Conflict(#[from] RegistryConflict),
    /// Peers may have used a skipped version that this node cannot decrypt.
    #[error(
        "the key has been rotated to version {latest}, but a version between it and the active \
         {active} cannot be used, and another node may have written objects under it. No object is \
         lost; until it can be used, encryption is refused and decryption continues"
    )]
    Intermediate {
        /// In the registry.
        active: TransitVersion,
        /// The newest version of the key.
        latest: TransitVersion,
        /// The skipped version.
        #[source]
        problem: VersionProblem,
    },
    /// The newest version has a record that excludes its promotion.
    #[error(
        "the newest Transit version {latest} is {} in the state of this node, so it is not taken \
         up. No object is lost; until this is cleared, encryption is refused and decryption under \
         retained versions continues",
        state.as_str()
    )]
    Disabled {
        /// The newest version of the key.
        latest: TransitVersion,
        /// The state of its record.
        state: super::RecordState,
    },
    /// The next document would be invalid.
    #[error(
        "the next state document cannot be made. No object is lost: the state in use stays, \
         encryption is refused and decryption continues"
    )]
    Progress(#[from] ProgressProblem),
}

/// Observes the key in `profile` at the Unix second `now`, which serves only bookkeeping.
///
/// The newest version becomes pending and skipped versions become retired. A superseded pending
/// version becomes retired too, since a peer may have used it. [`Counting::Counts`] increments the
/// count of the pending version. Its promotion is due once it is stable and `activation` is over
/// for its key_id.
///
/// Every [`KeyProfile`] allows encryption with the newest version.
///
/// # Errors
/// [`RotationRefused`].
pub fn observe(
    document: &Document,
    profile: &KeyProfile,
    rules: &RotationRules,
    counting: Counting,
    activation: Activation<'_>,
    now: u64,
) -> Result<Step, RotationRefused> {
    let registry = document.registry();
    rules.require_covered(profile, registry)?;

    let mut clock = StepClock::new(now);
    let Some(mut observation) = Observation::of(registry, profile, &clock)? else {
        return Ok(Step::Unchanged);
    };

    match counting {
        Counting::Counts => observation.count(rules.required_observations, &mut clock),
        Counting::TooSoon => {}
    }

    let recorded = observation.record(document, &clock)?;
    let pending = observation.pending();

    let stable = pending.bookkeeping.is_stable(rules.required_observations);
    if stable && activation.is_over_for(pending.key.id()) {
        return Ok(Step::Due(observation.promote(document, recorded, clock)?));
    }

    Ok(recorded.map_or(Step::Unchanged, Step::Recorded))
}

/// Discovers versions that requests name and the registry lacks. Unlike [`observe`], it neither
/// counts nor promotes, so requests cannot accelerate a rotation. `None` if the registry is up to
/// date.
///
/// # Errors
/// [`RotationRefused`].
pub fn discover(
    document: &Document,
    profile: &KeyProfile,
    rules: &RotationRules,
    now: u64,
) -> Result<Option<Transition>, RotationRefused> {
    let registry = document.registry();
    rules.require_covered(profile, registry)?;
    let clock = StepClock::new(now);
    match Observation::of(registry, profile, &clock)? {
        Some(observation) => Ok(observation.record(document, &clock)?),
        None => Ok(None),
    }
}

impl RotationRules {
    fn require_covered(
        &self,
        profile: &KeyProfile,
        registry: &Registry,
    ) -> Result<(), RegistryConflict> {
        if self.reject_version_rollback {
            profile.require_retained(registry)
        } else {
            profile.require_readable(registry)
        }
    }
}

impl Transition {
    /// The document to commit.
    #[must_use]
    pub fn next(&self) -> &Document {
        &self.next
    }

    /// The document to commit, by value.
    #[must_use]
    pub fn into_next(self) -> Document {
        self.next
    }

    /// The kind of change.
    #[must_use]
    pub fn change(&self) -> Change {
        self.change
    }

    /// The clock regression of this step, for reports.
    #[must_use]
    pub fn clock_regression(&self) -> Option<ClockRegression> {
        self.clock_regression
    }
}

impl RotationState {
    /// State of the rotation in `registry`; `None` is a node without state.
    #[must_use]
    pub fn of(registry: Option<&Registry>) -> Self {
        match registry {
            None => Self::Unknown,
            Some(registry) if registry.pending().is_some() => Self::Pending,
            Some(_) => Self::Active,
        }
    }

    /// The name in reports and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Active => "active",
            Self::Pending => "pending",
        }
    }
}

#[cfg(test)]
mod tests;
