//! One request before it is sent, and what its observer is told afterwards.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::Method;
use serde::Serialize;
use zeroize::Zeroizing;

use crate::{failure::FailureClass, token::Token, turns::Purpose};

const ERROR_BODY_LIMIT: usize = 64 << 10;

/// What a request is for. Bounds the answer and labels metrics and logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Operation {
    /// Exchange a JWT for a token.
    JwtLogin,
    /// Prolong the token in use.
    TokenRenewSelf,
    /// Read the Transit key's metadata.
    TransitMetadataRead,
    /// Read whether Transit would create missing keys on encryption.
    TransitDisableUpsertRead,
    /// Encrypt with Transit.
    TransitEncrypt,
    /// Decrypt with Transit.
    TransitDecrypt,
    /// Decrypt many ciphertexts with Transit.
    TransitBatchDecrypt,
    /// Ask what the token in use may do.
    CapabilitiesSelf,
    /// Ask whether the server is sealed; needs no token.
    SealStatus,
    /// Ask which server of the cluster is active; needs no token.
    Leader,
    /// Ask for the part of a server in its cluster; needs no token. Of several addresses only.
    Health,
    /// Set up a server: the lab mode and tests only, never a running provider.
    Admin,
}

impl Operation {
    /// The metric and log label.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::JwtLogin => "jwt_login",
            Self::TokenRenewSelf => "token_renew_self",
            Self::TransitMetadataRead => "transit_metadata_read",
            Self::TransitDisableUpsertRead => "transit_disable_upsert_read",
            Self::TransitEncrypt => "transit_encrypt",
            Self::TransitDecrypt => "transit_decrypt",
            Self::TransitBatchDecrypt => "transit_batch_decrypt",
            Self::CapabilitiesSelf => "capabilities_self",
            Self::SealStatus => "seal_status",
            Self::Leader => "leader",
            Self::Health => "health",
            Self::Admin => "admin",
        }
    }

    /// The purpose of such a request, unless it is made for another.
    fn purpose(self) -> Purpose {
        match self {
            Self::TransitEncrypt | Self::Admin => Purpose::Encrypt,
            Self::TransitDecrypt | Self::TransitBatchDecrypt => Purpose::Decrypt,
            Self::TransitMetadataRead
            | Self::TransitDisableUpsertRead
            | Self::CapabilitiesSelf
            | Self::SealStatus
            | Self::Leader
            | Self::Health => Purpose::Probe,
            Self::JwtLogin | Self::TokenRenewSelf => Purpose::Login,
        }
    }

    /// Whether a second one does no harm when OpenBao may have done the first. An encryption names
    /// its version, and a token of a login that got lost expires.
    pub(crate) fn may_be_repeated(self) -> bool {
        self != Self::Admin
    }

    /// The largest answer accepted, in bytes. A key with very many versions has long metadata.
    pub(crate) fn answer_limit(self) -> usize {
        match self {
            Self::TransitMetadataRead | Self::TransitBatchDecrypt | Self::Admin => 4 << 20,
            Self::JwtLogin
            | Self::TokenRenewSelf
            | Self::TransitDisableUpsertRead
            | Self::TransitEncrypt
            | Self::TransitDecrypt
            | Self::CapabilitiesSelf
            | Self::SealStatus
            | Self::Leader
            | Self::Health => 256 << 10,
        }
    }

    /// The largest body of another status, in bytes.
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
    /// Empty without a body.
    pub(crate) body: serde_json::Result<Bytes>,
}

impl<'a> Request<'a> {
    /// A request without token and body. The path has no leading `/`; characters that have a
    /// meaning in URLs are encoded, so it cannot carry a query.
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

    /// Made for this purpose.
    #[must_use]
    pub fn purpose(mut self, purpose: Purpose) -> Self {
        self.purpose = purpose;
        self
    }

    /// Sends the token along.
    #[must_use]
    pub fn token(mut self, token: &'a Token) -> Self {
        self.token = Some(token);
        self
    }

    /// Sends a JSON body, held in one buffer that is wiped once the request is done. A value that
    /// cannot be written as JSON makes sending fail.
    #[must_use]
    pub fn json(mut self, body: &impl Serialize) -> Self {
        self.body = wiped_json(body);
        self
    }
}

/// Measures first, so that the buffer never grows and leaves no copy behind.
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

/// OpenBao's own name of a request, fit for logs: 1 to 128 of `A-Z a-z 0-9 - _ . :`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestId(Box<str>);

impl RequestId {
    /// `None` for a text outside the rule; surrounding white space is dropped first.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let fits = (1..=128).contains(&text.len())
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte));
        fits.then(|| Self(text.into()))
    }

    /// The checked text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// How one HTTP request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// An answer that could be used.
    Ok,
    /// A failure of this class.
    Failed(FailureClass),
    /// Whoever wanted the answer went away.
    Canceled,
}

impl Outcome {
    /// The metric and log label.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed(class) => class.label(),
            Self::Canceled => "canceled",
        }
    }
}

/// One finished HTTP request, for metrics and logs. Holds no secret and no server text.
#[derive(Debug, Clone)]
pub struct RequestEvent {
    /// What it was for.
    pub operation: Operation,
    /// How it ended.
    pub outcome: Outcome,
    /// From the first step, waiting for a turn and connecting included, to the parsed answer; of a
    /// repetition from the failure before it.
    pub duration: Duration,
    /// OpenBao's name of the request, when the answer had a usable one.
    pub request_id: Option<RequestId>,
    /// The second in which OpenBao's clock stood at a success, when it said.
    pub date: Option<SystemTime>,
}

/// Told of every HTTP request exactly once, of a repetition separately. Must return quickly.
pub type RequestHook = Arc<dyn Fn(&RequestEvent) + Send + Sync>;

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
