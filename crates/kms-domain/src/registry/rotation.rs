//! How a new version of the key becomes the one that encrypts: seen, counted, waited for, tried,
//! promoted. Implements `docs/format/state-document.md` section 9.
//!
//! One step per successful reading of metadata. A step changes nothing by itself: it makes the
//! next document, which is committed before anything of it is used. An answer to an encryption or
//! decryption never makes a step, so no request can move the active version.

use std::num::NonZeroU32;

use self::sighting::Sighting;
use super::{
    ClockRegression, Registry, StepClock,
    document::{Document, ProgressProblem},
};
use crate::{
    health::MetadataFailure,
    transit::{KeyProfile, RegistryConflict, TransitVersion, VersionProblem},
};

mod promotion;
mod sighting;
mod wait;

pub use promotion::Promotion;
pub(crate) use sighting::in_order;
pub use wait::{Activation, ActivationWait};

/// The operator's settings for rotation. The activation delay is that of an [`ActivationWait`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RotationRules {
    /// How many observations make a new version stable.
    pub required_observations: NonZeroU32,
    /// Whether a key that is behind the active version is reported as rolled back. If not, it is
    /// refused all the same, for lack of the versions above.
    pub reject_version_rollback: bool,
}

/// Whether an observation is one more piece of evidence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counting {
    /// It comes at least one probe interval after the last one that this process made or after its
    /// start, so that neither a restart nor a retry makes a version stable.
    Counts,
    /// It comes too soon after another.
    TooSoon,
}

/// What an observation leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Nothing to commit.
    Unchanged,
    /// A document to commit and then to publish.
    Recorded(Transition),
    /// The newest version may be promoted if it proves to work.
    Due(Promotion),
}

/// The next document of a chain, made by the rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transition {
    next: Document,
    change: Change,
    clock_regression: Option<ClockRegression>,
}

/// What a [`Transition`] changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Versions were found, or a pending one was overtaken.
    Discovered,
    /// Only the count or the stable time of the pending version.
    Counted,
    /// The pending version is now the active one.
    Promoted,
}

/// What rotation is doing, for reports and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RotationState {
    /// There is no state.
    Unknown,
    /// Nothing waits.
    Active,
    /// A version waits for promotion.
    Pending,
}

/// Why an observation or discovery makes no step. Nothing was changed, dropped or counted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RotationRefused {
    /// OpenBao lacks what the registry relies on.
    #[error(transparent)]
    Conflict(#[from] RegistryConflict),
    /// A version was skipped that peers may have used and this node could not decrypt.
    #[error(
        "the key has been rotated to version {latest}, but a version between it and the active \
         {active} cannot be used, and another node may have written objects under it. No object is \
         lost; until it can be used, encrypting is refused and decrypting goes on. Mend what is \
         named below in OpenBao; do not rotate again, do not raise min_decryption_version and do \
         not delete the state file"
    )]
    Intermediate {
        /// In the registry.
        active: TransitVersion,
        /// The newest version of the key.
        latest: TransitVersion,
        /// The version in between.
        #[source]
        problem: VersionProblem,
    },
    /// The newest version is known, but not as one to promote.
    #[error(
        "the newest Transit version {latest} is {} in the state of this node, so it is not taken \
         up. No object is lost; until this is cleared, encrypting is refused and decrypting under \
         retained versions goes on. Compare the state with that of the other nodes \
         (`inspect-state`) and restore the pair of a node on which the version is active; do not \
         edit the state file and do not recreate the key",
        state.as_str()
    )]
    Withdrawn {
        /// The newest version of the key.
        latest: TransitVersion,
        /// What its record says.
        state: super::RecordState,
    },
    /// The next document would be invalid.
    #[error(
        "the next state document cannot be made. No object is lost: the state in use stays, \
         encrypting is refused and decrypting goes on. Keep both state files, compare the state \
         with that of the other nodes (`inspect-state`), and report this message; do not delete \
         or edit the state file"
    )]
    Progress(#[from] ProgressProblem),
}

/// Observes the key as `profile` shows it, at the Unix second `now`, which is only noted.
///
/// The newest version is recorded as pending, versions skipped as retired; a version that was
/// pending and has been overtaken is retired as it stands, since a peer may have used it. With
/// [`Counting::Counts`] the pending version is counted once more. It is due when it is stable and
/// `activation` is for its own key_id.
///
/// Encrypting with the newest version is allowed by every [`KeyProfile`].
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
    let Some(mut sighting) = Sighting::of(registry, profile, &clock)? else {
        return Ok(Step::Unchanged);
    };
    match counting {
        Counting::Counts => sighting.count(rules.required_observations, &mut clock),
        Counting::TooSoon => {}
    }
    let recorded = sighting.record(document, &clock)?;
    let pending = sighting.pending();
    let stable = pending.bookkeeping.is_stable(rules.required_observations);
    if stable && activation.is_over_for(pending.key.id()) {
        return Ok(Step::Due(sighting.promote(document, recorded, clock)?));
    }
    Ok(recorded.map_or(Step::Unchanged, Step::Recorded))
}

/// Looks for versions that requests name and the registry lacks. Like [`observe`], but it neither
/// counts nor promotes, so that requests cannot hasten a rotation. `None` if nothing is new.
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
    match Sighting::of(registry, profile, &clock)? {
        Some(sighting) => Ok(sighting.record(document, &clock)?),
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

    /// What it changes.
    #[must_use]
    pub fn change(&self) -> Change {
        self.change
    }

    /// That the wall clock was behind, if it was; to be reported.
    #[must_use]
    pub fn clock_regression(&self) -> Option<ClockRegression> {
        self.clock_regression
    }
}

impl RotationState {
    /// That of a node with this registry, if it has any.
    #[must_use]
    pub fn of(registry: Option<&Registry>) -> Self {
        match registry {
            None => Self::Unknown,
            Some(registry) if registry.pending().is_some() => Self::Pending,
            Some(_) => Self::Active,
        }
    }

    /// The word in reports and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Active => "active",
            Self::Pending => "pending",
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
            | Self::Withdrawn { .. } => MetadataFailure::ProfileInvalid,
            Self::Progress(_) => MetadataFailure::StateSaveFailed,
        }
    }
}

#[cfg(test)]
mod tests;
