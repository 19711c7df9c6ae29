//! Process setup around `serve`: umask, panic hook, signals.

pub mod activation;
pub mod service_manager;

use std::panic;

use rustix::{fs::Mode, process::umask};
use tokio::signal::unix::{SignalKind, signal};

/// Prepares the process. Created files are accessible to their owner only until their mode is set.
/// A panic logs its location without its value, which may hold secrets.
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
    /// A daemon continues, with a log line: changeable files are reloaded automatically, and a new
    /// configuration requires a restart.
    IsIgnored,
}

/// Completes at SIGTERM, SIGINT, or a SIGHUP with [`Hangup::Stops`].
///
/// # Errors
/// The signal handlers could not be installed.
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
