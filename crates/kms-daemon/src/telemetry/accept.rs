//! Failed accepts in the log.

use std::{io, time::Duration};

use rustix::io::Errno;
use tokio::time::Instant;

/// Failures within this interval are counted and logged together.
const INTERVAL: Duration = Duration::from_secs(10);

/// Why an accept failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AcceptFailure {
    /// The process or the system has exhausted its file descriptors.
    NoDescriptors,
    /// The kernel is out of memory.
    NoMemory,
    Other,
}

impl AcceptFailure {
    pub const ALL: [Self; 3] = [Self::NoDescriptors, Self::NoMemory, Self::Other];

    /// The cause of an error of `accept`.
    fn of(error: &io::Error) -> Self {
        match Errno::from_io_error(error) {
            Some(Errno::MFILE | Errno::NFILE) => Self::NoDescriptors,
            Some(Errno::NOMEM | Errno::NOBUFS) => Self::NoMemory,
            _ => Self::Other,
        }
    }

    /// The bounded word in metrics and log.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoDescriptors => "no_descriptors",
            Self::NoMemory => "no_memory",
            Self::Other => "other",
        }
    }
}

/// The failures of one listener.
#[derive(Debug)]
pub struct AcceptFailures {
    listener: &'static str,
    logged: Option<Instant>,
    unlogged: u64,
}

impl AcceptFailures {
    /// Creates a counter for the listener with this bounded name.
    #[must_use]
    pub fn of(listener: &'static str) -> Self {
        Self {
            listener,
            logged: None,
            unlogged: 0,
        }
    }

    /// Logs a failure, unless the last line is more recent than 10 s.
    pub fn note(&mut self, error: &io::Error) -> AcceptFailure {
        let failure = AcceptFailure::of(error);
        self.unlogged += 1;
        let now = Instant::now();
        if self
            .logged
            .is_none_or(|last| now.duration_since(last) >= INTERVAL)
        {
            let (listener, reason, count) = (self.listener, failure.as_str(), self.unlogged);
            tracing::warn!(listener, reason, count, "listener.accept_failed");
            self.logged = Some(now);
            self.unlogged = 0;
        }
        failure
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn failures_are_logged_once_in_a_while_with_their_number() {
        let mut failures = AcceptFailures::of("kms");
        let full = io::Error::from(Errno::MFILE);
        assert_eq!(failures.note(&full), AcceptFailure::NoDescriptors);
        assert_eq!(failures.unlogged, 0);
        for expected in 1..5 {
            failures.note(&full);
            assert_eq!(failures.unlogged, expected);
        }
        tokio::time::advance(INTERVAL).await;
        let aborted = io::Error::from(Errno::CONNABORTED);
        assert_eq!(failures.note(&aborted), AcceptFailure::Other);
        assert_eq!(failures.unlogged, 0);
    }
}
