//! Real servers: one shared by all tests of a process, or a private one to seal and stop.

#![expect(clippy::unwrap_used, reason = "a test without its server has failed")]

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
use tokio::sync::OnceCell;

use crate::{
    files,
    relay::{Line, Relay, Switch},
    wait::wait_until,
};

/// A running, unsealed OpenBao of its own.
pub struct OpenBao {
    // The server goes first, so that its directory is quiet when it is removed.
    server: Server,
    /// Shared by the members of a cluster.
    secrets: Arc<Secrets>,
    directory: TempDir,
    /// What other members of its cluster send to it passes here.
    cluster_line: Option<Relay>,
}

/// The same while it is stopped.
pub struct StoppedOpenBao {
    installation: Installation,
    secrets: Arc<Secrets>,
    directory: TempDir,
    cluster_line: Option<Relay>,
}

/// A member that neither reaches the others nor is reached by them, while clients reach all. It ends
/// when this is dropped.
pub struct Partition(Vec<Switch>);

/// A server that is hung: connections are accepted, and nothing is answered. It goes on when this
/// is dropped.
pub struct HungOpenBao(Pid);

/// The audit log of a server as a pipe. A server whose audit log cannot be written answers nothing.
pub struct AuditPipe(Arc<Mutex<()>>);

/// Keeps the audit log from being read. Reading goes on when this is dropped.
pub struct BlockedAudit<'a>(#[expect(dead_code, reason = "held")] MutexGuard<'a, ()>);

/// A server that has no storage yet.
pub struct UninitializedOpenBao {
    // As above.
    server: Server,
    _directory: TempDir,
}

/// The server that all tests of this process share, started by the first of them. It cannot be
/// sealed or stopped; each test takes a [`Tenant`](crate::tenant::Tenant) of its own.
///
/// # Panics
/// When there is no OpenBao program, with the command that installs it, or it does not start.
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

/// Statics are never dropped, so a shell waits for our end and removes the directory. Its first
/// attempts may meet a server that is just being killed.
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

/// The program: as [`find_bao`] says, else as `cargo xtask tools` installed it for the workspace.
///
/// # Panics
/// When there is none, with the command that installs it.
#[must_use]
pub fn binary() -> BaoBinary {
    let installed = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(TOOLS_PATH);
    checked(find_bao(None).or_else(|error| find_bao(Some(&installed)).map_err(|_| error)))
}

impl OpenBao {
    /// Starts a private server, initialized, unsealed, with an audit log.
    ///
    /// # Panics
    /// When there is no OpenBao program, with the command that installs it, or it does not start.
    pub async fn start() -> Self {
        Self::start_in(TempDir::new().unwrap(), None).await
    }

    /// Starts a private server without storage: it was never initialized.
    ///
    /// # Panics
    /// When there is no OpenBao program, with the command that installs it, or it does not start.
    pub async fn start_uninitialized() -> UninitializedOpenBao {
        let directory = TempDir::new().unwrap();
        let installation = Installation::prepare(binary(), directory.path(), Audit::Off);
        UninitializedOpenBao {
            server: checked(checked(installation).start().await),
            _directory: directory,
        }
    }

    /// As [`Self::start`], with an audit log that can be blocked.
    ///
    /// # Panics
    /// As there, and when no pipe can be made.
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

    /// Starts a cluster of three: the first is active, the others are standbys. Each has a
    /// certificate of a CA of its own; [`cluster_ca`] trusts all of them.
    ///
    /// # Panics
    /// As [`Self::start`], and when a member does not join.
    pub async fn start_cluster() -> [Self; 3] {
        let line = Relay::to_nobody().await;
        let first = Self::start_in(TempDir::new().unwrap(), Some(line)).await;
        let admin = first.admin();
        // A new member has a vote only once it was healthy for this long, by default ten seconds.
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

    /// Separates this member of a cluster from these others.
    #[must_use]
    pub fn separate<'a>(&self, others: impl IntoIterator<Item = &'a Self>) -> Partition {
        let switch = |member: &Self| member.cluster_line.as_ref().map(Relay::switch);
        let inward = switch(self).into_iter();
        inward.clone().for_each(|line| line.set(Line::Held));
        let process = self.process().as_raw_nonzero().get().unsigned_abs();
        let outward: Vec<_> = others.into_iter().filter_map(switch).collect();
        outward
            .iter()
            .for_each(|line| line.set(Line::HeldFrom(process)));
        Partition(inward.chain(outward).collect())
    }

    /// Whether this server is the one of its cluster that does the work.
    pub async fn is_active(&self) -> bool {
        // Any state but active has an error status.
        self.admin().read("sys/health").await.is_ok()
    }

    /// Has the active server of a cluster give up its part to another one.
    ///
    /// # Panics
    /// When it refuses.
    pub async fn step_down(&self) {
        checked(self.admin().write("sys/step-down", &json!({})).await);
    }

    /// Calls with the root token, for use in the current async runtime.
    ///
    /// # Panics
    /// When no client can be made.
    #[must_use]
    pub fn admin(&self) -> Admin<'_> {
        checked(self.server.admin(&self.secrets.root_token))
    }

    /// What its operators keep.
    #[must_use]
    pub fn secrets(&self) -> &Secrets {
        &self.secrets
    }

    /// How a client reaches the server.
    #[must_use]
    pub fn endpoint(&self) -> Endpoint {
        self.server.endpoint()
    }

    /// The PEM file with the server's CA.
    #[must_use]
    pub fn ca_file(&self) -> PathBuf {
        self.server.ca_file()
    }

    /// What the server wrote about every request, one JSON document a line.
    #[must_use]
    pub fn audit_log(&self) -> PathBuf {
        self.server.audit_log()
    }

    /// Seals the server.
    ///
    /// # Panics
    /// When it refuses.
    pub async fn seal(&mut self) {
        checked(self.server.seal(&self.secrets.root_token).await);
    }

    /// Unseals the server and waits until it is active.
    ///
    /// # Panics
    /// When it refuses.
    pub async fn unseal(&mut self) {
        checked(self.server.unseal(&self.secrets.unseal_key).await);
    }

    /// Stops the server's process in the middle of whatever it does.
    ///
    /// # Panics
    /// When there is no such process.
    #[must_use]
    pub fn hang(&self) -> HungOpenBao {
        let server = self.process();
        kill_process(server, Signal::STOP).unwrap();
        HungOpenBao(server)
    }

    fn process(&self) -> Pid {
        let config = format!("-config={}/server.hcl", self.directory.path().display());
        let serves = |pid: &Pid| {
            let path = format!("/proc/{}/cmdline", pid.as_raw_nonzero());
            let arguments = fs::read_to_string(path).unwrap_or_default();
            let mut arguments = arguments.split('\0');
            // The shell that guards the server has the same arguments after its own.
            arguments.next() != Some("/bin/sh") && arguments.any(|argument| argument == config)
        };
        let processes = fs::read_dir("/proc").unwrap().filter_map(|entry| {
            let name = entry.ok()?.file_name();
            Pid::from_raw(name.to_str()?.parse().ok()?)
        });
        processes.into_iter().find(serves).unwrap()
    }

    /// Writes the one unseal key into a new file that only this user can read.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write_unseal_key(&self, file: &Path) {
        let key = self.secrets.unseal_key.expose();
        files::replace(file, key.as_bytes(), 0o600);
    }

    /// Saves all data of the server into a new file.
    ///
    /// # Panics
    /// When it refuses.
    pub async fn save_snapshot(&self, file: &Path) {
        let token = &self.secrets.root_token;
        checked(self.server.save_snapshot(token, file).await);
    }

    /// Takes the server back to a snapshot of its own, some moments later.
    ///
    /// # Panics
    /// When it refuses.
    pub async fn return_to_snapshot(&self, file: &Path) {
        let token = &self.secrets.root_token;
        checked(self.server.return_to_snapshot(token, file).await);
    }

    /// Unseals a member of a cluster and waits until the cluster has an active server.
    ///
    /// # Panics
    /// When it refuses.
    pub async fn unseal_member(&mut self) {
        checked(self.server.unseal_standby(&self.secrets.unseal_key).await);
    }

    /// Kills the server's process; its address refuses connections from now on.
    ///
    /// # Panics
    /// When it cannot be killed.
    #[must_use]
    pub fn kill(self) -> StoppedOpenBao {
        StoppedOpenBao {
            installation: checked(self.server.kill()),
            secrets: self.secrets,
            directory: self.directory,
            cluster_line: self.cluster_line,
        }
    }

    /// Stops the server; its address refuses connections from now on.
    ///
    /// # Panics
    /// When it cannot be stopped.
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
    /// The reader ends with the server, which holds the other end.
    fn make(path: &Path) -> Self {
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mkfifoat(rustix::fs::CWD, path, mode).unwrap();
        let gate = Arc::new(Mutex::new(()));
        let (path, passing) = (path.to_owned(), Arc::clone(&gate));
        thread::spawn(move || {
            let mut pipe = File::open(path).unwrap();
            let mut read = [0; 4096];
            while let Ok(1..) = pipe.read(&mut read) {
                drop(passing.lock());
            }
        });
        Self(gate)
    }

    /// The server blocks once the pipe is full.
    #[must_use]
    pub fn block(&self) -> BlockedAudit<'_> {
        BlockedAudit(self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Starts a server that the others of its cluster reach through `line` alone.
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
    /// How a client reaches the server.
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
    /// Starts the server again, with the same data, address and CA, but sealed.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start_sealed(self) -> OpenBao {
        OpenBao {
            server: checked(self.installation.start().await),
            secrets: self.secrets,
            directory: self.directory,
            cluster_line: self.cluster_line,
        }
    }

    /// As [`Self::start_sealed`], then unseals it as one of two servers of a cluster, the other of
    /// which is gone: it stays a standby.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start_without_majority(self) -> OpenBao {
        // By its own way to change a cluster that has lost servers.
        let peer = |id: &str, port: u16| {
            let address = format!("127.0.0.1:{port}");
            serde_json::json!({"id": id, "address": address, "non_voter": false})
        };
        let port = self.installation.cluster_port().unwrap_or_default();
        let peers = serde_json::json!([peer(LONE_NODE, port), peer("gone", 1)]);
        let file = self.directory.path().join("raft/raft/peers.json");
        files::replace(&file, peers.to_string().as_bytes(), 0o600);
        let server = self.start_sealed().await;
        let key = server.secrets.unseal_key.expose();
        let admin = checked(Admin::new(server.endpoint(), None));
        let unseal = serde_json::json!({"key": key});
        let _answer = checked(admin.write("sys/unseal", &unseal).await);
        server
    }

    /// Destroys all its data, as a lost disk does. The next start finds a server that was never
    /// initialized, with the same address and CA.
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
    /// When it does not start.
    pub async fn start(self) -> OpenBao {
        let mut server = self.start_sealed().await;
        server.unseal().await;
        server
    }
}

/// The CAs of all members of a cluster as one PEM text.
///
/// # Panics
/// When one cannot be read.
#[must_use]
pub fn cluster_ca(members: &[OpenBao]) -> String {
    let ca = |member: &OpenBao| fs::read_to_string(member.ca_file()).unwrap();
    members.iter().map(ca).collect()
}

/// The value, or a failed test that shows every cause.
#[track_caller]
#[expect(clippy::panic, reason = "a failed set-up is a failed test")]
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
