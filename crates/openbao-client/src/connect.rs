//! New TLS connections to one host: name lookup, TCP, handshake. Errors keep their type.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rustix::net::sockopt;
use rustls::{
    ClientConfig,
    crypto::aws_lc_rs,
    pki_types,
    sign::{CertifiedKey, SingleCertAndKey},
};
use tokio::{
    net::{TcpStream, lookup_host},
    runtime::Handle,
    sync::watch,
    task::spawn_blocking,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::endpoint::{Address, Roots, ServerName};

/// Limit for TCP and TLS setup with one peer. A request has its own, usually shorter deadline.
const SETUP_TIMEOUT: Duration = Duration::from_secs(3);
/// TCP user timeout: the connection fails if sent bytes stay unacknowledged for longer. It is the
/// longest useful `openbao.timeout` within the 3 s of kube-apiserver.
const UNACKNOWLEDGED: Duration = Duration::from_secs(3);
/// Idle time before the first keepalive probe.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(5);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
const KEEPALIVE_COUNT: u32 = 3;

pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// TLS settings with these roots only. A server that asks for a client certificate gets
/// `certificate`.
pub(crate) fn tls(
    roots: Roots,
    certificate: Option<&CertifiedKey>,
) -> Result<TlsConnector, rustls::Error> {
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_root_certificates(roots.into_store());
    let config = match certificate {
        None => builder.with_no_client_auth(),
        Some(key) => {
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key.clone())))
        }
    };
    Ok(Arc::new(config).into())
}

/// The name lookup failed or returned no address.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("name lookup failed")]
pub(crate) struct LookupFailed;

type Found = Result<Vec<SocketAddr>, LookupFailed>;

/// One host, by address or by name.
pub(crate) struct Host {
    ip: Option<IpAddr>,
    name: String,
    port: u16,
    server_name: pki_types::ServerName<'static>,
    /// The current lookup.
    lookup: Mutex<Option<watch::Receiver<Option<Found>>>>,
}

impl Host {
    pub(crate) fn new(address: &Address, server_name: &ServerName) -> Self {
        Self {
            ip: address.ip(),
            name: address.host().to_owned(),
            port: address.port(),
            server_name: server_name.to_rustls(),
            lookup: Mutex::default(),
        }
    }

    /// Looks up all addresses of the host; at least one. Concurrent requests share one lookup, so
    /// that a hanging resolver blocks one thread.
    pub(crate) async fn peers(&self) -> Found {
        if let Some(ip) = self.ip {
            return Ok(vec![SocketAddr::new(ip, self.port)]);
        }
        let mut lookup = self.lookup();
        match lookup.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(found)) => found.clone(),
            Ok(None) | Err(_) => Err(LookupFailed),
        }
    }

    fn lookup(&self) -> watch::Receiver<Option<Found>> {
        let mut slot = self.lookup.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lookup) = &*slot
            && lookup.borrow().is_none()
            && lookup.has_changed().is_ok()
        {
            return lookup.clone();
        }
        let (found, lookup) = watch::channel(None);
        let (name, port) = (self.name.clone(), self.port);
        tokio::spawn(async move {
            let peers = lookup_host((name, port)).await;
            let peers: Vec<_> = peers.map(Iterator::collect).unwrap_or_default();
            found.send_replace(Some(if peers.is_empty() {
                Err(LookupFailed)
            } else {
                Ok(peers)
            }));
        });
        *slot = Some(lookup.clone());
        lookup
    }

    /// Opens a TLS connection to one peer of this host.
    pub(crate) async fn connect(
        &self,
        peer: SocketAddr,
        tls: TlsConnector,
    ) -> Result<TlsStream<TcpStream>, io::Error> {
        let connecting = async {
            let tcp = TcpStream::connect(peer).await?;
            watch_over(&tcp)?;
            let server_name = self.server_name.clone();
            if !tls.config().client_auth_cert_resolver.has_certs() {
                return tls.connect(server_name, tcp).await;
            }
            // The signature may come from a slow token, and rustls waits for it within a poll.
            let runtime = Handle::current();
            let handshake = move || runtime.block_on(tls.connect(server_name, tcp));
            spawn_blocking(handshake).await.map_err(io::Error::other)?
        };
        timeout(SETUP_TIMEOUT, connecting)
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}

/// Configures the kernel to detect a peer that vanished without a FIN.
fn watch_over(tcp: &TcpStream) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    let unacknowledged = u32::try_from(UNACKNOWLEDGED.as_millis()).unwrap_or(u32::MAX);
    sockopt::set_tcp_user_timeout(tcp, unacknowledged)?;
    sockopt::set_socket_keepalive(tcp, true)?;
    sockopt::set_tcp_keepidle(tcp, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(tcp, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(tcp, KEEPALIVE_COUNT)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn the_kernel_looks_for_a_peer_that_vanished() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let tcp = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        watch_over(&tcp).unwrap();
        assert_eq!(sockopt::tcp_user_timeout(&tcp).unwrap(), 3000);
        assert!(sockopt::socket_keepalive(&tcp).unwrap());
        assert_eq!(sockopt::tcp_keepidle(&tcp).unwrap(), KEEPALIVE_IDLE);
        assert_eq!(sockopt::tcp_keepintvl(&tcp).unwrap(), KEEPALIVE_INTERVAL);
        assert_eq!(sockopt::tcp_keepcnt(&tcp).unwrap(), KEEPALIVE_COUNT);
    }

    #[tokio::test]
    async fn requests_at_the_same_time_share_a_lookup_and_later_ones_look_again() {
        let address = Address::parse("https://localhost:8200").unwrap();
        let host = Host::new(&address, &ServerName::parse("localhost").unwrap());
        let (first, second) = (host.lookup(), host.lookup());
        assert!(first.same_channel(&second));
        assert!(
            host.peers()
                .await
                .unwrap()
                .iter()
                .all(|peer| peer.port() == 8200)
        );
        assert!(!host.lookup().same_channel(&first));
    }
}
