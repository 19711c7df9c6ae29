//! Discovery: handles a decrypt with a key_id unknown on this node, usually because a peer has
//! promoted it first. One metadata read serves all waiting requests, with at most one read per
//! probe interval.
//!
//! A request only triggers the read; its key_id has no influence on the key to read.

use std::time::Duration;

use kms_domain::key_id::KeyId;
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

/// Maximum number of waiting requests; more are refused.
const QUEUE: usize = 64;

/// Requests discoveries from the watcher. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Discovery(mpsc::Sender<Wanted>);

#[derive(Debug)]
pub struct Wanted {
    pub(super) key_id: KeyId,
    answer: oneshot::Sender<Result<(), DiscoveryFailed>>,
}

/// Why a discovery failed, now or within the last probe interval. The log and `/ready` have the
/// details.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DiscoveryFailed {
    /// A request to OpenBao failed.
    #[error("the key's metadata could not be read")]
    Unanswered,
    /// The key or the state is unusable.
    #[error("the key's metadata was refused")]
    Refused,
    /// The queue of waiting requests is full.
    #[error("too many requests for the key's metadata")]
    Busy,
}

/// Rate limit of discoveries, including failed ones.
#[derive(Debug)]
pub struct Limiter {
    interval: Duration,
    last: Option<(Instant, Result<(), DiscoveryFailed>)>,
}

#[must_use]
pub fn channel() -> (Discovery, mpsc::Receiver<Wanted>) {
    let (send, receive) = mpsc::channel(QUEUE);
    (Discovery(send), receive)
}

impl Discovery {
    /// Waits for a discovery, or returns the result of a recent one. After `Ok`, look the key_id up
    /// again: it may still be unknown. Dropping the future cancels this wait only.
    ///
    /// # Errors
    /// [`DiscoveryFailed`].
    pub async fn ask(&self, key_id: KeyId) -> Result<(), DiscoveryFailed> {
        let (answer, answered) = oneshot::channel();
        self.0
            .try_send(Wanted { key_id, answer })
            .map_err(|_| DiscoveryFailed::Busy)?;
        answered.await.unwrap_or(Err(DiscoveryFailed::Busy))
    }
}

impl Wanted {
    pub(super) fn answer(self, result: Result<(), DiscoveryFailed>) {
        // A dropped receiver needs no answer.
        self.answer.send(result).ok();
    }
}

impl Limiter {
    /// Creates a limiter; the first discovery is free.
    #[must_use]
    pub fn new(interval: Duration) -> Self {
        Self {
            interval,
            last: None,
        }
    }

    /// The result of a discovery started less than an interval ago.
    #[must_use]
    pub fn recent(&self, now: Instant) -> Option<Result<(), DiscoveryFailed>> {
        let (started, result) = self.last.as_ref()?;
        (now.duration_since(*started) < self.interval).then_some(*result)
    }

    /// Records a successful probe, which makes an earlier failure obsolete.
    pub fn recovered(&mut self) {
        self.last = self.last.filter(|(_, result)| result.is_ok());
    }

    /// Records the end of a discovery that began at `started`.
    pub fn ended(&mut self, started: Instant, result: Result<(), DiscoveryFailed>) {
        self.last = Some((started, result));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_discovery_an_interval_whatever_came_of_it() {
        let mut limiter = Limiter::new(Duration::from_secs(30));
        let start = Instant::now();
        assert_eq!(limiter.recent(start), None);
        limiter.ended(start, Err(DiscoveryFailed::Refused));
        tokio::time::advance(Duration::from_secs(29)).await;
        assert_eq!(
            limiter.recent(Instant::now()),
            Some(Err(DiscoveryFailed::Refused))
        );
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(limiter.recent(Instant::now()), None);

        limiter.ended(Instant::now(), Err(DiscoveryFailed::Unanswered));
        limiter.recovered();
        assert_eq!(limiter.recent(Instant::now()), None);
        limiter.ended(Instant::now(), Ok(()));
        limiter.recovered();
        assert_eq!(limiter.recent(Instant::now()), Some(Ok(())));
    }
}
