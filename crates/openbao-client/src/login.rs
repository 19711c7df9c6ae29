//! Login methods: they obtain and renew a token of OpenBao.

use std::{
    collections::BTreeMap,
    future::Future,
    num::NonZeroU32,
    pin::Pin,
    time::{Duration, SystemTime},
};

use kms_domain::scope::MountPath;
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

pub mod file_reader;
pub mod jwt;
pub mod jwt_file;

/// A boxed future, for trait objects.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A login method. It must be independent of the API server protected by the keys.
pub trait Login: Send + Sync {
    /// Reads the credential at the wall-clock time `now`, without a login: its expiry, or `None` if
    /// it has none.
    fn check(&self, now: SystemTime) -> Pending<'_, Result<Option<SystemTime>, LoginFailure>>;

    /// Obtains a new token within `deadline`. `now` is the wall clock, for the dates of the
    /// credential.
    fn log_in(
        &self,
        now: SystemTime,
        deadline: Duration,
    ) -> Pending<'_, Result<Grant, LoginFailure>>;

    /// Renews a token by `increment`, within `deadline`.
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
    /// The granted lease. The caller checks whether it is long enough.
    pub lease: Lease,
    /// Expiry of the credential used for the login; `None` if it has none.
    pub credential_expires: Option<SystemTime>,
}

/// A renewed token.
pub struct Renewal {
    /// The new token; `None` if the sent token stays in use.
    pub token: Option<Token>,
    /// The lease, counted from the renewal.
    pub lease: Lease,
}

/// Error of a login.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LoginFailure {
    /// The JWT file cannot be read.
    #[error("the JWT file cannot be used")]
    JwtFile(#[source] CredentialFileProblem),
    /// The JWT is unusable; the login request was not sent.
    #[error("the JWT cannot be used")]
    Jwt(#[source] JwtProblem),
    /// The login request failed.
    #[error("OpenBao gave no token")]
    OpenBao(#[source] Failure),
    /// OpenBao rejected the given token, which is used in place of a login.
    #[error("OpenBao rejects the given token")]
    GivenToken,
}

/// Outcome of a login or renewal: the label of metrics and logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LoginOutcome {
    /// A valid token.
    Ok,
    /// The JWT has expired.
    JwtExpired,
    /// The JWT expires too soon for a login.
    JwtNearExpiry,
    /// The JWT cannot be read, or its claims differ from the configuration.
    JwtInvalid,
    /// OpenBao rejected the request, or granted too short a lease.
    AuthFailed,
    /// Any other failure, for example unreachable OpenBao.
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

    /// Outcome of a login or renewal request with this failure class.
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
    /// Outcome for metrics and logs.
    #[must_use]
    pub fn outcome(&self) -> LoginOutcome {
        match self {
            Self::Jwt(JwtProblem::Expired { .. }) => LoginOutcome::JwtExpired,
            Self::Jwt(JwtProblem::NearExpiry { .. }) => LoginOutcome::JwtNearExpiry,
            Self::JwtFile(_) | Self::Jwt(_) => LoginOutcome::JwtInvalid,
            Self::OpenBao(failure) => LoginOutcome::of_class(failure.class()),
            Self::GivenToken => LoginOutcome::AuthFailed,
        }
    }

    /// Error code for the cause within one outcome.
    #[must_use]
    pub fn detail(&self) -> &'static str {
        match self {
            Self::JwtFile(problem) => problem.code(),
            Self::Jwt(problem) => problem.code(),
            Self::OpenBao(failure) => match failure.refusal() {
                Some(refusal) => refusal.label(),
                None => failure.class().label(),
            },
            Self::GivenToken => "token_rejected",
        }
    }

    /// Remaining life of the credential, if it was rejected as too short.
    #[must_use]
    pub fn credential_remaining(&self) -> Option<Duration> {
        match self {
            Self::Jwt(JwtProblem::Expired { .. }) => Some(Duration::ZERO),
            Self::Jwt(JwtProblem::NearExpiry { remaining, .. }) => Some(*remaining),
            Self::JwtFile(_) | Self::Jwt(_) | Self::OpenBao(_) | Self::GivenToken => None,
        }
    }
}

/// Whether a login method is mounted at the path, in the namespace of the client: it answers a login
/// without a credential with 400. Without a mount, OpenBao answers with 403.
pub async fn is_mounted(client: &Client, mount_path: &MountPath, deadline: Duration) -> bool {
    let request = Request::post(Operation::JwtLogin, format!("{mount_path}/login"))
        .json(&BTreeMap::<&str, &str>::new());
    let answer = client.send_and_read(request, deadline, |_| Ok(()));
    let refused = answer.await.err().and_then(|failure| failure.http_status());
    refused == Some(400)
}

/// Renews a token with `auth/token/renew-self`, for any login method.
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

/// Reads the `token_bound_cidrs` of a token.
///
/// # Errors
/// The classified failure; the policy `default` permits the request.
pub async fn bound_cidrs(
    client: &Client,
    token: &Token,
    deadline: Duration,
) -> Result<Vec<String>, Failure> {
    #[derive(Deserialize)]
    struct Limits {
        #[serde(default)]
        bound_cidrs: Option<Vec<String>>,
    }
    let request = Request::get(Operation::TokenLookupSelf, "auth/token/lookup-self").token(token);
    client
        .send_and_read(request, deadline, |answer| {
            Ok(answer.data::<Limits>()?.bound_cidrs.unwrap_or_default())
        })
        .await
}

/// Parses the `auth` member of a response; an empty `client_token` counts as missing.
fn granted(answer: &Answer) -> Result<(Option<Token>, Lease), Failure> {
    #[derive(Deserialize)]
    struct Body<'a> {
        #[serde(borrow)]
        auth: Auth<'a>,
    }
    // The token is borrowed from the response's wiped buffer, so a token with JSON escapes is
    // rejected.
    #[derive(Deserialize)]
    struct Auth<'a> {
        #[serde(borrow, default)]
        client_token: Option<&'a str>,
        #[serde(default)]
        lease_duration: u64,
        #[serde(default)]
        renewable: bool,
        #[serde(default)]
        num_uses: i64,
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
        uses: u32::try_from(auth.num_uses).ok().and_then(NonZeroU32::new),
    };
    Ok((token, lease))
}
