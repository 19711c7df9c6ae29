//! One OpenBao server: start, initialize, unseal, stop.

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

/// Generous: several servers may start at once on a small machine.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// A graceful stop takes about one second.
const STOPPED_WITHIN: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(20);

/// Audit log of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audit {
    /// No audit log.
    Off,
    /// `audit.log` in the server's directory.
    File,
}

/// A running server. Drop kills it, and so does any end of this process.
pub struct Server {
    child: GuardedChild,
    installation: Installation,
    endpoint: Endpoint,
}

/// Secrets of a new server, returned once by its initialization.
pub struct Secrets {
    /// Token with all rights; it has no expiry.
    pub root_token: Token,
    /// Unseals the server after each start.
    pub unseal_key: UnsealKey,
}

/// An unseal share: wiped on drop, without `Debug` and `Clone`.
pub struct UnsealKey(Zeroizing<String>);

/// Error of a server operation.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// A file or directory of the installation is unusable.
    #[error("cannot prepare {} for OpenBao", path.display())]
    File {
        /// The path.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The directory is not UTF-8, but its path must be in the configuration file.
    #[error("OpenBao cannot use {}: the path is not UTF-8; choose another directory", .0.display())]
    PathNotText(PathBuf),
    /// The certificates could not be created.
    #[error("cannot create the certificates for OpenBao")]
    Certificates(#[source] rcgen::Error),
    /// Too many ports on loopback were taken.
    #[error("cannot find free ports on 127.0.0.1 for OpenBao")]
    NoFreePorts(#[source] io::Error),
    /// Another program took the ports at every attempt.
    #[error("ports of OpenBao on 127.0.0.1 were taken {PORT_ATTEMPTS} times; try again")]
    PortsTaken,
    /// The program could not be started.
    #[error("cannot run {}; is it an OpenBao program for this machine?", program.display())]
    Spawn {
        /// Path of the program.
        program: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The operating system failed to check or stop the process.
    #[error("cannot check or stop the process of OpenBao")]
    Supervise(#[source] io::Error),
    /// The server ended by itself.
    #[error("OpenBao ended unexpectedly; end of its log:\n{log}")]
    Ended {
        /// End of its log.
        log: String,
    },
    /// The server runs but missed the deadline for `awaited`.
    #[error("OpenBao did not {awaited} within {} s; end of its log:\n{log}", READY_WITHIN.as_secs())]
    NotReady {
        /// The awaited state, as a verb phrase.
        awaited: &'static str,
        /// End of its log.
        log: String,
        /// The last error.
        source: Box<AdminError>,
    },
    /// A required request failed.
    #[error(transparent)]
    Call(#[from] AdminError),
    /// The response has an unexpected format.
    #[error("unexpected response from OpenBao to `{path}`; is this a supported version?")]
    Answer {
        /// The request path.
        path: &'static str,
    },
    /// The shares were accepted, but the threshold is higher.
    #[error("OpenBao is still sealed: more unseal key shares are required")]
    StillSealed,
}

impl Server {
    /// Initializes a new server with one unseal share. The server stays sealed.
    ///
    /// # Errors
    /// When OpenBao rejects the request, for example because it is already initialized.
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

    /// Unseals the server and waits until it is active.
    ///
    /// # Errors
    /// When the share is wrong or insufficient, or the server fails to become active.
    pub async fn unseal(&self, key: &UnsealKey) -> Result<(), ServerError> {
        self.unseal_with(slice::from_ref(key)).await
    }

    /// Unseals the server with as many shares as it needs, and waits until it is active.
    ///
    /// # Errors
    /// When a share is wrong, the shares are insufficient, or the server fails to become active.
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

    /// Joins a new, uninitialized server to the cluster of `leader`, the active server, and waits
    /// until it is a standby. `key` is the only unseal share of the cluster.
    ///
    /// # Errors
    /// When the leader is unreachable or rejects the request, or the server fails to become a
    /// standby.
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

    /// Unseals a member of a cluster and waits until the cluster has an active server: this one or
    /// another.
    ///
    /// # Errors
    /// When the share is wrong or the cluster has no active server.
    pub async fn unseal_standby(&self, key: &UnsealKey) -> Result<(), ServerError> {
        let admin = self.anonymous()?;
        let give_up = Instant::now() + READY_WITHIN;
        let share = serde_json::json!({"key": key.expose()});
        // A joining server accepts the share only after the leader has answered.
        admin.write("sys/unseal", &share).await?;
        while !knows_an_active_server(&admin).await {
            if Instant::now() >= give_up {
                // In every other state the response has an error status.
                return match admin.read("sys/health").await {
                    Ok(_) => Ok(()),
                    Err(source) => Err(self.installation.not_ready("become a standby", source)),
                };
            }
            sleep(POLL).await;
        }
        Ok(())
    }

    /// Port for other members of the cluster.
    #[must_use]
    pub fn cluster_port(&self) -> Option<u16> {
        self.installation.cluster_port()
    }

    /// Kills the server's process, as a crash does. The installation can be started again.
    ///
    /// # Errors
    /// When the operating system fails to stop the process.
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
        // In every other state the response has an error status.
        while let Err(source) = admin.read("sys/health").await {
            if Instant::now() >= give_up {
                return Err(self.installation.not_ready("become active", source));
            }
            sleep(POLL).await;
        }
        Ok(())
    }

    /// Seals the server: requests for data then get a 503.
    ///
    /// # Errors
    /// When OpenBao rejects the request.
    pub async fn seal(&self, root_token: &Token) -> Result<(), ServerError> {
        let nothing = serde_json::json!({});
        self.admin(root_token)?.write("sys/seal", &nothing).await?;
        Ok(())
    }

    /// Stops the server gracefully, or kills it after 20 s. The installation can be started again
    /// with the same data, address and CA.
    ///
    /// # Errors
    /// When the operating system fails to stop the process.
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

    /// An admin client with this token, for use in the current async runtime.
    ///
    /// # Errors
    /// [`AdminError::Client`].
    pub fn admin<'a>(&self, token: &'a Token) -> Result<Admin<'a>, AdminError> {
        Admin::new(self.endpoint(), Some(token))
    }

    fn anonymous(&self) -> Result<Admin<'static>, AdminError> {
        Admin::new(self.endpoint(), None)
    }

    /// Address and CA for clients.
    #[must_use]
    pub fn endpoint(&self) -> Endpoint {
        self.endpoint.clone()
    }

    /// The version of the program.
    ///
    /// # Errors
    /// When the request fails or the response has an unexpected format.
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

    /// PEM file with the CA of the server's certificate, readable by all users.
    #[must_use]
    pub fn ca_file(&self) -> PathBuf {
        self.installation.path("ca.crt")
    }

    /// Path of the audit log; it exists with [`Audit::File`].
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
    /// Wraps a share in hexadecimal or Base64.
    #[must_use]
    pub fn new(text: Zeroizing<String>) -> Self {
        Self(text)
    }

    /// The share as text, for the file that stores it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}
