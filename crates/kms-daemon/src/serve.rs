//! The daemon: creates its parts in start order, runs them, and stops them.
//!
//! Start order: lock and state, health and metrics listeners, probes, and finally the socket. An
//! API server can therefore connect only to a provider that is ready to answer. A socket passed by
//! systemd exists earlier: its connections wait in the queue.

use std::{
    future::Future,
    os::unix::net::UnixListener,
    path::PathBuf,
    pin::pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::StatusCode;
use kms_domain::registry::{checkpoint::CheckpointStatus, rotation::RotationRules};
use kms_node::{
    auth::Session,
    build_info::BuildInfo,
    clock::{Clock, SystemClock},
    config::{Config, GroupProblem, UnsupportedAuth},
    connection::{self, ConnectionError, Process},
    hardening::files::{FilesView, follow as follow_files},
    node_files::socket_mark,
    state::{
        MissingCheckpoint, StateError, StateWriter,
        disk::{Disk, SystemDisk},
    },
    why::is_asked,
};
use openbao_client::{event::RequestHook, login::fallback::Identity, transit::Transit};
use tokio::{
    sync::oneshot,
    task,
    time::{Instant, timeout},
};

use crate::{
    descriptors::Connections,
    kms::{
        Kms,
        clients::Clients,
        legacy::LegacyReader,
        panic::caught,
        server::Server,
        socket::{Socket, SocketError, SocketSettings},
    },
    supervisor::{PartEnded, Supervisor, watch},
    telemetry::{
        correlation::Correlation,
        credential_life::{CredentialLife, follow},
        endpoints::{
            self, Answer, Asked, BindError, OPEN_METRICS, TEXT_FORMAT, prefers_open_metrics,
        },
        health::{self, Now},
        hooks, log,
        metrics::{Metrics, text_format},
        readings::Readings,
    },
    trust::{Followed, followed},
    view::{self, View, ViewReader},
    watcher::{
        BootstrapError, Pace, Parts, Watcher, calls::CallOutcomes, committer::StateCommitter,
    },
};

mod why;

use why::Sources;

/// Time limit at a stop for a thread that still writes the state. A commit is a chain of renames,
/// so the next start completes or ignores an interrupted one.
const SETTLE: Duration = Duration::from_secs(5);

/// Why the daemon ends without a stop signal.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The registry state is unusable.
    #[error("the registry state cannot be used")]
    State(#[from] StateError),
    #[error(transparent)]
    UnsupportedAuth(#[from] UnsupportedAuth),
    /// The socket's group is unknown.
    #[error("server.socketGroup cannot be used")]
    Group(#[from] GroupProblem),
    /// The settings are invalid for a client.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    /// A listener could not be opened.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// OpenBao or the key in it is unusable.
    #[error(
        "the provider does not start, so kube-apiserver cannot read or write encrypted objects through \
         this node; no data was changed"
    )]
    Bootstrap(#[from] BootstrapError),
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// A part of the daemon ended unexpectedly.
    #[error(transparent)]
    Ended(#[from] PartEnded),
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
            Self::Ended(_) => "part_ended",
        }
    }

    /// The ended part, for the log.
    #[must_use]
    pub fn part(&self) -> Option<&'static str> {
        match self {
            Self::Ended(ended) => Some(ended.part),
            _ => None,
        }
    }
}

/// Serves until `stop` completes. `ready` is called once, when the socket accepts calls.
///
/// `passed` is the socket of a service manager; without one, the provider binds its own. The
/// process must run with umask 077. The state lock is held until this function returns.
///
/// # Errors
/// [`ServeError`]; the provider's own files are then consistent.
pub async fn serve(
    config: &Config,
    missing_checkpoint: MissingCheckpoint,
    passed: Option<UnixListener>,
    ready: impl FnOnce(),
    stop: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    serve_on(
        Box::new(SystemDisk),
        config,
        missing_checkpoint,
        passed,
        ready,
        stop,
    )
    .await
}

/// Like [`serve`], with the state on the given disk implementation.
///
/// # Errors
/// As for [`serve`].
pub async fn serve_on(
    disk: Box<dyn Disk>,
    config: &Config,
    missing_checkpoint: MissingCheckpoint,
    passed: Option<UnixListener>,
    ready: impl FnOnce(),
    stop: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    // On the heap: moved from frame to frame, its many parts would double on the stack.
    let serving = Box::pin(start_and_run(
        disk,
        config,
        missing_checkpoint,
        passed,
        ready,
        stop,
    ));
    match caught(serving).await {
        Ok(ended) => ended,
        Err(_kind) => Err(panicked("serving thread")),
    }
}

async fn start_and_run(
    disk: Box<dyn Disk>,
    config: &Config,
    missing_checkpoint: MissingCheckpoint,
    passed: Option<UnixListener>,
    ready: impl FnOnce(),
    stop: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let stopping = Arc::new(AtomicBool::new(false));
    let mut stop = pin!(async {
        stop.await;
        stopping.store(true, Ordering::Relaxed);
    });
    let settings = SocketSettings {
        path: config.server.socket_path.clone(),
        mode: config.server.socket_mode.bits(),
        gid: config.server.socket_group.gid()?,
    };

    let passed = passed.map(|listener| Socket::activated(listener, &settings));
    let passed = passed.transpose()?;

    let opening = async {
        let state = open_state(disk, config, missing_checkpoint).await?;
        let metrics = Arc::new(Metrics::new(&BuildInfo::CURRENT, config));
        let correlation = config.logging.debug_correlation.as_ref();
        let correlation = Arc::new(Correlation::begin(correlation, &SystemClock));
        let calls = Arc::new(CallOutcomes::default());
        let hook = calls.observed(hooks::request_hook(&metrics, &correlation));
        let client = client(config, hook, &metrics).await?;
        Ok::<_, ServeError>((state, metrics, correlation, calls, client))
    };

    let (state, metrics, correlation, calls, client) = tokio::select! {
        opened = opening => opened?,
        // A thread blocked by the disk ends with the process.
        () = &mut stop => return Ok(()),
    };

    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    // Dropping it ends its tasks, on every return path.
    let mut parts = Supervisor::default();

    let Followed {
        client,
        trust,
        following,
    } = client;
    parts.spawn("CA bundle watcher", following);

    let login = connection::login(config, client.clone(), Process::Provider)?;
    let (session, session_task) = connection::session(
        config,
        Arc::clone(&login),
        Arc::clone(&clock),
        hooks::auth_hook(&metrics),
    );
    parts.spawn("login", session_task.run());

    let (credential_life, following) = follow(login, config.status.probe_interval);
    parts.spawn("credential watcher", following);
    let (files, following) = follow_files(config, Arc::clone(&clock), config.status.probe_interval);
    parts.spawn("file watcher", following);
    let transit = Transit::new(client.clone(), &config.key, config.openbao.timeout);

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

    let connections = Connections::permitted();
    let legacy = &config.legacy.vault_kubernetes_kms;
    // An API server has one connection to each socket.
    let of_legacy = legacy.as_ref().map_or(0, |_| connections.kms / 4);
    let clients = Clients::new(connections.kms - of_legacy, config.server.limits);
    let of_legacy = Clients::new(of_legacy, config.server.limits);
    let legacy_clients = legacy.as_ref().map(|_| of_legacy.clone());
    let service = Arc::new(OnceLock::new());

    let sources = Sources {
        started: Instant::now(),
        view: view.clone(),
        session: session.clone(),
        client: client.clone(),
        trust,
        credential_life: credential_life.clone(),
        files: files.clone(),
        kms: Arc::clone(&service),
        clients: clients.clone(),
        legacy_clients: legacy_clients.clone(),
    };
    let gauges = Gauges {
        view: view.clone(),
        session: session.clone(),
        credential_life,
        auth_method: config.auth.method.name(),
        files,
        metrics: Arc::clone(&metrics),
        socket: config.server.socket_path.clone(),
        clients: clients.clone(),
        legacy_clients,
    };
    listen(
        config,
        connections.http,
        &stopping,
        gauges,
        sources,
        &mut parts,
    )
    .await?;

    let committer = StateCommitter::new(state);
    let settled = committer.settled();
    let watched = Parts {
        session: session.clone(),
        transit: transit.for_probes(),
        scope: config.scope.clone(),
        path: config.key.clone(),
        committer,
        clock,
        metrics: Arc::clone(&metrics),
        calls,
    };
    let (mut watcher, discovery) = Watcher::new(watched, pace(config), loaded, publish);
    let bootstrap = watcher.bootstrap(
        config.bootstrap.grace_timeout,
        config.bootstrap.retry_interval,
    );
    tokio::select! {
        started = bootstrap => started?,
        ended = parts.part_ended() => {
            settle(settled).await;
            return Err(ended.into());
        }
        () = &mut stop => {
            settle(settled).await;
            return Ok(());
        }
    }

    let socket = match passed {
        Some(socket) => {
            clients.set_activated();
            socket
        }
        None => Socket::bind(&settings).await?,
    };
    if socket.reclaimed() {
        metrics.socket_restart();
        tracing::warn!("socket.stale_removed");
    }
    let kms = Kms::new(
        view,
        discovery,
        transit,
        session.clone(),
        Arc::clone(&metrics),
        correlation,
        BuildInfo::CURRENT.plugin_version(),
        config.openbao.timeout,
        config.server.limits,
    );

    let reader = match legacy {
        Some(legacy) => {
            let settings = SocketSettings {
                path: legacy.socket_path.clone(),
                ..settings
            };
            let kms = LegacyReader::new(
                kms.clone(),
                Transit::new(client, &legacy.key, config.openbao.timeout),
                session,
                metrics.legacy(),
                config.openbao.timeout,
                config.server.limits,
            );
            let server = Server {
                kms,
                clients: of_legacy,
                limits: config.server.limits,
                metrics: &metrics,
            };
            // Objects of this provider are independent of this socket.
            let bound = server.bind(&settings).await;
            Some((server, bound, settings))
        }
        None => None,
    };

    // Set once.
    service.set(kms.clone()).ok();
    let server = Server {
        kms,
        clients,
        limits: config.server.limits,
        metrics: &metrics,
    };

    // Holds the state lock until the end of this function.
    let mut watching = pin!(watch("prober", watcher.run()));
    tracing::info!("serve.ready");
    ready();
    let (ending, mut ended) = oneshot::channel::<()>();
    let stop = async {
        stop.await;
        drop(ending);
    };
    let reading = async {
        if let Some((server, bound, settings)) = reader {
            let stop = async { drop((&mut ended).await) };
            server.run_once_bound(bound, &settings, stop).await;
        }
    };
    let serving = watch("KMS server", async {
        tokio::join!(server.run(socket, stop), reading);
    });
    let ended = tokio::select! {
        ended = serving => ended,
        ended = &mut watching => ended,
        ended = parts.part_ended() => ended,
    };
    settle(settled).await;
    match stopping.load(Ordering::Relaxed) {
        true => Ok(()),
        false => Err(ended.into()),
    }
}

/// Waits for the end of a disk operation, for [`SETTLE`] at most.
async fn settle(settled: impl Future<Output = ()>) {
    if timeout(SETTLE, settled).await.is_err() {
        tracing::warn!("state.unfinished");
    }
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

/// Takes the lock and accepts the state, on a blocking thread.
async fn open_state(
    disk: Box<dyn Disk>,
    config: &Config,
    missing: MissingCheckpoint,
) -> Result<StateWriter, ServeError> {
    let reader = config.state();
    let opening = task::spawn_blocking(move || reader.lock()?.start_writing_on(disk, missing));
    let state = opening.await.map_err(|_| panicked("state store"))??;
    match state.found() {
        CheckpointStatus::Absent | CheckpointStatus::Current => {}
        CheckpointStatus::Behind => tracing::warn!(reason = "behind", "state.checkpoint_rewritten"),
        CheckpointStatus::Missing { .. } => {
            tracing::warn!(reason = "missing", "state.checkpoint_rewritten")
        }
    }
    Ok(state)
}

fn panicked(part: &'static str) -> ServeError {
    let panicked = true;
    ServeError::Ended(PartEnded { part, panicked })
}

async fn client(
    config: &Config,
    hook: RequestHook,
    metrics: &Arc<Metrics>,
) -> Result<Followed<impl Future<Output = ()> + Send + 'static + use<>>, ServeError> {
    let (options, path) = (
        connection::failover(config),
        config.openbao.ca_cert_file.clone(),
    );
    let config = config.clone();
    let endpoint = task::spawn_blocking(move || connection::endpoint(&config))
        .await
        .map_err(|_| panicked("CA bundle reader"))??;
    let followed = followed(endpoint, options, path, hook, Arc::clone(metrics));
    Ok(followed.map_err(ConnectionError::Client)?)
}

/// Opens the health and metrics listeners and answers requests.
async fn listen(
    config: &Config,
    max_connections: usize,
    stopping: &Arc<AtomicBool>,
    gauges: Gauges,
    sources: Sources,
    parts: &mut Supervisor,
) -> Result<(), BindError> {
    if let Some(at) = &config.server.health {
        let listener = endpoints::bind("server.healthAddress", at.bind_to()).await?;
        let address = endpoints::local_address(&listener).map(tracing::field::display);
        tracing::info!(address, "health.listening");
        let (view, clients) = (gauges.view.clone(), gauges.clients.clone());
        let legacy = gauges.legacy_clients.clone();
        let session = gauges.session.clone();
        let stopping = Arc::clone(stopping);
        let answer = move |Asked { path, client, .. }: Asked<'_>| match is_asked(path, client) {
            true => Some(sources.answer()),
            false => {
                let now = Now {
                    socket_lost: clients.status().is_lost(),
                    legacy_socket_fault: fault_of(legacy.as_ref()),
                    fallback: session.status().identity == Identity::Fallback,
                    stopping: stopping.load(Ordering::Relaxed),
                };
                health::answer(path, &view, now)
            }
        };
        let serving = endpoints::serve(listener, "health", max_connections, answer);
        parts.spawn("health listener", serving);
    }
    if let Some(at) = &config.server.metrics {
        let listener = endpoints::bind("server.metricsAddress", at.bind_to()).await?;
        let address = endpoints::local_address(&listener).map(tracing::field::display);
        tracing::info!(address, "metrics.listening");
        let answer = move |asked: Asked<'_>| {
            let open_metrics = prefers_open_metrics(asked.accept);
            (asked.path == "/metrics").then(|| gauges.answer(open_metrics))
        };
        let serving = endpoints::serve(listener, "metrics", max_connections, answer);
        parts.spawn("metrics listener", serving);
    }
    Ok(())
}

/// Sources of the values read at each scrape.
struct Gauges {
    view: ViewReader,
    session: Session,
    credential_life: CredentialLife,
    auth_method: &'static str,
    files: FilesView,
    metrics: Arc<Metrics>,
    socket: PathBuf,
    clients: Clients,
    /// Of the socket for vault-kubernetes-kms, if it is configured.
    legacy_clients: Option<Clients>,
}

impl Gauges {
    fn answer(&self, open_metrics: bool) -> Answer {
        let (clients, login) = (self.clients.status(), self.session.status());
        let readings = Readings {
            snapshot: self.view.snapshot(),
            token_ttl: login.token_remaining.unwrap_or_default(),
            auth_method: self.auth_method,
            credential_ttl: self.credential_life.remaining(),
            identity: login.identity,
            socket: socket_mark(&self.socket),
            connections: clients.connected,
            socket_fault: clients.fault.map(|(fault, _)| fault.as_str()),
            socket_lost: clients.is_lost(),
            legacy_socket_fault: fault_of(self.legacy_clients.as_ref()),
            log_lines_dropped: log::dropped_lines(),
            files: self.files.latest(),
        };
        let body = self.metrics.render(readings);
        let (content_type, body) = match open_metrics {
            true => (OPEN_METRICS, body),
            false => (TEXT_FORMAT, text_format(&body)),
        };
        Answer {
            status: StatusCode::OK,
            content_type,
            body,
        }
    }
}

fn fault_of(clients: Option<&Clients>) -> Option<&'static str> {
    let (fault, _) = clients?.status().fault?;
    Some(fault.as_str())
}
