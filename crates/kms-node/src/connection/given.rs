//! A login with an existing token, granted once.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use openbao_client::{
    client::Client,
    failure::{Failure, FailureClass},
    login::{Grant, Login, LoginFailure, Pending, Renewal, renew_self},
    request::Operation,
    token::Token,
};

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
        let over = || Failure::new(Operation::TokenRenewSelf, FailureClass::Unauthenticated);
        Box::pin(async move { grant.ok_or_else(|| LoginFailure::OpenBao(over())) })
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
