//! Login with a user name and a password from a file.

use std::time::{Duration, SystemTime};

use kms_domain::scope::MountPath;
use serde::Serialize;

use crate::{
    client::Client,
    failure::Failure,
    login::{
        Grant, Login, LoginFailure, Pending, Renewal, exchange, renew_self, secret_file::SecretFile,
    },
    request::{Operation, Request},
    token::Token,
};

/// A user of OpenBao's userpass auth method.
pub struct Userpass {
    /// Client for login and renewal.
    pub client: Client,
    /// Mount path, for example `auth/userpass`.
    pub mount_path: MountPath,
    /// Name of the user.
    pub username: String,
    /// File with the password.
    pub password: SecretFile,
}

#[derive(Serialize)]
struct Body<'a> {
    password: &'a str,
}

impl Login for Userpass {
    fn check(&self, _: SystemTime) -> Pending<'_, Result<Option<SystemTime>, LoginFailure>> {
        Box::pin(async {
            self.password.read().await.map_err(LoginFailure::Secret)?;
            Ok(None)
        })
    }

    fn log_in(
        &self,
        _: SystemTime,
        deadline: Duration,
    ) -> Pending<'_, Result<Grant, LoginFailure>> {
        Box::pin(async move {
            let password = self.password.read().await.map_err(LoginFailure::Secret)?;
            let path = format!("{}/login/{}", self.mount_path, self.username);
            let request = Request::post(Operation::UserpassLogin, path).json(&Body {
                password: &password,
            });
            let granted = exchange(&self.client, request, None, deadline).await;
            granted.map_err(LoginFailure::OpenBao)
        })
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
