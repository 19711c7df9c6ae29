//! Reads the JWT file between logins. A renewed token outlives the JWT of its login, so an outdated
//! file would otherwise show only at the next failed login.

use std::time::{Duration, SystemTime};

use kms_node::clock::{Clock as _, SystemClock};
use openbao_client::login::{LoginFailure, jwt::Jwt, jwt_file::JwtSource};
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};

/// Expiry of the JWT in the file. Cheap to clone.
#[derive(Debug, Clone)]
pub struct JwtLife(watch::Receiver<Option<SystemTime>>);

impl JwtLife {
    /// The remaining life. Zero also for an unusable JWT or an unreadable file; `None` before the
    /// first read.
    #[must_use]
    pub fn remaining(&self) -> Option<Duration> {
        let ends = (*self.0.borrow())?;
        Some(ends.duration_since(SystemClock.now()).unwrap_or_default())
    }
}

/// Creates the reader, and the task that repeatedly reads the file.
pub fn follow(
    source: JwtSource,
    every: Duration,
) -> (JwtLife, impl Future<Output = ()> + Send + 'static) {
    let (sender, latest) = watch::channel(None);
    let following = async move {
        let mut pace = interval(every);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            pace.tick().await;
            let now = SystemClock.now();
            let ends = ends(source.read(now).await, now);
            sender.send_replace(Some(ends));
        }
    };
    (JwtLife(latest), following)
}

fn ends(read: Result<Jwt, LoginFailure>, now: SystemTime) -> SystemTime {
    match read {
        Ok(jwt) => jwt.expires(),
        Err(unusable) => now + unusable.credential_remaining().unwrap_or_default(),
    }
}
