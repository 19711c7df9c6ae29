//! Sends one request and waits for its response, within a deadline and a size limit.
//!
//! If the connection breaks before the response begins, the request is sent once more on a new
//! connection within the same deadline. [`Operation::Admin`] and [`Operation::WrappingUnwrap`] are
//! sent again only if no byte was written. With several addresses, all other operations are also
//! sent to the next address if one fails. Each address but the last gets half of the remaining time.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};
use rustls::sign::CertifiedKey;
use serde::{
    Deserialize,
    de::{DeserializeOwned, IgnoredAny},
};
use tokio::{
    task::JoinSet,
    time::{Instant, timeout_at},
};
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

use crate::{
    addresses::{AddressHook, Addresses, Health, Role, Target},
    connect::{BoxError, Host, tls},
    endpoint::{Endpoint, Failover, Roots},
    event::{Outcome, RequestEvent, RequestHook},
    failure::{Failure, FailureClass},
    pool::{Lease, MAX_AGE, Pool},
    request::{Operation, Request, RequestId},
    responder::responder,
    turns::{Purpose, Turns},
    view::{AddressView, ClientView, TurnsView},
};

const TOKEN: HeaderName = HeaderName::from_static("x-vault-token");
const NAMESPACE: HeaderName = HeaderName::from_static("x-vault-namespace");
/// Required by agents and proxies as protection against cross-site requests from a browser.
const IS_REQUEST: HeaderName = HeaderName::from_static("x-vault-request");

/// Timeout of `sys/health`; the address then counts as down.
const LOOK_TIMEOUT: Duration = Duration::from_secs(1);

/// A client of one OpenBao cluster. Clones share connections.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    addresses: Addresses,
    turns: Turns,
    /// Latest key version reported by the active server.
    latest_version: AtomicI64,
    trust: Mutex<Trust>,
    namespace: Option<HeaderValue>,
    hook: RequestHook,
}

/// The TLS identities of both sides.
struct Trust {
    roots: Roots,
    /// The client certificate of logins.
    certificate: Option<CertifiedKey>,
}

impl Trust {
    fn tls(&self, certificate: Option<&CertifiedKey>) -> Result<TlsConnector, ClientProblem> {
        tls(self.roots.clone(), certificate).map_err(ClientProblem::Tls)
    }
}

/// Error of the creation of a client.
#[derive(Debug, thiserror::Error)]
pub enum ClientProblem {
    /// The namespace is invalid as an HTTP header.
    #[error("the namespace holds a control character, invalid in an HTTP header")]
    Namespace,
    /// The TLS library rejected its settings.
    #[error("TLS cannot be set up")]
    Tls(#[source] rustls::Error),
}

impl Client {
    /// Creates a client without connecting. The hook is called for every request.
    ///
    /// # Errors
    /// When the namespace is invalid as a header, or TLS cannot be set up.
    pub fn new(endpoint: Endpoint, hook: RequestHook) -> Result<Self, ClientProblem> {
        Self::with(endpoint, hook, ClientOptions::default())
    }

    /// As [`Self::new`], with further addresses and other options.
    ///
    /// # Errors
    /// As [`Self::new`].
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
        let trust = Trust {
            roots: endpoint.roots,
            certificate: None,
        };
        let tls = trust.tls(None)?;
        let first = Failover {
            address: endpoint.address,
            server_name: endpoint.server_name,
        };

        let targets = [first].into_iter().chain(options.failover).map(|place| {
            let host = Host::new(&place.address, &place.server_name);
            let pool = Pool::new(host, tls.clone(), options.max_age);
            Target::new(place.address, pool)
        });
        Ok(Self(Arc::new(Inner {
            addresses: Addresses::new(targets.collect(), options.address_hook),
            turns: Turns::new(),
            latest_version: AtomicI64::new(0),
            trust: Mutex::new(trust),
            namespace,
            hook,
        })))
    }

    /// Replaces the trusted roots. Idle connections are closed at once, others after their current
    /// response.
    ///
    /// # Errors
    /// When TLS cannot be set up; the earlier roots stay in use.
    pub fn replace_roots(&self, roots: Roots) -> Result<(), ClientProblem> {
        let mut trust = self.trust();
        let certificate = trust.certificate.clone();
        let renewed = Trust { roots, certificate };
        let tls = renewed.tls(None)?;
        let certified = renewed.certificate.as_ref();
        let certified = certified.map(|key| renewed.tls(Some(key))).transpose()?;
        for target in self.0.addresses.all() {
            target.pool.replace_tls(tls.clone());
            if let Some(certified) = &certified {
                target.present(certified.clone());
            }
        }
        *trust = renewed;
        Ok(())
    }

    /// Sets the client certificate of certificate logins and of token renewals. Other requests
    /// present none. Idle connections of earlier logins are closed at once, so that the next
    /// handshake presents this certificate.
    ///
    /// # Errors
    /// When TLS cannot be set up; the earlier certificate stays in use.
    pub fn present(&self, certificate: CertifiedKey) -> Result<(), ClientProblem> {
        let mut trust = self.trust();
        let tls = trust.tls(Some(&certificate))?;
        for target in self.0.addresses.all() {
            target.present(tls.clone());
        }
        trust.certificate = Some(certificate);
        Ok(())
    }

    fn trust(&self) -> MutexGuard<'_, Trust> {
        self.0.trust.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Confirms the cluster of the last metadata read after its key was verified: other clusters
    /// are then excluded. Only the first call has an effect, and only with several addresses.
    pub fn confirm_cluster(&self) {
        self.0.addresses.confirm();
    }

    /// Excludes the cluster of the last metadata read because its key is another one. Has an effect
    /// only before a confirmation, if an address of another cluster is known.
    pub fn refuse_cluster(&self) {
        self.0.addresses.refuse();
    }

    /// Snapshot of connections and turns. Returns at once.
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

    /// Sends the request; any 2xx is an [`Answer`]. At the concurrency limit of its purpose it
    /// waits for a turn first.
    ///
    /// # Errors
    /// The classified failure; [`FailureClass::Timeout`] at the deadline.
    pub async fn send(&self, request: Request<'_>, deadline: Duration) -> Result<Answer, Failure> {
        self.send_and_read(request, deadline, Ok).await
    }

    /// As [`Self::send`]. A response rejected by `read` is reported to the hook as a failed
    /// request.
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

    /// Selects the address for the next attempt and starts a health check of all addresses if one
    /// is due. A request waits for the check only while the active server is unknown.
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

    /// Selects another address after a failure at `at`: any other address if this one failed or
    /// lags behind; an address of another cluster before one is confirmed; the active server if a
    /// standby rejected the request, because its replica may lag.
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

    /// Checks all addresses concurrently.
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

    /// Sends one HTTP request. The caller decides from the content of the response whether the
    /// connection is kept.
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

        let mut lease = match timeout_at(end, target.pool_for(operation).checkout(fresh)).await {
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

    /// Checks the cluster behind a new connection before its first request.
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

    /// Whether a latest version is current: a standby may lag behind the version last reported by
    /// the active server.
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
        // `sys/health` exists only in the root namespace.
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

/// Optional settings of a client.
pub struct ClientOptions {
    /// Further addresses of the same cluster.
    pub failover: Vec<Failover>,
    /// Called for the active server and for servers of other clusters.
    pub address_hook: AddressHook,
    /// Maximum age of connections, plus or minus a sixth.
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

/// The middle between now and `end`.
fn halfway(end: Instant) -> Instant {
    let now = Instant::now();
    now + end.saturating_duration_since(now) / 2
}

/// A failed HTTP request.
struct Stop {
    failure: Failure,
    /// Whether it may be sent again.
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

/// Sends the request on this connection and reads the whole response.
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

    // A batch with a failed item has an error status and the results of all items. A health
    // response has a status by role and no `errors`.
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

/// A response with content. Drop wipes the body.
pub struct Answer {
    operation: Operation,
    status: StatusCode,
    body: Zeroizing<Vec<u8>>,
    request_id: Option<RequestId>,
    date: Option<SystemTime>,
    responder: Option<Box<str>>,
    /// Whether the last known active server answered; always true with a single address.
    from_active: bool,
}

impl Answer {
    /// The status: 200 to 299, or any for a batch with results.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.status.as_u16()
    }

    /// OpenBao's request ID, if it is valid.
    #[must_use]
    pub fn request_id(&self) -> Option<&RequestId> {
        self.request_id.as_ref()
    }

    /// The `Date` header, in whole seconds of the server's clock.
    #[must_use]
    pub fn date(&self) -> Option<SystemTime> {
        self.date
    }

    /// The whole body as JSON.
    ///
    /// # Errors
    /// [`FailureClass::NotOpenBao`] for a body without OpenBao's envelope, or an empty one;
    /// [`FailureClass::InvalidAnswer`] for OpenBao's envelope with unexpected content.
    pub fn json<'a, T: Deserialize<'a>>(&'a self) -> Result<T, Failure> {
        object(&self.body).ok_or_else(|| self.unexpected())
    }

    /// The `data` member, the result of most requests.
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

    /// A success without the envelope of its operation is from other software.
    fn unexpected(&self) -> Failure {
        let said = Envelope::read(&self.body);
        let from_openbao = match self.operation {
            Operation::JwtLogin
            | Operation::CertLogin
            | Operation::AppRoleLogin
            | Operation::UserpassLogin
            | Operation::TokenRenewSelf => said.auth.is_some(),
            Operation::TransitMetadataRead
            | Operation::TransitDisableUpsertRead
            | Operation::TransitEncrypt
            | Operation::TransitDecrypt
            | Operation::TransitBatchDecrypt
            | Operation::TransitSign
            | Operation::CapabilitiesSelf
            | Operation::WrappingLookup
            | Operation::WrappingUnwrap
            | Operation::TokenLookupSelf => said.data.is_some(),
            // These have no envelope around their content.
            Operation::SealStatus | Operation::Leader | Operation::Health => false,
            Operation::Admin => true,
        };
        if from_openbao {
            self.invalid("its JSON differs from the API")
        } else {
            Failure::foreign(self.operation, self.status, self.responder.clone())
        }
    }

    pub(crate) fn invalid(&self, what: &'static str) -> Failure {
        Failure::new(self.operation, FailureClass::InvalidAnswer)
            .status(self.status)
            .detail(what)
    }

    /// The failure for an outdated response.
    pub(crate) fn lags(&self) -> Failure {
        Failure::lagging(self.operation).status(self.status)
    }

    /// Whether the last known active server answered; always true with a single address.
    pub(crate) fn is_from_active(&self) -> bool {
        self.from_active
    }

    /// The failure of one item of a batch, by its error text.
    pub(crate) fn refused_item(&self, error: &str) -> Failure {
        Failure::from_item(self.operation, self.status, error)
    }
}

/// The envelope of OpenBao's responses. `errors` is a list of texts and may be empty. Every error
/// status has it, except for a batch and `sys/health`.
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

/// Parses a JSON object, the form of all OpenBao responses. Derived structures would also accept an
/// array of their members.
fn object<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Option<T> {
    let object = body.trim_ascii_start().starts_with(b"{");
    object.then(|| serde_json::from_slice(body).ok()).flatten()
}

impl Envelope {
    /// Empty for a body of another form.
    fn read(body: &[u8]) -> Self {
        object(body).unwrap_or_default()
    }

    fn request_id(&self) -> Option<RequestId> {
        self.request_id.as_deref().and_then(RequestId::parse)
    }
}

/// Reads a body of at most `limit` bytes.
async fn read_body(
    body: Incoming,
    limit: usize,
    operation: Operation,
    status: StatusCode,
) -> Result<Zeroizing<Vec<u8>>, Failure> {
    collect(body, limit).await.map_err(|error| {
        if error.is::<LengthLimitError>() {
            Failure::new(operation, FailureClass::Unavailable)
                .detail("the answer is larger than allowed")
                .status(status)
        } else {
            Failure::from_transport(operation, error.as_ref()).status(status)
        }
    })
}

/// Reads a body of at most `limit` bytes without leaving copies in freed memory. A longer one is a
/// [`LengthLimitError`].
pub(crate) async fn collect(body: Incoming, limit: usize) -> Result<Zeroizing<Vec<u8>>, BoxError> {
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(limit);
    let mut collected = Zeroizing::new(Vec::with_capacity(announced.min(limit)));
    let mut body = Limited::new(body, limit);
    while let Some(frame) = body.frame().await {
        if let Ok(piece) = frame?.into_data() {
            let needed = collected.len() + piece.len();
            if needed > collected.capacity() {
                // A plain reallocation would free the old buffer without wiping it.
                let mut larger = Zeroizing::new(Vec::with_capacity(needed * 2));
                larger.extend_from_slice(&collected);
                collected = larger;
            }
            collected.extend_from_slice(&piece);
        }
    }
    Ok(collected)
}

/// Reports a request to the hook when it ends or its future is dropped.
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
