//! The KMS v2 API of Kubernetes, for its server and its clients.

use tonic::Code;

#[expect(
    missing_docs,
    unused_qualifications,
    clippy::allow_attributes_without_reason,
    reason = "generated from proto/kms/v2/api.proto by `cargo xtask proto`"
)]
#[rustfmt::skip]
pub mod generated;

/// The API version in Status responses.
pub const API_VERSION: &str = "v2";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Reports health and the active key_id.
    Status,
    /// Encrypts a DEK seed with the active key version.
    Encrypt,
    /// Decrypts an encrypted DEK seed with the key version of its key_id.
    Decrypt,
}

impl Method {
    pub const ALL: [Self; 3] = [Self::Status, Self::Encrypt, Self::Decrypt];

    /// The name in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Encrypt => "encrypt",
            Self::Decrypt => "decrypt",
        }
    }

    /// The method of an HTTP path.
    #[must_use]
    pub fn of_path(path: &str) -> Option<Self> {
        match path.strip_prefix("/v2.KeyManagementService/")? {
            "Status" => Some(Self::Status),
            "Encrypt" => Some(Self::Encrypt),
            "Decrypt" => Some(Self::Decrypt),
            _ => None,
        }
    }

    /// The name in log lines.
    #[must_use]
    pub fn operation(self) -> &'static str {
        match self {
            Self::Status => "kms.status",
            Self::Encrypt => "kms.encrypt",
            Self::Decrypt => "kms.decrypt",
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
