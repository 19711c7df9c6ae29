//! A login that was made already: it grants its token once.

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

/// Holds the token until the session asks for it.
pub(super) struct Given {
    client: Client,
    grant: Mutex<Option<Grant>>,
}

impl Given {
    pub(super) fn new(client: Client, grant: Grant) -> Self {
        Self {
            client,
            grant: Mutex::new(Some(grant)),
        }
    }
}

impl Login for Given {
    fn log_in(&self, _: SystemTime, _: Duration) -> Pending<'_, Result<Grant, LoginFailure>> {
        let grant = self.grant.lock().unwrap_or_else(PoisonError::into_inner);
        let grant = { grant }.take();
        // There is no second one: the first was refused or has expired.
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
