//! A promotion that is due: the version proves itself first, then both are published together, so
//! that no node is unhealthy between the promotion and the first deep probe after it.

use std::sync::Arc;

use super::Transition;
use crate::{key::TransitKey, registry::ProbeKey};

/// The newest version is stable and its activation wait is over.
///
/// Run the deep probe with [`candidate`](Self::candidate). If it passes, commit what
/// [`promote`](Self::promote) gives and publish it as active and proven at once; if it fails,
/// commit what [`postpone`](Self::postpone) gives, if anything. The next observation is due again.
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

    /// What the deep probe has to try.
    #[must_use]
    pub fn candidate(&self) -> &ProbeKey {
        &self.candidate
    }

    /// The promotion itself. Only for a candidate that has passed the deep probe.
    #[must_use]
    pub fn promote(self) -> Transition {
        self.promoted
    }

    /// What the observation recorded besides; `None` if nothing.
    #[must_use]
    pub fn postpone(self) -> Option<Transition> {
        self.unpromoted
    }
}
