//! One server: started, initialized, unsealed, stopped, started again.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    slice,
    time::Duration,
};

use openbao_client::{
    endpoint::{Address, Endpoint, Roots, ServerName},
    token::Token,
};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};
use zeroize::Zeroizing;

use crate::{
    admin::{Admin, AdminError},
    binary::BaoBinary,
    child::GuardedChild,
    confinement::Confinement,
    files, pki,
};

mod config;
pub mod restore;
pub mod snapshot;

use config::{Ports, Settings};

/// Generous, since several servers may start at once on a small machine.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// A server that is asked to stop needs about a second.
const STOPPED_WITHIN: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(20);
const PORT_ATTEMPTS: u8 = 5;
const LOG_TAIL_LINES: usize = 20;
/// Where the server puts a snapshot that it is given, for instance.
const TEMPORARY: &str = "tmp";

/// A directory with all that a server needs, while none runs in it.
pub struct Installation {
    binary: BaoBinary,
    /// Absolute, and text because it goes into the configuration.
    directory: String,
    settings: Settings,
    /// Whether the server is kept from acting on anything outside.
    confined: bool,
    roots: Roots,
    /// Kept from the first start on, so that clients find the server again.
    ports: Option<Ports>,
}

/// What the server is started for.
#[derive(Debug, Clone, Copy)]
enum Mode {
    /// To serve.
    Service,
    /// To have single entries of its storage changed while nothing in it runs.
    Recovery,
}

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

impl Installation {
    /// Prepares a private directory with a new CA and certificate. Data that an earlier server left
    /// in it is kept.
    ///
    /// # Errors
    /// When the directory is unusable or the certificates cannot be made.
    pub fn prepare(binary: BaoBinary, directory: &Path, audit: Audit) -> Result<Self, ServerError> {
        let directory = std::path::absolute(directory)
            .map_err(at(directory))?
            .into_os_string()
            .into_string()
            .map_err(|path| ServerError::PathNotText(path.into()))?;
        let identity = pki::identity().map_err(ServerError::Certificates)?;
        let installation = Self {
            binary,
            directory,
            settings: Settings {
                audit,
                seal: None,
                quorum_makes_root: false,
            },
            confined: false,
            roots: roots(&identity.ca),
            ports: None,
        };
        for name in ["raft", TEMPORARY] {
            let path = installation.path(name);
            files::private_directory(&path).map_err(at(&path))?;
        }
        installation.write("ca.crt", &identity.ca, files::public_file)?;
        installation.write("server.crt", &identity.certificate, files::public_file)?;
        installation.write("server.key", &identity.key, files::private_file)?;
        Ok(installation)
    }

    /// Starts the server and waits until it answers; it is then uninitialized or sealed.
    ///
    /// # Errors
    /// When it cannot be run, ends by itself or does not answer. Nothing is left running then.
    pub async fn start(self) -> Result<Server, ServerError> {
        self.start_as(Mode::Service).await
    }

    async fn start_as(mut self, mode: Mode) -> Result<Server, ServerError> {
        for _ in 0..PORT_ATTEMPTS {
            let ports = match self.ports {
                Some(ports) => ports,
                None => Ports::choose().map_err(ServerError::NoFreePorts)?,
            };
            let endpoint = endpoint(ports.api, self.roots.clone());
            let mut child = self.spawn(ports, mode)?;
            match self.wait_for_answer(&mut child, &endpoint, mode).await {
                Ok(()) => {
                    self.ports = Some(ports);
                    return Ok(Server {
                        child,
                        installation: self,
                        endpoint,
                    });
                }
                Err(ServerError::Ended { log }) if log.contains("address already in use") => {
                    sleep(POLL).await;
                }
                Err(error) => return Err(error),
            }
        }
        Err(ServerError::PortsTaken)
    }

    /// Where servers of its cluster find it, once it was started.
    #[must_use]
    pub fn cluster_port(&self) -> Option<u16> {
        self.ports.map(|ports| ports.cluster)
    }

    fn spawn(&self, ports: Ports, mode: Mode) -> Result<GuardedChild, ServerError> {
        let config = config::text(&self.directory, ports, &self.settings);
        self.write("server.hcl", &config, files::private_file)?;
        // Emptied, so that it tells about this start alone.
        self.write("server.log", "", files::private_file)?;
        let log = self.path("server.log");
        let log = File::options().append(true).open(&log).map_err(at(&log))?;
        let config = format!("-config={}/server.hcl", self.directory);
        let arguments: &[&str] = match mode {
            Mode::Service => &["server", &config],
            Mode::Recovery => &["server", "-recovery", &config],
        };
        let temporary = self.path(TEMPORARY);
        let environment = [("TMPDIR", temporary.as_os_str())];
        let spawn = || GuardedChild::spawn_with(self.binary.path(), arguments, &environment, log);
        let spawned = match self.confined {
            false => spawn(),
            true => {
                let listen = vec![ports.api, ports.cluster];
                Confinement::new(Path::new(&self.directory), listen)
                    .run(spawn)
                    .map_err(io::Error::from)
                    .flatten()
            }
        };
        spawned.map_err(|source| ServerError::Spawn {
            program: self.binary.path().to_owned(),
            source,
        })
    }

    async fn wait_for_answer(
        &self,
        child: &mut GuardedChild,
        endpoint: &Endpoint,
        mode: Mode,
    ) -> Result<(), ServerError> {
        // In recovery mode there is hardly anything else.
        let path = match mode {
            Mode::Service => "sys/seal-status",
            Mode::Recovery => "sys/generate-recovery-token/attempt",
        };
        let admin = Admin::new(endpoint.clone(), None)?;
        let give_up = Instant::now() + READY_WITHIN;
        loop {
            let source = match admin.read(path).await {
                Ok(_) => return Ok(()),
                // There it answers even if it does not know how its data is sealed.
                Err(AdminError::Call { source, .. })
                    if matches!(mode, Mode::Recovery) && source.http_status().is_some() =>
                {
                    return Ok(());
                }
                Err(source) => source,
            };
            if child.exited().map_err(ServerError::Supervise)?.is_some() {
                let log = self.log_tail();
                return Err(ServerError::Ended { log });
            }
            if Instant::now() >= give_up {
                return Err(self.not_ready("answer", source));
            }
            sleep(POLL).await;
        }
    }

    fn not_ready(&self, awaited: &'static str, source: AdminError) -> ServerError {
        ServerError::NotReady {
            awaited,
            log: self.log_tail(),
            source: Box::new(source),
        }
    }

    fn log_tail(&self) -> String {
        let log = fs::read(self.path("server.log")).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n")
    }

    fn path(&self, name: &str) -> PathBuf {
        Path::new(&self.directory).join(name)
    }

    fn write(
        &self,
        name: &str,
        content: &str,
        write: fn(&Path, &[u8]) -> io::Result<()>,
    ) -> Result<(), ServerError> {
        let path = self.path(name);
        write(&path, content.as_bytes()).map_err(at(&path))
    }
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

fn at(path: &Path) -> impl FnOnce(io::Error) -> ServerError {
    let path = path.to_owned();
    |source| ServerError::File { path, source }
}

#[expect(clippy::expect_used, reason = "a CA made a moment ago is usable")]
fn roots(ca_pem: &str) -> Roots {
    Roots::from_pem(ca_pem.as_bytes()).expect("one PEM certificate")
}

#[expect(clippy::expect_used, reason = "loopback and a port are an address")]
fn endpoint(port: u16, roots: Roots) -> Endpoint {
    let address = format!("https://127.0.0.1:{port}");
    Endpoint {
        address: Address::parse(&address).expect("an address with a port above zero"),
        server_name: ServerName::parse("127.0.0.1").expect("an IP address"),
        roots,
        namespace: None,
    }
}
