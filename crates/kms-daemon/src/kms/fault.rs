//! The central table of failed calls: cause, gRPC code, public message, class. Implements
//! `docs/operate/messages.md`.
//!
//! kube-apiserver forwards the message to the reader of the object. It is therefore fixed text,
//! free of server messages, names and paths. For a failed Decrypt, the message also explains the
//! consequence for the object; its only variable part is a key version.

use kms_domain::{annotations::AnnotationsInvalid, limits::LimitExceeded, prepare::DecryptRefused};
use kms_node::{
    auth::{AuthFailure, CallFailure},
    kms_api::{Method, code_name},
};
use openbao_client::{
    failure::FailureClass,
    login::{
        LoginFailure, certificate::CertificateProblem, jwt::JwtProblem, oauth2::OAuth2Problem,
        spiffe::SpiffeProblem, token_file::TokenFileProblem,
    },
};
use tonic::{Code, Status};

use super::panic::PanicKind;
use crate::watcher::discovery::DiscoveryFailed;

mod verdict;

/// Why a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The caller's deadline or `openbao.timeout` passed.
    Deadline,
    /// Encrypt without plaintext.
    EmptyPlaintext,
    /// Decrypt without ciphertext.
    EmptyCiphertext,
    /// A part of the request exceeds its size limit.
    RequestTooLarge,
    /// This provider never creates such a `key_id`.
    MalformedKeyId,
    /// This provider never creates such annotations.
    InvalidAnnotations,
    /// Transit never creates such a ciphertext.
    InvalidCiphertext,
    /// Annotations or ciphertext belong to another key than the `key_id`.
    Mismatch,
    /// The response would exceed the size limits of Kubernetes.
    ResponseTooLarge,
    /// The limit of concurrent calls of this kind is reached.
    Concurrency,
    /// Discovery of the `key_id` failed, so its existence is unknown.
    Discovery(DiscoveryFailed),
    /// A well-formed `key_id` outside the registry.
    UnknownKeyId,
    /// The `key_id` of a version removed on this node.
    Disabled,
    /// Without state, there is no key for encryption.
    NoActiveKey,
    /// The current health forbids encryption.
    Unhealthy,
    Panic(PanicKind),
    /// The Transit response violates a requirement, such as the requested version.
    InvalidTransitAnswer,
    /// OpenBao rejects the login or the token.
    Login,
    /// OpenBao grants tokens whose lease is too short.
    ShortLease,
    /// The secret, token or certificate of the login is unusable on this node.
    Credential,
    /// The token of a file, or a client certificate, ends.
    CredentialDates,
    /// The JWT file is unreadable; no request was sent to OpenBao.
    JwtFile,
    /// The JWT is expired or not yet valid by the node's clock; no request was sent to OpenBao.
    JwtDates,
    /// The JWT is malformed or differs from the configured claims; no request was sent to OpenBao.
    JwtClaims,
    /// The secret, key or CA file of the OAuth client is unusable; no request was sent.
    OAuth2Credential,
    /// The OAuth issuer gives no answer; no request was sent to OpenBao.
    OAuth2Unreachable,
    /// The OAuth issuer refuses the token request; no request was sent to OpenBao.
    OAuth2Refused,
    /// The OAuth issuer gives an unusable token; no request was sent to OpenBao.
    OAuth2Token,
    /// The SPIFFE agent is unreachable or issues nothing; no request was sent to OpenBao.
    SpiffeUnreachable,
    /// The SPIFFE agent gives no identity, or another one; no request was sent to OpenBao.
    SpiffeRefused,
    /// The SPIFFE agent gives an unusable SVID; no request was sent to OpenBao.
    SpiffeToken,
    /// The key on the PKCS#11 token is unusable; no request was sent to OpenBao.
    Token,
    /// The provider is stopping.
    Stopping,
    /// The `key_id` of an object of vault-kubernetes-kms belongs to another ciphertext.
    ForeignKeyId,
    /// A Transit call, or the login before it, failed.
    Transit(FailureClass),
}

impl Fault {
    /// The gRPC status for the caller of Status or Encrypt.
    #[must_use]
    pub fn status(self, method: Method) -> Status {
        let (code, sentence, _) = self.row(method);
        Status::new(code, sentence)
    }

    /// The gRPC status for the caller of Decrypt. Of the request's ciphertext, it contains the key
    /// version only.
    #[must_use]
    pub fn decrypt_status(self, ciphertext: &[u8]) -> Status {
        let (code, sentence, _) = self.row(Method::Decrypt);
        Status::new(code, format!("{sentence}: {}", self.advice(ciphertext)))
    }

    /// The gRPC code in snake case, for metrics and logs.
    #[must_use]
    pub fn code(self, method: Method) -> &'static str {
        code_name(self.row(method).0)
    }

    /// The bounded class, for metrics and logs.
    #[must_use]
    pub fn class(self, method: Method) -> &'static str {
        self.row(method).2
    }

    fn row(self, method: Method) -> (Code, &'static str, &'static str) {
        match self {
            Self::Deadline => (Code::DeadlineExceeded, "request timed out", "timeout"),
            Self::EmptyPlaintext => (Code::InvalidArgument, "plaintext is required", "unknown"),
            Self::EmptyCiphertext => (Code::InvalidArgument, "ciphertext is required", "unknown"),
            Self::RequestTooLarge => (
                Code::InvalidArgument,
                "kms request exceeds protocol limits",
                "protocol_limit",
            ),
            Self::MalformedKeyId => (
                Code::InvalidArgument,
                "key_id malformed",
                "key_id_malformed",
            ),
            Self::InvalidAnnotations => (
                Code::InvalidArgument,
                "annotations invalid",
                "annotation_invalid",
            ),
            Self::InvalidCiphertext => (Code::InvalidArgument, "ciphertext invalid", "unknown"),
            Self::Mismatch => (
                Code::InvalidArgument,
                "annotations do not match key snapshot",
                "aad_mismatch",
            ),
            Self::ResponseTooLarge => (
                Code::Internal,
                "kms response exceeds protocol limits",
                "protocol_limit",
            ),
            Self::Concurrency => (
                Code::ResourceExhausted,
                "kms request concurrency limit reached",
                "concurrency_limit",
            ),
            Self::Discovery(_) => (
                Code::Unavailable,
                "key metadata refresh failed",
                "key_metadata_refresh_failed",
            ),
            Self::UnknownKeyId | Self::Disabled => {
                (Code::NotFound, "key_id unknown", "key_id_unknown")
            }
            Self::NoActiveKey => (
                Code::FailedPrecondition,
                "active key unavailable",
                "status_stale",
            ),
            Self::Unhealthy => (Code::FailedPrecondition, "status unhealthy", "status_stale"),
            Self::Panic(_) => (Code::Internal, "kms request failed", "panic"),
            Self::InvalidTransitAnswer => (Code::Internal, "kms request failed", "unknown"),
            Self::Login
            | Self::ShortLease
            | Self::Credential
            | Self::CredentialDates
            | Self::Token
            | Self::JwtFile
            | Self::JwtDates
            | Self::JwtClaims
            | Self::OAuth2Credential
            | Self::OAuth2Unreachable
            | Self::OAuth2Refused
            | Self::OAuth2Token
            | Self::SpiffeUnreachable
            | Self::SpiffeRefused
            | Self::SpiffeToken => (
                Code::Unauthenticated,
                "transit authentication failed",
                "auth_failed",
            ),
            Self::Stopping => (Code::Unavailable, "provider stopping", "stopping"),
            Self::ForeignKeyId => (
                Code::InvalidArgument,
                "key_id does not match the ciphertext",
                "key_id_malformed",
            ),
            Self::Transit(class) => transit_row(class, method),
        }
    }
}

fn transit_row(class: FailureClass, method: Method) -> (Code, &'static str, &'static str) {
    const UNAVAILABLE: &str = "transit unavailable";
    let refused = match method {
        Method::Decrypt => "transit decrypt failed",
        Method::Encrypt | Method::Status => "transit encrypt failed",
    };
    match class {
        FailureClass::Timeout => Fault::Deadline.row(method),
        FailureClass::Unauthenticated => Fault::Login.row(method),
        FailureClass::PermissionDenied => (
            Code::PermissionDenied,
            "transit permission denied",
            "transit_policy_denied",
        ),
        FailureClass::NotFound | FailureClass::KeyMissing => (
            Code::NotFound,
            "transit key not found",
            "transit_key_missing",
        ),
        FailureClass::VersionTooOld
        | FailureClass::VersionTooNew
        | FailureClass::VersionBelowMinimum => {
            (Code::InvalidArgument, refused, "transit_version_refused")
        }
        FailureClass::InvalidRequest => (Code::InvalidArgument, refused, "unknown"),
        FailureClass::DecryptFailed => (Code::InvalidArgument, refused, "aad_mismatch"),
        FailureClass::RateLimited => (
            Code::ResourceExhausted,
            "transit rate limited",
            "openbao_rate_limited",
        ),
        FailureClass::Sealed => (Code::Unavailable, UNAVAILABLE, "openbao_sealed"),
        FailureClass::Unavailable => (Code::Unavailable, UNAVAILABLE, "openbao_unavailable"),
        FailureClass::NotOpenBao => (Code::Unavailable, UNAVAILABLE, "not_openbao"),
        FailureClass::TlsFailed => (Code::Unavailable, UNAVAILABLE, "openbao_tls_failed"),
        FailureClass::DnsFailed => (Code::Unavailable, UNAVAILABLE, "openbao_dns_failed"),
        FailureClass::ConnectionFailed => {
            (Code::Unavailable, UNAVAILABLE, "openbao_connection_failed")
        }
        FailureClass::Unknown => (Code::Unavailable, UNAVAILABLE, "unknown"),
        FailureClass::InvalidAnswer => (
            Code::Unavailable,
            "transit operation failed",
            "openbao_unavailable",
        ),
    }
}

impl From<LimitExceeded> for Fault {
    fn from(_: LimitExceeded) -> Self {
        Self::RequestTooLarge
    }
}

impl From<AnnotationsInvalid> for Fault {
    fn from(_: AnnotationsInvalid) -> Self {
        Self::InvalidAnnotations
    }
}

impl From<DecryptRefused> for Fault {
    fn from(_: DecryptRefused) -> Self {
        Self::Mismatch
    }
}

impl From<CallFailure> for Fault {
    fn from(failure: CallFailure) -> Self {
        match (failure.class(), failure) {
            (Some(class), _) => Self::Transit(class),
            (None, CallFailure::OpenBao(_)) => Self::Login,
            (None, CallFailure::Auth(failure)) => Self::of_login(&failure),
        }
    }
}

impl Fault {
    /// For a login failure without a failed request, whose class would be more precise.
    fn of_login(failure: &AuthFailure) -> Self {
        match failure {
            AuthFailure::Login(LoginFailure::JwtFile(_)) => Self::JwtFile,
            AuthFailure::Login(LoginFailure::Jwt(problem)) => match problem {
                JwtProblem::NotYetValid(_)
                | JwtProblem::IssuedInFuture(_)
                | JwtProblem::Expired { .. }
                | JwtProblem::NearExpiry { .. } => Self::JwtDates,
                JwtProblem::Empty
                | JwtProblem::Malformed(_)
                | JwtProblem::NoExpiry
                | JwtProblem::Issuer
                | JwtProblem::Audience
                | JwtProblem::Subject => Self::JwtClaims,
            },
            AuthFailure::Login(LoginFailure::OAuth2(problem)) => match problem {
                OAuth2Problem::SecretFile(_)
                | OAuth2Problem::SecretContent
                | OAuth2Problem::KeyFile(_)
                | OAuth2Problem::Key(_)
                | OAuth2Problem::CaFile(_)
                | OAuth2Problem::Ca(_) => Self::OAuth2Credential,
                OAuth2Problem::Request(_) | OAuth2Problem::Unavailable(_) => {
                    Self::OAuth2Unreachable
                }
                OAuth2Problem::Rejected { .. } => Self::OAuth2Refused,
                OAuth2Problem::Response(_) | OAuth2Problem::Token(_) => Self::OAuth2Token,
            },
            AuthFailure::Login(LoginFailure::Spiffe(problem)) => match problem {
                SpiffeProblem::Socket(_) | SpiffeProblem::Timeout | SpiffeProblem::Unavailable => {
                    Self::SpiffeUnreachable
                }
                SpiffeProblem::NoIdentity
                | SpiffeProblem::OtherIdentity
                | SpiffeProblem::Refused => Self::SpiffeRefused,
                SpiffeProblem::Response(_) | SpiffeProblem::Svid(_) => Self::SpiffeToken,
            },
            AuthFailure::Login(LoginFailure::Certificate(
                CertificateProblem::NotYetValid { .. }
                | CertificateProblem::Expired { .. }
                | CertificateProblem::NearExpiry { .. },
            ))
            | AuthFailure::Login(LoginFailure::Token(TokenFileProblem::NearExpiry { .. })) => {
                Self::CredentialDates
            }
            AuthFailure::Login(LoginFailure::Token(
                TokenFileProblem::Rejected | TokenFileProblem::LookupDenied,
            )) => Self::Login,
            AuthFailure::Login(LoginFailure::PinFile(_) | LoginFailure::Pkcs11(_)) => Self::Token,
            AuthFailure::Login(
                LoginFailure::Secret(_)
                | LoginFailure::Wrapping(_)
                | LoginFailure::Token(_)
                | LoginFailure::CertificateFile(_)
                | LoginFailure::KeyFile(_)
                | LoginFailure::Certificate(_),
            ) => Self::Credential,
            AuthFailure::ShortLease { .. } => Self::ShortLease,
            AuthFailure::Stopped => Self::Stopping,
            AuthFailure::Login(LoginFailure::OpenBao(_) | LoginFailure::GivenToken)
            | AuthFailure::Renewal(_)
            | AuthFailure::Timeout
            | AuthFailure::Rejected => Self::Login,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use openbao_client::{
        credential_file::CredentialFileProblem, failure::Failure, request::Operation,
    };

    use super::{verdict::Verdict, *};

    const EVERY_CLASS: [FailureClass; 19] = [
        FailureClass::Sealed,
        FailureClass::DecryptFailed,
        FailureClass::KeyMissing,
        FailureClass::VersionTooOld,
        FailureClass::VersionTooNew,
        FailureClass::VersionBelowMinimum,
        FailureClass::InvalidRequest,
        FailureClass::Unauthenticated,
        FailureClass::PermissionDenied,
        FailureClass::NotFound,
        FailureClass::RateLimited,
        FailureClass::Unavailable,
        FailureClass::NotOpenBao,
        FailureClass::TlsFailed,
        FailureClass::DnsFailed,
        FailureClass::ConnectionFailed,
        FailureClass::InvalidAnswer,
        FailureClass::Timeout,
        FailureClass::Unknown,
    ];

    const PAGE: &str = include_str!("../../../../docs/operate/messages.md");

    /// Faults impossible in Decrypt.
    const OF_ENCRYPT: [Fault; 5] = [
        Fault::EmptyPlaintext,
        Fault::ResponseTooLarge,
        Fault::NoActiveKey,
        Fault::Unhealthy,
        Fault::Transit(FailureClass::VersionBelowMinimum),
    ];

    fn every_fault() -> impl Iterator<Item = Fault> {
        let local = [
            Fault::Deadline,
            Fault::EmptyPlaintext,
            Fault::EmptyCiphertext,
            Fault::RequestTooLarge,
            Fault::MalformedKeyId,
            Fault::InvalidAnnotations,
            Fault::InvalidCiphertext,
            Fault::Mismatch,
            Fault::ForeignKeyId,
            Fault::ResponseTooLarge,
            Fault::Concurrency,
            Fault::Discovery(DiscoveryFailed::Unanswered),
            Fault::Discovery(DiscoveryFailed::Refused),
            Fault::Discovery(DiscoveryFailed::Busy),
            Fault::UnknownKeyId,
            Fault::Disabled,
            Fault::NoActiveKey,
            Fault::Unhealthy,
            Fault::InvalidTransitAnswer,
            Fault::Login,
            Fault::ShortLease,
            Fault::Credential,
            Fault::CredentialDates,
            Fault::Token,
            Fault::JwtFile,
            Fault::JwtDates,
            Fault::JwtClaims,
            Fault::OAuth2Credential,
            Fault::OAuth2Unreachable,
            Fault::OAuth2Refused,
            Fault::OAuth2Token,
            Fault::SpiffeUnreachable,
            Fault::SpiffeRefused,
            Fault::SpiffeToken,
            Fault::Stopping,
        ];
        local.into_iter().chain(EVERY_CLASS.map(Fault::Transit))
    }

    #[test]
    fn every_failure_is_a_row_of_the_operators_page() {
        for fault in every_fault() {
            for method in [Method::Encrypt, Method::Decrypt] {
                let (code, sentence, class) = fault.row(method);
                let row = format!("| {code:?} | {sentence} | `{class}` |");
                assert!(PAGE.contains(&row), "{fault:?} is missing: {row}");
            }
            if OF_ENCRYPT.contains(&fault) {
                continue;
            }
            let (_, sentence, class) = fault.row(Method::Decrypt);
            let row = format!("| {sentence} | `{class}` | {} |", fault.verdict().1);
            assert!(PAGE.contains(&row), "{fault:?} is missing: {row}");
        }
    }

    #[test]
    fn every_failed_decrypt_says_what_is_wrong_with_the_data_and_not_to_delete_the_object() {
        let ciphertext = b"vault:v9223372036854775807:c2VjcmV0";
        for fault in every_fault() {
            let said = fault.decrypt_status(ciphertext);
            let (code, sentence, _) = fault.row(Method::Decrypt);
            let said_of_data = said.message().strip_prefix(sentence);
            let said_of_data = said_of_data.and_then(|rest| rest.strip_prefix(": "));
            let advice = said_of_data.unwrap_or_else(|| panic!("{fault:?}: {said:?}"));
            assert_eq!(said.code(), code);
            assert!(advice.ends_with("; do not delete the object"), "{advice}");
            // A failed list carries about a hundred messages.
            assert!(said.message().len() <= 256, "{}", said.message());
            assert!(said.message().chars().all(|c| matches!(c, ' '..='~')));
            assert!(!advice.contains("c2VjcmV0"), "{advice}");
            let expected = match fault.verdict().0 {
                Verdict::NoDataLost => "no data is lost",
                Verdict::KeyMissing => "key version 9223372036854775807",
                Verdict::MayBeDamaged => "damaged",
            };
            assert!(advice.contains(expected), "{advice}");
            let damaged = fault.verdict().0 == Verdict::MayBeDamaged;
            assert_eq!(advice.contains("damaged"), damaged, "{advice}");
        }
    }

    #[test]
    fn openbao_is_named_only_where_it_was_asked() {
        let login = |failure| Fault::from(CallFailure::Auth(AuthFailure::Login(failure)));
        let file = LoginFailure::JwtFile(CredentialFileProblem::Missing);
        let expired = LoginFailure::Jwt(JwtProblem::Expired {
            since: Duration::ZERO,
        });
        let audience = LoginFailure::Jwt(JwtProblem::Audience);
        for fault in [login(file), login(expired), login(audience)] {
            let advice = fault.verdict().1.to_string();
            assert!(!advice.contains("OpenBao"), "{fault:?}: {advice}");
        }
        let refused = Failure::new(Operation::JwtLogin, FailureClass::InvalidRequest);
        assert_eq!(login(LoginFailure::OpenBao(refused)), Fault::Login);
    }

    #[test]
    fn a_ciphertext_without_a_version_lends_no_word_to_the_message() {
        for ciphertext in [&b""[..], b"vault:v0:AAEC", b"<script>", b"vault:v1:"] {
            let said = Fault::UnknownKeyId.decrypt_status(ciphertext);
            let expected = "key_id unknown: its key version of this key and configuration is not";
            assert!(said.message().starts_with(expected), "{}", said.message());
        }
    }
}
