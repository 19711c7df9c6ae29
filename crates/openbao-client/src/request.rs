//! A request before it is sent.

use std::fmt;

use bytes::Bytes;
use http::Method;
use serde::Serialize;
use zeroize::Zeroizing;

use crate::{token::Token, turns::Purpose};

const ERROR_BODY_LIMIT: usize = 64 << 10;

/// Kind of a request. It limits the size of the response and labels metrics and logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Operation {
    /// Exchange a JWT for a token.
    JwtLogin,
    /// Exchange a client certificate for a token.
    CertLogin,
    /// Exchange a role ID and a secret ID for a token.
    AppRoleLogin,
    /// Exchange a password for a token.
    UserpassLogin,
    /// Read how a wrapping token was created.
    WrappingLookup,
    /// Unwrap the content of a wrapping token; works once.
    WrappingUnwrap,
    /// Renew the token in use.
    TokenRenewSelf,
    /// Read the Transit key's metadata.
    TransitMetadataRead,
    /// Read whether Transit creates missing keys on encryption.
    TransitDisableUpsertRead,
    /// Encrypt with Transit.
    TransitEncrypt,
    /// Decrypt with Transit.
    TransitDecrypt,
    /// Decrypt many ciphertexts with Transit.
    TransitBatchDecrypt,
    /// Sign with Transit: only for statements of operators' commands.
    TransitSign,
    /// Read the capabilities of the token in use.
    CapabilitiesSelf,
    /// Read the limits of the token in use: only in diagnostics.
    TokenLookupSelf,
    /// Read the seal status; needs no token.
    SealStatus,
    /// Read the active server of the cluster; needs no token.
    Leader,
    /// Read the role of a server in its cluster; needs no token. Sent only with several addresses.
    Health,
    /// Configure a server: only in the lab mode, drills and tests, never in a running provider.
    Admin,
}

impl Operation {
    /// The metric and log label.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::JwtLogin => "jwt_login",
            Self::CertLogin => "cert_login",
            Self::AppRoleLogin => "approle_login",
            Self::UserpassLogin => "userpass_login",
            Self::WrappingLookup => "wrapping_lookup",
            Self::WrappingUnwrap => "wrapping_unwrap",
            Self::TokenRenewSelf => "token_renew_self",
            Self::TransitMetadataRead => "transit_metadata_read",
            Self::TransitDisableUpsertRead => "transit_disable_upsert_read",
            Self::TransitEncrypt => "transit_encrypt",
            Self::TransitDecrypt => "transit_decrypt",
            Self::TransitBatchDecrypt => "transit_batch_decrypt",
            Self::TransitSign => "transit_sign",
            Self::CapabilitiesSelf => "capabilities_self",
            Self::TokenLookupSelf => "token_lookup_self",
            Self::SealStatus => "seal_status",
            Self::Leader => "leader",
            Self::Health => "health",
            Self::Admin => "admin",
        }
    }

    /// Default purpose of the operation.
    fn purpose(self) -> Purpose {
        match self {
            Self::TransitEncrypt | Self::TransitSign | Self::Admin => Purpose::Encrypt,
            Self::TransitDecrypt | Self::TransitBatchDecrypt => Purpose::Decrypt,
            Self::TransitMetadataRead
            | Self::TransitDisableUpsertRead
            | Self::CapabilitiesSelf
            | Self::TokenLookupSelf
            | Self::SealStatus
            | Self::Leader
            | Self::Health => Purpose::Probe,
            Self::JwtLogin
            | Self::CertLogin
            | Self::AppRoleLogin
            | Self::UserpassLogin
            | Self::WrappingLookup
            | Self::WrappingUnwrap
            | Self::TokenRenewSelf => Purpose::Login,
        }
    }

    /// Whether a repetition is harmless if OpenBao has already executed the request. An encryption
    /// names its key version, and the token of a lost login response expires.
    pub(crate) fn may_be_repeated(self) -> bool {
        !matches!(self, Self::Admin | Self::WrappingUnwrap)
    }

    /// Whether the request exchanges a credential for a token, without a token of its own.
    pub(crate) fn is_login(self) -> bool {
        match self {
            Self::JwtLogin | Self::CertLogin | Self::AppRoleLogin | Self::UserpassLogin => true,
            Self::WrappingLookup
            | Self::WrappingUnwrap
            | Self::TokenRenewSelf
            | Self::TransitMetadataRead
            | Self::TransitDisableUpsertRead
            | Self::TransitEncrypt
            | Self::TransitDecrypt
            | Self::TransitBatchDecrypt
            | Self::TransitSign
            | Self::CapabilitiesSelf
            | Self::TokenLookupSelf
            | Self::SealStatus
            | Self::Leader
            | Self::Health
            | Self::Admin => false,
        }
    }

    /// Whether the connection presents the client certificate, if there is one. OpenBao compares
    /// the certificate of a renewal with that of the login.
    pub(crate) fn presents_certificate(self) -> bool {
        matches!(self, Self::CertLogin | Self::TokenRenewSelf)
    }

    /// Maximum size of a response, in bytes. Metadata of a key with many versions is long.
    pub(crate) fn answer_limit(self) -> usize {
        match self {
            Self::TransitMetadataRead | Self::TransitBatchDecrypt | Self::Admin => 4 << 20,
            Self::JwtLogin
            | Self::CertLogin
            | Self::AppRoleLogin
            | Self::UserpassLogin
            | Self::WrappingLookup
            | Self::WrappingUnwrap
            | Self::TokenRenewSelf
            | Self::TransitDisableUpsertRead
            | Self::TransitEncrypt
            | Self::TransitDecrypt
            | Self::TransitSign
            | Self::CapabilitiesSelf
            | Self::TokenLookupSelf
            | Self::SealStatus
            | Self::Leader
            | Self::Health => 256 << 10,
        }
    }

    /// Maximum size of an error response, in bytes.
    pub(crate) fn refusal_limit(self) -> usize {
        if self == Self::TransitBatchDecrypt {
            self.answer_limit()
        } else {
            ERROR_BODY_LIMIT
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// A request to an API path below `/v1/`.
pub struct Request<'a> {
    pub(crate) operation: Operation,
    pub(crate) purpose: Purpose,
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) token: Option<&'a Token>,
    /// The body; empty for a request without one.
    pub(crate) body: serde_json::Result<Bytes>,
}

impl<'a> Request<'a> {
    /// A request without token and body. The path has no leading `/`. Characters with a meaning in
    /// URLs are encoded, so a query is impossible.
    #[must_use]
    pub fn new(operation: Operation, method: Method, path: impl Into<String>) -> Self {
        Self {
            operation,
            purpose: operation.purpose(),
            method,
            path: path.into(),
            token: None,
            body: Ok(Bytes::new()),
        }
    }

    /// A `GET`.
    #[must_use]
    pub fn get(operation: Operation, path: impl Into<String>) -> Self {
        Self::new(operation, Method::GET, path)
    }

    /// A `POST`.
    #[must_use]
    pub fn post(operation: Operation, path: impl Into<String>) -> Self {
        Self::new(operation, Method::POST, path)
    }

    /// Sets the purpose.
    #[must_use]
    pub fn purpose(mut self, purpose: Purpose) -> Self {
        self.purpose = purpose;
        self
    }

    /// Sets the token.
    #[must_use]
    pub fn token(mut self, token: &'a Token) -> Self {
        self.token = Some(token);
        self
    }

    /// Sets a JSON body in one buffer that is wiped after the request. If serialization fails,
    /// sending fails.
    #[must_use]
    pub fn json(mut self, body: &impl Serialize) -> Self {
        self.body = wiped_json(body);
        self
    }
}

/// Measures the length first: the buffer then never grows and leaves no copy behind.
fn wiped_json(value: &impl Serialize) -> serde_json::Result<Bytes> {
    struct Length(usize);
    impl std::io::Write for Length {
        fn write(&mut self, piece: &[u8]) -> std::io::Result<usize> {
            self.0 += piece.len();
            Ok(piece.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut length = Length(0);
    serde_json::to_writer(&mut length, value)?;
    let mut buffer = Zeroizing::new(Vec::with_capacity(length.0));
    serde_json::to_writer(&mut *buffer, value)?;
    Ok(Bytes::from_owner(buffer))
}

/// OpenBao's request ID, safe for logs: 1 to 128 of `A-Z a-z 0-9 - _ . :`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestId(Box<str>);

impl RequestId {
    /// Trims white space. Returns `None` for an invalid ID.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let fits = (1..=128).contains(&text.len())
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte));
        fits.then(|| Self(text.into()))
    }

    /// The validated text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_exactly_its_json() {
        let body = wiped_json(&serde_json::json!({"a": ["ä\"", 1]})).unwrap();
        assert_eq!(&body[..], "{\"a\":[\"ä\\\"\",1]}".as_bytes());
    }

    #[test]
    fn a_request_id_is_kept_only_if_it_cannot_disturb_a_log() {
        let longest = "x".repeat(128);
        for good in ["a", "1b2c-_.:", &longest] {
            assert_eq!(RequestId::parse(good).unwrap().as_str(), good);
        }
        assert_eq!(RequestId::parse(" a\n").unwrap().as_str(), "a");
        let too_long = "x".repeat(129);
        for bad in ["", "  ", "a b", "a\nb", "ä", "a/b", "\u{1b}[31m", &too_long] {
            assert_eq!(RequestId::parse(bad), None, "{bad:?}");
        }
    }
}
