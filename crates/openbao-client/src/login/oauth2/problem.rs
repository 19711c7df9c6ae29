//! Why an issuer gave no usable access token.

use std::{error::Error, fmt};

use serde::Deserialize;

use super::assertion::KeyProblem;
use crate::{
    credential_file::CredentialFileProblem,
    endpoint::RootsProblem,
    failure::{FailureClass, transport_class},
    login::{LoginOutcome, jwt::JwtProblem},
};

/// Error of a token request. Contains no URL, path, secret or text of the issuer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OAuth2Problem {
    /// The file with the client secret cannot be read.
    #[error("the file with the client secret cannot be used")]
    SecretFile(#[source] CredentialFileProblem),
    /// The client secret is empty, or has a NUL or a line break inside.
    #[error("the client secret must be one line of text")]
    SecretContent,
    /// The file with the client's private key cannot be read.
    #[error("the file with the private key of the client cannot be used")]
    KeyFile(#[source] CredentialFileProblem),
    /// The private key cannot sign an assertion.
    #[error("the private key of the client cannot be used")]
    Key(#[source] KeyProblem),
    /// The file with the issuer's CA certificates cannot be read.
    #[error("the file with the CA certificates for the OAuth issuer cannot be used")]
    CaFile(#[source] CredentialFileProblem),
    /// The file with the issuer's CA certificates has no usable one.
    #[error("the file with the CA certificates for the OAuth issuer cannot be used")]
    Ca(#[source] RootsProblem),
    /// The request or its response failed on the network.
    #[error("the OAuth issuer did not answer")]
    Request(#[from] Transport),
    /// The issuer refused the request.
    #[error("the OAuth issuer refused the token request: {error} (HTTP {status})")]
    Rejected {
        /// The HTTP status.
        status: u16,
        /// The error code of the response.
        error: TokenError,
    },
    /// The issuer answered with 429 or 5xx.
    #[error("the OAuth issuer is not available (HTTP {0})")]
    Unavailable(u16),
    /// The response differs from RFC 6749.
    #[error("the response of the OAuth issuer cannot be used")]
    Response(#[source] ResponseProblem),
    /// The access token cannot be used for a login.
    #[error("the access token of the OAuth issuer cannot be used")]
    Token(#[source] JwtProblem),
}

impl OAuth2Problem {
    /// Error code for logs and reports.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::SecretFile(problem) | Self::KeyFile(problem) | Self::CaFile(problem) => {
                problem.code()
            }
            Self::SecretContent => "invalid_content",
            Self::Key(problem) => problem.code(),
            Self::Ca(_) => "ca_unusable",
            Self::Request(transport) => transport.class.label(),
            Self::Rejected { error, .. } => error.code(),
            Self::Unavailable(429) => "rate_limited",
            Self::Unavailable(_) => "unavailable",
            Self::Response(problem) => problem.code(),
            Self::Token(problem) => problem.code(),
        }
    }

    /// Whether the issuer answered, and the same request will probably fail again.
    #[must_use]
    pub fn is_refusal(self) -> bool {
        matches!(
            self,
            Self::Rejected { .. } | Self::Unavailable(429) | Self::Response(_) | Self::Token(_)
        )
    }

    pub(crate) fn outcome(self) -> LoginOutcome {
        match self {
            Self::SecretFile(_) | Self::SecretContent | Self::KeyFile(_) | Self::Key(_) => {
                LoginOutcome::OAuth2Credential
            }
            Self::CaFile(_) | Self::Ca(_) | Self::Request(_) => LoginOutcome::OAuth2Request,
            Self::Rejected { .. } => LoginOutcome::OAuth2Rejected,
            Self::Unavailable(_) => LoginOutcome::OAuth2Unavailable,
            Self::Response(_) => LoginOutcome::OAuth2Response,
            Self::Token(problem) => LoginOutcome::of_jwt(problem),
        }
    }
}

/// Failure of the connection to the issuer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transport {
    class: FailureClass,
    detail: Option<&'static str>,
}

impl Transport {
    pub(super) fn new(class: FailureClass) -> Self {
        Self {
            class,
            detail: None,
        }
    }

    /// Classifies a connection error by the error types in its chain of causes.
    pub(super) fn of(error: &(dyn Error + 'static)) -> Self {
        let (class, detail) = transport_class(error);
        Self { class, detail }
    }

    /// The cause: one of lookup, connection, TLS, timeout; `Unavailable` for an incomplete
    /// response.
    #[must_use]
    pub fn class(self) -> FailureClass {
        self.class
    }
}

impl Error for Transport {}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.class {
            FailureClass::DnsFailed => "its host name cannot be resolved",
            FailureClass::ConnectionFailed => "the connection failed",
            FailureClass::TlsFailed => "no trusted TLS connection",
            FailureClass::Timeout => "the time limit passed",
            _ => "the response is incomplete",
        })?;
        match self.detail {
            Some(detail) => write!(f, ": {detail}"),
            None => Ok(()),
        }
    }
}

/// The response differs from RFC 6749, 5.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ResponseProblem {
    /// The media type is another one.
    #[error("its Content-Type is not application/json")]
    ContentType,
    /// The body exceeds 1 MiB.
    #[error("it is larger than 1 MiB")]
    TooLarge,
    /// The body is no JSON object with valid members.
    #[error("it is not a JSON object with the members of RFC 6749")]
    Malformed,
    /// Without `access_token`.
    #[error("it has no access_token")]
    NoToken,
    /// `token_type` is another one.
    #[error("its token_type is not Bearer")]
    TokenType,
    /// `expires_in` is invalid.
    #[error("its expires_in is not a positive whole number of seconds")]
    ExpiresIn,
    /// The token is no JWT: OpenBao cannot verify it.
    #[error("its access token is opaque, not a JWT")]
    Opaque,
}

impl ResponseProblem {
    fn code(self) -> &'static str {
        match self {
            Self::ContentType => "content_type",
            Self::TooLarge => "too_large",
            Self::Malformed => "malformed",
            Self::NoToken => "no_access_token",
            Self::TokenType => "token_type",
            Self::ExpiresIn => "expires_in",
            Self::Opaque => "opaque_token",
        }
    }
}

/// Error code of an issuer: RFC 6749, 5.2, and RFC 8707. Any other counts as `Other`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenError {
    /// A parameter is missing or invalid; some issuers report a wrong audience so.
    InvalidRequest,
    /// The client is unknown, disabled, or failed to authenticate.
    InvalidClient,
    /// The grant is invalid.
    InvalidGrant,
    /// The client may not use this grant.
    UnauthorizedClient,
    /// The issuer lacks the grant.
    UnsupportedGrantType,
    /// A scope is unknown or not allowed to the client.
    InvalidScope,
    /// A resource is unknown or not allowed to the client.
    InvalidTarget,
    /// A redirect; redirects are never followed.
    #[serde(skip)]
    Redirect,
    /// Another code, or none.
    #[serde(other)]
    Other,
}

impl TokenError {
    fn code(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid_request",
            Self::InvalidClient => "invalid_client",
            Self::InvalidGrant => "invalid_grant",
            Self::UnauthorizedClient => "unauthorized_client",
            Self::UnsupportedGrantType => "unsupported_grant_type",
            Self::InvalidScope => "invalid_scope",
            Self::InvalidTarget => "invalid_target",
            Self::Redirect => "redirect",
            Self::Other => "other",
        }
    }
}

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Redirect => "a redirect; redirects are never followed",
            Self::Other => "without a known error code",
            code => code.code(),
        })
    }
}
