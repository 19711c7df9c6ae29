//! Login methods: they obtain and renew a token of OpenBao.

use std::{
    collections::BTreeMap,
    future::Future,
    num::NonZeroU32,
    pin::Pin,
    time::{Duration, SystemTime},
};

use pkcs11_signer::TokenProblem;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{
    client::{Answer, Client},
    credential_file::CredentialFileProblem,
    failure::{Failure, FailureClass},
    login::{
        approle::WrappingProblem, certificate::CertificateProblem, fallback::Identity,
        jwt::JwtProblem, oauth2::OAuth2Problem, secret_file::SecretProblem, spiffe::SpiffeProblem,
        token_file::TokenFileProblem,
    },
    request::{Operation, Request},
    token::{Lease, Token},
};

pub mod approle;
pub mod cert;
pub mod cert_file;
pub mod certificate;
pub mod fallback;
pub mod file_reader;
pub mod jwt;
pub mod jwt_file;
pub mod oauth2;
pub mod pkcs11;
pub mod secret_file;
pub mod spiffe;
pub mod token_file;
pub mod userpass;

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

    /// The identity of the last token.
    fn identity(&self) -> Identity {
        Identity::Configured
    }

    /// Whether [`Self::log_in_again`] is due, though the current token is good.
    fn is_due(&self) -> bool {
        false
    }

    /// As [`Self::log_in`], without a standby identity.
    fn log_in_again(
        &self,
        now: SystemTime,
        deadline: Duration,
    ) -> Pending<'_, Result<Grant, LoginFailure>> {
        self.log_in(now, deadline)
    }
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
    /// The OAuth 2.0 issuer gave no usable access token; the login request was not sent.
    #[error(transparent)]
    OAuth2(OAuth2Problem),
    /// The SPIFFE agent gave no usable JWT-SVID; the login request was not sent.
    #[error(transparent)]
    Spiffe(SpiffeProblem),
    /// The file of a secret ID, password or token is unusable.
    #[error("the secret of the login cannot be used")]
    Secret(#[from] SecretProblem),
    /// The wrapped secret ID is unusable.
    #[error("the wrapped secret ID cannot be used")]
    Wrapping(#[from] WrappingProblem),
    /// The token of the file is unusable.
    #[error("the token of the file cannot be used")]
    Token(#[from] TokenFileProblem),
    /// The certificate file cannot be read.
    #[error("the file of the client certificate cannot be used")]
    CertificateFile(#[source] CredentialFileProblem),
    /// The file of the private key cannot be read.
    #[error("the file of the private key cannot be used")]
    KeyFile(#[source] CredentialFileProblem),
    /// The client certificate or its key is unusable; the login request was not sent.
    #[error("the client certificate cannot be used")]
    Certificate(#[from] CertificateProblem),
    /// The PIN cannot be read.
    #[error("the PIN file cannot be used")]
    PinFile(#[source] SecretProblem),
    /// The key on the token cannot be used.
    #[error("the key on the PKCS#11 token cannot be used")]
    Pkcs11(#[from] TokenProblem),
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
    /// The secret or the private key of the OAuth client cannot be used.
    OAuth2Credential,
    /// The OAuth issuer gave no answer.
    OAuth2Request,
    /// The OAuth issuer refused the request.
    OAuth2Rejected,
    /// The OAuth issuer answered with 429 or 5xx.
    OAuth2Unavailable,
    /// The OAuth issuer gave an unusable response.
    OAuth2Response,
    /// There is no connection to the SPIFFE agent, or no answer.
    SpiffeRequest,
    /// The SPIFFE agent gives this process no identity, or another one.
    SpiffeRejected,
    /// The SPIFFE agent cannot issue an SVID.
    SpiffeUnavailable,
    /// The SPIFFE agent gave an unusable response.
    SpiffeResponse,
    /// A client certificate has expired.
    CertExpired,
    /// A client certificate expires too soon for a login.
    CertNearExpiry,
    /// The client certificate or its key cannot be read or used.
    CertInvalid,
    /// The secret ID, password or token cannot be read or used.
    SecretInvalid,
    /// The token of the file has too little life left.
    TokenNearExpiry,
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
            Self::OAuth2Credential => "oauth2_credential",
            Self::OAuth2Request => "oauth2_request",
            Self::OAuth2Rejected => "oauth2_rejected",
            Self::OAuth2Unavailable => "oauth2_unavailable",
            Self::OAuth2Response => "oauth2_response",
            Self::SpiffeRequest => "spiffe_request",
            Self::SpiffeRejected => "spiffe_rejected",
            Self::SpiffeUnavailable => "spiffe_unavailable",
            Self::SpiffeResponse => "spiffe_response",
            Self::CertExpired => "cert_expired",
            Self::CertNearExpiry => "cert_near_expiry",
            Self::CertInvalid => "cert_invalid",
            Self::SecretInvalid => "secret_invalid",
            Self::TokenNearExpiry => "token_near_expiry",
            Self::AuthFailed => "auth_failed",
            Self::Error => "error",
        }
    }

    pub(crate) fn of_jwt(problem: JwtProblem) -> Self {
        match problem {
            JwtProblem::Expired { .. } => Self::JwtExpired,
            JwtProblem::NearExpiry { .. } => Self::JwtNearExpiry,
            _ => Self::JwtInvalid,
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
            Self::JwtFile(_) => LoginOutcome::JwtInvalid,
            Self::Jwt(problem) => LoginOutcome::of_jwt(*problem),
            Self::OAuth2(problem) => problem.outcome(),
            Self::Spiffe(problem) => problem.outcome(),
            Self::Certificate(CertificateProblem::Expired { .. }) => LoginOutcome::CertExpired,
            Self::Certificate(CertificateProblem::NearExpiry { .. }) => {
                LoginOutcome::CertNearExpiry
            }
            Self::CertificateFile(_)
            | Self::KeyFile(_)
            | Self::Certificate(_)
            | Self::PinFile(_)
            | Self::Pkcs11(_) => LoginOutcome::CertInvalid,
            Self::Token(TokenFileProblem::NearExpiry { .. }) => LoginOutcome::TokenNearExpiry,
            Self::Token(TokenFileProblem::Rejected | TokenFileProblem::LookupDenied) => {
                LoginOutcome::AuthFailed
            }
            Self::Secret(_) | Self::Wrapping(_) | Self::Token(_) => LoginOutcome::SecretInvalid,
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
            Self::OAuth2(problem) => problem.code(),
            Self::Spiffe(problem) => problem.code(),
            Self::Secret(problem) => problem.code(),
            Self::Wrapping(problem) => problem.code(),
            Self::Token(problem) => problem.code(),
            Self::CertificateFile(problem) | Self::KeyFile(problem) => problem.code(),
            Self::Certificate(problem) => problem.code(),
            Self::PinFile(problem) => problem.code(),
            Self::Pkcs11(problem) => problem.code(),
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
            Self::Jwt(problem)
            | Self::OAuth2(OAuth2Problem::Token(problem))
            | Self::Spiffe(SpiffeProblem::Svid(problem)) => match problem {
                JwtProblem::Expired { .. } => Some(Duration::ZERO),
                JwtProblem::NearExpiry { remaining, .. } => Some(*remaining),
                _ => None,
            },
            Self::Certificate(CertificateProblem::Expired { .. }) => Some(Duration::ZERO),
            Self::Certificate(CertificateProblem::NearExpiry { remaining, .. })
            | Self::Token(TokenFileProblem::NearExpiry { remaining, .. }) => Some(*remaining),
            Self::JwtFile(_)
            | Self::OAuth2(_)
            | Self::Spiffe(_)
            | Self::Secret(_)
            | Self::Wrapping(_)
            | Self::Token(_)
            | Self::CertificateFile(_)
            | Self::KeyFile(_)
            | Self::Certificate(_)
            | Self::PinFile(_)
            | Self::Pkcs11(_)
            | Self::OpenBao(_)
            | Self::GivenToken => None,
        }
    }

    /// Whether the credential is the cause. An outage, a rate limit or an unexpected answer of
    /// OpenBao says nothing about it; without an OAuth issuer or a SPIFFE agent there is no credential.
    #[must_use]
    pub fn is_of_the_credential(&self) -> bool {
        match self {
            Self::OpenBao(failure) => {
                LoginOutcome::of_class(failure.class()) == LoginOutcome::AuthFailed
            }
            _ => true,
        }
    }
}

/// Whether a login method is mounted at this path of logins, in the namespace of the client: it
/// answers a login without a credential with 400 or, for a missing field, 500. Without a mount,
/// OpenBao answers with 403.
pub async fn is_mounted(client: &Client, login_path: &str, deadline: Duration) -> bool {
    let request =
        Request::post(Operation::JwtLogin, login_path).json(&BTreeMap::<&str, &str>::new());
    let answer = client.send_and_read(request, deadline, |_| Ok(()));
    let refused = answer.await.err().and_then(|failure| failure.http_status());
    matches!(refused, Some(400 | 500))
}

/// Sends a login request and reads the granted token. The request is repeated by the client only
/// where that is harmless.
async fn exchange(
    client: &Client,
    request: Request<'_>,
    credential_expires: Option<SystemTime>,
    deadline: Duration,
) -> Result<Grant, Failure> {
    let read = |answer: Answer| {
        let (token, lease) = granted(&answer)?;
        Ok(Grant {
            token: token.ok_or_else(|| answer.invalid("it holds no token"))?,
            lease,
            credential_expires,
        })
    };
    client.send_and_read(request, deadline, read).await
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
