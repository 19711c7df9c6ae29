//! What a process does around `serve`: umask, panics without their values, signals.

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

/// Completes at SIGTERM or SIGINT.
///
/// # Errors
/// When the handlers cannot be installed.
pub fn stop_signal() -> std::io::Result<impl Future<Output = &'static str>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => "terminated",
            _ = interrupt.recv() => "interrupted",
        }
    })
}
