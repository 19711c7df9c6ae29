//! Concurrency limits, so that a slow OpenBao gets a bounded number of requests.
//!
//! Each purpose has its own turns. Calls that wait for a slow OpenBao block neither probes nor
//! logins, and encrypts do not block decrypts.

use std::fmt;

use tokio::sync::{Semaphore, SemaphorePermit};

/// Concurrent requests of one kind of KMS call. All limits on connections derive from it: more of
/// them add little throughput, and each connection costs a handshake and about 60 KiB.
pub const TURNS: usize = 16;

/// Purpose of a request; it selects the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// An Encrypt call, or a set-up request of the lab mode: [`TURNS`].
    Encrypt,
    /// A Decrypt call: [`TURNS`].
    Decrypt,
    /// A probe, or a read of server, key or token state: an eighth of [`TURNS`].
    Probe,
    /// A login or a renewal: an eighth of [`TURNS`].
    Login,
}

impl Purpose {
    /// All purposes.
    pub const ALL: [Self; 4] = [Self::Encrypt, Self::Decrypt, Self::Probe, Self::Login];

    /// Label in reports.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Encrypt => "encrypt",
            Self::Decrypt => "decrypt",
            Self::Probe => "probe",
            Self::Login => "login",
        }
    }

    /// Limit of concurrent requests of this purpose.
    #[must_use]
    pub fn turns(self) -> usize {
        match self {
            Self::Encrypt | Self::Decrypt => TURNS,
            Self::Probe | Self::Login => TURNS / 8,
        }
    }
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// The turns of one client.
pub(crate) struct Turns([Semaphore; 4]);

impl Turns {
    pub(crate) fn new() -> Self {
        Self(Purpose::ALL.map(|purpose| Semaphore::new(purpose.turns())))
    }

    /// Waits for a turn. Always returns a permit: the semaphores are never closed.
    pub(crate) async fn take(&self, purpose: Purpose) -> Option<SemaphorePermit<'_>> {
        self.of(purpose).acquire().await.ok()
    }

    pub(crate) fn in_use(&self, purpose: Purpose) -> usize {
        purpose.turns() - self.of(purpose).available_permits()
    }

    fn of(&self, purpose: Purpose) -> &Semaphore {
        let [encrypt, decrypt, probe, login] = &self.0;
        match purpose {
            Purpose::Encrypt => encrypt,
            Purpose::Decrypt => decrypt,
            Purpose::Probe => probe,
            Purpose::Login => login,
        }
    }
}
