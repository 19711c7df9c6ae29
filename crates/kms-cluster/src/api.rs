//! The connection: kubeconfig, requests with a deadline and a size limit, classified refusals.

use std::{fmt, path::PathBuf, time::Duration};

use http::{Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Limited};
use kms_node::advice::{Cause, cluster};
use kube::{
    Client, Config,
    client::Body,
    config::{KubeConfigOptions, Kubeconfig, KubeconfigError},
};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use serde::{Deserialize, de::DeserializeOwned};
use zeroize::Zeroizing;

/// Metadata of one object as the answer.
pub const METADATA: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
/// Metadata of the objects of a list as the answer.
pub const METADATA_LIST: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
pub const JSON: &str = "application/json";
const MERGE_PATCH: &str = "application/merge-patch+json";

/// Limit of one request. kube-apiserver ends its own after 60 s.
const DEADLINE: Duration = Duration::from_secs(65);
/// Limit of an answer: a page of 500 objects with 256 KiB of annotations each.
const MAX_ANSWER_BYTES: usize = 128 * 1024 * 1024;

/// An API server with the credentials of a kubeconfig.
#[derive(Clone)]
pub struct Api {
    client: Client,
    server: String,
}

/// The kubeconfig is of no use.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("no kubeconfig was named, and none is in one of the usual places")]
    Missing,
    /// Without the cause: the parser quotes lines, and a line may hold a token.
    #[error("the kubeconfig {} is not valid YAML of a kubeconfig", .0.display())]
    Malformed(PathBuf),
    #[error("the kubeconfig cannot be used")]
    Kubeconfig(#[source] Box<KubeconfigError>),
    #[error(
        "the kubeconfig turns the verification of the API server off (insecure-skip-tls-verify)"
    )]
    Unverified,
    #[error("the kubeconfig cannot be used")]
    Client(#[source] Box<kube::Error>),
    /// Without the cause: it quotes the output of a credential plugin.
    #[error("the credentials of the kubeconfig could not be loaded")]
    Credentials,
}

/// A request without its answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error("the API server {server} cannot be reached")]
    Unreachable {
        server: String,
        #[source]
        source: Box<kube::Error>,
    },
    #[error("the API server {0} gave no answer within {limit} s", limit = DEADLINE.as_secs())]
    TimedOut(String),
    /// Without the cause: it quotes the output of a credential plugin.
    #[error("the credentials of the kubeconfig could not be loaded")]
    Credentials,
    #[error(transparent)]
    Refused(Box<Refusal>),
    #[error("unexpected response of the API server to {0}")]
    Unexpected(String),
}

/// The answer is an error of the API server.
#[derive(thiserror::Error)]
#[error("the API server answered HTTP {status} {reason}")]
pub struct Refusal {
    pub status: u16,
    /// A word of the API, such as `Forbidden`.
    pub reason: String,
    /// May quote the object.
    message: String,
    /// Paths of the fields that validation refuses.
    fields: Vec<String>,
    pub retry_after: Option<Duration>,
    /// Where a list goes on whose token has expired.
    pub continues: Option<String>,
    /// Whether the API server has the resource, but not the object.
    is_missing_object: bool,
}

impl fmt::Debug for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Refusal");
        shown.field("status", &self.status);
        shown.field("reason", &self.reason).finish_non_exhaustive()
    }
}

/// The `Status` of an answer.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Status {
    reason: String,
    message: String,
    metadata: StatusMetadata,
    details: StatusDetails,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct StatusDetails {
    name: String,
    causes: Vec<StatusCause>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct StatusCause {
    field: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct StatusMetadata {
    r#continue: Option<String>,
}

impl Api {
    /// Loads the first context of these files, or the named one; `server` replaces its address. Opens no
    /// connection.
    ///
    /// # Errors
    /// The files cannot be read or used.
    pub async fn connect(
        files: &[PathBuf],
        context: Option<&str>,
        server: Option<&Uri>,
    ) -> Result<Self, ConnectError> {
        if CryptoProvider::get_default().is_none() {
            // A provider that was installed meanwhile is the same one.
            aws_lc_rs::default_provider().install_default().ok();
        }
        if files.is_empty() {
            return Err(ConnectError::Missing);
        }
        let unusable = |error| ConnectError::Kubeconfig(Box::new(error));
        let mut kubeconfig = Kubeconfig::default();
        for file in files {
            let next = Kubeconfig::read_from(file).map_err(|error| match error {
                KubeconfigError::Parse(_) => ConnectError::Malformed(file.clone()),
                error => unusable(error),
            })?;
            kubeconfig = kubeconfig.merge(next).map_err(unusable)?;
        }
        let options = KubeConfigOptions {
            context: context.map(str::to_owned),
            ..KubeConfigOptions::default()
        };
        let loaded = Config::from_custom_kubeconfig(kubeconfig, &options).await;
        let mut config = loaded.map_err(unusable)?;
        if config.accept_invalid_certs {
            return Err(ConnectError::Unverified);
        }
        if let Some(server) = server {
            config.cluster_url = server.clone();
        }
        // Repetitions follow the rate of the caller.
        config.default_retry = false;
        let server = config.cluster_url.to_string();
        let client = Client::try_from(config);
        Ok(Self {
            client: client.map_err(|error| match error {
                kube::Error::Auth(_) => ConnectError::Credentials,
                error => ConnectError::Client(Box::new(error)),
            })?,
            server: server.trim_end_matches('/').to_owned(),
        })
    }

    /// The URL.
    #[must_use]
    pub fn server(&self) -> &str {
        &self.server
    }

    /// # Errors
    /// There is no answer, or none of the wanted form.
    pub async fn get<T: DeserializeOwned>(&self, path: &str, accept: &str) -> Result<T, CallError> {
        let request = Request::get(path).header(header::ACCEPT, accept);
        self.json(path, request.body(Body::empty())).await
    }

    /// The bytes of one object, which may hold a secret; `None` if there is no such object. A path that the
    /// server does not have is an error with the status 404.
    ///
    /// # Errors
    /// There is no answer, or another refusal.
    pub async fn object(
        &self,
        path: &str,
        accept: &str,
    ) -> Result<Option<Zeroizing<Vec<u8>>>, CallError> {
        let request = Request::get(path).header(header::ACCEPT, accept);
        match self.send(path, request.body(Body::empty())).await {
            Ok(bytes) => Ok(Some(Zeroizing::new(bytes))),
            Err(CallError::Refused(refusal)) if refusal.is_missing_object => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The text of an answer that is no JSON.
    ///
    /// # Errors
    /// There is no answer.
    pub async fn text(&self, path: &str) -> Result<String, CallError> {
        let request = Request::get(path).body(Body::empty());
        let bytes = self.send(path, request).await?;
        String::from_utf8(bytes).map_err(|_| CallError::Unexpected(path.to_owned()))
    }

    /// A merge patch, answered by the metadata of the object.
    ///
    /// # Errors
    /// There is no answer, or none of the wanted form.
    pub async fn patch<T: DeserializeOwned>(
        &self,
        path: &str,
        patch: &serde_json::Value,
    ) -> Result<T, CallError> {
        let request = Request::patch(path)
            .header(header::ACCEPT, METADATA)
            .header(header::CONTENT_TYPE, MERGE_PATCH);
        let body = Body::from(patch.to_string().into_bytes());
        self.json(path, request.body(body)).await
    }

    /// # Errors
    /// There is no answer, or none of the wanted form.
    pub async fn create<T: DeserializeOwned>(
        &self,
        path: &str,
        object: &serde_json::Value,
    ) -> Result<T, CallError> {
        let request = Request::builder().method(Method::POST).uri(path);
        let request = request.header(header::CONTENT_TYPE, JSON);
        let body = Body::from(object.to_string().into_bytes());
        self.json(path, request.body(body)).await
    }

    /// # Errors
    /// There is no answer, or a refusal.
    pub async fn delete(&self, path: &str) -> Result<(), CallError> {
        let request = Request::delete(path).body(Body::empty());
        self.send(path, request).await.map(drop)
    }

    async fn json<T: DeserializeOwned>(
        &self,
        path: &str,
        request: http::Result<Request<Body>>,
    ) -> Result<T, CallError> {
        let bytes = self.send(path, request).await?;
        serde_json::from_slice(&bytes).map_err(|_| CallError::Unexpected(path.to_owned()))
    }

    async fn send(
        &self,
        path: &str,
        request: http::Result<Request<Body>>,
    ) -> Result<Vec<u8>, CallError> {
        let unexpected = || CallError::Unexpected(path.to_owned());
        let request = request.map_err(|_| unexpected())?;
        let exchange = async {
            let answer = self.client.send(request).await;
            let answer = answer.map_err(|error| match error {
                kube::Error::Auth(_) => CallError::Credentials,
                error => CallError::Unreachable {
                    server: self.server.clone(),
                    source: Box::new(error),
                },
            })?;
            let (head, body) = answer.into_parts();
            let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await;
            let body = body.map_err(|_| unexpected())?.to_bytes();
            Ok((head, body.to_vec()))
        };
        let answer = tokio::time::timeout(DEADLINE, exchange).await;
        let (head, body) = answer.map_err(|_| CallError::TimedOut(self.server.clone()))??;
        if head.status.is_success() {
            return Ok(body);
        }
        let seconds = head.headers.get(header::RETRY_AFTER);
        let seconds = seconds.and_then(|it| it.to_str().ok()?.parse().ok());
        let retry_after = seconds.map(Duration::from_secs);
        Err(CallError::Refused(Box::new(Refusal::of(
            head.status,
            &body,
            retry_after,
        ))))
    }
}

impl Refusal {
    fn of(status: StatusCode, body: &[u8], retry_after: Option<Duration>) -> Self {
        let said: Status = serde_json::from_slice(body).unwrap_or_default();
        let is_word =
            !said.reason.is_empty() && said.reason.bytes().all(|it| it.is_ascii_alphabetic());
        let fallback = status.canonical_reason().unwrap_or_default();
        let is_named = said.reason == "NotFound" && !said.details.name.is_empty();
        Self {
            status: status.as_u16(),
            is_missing_object: status == StatusCode::NOT_FOUND && is_named,
            reason: match is_word {
                true => said.reason,
                false => fallback.replace(' ', ""),
            },
            message: said.message,
            fields: said.details.causes.into_iter().map(|it| it.field).collect(),
            retry_after,
            continues: said.metadata.r#continue.filter(|it| !it.is_empty()),
        }
    }

    /// Whether the object of the name is another one than the listed one: its uid cannot change.
    #[must_use]
    pub fn is_recreated(&self) -> bool {
        let mut fields = self.fields.iter();
        self.status == 422 && !self.fields.is_empty() && fields.all(|it| it == "metadata.uid")
    }

    /// Whether the same request may succeed later.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self.status {
            429 | 502 | 503 | 504 => true,
            500 => [&cluster::REFUSED, &cluster::NOT_ENCRYPTED].contains(&self.cause()),
            _ => false,
        }
    }

    /// The cause in the catalogue.
    #[must_use]
    pub fn cause(&self) -> &'static Cause {
        // Admission speaks through several statuses, so its sentences decide before the status.
        let by_message = [
            ("ValidatingAdmissionPolicy", &cluster::POLICY_DENIED),
            ("failed calling webhook", &cluster::WEBHOOK_FAILED),
            ("denied the request", &cluster::WEBHOOK_DENIED),
            ("exceeded quota", &cluster::QUOTA_EXCEEDED),
            ("is being terminated", &cluster::NAMESPACE_TERMINATING),
            ("database space exceeded", &cluster::ETCD_FULL),
            ("request is too large", &cluster::OBJECT_TOO_LARGE),
            // Of an API server that waits for the first answer of its KMS provider.
            ("unexpected nil transformer", &cluster::NOT_ENCRYPTED),
            ("unable to transform key", &cluster::OBJECT_UNREADABLE),
            ("failed to decrypt", &cluster::OBJECT_UNREADABLE),
            ("no matching prefix found", &cluster::OBJECT_UNREADABLE),
            ("failed to encrypt", &cluster::NOT_ENCRYPTED),
        ];
        let found = by_message.into_iter().find(|(part, _)| self.says(part));
        if let Some((_, cause)) = found {
            return cause;
        }
        match self.status {
            401 => &cluster::UNAUTHENTICATED,
            403 => &cluster::FORBIDDEN,
            409 => &cluster::CONFLICT,
            413 => &cluster::OBJECT_TOO_LARGE,
            422 => &cluster::OBJECT_INVALID,
            429 | 502 | 503 | 504 => &cluster::OVERLOADED,
            _ => &cluster::REFUSED,
        }
    }

    /// The webhook or policy that denied the request, if its name is a plain one.
    #[must_use]
    pub fn denied_by(&self) -> Option<&str> {
        let mark = |before: &str, quote: char| {
            let (_, rest) = self.message.split_once(before)?;
            Some(rest.split_once(quote)?.0)
        };
        let name = mark("webhook \"", '"').or_else(|| mark("ValidatingAdmissionPolicy '", '\''))?;
        let plain = |it: u8| it.is_ascii_alphanumeric() || b"-.".contains(&it);
        (!name.is_empty() && name.bytes().all(plain)).then_some(name)
    }

    fn says(&self, part: &str) -> bool {
        self.message.contains(part)
    }
}

impl ConnectError {
    /// The cause in the catalogue.
    #[must_use]
    pub fn cause(&self) -> &'static Cause {
        match self {
            Self::Unverified => &cluster::UNVERIFIED,
            Self::Missing
            | Self::Malformed(_)
            | Self::Kubeconfig(_)
            | Self::Client(_)
            | Self::Credentials => &cluster::KUBECONFIG_UNUSABLE,
        }
    }
}

impl CallError {
    /// The cause in the catalogue.
    #[must_use]
    pub fn cause(&self) -> &'static Cause {
        match self {
            Self::Unreachable { .. } => &cluster::UNREACHABLE,
            Self::TimedOut(_) => &cluster::OVERLOADED,
            Self::Credentials => &cluster::KUBECONFIG_UNUSABLE,
            Self::Refused(refusal) => refusal.cause(),
            Self::Unexpected(_) => &cluster::REFUSED,
        }
    }

    #[must_use]
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }

    /// Whether the same request may succeed later.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::TimedOut(_) => true,
            Self::Refused(refusal) => refusal.is_transient(),
            Self::Credentials | Self::Unexpected(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(status: u16, message: &str) -> Refusal {
        let body = serde_json::json!({"kind": "Status", "reason": "Any", "message": message});
        let status = StatusCode::from_u16(status).unwrap();
        Refusal::of(status, body.to_string().as_bytes(), None)
    }

    #[test]
    fn admission_is_told_from_validation_and_from_rights() {
        let cases = [
            (
                400,
                "admission webhook \"deny.example.org\" denied the request: no",
                &cluster::WEBHOOK_DENIED,
                Some("deny.example.org"),
            ),
            (
                500,
                "Internal error occurred: failed calling webhook \"a.b\": no endpoints",
                &cluster::WEBHOOK_FAILED,
                Some("a.b"),
            ),
            (
                422,
                "secrets \"x\" is forbidden: ValidatingAdmissionPolicy 'frozen' with binding 'b' denied request: no",
                &cluster::POLICY_DENIED,
                Some("frozen"),
            ),
            (
                422,
                "Widget \"x\" is invalid: spec",
                &cluster::OBJECT_INVALID,
                None,
            ),
            (403, "cannot patch resource", &cluster::FORBIDDEN, None),
            (
                500,
                "etcdserver: request is too large",
                &cluster::OBJECT_TOO_LARGE,
                None,
            ),
            (
                409,
                "the object has been modified",
                &cluster::CONFLICT,
                None,
            ),
            (418, "", &cluster::REFUSED, None),
        ];
        for (status, message, cause, by) in cases {
            let refusal = refusal(status, message);
            assert_eq!(refusal.cause(), cause, "{message}");
            assert_eq!(refusal.denied_by(), by, "{message}");
        }
    }

    #[test]
    fn a_refusal_never_shows_the_message() {
        let refusal = refusal(422, "Invalid value: \"hunter2\"");
        assert!(!format!("{refusal:?} {refusal}").contains("hunter2"));
        let odd = self::refusal(400, "webhook \"<b>hunter2\" denied the request");
        assert_eq!(odd.denied_by(), None);
    }

    #[test]
    fn only_failures_that_pass_are_repeated() {
        assert!(refusal(429, "").is_transient());
        assert!(refusal(500, "").is_transient());
        let starting = "unable to transform key: got unexpected nil transformer";
        assert!(refusal(500, starting).is_transient());
        assert!(!refusal(500, "failed calling webhook").is_transient());
        assert!(!refusal(422, "").is_transient());
    }
}
