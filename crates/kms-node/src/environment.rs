//! Environment and user of the process, as a value, so that tests need no process of their own.

use std::{collections::BTreeMap, io, os::fd::AsFd as _, path::PathBuf};

#[derive(Debug, Clone, Default)]
pub struct Environment {
    /// Variables in UTF-8; all others are left out.
    pub variables: BTreeMap<String, String>,
    pub effective_uid: u32,
}

impl Environment {
    #[must_use]
    pub fn of_process() -> Self {
        let variables = std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        });
        Self {
            variables: variables.collect(),
            effective_uid: rustix::process::geteuid().as_raw(),
        }
    }

    /// The private runtime directory of a user other than root, as the session manager named it.
    /// Its owner and mode are checked with the other files.
    #[must_use]
    pub fn runtime_directory(&self) -> Option<PathBuf> {
        let runtime = self.variable("XDG_RUNTIME_DIR")?;
        (self.effective_uid != 0 && runtime.starts_with('/')).then(|| PathBuf::from(runtime))
    }

    /// The directories below which a directory may hold the socket: those that are empty after
    /// boot, so that no socket outlives the machine's uptime.
    pub fn socket_roots(&self) -> Vec<PathBuf> {
        let system = ["/run", "/var/run"].into_iter().map(PathBuf::from);
        system.chain(self.runtime_directory()).collect()
    }

    /// Whether standard error is the stream to the journal that the service manager has named.
    #[must_use]
    pub fn logs_to_journal(&self) -> bool {
        let stream = self.variable("JOURNAL_STREAM");
        let Some((device, inode)) = stream.and_then(|stream| stream.split_once(':')) else {
            return false;
        };
        // A process with this variable may have another standard error, such as a terminal.
        rustix::fs::fstat(io::stderr().as_fd()).is_ok_and(|facts| {
            device.parse() == Ok(facts.st_dev) && inode.parse() == Ok(facts.st_ino)
        })
    }

    /// An empty variable counts as unset.
    #[must_use]
    pub fn variable(&self, name: &str) -> Option<&str> {
        let value = self.variables.get(name)?;
        (!value.is_empty()).then_some(value)
    }
}
