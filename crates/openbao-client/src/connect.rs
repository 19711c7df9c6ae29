//! TLS connections to the one endpoint, with errors that keep their type.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::Uri;
use http_body_util::Full;
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, MaybeHttpsStream};
use hyper_util::{
    client::legacy::{
        Client,
        connect::{
            HttpConnector,
            dns::{GaiAddrs, GaiResolver, Name},
        },
    },
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use rustls::{ClientConfig, crypto::aws_lc_rs};
use tokio::net::TcpStream;
use tower_service::Service;

use crate::endpoint::{Roots, ServerName};

/// Name lookup, TCP and TLS together. A request has its own, usually shorter deadline; this one
/// ends attempts which the pool goes on with after their request found another connection.
const SETUP_TIMEOUT: Duration = Duration::from_secs(10);
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);
/// In use and idle together, but for those that are being opened or closed. Each costs a handshake
/// and some 60 KiB; more of them make OpenBao hardly faster.
pub(crate) const CONNECTIONS: usize = 16;
const TCP_KEEPALIVE: Duration = Duration::from_secs(30);

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type Pending<T, E> = Pin<Box<dyn Future<Output = Result<T, E>> + Send>>;

pub(crate) type Pool = Client<Connector, Full<Bytes>>;

/// A pool of HTTP/1.1 connections; none is opened yet.
///
/// A request that finds its kept connection closed before a byte of it was written goes out on a
/// fresh one. That is the only repetition: no request reaches the server twice.
pub(crate) fn pool(roots: Roots, server_name: &ServerName) -> Result<Pool, rustls::Error> {
    let tls = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_root_certificates(roots.into_store())
        .with_no_client_auth();
    let mut tcp = HttpConnector::new_with_resolver(Resolver(GaiResolver::new()));
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_keepalive(Some(TCP_KEEPALIVE));
    let https = hyper_rustls::HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_only()
        .with_server_name_resolver(FixedServerNameResolver::new(server_name.to_rustls()))
        .enable_http1()
        .wrap_connector(tcp);
    Ok(Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE_TIMEOUT)
        .pool_max_idle_per_host(CONNECTIONS)
        .build(Connector(https)))
}

/// Opens a connection within [`SETUP_TIMEOUT`].
#[derive(Clone)]
pub(crate) struct Connector(HttpsConnector<HttpConnector<Resolver>>);

impl Service<Uri> for Connector {
    type Response = MaybeHttpsStream<TokioIo<TcpStream>>;
    type Error = BoxError;
    type Future = Pending<Self::Response, Self::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connecting = self.0.call(uri);
        Box::pin(async move {
            match tokio::time::timeout(SETUP_TIMEOUT, connecting).await {
                Ok(connected) => connected,
                Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
            }
        })
    }
}

/// The system's resolver, asked on a blocking thread.
#[derive(Clone)]
pub(crate) struct Resolver(GaiResolver);

/// Name lookup failed; hyper-util's own error does not say so by type.
#[derive(Debug, thiserror::Error)]
#[error("name lookup failed")]
pub(crate) struct LookupFailed(#[source] io::Error);

impl Service<Name> for Resolver {
    type Response = GaiAddrs;
    type Error = LookupFailed;
    type Future = Pending<Self::Response, Self::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx).map_err(LookupFailed)
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let lookup = self.0.call(name);
        Box::pin(async move { lookup.await.map_err(LookupFailed) })
    }
}
