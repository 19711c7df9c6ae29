//! Looks at the JWT file between logins: a token that is renewed outlives the JWT that bought it,
//! so a file that nobody renews any more would show only when the next login fails.

use std::time::{Duration, SystemTime};

use openbao_client::login::{LoginFailure, jwt::Jwt, jwt_file::JwtSource};
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};

use crate::clock::{Clock as _, SystemClock};

/// When the JWT in the file ends. Cheap to clone.
#[derive(Debug, Clone)]
pub struct JwtLife(watch::Receiver<Option<SystemTime>>);

impl JwtLife {
    /// What is left at this moment. Zero also for a JWT that cannot be used, or whose file cannot
    /// be read; `None` before the first look.
    #[must_use]
    pub fn remaining(&self) -> Option<Duration> {
        let ends = (*self.0.borrow())?;
        Some(ends.duration_since(SystemClock.now()).unwrap_or_default())
    }
}

/// The reader, and the work that looks at the file again and again.
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
