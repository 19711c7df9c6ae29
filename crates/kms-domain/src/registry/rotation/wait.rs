//! The activation wait: time for the other nodes to discover a new version before any node encrypts
//! with it.
//!
//! It is held in memory and measured on the monotonic clock, so stored times and wall clock steps
//! cannot end it. A restart starts it again.

use std::{num::NonZeroU32, time::Duration};

use crate::{key_id::KeyId, registry::Registry};

/// The wait for one pending version at a time. `elapsed` is monotonic, from any fixed origin.
#[derive(Debug, Clone)]
pub struct ActivationWait {
    delay: Duration,
    started: Option<(KeyId, Duration)>,
}

/// State of the wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation<'a> {
    /// The delay is zero.
    NotRequired,
    /// The delay has not passed for any version.
    Waiting,
    /// The delay has passed for the pending version with this key_id only.
    Over(&'a KeyId),
}

impl ActivationWait {
    /// Starts without a waiting version.
    #[must_use]
    pub fn new(delay: Duration) -> Self {
        let started = None;
        Self { delay, started }
    }

    /// Call this after an observation (not a discovery) with a durable and published result. A
    /// stable pending version starts to wait, or continues if it is the same as before; otherwise
    /// the wait is cleared. A failed probe leaves the wait as it is.
    pub fn observed(&mut self, published: &Registry, required: NonZeroU32, elapsed: Duration) {
        let stable = published
            .pending()
            .filter(|record| record.bookkeeping.is_stable(required))
            .map(|record| record.key.id());
        match (stable, &self.started) {
            (Some(key_id), Some((waiting, _))) if key_id == waiting => {}
            (stable, _) => self.started = stable.map(|key_id| (key_id.clone(), elapsed)),
        }
    }

    /// State of the wait at `elapsed`.
    #[must_use]
    pub fn activation(&self, elapsed: Duration) -> Activation<'_> {
        match &self.started {
            _ if self.delay.is_zero() => Activation::NotRequired,
            Some((key_id, started)) if elapsed.saturating_sub(*started) >= self.delay => {
                Activation::Over(key_id)
            }
            _ => Activation::Waiting,
        }
    }
}

impl Activation<'_> {
    pub(super) fn is_over_for(self, key_id: &KeyId) -> bool {
        match self {
            Self::NotRequired => true,
            Self::Waiting => false,
            Self::Over(waited) => waited == key_id,
        }
    }
}
