//! A scripted OpenBao over real TLS, for faults that a real server cannot produce on demand.
//!
//! Each request gets the next [`Reply`] of the script. After the end of the script, requests get a
//! 500. A fake with a function of its own answers each request by it. In front of a real server the
//! fake is a proxy: a request that matches a [`Rule`] gets its reply, and all others go to the server.

#![expect(clippy::unwrap_used, reason = "a failed set-up fails the test")]

use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    path::Path,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::{Body, Frame, Incoming, SizeHint},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use openbao_client::endpoint::{Address, Endpoint, Roots, ServerName};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName as TlsName, pem::PemObject},
    server::WebPkiClientVerifier,
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::openbao::OpenBao;

/// The DNS name in the fake's certificate.
pub const SERVER_NAME: &str = "openbao.test";

/// Response of the fake to one request.
#[derive(Debug, Clone)]
pub enum Reply {
    /// A response with this status and JSON body.
    Json(u16, String),
    /// A response of a web server in place of OpenBao, with this status and body.
    Web(u16, String),
    /// A 200 with this body and this `Date` header.
    Dated(String, String),
    /// A redirect with this status and `Location`.
    Redirect(u16, String),
    /// A response of this status and body size in bytes, chunked, without `Content-Length`.
    Filler(u16, usize),
    /// A 200 with a truncated body. Then the connection is closed.
    Cut(String),
    /// A 200 with a truncated body. The connection stays open.
    Stall(String),
    /// No response; the connection stays open.
    Hang,
    /// Closes the connection without a response.
    Close,
}

impl Reply {
    /// A 200 with this body.
    pub fn ok(json: impl ToString) -> Self {
        Self::Json(200, json.to_string())
    }
}

/// Requests for the proxy to answer itself, and the reply.
#[derive(Debug, Clone)]
pub struct Rule {
    /// Suffix of the path.
    pub path: String,
    /// Text in the body.
    pub holds: String,
    /// Percentage of matching requests that get the reply, chosen at random; 100 means all.
    pub percent: u64,
    /// The reply.
    pub reply: Reply,
}

/// Behavior of the fake on new connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handshake {
    /// TLS with a valid certificate.
    Good,
    /// TLS with a certificate that expired in 2001.
    Expired,
    /// TLS with one self-signed CA certificate, which is the CA as well.
    SelfSignedCa,
    /// TLS with a certificate for clients only.
    ForClients,
    /// TLS that requires a client certificate.
    ClientCertificate,
    /// TCP is accepted; the TLS handshake stays unanswered.
    Never,
}

/// A request received by the fake.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The method.
    pub method: Method,
    /// Path and query.
    pub target: String,
    /// All headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: String,
}

/// A running fake. Drop stops it.
pub struct FakeOpenBao {
    port: u16,
    pki: Pki,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

/// Computes the reply to a request.
type Answering = Box<dyn Fn(&Seen) -> Reply + Send + Sync>;

struct Shared {
    /// The server behind a proxy.
    server: Option<Upstream>,
    /// Takes the place of the script.
    answering: Option<Answering>,
    rules: Mutex<Vec<Rule>>,
    script: Mutex<VecDeque<Reply>>,
    seen: Mutex<Vec<Seen>>,
    /// Count of requests that got the reply of a rule.
    ruled: AtomicUsize,
    /// State of the pseudo-random generator; every run makes the same choices.
    choice: AtomicU64,
    connections: AtomicUsize,
}

impl FakeOpenBao {
    /// Listens on a free port of the loopback interface, with a certificate of its own CA.
    pub async fn start(script: impl IntoIterator<Item = Reply>) -> Self {
        Self::start_with(Handshake::Good, script).await
    }

    /// As [`Self::start`], with this handshake.
    pub async fn start_with(handshake: Handshake, script: impl IntoIterator<Item = Reply>) -> Self {
        Self::serve(handshake, None, None, script.into_iter().collect()).await
    }

    /// A proxy in front of a server. It forwards all requests until rules are set.
    pub async fn in_front_of(server: &OpenBao) -> Self {
        let server = Upstream::of(server);
        Self::serve(Handshake::Good, Some(server), None, VecDeque::new()).await
    }

    /// Answers each request by a function, and keeps none of them.
    pub async fn answering(answer: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        let answering: Answering = Box::new(answer);
        Self::serve(Handshake::Good, None, Some(answering), VecDeque::new()).await
    }

    async fn serve(
        handshake: Handshake,
        server: Option<Upstream>,
        answering: Option<Answering>,
        script: VecDeque<Reply>,
    ) -> Self {
        let (pki, tls) = pki(handshake);
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            server,
            answering,
            rules: Mutex::default(),
            script: Mutex::new(script),
            seen: Mutex::default(),
            ruled: AtomicUsize::new(0),
            choice: AtomicU64::new(1),
            connections: AtomicUsize::new(0),
        });
        let server = tokio::spawn(accept(listener, handshake, tls, shared.clone()));
        Self {
            port,
            pki,
            shared,
            server,
        }
    }

    /// Address, server name and CA of the fake. Tests change a field for a failed connection.
    #[must_use]
    pub fn endpoint(&self) -> Endpoint {
        Endpoint {
            address: Address::parse(&format!("https://127.0.0.1:{}", self.port)).unwrap(),
            server_name: ServerName::parse(SERVER_NAME).unwrap(),
            roots: Roots::from_pem(self.pki.ca_pem.as_bytes()).unwrap(),
            namespace: None,
        }
    }

    /// The fake's CA as PEM.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        &self.pki.ca_pem
    }

    /// A certificate that [`Handshake::ClientCertificate`] accepts, and its key.
    #[must_use]
    pub fn client_certificate(&self) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        let (certificate, key) = &self.pki.client;
        (certificate.clone(), key.clone_key())
    }

    /// Appends to the script.
    pub fn then(&self, replies: impl IntoIterator<Item = Reply>) {
        lock(&self.shared.script).extend(replies);
    }

    /// Replaces all rules.
    pub fn rules(&self, rules: impl IntoIterator<Item = Rule>) {
        *lock(&self.shared.rules) = rules.into_iter().collect();
    }

    /// The requests so far.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        lock(&self.shared.seen).clone()
    }

    /// Count of requests so far that got the reply of a rule.
    #[must_use]
    pub fn ruled(&self) -> usize {
        self.shared.ruled.load(Ordering::SeqCst)
    }

    /// Count of accepted TCP connections.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }
}

impl Shared {
    fn chooses(&self, percent: u64) -> bool {
        let next = |state: u64| {
            let state = state.wrapping_mul(6_364_136_223_846_793_005);
            Some(state.wrapping_add(1_442_695_040_888_963_407))
        };
        let (set, get) = (Ordering::SeqCst, Ordering::SeqCst);
        let state = self.choice.fetch_update(set, get, next);
        state.is_ok_and(|state| (state >> 33) % 100 < percent)
    }
}

impl Drop for FakeOpenBao {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// The certificates of a fake.
struct Pki {
    ca_pem: String,
    /// A certificate for clients, and its key.
    client: (CertificateDer<'static>, PrivateKeyDer<'static>),
}

fn pki(handshake: Handshake) -> (Pki, ServerConfig) {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_pem = ca.self_signed(&ca_key).unwrap().pem();

    let key = KeyPair::generate().unwrap();
    let names = [SERVER_NAME, "localhost"].map(str::to_owned);
    let mut leaf = CertificateParams::new(names).unwrap();
    if handshake == Handshake::Expired {
        leaf.not_before = rcgen::date_time_ymd(2001, 1, 1);
        leaf.not_after = rcgen::date_time_ymd(2001, 2, 1);
    }

    if handshake == Handshake::ForClients {
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    }

    let issuer = Issuer::from_params(&ca, &ca_key);
    let (ca_pem, leaf) = match handshake {
        Handshake::SelfSignedCa => {
            leaf.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let own = leaf.self_signed(&key).unwrap();
            (own.pem(), own)
        }
        _ => (ca_pem, leaf.signed_by(&key, &issuer).unwrap()),
    };

    let client_key = KeyPair::generate().unwrap();
    let mut client = CertificateParams::new(Vec::new()).unwrap();
    client.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let client = client.signed_by(&client_key, &issuer).unwrap();
    let client = (
        client.der().clone(),
        PrivateKeyDer::Pkcs8(client_key.serialize_der().into()),
    );

    let provider = Arc::new(aws_lc_rs::default_provider());
    let tls = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap();
    let tls = match handshake {
        Handshake::ClientCertificate => {
            let mut roots = RootCertStore::empty();
            roots
                .add(ca.self_signed(&ca_key).unwrap().der().clone())
                .unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
            tls.with_client_cert_verifier(verifier.build().unwrap())
        }
        _ => tls.with_no_client_auth(),
    };
    let tls = tls
        .with_single_cert(
            vec![leaf.der().clone()],
            PrivateKeyDer::Pkcs8(key.serialize_der().into()),
        )
        .unwrap();
    (Pki { ca_pem, client }, tls)
}

async fn accept(
    listener: TcpListener,
    handshake: Handshake,
    tls: ServerConfig,
    shared: Arc<Shared>,
) {
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let mut connections = JoinSet::new();
    while let Ok((tcp, _)) = listener.accept().await {
        shared.connections.fetch_add(1, Ordering::SeqCst);
        let (acceptor, shared) = (acceptor.clone(), shared.clone());
        connections.spawn(async move {
            if handshake == Handshake::Never {
                std::future::pending::<()>().await;
            }
            connection(acceptor, tcp, shared).await;
        });
    }
}

/// Errors are ignored: the test checks the client's side of the connection.
async fn connection(acceptor: TlsAcceptor, tcp: TcpStream, shared: Arc<Shared>) {
    let Ok(tls) = acceptor.accept(tcp).await else {
        return;
    };
    let service = service_fn(|request| answer(request, &shared));
    hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(tls), service)
        .await
        .ok();
}

async fn answer(request: Request<Incoming>, shared: &Shared) -> io::Result<Response<Script>> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let seen = Seen {
        method: parts.method.clone(),
        target: parts.uri.to_string(),
        headers: parts.headers.clone(),
        body: String::from_utf8_lossy(&body).into_owned(),
    };

    let ruled = lock(&shared.rules)
        .iter()
        .find(|rule| seen.target.ends_with(&rule.path) && seen.body.contains(&rule.holds))
        .filter(|rule| shared.chooses(rule.percent))
        .map(|rule| rule.reply.clone());
    if ruled.is_some() {
        shared.ruled.fetch_add(1, Ordering::SeqCst);
    }
    let answered = shared.answering.as_ref().map(|answer| answer(&seen));
    if answered.is_none() {
        lock(&shared.seen).push(seen);
    }

    let reply = match (ruled.or(answered), &shared.server) {
        (Some(reply), _) => Some(reply),
        (None, Some(server)) => {
            let response = server.ask(Request::from_parts(parts, body)).await?;
            return Ok(response.map(Script::of));
        }
        (None, None) => lock(&shared.script).pop_front(),
    };

    let (status, body) = match reply {
        None => (
            500,
            Script::whole("the script has no more replies".to_owned()),
        ),
        Some(Reply::Json(status, text)) => (status, Script::whole(text)),
        Some(Reply::Web(status, text)) => {
            let mut response = Response::new(Script::whole(text));
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            let headers = response.headers_mut();
            headers.insert(header::CONTENT_TYPE, "text/html".parse().unwrap());
            headers.insert(header::SERVER, "nginx/1.27.1".parse().unwrap());
            return Ok(response);
        }
        Some(Reply::Dated(text, date)) => {
            let mut response = Response::new(Script::whole(text));
            let date = date.parse().unwrap();
            response.headers_mut().insert(header::DATE, date);
            return Ok(response);
        }
        Some(Reply::Redirect(status, place)) => {
            let mut response = Response::new(Script::whole(String::new()));
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            let place = place.parse().unwrap();
            response.headers_mut().insert(header::LOCATION, place);
            return Ok(response);
        }
        Some(Reply::Filler(status, size)) => (status, Script::filler(size)),
        Some(Reply::Cut(text)) => (200, Script::partial(text, End::Break)),
        Some(Reply::Stall(text)) => (200, Script::partial(text, End::Silence)),
        Some(Reply::Hang) => std::future::pending().await,
        Some(Reply::Close) => return Err(io::Error::other("scripted")),
    };

    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    Ok(response)
}

/// A server reached by its IP address over TLS, such as the one behind a proxy.
pub(crate) struct Upstream {
    address: SocketAddr,
    tls: Arc<ClientConfig>,
}

impl Upstream {
    fn of(server: &OpenBao) -> Self {
        let address = server.endpoint().address;
        let address = SocketAddr::new(address.ip().unwrap(), address.port());
        Self::new(address, &server.ca_file())
    }

    /// A server with a certificate of this CA.
    pub(crate) fn new(address: SocketAddr, ca_file: &Path) -> Self {
        let mut roots = RootCertStore::empty();
        let ca = CertificateDer::from_pem_file(ca_file).unwrap();
        roots.add(ca).unwrap();
        let tls = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self {
            address,
            tls: Arc::new(tls),
        }
    }

    /// Sends the request on a new connection and reads the whole response.
    pub(crate) async fn ask(&self, request: Request<Bytes>) -> io::Result<Response<Bytes>> {
        let tcp = TcpStream::connect(self.address).await?;
        let name = TlsName::from(self.address.ip());
        let tls = TlsConnector::from(Arc::clone(&self.tls));
        let tls = TokioIo::new(tls.connect(name, tcp).await?);

        let (mut sender, connection) = hyper::client::conn::http1::handshake(tls)
            .await
            .map_err(io::Error::other)?;
        tokio::spawn(connection);
        let response = sender
            .send_request(request.map(Full::new))
            .await
            .map_err(io::Error::other)?;
        let (parts, body) = response.into_parts();
        let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
        Ok(Response::from_parts(parts, body))
    }
}

/// A response body with a scripted end.
struct Script {
    pieces: VecDeque<Bytes>,
    announced: Option<u64>,
    end: End,
}

#[derive(Clone, Copy)]
enum End {
    Proper,
    Break,
    Broken,
    Silence,
}

impl Script {
    fn whole(text: String) -> Self {
        Self::of(text.into())
    }

    fn of(bytes: Bytes) -> Self {
        Self {
            announced: u64::try_from(bytes.len()).ok(),
            pieces: [bytes].into(),
            end: End::Proper,
        }
    }

    fn partial(text: String, end: End) -> Self {
        Self {
            announced: u64::try_from(text.len() + 100).ok(),
            pieces: [Bytes::from(text)].into(),
            end,
        }
    }

    fn filler(size: usize) -> Self {
        let piece = Bytes::from(vec![b' '; 8 << 10]);
        let whole = size / piece.len();
        let mut pieces: VecDeque<_> = vec![piece.clone(); whole].into();
        pieces.push_back(piece.slice(..size % piece.len()));
        Self {
            pieces,
            announced: None,
            end: End::Proper,
        }
    }
}

impl Body for Script {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match (self.pieces.pop_front(), self.end) {
            (Some(piece), _) => Poll::Ready(Some(Ok(Frame::data(piece)))),
            (None, End::Proper) => Poll::Ready(None),
            // Yield once, so that the sent data reaches the client before the error.
            (None, End::Break) => {
                self.end = End::Broken;
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            (None, End::Broken) => Poll::Ready(Some(Err(io::Error::other("scripted")))),
            (None, End::Silence) => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.pieces.is_empty() && matches!(self.end, End::Proper)
    }

    fn size_hint(&self) -> SizeHint {
        self.announced
            .map_or_else(SizeHint::new, SizeHint::with_exact)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
