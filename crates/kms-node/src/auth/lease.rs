//! Age of a token, measured by two clocks.

use std::{
    num::NonZeroU32,
    sync::Arc,
    time::{Duration, SystemTime},
};

use openbao_client::token::{Lease, Token};
use tokio::time::Instant;

/// One point in time on both clocks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    /// Monotonic, but may stop while the machine sleeps.
    pub(super) elapsed: Instant,
    /// May jump.
    pub(super) wall: SystemTime,
}

/// A token with its lease.
pub(super) struct LiveToken {
    pub(super) token: Arc<Token>,
    lease: Lease,
    /// Taken before the login or renewal request, so the local expiry is never later than
    /// OpenBao's.
    since: Moment,
    /// The greatest age measured: setting the wall clock back does not extend the life.
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

    /// Start of its request.
    pub(super) fn since(&self) -> Instant {
        self.since.elapsed
    }

    pub(super) fn granted(&self) -> Duration {
        self.lease.duration
    }

    pub(super) fn renewable(&self) -> bool {
        self.lease.renewable
    }

    pub(super) fn uses(&self) -> Option<NonZeroU32> {
        self.lease.uses
    }

    /// Remaining life by local clocks, used to schedule a replacement; the expiry itself is up to
    /// OpenBao. Zero after the end of the lease.
    pub(super) fn remaining(&mut self, now: Moment) -> Duration {
        let elapsed = now.elapsed.saturating_duration_since(self.since.elapsed);
        let wall = now.wall.duration_since(self.since.wall).unwrap_or_default();
        self.age = self.age.max(elapsed).max(wall);
        self.lease.duration.saturating_sub(self.age)
    }
}
