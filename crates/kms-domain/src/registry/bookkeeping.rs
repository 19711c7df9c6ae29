//! Times and counts of a version's history.
//! Implements `docs/format/state-document.md` sections 3 and 9.
//!
//! The wall clock may step back; the times of one record never do. A time below its lower bound is
//! raised to it, and the step reports the regression.

use std::{
    num::{NonZeroU32, NonZeroU64},
    time::Duration,
};

use crate::transit::Utc;

/// Times are Unix seconds for people; no decision compares them with a clock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bookkeeping {
    observed_at: Option<NonZeroU64>,
    stable_observation_count: Option<NonZeroU64>,
    stable_at: Option<NonZeroU64>,
    promoted_at: Option<NonZeroU64>,
}

/// Contradiction in the history of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BookkeepingProblem {
    /// A count without a first observation.
    #[error("stableObservationCount is set without observedAtUnix")]
    CountWithoutObservation,
    /// Stable without a count.
    #[error("stableAtUnix is set without stableObservationCount")]
    StableWithoutCount,
    /// Stable before the first observation.
    #[error("stableAtUnix is before observedAtUnix")]
    StableBeforeObservation,
    /// Promoted before the first observation.
    #[error("promotedAtUnix is before observedAtUnix")]
    PromotedBeforeObservation,
}

/// The wall clock is behind a recorded time. Only displayed times depend on it, but the node's time
/// synchronisation should be checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the wall clock says {}, before {} as noted earlier: the later time was kept. Keys and rotation do \
     not depend on it",
    Utc(now.get()), Utc(noted.get())
)]
pub struct ClockRegression {
    /// Unix seconds by the clock.
    pub now: NonZeroU64,
    /// The recorded Unix second, the latest if there are several.
    pub noted: NonZeroU64,
}

/// The current time of one step; never before a recorded time.
#[derive(Debug)]
pub(super) struct StepClock {
    now: NonZeroU64,
    regression: Option<ClockRegression>,
}

impl Bookkeeping {
    /// Time of the first observation.
    #[must_use]
    pub fn observed_at(&self) -> Option<NonZeroU64> {
        self.observed_at
    }

    /// Number of observations as the newest version.
    #[must_use]
    pub fn stable_observation_count(&self) -> Option<NonZeroU64> {
        self.stable_observation_count
    }

    /// Time at which the version became stable.
    #[must_use]
    pub fn stable_at(&self) -> Option<NonZeroU64> {
        self.stable_at
    }

    /// Time of the promotion.
    #[must_use]
    pub fn promoted_at(&self) -> Option<NonZeroU64> {
        self.promoted_at
    }

    /// Whether the version is stable, also under the current settings.
    #[must_use]
    pub fn is_stable(&self, required: NonZeroU32) -> bool {
        self.stable_at.is_some() && self.stable_observation_count >= Some(required.into())
    }

    /// The Unix second after which a stable version is promoted if no failure occurs. A restart of
    /// the provider starts `delay` again. An estimate for people.
    #[must_use]
    pub fn promotes_after(&self, delay: Duration) -> Option<u64> {
        let stable_at = self.stable_at?.get();
        Some(stable_at.saturating_add(delay.as_secs()))
    }

    /// Checks the values for contradictions.
    ///
    /// # Errors
    /// [`BookkeepingProblem`].
    pub(crate) fn new(
        observed_at: Option<NonZeroU64>,
        stable_observation_count: Option<NonZeroU64>,
        stable_at: Option<NonZeroU64>,
        promoted_at: Option<NonZeroU64>,
    ) -> Result<Self, BookkeepingProblem> {
        if stable_observation_count.is_some() && observed_at.is_none() {
            return Err(BookkeepingProblem::CountWithoutObservation);
        }
        if stable_at.is_some() && stable_observation_count.is_none() {
            return Err(BookkeepingProblem::StableWithoutCount);
        }

        // An unset time is less than any set one, so only two set times can be out of order.
        if stable_at.is_some() && stable_at < observed_at {
            return Err(BookkeepingProblem::StableBeforeObservation);
        }
        if promoted_at.is_some() && promoted_at < observed_at {
            return Err(BookkeepingProblem::PromotedBeforeObservation);
        }

        Ok(Self {
            observed_at,
            stable_observation_count,
            stable_at,
            promoted_at,
        })
    }

    /// Bookkeeping of a discovered, uncounted version.
    pub(super) fn seen(clock: &StepClock) -> Self {
        Self {
            observed_at: Some(clock.now),
            ..Self::default()
        }
    }

    /// Bookkeeping of a bootstrapped version, which is active without observations.
    pub(super) fn first(clock: &StepClock) -> Self {
        Self {
            promoted_at: Some(clock.now),
            ..Self::seen(clock)
        }
    }

    /// Counts one observation, up to `required`, and records the time of reaching it.
    pub(super) fn counted(self, required: NonZeroU32, clock: &mut StepClock) -> Self {
        let required = NonZeroU64::from(required);
        let count = match self.stable_observation_count {
            None => NonZeroU64::MIN,
            Some(count) if count < required => count.saturating_add(1),
            Some(enough) => enough,
        };

        let observed_at = self.observed_at.unwrap_or(clock.now);
        let stable_at = match self.stable_at {
            None if count >= required => Some(clock.not_before(observed_at)),
            noted => noted,
        };

        Self {
            observed_at: Some(observed_at),
            stable_observation_count: Some(count),
            stable_at,
            ..self
        }
    }

    /// Records the promotion.
    pub(super) fn promoted(self, clock: &mut StepClock) -> Self {
        let earliest = self.observed_at.max(self.stable_at);
        let promoted_at = earliest.map_or(clock.now, |earliest| clock.not_before(earliest));
        Self {
            promoted_at: Some(promoted_at),
            ..self
        }
    }

    /// Clears the count and the stable time, which served the promotion.
    pub(crate) fn retired(self) -> Self {
        Self {
            stable_observation_count: None,
            stable_at: None,
            ..self
        }
    }
}

impl StepClock {
    /// `now` in Unix seconds, clamped to the range of the document: 1 to `i64::MAX`.
    pub(super) fn new(now: u64) -> Self {
        let now = now.min(i64::MAX.unsigned_abs());
        Self {
            now: NonZeroU64::new(now).unwrap_or(NonZeroU64::MIN),
            regression: None,
        }
    }

    pub(super) fn regression(&self) -> Option<ClockRegression> {
        self.regression
    }

    fn not_before(&mut self, earliest: NonZeroU64) -> NonZeroU64 {
        if self.now < earliest {
            let noted = self.regression.map_or(earliest, |r| r.noted.max(earliest));
            let now = self.now;
            self.regression = Some(ClockRegression { now, noted });
        }
        self.now.max(earliest)
    }
}
