//! Ways to get a token from OpenBao, and to keep it.

use std::{
    future::Future,
    pin::Pin,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{
    client::{Answer, Client},
    credential_file::CredentialFileProblem,
    failure::{Failure, FailureClass},
    login::jwt::JwtProblem,
    request::{Operation, Request},
    token::{Lease, Token},
};

pub mod jwt;
pub mod jwt_file;

/// A future that a trait object returns.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// One way to authenticate. Nothing in it may depend on the API server that the keys protect.
pub trait Login: Send + Sync {
    /// Gets a new token within `deadline`; `now` is the wall clock for the credential's own dates.
    fn log_in(
        &self,
        now: SystemTime,
        deadline: Duration,
    ) -> Pending<'_, Result<Grant, LoginFailure>>;

    /// Asks for `increment` more life of a token, within `deadline`.
    fn renew<'a>(
        &'a self,
        token: &'a Token,
        increment: Duration,
        deadline: Duration,
    ) -> Pending<'a, Result<Renewal, Failure>>;
}

/// A new token.
pub struct Grant {
    /// The token.
    pub token: Token,
    /// What was granted with it; whether that is enough is the caller's to judge.
    pub lease: Lease,
    /// When the credential that bought it expires.
    pub credential_expires: SystemTime,
}

/// A token that lives on.
pub struct Renewal {
    /// `None` when it is still the token that was sent.
    pub token: Option<Token>,
    /// Counted from the renewal.
    pub lease: Lease,
}

/// Why there is no new token.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LoginFailure {
    /// The JWT file was not read.
    #[error("the JWT file cannot be used")]
    JwtFile(#[source] CredentialFileProblem),
    /// The JWT cannot be expected to log in; OpenBao was not asked.
    #[error("the JWT cannot be used")]
    Jwt(#[source] JwtProblem),
    /// The login request failed.
    #[error("OpenBao gave no token")]
    OpenBao(#[source] Failure),
}

/// How a login or renewal ended: the label of metrics and logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LoginOutcome {
    /// A usable token.
    Ok,
    /// The JWT has expired.
    JwtExpired,
    /// The JWT expires too soon to be worth a login.
    JwtNearExpiry,
    /// The JWT cannot be read, or claims something else than expected.
    JwtInvalid,
    /// OpenBao refused, or granted too short a lease.
    AuthFailed,
    /// Anything else; OpenBao out of reach, for instance.
    Error,
}

impl LoginOutcome {
    /// The metric and log label.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::JwtExpired => "jwt_expired",
            Self::JwtNearExpiry => "jwt_near_expiry",
            Self::JwtInvalid => "jwt_invalid",
            Self::AuthFailed => "auth_failed",
            Self::Error => "error",
        }
    }

    /// The outcome of a login or renewal request that failed with this class.
    #[must_use]
    pub fn of_class(class: FailureClass) -> Self {
        match class {
            FailureClass::InvalidRequest
            | FailureClass::Unauthenticated
            | FailureClass::PermissionDenied
            | FailureClass::NotFound => Self::AuthFailed,
            FailureClass::Sealed
            | FailureClass::RateLimited
            | FailureClass::Unavailable
            | FailureClass::NotOpenBao
            | FailureClass::TlsFailed
            | FailureClass::DnsFailed
            | FailureClass::ConnectionFailed
            | FailureClass::InvalidAnswer
            | FailureClass::Timeout
            | FailureClass::Unknown
            | FailureClass::DecryptFailed
            | FailureClass::KeyMissing
            | FailureClass::VersionTooOld
            | FailureClass::VersionTooNew
            | FailureClass::VersionBelowMinimum => Self::Error,
        }
    }
}

impl LoginFailure {
    /// The outcome to count and log.
    #[must_use]
    pub fn outcome(&self) -> LoginOutcome {
        match self {
            Self::Jwt(JwtProblem::Expired { .. }) => LoginOutcome::JwtExpired,
            Self::Jwt(JwtProblem::NearExpiry { .. }) => LoginOutcome::JwtNearExpiry,
            Self::JwtFile(_) | Self::Jwt(_) => LoginOutcome::JwtInvalid,
            Self::OpenBao(failure) => LoginOutcome::of_class(failure.class()),
        }
    }

    /// The bounded word that tells the causes of one outcome apart.
    #[must_use]
    pub fn detail(&self) -> &'static str {
        match self {
            Self::JwtFile(problem) => problem.code(),
            Self::Jwt(problem) => problem.code(),
            Self::OpenBao(failure) => failure.class().label(),
        }
    }

    /// The life that the credential has left, where that is why it was not used.
    #[must_use]
    pub fn credential_remaining(&self) -> Option<Duration> {
        match self {
            Self::Jwt(JwtProblem::Expired { .. }) => Some(Duration::ZERO),
            Self::Jwt(JwtProblem::NearExpiry { remaining, .. }) => Some(*remaining),
            Self::JwtFile(_) | Self::Jwt(_) | Self::OpenBao(_) => None,
        }
    }
}

/// `auth/token/renew-self` for any way to log in.
///
/// # Errors
/// The classified failure.
pub async fn renew_self(
    client: &Client,
    token: &Token,
    increment: Duration,
    deadline: Duration,
) -> Result<Renewal, Failure> {
    #[derive(Serialize)]
    struct Body {
        increment: String,
    }
    let seconds = increment.as_secs() + u64::from(increment.subsec_nanos() > 0);
    let request = Request::post(Operation::TokenRenewSelf, "auth/token/renew-self")
        .token(token)
        .json(&Body {
            increment: format!("{seconds}s"),
        });
    client
        .send_and_read(request, deadline, |answer| {
            let (token, lease) = granted(&answer)?;
            Ok(Renewal { token, lease })
        })
        .await
}

/// The `auth` member of an answer; an empty `client_token` counts as none.
fn granted(answer: &Answer) -> Result<(Option<Token>, Lease), Failure> {
    #[derive(Deserialize)]
    struct Body<'a> {
        #[serde(borrow)]
        auth: Auth<'a>,
    }
    // The token is borrowed from the answer's wiped buffer; one with JSON escapes is refused.
    #[derive(Deserialize)]
    struct Auth<'a> {
        #[serde(borrow, default)]
        client_token: Option<&'a str>,
        #[serde(default)]
        lease_duration: u64,
        #[serde(default)]
        renewable: bool,
    }
    let auth = answer.json::<Body<'_>>()?.auth;
    let token = auth
        .client_token
        .filter(|text| !text.is_empty())
        .map(|text| Token::new(Zeroizing::new(text.to_owned())))
        .transpose()
        .map_err(|_| answer.invalid("it holds an unusable token"))?;
    let lease = Lease {
        duration: Duration::from_secs(auth.lease_duration),
        renewable: auth.renewable,
    };
    Ok((token, lease))
}
