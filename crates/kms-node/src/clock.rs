//! The wall clock as a trait, to let tests set it. Elapsed time comes from
//! [`tokio::time::Instant`], which tests pause.

use std::time::{SystemTime, UNIX_EPOCH};

/// Wall-clock time. It may jump, so data safety must not depend on it alone.
pub trait Clock: Send + Sync {
    fn now(&self) -> SystemTime;

    /// Whole seconds after the Unix epoch; 0 for a clock set before it.
    fn unix_seconds(&self) -> u64 {
        self.now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs())
    }
}

/// The clock of the machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the one clock of the process"
    )]
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }
}
