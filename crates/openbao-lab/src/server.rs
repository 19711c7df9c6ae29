//! One server: started, initialized, unsealed, stopped, started again.

use std::{io, path::PathBuf, slice, time::Duration};

use openbao_client::{endpoint::Endpoint, token::Token};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};
use zeroize::Zeroizing;

use crate::{
    admin::{Admin, AdminError},
    child::GuardedChild,
};

mod config;
mod installation;
pub mod restore;
pub mod snapshot;

pub use installation::{Installation, LONE_NODE};

use installation::PORT_ATTEMPTS;

/// Generous, since several servers may start at once on a small machine.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// A server that is asked to stop needs about a second.
const STOPPED_WITHIN: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(20);

/// Whether the server writes an audit log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audit {
    /// No audit log.
    Off,
    /// Into `audit.log` in the server's directory.
    File,
}

/// A running server. Dropping it kills the server; so does any end of this process.
pub struct Server {
    child: GuardedChild,
    installation: Installation,
    endpoint: Endpoint,
}

/// What a new server hands out once.
pub struct Secrets {
    /// May do everything, and never expires.
    pub root_token: Token,
    /// Opens the server after each start.
    pub unseal_key: UnsealKey,
}

/// An unseal share: wiped when dropped, never shown, never copied.
pub struct UnsealKey(Zeroizing<String>);

/// Why a server is not in the wanted state.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// A file or directory of the installation.
    #[error("cannot prepare {} for OpenBao", path.display())]
    File {
        /// Where it happened.
        path: PathBuf,
        /// What happened.
        source: io::Error,
    },
    /// The server's configuration names its files as text.
    #[error("OpenBao cannot use {}, which is not UTF-8; choose another directory", .0.display())]
    PathNotText(PathBuf),
    /// The certificates could not be made.
    #[error("cannot make the certificates for OpenBao")]
    Certificates(#[source] rcgen::Error),
    /// No free ports on loopback.
    #[error("cannot find free ports on 127.0.0.1 for OpenBao")]
    NoFreePorts(#[source] io::Error),
    /// Another program took the ports each time.
    #[error("OpenBao found its ports on 127.0.0.1 taken {PORT_ATTEMPTS} times; try again")]
    PortsTaken,
    /// The program could not be executed.
    #[error("cannot run {}; is it an OpenBao program for this machine?", program.display())]
    Spawn {
        /// The program.
        program: PathBuf,
        /// What happened.
        source: io::Error,
    },
    /// The operating system would not say whether the server still runs, or could not stop it.
    #[error("cannot supervise OpenBao")]
    Supervise(#[source] io::Error),
    /// The server ended by itself.
    #[error("OpenBao ended by itself; the end of its log:\n{log}")]
    Ended {
        /// The last lines it wrote.
        log: String,
    },
    /// The server runs, yet never did what it should.
    #[error("OpenBao did not {awaited} within {} s; the end of its log:\n{log}", READY_WITHIN.as_secs())]
    NotReady {
        /// What was waited for.
        awaited: &'static str,
        /// The last lines it wrote.
        log: String,
        /// The last answer.
        source: Box<AdminError>,
    },
    /// A call that was needed.
    #[error(transparent)]
    Call(#[from] AdminError),
    /// An answer of another shape than the API promises.
    #[error("OpenBao's answer to `{path}` is not understood; is this a supported version?")]
    Answer {
        /// The path that was called.
        path: &'static str,
    },
    /// The share was accepted, but its data needs more of them.
    #[error("OpenBao is still sealed: its data needs more unseal shares")]
    StillSealed,
}

impl Server {
    /// Initializes a new server with one unseal share. It stays sealed.
    ///
    /// # Errors
    /// When OpenBao refuses, for instance since it has data already.
    pub async fn initialize(&self) -> Result<Secrets, ServerError> {
        #[derive(Deserialize)]
        struct Initialized<'a> {
            #[serde(borrow)]
            keys_base64: [&'a str; 1],
            root_token: &'a str,
        }
        const PATH: &str = "sys/init";
        let shares = serde_json::json!({"secret_shares": 1, "secret_threshold": 1});
        let answer = self.anonymous()?.write(PATH, &shares).await?;
        let unusable = || ServerError::Answer { path: PATH };
        let initialized: Initialized<'_> = answer.json().map_err(|_| unusable())?;
        let [unseal_key] = initialized.keys_base64;
        let root_token = Zeroizing::new(initialized.root_token.to_owned());
        Ok(Secrets {
            root_token: Token::new(root_token).map_err(|_| unusable())?,
            unseal_key: UnsealKey::new(Zeroizing::new(unseal_key.to_owned())),
        })
    }

    /// Unseals the server and waits until it does its work.
    ///
    /// # Errors
    /// When the share is wrong or not enough, or the server does not become active.
    pub async fn unseal(&self, key: &UnsealKey) -> Result<(), ServerError> {
        self.unseal_with(slice::from_ref(key)).await
    }

    /// Unseals the server with as many of the shares as it takes, and waits until it does its work.
    ///
    /// # Errors
    /// When a share is wrong or they are not enough, or the server does not become active.
    pub async fn unseal_with(&self, shares: &[UnsealKey]) -> Result<(), ServerError> {
        #[derive(Serialize)]
        struct Unseal<'a> {
            key: &'a str,
        }
        const PATH: &str = "sys/unseal";
        let admin = self.anonymous()?;
        let mut sealed = true;
        for share in shares {
            let answer = admin.write(PATH, &Unseal { key: &share.0 }).await?;
            let status: SealStatus = answer
                .json()
                .map_err(|_| ServerError::Answer { path: PATH })?;
            sealed = status.sealed;
            if !sealed {
                break;
            }
        }
        match sealed {
            true => Err(ServerError::StillSealed),
            false => self.wait_until_active().await,
        }
    }

    /// Makes a new, uninitialized server a member of the cluster of `leader`, which must be active,
    /// and waits until it serves as a standby. `key` is the one unseal share of the cluster.
    ///
    /// # Errors
    /// When the leader is out of reach, or refuses, or the server does not become a standby.
    pub async fn join(&self, leader: &Self, key: &UnsealKey) -> Result<(), ServerError> {
        let ca_file = leader.ca_file();
        let ca = std::fs::read_to_string(&ca_file).map_err(|source| ServerError::File {
            path: ca_file,
            source,
        })?;
        let leader = leader.endpoint.address.to_string();
        let asked = serde_json::json!({"leader_api_addr": leader, "leader_ca_cert": ca});
        let admin = self.anonymous()?;
        admin.write("sys/storage/raft/join", &asked).await?;
        self.unseal_standby(key).await
    }

    /// Unseals a member of a cluster of several, and waits until it has an active server: itself or
    /// another one.
    ///
    /// # Errors
    /// When the share is wrong, or the cluster has no active server.
    pub async fn unseal_standby(&self, key: &UnsealKey) -> Result<(), ServerError> {
        let admin = self.anonymous()?;
        let give_up = Instant::now() + READY_WITHIN;
        let share = serde_json::json!({"key": key.expose()});
        // A server that joins takes the share only once the leader has answered.
        admin.write("sys/unseal", &share).await?;
        while !knows_an_active_server(&admin).await {
            if Instant::now() >= give_up {
                // Any state but active has an error status.
                return match admin.read("sys/health").await {
                    Ok(_) => Ok(()),
                    Err(source) => Err(self.installation.not_ready("become a standby", source)),
                };
            }
            sleep(POLL).await;
        }
        Ok(())
    }

    /// The port at which other members reach it.
    #[must_use]
    pub fn cluster_port(&self) -> Option<u16> {
        self.installation.cluster_port()
    }

    /// Ends the server's process at once, as a crash does. The installation can be started again.
    ///
    /// # Errors
    /// When the operating system refuses.
    pub fn kill(self) -> Result<Installation, ServerError> {
        let Self {
            mut child,
            installation,
            ..
        } = self;
        child.kill().map_err(ServerError::Supervise)?;
        Ok(installation)
    }

    async fn wait_until_active(&self) -> Result<(), ServerError> {
        let admin = self.anonymous()?;
        let give_up = Instant::now() + READY_WITHIN;
        // Any state but active has an error status.
        while let Err(source) = admin.read("sys/health").await {
            if Instant::now() >= give_up {
                return Err(self.installation.not_ready("become active", source));
            }
            sleep(POLL).await;
        }
        Ok(())
    }

    /// Seals the server: from now on it answers every request with 503.
    ///
    /// # Errors
    /// When OpenBao refuses.
    pub async fn seal(&self, root_token: &Token) -> Result<(), ServerError> {
        let nothing = serde_json::json!({});
        self.admin(root_token)?.write("sys/seal", &nothing).await?;
        Ok(())
    }

    /// Stops the server in an orderly way, or kills it when it takes too long. The installation can
    /// be started again with the same data, address and CA.
    ///
    /// # Errors
    /// When the operating system refuses.
    pub async fn stop(self) -> Result<Installation, ServerError> {
        let Self {
            mut child,
            installation,
            ..
        } = self;
        child.ask_to_stop().map_err(ServerError::Supervise)?;
        let give_up = Instant::now() + STOPPED_WITHIN;
        while child.exited().map_err(ServerError::Supervise)?.is_none() && Instant::now() < give_up
        {
            sleep(POLL).await;
        }
        child.kill().map_err(ServerError::Supervise)?;
        Ok(installation)
    }

    /// Calls with a token, for use in the current async runtime.
    ///
    /// # Errors
    /// [`AdminError::Client`].
    pub fn admin<'a>(&self, token: &'a Token) -> Result<Admin<'a>, AdminError> {
        Admin::new(self.endpoint(), Some(token))
    }

    fn anonymous(&self) -> Result<Admin<'static>, AdminError> {
        Admin::new(self.endpoint(), None)
    }

    /// How a client reaches the server.
    #[must_use]
    pub fn endpoint(&self) -> Endpoint {
        self.endpoint.clone()
    }

    /// The version of the program.
    ///
    /// # Errors
    /// When it does not say.
    pub async fn version(&self) -> Result<String, ServerError> {
        #[derive(Deserialize)]
        struct Health {
            version: String,
        }
        const PATH: &str = "sys/health";
        let health = self.anonymous()?.read(PATH).await?;
        let health: Health = health
            .json()
            .map_err(|_| ServerError::Answer { path: PATH })?;
        Ok(health.version)
    }

    /// The CA that signed the server's certificate, as a PEM file that everybody may read.
    #[must_use]
    pub fn ca_file(&self) -> PathBuf {
        self.installation.path("ca.crt")
    }

    /// The audit log, which exists with [`Audit::File`].
    #[must_use]
    pub fn audit_log(&self) -> PathBuf {
        self.installation.path(config::AUDIT_LOG)
    }
}

async fn knows_an_active_server(admin: &Admin<'_>) -> bool {
    #[derive(Deserialize)]
    struct Leader {
        leader_address: String,
    }
    let leader = admin.read("sys/leader").await.ok();
    let leader = leader.and_then(|answer| answer.json::<Leader>().ok());
    leader.is_some_and(|leader| !leader.leader_address.is_empty())
}

#[derive(Deserialize)]
struct SealStatus {
    sealed: bool,
}

impl UnsealKey {
    /// Takes ownership of the text of a share, in hexadecimal or Base64.
    #[must_use]
    pub fn new(text: Zeroizing<String>) -> Self {
        Self(text)
    }

    /// The text itself, for the one file that keeps it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}
