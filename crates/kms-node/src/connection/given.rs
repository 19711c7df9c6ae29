//! A login with an existing token, granted once.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use openbao_client::{
    client::Client,
    failure::Failure,
    login::{Grant, Login, LoginFailure, Pending, Renewal, renew_self},
    token::{Lease, Token},
};

/// Longer than any one-shot command. OpenBao ends the token at its own time.
const ASSUMED_LEASE: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// The grant of a given token.
pub(super) fn grant(token: Token) -> Grant {
    Grant {
        token,
        lease: Lease {
            duration: ASSUMED_LEASE,
            renewable: false,
            uses: None,
        },
        credential_expires: None,
    }
}

/// Holds the token until the session requests it.
pub(super) struct GivenToken {
    client: Client,
    grant: Mutex<Option<Grant>>,
}

impl GivenToken {
    pub(super) fn new(client: Client, grant: Grant) -> Self {
        Self {
            client,
            grant: Mutex::new(Some(grant)),
        }
    }
}

impl Login for GivenToken {
    fn check(&self, _: SystemTime) -> Pending<'_, Result<Option<SystemTime>, LoginFailure>> {
        Box::pin(async { Ok(None) })
    }

    fn log_in(&self, _: SystemTime, _: Duration) -> Pending<'_, Result<Grant, LoginFailure>> {
        let grant = self.grant.lock().unwrap_or_else(PoisonError::into_inner);
        let grant = { grant }.take();
        // There is no second token: the first one was rejected or has expired.
        Box::pin(async move { grant.ok_or(LoginFailure::GivenToken) })
    }

    fn renew<'a>(
        &'a self,
        token: &'a Token,
        increment: Duration,
        deadline: Duration,
    ) -> Pending<'a, Result<Renewal, Failure>> {
        Box::pin(renew_self(&self.client, token, increment, deadline))
    }
}
