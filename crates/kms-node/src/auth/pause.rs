//! Rate limits of logins: after failures, and after calls denied by policy.

use std::time::Duration;

use tokio::time::Instant;

use crate::jitter::spread;

/// Pause after a failure without a refusal, and after the first refusal.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(60);

const FIRST_RECOVERY: Duration = Duration::from_secs(5);
const LONGEST_RECOVERY: Duration = Duration::from_secs(5 * 60);
const RECOVERY_FORGOTTEN: Duration = Duration::from_secs(10 * 60);

/// Cause of a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// OpenBao refused the login: an immediate retry would fail too.
    Refused,
    /// The request was not sent or OpenBao was unavailable. It may recover at any moment.
    Absent,
}

/// The pause after a failed attempt: 1 s, doubling to 60 s while OpenBao refuses. Each pause is
/// spread by a quarter, so the nodes of a cluster do not retry together.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
    refusals: u32,
    pause: Option<(Instant, Cause)>,
}

impl Backoff {
    /// A login granted a token.
    pub(super) fn succeeded(&mut self) {
        self.failures = 0;
        self.pause = None;
    }

    /// OpenBao accepted the token in a call.
    pub(super) fn token_worked(&mut self) {
        self.refusals = 0;
        if matches!(self.pause, Some((_, Cause::Absent))) {
            self.pause = None;
        }
    }

    /// Ends the pause.
    pub(super) fn permit(&mut self) {
        self.pause = None;
    }

    pub(super) fn failed(&mut self, now: Instant, cause: Cause) {
        let pause = match cause {
            Cause::Refused => retry_pause(self.refusals),
            Cause::Absent => FIRST_RETRY,
        };
        if cause == Cause::Refused {
            self.refusals = self.refusals.saturating_add(1);
        }
        self.failures = self.failures.saturating_add(1);
        self.pause = Some((now + spread(pause).min(LONGEST_RETRY), cause));
    }

    /// Failed attempts in a row.
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    /// The rest of the pause; `None` if an attempt may start.
    pub(super) fn remaining(&self, now: Instant) -> Option<Duration> {
        let (until, _) = self.pause?;
        let rest = until.saturating_duration_since(now);
        (!rest.is_zero()).then_some(rest)
    }
}

fn retry_pause(refusals: u32) -> Duration {
    let factor = 2_u32.saturating_pow(refusals);
    FIRST_RETRY.saturating_mul(factor).min(LONGEST_RETRY)
}

/// Rate limit of logins after a policy denial, because a new token rarely has other policies. The
/// first login is immediate, the next comes after 5 s, doubling to 5 min.
#[derive(Debug, Default)]
pub(super) struct RecoveryLimit {
    last_denial: Option<Instant>,
    next: Option<(Instant, Duration)>,
}

impl RecoveryLimit {
    /// Records a denial; returns whether a login may follow now.
    pub(super) fn denied(&mut self, now: Instant) -> bool {
        let last = self.last_denial.replace(now);
        if last.is_some_and(|last| now - last >= RECOVERY_FORGOTTEN) {
            self.next = None;
        }
        let pause = match self.next {
            None => FIRST_RECOVERY,
            Some((at, _)) if now < at => return false,
            Some((_, pause)) => (pause * 2).min(LONGEST_RECOVERY),
        };
        self.next = Some((now + pause, pause));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_double_to_a_minute() {
        let seconds: Vec<u64> = (0..9).map(|n| retry_pause(n).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(retry_pause(u32::MAX), LONGEST_RETRY);
    }

    #[test]
    fn only_refusals_are_spaced_ever_wider() {
        let now = Instant::now();
        let mut backoff = Backoff::default();
        let longest = Duration::from_millis(1250);
        for failure in 1..=100 {
            backoff.failed(now, Cause::Absent);
            assert!(backoff.remaining(now).unwrap() <= longest, "{failure}");
        }
        assert_eq!(backoff.failures(), 100);
        for _ in 0..7 {
            backoff.failed(now, Cause::Refused);
        }
        backoff.succeeded();
        // A grant alone is no proof that the token is accepted.
        backoff.failed(now, Cause::Refused);
        assert!(backoff.remaining(now).unwrap() > 30 * FIRST_RETRY);
        backoff.token_worked();
        assert!(backoff.remaining(now).is_some(), "OpenBao still refuses");
        backoff.failed(now, Cause::Absent);
        backoff.token_worked();
        assert_eq!(backoff.remaining(now), None);
        backoff.failed(now, Cause::Refused);
        assert!(backoff.remaining(now).unwrap() <= longest);
    }

    #[test]
    fn the_spread_does_not_exceed_the_longest_pause() {
        let now = Instant::now();
        for _ in 0..100 {
            let mut backoff = Backoff::default();
            (0..7).for_each(|_| backoff.failed(now, Cause::Refused));
            assert!(backoff.remaining(now).unwrap() <= LONGEST_RETRY);
        }
    }

    #[test]
    fn recoveries_are_spaced_and_forgotten_after_ten_quiet_minutes() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut limit = RecoveryLimit::default();
        let mut allowed = Vec::new();
        for second in 0..1500 {
            if limit.denied(at(second)) {
                allowed.push(second);
            }
        }
        assert_eq!(allowed, [0, 5, 15, 35, 75, 155, 315, 615, 915, 1215]);
        // 1499 was the last denial.
        assert!(limit.denied(at(2099)));
        assert!(!limit.denied(at(2103)));
        assert!(limit.denied(at(2104)));
    }
}
