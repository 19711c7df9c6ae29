//! A promotion that is due. The candidate is probed first, then published together with its proof,
//! so that a node stays healthy between the promotion and its next deep probe.

use std::sync::Arc;

use super::Transition;
use crate::{key::TransitKey, registry::ProbeKey};

/// The newest version is stable and its activation wait is over.
///
/// Run the deep probe with [`candidate`](Self::candidate). After success, commit the result of
/// [`promote`](Self::promote) and publish it as active and proven at once. After failure, commit
/// the result of [`postpone`](Self::postpone), if any; the next observation is due again.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "a due promotion is either made or postponed"]
pub struct Promotion {
    candidate: ProbeKey,
    promoted: Transition,
    unpromoted: Option<Transition>,
}

impl Promotion {
    pub(super) fn new(
        candidate: Arc<TransitKey>,
        promoted: Transition,
        unpromoted: Option<Transition>,
    ) -> Self {
        Self {
            candidate: ProbeKey(candidate),
            promoted,
            unpromoted,
        }
    }

    /// The version for the deep probe.
    #[must_use]
    pub fn candidate(&self) -> &ProbeKey {
        &self.candidate
    }

    /// The promotion. Call it only after the candidate has passed the deep probe.
    #[must_use]
    pub fn promote(self) -> Transition {
        self.promoted
    }

    /// The transition without the promotion, if the observation changed anything.
    #[must_use]
    pub fn postpone(self) -> Option<Transition> {
        self.unpromoted
    }
}
