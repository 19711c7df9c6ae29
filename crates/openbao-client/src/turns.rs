//! Turns to use a connection, so that a slow OpenBao is asked by a bounded number of requests.
//!
//! Each purpose has turns of its own: calls that wait for a slow OpenBao take none of a probe or a
//! login, and encrypts take none of decrypts.

use std::fmt;

use tokio::sync::{Semaphore, SemaphorePermit};

/// Requests of one kind of KMS call at the same time. All limits on connections derive from it:
/// more of them make OpenBao hardly faster, and each connection costs a handshake and some 60 KiB.
pub const TURNS: usize = 16;

/// The reason for a request, which decides the turns that it waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// An Encrypt call, or one of the set-up of a lab: [`TURNS`].
    Encrypt,
    /// A Decrypt call: [`TURNS`].
    Decrypt,
    /// A probe, or a question about the server, the key or the token: an eighth of [`TURNS`].
    Probe,
    /// A login or a renewal: an eighth of [`TURNS`].
    Login,
}

impl Purpose {
    /// All purposes.
    pub const ALL: [Self; 4] = [Self::Encrypt, Self::Decrypt, Self::Probe, Self::Login];

    /// The word in reports.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Encrypt => "encrypt",
            Self::Decrypt => "decrypt",
            Self::Probe => "probe",
            Self::Login => "login",
        }
    }

    /// Requests of this purpose at the same time.
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

    /// Waits for a turn. The semaphores are never closed, so there is always one to wait for.
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
