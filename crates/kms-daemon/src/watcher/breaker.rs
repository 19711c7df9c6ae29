//! Retry pace of a failing probe: about every second, with jitter, to detect a recovery of OpenBao
//! within two seconds. After three failures in a row, the breaker is open until a success.

use std::time::Duration;

use kms_node::jitter::spread;
use tokio::time::Instant;

const FAILURES_TO_OPEN: u32 = 3;

/// Interval between the starts of two attempts, before jitter of a quarter in both directions.
/// Jitter desynchronizes the nodes after a common outage.
pub(super) const PAUSE: Duration = Duration::from_secs(1);
/// Minimum pause after an attempt, even one longer than [`PAUSE`].
const REST: Duration = Duration::from_millis(250);

/// Counts the failures of one kind of probe.
#[derive(Debug, Default)]
pub struct Breaker {
    failures: u32,
    retry_at: Option<Instant>,
}

impl Breaker {
    /// Whether at least three probes in a row have failed.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.failures >= FAILURES_TO_OPEN
    }

    /// Time of the next attempt of a failing probe; `None` after a success.
    #[must_use]
    pub fn retry_at(&self) -> Option<Instant> {
        self.retry_at
    }

    /// Resets all failures after a success.
    pub fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// Records a failure at `now` of an attempt that began at `began`.
    pub fn failed(&mut self, began: Instant, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        self.retry_at = Some((began + spread(PAUSE)).max(now + REST));
    }

    /// Allows the next attempt at `at`, after the success of another call.
    pub fn half_open(&mut self, at: Instant) {
        self.retry_at = self.retry_at.map(|retry| retry.min(at));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn three_failures_open_it_until_a_success() {
        let mut breaker = Breaker::default();
        for failures in 1..=4 {
            assert_eq!(breaker.is_open(), failures > 3);
            breaker.failed(Instant::now(), Instant::now());
        }
        breaker.succeeded();
        assert!(!breaker.is_open());
        assert_eq!(breaker.retry_at(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn an_attempt_follows_about_a_second_after_the_last_however_many_have_failed() {
        let mut breaker = Breaker::default();
        let mut pauses = Vec::new();
        for _ in 0..100 {
            let now = Instant::now();
            breaker.failed(now, now);
            let pause = breaker.retry_at().unwrap() - now;
            assert!(
                pause >= PAUSE * 3 / 4 && pause <= PAUSE * 5 / 4,
                "{pause:?}"
            );
            pauses.push(pause);
        }
        pauses.dedup();
        assert!(pauses.len() > 1, "no jitter");

        let began = Instant::now();
        tokio::time::advance(PAUSE * 4).await;
        breaker.failed(began, Instant::now());
        assert_eq!(breaker.retry_at(), Some(Instant::now() + REST));
        breaker.half_open(Instant::now());
        assert_eq!(breaker.retry_at(), Some(Instant::now()));
        breaker.half_open(Instant::now() + PAUSE);
        assert_eq!(breaker.retry_at(), Some(Instant::now()), "never later");
    }
}
