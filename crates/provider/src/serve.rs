//! The daemon: builds its parts in start order, runs them, and takes them down again.
//!
//! Order of a start: lock and state, health and metrics listeners, probes, and only then the
//! socket, so that an API server never meets a provider that cannot answer.

use std::{
    future::Future,
    path::PathBuf,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::StatusCode;
use kms_domain::{
    limits::MAX_MESSAGE_BYTES,
    registry::{anchor::Anchor, rotation::RotationRules},
};
use openbao_client::{client::Client, request::RequestHook, transit::Transit};
use tokio::{
    sync::oneshot,
    task::{self, JoinSet},
    time::timeout,
};
use tonic::transport::Server;

use crate::{
    auth::Session,
    build_info::BuildInfo,
    clock::{Clock, SystemClock},
    config::{Config, GroupProblem, UnsupportedAuth},
    connection::{self, ConnectionError},
    hardening::files::{FilesView, follow as follow_files},
    kms::{
        Kms,
        generated::key_management_service_server::KeyManagementServiceServer,
        socket::{Socket, SocketError, SocketSettings, mark},
    },
    state::{
        MissingCheckpoint, StateError, StateWriter,
        disk::{Disk, SystemDisk},
    },
    telemetry::{
        correlation::Correlation,
        endpoints::{self, Answer, BindError, OPEN_METRICS},
        health, hooks,
        jwt_life::{JwtLife, follow},
        metrics::Metrics,
        readings::Readings,
    },
    view::{self, View, ViewReader},
    watcher::{BootstrapError, Pace, Parts, Watcher, calls::CallOutcomes, ledger::Ledger},
};

/// How long calls under way may take to finish once a stop is asked for.
const DRAIN: Duration = Duration::from_secs(15);

/// Calls at once on one connection; the limits of the service are lower.
const MAX_STREAMS: u32 = 1024;
/// kube-apiserver sends some hundred bytes.
const MAX_HEADER_BYTES: u32 = 16 * 1024;
/// Finds clients that vanished without closing.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// Why the daemon ends without being asked to.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The registry state cannot be used.
    #[error("the registry state cannot be used")]
    State(#[from] StateError),
    /// The build has no such login.
    #[error(transparent)]
    UnsupportedAuth(#[from] UnsupportedAuth),
    /// The socket's group is not known.
    #[error("server.socketGroup cannot be used")]
    Group(#[from] GroupProblem),
    /// The settings do not make a client.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    /// A listener could not be opened.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// OpenBao, or the key in it, cannot be used.
    #[error(
        "the provider cannot start serving, so kube-apiserver cannot read or write encrypted objects through this node; no data was changed: do not delete anything from etcd"
    )]
    Bootstrap(#[from] BootstrapError),
    /// The socket could not be bound.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The gRPC server ended by itself.
    #[error("the KMS server failed")]
    Server(#[from] tonic::transport::Error),
    /// A part of the daemon ended by itself.
    #[error("the {0} ended unexpectedly")]
    Ended(&'static str),
}

impl ServeError {
    /// The bounded word for the log.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::State(_) => "state_unavailable",
            Self::UnsupportedAuth(_) | Self::Group(_) | Self::Connection(_) => "configuration",
            Self::Bind(_) => "listener",
            Self::Bootstrap(failure) => failure.reason().code(),
            Self::Socket(_) => "socket",
            Self::Server(_) | Self::Ended(_) => "part_ended",
        }
    }
}

/// Serves until `stop` completes. `ready` is called once, when the socket accepts calls.
///
/// The process must run with a umask of 077. The state lock is held until this returns.
///
/// # Errors
/// [`ServeError`]; nothing that the provider owns is left half done.
pub async fn serve(
    config: &Config,
    missing_checkpoint: MissingCheckpoint,
    ready: impl FnOnce(),
    stop: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    serve_on(
        Box::new(SystemDisk),
        config,
        missing_checkpoint,
        ready,
        stop,
    )
    .await
}

/// Like [`serve`], with the state on a disk that may fail.
///
/// # Errors
/// As there.
pub async fn serve_on(
    disk: Box<dyn Disk>,
    config: &Config,
    missing_checkpoint: MissingCheckpoint,
    ready: impl FnOnce(),
    stop: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let state = open_state(disk, config, missing_checkpoint).await?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let metrics = Arc::new(Metrics::new(&BuildInfo::CURRENT, config));
    let correlation = config.logging.debug_correlation.as_ref();
    let correlation = Arc::new(Correlation::begin(correlation, &*clock));
    // Dropped on every way out, which ends what it runs.
    let mut tasks = JoinSet::new();
    let calls = Arc::new(CallOutcomes::default());
    let hook = calls.observed(hooks::request_hook(&metrics, &correlation));
    let client = client(config, hook).await?;
    let (session, session_task) = connection::session(
        config,
        client.clone(),
        Arc::clone(&clock),
        hooks::auth_hook(&metrics),
    )?;
    tasks.spawn(session_task.run());
    let (jwt, file) = config.auth.jwt_file()?;
    let rules = jwt.claims.clone();
    let (jwt_life, following) = follow(file.to_owned(), rules, config.status.probe_interval);
    tasks.spawn(following);
    let (files, following) = follow_files(config, Arc::clone(&clock), config.status.probe_interval);
    tasks.spawn(following);
    let transit = Transit::new(client, &config.key, config.openbao.timeout);

    if let Some(document) = state.committed() {
        metrics.state_loaded(document.generation());
    }
    let loaded = View::loaded(
        state
            .committed()
            .map(|document| Arc::clone(document.registry())),
    );
    let (publish, view) = view::publish(
        loaded.clone(),
        Arc::clone(&clock),
        config.status.max_staleness,
    );
    let stopping = Arc::new(AtomicBool::new(false));
    let gauges = Gauges {
        view: view.clone(),
        session: session.clone(),
        jwt_life,
        files,
        metrics: Arc::clone(&metrics),
        socket: config.server.socket_path.clone(),
    };
    listen(config, &stopping, gauges, &mut tasks).await?;

    let ledger = Ledger::new(state);
    let settled = ledger.settled();
    let parts = Parts {
        session: session.clone(),
        transit: transit.clone(),
        scope: config.scope.clone(),
        path: config.key.clone(),
        ledger,
        clock,
        metrics: Arc::clone(&metrics),
        calls,
    };
    let (mut watcher, discovery) = Watcher::new(parts, pace(config), loaded, publish);
    let mut stop = pin!(stop);
    tokio::select! {
        started = watcher.bootstrap(
            config.bootstrap.grace_timeout,
            config.bootstrap.retry_interval,
        ) => started?,
        () = &mut stop => {
            settled.await;
            return Ok(());
        }
    }

    let socket = Socket::bind(&SocketSettings {
        path: config.server.socket_path.clone(),
        mode: config.server.socket_mode.bits(),
        gid: config.server.socket_group.gid()?,
    })
    .await?;
    if socket.reclaimed() {
        metrics.socket_restart();
        tracing::warn!("socket.stale_removed");
    }
    let kms = Kms::new(
        view,
        discovery,
        transit,
        session,
        metrics,
        correlation,
        BuildInfo::CURRENT.plugin_version(),
        config.openbao.timeout,
        config.server.limits,
    );
    // Holds the state lock, which is released last.
    let watching = pin!(watcher.run());
    tracing::info!("serve.ready");
    ready();
    let stop = async {
        stop.await;
        stopping.store(true, Ordering::Relaxed);
    };
    let ended = run(socket, kms, watching, stop).await;
    settled.await;
    drop(tasks);
    ended
}

fn pace(config: &Config) -> Pace {
    Pace {
        metadata: config.status.probe_interval,
        deep: config.status.deep_probe_interval,
        activation_delay: config.rotation.activation_delay,
        discovery_limit: config.openbao.timeout,
        rules: RotationRules {
            required_observations: config.rotation.required_observations,
            reject_version_rollback: config.rotation.reject_version_rollback,
        },
    }
}

/// Takes the lock and accepts the state, on a thread that may block.
async fn open_state(
    disk: Box<dyn Disk>,
    config: &Config,
    missing: MissingCheckpoint,
) -> Result<StateWriter, ServeError> {
    let reader = config.state();
    let opening = task::spawn_blocking(move || reader.lock()?.start_writing_on(disk, missing));
    let state = opening
        .await
        .map_err(|_| ServeError::Ended("state store"))??;
    match state.found() {
        Anchor::Absent | Anchor::Current => {}
        Anchor::Behind => tracing::warn!(reason = "behind", "state.checkpoint_rewritten"),
        Anchor::Missing { .. } => tracing::warn!(reason = "missing", "state.checkpoint_rewritten"),
    }
    Ok(state)
}

async fn client(config: &Config, hook: RequestHook) -> Result<Client, ServeError> {
    let config = config.clone();
    let endpoint = task::spawn_blocking(move || connection::endpoint(&config))
        .await
        .map_err(|_| ServeError::Ended("reading of the CA bundle"))??;
    Ok(Client::new(endpoint, hook).map_err(ConnectionError::Client)?)
}

/// Opens the health and metrics listeners and answers on them.
async fn listen(
    config: &Config,
    stopping: &Arc<AtomicBool>,
    gauges: Gauges,
    tasks: &mut JoinSet<()>,
) -> Result<(), BindError> {
    if let Some(at) = &config.server.health {
        let listener = endpoints::bind("server.healthAddress", at.bind_to()).await?;
        let address = endpoints::local_address(&listener).map(tracing::field::display);
        tracing::info!(address, "health.listening");
        let (view, stopping) = (gauges.view.clone(), Arc::clone(stopping));
        tasks.spawn(endpoints::serve(listener, move |path| {
            health::answer(path, &view, stopping.load(Ordering::Relaxed))
        }));
    }
    if let Some(at) = &config.server.metrics {
        let listener = endpoints::bind("server.metricsAddress", at.bind_to()).await?;
        let address = endpoints::local_address(&listener).map(tracing::field::display);
        tracing::info!(address, "metrics.listening");
        tasks.spawn(endpoints::serve(listener, move |path| {
            (path == "/metrics").then(|| gauges.answer())
        }));
    }
    Ok(())
}

/// Where a scrape finds what is not counted.
struct Gauges {
    view: ViewReader,
    session: Session,
    jwt_life: JwtLife,
    files: FilesView,
    metrics: Arc<Metrics>,
    socket: PathBuf,
}

impl Gauges {
    fn answer(&self) -> Answer {
        let readings = Readings {
            snapshot: self.view.snapshot(),
            token_ttl: self.session.status().token_remaining.unwrap_or_default(),
            jwt_ttl: self.jwt_life.remaining(),
            // This build has no login with a certificate.
            certificate_ttl: Duration::ZERO,
            socket: mark(&self.socket),
            files: self.files.latest(),
        };
        Answer {
            status: StatusCode::OK,
            content_type: OPEN_METRICS,
            body: self.metrics.render(readings),
        }
    }
}

/// Serves the socket until `stop`, then lets calls under way finish.
async fn run(
    socket: Socket,
    kms: Kms,
    watching: Pin<&mut impl Future<Output = ()>>,
    stop: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let service = KeyManagementServiceServer::new(kms)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let (drain, drained) = oneshot::channel::<()>();
    let mut serving = pin!(
        Server::builder()
            .max_concurrent_streams(MAX_STREAMS)
            .http2_max_header_list_size(MAX_HEADER_BYTES)
            .http2_keepalive_interval(Some(KEEPALIVE))
            .serve_with_incoming_shutdown(service, socket.incoming(), async {
                // The sender's end counts as well: either way it is time to stop.
                drop(drained.await);
            })
    );
    tokio::select! {
        ended = &mut serving => {
            ended?;
            return Err(ServeError::Ended("KMS server"));
        }
        () = watching => return Err(ServeError::Ended("prober")),
        () = stop => {}
    }
    drop(drain);
    match timeout(DRAIN, serving).await {
        Ok(ended) => Ok(ended?),
        Err(_cut) => Ok(()),
    }
}
