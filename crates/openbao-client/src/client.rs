//! Sends one request and waits for its answer, within a deadline and a size.
//!
//! A request whose connection broke before its answer began is sent once more, on a fresh
//! connection and within the same deadline, unless it sets up a server. With several addresses it is
//! also sent to the next one when an address cannot do the work, each but the last within half of
//! the time that is left.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
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
use tokio::{
    task::JoinSet,
    time::{Instant, timeout_at},
};
use zeroize::Zeroizing;

use crate::{
    addresses::{AddressHook, Addresses, Health, Role, Target},
    connect::{Host, tls},
    endpoint::{Endpoint, Failover, Roots},
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

/// An address that does not answer `sys/health` in this time counts as down.
const LOOK_TIMEOUT: Duration = Duration::from_secs(1);

/// A client of one OpenBao. Clones share connections.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    addresses: Addresses,
    turns: Turns,
    /// The latest version of a key that the active server told of.
    latest_version: AtomicI64,
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
        Self::with(endpoint, hook, ClientOptions::default())
    }

    /// As [`Self::new`], with more than one address, or in a test.
    ///
    /// # Errors
    /// As there.
    pub fn with(
        endpoint: Endpoint,
        hook: RequestHook,
        options: ClientOptions,
    ) -> Result<Self, ClientProblem> {
        let namespace = endpoint
            .namespace
            .map(|namespace| HeaderValue::from_bytes(namespace.as_str().as_bytes()))
            .transpose()
            .map_err(|_| ClientProblem::Namespace)?;
        let tls = tls(endpoint.roots).map_err(ClientProblem::Tls)?;
        let first = Failover {
            address: endpoint.address,
            server_name: endpoint.server_name,
        };
        let targets = [first].into_iter().chain(options.failover).map(|place| {
            let host = Host::new(&place.address, &place.server_name);
            Target {
                address: place.address,
                pool: Pool::new(host, tls.clone(), options.max_age),
            }
        });
        Ok(Self(Arc::new(Inner {
            addresses: Addresses::new(targets.collect(), options.address_hook),
            turns: Turns::new(),
            latest_version: AtomicI64::new(0),
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
        let tls = tls(roots).map_err(ClientProblem::Tls)?;
        for target in self.0.addresses.all() {
            target.pool.replace_tls(tls.clone());
        }
        Ok(())
    }

    /// The key that the last metadata read told of was verified: from now on other clusters than
    /// the one that answered are refused. The first call counts. Nothing with one address.
    pub fn confirm_cluster(&self) {
        self.0.addresses.confirm();
    }

    /// The key that the last metadata read told of is another one. Its cluster is left, if an
    /// address of another cluster is known and none was confirmed yet.
    pub fn refuse_cluster(&self) {
        self.0.addresses.refuse();
    }

    /// The connections and turns at this moment. Does not wait.
    #[must_use]
    pub fn view(&self) -> ClientView {
        let turns = Purpose::ALL.map(|purpose| TurnsView {
            purpose,
            in_use: self.0.turns.in_use(purpose),
            limit: purpose.turns(),
        });
        let addresses = self.0.addresses.all().iter().enumerate();
        let addresses = addresses.map(|(at, target)| AddressView {
            address: target.address.to_string(),
            role: self.0.addresses.role(at),
            peers: target.pool.view(),
        });
        ClientView {
            addresses: addresses.collect(),
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
        mut read: impl FnMut(Answer) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let operation = request.operation;
        let end = Instant::now() + deadline;
        let mut observation = Observation::begin(operation, &self.0.hook);
        let turn = timeout_at(end, self.0.turns.take(request.purpose)).await;
        let Ok(_turn) = turn else {
            let timed_out = Failure::new(operation, FailureClass::Timeout);
            return observation.end(Err(timed_out));
        };
        let addresses = &self.0.addresses;
        let mut tried = Vec::new();
        let mut repeated = false;
        let Some(mut at) = self.choose(&tried, end).await else {
            return observation.end(Err(addresses.unusable(operation)));
        };
        loop {
            let may_move = operation.may_be_repeated();
            let others: Vec<_> = tried.iter().copied().chain([at]).collect();
            let share = if may_move && addresses.has_next(&others) {
                halfway(end)
            } else {
                end
            };
            let Stop { failure, again } = match self.exchange(at, &request, share, repeated).await {
                Ok((answer, lease)) => {
                    observation.event.request_id.clone_from(&answer.request_id);
                    observation.event.date = answer.date;
                    let status = answer.status;
                    match (read(answer), lease) {
                        (Ok(read), lease) => {
                            if status.is_server_error() {
                                lease.failed(FailureClass::Unavailable);
                            } else {
                                lease.keep();
                            }
                            addresses.succeeded(at, operation);
                            return observation.end(Ok(read));
                        }
                        (Err(failure), lease) => {
                            lease.settle(&failure);
                            failure.into()
                        }
                    }
                }
                Err(stop) => stop,
            };
            if failure.condemns_peer() {
                addresses.failed(at, failure.class());
            } else {
                addresses.succeeded(at, operation);
            }
            if again && !repeated {
                repeated = true;
            } else if may_move && let Some(next) = self.elsewhere(at, &failure, &others, end).await
            {
                tried = others;
                at = next;
            } else {
                return observation.end(Err(failure));
            }
            observation.failed(&failure);
            observation = Observation::begin(operation, &self.0.hook);
        }
    }

    /// The address for the next try. All are looked at when that is due; a request waits for it
    /// only while no active server is known.
    async fn choose(&self, tried: &[usize], end: Instant) -> Option<usize> {
        let addresses = &self.0.addresses;
        if !addresses.several() {
            return tried.is_empty().then_some(0);
        }
        if addresses.begin_look() {
            tokio::spawn(self.clone().look());
        }
        addresses.next(tried, end).await
    }

    /// Where to send a request that failed at `at`: to any other address if that one could not do
    /// the work; to the active server if a standby refused it, whose copy may lag; to another
    /// cluster if it was not confirmed yet which of them is the right one.
    async fn elsewhere(
        &self,
        at: usize,
        failure: &Failure,
        tried: &[usize],
        end: Instant,
    ) -> Option<usize> {
        let addresses = &self.0.addresses;
        if !addresses.several() || Instant::now() >= end {
            None
        } else if failure.condemns_peer() || failure.is_lagging() {
            self.choose(tried, end).await
        } else if let Some(other) = addresses.in_another_cluster(at, tried) {
            Some(other)
        } else if addresses.is_active(at) {
            None
        } else {
            addresses.active(tried)
        }
    }

    /// Asks every address at the same time.
    async fn look(self) {
        let mut looks = JoinSet::new();
        for at in 0..self.0.addresses.all().len() {
            let client = self.clone();
            looks.spawn(async move {
                let observation = Observation::begin(Operation::Health, &client.0.hook);
                let request = health_request();
                let end = Instant::now() + LOOK_TIMEOUT;
                let asked = client.exchange(at, &request, end, false).await;
                let health = asked
                    .map_err(|stop| stop.failure)
                    .and_then(|(answer, lease)| {
                        let health = answer.json::<Health>()?;
                        Ok((health, answer.status, lease))
                    });
                match health {
                    Ok((health, status, mut lease)) => {
                        match client.0.addresses.answered(at, health) {
                            Some(cluster) if !status.is_server_error() => {
                                lease.belongs_to(cluster);
                                lease.keep();
                            }
                            _ => drop(lease),
                        }
                        drop(observation.end(Ok(())));
                    }
                    Err(failure) => {
                        client.0.addresses.unanswered(at, failure.class());
                        drop(observation.end::<()>(Err(failure)));
                    }
                }
            });
        }
        looks.join_all().await;
        self.0.addresses.end_look();
    }

    /// One HTTP request. The connection is judged together with the content of the answer.
    async fn exchange(
        &self,
        at: usize,
        request: &Request<'_>,
        end: Instant,
        fresh: bool,
    ) -> Result<(Answer, Lease), Stop> {
        let operation = request.operation;
        let timed_out = || Failure::new(operation, FailureClass::Timeout);
        let Some(target) = self.0.addresses.all().get(at) else {
            return Err(self.0.addresses.unusable(operation).into());
        };
        let http = self.http_request(target, request)?;
        let mut lease = match timeout_at(end, target.pool.checkout(fresh)).await {
            Ok(Ok(lease)) => lease,
            Ok(Err(error)) => return Err(Failure::from_transport(operation, &*error).into()),
            Err(_) => return Err(timed_out().into()),
        };
        let unknown = operation != Operation::Health
            && self.0.addresses.several()
            && !self.0.addresses.accepts(lease.cluster());
        let answered = timeout_at(end, async {
            if unknown {
                self.verify(at, target, &mut lease, operation).await?;
            }
            answer_of(operation, http, &mut lease).await
        });
        let stop = match answered.await {
            Ok(Ok(mut answer)) => {
                answer.from_active = self.0.addresses.is_active(at);
                return Ok((answer, lease));
            }
            Ok(Err(stop)) => stop,
            Err(_) => timed_out().into(),
        };
        lease.settle(&stop.failure);
        let lags =
            stop.failure.class() == FailureClass::VersionTooNew && !self.0.addresses.is_active(at);
        Err(if lags {
            Failure::lagging(operation).into()
        } else {
            stop
        })
    }

    /// Asks on a new connection for the cluster behind it, before anything else is sent there.
    async fn verify(
        &self,
        at: usize,
        target: &Target,
        lease: &mut Lease,
        operation: Operation,
    ) -> Result<(), Stop> {
        let http = self.http_request(target, &health_request())?;
        let answer = answer_of(Operation::Health, http, lease).await?;
        let cluster = self.0.addresses.answered(at, answer.json()?);
        if let Some(cluster) = cluster {
            lease.belongs_to(cluster);
            return Ok(());
        }
        let class = match self.0.addresses.role(at) {
            Some(Role::Sealed) => FailureClass::Sealed,
            _ => FailureClass::Unavailable,
        };
        let failure = Failure::new(operation, class);
        Err(failure.detail("the server is not of the cluster").into())
    }

    /// Whether a latest version may be believed: a standby may lag behind what the active server
    /// told before.
    pub(crate) fn is_current(&self, answer: &Answer, latest_version: i64) -> bool {
        let told = if answer.from_active {
            self.0
                .latest_version
                .swap(latest_version, Ordering::Relaxed)
        } else {
            self.0.latest_version.load(Ordering::Relaxed)
        };
        answer.from_active || latest_version >= told
    }

    fn http_request(
        &self,
        target: &Target,
        request: &Request<'_>,
    ) -> Result<http::Request<Full<Bytes>>, Failure> {
        let unsendable =
            |what| Failure::new(request.operation, FailureClass::InvalidRequest).detail(what);
        let path = target.address.target(&request.path);
        let path = path.map_err(|_| unsendable("the path is too long"))?;
        let body = request.body.as_ref();
        let body = body.map_err(|_| unsendable("the body cannot be written as JSON"))?;

        let has_body = !body.is_empty();
        let mut http = http::Request::new(Full::new(body.clone()));
        *http.method_mut() = request.method.clone();
        *http.uri_mut() = path;
        let headers = http.headers_mut();
        headers.insert(header::HOST, target.address.host_header());
        headers.insert(IS_REQUEST, HeaderValue::from_static("true"));
        // No namespace knows it.
        let namespace = self.0.namespace.as_ref();
        if let Some(namespace) = namespace.filter(|_| request.operation != Operation::Health) {
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

/// What most clients do without.
pub struct ClientOptions {
    /// Further addresses of the same cluster.
    pub failover: Vec<Failover>,
    /// Told of the active server, and of servers of other clusters.
    pub address_hook: AddressHook,
    /// Connections are given up at about this age.
    pub max_age: Duration,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            failover: Vec::new(),
            address_hook: Arc::new(|_, _| {}),
            max_age: MAX_AGE,
        }
    }
}

fn health_request() -> Request<'static> {
    Request::get(Operation::Health, "sys/health")
}

/// Half of the time from now to `end`.
fn halfway(end: Instant) -> Instant {
    let now = Instant::now();
    now + end.saturating_duration_since(now) / 2
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
    // A batch of which an item failed has the status of a refusal and the results of all; health
    // has the status of the server's part and no errors.
    let batch = operation == Operation::TransitBatchDecrypt
        && said.data.is_some_and(|data| data.batch_results.is_some());
    let health = operation == Operation::Health && object::<Health>(&body).is_some();
    if status.is_success() || batch || health {
        return Ok(Answer {
            operation,
            status,
            body,
            request_id,
            date,
            responder,
            from_active: true,
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
    /// As far as is known; always with one address.
    from_active: bool,
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
            Operation::SealStatus | Operation::Leader | Operation::Health => false,
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

    /// The failure of an answer of an earlier time.
    pub(crate) fn lags(&self) -> Failure {
        Failure::lagging(self.operation).status(self.status)
    }

    /// Whether the active server gave it, as far as is known; always with one address.
    pub(crate) fn is_from_active(&self) -> bool {
        self.from_active
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
