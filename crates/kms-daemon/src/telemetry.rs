//! Telemetry of the provider: log lines, metrics, and the health endpoints.

pub mod accept;
pub mod correlation;
pub mod credential_life;
pub mod endpoints;
pub mod eviction;
pub mod health;
pub mod hooks;
pub mod log;
pub mod metrics;
pub mod process;
pub mod readings;

use std::time::Duration;

/// A duration in the log: milliseconds with the precision of microseconds.
#[must_use]
pub fn milliseconds(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_logged_duration_has_no_digits_below_a_microsecond() {
        let logged = milliseconds(Duration::from_nanos(41_576_381));
        assert_eq!(logged.to_string(), "41.576");
    }
}
