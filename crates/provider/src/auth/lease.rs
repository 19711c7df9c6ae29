//! How old a token is, by two clocks.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use openbao_client::token::{Lease, Token};
use tokio::time::Instant;

/// One point in time on both clocks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    /// Never jumps, but may stand still while the machine sleeps.
    pub(super) elapsed: Instant,
    /// May jump.
    pub(super) wall: SystemTime,
}

/// A token and what is left of its lease.
pub(super) struct LiveToken {
    pub(super) token: Arc<Token>,
    lease: Lease,
    /// Before the request that brought the lease, so that ours never ends after OpenBao's.
    since: Moment,
    /// The greatest age seen: a wall clock that is set back does not give life back.
    age: Duration,
}

impl LiveToken {
    pub(super) fn new(token: Arc<Token>, lease: Lease, since: Moment) -> Self {
        Self {
            token,
            lease,
            since,
            age: Duration::ZERO,
        }
    }

    /// When it was asked for.
    pub(super) fn since(&self) -> Instant {
        self.since.elapsed
    }

    pub(super) fn granted(&self) -> Duration {
        self.lease.duration
    }

    pub(super) fn renewable(&self) -> bool {
        self.lease.renewable
    }

    /// By our clocks, for the choice of when to replace the token; OpenBao alone ends it. Zero once
    /// the lease should be over.
    pub(super) fn remaining(&mut self, now: Moment) -> Duration {
        let elapsed = now.elapsed.saturating_duration_since(self.since.elapsed);
        let wall = now.wall.duration_since(self.since.wall).unwrap_or_default();
        self.age = self.age.max(elapsed).max(wall);
        self.lease.duration.saturating_sub(self.age)
    }
}
