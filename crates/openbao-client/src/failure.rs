//! Classification of failed requests: one bounded class, without texts of the server.
//!
//! A status counts only with OpenBao's own error body. A proxy, an ingress or a web server in front
//! of OpenBao has statuses too, but they are unrelated to the key.

use std::{error::Error, fmt, io};

use http::StatusCode;
use rustix::io::Errno;

use crate::{
    connect::LookupFailed,
    login_refusal::LoginRefusal,
    request::{Operation, RequestId},
};

/// Cause of a failed request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailureClass {
    /// OpenBao is sealed.
    Sealed,
    /// Transit failed to authenticate the ciphertext: other associated data, other key material, or
    /// invalid ciphertext.
    DecryptFailed,
    /// The Transit key is missing, as reported by encrypt and decrypt.
    KeyMissing,
    /// The version is below the key's `min_decryption_version`.
    VersionTooOld,
    /// The version is above the key's latest.
    VersionTooNew,
    /// The version is below the key's `min_encryption_version`.
    VersionBelowMinimum,
    /// Any other 400 of OpenBao.
    InvalidRequest,
    /// OpenBao rejects the token itself: it is revoked, expired or unknown.
    Unauthenticated,
    /// Any other 403 of OpenBao: the policy denies the request. The token itself may be valid.
    PermissionDenied,
    /// 404 of OpenBao.
    NotFound,
    /// 429 of OpenBao.
    RateLimited,
    /// A 5xx of OpenBao or of a proxy, a redirect, an oversized response, or an incomplete one.
    Unavailable,
    /// A 4xx without OpenBao's error body, or a success without OpenBao's envelope: other software
    /// answered. Unrelated to key, token and policy.
    NotOpenBao,
    /// The server's certificate is untrusted, or TLS itself failed.
    TlsFailed,
    /// The name lookup failed.
    DnsFailed,
    /// The connection failed or broke.
    ConnectionFailed,
    /// A success with unexpected content.
    InvalidAnswer,
    /// The deadline of the request passed.
    Timeout,
    /// Any other status of OpenBao.
    Unknown,
}

impl FailureClass {
    /// The metric and log label.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Sealed => "sealed",
            Self::DecryptFailed => "decrypt_failed",
            Self::KeyMissing => "key_missing",
            Self::VersionTooOld => "version_too_old",
            Self::VersionTooNew => "version_too_new",
            Self::VersionBelowMinimum => "version_below_minimum",
            Self::InvalidRequest => "invalid_request",
            Self::Unauthenticated => "unauthenticated",
            Self::PermissionDenied => "permission_denied",
            Self::NotFound => "not_found",
            Self::RateLimited => "rate_limited",
            Self::Unavailable => "unavailable",
            Self::NotOpenBao => "not_openbao",
            Self::TlsFailed => "tls_failed",
            Self::DnsFailed => "dns_failed",
            Self::ConnectionFailed => "connection_failed",
            Self::InvalidAnswer => "invalid_answer",
            Self::Timeout => "timeout",
            Self::Unknown => "unknown",
        }
    }

    /// Whether OpenBao or the connection to it failed. A rejected request is no outage.
    #[must_use]
    pub fn is_outage(self) -> bool {
        match self {
            Self::Sealed
            | Self::Unavailable
            | Self::NotOpenBao
            | Self::TlsFailed
            | Self::DnsFailed
            | Self::ConnectionFailed
            | Self::Timeout => true,
            Self::DecryptFailed
            | Self::KeyMissing
            | Self::VersionTooOld
            | Self::VersionTooNew
            | Self::VersionBelowMinimum
            | Self::InvalidRequest
            | Self::Unauthenticated
            | Self::PermissionDenied
            | Self::NotFound
            | Self::RateLimited
            | Self::InvalidAnswer
            | Self::Unknown => false,
        }
    }

    fn condemns_peer(self) -> bool {
        self.is_outage() || matches!(self, Self::InvalidAnswer | Self::Unknown)
    }

    fn sentence(self) -> &'static str {
        match self {
            Self::Sealed => "OpenBao is sealed",
            Self::DecryptFailed => "the ciphertext does not match the associated data and the key",
            Self::KeyMissing => "the Transit key does not exist",
            Self::VersionTooOld => "the key version is below the key's min_decryption_version",
            Self::VersionTooNew => "the key version is above the key's latest version",
            Self::VersionBelowMinimum => {
                "the key version is below the key's min_encryption_version"
            }
            Self::InvalidRequest => "OpenBao refused the request as invalid",
            Self::Unauthenticated => "OpenBao did not accept the token",
            Self::PermissionDenied => "the policy of the token does not allow it",
            Self::NotFound => "the path does not exist",
            Self::RateLimited => "OpenBao limits the rate of requests",
            Self::Unavailable => "OpenBao is not available",
            Self::NotOpenBao => NOT_OPENBAO,
            Self::TlsFailed => "no trusted TLS connection",
            Self::DnsFailed => "the host name cannot be resolved",
            Self::ConnectionFailed => "the connection failed",
            Self::InvalidAnswer => "the answer differs from the API",
            Self::Timeout => "no answer in time",
            Self::Unknown => "OpenBao answered with an unexpected status",
        }
    }
}

const LAGS: &str = "a standby behind the active server answered";
const NOT_OPENBAO: &str = "the response is not from OpenBao";

/// A failed request.
///
/// `Display` and `Debug` never show addresses, tokens, payloads or texts of the server. For other
/// software they show its media type and product name, at most 64 characters each.
#[derive(Debug, Clone)]
pub struct Failure {
    operation: Operation,
    class: FailureClass,
    status: Option<u16>,
    detail: Option<&'static str>,
    refusal: Option<LoginRefusal>,
    responder: Option<Box<str>>,
    pub(crate) request_id: Option<RequestId>,
    server_errors: ServerErrors,
}

impl Failure {
    /// A failure without status or detail.
    #[must_use]
    pub fn new(operation: Operation, class: FailureClass) -> Self {
        Self {
            operation,
            class,
            status: None,
            detail: None,
            refusal: None,
            responder: None,
            request_id: None,
            server_errors: ServerErrors::default(),
        }
    }

    /// The failure of a read-enabled standby that lags behind the active server.
    pub(crate) fn lagging(operation: Operation) -> Self {
        Self::new(operation, FailureClass::Unavailable).detail(LAGS)
    }

    /// Whether the failure is a lagging standby: another server may succeed.
    pub(crate) fn is_lagging(&self) -> bool {
        self.detail == Some(LAGS)
    }

    /// Whether the cause is the peer or the connection: another peer may succeed.
    pub(crate) fn condemns_peer(&self) -> bool {
        self.class.condemns_peer() && !self.is_lagging()
    }

    pub(crate) fn detail(mut self, detail: &'static str) -> Self {
        self.detail = Some(detail);
        self
    }

    pub(crate) fn status(mut self, status: StatusCode) -> Self {
        self.status = Some(status.as_u16());
        self
    }

    pub(crate) fn request_id(mut self, request_id: Option<RequestId>) -> Self {
        self.request_id = request_id;
        self
    }

    /// Classifies an error response by its status and the texts of its error body.
    pub(crate) fn from_answer(
        operation: Operation,
        status: StatusCode,
        errors: Vec<String>,
    ) -> Self {
        let class = match class_of(status, &errors) {
            FailureClass::PermissionDenied
                if !operation.is_login() && errors.iter().any(|it| token_invalid(it)) =>
            {
                FailureClass::Unauthenticated
            }
            class => class,
        };
        let mut failure = Self::new(operation, class).status(status);
        if class == FailureClass::NotFound && errors.iter().any(|it| lacks_mount(it)) {
            failure = failure.detail(NO_MOUNT);
        }
        if operation.is_login() {
            failure.refusal = LoginRefusal::of(status, &errors);
        }
        if operation == Operation::Admin {
            failure.server_errors = ServerErrors::bounded(errors);
        }
        failure
    }

    /// Classifies a response without OpenBao's body. A redirect or a 5xx of a proxy means the same
    /// as one of OpenBao: the request was not served. Other statuses are the proxy's own.
    pub(crate) fn foreign(
        operation: Operation,
        status: StatusCode,
        responder: Option<Box<str>>,
    ) -> Self {
        let (class, detail) = if status.is_redirection() {
            let redirect = "a redirect; redirects are never followed";
            (FailureClass::Unavailable, Some(redirect))
        } else if status.is_server_error() {
            (FailureClass::Unavailable, Some(NOT_OPENBAO))
        } else {
            (FailureClass::NotOpenBao, None)
        };
        Self {
            detail,
            responder,
            ..Self::new(operation, class).status(status)
        }
    }

    /// Classifies one item of a batch by its own text. The status is that of the whole batch, so it
    /// counts only for items without a known text.
    pub(crate) fn from_item(operation: Operation, status: StatusCode, error: &str) -> Self {
        let errors = [error.to_owned()];
        let class = match class_of(StatusCode::BAD_REQUEST, &errors) {
            FailureClass::InvalidRequest if status.is_server_error() => class_of(status, &errors),
            class => class,
        };
        Self::new(operation, class).status(status)
    }

    /// Whether OpenBao has the namespace and the mount of the path, but nothing at it. A missing mount or
    /// namespace may as well be a wrong name in the configuration.
    #[must_use]
    pub fn is_absence(&self) -> bool {
        self.class == FailureClass::NotFound && !self.is_missing_mount()
    }

    /// Whether OpenBao has no mount at the path, or no such namespace.
    #[must_use]
    pub fn is_missing_mount(&self) -> bool {
        self.detail == Some(NO_MOUNT)
    }

    /// Whether a smaller batch may succeed: this one is too large, or OpenBao rejected it as a
    /// whole because of one item.
    pub(crate) fn may_concern_one_item(&self) -> bool {
        let too_large = Some(StatusCode::PAYLOAD_TOO_LARGE.as_u16());
        let refused = matches!(
            self.class,
            FailureClass::InvalidRequest
                | FailureClass::DecryptFailed
                | FailureClass::VersionTooOld
                | FailureClass::VersionTooNew
        );
        self.status == too_large || (refused && self.status.is_some())
    }

    /// Classifies a connection error by the error types in its chain of causes.
    pub(crate) fn from_transport(operation: Operation, error: &(dyn Error + 'static)) -> Self {
        let (class, detail) = transport_class(error);
        Self {
            detail,
            ..Self::new(operation, class)
        }
    }

    /// The operation of the request.
    #[must_use]
    pub fn operation(&self) -> Operation {
        self.operation
    }

    /// The cause.
    #[must_use]
    pub fn class(&self) -> FailureClass {
        self.class
    }

    /// The TLS failure, if it has a remedy of its own.
    #[must_use]
    pub fn tls_problem(&self) -> Option<TlsProblem> {
        match self.detail? {
            CA_AS_SERVER => Some(TlsProblem::CaAsServer),
            NO_SERVER_AUTH => Some(TlsProblem::NoServerAuth),
            CLIENT_CERTIFICATE => Some(TlsProblem::ClientCertificateRequired),
            _ => None,
        }
    }

    /// Why OpenBao refused a login, if its answer is a known one.
    #[must_use]
    pub fn refusal(&self) -> Option<LoginRefusal> {
        self.refusal
    }

    /// The HTTP status, if a response arrived.
    #[must_use]
    pub fn http_status(&self) -> Option<u16> {
        self.status
    }

    /// Whether OpenBao rejects the token itself, so that every request with it fails. A denial by
    /// policy does not count.
    #[must_use]
    pub fn rejects_token(&self) -> bool {
        self.class == FailureClass::Unauthenticated
    }

    /// Error texts of the server, for [`Operation::Admin`] only: at most 8 texts of at most 512
    /// characters. For the lab mode, drills and tests, with their own server; a text may quote the
    /// request.
    #[must_use]
    pub fn server_errors(&self) -> &[String] {
        &self.server_errors.0
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.refusal {
            Some(refusal) => write!(f, "{} failed: {refusal}", self.operation)?,
            None => write!(f, "{} failed: {}", self.operation, self.class.sentence())?,
        }
        if let Some(detail) = self.detail {
            write!(f, ": {detail}")?;
        }
        if let Some(responder) = &self.responder {
            write!(f, ": {responder}")?;
        }
        if let Some(status) = self.status {
            write!(f, " (HTTP {status})")?;
        }
        Ok(())
    }
}

impl Error for Failure {}

/// Texts of the server, hidden from `Debug`.
#[derive(Clone, Default)]
struct ServerErrors(Box<[String]>);

impl ServerErrors {
    fn bounded(mut errors: Vec<String>) -> Self {
        errors.truncate(8);
        for text in &mut errors {
            *text = text.chars().take(512).collect();
        }
        Self(errors.into())
    }
}

impl fmt::Debug for ServerErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} texts", self.0.len())
    }
}

/// The only texts of the server with an effect, in lower case; each matches anywhere in an error.
/// OpenBao may change them, so each row is tested against a real server.
const TEXTS: &[(StatusCode, &str, FailureClass)] = &[
    (
        StatusCode::SERVICE_UNAVAILABLE,
        "sealed",
        FailureClass::Sealed,
    ),
    (
        StatusCode::BAD_REQUEST,
        "message authentication failed",
        FailureClass::DecryptFailed,
    ),
    (
        StatusCode::BAD_REQUEST,
        "encryption key not found",
        FailureClass::KeyMissing,
    ),
    (
        StatusCode::BAD_REQUEST,
        "disallowed by policy (too old)",
        FailureClass::VersionTooOld,
    ),
    (
        StatusCode::BAD_REQUEST,
        "version is too new",
        FailureClass::VersionTooNew,
    ),
    // After the version's text, which begins alike. Invalid ciphertext counts as failed
    // authentication.
    (
        StatusCode::BAD_REQUEST,
        "invalid ciphertext",
        FailureClass::DecryptFailed,
    ),
    (
        StatusCode::BAD_REQUEST,
        "is higher than the latest key version",
        FailureClass::VersionTooNew,
    ),
    (
        StatusCode::BAD_REQUEST,
        "is less than the minimum encryption key version",
        FailureClass::VersionBelowMinimum,
    ),
];

const NO_MOUNT: &str = "OpenBao has no such mount or namespace";

/// Whether the text of a 404 is about the mount or the namespace; that of a missing key has no text.
fn lacks_mount(error: &str) -> bool {
    let error = error.to_lowercase();
    error.contains("no handler for route") || error.contains("namespace not found")
}

/// Whether the text of a 403 is about the token. A denial by policy has the same words in a list:
/// `1 error occurred:\n\t* permission denied\n\n`.
fn token_invalid(error: &str) -> bool {
    let error = error.trim().to_lowercase();
    error == "permission denied" || error.contains("invalid token")
}

fn class_of(status: StatusCode, errors: &[String]) -> FailureClass {
    let said = |text: &str| {
        errors
            .iter()
            .any(|error| error.to_lowercase().contains(text))
    };
    if let Some((_, _, class)) = TEXTS
        .iter()
        .find(|(with, text, _)| *with == status && said(text))
    {
        return *class;
    }
    match status.as_u16() {
        400 => FailureClass::InvalidRequest,
        401 => FailureClass::Unauthenticated,
        403 => FailureClass::PermissionDenied,
        404 => FailureClass::NotFound,
        429 => FailureClass::RateLimited,
        300..=399 | 500..=599 => FailureClass::Unavailable,
        _ => FailureClass::Unknown,
    }
}

/// Classifies a connection error by the error types in its chain of causes.
pub(crate) fn transport_class(
    error: &(dyn Error + 'static),
) -> (FailureClass, Option<&'static str>) {
    let mut socket = None;
    let mut next = Some(error);
    while let Some(error) = next {
        if error.is::<LookupFailed>() {
            return (FailureClass::DnsFailed, None);
        }
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return (FailureClass::TlsFailed, Some(tls_detail(tls)));
        }
        // `source` of an I/O error skips the wrapped error.
        let wrapped = error.downcast_ref::<io::Error>().and_then(|error| {
            socket = Some(socket_detail(error));
            error.get_ref()
        });
        next = match wrapped {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    match socket {
        Some(detail) => (FailureClass::ConnectionFailed, detail),
        None => (
            FailureClass::Unavailable,
            Some("the answer broke off or is not HTTP"),
        ),
    }
}

const CA_AS_SERVER: &str = "the server presents a CA certificate as its own";
const NO_SERVER_AUTH: &str = "the server's certificate is not for servers: its extended key usage lacks \
    serverAuth";
const CLIENT_CERTIFICATE: &str = "the server requires a client certificate";

/// A TLS failure with a remedy of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsProblem {
    /// A certificate with CA:TRUE is used as the server's.
    CaAsServer,
    /// The extended key usage lacks serverAuth.
    NoServerAuth,
    /// The server requires a client certificate.
    ClientCertificateRequired,
}

fn tls_detail(error: &rustls::Error) -> &'static str {
    use rustls::{AlertDescription as Alert, CertificateError as Certificate};
    match error {
        rustls::Error::InvalidCertificate(certificate) => match certificate {
            // rustls has no variant for it, and passes on the error of webpki.
            Certificate::Other(other) if format!("{other:?}").contains("CaUsedAsEndEntity") => {
                CA_AS_SERVER
            }
            Certificate::InvalidPurpose | Certificate::InvalidPurposeContext { .. } => {
                NO_SERVER_AUTH
            }
            Certificate::Expired | Certificate::ExpiredContext { .. } => {
                "the server's certificate has expired"
            }
            Certificate::NotValidYet | Certificate::NotValidYetContext { .. } => {
                "the server's certificate is not valid yet"
            }
            // A CA with the same name and another key shows as a bad signature.
            Certificate::UnknownIssuer | Certificate::BadSignature => {
                "the server's certificate is not signed by the configured CA"
            }
            Certificate::NotValidForName | Certificate::NotValidForNameContext { .. } => {
                "the server's certificate is for another name"
            }
            _ => "the server's certificate cannot be verified",
        },
        // TLS 1.3 and 1.2. This client never sends a certificate.
        rustls::Error::AlertReceived(Alert::CertificateRequired | Alert::BadCertificate) => {
            CLIENT_CERTIFICATE
        }
        rustls::Error::AlertReceived(_) => "the server ended the handshake with an alert",
        rustls::Error::PeerIncompatible(_) => "the server offers no common TLS version or cipher",
        _ => "the TLS protocol was violated",
    }
}

/// Whether the error is a lack of local resources, unrelated to the peer.
pub(crate) fn is_own_fault(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    errno.is_some_and(|errno| {
        [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::NOBUFS].contains(&errno)
    })
}

fn socket_detail(error: &io::Error) -> Option<&'static str> {
    if is_own_fault(error) {
        return Some("no file descriptor or memory is left on this node");
    }
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Some("refused"),
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Some("reset by the peer"),
        io::ErrorKind::UnexpectedEof => Some("closed by the peer"),
        io::ErrorKind::TimedOut => Some("timed out"),
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => Some("unreachable"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_without_descriptors_does_not_accuse_the_peer() {
        for (errno, own) in [
            (Errno::MFILE, true),
            (Errno::NOBUFS, true),
            (Errno::CONNREFUSED, false),
        ] {
            let error = io::Error::from_raw_os_error(errno.raw_os_error());
            assert_eq!(is_own_fault(&error), own, "{errno}");
            let (class, detail) = transport_class(&error);
            assert_eq!(class, FailureClass::ConnectionFailed);
            assert_eq!(detail.is_some_and(|it| it.contains("descriptor")), own);
        }
    }

    fn class(status: u16, errors: &[&str]) -> FailureClass {
        let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
        class_of(StatusCode::from_u16(status).unwrap(), &errors)
    }

    #[test]
    fn the_status_decides_where_no_text_is_known() {
        for (status, expected) in [
            (301, FailureClass::Unavailable),
            (307, FailureClass::Unavailable),
            (400, FailureClass::InvalidRequest),
            (401, FailureClass::Unauthenticated),
            (403, FailureClass::PermissionDenied),
            (404, FailureClass::NotFound),
            (405, FailureClass::Unknown),
            (429, FailureClass::RateLimited),
            (500, FailureClass::Unavailable),
            (503, FailureClass::Unavailable),
        ] {
            assert_eq!(class(status, &[]), expected, "{status}");
            assert_eq!(class(status, &["other text"]), expected, "{status}");
        }
    }

    #[test]
    fn a_text_counts_only_with_its_status() {
        assert_eq!(class(503, &["a", "Vault is Sealed"]), FailureClass::Sealed);
        // A quoted name of the user must not look like a sealed server.
        assert_eq!(
            class(400, &["role \"sealed\" not found"]),
            FailureClass::InvalidRequest
        );
        assert_eq!(
            class(403, &["encryption key not found"]),
            FailureClass::PermissionDenied
        );
    }

    #[test]
    fn a_dead_token_is_told_from_a_policy_that_denies() {
        let class = |operation, text: &str| {
            let forbidden = StatusCode::FORBIDDEN;
            Failure::from_answer(operation, forbidden, vec![text.to_owned()]).class()
        };
        let (call, login) = (Operation::TransitDecrypt, Operation::JwtLogin);
        let policy = "1 error occurred:\n\t* permission denied\n\n";
        let token = "2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n";
        assert_eq!(class(call, policy), FailureClass::PermissionDenied);
        for text in ["permission denied", "Permission denied\n", token] {
            assert_eq!(class(call, text), FailureClass::Unauthenticated, "{text:?}");
            // A login has no token.
            assert_eq!(class(login, text), FailureClass::PermissionDenied);
        }
        assert_eq!(class(call, ""), FailureClass::PermissionDenied);
    }

    #[test]
    fn a_status_without_the_body_of_openbao_says_nothing_about_key_token_or_policy() {
        for (status, expected) in [
            (200, FailureClass::NotOpenBao),
            (302, FailureClass::Unavailable),
            (400, FailureClass::NotOpenBao),
            (401, FailureClass::NotOpenBao),
            (403, FailureClass::NotOpenBao),
            (404, FailureClass::NotOpenBao),
            (405, FailureClass::NotOpenBao),
            (413, FailureClass::NotOpenBao),
            (429, FailureClass::NotOpenBao),
            (472, FailureClass::NotOpenBao),
            (500, FailureClass::Unavailable),
            (502, FailureClass::Unavailable),
            (503, FailureClass::Unavailable),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            let failure = Failure::foreign(Operation::TransitDecrypt, status, None);
            assert_eq!(failure.class(), expected, "{status}");
            assert!(!failure.rejects_token());
        }
        let shown = |status, responder: &str| {
            let of = Operation::TransitMetadataRead;
            Failure::foreign(of, status, Some(responder.into())).to_string()
        };
        assert_eq!(
            shown(StatusCode::NOT_FOUND, "text/html from nginx/1.27"),
            "transit_metadata_read failed: the response is not from OpenBao: text/html from \
             nginx/1.27 (HTTP 404)"
        );
        assert_eq!(
            shown(StatusCode::BAD_GATEWAY, "text/html"),
            "transit_metadata_read failed: OpenBao is not available: the response is not from \
             OpenBao: text/html (HTTP 502)"
        );
    }

    #[test]
    fn server_texts_are_kept_for_admin_alone_and_never_shown() {
        let marker = "MARKER".repeat(200);
        let errors = vec![marker; 20];
        let admin = Failure::from_answer(Operation::Admin, StatusCode::BAD_REQUEST, errors.clone());
        assert_eq!(admin.server_errors().len(), 8);
        assert_eq!(admin.server_errors()[0].len(), 512);
        let login = Failure::from_answer(Operation::JwtLogin, StatusCode::BAD_REQUEST, errors);
        assert!(login.server_errors().is_empty());
        for failure in [admin, login] {
            assert!(!format!("{failure} {failure:?}").contains("MARKER"));
        }
    }

    #[test]
    fn a_tls_error_is_found_below_io_errors() {
        let tls = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        let error = io::Error::other(io::Error::other(tls));
        let failure = Failure::from_transport(Operation::TransitEncrypt, &error);
        assert_eq!(failure.class(), FailureClass::TlsFailed);
        assert_eq!(
            failure.to_string(),
            "transit_encrypt failed: no trusted TLS connection: the server's certificate is not \
             signed by the configured CA"
        );
    }

    #[test]
    fn a_socket_error_is_a_failed_connection() {
        let error = io::Error::from(io::ErrorKind::ConnectionRefused);
        let failure = Failure::from_transport(Operation::TransitEncrypt, &error);
        assert_eq!(failure.class(), FailureClass::ConnectionFailed);
        assert_eq!(
            failure.to_string(),
            "transit_encrypt failed: the connection failed: refused"
        );
    }
}
