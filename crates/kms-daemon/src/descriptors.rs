//! Budget of file descriptors: clients may use only the spare ones, so the daemon always has
//! descriptors for OpenBao and its state.

use rustix::process::{Resource, getrlimit};

/// For connections to OpenBao (36, one per concurrent request slot), the state and other files,
/// listeners, log and runtime (18).
const RESERVED: u64 = 54;
/// An API server uses one connection for each KMS entry.
const KMS: (u64, u64) = (4, 256);
/// A request takes milliseconds.
const HTTP: (u64, u64) = (2, 32);

/// Limits on concurrent client connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connections {
    /// Limit of the KMS socket.
    pub kms: usize,
    /// Limit of each of the health and metrics listeners.
    pub http: usize,
}

impl Connections {
    /// The limits for `RLIMIT_NOFILE` of this process.
    #[must_use]
    pub fn permitted() -> Self {
        Self::under(getrlimit(Resource::Nofile).current)
    }

    /// `None` is unlimited.
    fn under(limit: Option<u64>) -> Self {
        let spare = limit.unwrap_or(u64::MAX).saturating_sub(RESERVED);
        let http = (spare / 5).clamp(HTTP.0, HTTP.1);
        let kms = spare.saturating_sub(2 * http).clamp(KMS.0, KMS.1);
        let [kms, http] = [kms, http].map(|it| usize::try_from(it).unwrap_or(usize::MAX));
        Self { kms, http }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_leave_what_the_daemon_needs() {
        for (limit, kms, http) in [
            (None, 256, 32),
            (Some(1024), 256, 32),
            (Some(128), 46, 14),
            (Some(64), 6, 2),
            (Some(16), 4, 2),
        ] {
            assert_eq!(Connections::under(limit), Connections { kms, http });
        }
    }
}
