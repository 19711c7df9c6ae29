//! The KMS server: accepts connections, receives requests within limits of time and memory, and
//! drains calls in progress at a stop.

use std::{convert::Infallible, future::pending, pin::pin, time::Duration};

use http::{Request, Response};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use kms_domain::limits::MAX_MESSAGE_BYTES;
use kms_node::{
    config::Limits,
    kms_api::{Method, generated::key_management_service_server::KeyManagementService},
};
use tokio::{
    net::UnixStream,
    sync::watch,
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tonic::Status;

use super::{
    clients::{Client, Clients, SocketFault, TAKE},
    fault::Fault,
    receive::{self, Held},
    socket::{Connection, Socket, SocketError, SocketSettings},
};
use crate::telemetry::{accept::AcceptFailures, eviction::Eviction, metrics::Metrics};

/// Time limit for calls in progress after a stop.
const DRAIN: Duration = Duration::from_secs(15);
/// Time for an evicted connection without calls: for a call already sent, and for its answer to
/// `GOAWAY`.
const LINGER: Duration = Duration::from_millis(250);
/// The same at a stop, when a busy machine is slow to answer. A call that meets a closed connection
/// fails.
const LINGER_AT_STOP: Duration = Duration::from_secs(3);
/// Time limit for the HTTP/2 preface.
const PREFACE: Duration = Duration::from_secs(3);
/// kube-apiserver sends some hundred bytes.
const MAX_HEADER_BYTES: u32 = 16 * 1024;
/// Detects clients that vanished without closing.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// Pause after a failed accept, for example without free descriptors, to avoid a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Interval between searches for an evictable connection while all are in use.
const ROOM_INTERVAL: Duration = Duration::from_millis(50);
/// Interval between checks of the socket file.
const FILE_INTERVAL: Duration = Duration::from_secs(2);

/// The KMS v2 API behind a socket.
pub trait Service: KeyManagementService + Clone {
    /// Name of its listener in the log.
    const LISTENER: &str;

    /// Records a call whose request was not received, and returns its response.
    fn refuse(&self, method: Method, fault: Fault) -> Status;
}

/// Serves one socket.
pub struct Server<'a, K> {
    pub kms: K,
    /// Limits the connections.
    pub clients: Clients,
    /// Limits the calls of one connection.
    pub limits: Limits,
    pub metrics: &'a Metrics,
}

impl<K: Service> Server<'_, K> {
    /// Binds a socket that the provider can do without. `None` after a failure, which is recorded.
    pub async fn bind(&self, settings: &SocketSettings) -> Option<Socket> {
        match Socket::bind(settings).await {
            Ok(socket) => {
                if self.clients.status().fault.is_some() {
                    tracing::info!(listener = K::LISTENER, "socket.restored");
                    self.clients.set_socket_fault(None);
                }
                Some(socket)
            }
            Err(error) => {
                let lost = self.bind_failed(&error);
                self.clients.set_socket_fault(Some(lost));
                None
            }
        }
    }

    /// [`Server::run`], after a failed bind once a later one succeeds.
    pub async fn run_once_bound(
        self,
        bound: Option<Socket>,
        settings: &SocketSettings,
        stop: impl Future<Output = ()>,
    ) {
        let mut stop = pin!(stop);
        let binding = async {
            let mut bound = bound;
            loop {
                match bound {
                    Some(socket) => return socket,
                    None => sleep(FILE_INTERVAL).await,
                }
                bound = self.bind(settings).await;
            }
        };
        let socket = tokio::select! {
            socket = binding => socket,
            () = &mut stop => return,
        };
        self.run(socket, stop).await;
    }

    /// Serves until `stop`, then until all calls have ended, for 15 s at most. The socket file
    /// stays until then.
    pub async fn run(self, mut socket: Socket, stop: impl Future<Output = ()>) {
        let (drain, draining) = watch::channel(false);
        let mut connections = JoinSet::new();
        tokio::select! {
            never = self.accept(&mut socket, &mut connections, &draining) => match never {},
            () = stop => {}
        }

        drain.send_replace(true);
        let ended = async { while connections.join_next().await.is_some() {} };
        // Calls still in progress are aborted.
        timeout(DRAIN, ended).await.ok();
    }

    async fn accept(
        &self,
        socket: &mut Socket,
        connections: &mut JoinSet<()>,
        draining: &watch::Receiver<bool>,
    ) -> Infallible {
        let mut failures = AcceptFailures::of(K::LISTENER);
        let mut look = interval(FILE_INTERVAL);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let http = builder(self.limits);

        loop {
            tokio::select! {
                accepted = socket.accept() => match accepted {
                    Ok(stream) => {
                        while !self.clients.has_room() {
                            timeout(ROOM_INTERVAL, self.clients.left()).await.ok();
                        }
                        let client = self.clients.enter();
                        let serving = self.serve(http.clone(), stream, client, draining.clone());
                        connections.spawn(serving);
                    }
                    Err(error) => {
                        let failure = failures.note(&error);
                        self.clients.accept_failed(failure);
                        self.metrics.accept_failed(failure);
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
                Some(_) = connections.join_next() => {}
                _ = look.tick() => self.keep_file(socket).await,
            }
        }
    }

    /// Binds the socket again if its path leads elsewhere; reports a socket of systemd, which only
    /// systemd can bind, and a changed mode or group.
    async fn keep_file(&self, socket: &mut Socket) {
        let former = self.clients.status().fault.map(|(fault, _)| fault);
        let fault = if socket.is_in_place() {
            Self::drifted(socket, former)
        } else if socket.is_activated() {
            let missing = SocketFault::Lost("missing");
            if former != Some(missing) {
                tracing::error!("socket.missing");
            }
            Some(missing)
        } else {
            match socket.bind_again().await {
                Ok(()) => {
                    self.metrics.socket_restart();
                    tracing::warn!(listener = K::LISTENER, "socket.rebound");
                    None
                }
                Err(error) => Some(self.bind_failed(&error)),
            }
        };
        if fault.is_none() && former.is_some() {
            tracing::info!(listener = K::LISTENER, "socket.restored");
        }
        self.clients.set_socket_fault(fault);
    }

    /// The fault after a failed bind, with a log line for each new reason.
    fn bind_failed(&self, error: &SocketError) -> SocketFault {
        let reason = error.reason();
        let lost = SocketFault::Lost(reason);
        let former = self.clients.status().fault.map(|(fault, _)| fault);
        if former != Some(lost) {
            tracing::error!(listener = K::LISTENER, reason, "socket.rebind_failed");
        }
        lost
    }

    /// The first difference of the socket in place from the configuration.
    fn drifted(socket: &Socket, former: Option<SocketFault>) -> Option<SocketFault> {
        let drift = socket.drift();
        let reason = drift.first()?.as_str();
        let fault = Some(SocketFault::Drifted(reason));
        if former != fault {
            tracing::warn!(listener = K::LISTENER, reason, "socket.drifted");
        }
        fault
    }

    /// Serves one connection to its end.
    fn serve(
        &self,
        http: http2::Builder<TokioExecutor>,
        stream: UnixStream,
        client: Client,
        mut draining: watch::Receiver<bool>,
    ) -> impl Future<Output = ()> + Send + use<K> {
        let (kms, evictions) = (self.kms.clone(), self.metrics.evictions());
        async move {
            let calls = client.clone();
            let service = service_fn(move |request: Request<Incoming>| {
                let (kms, client) = (kms.clone(), calls.clone());
                async move {
                    let answer: Response<Held> = receive::answer(request, &kms, &client).await;
                    Ok::<_, Infallible>(answer)
                }
            });

            let io = TokioIo::new(Connection::new(stream, client.clone()));
            let mut connection = std::pin::pin!(http.serve_connection(io, service));

            let preface = async {
                sleep(PREFACE).await;
                if client.has_preface() {
                    pending::<()>().await;
                }
            };

            let evicted = tokio::select! {
                // The client has closed the connection, gracefully or by error.
                _ = connection.as_mut() => return,
                evicted = client.evicted() => Some(evicted),
                () = preface => {
                    client.evict(Eviction::Preface);
                    Some(Eviction::Preface)
                }
                () = async { drop(draining.wait_for(|draining| *draining).await) } => None,
            };

            if let Some(reason) = evicted {
                evictions.count(reason);
                if reason != Eviction::Full || !client.is_used() {
                    return;
                }
            }
            // The response of an evicted connection is already overdue.
            let take = if evicted.is_some() { LINGER } else { TAKE };
            let linger = match client.has_preface() && evicted.is_none() {
                true => LINGER_AT_STOP,
                false => LINGER,
            };
            connection.as_mut().graceful_shutdown();

            let idle = async {
                client.idle().await;
                timeout(take, client.taken()).await.ok();
                sleep(linger).await;
                client.idle().await;
            };
            tokio::select! {
                _ = connection => {}
                () = idle => {}
            }
        }
    }
}

/// HTTP/2 with stream windows for a message of the maximum size. The stream limit of a connection
/// is twice the limit of calls, with room for calls that are refused or wait for a discovery.
fn builder(limits: Limits) -> http2::Builder<TokioExecutor> {
    const STREAM_WINDOW: usize = MAX_MESSAGE_BYTES + receive::FRAMING_BYTES;
    let streams = 2 * (limits.status + limits.encrypt + limits.decrypt);
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(u32::try_from(streams).unwrap_or(u32::MAX))
        .initial_stream_window_size(u32::try_from(STREAM_WINDOW).ok())
        .initial_connection_window_size(u32::try_from(4 * STREAM_WINDOW).ok())
        .max_header_list_size(MAX_HEADER_BYTES)
        .keep_alive_interval(KEEPALIVE);
    builder
}
