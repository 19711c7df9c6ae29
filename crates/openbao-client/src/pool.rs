//! Pool of HTTP/1.1 connections to one address, and the rules for their reuse.
//!
//! A connection is reused only after a complete response of OpenBao, up to an age of about one
//! minute, and while its TLS settings are current. If a peer fails a request (timeout, broken
//! connection, 5xx), all its idle connections are closed, and it is tried last among its host's
//! addresses.

use std::{
    cmp::Reverse,
    collections::HashMap,
    mem,
    net::SocketAddr,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::{
    body::Incoming,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use rustix::rand::{GetRandomFlags, getrandom};
use tokio::{
    net::TcpStream,
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    connect::{BoxError, Host, LookupFailed},
    failure::{Failure, FailureClass, is_own_fault, transport_class},
};

/// Maximum age of a connection, so that connections follow changed addresses of a host. Each
/// connection varies by up to a sixth, so that they end at different times.
pub(crate) const MAX_AGE: Duration = Duration::from_secs(60);
/// Delay before the next address of a host is tried in parallel.
const STAGGER: Duration = Duration::from_millis(250);
/// Maximum number of addresses tried for one connection.
const MAX_PEERS: usize = 8;
/// Maximum number of peers with a remembered failure.
const MAX_REMEMBERED: usize = 32;
/// A request canceled after this time without a response counts as a timeout: callers often cancel
/// a moment before the deadline.
const SILENCE: Duration = Duration::from_millis(500);

/// The connections to one address. Clones share them.
#[derive(Clone)]
pub(crate) struct Pool(Arc<Inner>);

struct Inner {
    host: Arc<Host>,
    max_age: Duration,
    /// Held only briefly, never across an await.
    state: Mutex<State>,
}

struct State {
    tls: TlsConnector,
    /// Generation of the TLS settings; connections of earlier generations are discarded.
    generation: u64,
    /// Idle connections, the most recently used last.
    idle: Vec<Kept>,
    /// All connections, by number.
    open: HashMap<u64, Open>,
    next: u64,
    failures: HashMap<SocketAddr, LastFailure>,
}

struct Open {
    peer: SocketAddr,
    since: Instant,
}

struct LastFailure {
    class: FailureClass,
    at: Instant,
    /// True until a request succeeds.
    stands: bool,
}

/// A connection ready for a request.
struct Kept {
    number: u64,
    peer: SocketAddr,
    retires: Instant,
    generation: u64,
    /// The cluster reported by the peer on this connection.
    cluster: Option<Arc<str>>,
    sender: SendRequest<Full<Bytes>>,
}

/// A request without a response.
pub(crate) struct Broken {
    pub(crate) error: hyper::Error,
    /// True if no byte of it was written.
    pub(crate) unsent: bool,
}

impl Broken {
    /// Whether the connection ended before the response began.
    pub(crate) fn unanswered(&self) -> bool {
        !self.error.is_parse()
    }
}

impl Pool {
    pub(crate) fn new(host: Host, tls: TlsConnector, max_age: Duration) -> Self {
        Self::of(Arc::new(host), tls, max_age)
    }

    /// An empty pool to the same address, with other TLS settings.
    pub(crate) fn with_tls(&self, tls: TlsConnector) -> Self {
        Self::of(Arc::clone(&self.0.host), tls, self.0.max_age)
    }

    fn of(host: Arc<Host>, tls: TlsConnector, max_age: Duration) -> Self {
        Self(Arc::new(Inner {
            host,
            max_age,
            state: Mutex::new(State {
                tls,
                generation: 0,
                idle: Vec::new(),
                open: HashMap::new(),
                next: 0,
                failures: HashMap::new(),
            }),
        }))
    }

    /// Returns an idle connection or a new one; always a new one if `fresh`.
    pub(crate) async fn checkout(&self, fresh: bool) -> Result<Lease, BoxError> {
        while !fresh && let Some(mut kept) = self.idle() {
            // The server may have closed the connection just now.
            if kept.sender.ready().await.is_ok() {
                return Ok(self.lease(kept));
            }
        }
        self.open().await
    }

    fn idle(&self) -> Option<Kept> {
        self.0.state().idle()
    }

    /// Sets the TLS settings of new connections. Existing connections are discarded once idle.
    pub(crate) fn replace_tls(&self, tls: TlsConnector) {
        let mut state = self.0.state();
        state.tls = tls;
        state.generation += 1;
        drop(mem::take(&mut state.idle));
    }

    /// Peers with connections or a failure. Returns at once.
    pub(crate) fn view(&self) -> Vec<PeerView> {
        let now = Instant::now();
        let state = self.0.state();
        let mut peers: HashMap<SocketAddr, PeerView> = HashMap::new();
        for open in state.open.values() {
            let view = peers
                .entry(open.peer)
                .or_insert_with(|| PeerView::of(open.peer));
            view.in_use += 1;
            view.ages.push(now.duration_since(open.since));
        }

        for kept in &state.idle {
            if let Some(view) = peers.get_mut(&kept.peer) {
                view.in_use = view.in_use.saturating_sub(1);
                view.idle += 1;
            }
        }

        for (peer, failure) in &state.failures {
            let view = peers.entry(*peer).or_insert_with(|| PeerView::of(*peer));
            view.last_failure = Some((failure.class, now.duration_since(failure.at)));
        }

        let mut peers: Vec<_> = peers.into_values().collect();
        peers.sort_by_key(|view| view.peer);
        for view in &mut peers {
            view.ages.sort_by_key(|age| Reverse(*age));
        }
        peers
    }

    fn lease(&self, kept: Kept) -> Lease {
        let silence = Silence {
            pool: Arc::clone(&self.0),
            peer: kept.peer,
            asked: None,
            patience: SILENCE,
        };
        Lease { kept, silence }
    }

    async fn open(&self) -> Result<Lease, BoxError> {
        let mut peers = self.0.host.peers().await?;
        let (tls, generation) = {
            let state = self.0.state();
            state.order(&mut peers);
            (state.tls.clone(), state.generation)
        };
        let (peer, stream) = self.race(&peers, &tls).await?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;

        let since = Instant::now();
        let retires = since + jittered(self.0.max_age);
        let number = self.0.state().opened(Open { peer, since });

        let pool = Arc::downgrade(&self.0);
        tokio::spawn(async move {
            let mut connection = pin!(connection);
            let ended = tokio::select! {
                ended = &mut connection => ended,
                () = sleep_until(retires) => {
                    retire(&pool, number);
                    connection.await
                }
            };
            closed(&pool, number, peer, ended.is_err());
        });

        Ok(self.lease(Kept {
            number,
            peer,
            retires,
            generation,
            cluster: None,
            sender,
        }))
    }

    /// Returns the first established connection. Peers are tried in order, with a delay between
    /// them. If all fail, the first failure is returned.
    async fn race(
        &self,
        peers: &[SocketAddr],
        tls: &TlsConnector,
    ) -> Result<(SocketAddr, TlsStream<TcpStream>), BoxError> {
        // The usual case needs no task.
        if let [peer] = peers {
            return Ok(attempt(Arc::clone(&self.0), *peer, tls.clone()).await?);
        }

        let mut attempts = JoinSet::new();
        let mut first_failure = None;
        let mut next = peers.iter().take(MAX_PEERS);
        let mut start = true;
        loop {
            if mem::take(&mut start)
                && let Some(peer) = next.next()
            {
                attempts.spawn(attempt(Arc::clone(&self.0), *peer, tls.clone()));
            }
            tokio::select! {
                ended = attempts.join_next() => match ended {
                    Some(Ok(Ok(connected))) => return Ok(connected),
                    Some(Ok(Err(failure))) => {
                        first_failure.get_or_insert(BoxError::from(failure));
                        start = true;
                    }
                    Some(Err(_)) => start = true,
                    None => return Err(first_failure.unwrap_or_else(|| LookupFailed.into())),
                },
                () = sleep(STAGGER), if next.len() > 0 => start = true,
            }
        }
    }
}

/// Connects to one peer. A failure is recorded even if the caller has stopped waiting.
async fn attempt(
    pool: Arc<Inner>,
    peer: SocketAddr,
    tls: TlsConnector,
) -> std::io::Result<(SocketAddr, TlsStream<TcpStream>)> {
    let mut silence = Silence {
        pool: Arc::clone(&pool),
        peer,
        asked: Some(Instant::now()),
        patience: STAGGER,
    };

    let connected = pool.host.connect(peer, tls).await;
    silence.asked = None;
    if let Err(failure) = &connected
        && !is_own_fault(failure)
    {
        pool.state().failed(peer, transport_class(failure).0);
    }
    connected.map(|stream| (peer, stream))
}

/// Discards an idle connection at its maximum age. One in use ends after its response.
fn retire(pool: &Weak<Inner>, number: u64) {
    if let Some(pool) = pool.upgrade() {
        pool.state().idle.retain(|kept| kept.number != number);
    }
}

fn closed(pool: &Weak<Inner>, number: u64, peer: SocketAddr, broke: bool) {
    let Some(pool) = pool.upgrade() else { return };
    let mut state = pool.state();
    state.open.remove(&number);
    let free = state.idle.len();
    state.idle.retain(|kept| kept.number != number);
    // A connection in use reports its failure through its request.
    if broke && state.idle.len() < free {
        state.failed(peer, FailureClass::ConnectionFailed);
    }
}

/// A connection in use by one request. Drop discards it.
pub(crate) struct Lease {
    kept: Kept,
    silence: Silence,
}

impl Lease {
    /// Sends the request and waits for the head of the response.
    pub(crate) async fn send(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, Broken> {
        if let Err(error) = self.kept.sender.ready().await {
            return Err(Broken {
                error,
                unsent: true,
            });
        }
        self.silence.asked = Some(Instant::now());
        let sent = self.kept.sender.try_send_request(request).await;
        sent.map_err(|mut broken| Broken {
            unsent: broken.take_message().is_some(),
            error: broken.into_error(),
        })
    }

    /// The cluster reported by the peer on this connection.
    pub(crate) fn cluster(&self) -> Option<&Arc<str>> {
        self.kept.cluster.as_ref()
    }

    pub(crate) fn belongs_to(&mut self, cluster: Arc<str>) {
        self.kept.cluster = Some(cluster);
    }

    /// Returns the connection to the pool after a complete response of OpenBao.
    pub(crate) fn keep(self) {
        let Self { kept, mut silence } = self;
        silence.asked = None;
        silence.pool.state().returned(kept);
    }

    /// Ends a failed request. After a response of OpenBao the connection is kept.
    pub(crate) fn settle(self, failure: &Failure) {
        if failure.condemns_peer() {
            self.failed(failure.class());
        } else {
            self.keep();
        }
    }

    /// Records a failure of the peer.
    pub(crate) fn failed(mut self, class: FailureClass) {
        self.silence.asked = None;
        self.silence.pool.state().failed(self.kept.peer, class);
    }
}

/// Records a timeout of the peer when an unanswered request is dropped.
struct Silence {
    pool: Arc<Inner>,
    peer: SocketAddr,
    asked: Option<Instant>,
    patience: Duration,
}

impl Drop for Silence {
    fn drop(&mut self) {
        if self
            .asked
            .is_some_and(|asked| asked.elapsed() >= self.patience)
        {
            self.pool.state().failed(self.peer, FailureClass::Timeout);
        }
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Returns the most recently used connection, so that surplus ones reach their maximum age.
    fn idle(&mut self) -> Option<Kept> {
        let now = Instant::now();
        while let Some(kept) = self.idle.pop() {
            if kept.retires > now && !kept.sender.is_closed() {
                return Some(kept);
            }
        }
        None
    }

    fn opened(&mut self, open: Open) -> u64 {
        let number = self.next;
        self.next += 1;
        self.open.insert(number, open);
        number
    }

    fn succeeded(&mut self, peer: SocketAddr) {
        if let Some(failure) = self.failures.get_mut(&peer) {
            failure.stands = false;
        }
    }

    fn returned(&mut self, kept: Kept) {
        self.succeeded(kept.peer);
        let current = kept.generation == self.generation;
        if current && kept.retires > Instant::now() && !kept.sender.is_closed() {
            self.idle.push(kept);
        }
    }

    fn failed(&mut self, peer: SocketAddr, class: FailureClass) {
        self.idle.retain(|kept| kept.peer != peer);
        let failure = LastFailure {
            class,
            at: Instant::now(),
            stands: true,
        };
        self.failures.insert(peer, failure);
        if self.failures.len() > MAX_REMEMBERED {
            let oldest = self.failures.iter().min_by_key(|(_, failure)| failure.at);
            if let Some(oldest) = oldest.map(|(peer, _)| *peer) {
                self.failures.remove(&oldest);
            }
        }
    }

    /// Sorts peers without a current failure first, in the resolver's order, then those with a
    /// failure, the most recent one last.
    fn order(&self, peers: &mut [SocketAddr]) {
        peers.sort_by_key(|peer| {
            let failure = self.failures.get(peer);
            failure
                .filter(|failure| failure.stands)
                .map(|failure| failure.at)
        });
    }
}

/// One IP address and port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerView {
    /// The peer.
    pub peer: SocketAddr,
    /// Connections with a request in progress or being closed.
    pub in_use: usize,
    /// Idle connections.
    pub idle: usize,
    /// Age of each connection, the oldest first.
    pub ages: Vec<Duration>,
    /// The last failure and the time since; kept after a later success.
    pub last_failure: Option<(FailureClass, Duration)>,
}

impl PeerView {
    fn of(peer: SocketAddr) -> Self {
        Self {
            peer,
            in_use: 0,
            idle: 0,
            ages: Vec::new(),
            last_failure: None,
        }
    }
}

/// A random duration of five to seven sixths of `age`.
pub(crate) fn jittered(age: Duration) -> Duration {
    let mut random = [0];
    // Without random numbers all connections have the shortest age.
    let [random] = getrandom(&mut random[..], GetRandomFlags::empty()).map_or([0], |_| random);
    age * 5 / 6 + age / 3 * u32::from(random) / 255
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        connect::tls,
        endpoint::{Address, Roots, ServerName},
    };

    fn pool() -> Pool {
        let key = rcgen::KeyPair::generate().unwrap();
        let ca = rcgen::CertificateParams::new(Vec::new()).unwrap();
        let ca = ca.self_signed(&key).unwrap().pem();
        let address = Address::parse("https://127.0.0.1:1").unwrap();
        let host = Host::new(&address, &ServerName::parse("bao").unwrap());
        let tls = tls(Roots::from_pem(ca.as_bytes()).unwrap(), None).unwrap();
        Pool::new(host, tls, MAX_AGE)
    }

    fn peer(last: u8) -> SocketAddr {
        ([192, 0, 2, last], 8200).into()
    }

    #[test]
    fn the_peer_that_failed_last_is_tried_last_and_a_success_clears_it() {
        let pool = pool();
        let order = || {
            let mut peers = [peer(1), peer(2), peer(3)];
            pool.0.state().order(&mut peers);
            peers
        };
        assert_eq!(order(), [peer(1), peer(2), peer(3)]);
        pool.0.state().failed(peer(1), FailureClass::Sealed);
        pool.0.state().failed(peer(2), FailureClass::Timeout);
        assert_eq!(order(), [peer(3), peer(1), peer(2)]);
        pool.0.state().succeeded(peer(1));
        assert_eq!(order(), [peer(1), peer(3), peer(2)]);
        let seen = pool.view();
        assert_eq!(seen[0].last_failure.unwrap().0, FailureClass::Sealed);
    }

    #[test]
    fn only_the_latest_failures_are_remembered() {
        let pool = pool();
        for last in 0..=u8::try_from(MAX_REMEMBERED).unwrap() {
            pool.0.state().failed(peer(last), FailureClass::Timeout);
        }
        let seen = pool.view();
        assert_eq!(seen.len(), MAX_REMEMBERED);
        assert_eq!(seen[0].peer, peer(1));
    }

    /// A pool and a trusted server.
    async fn server() -> (Pool, SocketAddr) {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut leaf = rcgen::CertificateParams::new(["bao".to_owned()]).unwrap();
        leaf.is_ca = rcgen::IsCa::ExplicitNoCa;
        let certificate = leaf.self_signed(&key).unwrap();
        let config = rustls::ServerConfig::builder_with_provider(Arc::new(
            rustls::crypto::aws_lc_rs::default_provider(),
        ));
        let config = config
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                rustls::pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into()),
            )
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let good = listener.local_addr().unwrap();
        tokio::spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let acceptor = acceptor.clone();
                tokio::spawn(async move { acceptor.accept(tcp).await.is_ok() });
            }
        });
        let address = Address::parse(&format!("https://{good}")).unwrap();
        let host = Host::new(&address, &ServerName::parse("bao").unwrap());
        let roots = Roots::from_pem(certificate.pem().as_bytes()).unwrap();
        let pool = Pool::new(host, tls(roots, None).unwrap(), MAX_AGE);
        (pool, good)
    }

    #[tokio::test]
    async fn every_peer_is_tried_without_waiting_for_the_timeout_of_another() {
        let (pool, good) = server().await;
        // Accepts connections and leaves the handshake unanswered.
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let refusing = closed.local_addr().unwrap();
        drop(closed);
        let tls = pool.0.state().tls.clone();
        let mut peers = [silent.local_addr().unwrap(), refusing, good];
        let opened = pool.race(&peers, &tls).await;
        assert_eq!(opened.unwrap().0, good);
        let failed = |view: &PeerView| view.last_failure.map(|(class, _)| class);
        let class = |peer| {
            pool.view()
                .iter()
                .find(|view| view.peer == peer)
                .and_then(failed)
        };
        assert_eq!(class(refusing), Some(FailureClass::ConnectionFailed));
        let noted = async {
            while class(peers[0]) != Some(FailureClass::Timeout) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), noted)
            .await
            .unwrap();
        pool.0.state().order(&mut peers);
        assert_eq!(peers[0], good);

        let failure = pool.race(&[refusing, refusing], &tls).await.err().unwrap();
        assert_eq!(transport_class(&*failure).0, FailureClass::ConnectionFailed);
    }

    #[test]
    fn ages_differ_by_a_sixth_at_most() {
        for _ in 0..1000 {
            let age = jittered(MAX_AGE);
            assert!((50..=70).contains(&age.as_secs()), "{age:?}");
        }
    }
}
