//! The activation wait: the time in which the other nodes learn to decrypt under a new version
//! before any node encrypts with it.
//!
//! It lives in memory alone and on the monotonic clock, so neither a stored time nor a step of the
//! wall clock ever ends it. After a restart it begins anew.

use std::{num::NonZeroU32, time::Duration};

use crate::{key_id::KeyId, registry::Registry};

/// The wait for one pending version at a time. `elapsed` is monotonic, from any fixed origin.
#[derive(Debug, Clone)]
pub struct ActivationWait {
    delay: Duration,
    started: Option<(KeyId, Duration)>,
}

/// Whose wait is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation<'a> {
    /// Everyone's: the delay is zero.
    NotRequired,
    /// No one's.
    Waiting,
    /// That of the pending version with this key_id, and of no other.
    Over(&'a KeyId),
}

impl ActivationWait {
    /// No version is waited for yet.
    #[must_use]
    pub fn new(delay: Duration) -> Self {
        let started = None;
        Self { delay, started }
    }

    /// To be called after an observation (not a discovery) whose outcome is durable and
    /// published. A stable pending version starts to wait, or goes on if it is the same as before;
    /// otherwise no version waits. A failed probe leaves the wait as it is.
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

    /// Whose wait is over at `elapsed`.
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
