//! `serve`: the daemon.

use std::{io, os::unix::net::UnixListener};

use clap::Args;
use kms_daemon::{
    lifecycle::{self, Hangup, activation::passed_listener, service_manager::ServiceManager},
    serve::{ServeError, serve},
    telemetry::log,
};
use kms_node::{
    advice::Site,
    build_info::BuildInfo,
    config::{Config, SocketGroup},
    hardening::harden,
    pkcs11_helper,
    state::MissingCheckpoint,
};
use tokio::runtime;

use super::{Context, Exit, Failure, Line};

/// Threads for disks and name lookups. A hanging disk keeps its threads, so the limit is above the
/// number of tasks at once, and below `TasksMax=` of the unit.
const BLOCKING_THREADS: usize = 64;

/// Serve Kubernetes KMS v2 on the configured socket until a signal comes
#[derive(Debug, Args)]
pub(super) struct Options {
    /// Accept a state whose checkpoint is missing, once you have compared it with a peer or with a
    /// backup record: without a checkpoint nothing else shows that it is the newest
    #[arg(long)]
    accept_missing_checkpoint: bool,
}

impl Options {
    pub(super) fn run(self, context: &mut Context<'_>) -> Result<Exit, Failure> {
        let mut loaded = context.load_for_serve(context.environment)?;
        // The group file may be out of reach when the socket is bound.
        let group = &mut loaded.config.server.socket_group;
        *group = SocketGroup::Id(group.gid().map_err(ServeError::Group)?);
        let config = &loaded.config;

        let passed = passed_listener(context.environment)?;
        let journal = context.environment.logs_to_journal();
        log::prefix_priorities(journal);
        log::start(config.logging.level, config.logging.format);
        lifecycle::prepare();
        tracing::info!(
            version = BuildInfo::CURRENT.version,
            fingerprint = config.fingerprint().as_str(),
            socket = %config.server.socket_path.display(),
            "serve.start"
        );
        for warning in &loaded.warnings {
            tracing::warn!(
                setting = warning.path,
                problem = warning.rule,
                "config.warning"
            );
        }
        let manager = ServiceManager::of(context.environment);
        pkcs11_helper::start_for(config).map_err(Failure::Runtime)?;
        let hardened = harden(config);
        // Not before: a thread keeps to the sandbox only if it starts within it.
        log::write_lines().map_err(Failure::Runtime)?;
        let missing = if self.accept_missing_checkpoint {
            MissingCheckpoint::Accept
        } else {
            MissingCheckpoint::Refuse
        };
        let served = hardened.map_err(Failure::from).and_then(|hardened| {
            hardened.log();
            let served = block_on_serve(config, missing, passed, &manager);
            served.map_err(Failure::Runtime)
        });
        let site = Site::new(&loaded.path, Some(config));
        let exit = end(served, &site, &context.line, journal);
        log::flush();
        Ok(exit)
    }
}

/// Logs the end, and writes a failure through the log, whose reader may have stalled.
fn end(
    served: Result<Result<(), ServeError>, Failure>,
    site: &Site<'_>,
    line: &Line,
    journal: bool,
) -> Exit {
    let (reason, part) = match &served {
        Ok(Err(error)) => (Some(error.reason()), error.part()),
        _ => (None, None),
    };
    let failure = served.and_then(|served| Ok(served?)).err();
    let exit = failure.as_ref().map_or(Exit::Success, Failure::exit);
    let exit_code = exit.code();
    match (reason, &failure) {
        (Some(reason), _) => tracing::error!(exit_code, reason, part, "serve.shutdown"),
        (None, None) => tracing::info!(exit_code, "serve.shutdown"),
        (None, Some(_)) => {}
    }
    if let Some(failure) = failure {
        let mut text = Vec::new();
        // A vector takes every byte.
        failure.write(&failure.advise(site, line), &mut text).ok();
        log::write_text(&log::of_errors(&text, journal));
    }
    exit
}

/// One thread: the work is waiting for OpenBao, and blocking work has threads of its own.
fn block_on_serve(
    config: &Config,
    missing: MissingCheckpoint,
    passed: Option<UnixListener>,
    manager: &ServiceManager,
) -> io::Result<Result<(), ServeError>> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .build()?;
    let served = runtime.block_on(async {
        let stop = lifecycle::stop_signal(Hangup::IsIgnored)?;
        let stop = async {
            let reason = stop.await;
            manager.stopping();
            tracing::info!(reason, "serve.stopping");
        };
        manager.starting(config.bootstrap.grace_timeout);
        // Both in this task: a watchdog is fed only while the serving gets its turn.
        tokio::select! {
            served = serve(config, missing, passed, || manager.ready(), stop) => Ok(served),
            never = manager.keep_alive() => match never {},
        }
    });
    // A name lookup that hangs must not hold up the end.
    runtime.shutdown_background();
    served
}
