//! Reads the credential between logins. A renewed token outlives the credential of its login, so an
//! outdated file would otherwise show only at the next failed login.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use kms_node::clock::{Clock as _, SystemClock};
use openbao_client::login::Login;
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};

/// Expiry of the credential. Cheap to clone.
#[derive(Debug, Clone)]
pub struct CredentialLife(watch::Receiver<Option<SystemTime>>);

impl CredentialLife {
    /// The remaining life. Zero also for an unusable credential or an unreadable file; `None` before
    /// the first read, and for a credential that does not expire.
    #[must_use]
    pub fn remaining(&self) -> Option<Duration> {
        let ends = (*self.0.borrow())?;
        Some(ends.duration_since(SystemClock.now()).unwrap_or_default())
    }
}

/// Creates the reader, and the task that repeatedly reads the credential.
pub fn follow(
    login: Arc<dyn Login>,
    every: Duration,
) -> (CredentialLife, impl Future<Output = ()> + Send + 'static) {
    let (sender, latest) = watch::channel(None);
    let following = async move {
        let mut pace = interval(every);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            pace.tick().await;
            let now = SystemClock.now();
            let ends = match login.check(now).await {
                Ok(expires) => expires,
                Err(unusable) => Some(now + unusable.credential_remaining().unwrap_or_default()),
            };
            sender.send_replace(ends);
        }
    };
    (CredentialLife(latest), following)
}
