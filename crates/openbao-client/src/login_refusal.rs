//! Reasons of OpenBao's logins for a refusal, from its error texts. The texts themselves stay
//! inside.

use std::fmt;

use http::StatusCode;

/// Reason of a refused login.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LoginRefusal {
    /// The mount has no such role.
    RoleMissing,
    /// The role is for another kind of login, or needs a claim that the JWT lacks.
    RoleUnsuitable,
    /// `aud` has no value of `bound_audiences`.
    Audience,
    /// `sub` differs from `bound_subject`.
    Subject,
    /// `iss` differs from `bound_issuer` of the mount.
    Issuer,
    /// No key of the mount verifies the signature, or its keys could not be fetched.
    Signature,
    /// A claim differs from `bound_claims`.
    BoundClaims,
    /// The JWT has expired by the clock of OpenBao.
    Expired,
    /// The JWT is not valid yet by the clock of OpenBao.
    NotYetValid,
    /// The mount has no configuration.
    MountUnconfigured,
    /// No login method is mounted at the path in this namespace, or the role excludes the address
    /// of this node. OpenBao answers both alike.
    MountOrAddress,
    /// OpenBao has no such namespace.
    NamespaceMissing,
    /// The role ID, secret ID, user name or password is unknown, used up or expired. OpenBao answers
    /// all alike.
    Credential,
    /// The secret ID excludes the address of this node.
    SecretIdAddress,
    /// No client certificate reached OpenBao.
    CertificateMissing,
    /// No role accepts the client certificate.
    Certificate,
}

/// Status and text of each reason, in lower case; each text matches anywhere in an error. OpenBao
/// may change them, so each row is tested against a real server.
const TEXTS: &[(StatusCode, &str, LoginRefusal)] = &[
    (
        StatusCode::BAD_REQUEST,
        "\" could not be found",
        LoginRefusal::RoleMissing,
    ),
    (
        StatusCode::BAD_REQUEST,
        "role_type is not allowed",
        LoginRefusal::RoleUnsuitable,
    ),
    (
        StatusCode::BAD_REQUEST,
        "not found in token",
        LoginRefusal::RoleUnsuitable,
    ),
    (
        StatusCode::BAD_REQUEST,
        "failed to fetch groups",
        LoginRefusal::RoleUnsuitable,
    ),
    (
        StatusCode::BAD_REQUEST,
        "invalid audience (aud) claim",
        LoginRefusal::Audience,
    ),
    (
        StatusCode::BAD_REQUEST,
        "no audiences bound to the role",
        LoginRefusal::Audience,
    ),
    (
        StatusCode::BAD_REQUEST,
        "invalid subject (sub) claim",
        LoginRefusal::Subject,
    ),
    (
        StatusCode::BAD_REQUEST,
        "invalid issuer (iss) claim",
        LoginRefusal::Issuer,
    ),
    (
        StatusCode::BAD_REQUEST,
        "error verifying token signature",
        LoginRefusal::Signature,
    ),
    (
        StatusCode::BAD_REQUEST,
        "error validating claims",
        LoginRefusal::BoundClaims,
    ),
    (
        StatusCode::BAD_REQUEST,
        "token is expired",
        LoginRefusal::Expired,
    ),
    (
        StatusCode::BAD_REQUEST,
        "token not yet valid",
        LoginRefusal::NotYetValid,
    ),
    (
        StatusCode::BAD_REQUEST,
        "issued in the future",
        LoginRefusal::NotYetValid,
    ),
    (
        StatusCode::BAD_REQUEST,
        "could not load configuration",
        LoginRefusal::MountUnconfigured,
    ),
    (
        StatusCode::BAD_REQUEST,
        "invalid role or secret id",
        LoginRefusal::Credential,
    ),
    (
        StatusCode::BAD_REQUEST,
        "invalid username or password",
        LoginRefusal::Credential,
    ),
    (
        StatusCode::BAD_REQUEST,
        "cidr restrictions on the secret id",
        LoginRefusal::SecretIdAddress,
    ),
    (
        StatusCode::BAD_REQUEST,
        "no client certificate found",
        LoginRefusal::CertificateMissing,
    ),
    (
        StatusCode::BAD_REQUEST,
        "invalid certificate or no client certificate supplied",
        LoginRefusal::Certificate,
    ),
    (
        StatusCode::BAD_REQUEST,
        "failed to verify client",
        LoginRefusal::Certificate,
    ),
    (
        StatusCode::BAD_REQUEST,
        "all constraints",
        LoginRefusal::Certificate,
    ),
    (
        StatusCode::FORBIDDEN,
        "permission denied",
        LoginRefusal::MountOrAddress,
    ),
    (
        StatusCode::NOT_FOUND,
        "namespace not found",
        LoginRefusal::NamespaceMissing,
    ),
];

impl LoginRefusal {
    /// The reason of an error response to a login.
    pub(crate) fn of(status: StatusCode, errors: &[String]) -> Option<Self> {
        let said = |text: &str| {
            errors
                .iter()
                .any(|error| error.to_lowercase().contains(text))
        };
        let known = TEXTS
            .iter()
            .find(|(with, text, _)| *with == status && said(text));
        known.map(|(_, _, refusal)| *refusal)
    }

    /// The log label and error code.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::RoleMissing => "role_missing",
            Self::RoleUnsuitable => "role_unsuitable",
            Self::Audience => "role_audience",
            Self::Subject => "role_subject",
            Self::Issuer => "bound_issuer",
            Self::Signature => "signature",
            Self::BoundClaims => "bound_claims",
            Self::Expired => "expired_at_openbao",
            Self::NotYetValid => "not_yet_valid_at_openbao",
            Self::MountUnconfigured => "mount_unconfigured",
            Self::MountOrAddress => "mount_or_address",
            Self::NamespaceMissing => "namespace_missing",
            Self::Credential => "credential",
            Self::SecretIdAddress => "secret_id_address",
            Self::CertificateMissing => "certificate_missing",
            Self::Certificate => "certificate",
        }
    }
}

impl fmt::Display for LoginRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RoleMissing => "the login method has no such role",
            Self::RoleUnsuitable => {
                "the role is for another kind of login, or needs a claim that the JWT lacks"
            }
            Self::Audience => "the audience of the JWT is not among bound_audiences of the role",
            Self::Subject => "the subject of the JWT is not bound_subject of the role",
            Self::Issuer => "the issuer of the JWT is not bound_issuer of the login method",
            Self::Signature => {
                "the keys of the login method do not verify the signature of the JWT"
            }
            Self::BoundClaims => "a claim of the JWT differs from bound_claims of the role",
            Self::Expired => "the JWT has expired by the clock of OpenBao",
            Self::NotYetValid => "the JWT is not valid yet by the clock of OpenBao",
            Self::MountUnconfigured => "the login method has no configuration",
            Self::MountOrAddress => {
                "no login method is mounted at this path and namespace, the role excludes the \
                 address of this node, or OpenBao has locked the login after failures"
            }
            Self::NamespaceMissing => "the namespace does not exist",
            Self::Credential => {
                "the login method does not accept the ID with its secret: one of them is wrong, \
                 expired, revoked or used up"
            }
            Self::SecretIdAddress => "the secret ID excludes the address of this node",
            Self::CertificateMissing => {
                "no client certificate reached OpenBao: its listener does not ask for one, or a \
                 proxy ends the TLS connection"
            }
            Self::Certificate => "no role of the login method accepts the client certificate",
        })
    }
}
