//! The helper of this process for the PKCS#11 module: this program, started again.

use std::{
    io,
    os::unix::process::CommandExt as _,
    process::Command,
    sync::{Arc, Mutex, PoisonError},
};

use pkcs11_signer::Helper;

use crate::config::{Config, Method};

/// The hidden command of the helper processes.
pub const COMMAND: &str = "pkcs11-helper";

/// One a process, because it must start before the sandbox.
static HELPER: Mutex<Option<Arc<Helper>>> = Mutex::new(None);

/// Starts the helper if the login of this configuration needs it. After the start of a sandbox it
/// is too late.
///
/// # Errors
/// The process cannot be started.
pub fn start_for(config: &Config) -> io::Result<()> {
    let mut tokens = config.auth.methods().filter_map(Method::pkcs11);
    tokens.next().map_or(Ok(()), |_| helper().map(drop))
}

/// The helper, started if it does not run.
///
/// # Errors
/// The process cannot be started.
pub fn helper() -> io::Result<Arc<Helper>> {
    let mut helper = HELPER.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(running) = helper.as_ref().filter(|helper| !helper.has_ended()) {
        return Ok(Arc::clone(running));
    }
    let started = Arc::new(Helper::start(command(COMMAND))?);
    *helper = Some(Arc::clone(&started));
    Ok(started)
}

/// The command of a worker.
#[must_use]
pub fn worker() -> Command {
    let mut worker = command(COMMAND);
    worker.arg("--worker");
    worker
}

/// This program as it was started, also after an upgrade. The module may use the environment.
fn command(name: &str) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("bao-kms-provider")
        .arg(name)
        .env_remove("NOTIFY_SOCKET")
        .env_remove("WATCHDOG_USEC");
    command
}
