//! One control-plane node: a tenant of the server, a place for the socket, a configuration, and
//! the program to run with them.

use std::{
    path::PathBuf,
    process::{Command, Output},
    sync::Arc,
    thread,
    time::Duration,
};

use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::{
    files::{self, SocketDir},
    openbao::{OpenBao, shared_openbao},
    tenant::{KEY, Tenant, Timing},
};

use crate::provider::Provider;

/// Probes often, and is patient with a machine that runs many tests at once.
pub(crate) const TIMING: Timing = Timing {
    probe_interval: Duration::from_millis(200),
    deep_probe_interval: Duration::from_millis(500),
    max_staleness: Duration::from_secs(60),
    activation_delay: Duration::from_millis(300),
    stable_observations: 2,
    grace_timeout: Duration::from_secs(30),
    retry_interval: Duration::from_millis(100),
};

/// Probes at the start alone, so that every further call to OpenBao is a request's.
pub(crate) const QUIET: Timing = Timing {
    probe_interval: Duration::from_secs(3600),
    deep_probe_interval: Duration::from_secs(3600),
    max_staleness: Duration::from_secs(7200),
    ..TIMING
};

/// Gives up at the first failure of a start.
pub(crate) const IMPATIENT: Timing = Timing {
    grace_timeout: Duration::from_millis(10),
    ..TIMING
};

/// Dropped, it asserts that the next start could use the state that the test has left.
pub(crate) struct Node {
    pub(crate) tenant: Arc<Tenant>,
    pub(crate) sockets: SocketDir,
    /// Written anew for every run.
    pub(crate) config: Value,
    /// State, configuration and output.
    directory: TempDir,
}

/// What a command left behind.
#[derive(Debug)]
pub(crate) struct Finished {
    /// `None` after a signal.
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Node {
    /// A node of the shared server.
    pub(crate) async fn new(timing: Timing) -> Self {
        Self::on(shared_openbao().await, timing).await
    }

    pub(crate) async fn on(server: &OpenBao, timing: Timing) -> Self {
        Self::of(Tenant::new(server).await, timing)
    }

    pub(crate) fn of(tenant: Tenant, timing: Timing) -> Self {
        Self::sharing(Arc::new(tenant), timing)
    }

    /// Another node of the same cluster, with a state of its own.
    pub(crate) fn peer(&self, timing: Timing) -> Self {
        Self::sharing(Arc::clone(&self.tenant), timing)
    }

    fn sharing(tenant: Arc<Tenant>, timing: Timing) -> Self {
        let sockets = SocketDir::new();
        let directory = TempDir::new().unwrap();
        let state = directory.path().join("state");
        files::directory(&state, 0o750);
        let mut config = tenant.config(&sockets, timing);
        config["state"]["path"] = json!(state.join("key-registry.json"));
        config["openbao"]["timeout"] = json!("10s");
        config["logging"] = json!({"level": "debug", "format": "json"});
        Self {
            tenant,
            sockets,
            config,
            directory,
        }
    }

    /// The program with this node's configuration and nothing of our own environment.
    pub(crate) fn program(&self, arguments: &[&str]) -> Command {
        let mut command = program();
        self.sockets.set_environment(&mut command);
        command
            .args(arguments)
            .arg("--config")
            .arg(self.write_config());
        command
    }

    /// Writes the configuration; JSON is YAML too.
    pub(crate) fn write_config(&self) -> PathBuf {
        let path = self.directory.path().join("config.yaml");
        files::replace(&path, format!("{:#}", self.config).as_bytes(), 0o640);
        path
    }

    /// Runs a command to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Finished {
        self.program(arguments).output().unwrap().into()
    }

    /// Starts `serve` and does not wait.
    pub(crate) fn spawn(&self) -> Provider {
        self.spawn_with(&[])
    }

    pub(crate) fn spawn_with(&self, options: &[&str]) -> Provider {
        self.spawn_as(self.program(&[&["serve"], options].concat()))
    }

    /// Starts `command` as this node's provider.
    pub(crate) fn spawn_as(&self, command: Command) -> Provider {
        Provider::spawn(command, self.directory.path(), self.sockets.socket())
    }

    /// Starts `serve` and waits until the socket accepts calls.
    pub(crate) async fn serve(&self) -> Provider {
        let mut provider = self.spawn();
        provider.ready().await;
        provider
    }

    /// A start that must end by itself.
    pub(crate) async fn refused(&self) -> Finished {
        self.spawn().ended().await
    }

    pub(crate) fn state_dir(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    pub(crate) fn state_file(&self) -> PathBuf {
        self.state_dir().join("key-registry.json")
    }

    pub(crate) fn checkpoint(&self) -> PathBuf {
        self.state_dir().join("key-registry.json.checkpoint")
    }

    /// What `inspect-state` says of the state and its checkpoint, which must be valid.
    pub(crate) fn inspect(&self) -> Value {
        self.run(&["inspect-state", "--output", "json"]).json()
    }

    /// What `key-id` says about the key's version 1.
    pub(crate) async fn key_id(&self) -> Value {
        let metadata = shared_openbao()
            .await
            .admin()
            .read(&format!("{}/keys/{KEY}", self.tenant.transit_mount))
            .await
            .unwrap();
        let metadata: Value = metadata.json().unwrap();
        let created_at = metadata["data"]["keys"]["1"].to_string();
        let created_at = ["--created-at", &created_at, "--output", "json"];
        self.run(&[&["key-id", "--version", "1"][..], &created_at].concat())
            .json()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let has_state = self.state_file().exists() || self.checkpoint().exists();
        if has_state && !thread::panicking() {
            self.inspect();
        }
    }
}

/// The program with an empty environment.
pub(crate) fn program() -> Command {
    let built = env!("CARGO_BIN_EXE_bao-kms-provider").into();
    let path = std::env::var_os("BAO_KMS_PROVIDER_BIN").unwrap_or(built);
    let mut command = Command::new(path);
    command.env_clear();
    command
}

impl Finished {
    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.code, Some(0), "{}", self.err);
        serde_json::from_str(&self.out).unwrap()
    }

    /// Asserts this exit code, and one message for a person that says all of `parts`.
    #[track_caller]
    pub(crate) fn assert_refused(&self, code: i32, parts: &[&str]) {
        let Self { err, .. } = self;
        assert_eq!(self.code, Some(code), "{err}");
        let (_, message) = err.split_once("error: ").unwrap_or_else(|| panic!("{err}"));
        for part in parts {
            assert!(message.contains(part), "{part:?} is missing: {message}");
        }
        for line in message.lines().skip(1) {
            let known = ["  cause: ", "  - ", "  next: "];
            assert!(known.iter().any(|start| line.starts_with(start)), "{err}");
        }
        for noise in ["error: ", "panicked", "RUST_BACKTRACE"] {
            assert!(!message.contains(noise), "{err}");
        }
    }
}

impl From<Output> for Finished {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}
