//! Login with a role ID and a secret ID from a file, which may hold it response-wrapped.
//!
//! A wrapping token is unwrapped once, after a lookup of the path that created it. A used token has
//! been intercepted, or served an earlier start of this provider; a token of another path has been
//! substituted.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use kms_domain::{digest::sha256_hex, scope::MountPath};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{
    client::Client,
    failure::{Failure, FailureClass},
    login::{
        Grant, Login, LoginFailure, Pending, Renewal, exchange, renew_self, secret_file::SecretFile,
    },
    request::{Operation, Request},
    token::Token,
};

/// A role of OpenBao's AppRole auth method.
pub struct AppRole {
    client: Client,
    mount_path: MountPath,
    role_id: String,
    secret: SecretFile,
    wrapping: Wrapping,
    /// The secret ID of the last wrapping token.
    unwrapped: Mutex<Option<Unwrapped>>,
}

/// Content of the secret file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrapping {
    /// The secret ID itself.
    Plain,
    /// A wrapping token. This process may unwrap it.
    Unwrap,
    /// A wrapping token for another process. Unwrapping it here would end that process's login.
    Reserved,
}

struct Unwrapped {
    /// SHA-256 of the wrapping token.
    digest: String,
    secret_id: Zeroizing<String>,
}

/// Error of a wrapping token. Contains neither the token nor its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WrappingProblem {
    /// The file has another form than a token.
    #[error("the file holds no wrapping token; a plain secret ID needs wrapped: false")]
    NotAToken,
    /// OpenBao does not know the token: it was unwrapped or has expired.
    #[error("the wrapping token was unwrapped before, or has expired")]
    Used,
    /// The token was created by another request than the secret ID of a role of this mount.
    #[error("the wrapping token was not created by the secret-id path of this login method")]
    OtherPath,
    /// The token wraps something else than a secret ID.
    #[error("the wrapping token holds no secret ID")]
    NoSecretId,
    /// The token is reserved for the running provider.
    #[error("the wrapped secret ID is reserved for the provider, which unwraps it once")]
    Reserved,
}

impl WrappingProblem {
    /// Error code for logs and reports.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::NotAToken => "not_wrapped",
            Self::Used => "secret_id_intercepted",
            Self::OtherPath => "secret_id_substituted",
            Self::NoSecretId => "wraps_no_secret_id",
            Self::Reserved => "secret_id_reserved",
        }
    }
}

#[derive(Serialize)]
struct Body<'a> {
    role_id: &'a str,
    secret_id: &'a str,
}

impl AppRole {
    /// A role of the method at `mount_path`, for example `auth/approle`.
    #[must_use]
    pub fn new(
        client: Client,
        mount_path: MountPath,
        role_id: String,
        secret: SecretFile,
        wrapping: Wrapping,
    ) -> Self {
        Self {
            client,
            mount_path,
            role_id,
            secret,
            wrapping,
            unwrapped: Mutex::default(),
        }
    }

    async fn secret_id(&self, deadline: Duration) -> Result<Zeroizing<String>, LoginFailure> {
        let content = self.secret.read().await.map_err(LoginFailure::Secret)?;
        if self.wrapping == Wrapping::Plain {
            return Ok(content);
        }
        let wrapping = wrapping_token(&content)?;
        let digest = sha256_hex(content.as_bytes());
        if let Some(known) = &*self.unwrapped()
            && known.digest == digest
        {
            return Ok(known.secret_id.clone());
        }
        if self.wrapping == Wrapping::Reserved {
            return Err(WrappingProblem::Reserved.into());
        }

        let secret_id = self.unwrap(&wrapping, deadline).await?;
        *self.unwrapped() = Some(Unwrapped {
            digest,
            secret_id: secret_id.clone(),
        });
        Ok(secret_id)
    }

    /// Looks up the wrapping token, then unwraps it.
    async fn unwrap(
        &self,
        wrapping: &Token,
        deadline: Duration,
    ) -> Result<Zeroizing<String>, LoginFailure> {
        #[derive(Serialize)]
        struct Lookup<'a> {
            token: &'a str,
        }
        #[derive(Deserialize)]
        struct Created {
            creation_path: String,
        }
        #[derive(Deserialize)]
        struct Content<'a> {
            #[serde(borrow)]
            data: Data<'a>,
        }
        // Borrowed from the response's wiped buffer.
        #[derive(Deserialize)]
        struct Data<'a> {
            #[serde(default)]
            secret_id: Option<&'a str>,
        }

        let request =
            Request::post(Operation::WrappingLookup, "sys/wrapping/lookup").json(&Lookup {
                token: wrapping.expose(),
            });
        let created = self
            .client
            .send_and_read(request, deadline, |answer| answer.data::<Created>())
            .await
            .map_err(used)?;
        if !self.creates_secret_ids(&created.creation_path) {
            return Err(WrappingProblem::OtherPath.into());
        }

        let request =
            Request::post(Operation::WrappingUnwrap, "sys/wrapping/unwrap").token(wrapping);
        let secret_id = self
            .client
            .send_and_read(request, deadline, |answer| {
                let content: Content<'_> = answer.json()?;
                let secret_id = content.data.secret_id;
                Ok(secret_id.map(|text| Zeroizing::new(text.to_owned())))
            })
            .await
            .map_err(used)?;
        secret_id.ok_or_else(|| WrappingProblem::NoSecretId.into())
    }

    /// Whether the path creates secret IDs of one role of this mount.
    fn creates_secret_ids(&self, path: &str) -> bool {
        let below = path.strip_prefix(self.mount_path.as_str());
        let role = below.and_then(|rest| rest.strip_prefix("/role/"));
        let role = role.and_then(|rest| {
            rest.strip_suffix("/secret-id")
                .or_else(|| rest.strip_suffix("/custom-secret-id"))
        });
        role.is_some_and(|role| !role.is_empty() && !role.contains('/'))
    }

    fn unwrapped(&self) -> MutexGuard<'_, Option<Unwrapped>> {
        self.unwrapped
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// OpenBao's tokens have a dot after their type; its secret IDs are UUIDs.
fn wrapping_token(content: &str) -> Result<Token, WrappingProblem> {
    let token = Zeroizing::new(content.trim().to_owned());
    if !token.contains('.') {
        return Err(WrappingProblem::NotAToken);
    }
    Token::new(token).map_err(|_| WrappingProblem::NotAToken)
}

/// OpenBao answers an unknown wrapping token with 400.
fn used(failure: Failure) -> LoginFailure {
    match failure.class() {
        FailureClass::InvalidRequest | FailureClass::Unauthenticated => {
            WrappingProblem::Used.into()
        }
        _ => LoginFailure::OpenBao(failure),
    }
}

impl Login for AppRole {
    fn check(&self, _: SystemTime) -> Pending<'_, Result<Option<SystemTime>, LoginFailure>> {
        Box::pin(async {
            let content = self.secret.read().await.map_err(LoginFailure::Secret)?;
            if self.wrapping != Wrapping::Plain {
                wrapping_token(&content)?;
            }
            Ok(None)
        })
    }

    fn log_in(
        &self,
        _: SystemTime,
        deadline: Duration,
    ) -> Pending<'_, Result<Grant, LoginFailure>> {
        Box::pin(async move {
            let secret_id = self.secret_id(deadline).await?;
            let path = format!("{}/login", self.mount_path);
            let request = Request::post(Operation::AppRoleLogin, path).json(&Body {
                role_id: &self.role_id,
                secret_id: &secret_id,
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
