//! The addresses of one OpenBao cluster, and the selection between them.
//!
//! A single address is used without any health check. Several addresses are checked with
//! `sys/health`: all of them while the active server is unknown, and every new connection before
//! its first request. The active server is preferred. A server is avoided after a failed request,
//! first for 250 ms and then twice as long for each further failure, up to 4 s. Servers of another
//! cluster are never used.

use std::{
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use serde::Deserialize;
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};
use tokio_rustls::TlsConnector;

use crate::{
    endpoint::Address,
    failure::{Failure, FailureClass},
    pool::{Pool, jittered},
    request::Operation,
};

/// Interval of health checks of all addresses while the active server is known.
const REFRESH: Duration = Duration::from_secs(10);
/// Interval of health checks while the active server is unknown, and the first pause of a failed
/// server.
const PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(4);
/// A request waits for a health check for at most this long, or half of its remaining time.
const PATIENCE: Duration = Duration::from_millis(800);

/// Role of a server in its cluster, by its last response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Before the first health check.
    Unknown,
    /// Serves requests.
    Active,
    /// Forwards requests, or answers them from a replica that may lag behind.
    Standby,
    /// Sealed or uninitialized.
    Sealed,
    /// Failed its last health check or request.
    Down,
    /// Belongs to another cluster and is excluded.
    WrongCluster,
}

impl Role {
    /// Label in logs and reports.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Active => "active",
            Self::Standby => "standby",
            Self::Sealed => "sealed",
            Self::Down => "down",
            Self::WrongCluster => "wrong_cluster",
        }
    }
}

/// Called for each address that becomes the active server or turns out to be of another cluster.
/// Must return quickly.
pub type AddressHook = Arc<dyn Fn(&Address, Role) + Send + Sync>;

/// Body of `sys/health`, for every status.
#[derive(Deserialize)]
pub(crate) struct Health {
    initialized: bool,
    sealed: bool,
    #[serde(default)]
    standby: bool,
    #[serde(default)]
    performance_standby: bool,
    /// Absent while sealed.
    cluster_id: Option<String>,
}

impl Health {
    fn role(&self) -> Role {
        if self.sealed || !self.initialized {
            Role::Sealed
        } else if self.standby || self.performance_standby {
            Role::Standby
        } else {
            Role::Active
        }
    }
}

/// One address with its connections.
pub(crate) struct Target {
    pub(crate) address: Address,
    pub(crate) pool: Pool,
    /// Connections that present a client certificate; empty before the first certificate.
    certified: OnceLock<Pool>,
}

impl Target {
    pub(crate) fn new(address: Address, pool: Pool) -> Self {
        Self {
            address,
            pool,
            certified: OnceLock::new(),
        }
    }

    /// The connections for an operation.
    pub(crate) fn pool_for(&self, operation: Operation) -> &Pool {
        let certified = self.certified.get();
        certified
            .filter(|_| operation.presents_certificate())
            .unwrap_or(&self.pool)
    }

    /// Sets the TLS settings of the connections that present a client certificate.
    pub(crate) fn present(&self, tls: TlsConnector) {
        let pool = self
            .certified
            .get_or_init(|| self.pool.with_tls(tls.clone()));
        pool.replace_tls(tls);
    }
}

pub(crate) struct Addresses {
    /// At least one.
    targets: Vec<Target>,
    /// Held only briefly, never across an await.
    known: Mutex<Known>,
    /// Notified of every response to a health check, and of the end of the round.
    looks: watch::Sender<()>,
    hook: AddressHook,
}

struct Known {
    servers: Vec<Server>,
    /// ID of the confirmed cluster: its key was verified.
    cluster: Option<Arc<str>>,
    /// IDs of clusters with another key.
    refused: Vec<Arc<str>>,
    /// Address of the last metadata response.
    metadata_from: usize,
    /// Address last reported to the hook as active.
    announced: Option<usize>,
    looking: bool,
    next_look: Instant,
}

struct Server {
    role: Role,
    cluster: Option<Arc<str>>,
    last_failure: Option<FailureClass>,
    avoided: Option<Instant>,
    pause: Duration,
}

impl Server {
    fn fails(&mut self, class: FailureClass) {
        self.role = match class {
            FailureClass::Sealed => Role::Sealed,
            _ => Role::Down,
        };
        self.last_failure = Some(class);
    }

    fn is_avoided(&self, now: Instant) -> bool {
        self.avoided.is_some_and(|until| until > now)
    }
}

impl Addresses {
    pub(crate) fn new(targets: Vec<Target>, hook: AddressHook) -> Self {
        let servers = targets.iter().map(|_| Server {
            role: Role::Unknown,
            cluster: None,
            last_failure: None,
            avoided: None,
            pause: PAUSE,
        });
        let known = Known {
            servers: servers.collect(),
            cluster: None,
            refused: Vec::new(),
            metadata_from: 0,
            announced: None,
            looking: false,
            next_look: Instant::now(),
        };
        Self {
            targets,
            known: Mutex::new(known),
            looks: watch::channel(()).0,
            hook,
        }
    }

    pub(crate) fn several(&self) -> bool {
        self.targets.len() > 1
    }

    pub(crate) fn all(&self) -> &[Target] {
        &self.targets
    }

    /// Role of an address; `None` with a single address.
    pub(crate) fn role(&self, of: usize) -> Option<Role> {
        let known = self.known();
        let server = known.servers.get(of).filter(|_| self.several())?;
        Some(known.role(server))
    }

    /// Whether a health check of all addresses is due. The caller must then run it.
    pub(crate) fn begin_look(&self) -> bool {
        let mut known = self.known();
        let due = !known.looking && known.next_look <= Instant::now();
        known.looking |= due;
        due
    }

    pub(crate) fn end_look(&self) {
        let mut known = self.known();
        known.looking = false;
        let pause = match known.active(&[]) {
            Some(_) => REFRESH,
            None => PAUSE,
        };
        known.next_look = Instant::now() + jittered(pause);
        drop(known);
        self.looks.send_replace(());
    }

    /// Returns the next address to try: the active server if it is known or found in time.
    pub(crate) async fn next(&self, tried: &[usize], end: Instant) -> Option<usize> {
        let now = Instant::now();
        let patience = PATIENCE.min(end.saturating_duration_since(now) / 2);
        let mut looks = self.looks.subscribe();
        loop {
            {
                let known = self.known();
                let active = known.active(tried);
                // Before a cluster is confirmed, wait for the responses of all addresses.
                let found = active.filter(|_| known.cluster.is_some());
                if found.is_some() || !known.looking {
                    return active.or_else(|| known.best(tried));
                }
            }
            if !matches!(
                timeout_at(now + patience, looks.changed()).await,
                Ok(Ok(()))
            ) {
                let known = self.known();
                return known.active(tried).or_else(|| known.best(tried));
            }
        }
    }

    /// Returns an address of another cluster than that of `at`; `None` after a cluster is
    /// confirmed.
    pub(crate) fn in_another_cluster(&self, at: usize, tried: &[usize]) -> Option<usize> {
        let known = self.known();
        let left = known
            .servers
            .get(at)
            .and_then(|server| server.cluster.as_ref());
        let other = |at: &usize| {
            let server = known.servers.get(*at);
            let cluster = server.and_then(|server| server.cluster.as_ref());
            cluster.is_some() && cluster != left
        };
        known
            .best_of(tried, other)
            .filter(|_| known.cluster.is_none())
    }

    /// Whether an untried address is left.
    pub(crate) fn has_next(&self, tried: &[usize]) -> bool {
        self.several() && self.known().best(tried).is_some()
    }

    /// The active server, unless it is avoided or in `tried`.
    pub(crate) fn active(&self, tried: &[usize]) -> Option<usize> {
        self.known().active(tried)
    }

    /// Whether `at` is the active server by the last response; always true with a single address.
    pub(crate) fn is_active(&self, at: usize) -> bool {
        if !self.several() {
            return true;
        }
        let known = self.known();
        let server = known.servers.get(at);
        server.is_some_and(|server| known.role(server) == Role::Active)
    }

    /// Records a response to `sys/health`. Returns its cluster if the cluster is accepted.
    pub(crate) fn answered(&self, at: usize, health: Health) -> Option<Arc<str>> {
        let mut known = self.known();
        let before = known.servers.get(at).map(|server| known.role(server));
        let server = known.servers.get_mut(at)?;

        let role = health.role();
        let cluster = health.cluster_id.filter(|id| !id.is_empty());
        let cluster: Option<Arc<str>> = cluster.map(Into::into);
        server.role = role;
        server.cluster.clone_from(&cluster);

        if role == Role::Active && known.announced != Some(at) {
            // A new active server starts without the pause from earlier failures.
            known.works(at);
        }

        let accepted = cluster.filter(|id| known.accepts(id));
        self.announce(known, at, before);
        self.looks.send_replace(());
        accepted
    }

    /// Records a failed health check.
    pub(crate) fn unanswered(&self, at: usize, class: FailureClass) {
        if let Some(server) = self.known().servers.get_mut(at) {
            server.fails(class);
        }
        self.looks.send_replace(());
    }

    /// Records a failed request: the address is avoided for its pause, and all addresses are
    /// checked again.
    pub(crate) fn failed(&self, at: usize, class: FailureClass) {
        if !self.several() {
            return;
        }
        let now = Instant::now();
        let mut known = self.known();
        if let Some(server) = known.servers.get_mut(at) {
            server.fails(class);
            // Concurrent failures count once.
            if !server.is_avoided(now) {
                server.avoided = Some(now + jittered(server.pause));
                server.pause = LONGEST_PAUSE.min(server.pause * 2);
            }
        }
        known.next_look = known.next_look.min(now + PAUSE / 4);
    }

    /// Records a successful request.
    pub(crate) fn succeeded(&self, at: usize, operation: Operation) {
        if !self.several() {
            return;
        }
        let mut known = self.known();
        if operation == Operation::TransitMetadataRead {
            known.metadata_from = at;
        }
        known.works(at);
    }

    /// Whether a connection to this cluster may carry requests; `None` is a connection before its
    /// check.
    pub(crate) fn accepts(&self, cluster: Option<&Arc<str>>) -> bool {
        cluster.is_some_and(|cluster| self.known().accepts(cluster))
    }

    /// Confirms the cluster of the last metadata read: its key was verified.
    pub(crate) fn confirm(&self) {
        let mut known = self.known();
        if self.several() && known.cluster.is_none() {
            known.cluster = known
                .servers
                .get(known.metadata_from)
                .and_then(|server| server.cluster.clone());
            self.announce_wrong(known, &[]);
        }
    }

    /// Excludes the cluster of the last metadata read: its key is another one. Has an effect only
    /// if an address of another cluster is known.
    pub(crate) fn refuse(&self) {
        let mut known = self.known();
        if !self.several() || known.cluster.is_some() {
            return;
        }
        let cluster = known.servers.get(known.metadata_from);
        let Some(cluster) = cluster.and_then(|server| server.cluster.clone()) else {
            return;
        };
        let other = |server: &Server| {
            let id = server.cluster.as_ref();
            id.is_some_and(|id| *id != cluster && !known.refused.contains(id))
        };
        if known.servers.iter().any(other) {
            let refused = known.refused.clone();
            known.refused.push(cluster);
            self.announce_wrong(known, &refused);
        }
    }

    /// The failure if all addresses were tried: that of the first one not in another cluster.
    pub(crate) fn unusable(&self, operation: Operation) -> Failure {
        let known = self.known();
        let ours = known
            .servers
            .iter()
            .filter(|server| known.may_be_used(server));
        let class = ours.filter_map(|server| server.last_failure).next();
        Failure::new(operation, class.unwrap_or(FailureClass::Unavailable))
            .detail("no address leads to a server of the cluster")
    }

    fn announce(&self, mut known: MutexGuard<'_, Known>, at: usize, before: Option<Role>) {
        let Some(role) = known.servers.get(at).map(|server| known.role(server)) else {
            return;
        };

        let news = match role {
            Role::Active if known.is_ours(at) => known.announced.replace(at) != Some(at),
            Role::WrongCluster => before != Some(Role::WrongCluster),
            _ => false,
        };
        drop(known);

        if let Some(target) = self.targets.get(at).filter(|_| news) {
            (self.hook)(&target.address, role);
        }
    }

    fn announce_wrong(&self, known: MutexGuard<'_, Known>, known_before: &[Arc<str>]) {
        let wrong: Vec<_> = self
            .targets
            .iter()
            .zip(&known.servers)
            .filter(|(_, server)| known.role(server) == Role::WrongCluster)
            .filter(|(_, server)| {
                let id = server.cluster.as_ref();
                id.is_some_and(|id| !known_before.contains(id))
            })
            .map(|(target, _)| target)
            .collect();
        drop(known);

        for target in wrong {
            (self.hook)(&target.address, Role::WrongCluster);
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn accepts(&self, cluster: &Arc<str>) -> bool {
        let ours = self.cluster.as_ref().is_none_or(|ours| ours == cluster);
        ours && !self.refused.contains(cluster)
    }

    fn works(&mut self, at: usize) {
        if let Some(server) = self.servers.get_mut(at) {
            server.avoided = None;
            server.pause = PAUSE;
        }
    }

    fn may_be_used(&self, server: &Server) -> bool {
        let cluster = server.cluster.as_ref();
        cluster.is_none_or(|cluster| self.accepts(cluster))
    }

    fn role(&self, server: &Server) -> Role {
        if self.may_be_used(server) {
            server.role
        } else {
            Role::WrongCluster
        }
    }

    /// The confirmed cluster. Before confirmation: the cluster of most addresses, or of the first
    /// address in a tie.
    fn ours(&self) -> Option<&Arc<str>> {
        let named = || {
            let servers = self.servers.iter();
            let clusters = servers.filter_map(|server| server.cluster.as_ref());
            clusters.filter(|cluster| self.accepts(cluster))
        };
        let addresses = |of: &Arc<str>| named().filter(|cluster| *cluster == of).count();
        let most = || named().rev().max_by_key(|cluster| addresses(cluster));
        self.cluster.as_ref().or_else(most)
    }

    fn is_ours(&self, at: usize) -> bool {
        let server = self.servers.get(at);
        server.is_some_and(|server| server.cluster.as_ref() == self.ours())
    }

    fn active(&self, tried: &[usize]) -> Option<usize> {
        let now = Instant::now();
        let mut servers = self.servers.iter().enumerate();
        let active = servers.find(|(at, server)| {
            let is_active = self.role(server) == Role::Active && self.is_ours(*at);
            is_active && !server.is_avoided(now) && !tried.contains(at)
        });
        active.map(|(at, _)| at)
    }

    /// The best untried address by role, pause and cluster.
    fn best(&self, tried: &[usize]) -> Option<usize> {
        self.best_of(tried, |_| true)
    }

    fn best_of(&self, tried: &[usize], wanted: impl Fn(&usize) -> bool) -> Option<usize> {
        let now = Instant::now();
        let servers = self.servers.iter().enumerate();
        let usable = servers.filter_map(|(at, server)| {
            let (unfit, rank) = match self.role(server) {
                Role::Active => (false, 0),
                Role::Standby => (false, 1),
                Role::Unknown => (false, 2),
                Role::Down => (true, 0),
                Role::Sealed => (true, 1),
                Role::WrongCluster => return None,
            };
            let avoided = server.is_avoided(now);
            let foreign = server.cluster.is_some() && !self.is_ours(at);
            let usable = !tried.contains(&at) && wanted(&at);
            usable.then_some((unfit, avoided, foreign, rank, at))
        });
        usable.min().map(|(.., at)| at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        connect::{Host, tls},
        endpoint::{Roots, ServerName},
        pool::MAX_AGE,
    };

    /// Three addresses of one cluster: active, standby, standby.
    fn cluster() -> Addresses {
        let key = rcgen::KeyPair::generate().unwrap();
        let ca = rcgen::CertificateParams::new(Vec::new()).unwrap();
        let ca = ca.self_signed(&key).unwrap().pem();
        let tls = tls(Roots::from_pem(ca.as_bytes()).unwrap(), None).unwrap();
        let targets = (1..=3).map(|port| {
            let address = Address::parse(&format!("https://127.0.0.1:{port}")).unwrap();
            let host = Host::new(&address, &ServerName::parse("bao").unwrap());
            let pool = Pool::new(host, tls.clone(), MAX_AGE);
            Target::new(address, pool)
        });
        let addresses = Addresses::new(targets.collect(), Arc::new(|_, _| {}));
        for (at, standby) in [(0, false), (1, true), (2, true)] {
            addresses.answered(at, health(standby));
        }
        addresses.confirm();
        addresses
    }

    fn health(standby: bool) -> Health {
        Health {
            initialized: true,
            sealed: false,
            standby,
            performance_standby: false,
            cluster_id: Some("ours".to_owned()),
        }
    }

    #[test]
    fn an_active_server_that_failed_a_request_is_avoided_though_it_looks_well() {
        let addresses = cluster();
        assert_eq!(addresses.active(&[]), Some(0));
        addresses.failed(0, FailureClass::Timeout);
        assert_eq!(addresses.known().best(&[]), Some(1));
        addresses.answered(0, health(false));
        assert_eq!(addresses.active(&[]), None);
        assert_eq!(addresses.known().best(&[]), Some(1));
        // An avoided server with a good health check is preferred to one with a failed check.
        addresses.unanswered(1, FailureClass::ConnectionFailed);
        addresses.unanswered(2, FailureClass::ConnectionFailed);
        assert_eq!(addresses.known().best(&[]), Some(0));
        addresses.succeeded(0, Operation::TransitDecrypt);
        assert_eq!(addresses.active(&[]), Some(0));
    }

    #[test]
    fn a_server_that_becomes_active_is_used_at_once() {
        let addresses = cluster();
        for at in [0, 1] {
            addresses.failed(at, FailureClass::Unavailable);
        }
        addresses.answered(1, health(false));
        assert_eq!(addresses.active(&[]), Some(1));
    }

    #[test]
    fn a_pause_doubles_with_each_failure_after_it_up_to_its_limit() {
        let addresses = cluster();
        let pause = || addresses.known().servers[0].pause;
        for expected in [500, 1000, 2000, 4000, 4000] {
            for _ in 0..48 {
                addresses.failed(0, FailureClass::Timeout);
            }
            assert_eq!(pause(), Duration::from_millis(expected));
            addresses.known().servers[0].avoided = Some(Instant::now());
        }
        addresses.succeeded(0, Operation::TransitDecrypt);
        assert_eq!(pause(), PAUSE);
    }
}
