//! The directory of a server. It is prepared once; servers start from it repeatedly.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use openbao_client::endpoint::{Address, Endpoint, Roots, ServerName};
use tokio::time::{Instant, sleep};

use super::{
    Audit, POLL, READY_WITHIN, Server, ServerError,
    config::{self, Ports, Settings},
};
use crate::{
    admin::{Admin, AdminError},
    binary::BaoBinary,
    child::GuardedChild,
    confinement::Confinement,
    files, pki,
};

pub(super) const PORT_ATTEMPTS: u8 = 5;
/// Node ID of a server without peers.
pub const LONE_NODE: &str = "lab";
const LOG_TAIL_LINES: usize = 20;
/// Subdirectory for the server's temporary files, such as an uploaded snapshot.
const TEMPORARY: &str = "tmp";

/// A prepared directory without a running server.
pub struct Installation {
    pub(super) binary: BaoBinary,
    /// Absolute path; a string because it is written into the configuration.
    directory: String,
    pub(super) settings: Settings,
    /// Whether Landlock confines the server.
    pub(super) confined: bool,
    roots: Roots,
    /// Fixed at the first start, so that clients reach the server again after a restart.
    ports: Option<Ports>,
}

/// Mode of a server process.
#[derive(Debug, Clone, Copy)]
pub(super) enum Mode {
    /// Normal operation.
    Service,
    /// OpenBao's recovery mode: edits single storage entries while the rest of the server is
    /// stopped.
    Recovery,
}

impl Installation {
    /// Prepares a private directory with a new CA and certificate. Data of an earlier server in it
    /// is kept.
    ///
    /// # Errors
    /// When the directory is unusable or the certificates cannot be created.
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
                node_id: LONE_NODE.to_owned(),
                cluster_address: None,
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

    /// Sets the node ID, for a cluster of several servers. Call it before the first start.
    #[must_use]
    pub fn named(mut self, node_id: &str) -> Self {
        node_id.clone_into(&mut self.settings.node_id);
        self
    }

    /// Sets the `https` address for other members of the cluster. It must lead to the cluster port.
    /// Call it before the first start.
    #[must_use]
    pub fn reached_at(mut self, cluster_address: &str) -> Self {
        self.settings.cluster_address = Some(cluster_address.to_owned());
        self
    }

    /// Starts the server and waits until it responds. It is then uninitialized or sealed.
    ///
    /// # Errors
    /// When the program cannot be run, ends by itself or fails to respond. Its process is then
    /// killed.
    pub async fn start(self) -> Result<Server, ServerError> {
        self.start_as(Mode::Service).await
    }

    pub(super) async fn start_as(mut self, mode: Mode) -> Result<Server, ServerError> {
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

    /// The cluster port; `None` before the first start.
    #[must_use]
    pub fn cluster_port(&self) -> Option<u16> {
        self.ports.map(|ports| ports.cluster)
    }

    fn spawn(&self, ports: Ports, mode: Mode) -> Result<GuardedChild, ServerError> {
        let config = config::text(&self.directory, ports, &self.settings);
        self.write("server.hcl", &config, files::private_file)?;

        // Truncated, so that it contains only this start.
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
        // Recovery mode serves few paths; this is one of them.
        let path = match mode {
            Mode::Service => "sys/seal-status",
            Mode::Recovery => "sys/generate-recovery-token/attempt",
        };

        let admin = Admin::new(endpoint.clone(), None)?;
        let give_up = Instant::now() + READY_WITHIN;
        loop {
            let source = match admin.read(path).await {
                Ok(_) => return Ok(()),
                // In recovery mode any HTTP status means ready: with an unknown seal type the
                // status is an error.
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

    pub(super) fn not_ready(&self, awaited: &'static str, source: AdminError) -> ServerError {
        ServerError::NotReady {
            awaited,
            log: self.log_tail(),
            source: Box::new(source),
        }
    }

    fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n")
    }

    /// The last line of the server's log since its start that contains `text`.
    pub(super) fn last_line_of_log(&self, text: &str) -> Option<String> {
        let log = self.log();
        let mut lines = log.lines().rev();
        lines.find(|line| line.contains(text)).map(str::to_owned)
    }

    fn log(&self) -> String {
        let log = fs::read(self.path("server.log")).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
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

fn at(path: &Path) -> impl FnOnce(io::Error) -> ServerError {
    let path = path.to_owned();
    |source| ServerError::File { path, source }
}

#[expect(clippy::expect_used, reason = "a newly created CA is valid")]
fn roots(ca_pem: &str) -> Roots {
    Roots::from_pem(ca_pem.as_bytes()).expect("one PEM certificate")
}

#[expect(clippy::expect_used, reason = "loopback with a port is an address")]
fn endpoint(port: u16, roots: Roots) -> Endpoint {
    let address = format!("https://127.0.0.1:{port}");
    Endpoint {
        address: Address::parse(&address).expect("an address with a port above zero"),
        server_name: ServerName::parse("127.0.0.1").expect("an IP address"),
        roots,
        namespace: None,
    }
}
