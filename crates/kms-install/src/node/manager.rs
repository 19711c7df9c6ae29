//! The programs of a node that start the provider: systemctl, and the container runtime's client.

use std::{
    io,
    process::{Command, Output, Stdio},
};

/// Name of the packaged unit for systemctl.
pub const UNIT: &str = "bao-kms-provider";
const SOCKET_UNIT: &str = "bao-kms-provider.socket";

/// Why the service manager did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum ManagerError {
    #[error("cannot run systemctl")]
    NotRun(#[source] io::Error),
    #[error("systemctl {action} failed: {message}")]
    Failed {
        action: &'static str,
        message: String,
    },
}

/// The unit in systemd, as `systemctl` tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitState {
    pub is_enabled: bool,
    pub is_active: bool,
}

impl UnitState {
    /// Asks systemctl, which changes nothing.
    ///
    /// # Errors
    /// systemctl is missing.
    pub fn ask() -> Result<Self, ManagerError> {
        Self::of(UNIT)
    }

    #[must_use]
    pub fn is_used(&self) -> bool {
        self.is_enabled || self.is_active
    }

    fn of(unit: &str) -> Result<Self, ManagerError> {
        let is = |verb| -> Result<bool, ManagerError> {
            let done = systemctl(&[verb, "--quiet", unit])?;
            Ok(done.status.success())
        };
        Ok(Self {
            is_enabled: is("is-enabled")?,
            is_active: is("is-active")?,
        })
    }
}

/// Enables and starts the unit. systemctl returns once the provider is ready, or has failed.
///
/// # Errors
/// [`ManagerError`].
pub fn start() -> Result<(), ManagerError> {
    change("enable", &["enable", "--now", UNIT])
}

/// Stops and disables the unit, and before it the socket unit, which would start it again.
///
/// # Errors
/// [`ManagerError`].
pub fn stop() -> Result<(), ManagerError> {
    let mut arguments = vec!["disable", "--now"];
    if UnitState::of(SOCKET_UNIT)?.is_used() {
        arguments.push(SOCKET_UNIT);
    }
    arguments.push(UNIT);
    change("disable", &arguments)
}

fn change(action: &'static str, arguments: &[&str]) -> Result<(), ManagerError> {
    let done = systemctl(arguments)?;
    if done.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&done.stderr);
    Err(ManagerError::Failed {
        action,
        message: message.lines().next().unwrap_or_default().to_owned(),
    })
}

fn systemctl(arguments: &[&str]) -> Result<Output, ManagerError> {
    output("systemctl", arguments).map_err(ManagerError::NotRun)
}

fn output(program: &str, arguments: &[&str]) -> io::Result<Output> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).output()
}

/// Whether the runtime has an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Image {
    Present,
    Absent,
    /// No client of the runtime is installed, or the runtime does not answer.
    Unknown,
}

impl Image {
    /// Asks crictl, otherwise ctr, for the image with this digest.
    #[must_use]
    pub fn find(image: &str) -> Self {
        let digest = image.split_once('@').map_or(image, |(_, digest)| digest);
        let listed = |program, arguments: &[&str]| -> Option<Self> {
            let done = output(program, arguments).ok()?;
            let text = String::from_utf8_lossy(&done.stdout);
            let found = text.split(|c: char| c.is_whitespace() || "\"@,".contains(c));
            match done.status.success() {
                false => None,
                true if found.into_iter().any(|word| word == digest) => Some(Self::Present),
                true => Some(Self::Absent),
            }
        };
        listed("crictl", &["images", "--digests", "--output", "json"])
            .or_else(|| listed("ctr", &["--namespace", "k8s.io", "images", "list"]))
            .unwrap_or(Self::Unknown)
    }
}
