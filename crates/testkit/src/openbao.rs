//! Real OpenBao servers: one shared by all tests of a process, or a private one to seal and stop.

#![expect(clippy::unwrap_used, reason = "a failed set-up fails the test")]

use std::{
    error::Error,
    fs::{self, File},
    io::Read as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use openbao_client::endpoint::Endpoint;
use openbao_lab::{
    admin::Admin,
    binary::{BaoBinary, TOOLS_PATH, find_bao},
    server::{Audit, Installation, LONE_NODE, Secrets, Server},
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::{self, OnceCell};

use crate::{
    files,
    relay::{Line, Relay, Switch},
    wait::wait_until,
};

mod lost_disk;

/// A running, unsealed OpenBao.
pub struct OpenBao {
    // Dropped first, so that the directory is idle when it is removed.
    server: Server,
    /// Shared by the members of a cluster.
    secrets: Arc<Secrets>,
    directory: TempDir,
    /// Relay for the traffic from other members of its cluster.
    cluster_line: Option<Relay>,
}

/// An [`OpenBao`] while it is stopped.
pub struct StoppedOpenBao {
    installation: Installation,
    secrets: Arc<Secrets>,
    directory: TempDir,
    cluster_line: Option<Relay>,
}

/// A network partition: the member and the other members cannot reach each other; clients reach
/// all. Drop ends it.
pub struct Partition(Vec<Switch>);

/// A suspended server process: connections are accepted, requests stay unanswered. Drop resumes it.
pub struct HungOpenBao(Pid);

/// The audit log of a server as a pipe. OpenBao answers no requests while its audit log is blocked.
pub struct AuditPipe {
    gate: Arc<Mutex<()>>,
    /// The server closes and reopens its end while it is initialized: without another writer the
    /// reader could take that for the end of the pipe.
    _writer: File,
}

/// Stops reading from the audit log. Drop resumes it.
pub struct BlockedAudit<'a>(#[expect(dead_code, reason = "held")] MutexGuard<'a, ()>);

/// A server before its initialization.
pub struct UninitializedOpenBao {
    // Dropped first, as in [`OpenBao`].
    server: Server,
    _directory: TempDir,
}

/// The server shared by all tests of this process, started by the first of them. Tests cannot seal
/// or stop it; each creates its own [`Tenant`](crate::tenant::Tenant).
///
/// # Panics
/// When the server fails to start or the OpenBao program is missing. The message has the command to
/// install it.
pub async fn shared_openbao() -> &'static OpenBao {
    static SHARED: OnceCell<(OpenBao, Child)> = OnceCell::const_new();
    let (server, _) = SHARED
        .get_or_init(async || {
            let directory = TempDir::new().unwrap();
            let cleaner = remove_after_us(directory.path());
            (OpenBao::start_in(directory, None).await, cleaner)
        })
        .await;
    server
}

/// Statics are never dropped, so a shell waits for the end of this process and removes the
/// directory. It retries, because a server that is just being killed may still write files.
fn remove_after_us(directory: &Path) -> Child {
    const REMOVE: &str = r#"
read -r _
for attempt in 1 2 3 4 5 6 7 8 9; do
    rm -rf "$1" && exit
    sleep 1
done"#;
    Command::new("/bin/sh")
        .args(["-c", REMOVE, "remove"])
        .arg(directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// The OpenBao program found by [`find_bao`], else the one installed by `cargo xtask tools` in the
/// workspace.
///
/// # Panics
/// When the program is missing. The message has the command to install it.
#[must_use]
pub fn binary() -> BaoBinary {
    let installed = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(TOOLS_PATH);
    checked(find_bao(None).or_else(|error| find_bao(Some(&installed)).map_err(|_| error)))
}

impl OpenBao {
    /// Starts a private server: initialized, unsealed, with an audit log.
    ///
    /// # Panics
    /// When the server fails to start or the OpenBao program is missing. The message has the
    /// command to install it.
    pub async fn start() -> Self {
        Self::start_in(TempDir::new().unwrap(), None).await
    }

    /// Starts a private server without initializing it.
    ///
    /// # Panics
    /// When the server fails to start or the OpenBao program is missing. The message has the
    /// command to install it.
    pub async fn start_uninitialized() -> UninitializedOpenBao {
        let directory = TempDir::new().unwrap();
        let installation = Installation::prepare(binary(), directory.path(), Audit::Off);
        UninitializedOpenBao {
            server: checked(checked(installation).start().await),
            _directory: directory,
        }
    }

    /// As [`Self::start`], with an audit log to block.
    ///
    /// # Panics
    /// As [`Self::start`], and when the pipe cannot be created.
    pub async fn start_with_audit_pipe() -> (Self, AuditPipe) {
        let directory = TempDir::new().unwrap();
        let pipe = AuditPipe::make(&directory.path().join("audit.log"));
        (Self::start_in(directory, None).await, pipe)
    }

    async fn start_in(directory: TempDir, cluster_line: Option<Relay>) -> Self {
        let installation = checked(Installation::prepare(
            binary(),
            directory.path(),
            Audit::File,
        ));
        let server = start_behind(installation, cluster_line.as_ref()).await;
        let secrets = checked(server.initialize().await);
        checked(server.unseal(&secrets.unseal_key).await);
        Self {
            server,
            secrets: Arc::new(secrets),
            directory,
            cluster_line,
        }
    }

    /// Starts a cluster of three: the first is active, the others are standbys. Each has its own
    /// CA; [`cluster_ca`] trusts all of them.
    ///
    /// # Panics
    /// As [`Self::start`], and when a member fails to join.
    pub async fn start_cluster() -> [Self; 3] {
        let line = Relay::to_nobody().await;
        let first = Self::start_in(TempDir::new().unwrap(), Some(line)).await;
        let admin = first.admin();
        // A new member becomes a voter after it was healthy for this time; the default is 10 s.
        let soon = json!({"server_stabilization_time": "500ms"});
        let autopilot = "sys/storage/raft/autopilot/configuration";
        checked(admin.write(autopilot, &soon).await);

        let second = first.start_peer("second").await;
        let third = first.start_peer("third").await;

        wait_until(Duration::from_secs(60), "three votes", async || {
            let members = checked(admin.read("sys/storage/raft/configuration").await);
            let members: Value = checked(members.data());
            let members = members["config"]["servers"].as_array();
            members.is_some_and(|members| {
                members
                    .iter()
                    .filter(|member| member["voter"] == true)
                    .count()
                    == 3
            })
        })
        .await;
        [first, second, third]
    }

    async fn start_peer(&self, node_id: &str) -> Self {
        let directory = TempDir::new().unwrap();
        let installation = Installation::prepare(binary(), directory.path(), Audit::Off);
        let line = Relay::to_nobody().await;
        let server = start_behind(checked(installation).named(node_id), Some(&line)).await;
        checked(server.join(&self.server, &self.secrets.unseal_key).await);
        Self {
            server,
            secrets: Arc::clone(&self.secrets),
            directory,
            cluster_line: Some(line),
        }
    }

    /// Starts a partition between this member and `others`.
    #[must_use]
    pub fn separate<'a>(&self, others: impl IntoIterator<Item = &'a Self>) -> Partition {
        let switch = |member: &Self| member.cluster_line.as_ref().map(Relay::switch);
        let inward = switch(self).into_iter();
        inward.clone().for_each(|line| line.set(Line::Held));
        let process = self.pid().as_raw_nonzero().get().unsigned_abs();
        let outward: Vec<_> = others.into_iter().filter_map(switch).collect();
        outward
            .iter()
            .for_each(|line| line.set(Line::HeldFrom(process)));
        Partition(inward.chain(outward).collect())
    }

    /// Whether this server is the active one of its cluster.
    pub async fn is_active(&self) -> bool {
        // In every other state the response has an error status.
        self.admin().read("sys/health").await.is_ok()
    }

    /// Makes the active server of a cluster step down.
    ///
    /// # Panics
    /// When the request fails.
    pub async fn step_down(&self) {
        checked(self.admin().write("sys/step-down", &json!({})).await);
    }

    /// An admin client with the root token, for use in the current async runtime.
    ///
    /// # Panics
    /// When the client cannot be created.
    #[must_use]
    pub fn admin(&self) -> Admin<'_> {
        checked(self.server.admin(&self.secrets.root_token))
    }

    /// Root token and unseal key.
    #[must_use]
    pub fn secrets(&self) -> &Secrets {
        &self.secrets
    }

    /// Address and CA for clients.
    #[must_use]
    pub fn endpoint(&self) -> Endpoint {
        self.server.endpoint()
    }

    /// The PEM file with the server's CA.
    #[must_use]
    pub fn ca_file(&self) -> PathBuf {
        self.server.ca_file()
    }

    /// The audit log: one JSON document a line.
    #[must_use]
    pub fn audit_log(&self) -> PathBuf {
        self.server.audit_log()
    }

    /// Seals the server.
    ///
    /// # Panics
    /// When the request fails.
    pub async fn seal(&mut self) {
        checked(self.server.seal(&self.secrets.root_token).await);
    }

    /// Unseals the server and waits until it is active.
    ///
    /// # Panics
    /// When the request fails.
    pub async fn unseal(&mut self) {
        checked(self.server.unseal(&self.secrets.unseal_key).await);
    }

    /// Unseals the server without waiting for an active one: a member of a cluster without a
    /// majority stays a standby.
    ///
    /// # Panics
    /// When the request fails.
    pub async fn enter_unseal_key(&self) {
        let admin = checked(Admin::new(self.endpoint(), None));
        let share = json!({"key": self.secrets.unseal_key.expose()});
        checked(admin.write("sys/unseal", &share).await);
    }

    /// Suspends the server's process.
    ///
    /// # Panics
    /// When the process is missing.
    #[must_use]
    pub fn hang(&self) -> HungOpenBao {
        let server = self.pid();
        kill_process(server, Signal::STOP).unwrap();
        HungOpenBao(server)
    }

    /// The process of the server.
    ///
    /// # Panics
    /// When the process is missing.
    #[must_use]
    pub fn pid(&self) -> Pid {
        let config = format!("-config={}/server.hcl", self.directory.path().display());
        let serves = |pid: &Pid| {
            let path = format!("/proc/{}/cmdline", pid.as_raw_nonzero());
            let arguments = fs::read_to_string(path).unwrap_or_default();
            let mut arguments = arguments.split('\0');
            // Skip the guarding shell: its arguments include those of the server.
            arguments.next() != Some("/bin/sh") && arguments.any(|argument| argument == config)
        };

        let processes = fs::read_dir("/proc").unwrap().filter_map(|entry| {
            let name = entry.ok()?.file_name();
            Pid::from_raw(name.to_str()?.parse().ok()?)
        });
        processes.into_iter().find(serves).unwrap()
    }

    /// Writes the unseal key into a new file with mode 0600.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write_unseal_key(&self, file: &Path) {
        let key = self.secrets.unseal_key.expose();
        files::replace(file, key.as_bytes(), 0o600);
    }

    /// Saves a snapshot of the server into a new file.
    ///
    /// # Panics
    /// When the request fails.
    pub async fn save_snapshot(&self, file: &Path) {
        // The command has one home directory for each server, which tests share.
        static ONE_AT_A_TIME: sync::Mutex<()> = sync::Mutex::const_new(());
        let _turn = ONE_AT_A_TIME.lock().await;
        let token = &self.secrets.root_token;
        checked(self.server.save_snapshot(token, file).await);
    }

    /// Restores a snapshot of this server. It takes effect some moments later.
    ///
    /// # Panics
    /// When the request fails.
    pub async fn return_to_snapshot(&self, file: &Path) {
        let token = &self.secrets.root_token;
        checked(self.server.return_to_snapshot(token, file).await);
    }

    /// Unseals a member of a cluster and waits until the cluster has an active server.
    ///
    /// # Panics
    /// When the request fails.
    pub async fn unseal_member(&mut self) {
        checked(self.server.unseal_standby(&self.secrets.unseal_key).await);
    }

    /// Kills the server's process. Its address then refuses connections.
    ///
    /// # Panics
    /// When the process cannot be killed.
    #[must_use]
    pub fn kill(self) -> StoppedOpenBao {
        StoppedOpenBao {
            installation: checked(self.server.kill()),
            secrets: self.secrets,
            directory: self.directory,
            cluster_line: self.cluster_line,
        }
    }

    /// Stops the server gracefully. Its address then refuses connections.
    ///
    /// # Panics
    /// When the server cannot be stopped.
    pub async fn stop(self) -> StoppedOpenBao {
        StoppedOpenBao {
            installation: checked(self.server.stop().await),
            secrets: self.secrets,
            directory: self.directory,
            cluster_line: self.cluster_line,
        }
    }
}

impl AuditPipe {
    /// The reader thread ends with the last writer of the pipe.
    fn make(path: &Path) -> Self {
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mkfifoat(rustix::fs::CWD, path, mode).unwrap();

        // Both ends: one alone waits for the other.
        let writer = File::options().read(true).write(true).open(path).unwrap();
        let mut pipe = File::open(path).unwrap();
        let gate = Arc::new(Mutex::new(()));
        let passing = Arc::clone(&gate);
        thread::spawn(move || {
            let mut read = [0; 4096];
            while let Ok(1..) = pipe.read(&mut read) {
                drop(passing.lock());
            }
        });
        Self {
            gate,
            _writer: writer,
        }
    }

    /// Stops reading. The server blocks once the pipe is full.
    #[must_use]
    pub fn block(&self) -> BlockedAudit<'_> {
        BlockedAudit(self.gate.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Starts a server. Other members of its cluster reach it through `line` only.
async fn start_behind(installation: Installation, line: Option<&Relay>) -> Server {
    let Some(line) = line else {
        return checked(installation.start().await);
    };
    let server = checked(installation.reached_at(&line.address).start().await);
    line.lead_to_port(server.cluster_port().unwrap());
    server
}

impl Drop for Partition {
    fn drop(&mut self) {
        self.0.iter().for_each(|line| line.set(Line::Open));
    }
}

impl Drop for HungOpenBao {
    fn drop(&mut self) {
        kill_process(self.0, Signal::CONT).ok();
    }
}

impl UninitializedOpenBao {
    /// Address and CA for clients.
    #[must_use]
    pub fn endpoint(&self) -> Endpoint {
        self.server.endpoint()
    }

    /// The PEM file with the server's CA.
    #[must_use]
    pub fn ca_file(&self) -> PathBuf {
        self.server.ca_file()
    }
}

impl StoppedOpenBao {
    /// Starts the server again with the same data, address and CA. It is sealed.
    ///
    /// # Panics
    /// When the server fails to start.
    pub async fn start_sealed(self) -> OpenBao {
        OpenBao {
            server: checked(self.installation.start().await),
            secrets: self.secrets,
            directory: self.directory,
            cluster_line: self.cluster_line,
        }
    }

    /// As [`Self::start_sealed`], then unseals it as one member of a two-member cluster. The other
    /// member is lost, so this one stays a standby.
    ///
    /// # Panics
    /// When the server fails to start.
    pub async fn start_without_majority(self) -> OpenBao {
        // OpenBao reads `peers.json` at its start to recover a cluster from lost members.
        let peer = |id: &str, port: u16| {
            let address = format!("127.0.0.1:{port}");
            serde_json::json!({"id": id, "address": address, "non_voter": false})
        };
        let port = self.installation.cluster_port().unwrap_or_default();
        let peers = serde_json::json!([peer(LONE_NODE, port), peer("gone", 1)]);
        let file = self.directory.path().join("raft/raft/peers.json");
        files::replace(&file, peers.to_string().as_bytes(), 0o600);
        let server = self.start_sealed().await;
        server.enter_unseal_key().await;
        server
    }

    /// Deletes all data, as a lost disk does. The next start finds an uninitialized server with the
    /// same address and CA.
    ///
    /// # Panics
    /// When the data cannot be removed.
    pub fn erase(&self) {
        let data = self.directory.path().join("raft");
        fs::remove_dir_all(&data).unwrap();
        files::directory(&data, 0o700);
    }

    /// As [`Self::start_sealed`], then unseals it.
    ///
    /// # Panics
    /// When the server fails to start.
    pub async fn start(self) -> OpenBao {
        let mut server = self.start_sealed().await;
        server.unseal().await;
        server
    }
}

/// The CAs of all members of a cluster as one PEM text.
///
/// # Panics
/// When a CA file cannot be read.
#[must_use]
pub fn cluster_ca(members: &[OpenBao]) -> String {
    let ca = |member: &OpenBao| fs::read_to_string(member.ca_file()).unwrap();
    members.iter().map(ca).collect()
}

/// Returns the value, or fails the test with the error and all its causes.
#[track_caller]
#[expect(clippy::panic, reason = "a failed set-up fails the test")]
pub(crate) fn checked<T>(result: Result<T, impl Error>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => {
            let mut message = error.to_string();
            let mut source = error.source();
            while let Some(cause) = source {
                message.push_str(&format!(": {cause}"));
                source = cause.source();
            }
            panic!("{message}")
        }
    }
}
