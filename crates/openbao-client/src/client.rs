//! Sends one request and waits for its answer, within a deadline and a size.
//!
//! A request whose connection broke before its answer began is sent once more, on a fresh
//! connection and within the same deadline, unless it sets up a server.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Incoming};
use serde::{
    Deserialize,
    de::{DeserializeOwned, IgnoredAny},
};
use tokio::time::{Instant, timeout_at};
use zeroize::Zeroizing;

use crate::{
    connect::{Host, tls},
    endpoint::{Address, Endpoint, Roots},
    failure::{Failure, FailureClass},
    pool::{Lease, MAX_AGE, Pool},
    request::{Operation, Outcome, Request, RequestEvent, RequestHook, RequestId},
    responder::responder,
    turns::{Purpose, Turns},
    view::{AddressView, ClientView, TurnsView},
};

const TOKEN: HeaderName = HeaderName::from_static("x-vault-token");
const NAMESPACE: HeaderName = HeaderName::from_static("x-vault-namespace");
/// Asked for by agents and proxies that want to see that no browser was tricked into a request.
const IS_REQUEST: HeaderName = HeaderName::from_static("x-vault-request");

/// A client of one OpenBao. Clones share connections.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    pool: Pool,
    turns: Turns,
    address: Address,
    namespace: Option<HeaderValue>,
    hook: RequestHook,
}

/// Why a client cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ClientProblem {
    /// HTTP cannot carry the namespace.
    #[error("the namespace holds a control character, which no HTTP header can carry")]
    Namespace,
    /// The TLS library refused its settings.
    #[error("TLS cannot be set up")]
    Tls(#[source] rustls::Error),
}

impl Client {
    /// A client that has not connected yet. The hook is told of every request.
    ///
    /// # Errors
    /// When the namespace cannot be sent, or TLS cannot be set up.
    pub fn new(endpoint: Endpoint, hook: RequestHook) -> Result<Self, ClientProblem> {
        Self::with_max_age(endpoint, hook, MAX_AGE)
    }

    /// As [`Self::new`], with connections that are given up at about this age, for tests.
    ///
    /// # Errors
    /// As there.
    pub fn with_max_age(
        endpoint: Endpoint,
        hook: RequestHook,
        max_age: Duration,
    ) -> Result<Self, ClientProblem> {
        let namespace = endpoint
            .namespace
            .map(|namespace| HeaderValue::from_bytes(namespace.as_str().as_bytes()))
            .transpose()
            .map_err(|_| ClientProblem::Namespace)?;
        let host = Host::new(&endpoint.address, &endpoint.server_name);
        let tls = tls(endpoint.roots).map_err(ClientProblem::Tls)?;
        Ok(Self(Arc::new(Inner {
            pool: Pool::new(host, tls, max_age),
            turns: Turns::new(),
            address: endpoint.address,
            namespace,
            hook,
        })))
    }

    /// Trusts these roots alone from now on. Free connections are closed, the others after the
    /// answer that they wait for.
    ///
    /// # Errors
    /// When TLS cannot be set up; the earlier roots stay.
    pub fn replace_roots(&self, roots: Roots) -> Result<(), ClientProblem> {
        self.0
            .pool
            .replace_tls(tls(roots).map_err(ClientProblem::Tls)?);
        Ok(())
    }

    /// The connections and turns at this moment. Does not wait.
    #[must_use]
    pub fn view(&self) -> ClientView {
        let turns = Purpose::ALL.map(|purpose| TurnsView {
            purpose,
            in_use: self.0.turns.in_use(purpose),
            limit: purpose.turns(),
        });
        ClientView {
            addresses: vec![AddressView {
                address: self.0.address.to_string(),
                peers: self.0.pool.view(),
            }],
            turns: turns.into(),
        }
    }

    /// Sends the request; any 2xx is an [`Answer`]. Waits for its turn first when as many requests
    /// of its purpose as there may be are under way.
    ///
    /// # Errors
    /// The classified failure, also when `deadline` passes first.
    pub async fn send(&self, request: Request<'_>, deadline: Duration) -> Result<Answer, Failure> {
        self.send_and_read(request, deadline, Ok).await
    }

    /// As [`Self::send`], and an answer that `read` refuses is a failed request for the hook too.
    pub(crate) async fn send_and_read<T>(
        &self,
        request: Request<'_>,
        deadline: Duration,
        read: impl FnOnce(Answer) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let operation = request.operation;
        let end = Instant::now() + deadline;
        let mut observation = Observation::begin(operation, &self.0.hook);
        let timed_out = || Failure::new(operation, FailureClass::Timeout);
        let turn = timeout_at(end, self.0.turns.take(request.purpose)).await;
        let Ok(_turn) = turn else {
            return observation.end(Err(timed_out()));
        };
        let mut exchanged = self.exchange(&request, end, false).await;
        if let Err(stop) = &exchanged
            && stop.again
        {
            observation.failed(&stop.failure);
            observation = Observation::begin(operation, &self.0.hook);
            exchanged = self.exchange(&request, end, true).await;
        }
        let (answer, lease) = match exchanged {
            Ok(exchanged) => exchanged,
            Err(stop) => return observation.end(Err(stop.failure)),
        };
        observation.event.request_id.clone_from(&answer.request_id);
        observation.event.date = answer.date;
        let status = answer.status;
        let result = read(answer);
        match &result {
            Err(failure) if failure.class().condemns_peer() => lease.failed(failure.class()),
            _ if status.is_server_error() => lease.failed(FailureClass::Unavailable),
            _ => lease.keep(),
        }
        observation.end(result)
    }

    /// One HTTP request. The connection is judged together with the content of the answer.
    async fn exchange(
        &self,
        request: &Request<'_>,
        end: Instant,
        fresh: bool,
    ) -> Result<(Answer, Lease), Stop> {
        let operation = request.operation;
        let timed_out = || Failure::new(operation, FailureClass::Timeout);
        let http = self.http_request(request)?;
        let mut lease = match timeout_at(end, self.0.pool.checkout(fresh)).await {
            Ok(Ok(lease)) => lease,
            Ok(Err(error)) => return Err(Failure::from_transport(operation, &*error).into()),
            Err(_) => return Err(timed_out().into()),
        };
        let answered = timeout_at(end, answer_of(operation, http, &mut lease)).await;
        let stop = match answered {
            Ok(Ok(answer)) => return Ok((answer, lease)),
            Ok(Err(stop)) => stop,
            Err(_) => timed_out().into(),
        };
        if stop.failure.class().condemns_peer() {
            lease.failed(stop.failure.class());
        } else {
            lease.keep();
        }
        Err(stop)
    }

    fn http_request(&self, request: &Request<'_>) -> Result<http::Request<Full<Bytes>>, Failure> {
        let unsendable =
            |what| Failure::new(request.operation, FailureClass::InvalidRequest).detail(what);
        let target = self.0.address.target(&request.path);
        let target = target.map_err(|_| unsendable("the path is too long"))?;
        let body = request.body.as_ref();
        let body = body.map_err(|_| unsendable("the body cannot be written as JSON"))?;

        let has_body = !body.is_empty();
        let mut http = http::Request::new(Full::new(body.clone()));
        *http.method_mut() = request.method.clone();
        *http.uri_mut() = target;
        let headers = http.headers_mut();
        headers.insert(header::HOST, self.0.address.host_header());
        headers.insert(IS_REQUEST, HeaderValue::from_static("true"));
        if let Some(namespace) = &self.0.namespace {
            headers.insert(NAMESPACE, namespace.clone());
        }
        if let Some(token) = request.token {
            let token = token.header();
            headers.insert(
                TOKEN,
                token.map_err(|_| unsendable("the token is unusable"))?,
            );
        }
        if has_body {
            let json = HeaderValue::from_static("application/json");
            headers.insert(header::CONTENT_TYPE, json);
        }
        Ok(http)
    }
}

/// Why an HTTP request brought no answer.
struct Stop {
    failure: Failure,
    /// It can be sent once more.
    again: bool,
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self {
            failure,
            again: false,
        }
    }
}

/// Sends the request on this connection and reads the whole answer.
async fn answer_of(
    operation: Operation,
    http: http::Request<Full<Bytes>>,
    lease: &mut Lease,
) -> Result<Answer, Stop> {
    let response = lease.send(http).await.map_err(|broken| Stop {
        again: broken.unsent || (broken.unanswered() && operation.may_be_repeated()),
        failure: Failure::from_transport(operation, &broken.error),
    })?;
    let status = response.status();
    let date = response.headers().get(header::DATE);
    let date = date.and_then(|date| httpdate::parse_http_date(date.to_str().ok()?).ok());
    let responder = responder(response.headers());
    let limit = if status.is_success() {
        operation.answer_limit()
    } else {
        operation.refusal_limit()
    };
    let body = read_body(response.into_body(), limit, operation, status).await?;
    let said = Envelope::read(&body);
    let request_id = said.request_id();
    // A batch of which an item failed has the status of a refusal and the results of all.
    let batch = operation == Operation::TransitBatchDecrypt
        && said.data.is_some_and(|data| data.batch_results.is_some());
    if status.is_success() || batch {
        return Ok(Answer {
            operation,
            status,
            body,
            request_id,
            date,
            responder,
        });
    }
    let failure = match said.errors {
        Some(errors) => Failure::from_answer(operation, status, errors).request_id(request_id),
        None => Failure::foreign(operation, status, responder),
    };
    Err(failure.into())
}

/// An answer with content. The body is wiped when the answer is dropped.
pub struct Answer {
    operation: Operation,
    status: StatusCode,
    body: Zeroizing<Vec<u8>>,
    request_id: Option<RequestId>,
    date: Option<SystemTime>,
    responder: Option<Box<str>>,
}

impl Answer {
    /// The status: 200 to 299, or any for a batch with results.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.status.as_u16()
    }

    /// OpenBao's name of the request, when it gave a usable one.
    #[must_use]
    pub fn request_id(&self) -> Option<&RequestId> {
        self.request_id.as_ref()
    }

    /// The second in which the server's clock stood when it answered, when it said.
    #[must_use]
    pub fn date(&self) -> Option<SystemTime> {
        self.date
    }

    /// The whole body as JSON.
    ///
    /// # Errors
    /// [`FailureClass::NotOpenBao`] when it is not what OpenBao sends, or when there is none;
    /// [`FailureClass::InvalidAnswer`] when OpenBao's envelope has content of another shape.
    pub fn json<'a, T: Deserialize<'a>>(&'a self) -> Result<T, Failure> {
        object(&self.body).ok_or_else(|| self.unexpected())
    }

    /// The `data` member, which holds the result of most calls.
    ///
    /// # Errors
    /// As for [`Self::json`].
    pub fn data<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        #[derive(Deserialize)]
        struct Data<T> {
            data: T,
        }
        self.json::<Data<T>>().map(|answer| answer.data)
    }

    /// Without the envelope of its operation it is a success of other software.
    fn unexpected(&self) -> Failure {
        let said = Envelope::read(&self.body);
        let from_openbao = match self.operation {
            Operation::JwtLogin | Operation::TokenRenewSelf => said.auth.is_some(),
            Operation::TransitMetadataRead
            | Operation::TransitDisableUpsertRead
            | Operation::TransitEncrypt
            | Operation::TransitDecrypt
            | Operation::TransitBatchDecrypt
            | Operation::CapabilitiesSelf => said.data.is_some(),
            // Their content is the whole body.
            Operation::SealStatus | Operation::Leader => false,
            Operation::Admin => true,
        };
        if from_openbao {
            self.invalid("it is not the JSON that was expected")
        } else {
            Failure::foreign(self.operation, self.status, self.responder.clone())
        }
    }

    pub(crate) fn invalid(&self, what: &'static str) -> Failure {
        Failure::new(self.operation, FailureClass::InvalidAnswer)
            .status(self.status)
            .detail(what)
    }

    /// The failure of one item of a batch, by what the server said about it.
    pub(crate) fn refused_item(&self, error: &str) -> Failure {
        Failure::from_item(self.operation, self.status, error)
    }
}

/// What the answers of OpenBao are made of. `errors` is a list of texts, also where it has none to
/// tell; each answer with another status than 2xx has it, but for a batch and `sys/health`.
#[derive(Default, Deserialize)]
struct Envelope {
    request_id: Option<String>,
    errors: Option<Vec<String>>,
    data: Option<Content>,
    auth: Option<Content>,
}

#[derive(Deserialize)]
struct Content {
    batch_results: Option<IgnoredAny>,
}

/// A JSON object, as all answers of OpenBao are. Derived structures would read an array of their
/// members too.
fn object<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Option<T> {
    let object = body.trim_ascii_start().starts_with(b"{");
    object.then(|| serde_json::from_slice(body).ok()).flatten()
}

impl Envelope {
    /// A body of another shape has nothing of it.
    fn read(body: &[u8]) -> Self {
        object(body).unwrap_or_default()
    }

    fn request_id(&self) -> Option<RequestId> {
        self.request_id.as_deref().and_then(RequestId::parse)
    }
}

/// Collects a body of at most `limit` bytes without leaving copies in freed memory.
async fn read_body(
    body: Incoming,
    limit: usize,
    operation: Operation,
    status: StatusCode,
) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(limit);
    let mut collected = Zeroizing::new(Vec::with_capacity(announced.min(limit)));
    let mut body = Limited::new(body, limit);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            if error.is::<http_body_util::LengthLimitError>() {
                Failure::new(operation, FailureClass::Unavailable)
                    .detail("the answer is larger than allowed")
                    .status(status)
            } else {
                Failure::from_transport(operation, error.as_ref()).status(status)
            }
        })?;
        if let Ok(piece) = frame.into_data() {
            let needed = collected.len() + piece.len();
            if needed > collected.capacity() {
                // A plain reallocation would free the old storage without wiping it.
                let mut larger = Zeroizing::new(Vec::with_capacity(needed * 2));
                larger.extend_from_slice(&collected);
                collected = larger;
            }
            collected.extend_from_slice(&piece);
        }
    }
    Ok(collected)
}

/// Reports a request when it ends, also when its future is dropped.
struct Observation<'a> {
    hook: &'a RequestHook,
    started: Instant,
    event: RequestEvent,
}

impl<'a> Observation<'a> {
    fn begin(operation: Operation, hook: &'a RequestHook) -> Self {
        Self {
            hook,
            started: Instant::now(),
            event: RequestEvent {
                operation,
                outcome: Outcome::Canceled,
                duration: Duration::ZERO,
                request_id: None,
                date: None,
            },
        }
    }

    fn failed(&mut self, failure: &Failure) {
        self.event.outcome = Outcome::Failed(failure.class());
        if let Some(request_id) = &failure.request_id {
            self.event.request_id = Some(request_id.clone());
        }
    }

    fn end<T>(mut self, result: Result<T, Failure>) -> Result<T, Failure> {
        self.event.outcome = Outcome::Ok;
        if let Err(failure) = &result {
            self.failed(failure);
        }
        result
    }
}

impl Drop for Observation<'_> {
    fn drop(&mut self) {
        self.event.duration = self.started.elapsed();
        (self.hook)(&self.event);
    }
}
