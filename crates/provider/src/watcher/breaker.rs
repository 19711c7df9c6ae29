//! Backs off from a failing OpenBao: after three failures in a row a probe is skipped for 30 s,
//! then one attempt is let through.

use std::time::Duration;

use tokio::time::Instant;

const FAILURES_TO_OPEN: u32 = 3;
const OPEN_FOR: Duration = Duration::from_secs(30);

/// Counts the failures of one kind of probe.
#[derive(Debug, Default)]
pub struct Breaker {
    failures: u32,
    opened_at: Option<Instant>,
}

impl Breaker {
    /// Whether the probe is to be skipped at `now`.
    #[must_use]
    pub fn is_open(&self, now: Instant) -> bool {
        self.opened_at
            .is_some_and(|opened| now.duration_since(opened) < OPEN_FOR)
    }

    /// OpenBao answered: forget all failures.
    pub fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// A counted failure at `now`.
    pub fn failed(&mut self, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        if self.failures >= FAILURES_TO_OPEN {
            self.opened_at = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn three_failures_open_it_and_a_fourth_after_the_pause_reopens_at_once() {
        let mut breaker = Breaker::default();
        for _ in 0..2 {
            breaker.failed(Instant::now());
            assert!(!breaker.is_open(Instant::now()));
        }
        breaker.failed(Instant::now());
        assert!(breaker.is_open(Instant::now()));
        tokio::time::advance(OPEN_FOR).await;
        assert!(
            !breaker.is_open(Instant::now()),
            "one attempt is let through"
        );
        breaker.failed(Instant::now());
        assert!(breaker.is_open(Instant::now()));
        tokio::time::advance(OPEN_FOR).await;
        breaker.succeeded();
        breaker.failed(Instant::now());
        assert!(!breaker.is_open(Instant::now()));
    }
}
