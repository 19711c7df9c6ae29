//! Confines a program to its own directory and ports with Landlock, from its first instruction on.
//!
//! A restored server has production credentials and would use them: it revokes leases that expired
//! since the backup, rotates passwords, and writes to its configured audit logs.

use std::{
    io,
    path::{Path, PathBuf},
    thread,
};

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, LandlockStatus, NetPort, PathBeneath, PathFd, Ruleset,
    RulesetAttr as _, RulesetCreatedAttr as _, RulesetError, RulesetStatus,
};

/// The first Landlock ABI with TCP rules: Linux 6.7.
const NEEDED: ABI = ABI::V4;

/// Permissions of a program in addition to reading files: writing below one directory, and
/// listening on these TCP ports. Every outgoing TCP connection is denied.
#[derive(Debug, Clone)]
pub(crate) struct Confinement {
    directory: PathBuf,
    ports: Vec<u16>,
}

/// Error: the kernel cannot confine a program.
#[derive(Debug, thiserror::Error)]
pub enum Unconfined {
    /// Landlock is too old or disabled.
    #[error("{0}")]
    Unsupported(&'static str),
    /// The kernel rejected the Landlock rules.
    #[error("the kernel rejected the Landlock rules")]
    Refused(#[from] RulesetError),
}

/// Checks on a temporary thread whether this kernel can confine a program.
///
/// # Errors
/// [`Unconfined`], with the reason.
pub fn trial() -> Result<(), Unconfined> {
    let confinement = Confinement {
        directory: PathBuf::from("/"),
        ports: Vec::new(),
    };
    confinement.run(|| ())
}

impl Confinement {
    pub(crate) fn new(directory: &Path, ports: Vec<u16>) -> Self {
        Self {
            directory: directory.to_owned(),
            ports,
        }
    }

    /// Runs `work` on a confined thread. Programs started by it stay confined permanently.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, Unconfined> {
        thread::scope(|scope| {
            let confined = scope.spawn(|| {
                self.restrict_thread()?;
                Ok(work())
            });
            let lost = |_| Err(Unconfined::Unsupported("the confined thread panicked"));
            confined.join().unwrap_or_else(lost)
        })
    }

    fn restrict_thread(&self) -> Result<(), Unconfined> {
        let write = AccessFs::from_write(NEEDED);
        let device = AccessFs::WriteFile | AccessFs::Truncate;
        let beneath = |path: &Path, access| {
            let directory = PathFd::new(path).ok()?;
            Some(Ok::<_, RulesetError>(PathBeneath::new(directory, access)))
        };
        let own = [
            beneath(&self.directory, write),
            beneath(Path::new("/dev/null"), device),
        ];
        let listen = |&port: &u16| Ok::<_, RulesetError>(NetPort::new(port, AccessNet::BindTcp));

        let restricted = Ruleset::default()
            .handle_access(write)?
            .handle_access(AccessNet::from_all(NEEDED))?
            .create()?
            .add_rules(own.into_iter().flatten())?
            .add_rules(self.ports.iter().map(listen))?
            .restrict_self()?;

        match (restricted.ruleset, restricted.landlock) {
            (RulesetStatus::FullyEnforced, _) => Ok(()),
            (_, LandlockStatus::NotEnabled) => Err(Unconfined::Unsupported(
                "Landlock is not enabled: add landlock to the kernel's lsm= parameter",
            )),
            _ => Err(Unconfined::Unsupported(
                "Landlock of this kernel lacks TCP rules; they need Linux 6.7 or later",
            )),
        }
    }
}

impl From<Unconfined> for io::Error {
    fn from(error: Unconfined) -> Self {
        Self::other(error)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        net::{TcpListener, TcpStream},
        process::Command,
    };

    use super::*;

    #[test]
    fn a_confined_program_writes_in_its_directory_alone_and_connects_to_nobody() {
        let place = tempfile::tempdir().unwrap();
        let own = place.path().join("own");
        fs::create_dir(&own).unwrap();
        let live = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = live.local_addr().unwrap();
        let denied = |tried: io::Result<()>| {
            let refused = tried.unwrap_err().kind();
            assert_eq!(refused, io::ErrorKind::PermissionDenied);
        };
        Confinement::new(&own, Vec::new())
            .run(|| {
                let script = "echo a >own/file; echo b >outside";
                let mut shell = Command::new("/bin/sh");
                shell.args(["-c", script]).current_dir(place.path());
                let said = String::from_utf8(shell.output().unwrap().stderr).unwrap();
                assert!(said.contains("Permission denied"), "{said}");
                denied(TcpStream::connect(address).map(drop));
                denied(TcpListener::bind("127.0.0.1:0").map(drop));
            })
            .unwrap();
        assert!(own.join("file").exists());
        assert!(!place.path().join("outside").exists());
    }
}
