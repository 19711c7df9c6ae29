//! Discovery: a decrypt names a key_id that this node does not know, since a peer was faster to
//! promote. One reading of metadata serves all who wait, at most one per probe interval.
//!
//! A request can only ask; which key and version are looked at is not its choice.

use std::time::Duration;

use kms_domain::key_id::KeyId;
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

/// Requests that wait for the watcher at once; more are refused.
const QUEUE: usize = 64;

/// Asks the watcher. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Discovery(mpsc::Sender<Wanted>);

/// A request for a discovery.
#[derive(Debug)]
pub struct Wanted {
    pub(super) key_id: KeyId,
    answer: oneshot::Sender<Result<(), DiscoveryFailed>>,
}

/// Why there is no news about the key, now or within the last probe interval. The details are in the
/// log and on `/ready`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DiscoveryFailed {
    /// OpenBao gave no answer.
    #[error("the key's metadata could not be read")]
    Unanswered,
    /// The key or the state is not fit for use.
    #[error("the key's metadata was refused")]
    Refused,
    /// Too many requests wait for the watcher already.
    #[error("too many requests for the key's metadata")]
    Busy,
}

/// Limits how often a discovery reads metadata, failures included.
#[derive(Debug)]
pub struct Limiter {
    interval: Duration,
    last: Option<(Instant, Result<(), DiscoveryFailed>)>,
}

/// Both ends.
#[must_use]
pub fn channel() -> (Discovery, mpsc::Receiver<Wanted>) {
    let (send, receive) = mpsc::channel(QUEUE);
    (Discovery(send), receive)
}

impl Discovery {
    /// Waits until the watcher has looked, or has looked lately. `Ok` does not mean found: look
    /// the key_id up again. Dropping the future ends this wait alone.
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
        // Who has gone away needs no answer.
        self.answer.send(result).ok();
    }
}

impl Limiter {
    /// The first discovery is free.
    #[must_use]
    pub fn new(interval: Duration) -> Self {
        Self {
            interval,
            last: None,
        }
    }

    /// What a discovery gave less than an interval ago.
    #[must_use]
    pub fn recent(&self, now: Instant) -> Option<Result<(), DiscoveryFailed>> {
        let (started, result) = self.last.as_ref()?;
        (now.duration_since(*started) < self.interval).then_some(*result)
    }

    /// A probe has read the metadata: an earlier failure is no answer any more.
    pub fn recovered(&mut self) {
        self.last = self.last.filter(|(_, result)| result.is_ok());
    }

    /// A discovery that began at `started` has ended.
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
