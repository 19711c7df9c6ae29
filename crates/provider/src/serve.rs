//! The daemon: builds its parts in start order, runs them, and takes them down again.
//!
//! Order of a start: lock and state, health and metrics listeners, probes, and only then the
//! socket, so that an API server never meets a provider that cannot answer.

use std::{
    future::Future,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::StatusCode;
use kms_domain::{
    health::Health,
    limits::MAX_MESSAGE_BYTES,
    registry::{
        anchor::Anchor,
        rotation::{RotationRules, RotationState},
    },
};
use openbao_client::{
    client::Client,
    request::{Outcome, RequestEvent, RequestHook},
    transit::Transit,
};
use tokio::{
    sync::oneshot,
    task::{self, JoinSet},
    time::timeout,
};
use tonic::transport::Server;

use crate::{
    auth::{AuthAction, AuthEvent, AuthHook, Session},
    build_info::BuildInfo,
    clock::{Clock, SystemClock},
    config::{Config, GroupProblem, UnsupportedAuth},
    connection::{self, ConnectionError},
    kms::{
        Kms,
        generated::key_management_service_server::KeyManagementServiceServer,
        socket::{Socket, SocketError, SocketSettings},
    },
    state::{
        MissingCheckpoint, StateError, StateWriter,
        disk::{Disk, SystemDisk},
    },
    telemetry::{
        endpoints::{self, Answer, BindError, OPEN_METRICS},
        health,
        metrics::{Metrics, Readings},
    },
    view::{self, View, ViewReader},
    watcher::{BootstrapError, Pace, Parts, Watcher, ledger::Ledger},
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
        "the provider cannot start serving, so kube-apiserver cannot read or write encrypted objects through this node; no data is lost: do not delete anything from etcd"
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
    let metrics = Arc::new(Metrics::new(&BuildInfo::CURRENT, "jwt"));
    // Dropped on every way out, which ends what it runs.
    let mut tasks = JoinSet::new();
    let client = client(config, request_hook(&metrics)).await?;
    let (session, session_task) = connection::session(
        config,
        client.clone(),
        Arc::clone(&clock),
        auth_hook(&metrics),
    )?;
    tasks.spawn(session_task.run());
    let transit = Transit::new(client, &config.key, config.openbao.timeout);

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
    listen(config, &view, &session, &metrics, &stopping, &mut tasks).await?;

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

/// Logs and counts every login and renewal.
fn auth_hook(metrics: &Arc<Metrics>) -> AuthHook {
    let metrics = Arc::clone(metrics);
    Arc::new(move |event: &AuthEvent<'_>| {
        let status = event.outcome.label();
        let duration_ms = event.duration.as_secs_f64() * 1e3;
        match (event.action, event.failure.is_none()) {
            (AuthAction::Login, true) => tracing::info!(status, duration_ms, "auth.login"),
            (AuthAction::Login, false) => tracing::warn!(status, duration_ms, "auth.login"),
            (AuthAction::Renewal, true) => tracing::debug!(status, duration_ms, "auth.renewal"),
            (AuthAction::Renewal, false) => tracing::warn!(status, duration_ms, "auth.renewal"),
        }
        match event.action {
            AuthAction::Login => metrics.login(status),
            AuthAction::Renewal => metrics.renewal(status),
        }
    })
}

/// Logs and counts every request to OpenBao.
fn request_hook(metrics: &Arc<Metrics>) -> RequestHook {
    let metrics = Arc::clone(metrics);
    Arc::new(move |event: &RequestEvent| {
        let (operation, status) = (event.operation.label(), event.outcome.label());
        metrics.openbao_request(operation, status, event.duration);
        let duration_ms = event.duration.as_secs_f64() * 1e3;
        if event.outcome == Outcome::Ok {
            tracing::debug!(
                openbao_operation = operation,
                status,
                duration_ms,
                "openbao.request"
            );
        } else {
            tracing::warn!(
                openbao_operation = operation,
                status,
                duration_ms,
                "openbao.request"
            );
        }
    })
}

/// Opens the health and metrics listeners and answers on them.
async fn listen(
    config: &Config,
    view: &ViewReader,
    session: &Session,
    metrics: &Arc<Metrics>,
    stopping: &Arc<AtomicBool>,
    tasks: &mut JoinSet<()>,
) -> Result<(), BindError> {
    if let Some(at) = &config.server.health {
        let listener = endpoints::bind("server.healthAddress", at.bind_to()).await?;
        let address = endpoints::local_address(&listener).map(tracing::field::display);
        tracing::info!(address, "health.listening");
        let (view, stopping) = (view.clone(), Arc::clone(stopping));
        tasks.spawn(endpoints::serve(listener, move |path| {
            health::answer(path, &view, stopping.load(Ordering::Relaxed))
        }));
    }
    if let Some(at) = &config.server.metrics {
        let listener = endpoints::bind("server.metricsAddress", at.bind_to()).await?;
        let address = endpoints::local_address(&listener).map(tracing::field::display);
        tracing::info!(address, "metrics.listening");
        let (view, session, metrics) = (view.clone(), session.clone(), Arc::clone(metrics));
        tasks.spawn(endpoints::serve(listener, move |path| {
            (path == "/metrics").then(|| Answer {
                status: StatusCode::OK,
                content_type: OPEN_METRICS,
                body: metrics.render(&readings(&view, &session, &SystemClock)),
            })
        }));
    }
    Ok(())
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

fn readings(view: &ViewReader, session: &Session, clock: &dyn Clock) -> Readings {
    let snapshot = view.snapshot();
    let auth = session.status();
    let active = snapshot.view.registry.as_ref().map(|registry| {
        let key = registry.active();
        (key.id_hash().to_string(), key.version().get())
    });
    let jwt_ttl = auth
        .credential_expires
        .and_then(|at| at.duration_since(clock.now()).ok());
    Readings {
        token_ttl: auth.token_remaining.unwrap_or_default(),
        jwt_ttl: jwt_ttl.unwrap_or_default(),
        active,
        status_age: snapshot.age,
        ready: matches!(snapshot.health, Health::Healthy(_)),
        rotation_state: RotationState::of(snapshot.view.registry.as_deref()).as_str(),
        persistence_degraded: snapshot.view.persistence_degraded,
        breaker_open: snapshot.view.breaker_open,
    }
}
