//! The one table of failed calls: cause, gRPC code, public sentence, class. Implements
//! `docs/operate/messages.md`.
//!
//! kube-apiserver passes the sentence on to whoever reads the object, so it is fixed text: no
//! word of a server, no name, no path.

use kms_domain::{annotations::AnnotationsInvalid, limits::LimitExceeded, prepare::DecryptRefused};
use openbao_client::failure::FailureClass;
use tonic::{Code, Status};

use super::{Method, panic::PanicKind};
use crate::auth::CallFailure;

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
    DiscoveryFailed,
    /// A well-formed `key_id` that is in no record.
    UnknownKeyId,
    /// There is no state, so no key to encrypt with.
    NoActiveKey,
    /// Encrypting is not permitted at the moment.
    Unhealthy,
    /// A handler panicked.
    Panic(PanicKind),
    /// Transit's answer breaks a rule of ours, such as the version asked for.
    InvalidTransitAnswer,
    /// No token could be had, and OpenBao itself is not the cause.
    Login,
    /// A Transit call, or the login before it, failed.
    Transit(FailureClass),
}

impl Fault {
    /// What the caller gets.
    #[must_use]
    pub fn status(self, method: Method) -> Status {
        let (code, sentence, _) = self.row(method);
        Status::new(code, sentence)
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
            Self::DiscoveryFailed => (
                Code::Unavailable,
                "key metadata refresh failed",
                "key_metadata_refresh_failed",
            ),
            Self::UnknownKeyId => (Code::NotFound, "key_id unknown", "key_id_unknown"),
            Self::NoActiveKey => (
                Code::FailedPrecondition,
                "active key unavailable",
                "status_stale",
            ),
            Self::Unhealthy => (Code::FailedPrecondition, "status unhealthy", "status_stale"),
            Self::Panic(_) => (Code::Internal, "kms request failed", "panic"),
            Self::InvalidTransitAnswer => (Code::Internal, "kms request failed", "unknown"),
            Self::Login => (
                Code::Unauthenticated,
                "transit authentication failed",
                "auth_failed",
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
        failure.class().map_or(Self::Login, Self::Transit)
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
    use super::*;

    const EVERY_CLASS: [FailureClass; 18] = [
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
        FailureClass::TlsFailed,
        FailureClass::DnsFailed,
        FailureClass::ConnectionFailed,
        FailureClass::InvalidAnswer,
        FailureClass::Timeout,
        FailureClass::Unknown,
    ];

    #[test]
    fn every_failure_is_a_row_of_the_operators_page() {
        let page = include_str!("../../../../docs/operate/messages.md");
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
            Fault::DiscoveryFailed,
            Fault::UnknownKeyId,
            Fault::NoActiveKey,
            Fault::Unhealthy,
            Fault::InvalidTransitAnswer,
            Fault::Login,
        ];
        let transit = EVERY_CLASS.map(Fault::Transit);
        for fault in local.into_iter().chain(transit) {
            for method in [Method::Encrypt, Method::Decrypt] {
                let (code, sentence, class) = fault.row(method);
                let row = format!("| {code:?} | {sentence} | `{class}` |");
                assert!(page.contains(&row), "{fault:?} is missing: {row}");
            }
        }
    }
}
