//! What a process does around `serve`: umask, panics without their values, signals.

pub mod activation;
pub mod service_manager;

use std::panic;

use rustix::{fs::Mode, process::umask};
use tokio::signal::unix::{SignalKind, signal};

/// Prepares the process: what it creates is its owner's alone until it says otherwise, and a panic
/// leaves its place in the log, but not its value, which may hold anything.
pub fn prepare() {
    umask(Mode::from_raw_mode(0o077));
    panic::set_hook(Box::new(|panicked| {
        let location = panicked.location().map(tracing::field::display);
        tracing::error!(location, "process.panicked");
    }));
}

/// Effect of SIGHUP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hangup {
    /// A command ends with its terminal.
    Stops,
    /// A daemon goes on, with a line in the log: files that may change while it runs are read again by
    /// themselves, and the configuration takes a restart.
    IsIgnored,
}

/// Completes at SIGTERM, SIGINT, or a SIGHUP that stops.
///
/// # Errors
/// When the handlers cannot be installed.
pub fn stop_signal(on_hangup: Hangup) -> std::io::Result<impl Future<Output = &'static str>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => return "terminated",
                _ = interrupt.recv() => return "interrupted",
                _ = hangup.recv() => match on_hangup {
                    Hangup::Stops => return "hangup",
                    Hangup::IsIgnored => tracing::info!(signal = "hangup", "serve.signal_ignored"),
                },
            }
        }
    })
}
