//! The one table of failed calls: cause, gRPC code, public sentence, class. Implements
//! `docs/operate/messages.md`.
//!
//! kube-apiserver passes the sentence on to whoever reads the object, so it is fixed text: no
//! word of a server, no name, no path. A failed Decrypt adds what it means for the object, also
//! fixed but for the number of a key version.

use kms_domain::{annotations::AnnotationsInvalid, limits::LimitExceeded, prepare::DecryptRefused};
use openbao_client::{
    failure::FailureClass,
    login::{LoginFailure, jwt::JwtProblem},
};
use tonic::{Code, Status};

use super::{Method, panic::PanicKind};
use crate::{
    auth::{AuthFailure, CallFailure},
    watcher::discovery::DiscoveryFailed,
};

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
    /// A part of the request is too large.
    RequestTooLarge,
    /// A `key_id` that this provider cannot have made.
    MalformedKeyId,
    /// Annotations that this provider cannot have made.
    InvalidAnnotations,
    /// A ciphertext that Transit cannot have made.
    InvalidCiphertext,
    /// Annotations or ciphertext of another key than the `key_id` names.
    Mismatch,
    /// The answer would exceed what Kubernetes stores.
    ResponseTooLarge,
    /// As many calls of this kind as permitted are under way.
    Concurrency,
    /// Whether a `key_id` exists could not be found out.
    Discovery(DiscoveryFailed),
    /// A well-formed `key_id` that is in no record.
    UnknownKeyId,
    /// The `key_id` of a version that was taken out here.
    Withdrawn,
    /// There is no state, so no key to encrypt with.
    NoActiveKey,
    /// Encrypting is not permitted at the moment.
    Unhealthy,
    /// A handler panicked.
    Panic(PanicKind),
    /// Transit's answer breaks a rule of ours, such as the version asked for.
    InvalidTransitAnswer,
    /// OpenBao refuses the login, or the token.
    Login,
    /// OpenBao grants tokens whose lease is too short.
    ShortLease,
    /// The JWT file was not read; OpenBao was not asked.
    JwtFile,
    /// The JWT is out of its time by the node's clock; OpenBao was not asked.
    JwtDates,
    /// The JWT is malformed or has other claims than configured; OpenBao was not asked.
    JwtClaims,
    /// The provider stops.
    Stopping,
    /// A Transit call, or the login before it, failed.
    Transit(FailureClass),
}

impl Fault {
    /// What the caller of Status or Encrypt gets.
    #[must_use]
    pub fn status(self, method: Method) -> Status {
        let (code, sentence, _) = self.row(method);
        Status::new(code, sentence)
    }

    /// What the caller of Decrypt gets. Of the request's ciphertext nothing but the number of the
    /// key version is shown.
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
            Self::UnknownKeyId | Self::Withdrawn => {
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
            Self::Login | Self::ShortLease | Self::JwtFile | Self::JwtDates | Self::JwtClaims => (
                Code::Unauthenticated,
                "transit authentication failed",
                "auth_failed",
            ),
            Self::Stopping => (Code::Unavailable, "provider stopping", "stopping"),
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
    /// Without a failed request whose class says more.
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
                | JwtProblem::Issuer
                | JwtProblem::Audience
                | JwtProblem::Subject => Self::JwtClaims,
            },
            AuthFailure::ShortLease { .. } => Self::ShortLease,
            AuthFailure::Stopped => Self::Stopping,
            AuthFailure::Login(LoginFailure::OpenBao(_))
            | AuthFailure::Renewal(_)
            | AuthFailure::Timeout
            | AuthFailure::Rejected => Self::Login,
        }
    }
}

/// The metric label of a gRPC code.
#[must_use]
pub fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "ok",
        Code::Cancelled => "canceled",
        Code::Unknown => "unknown",
        Code::InvalidArgument => "invalid_argument",
        Code::DeadlineExceeded => "deadline_exceeded",
        Code::NotFound => "not_found",
        Code::AlreadyExists => "already_exists",
        Code::PermissionDenied => "permission_denied",
        Code::ResourceExhausted => "resource_exhausted",
        Code::FailedPrecondition => "failed_precondition",
        Code::Aborted => "aborted",
        Code::OutOfRange => "out_of_range",
        Code::Unimplemented => "unimplemented",
        Code::Internal => "internal",
        Code::Unavailable => "unavailable",
        Code::DataLoss => "data_loss",
        Code::Unauthenticated => "unauthenticated",
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

    /// Those that no Decrypt ends with.
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
            Fault::ResponseTooLarge,
            Fault::Concurrency,
            Fault::Discovery(DiscoveryFailed::Unanswered),
            Fault::Discovery(DiscoveryFailed::Refused),
            Fault::Discovery(DiscoveryFailed::Busy),
            Fault::UnknownKeyId,
            Fault::Withdrawn,
            Fault::NoActiveKey,
            Fault::Unhealthy,
            Fault::InvalidTransitAnswer,
            Fault::Login,
            Fault::ShortLease,
            Fault::JwtFile,
            Fault::JwtDates,
            Fault::JwtClaims,
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
            // A list that fails carries a hundred of them.
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
            let (_, advice) = fault.verdict();
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
