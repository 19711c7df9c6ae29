//! One control-plane node: a tenant of the server, a place for the socket, a configuration, and
//! the program to run with them.

use std::{
    collections::BTreeMap,
    fs,
    os::{fd::OwnedFd, unix::net::UnixListener},
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::Arc,
    thread,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use kms_node::kms_api::generated::DecryptRequest;
use openbao_lab::admin::transit::{KeyConfig, NewKey};
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::{
    files::{self, SocketDir},
    openbao::{OpenBao, shared_openbao},
    schema::assert_published,
    tenant::{KEY, Tenant, Timing},
    wait::wait_until,
};

use crate::provider::{LogReader, Provider, SOON};

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

    /// Runs a command line of a report, which names the configuration itself.
    pub(crate) fn run_printed(&self, arguments: &[&str]) -> Finished {
        let mut command = program();
        self.sockets.set_environment(&mut command);
        command.args(arguments).output().unwrap().into()
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

    /// Starts `command` with the listener of a service manager, as a shell's standard input becomes
    /// descriptor 3.
    pub(crate) fn spawn_activated(&self, listener: &UnixListener) -> Provider {
        let built = program();
        self.spawn_activated_as(Path::new(built.get_program()), listener)
    }

    /// The same with another build of the program.
    pub(crate) fn spawn_activated_as(&self, build: &Path, listener: &UnixListener) -> Provider {
        let program = self.program(&["serve"]);
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", r#"LISTEN_PID=$$ exec "$0" "$@" 3<&0 </dev/null"#])
            .arg(build)
            .args(program.get_args())
            .env_clear()
            .envs(
                program
                    .get_envs()
                    .filter_map(|(name, value)| Some((name, value?))),
            )
            .env("LISTEN_FDS", "1");
        let stdin = OwnedFd::from(listener.try_clone().unwrap());
        let directory = self.directory.path();
        Provider::spawn_on(stdin.into(), command, directory, self.sockets.socket())
    }

    /// Starts `serve` with a reader of its log that may stall.
    pub(crate) fn spawn_with_reader(&self) -> (Provider, LogReader) {
        let command = self.program(&["serve"]);
        let directory = self.directory.path();
        Provider::spawn_with_reader(command, directory, self.sockets.socket())
    }

    /// Starts `serve` with at most this many file descriptors.
    pub(crate) fn spawn_with_descriptors(&self, most: u32) -> Provider {
        let program = self.program(&["serve"]);
        let mut command = Command::new("/bin/sh");
        command
            .arg("-c")
            .arg(format!(r#"ulimit -n {most} && exec "$0" "$@""#))
            .arg(program.get_program())
            .args(program.get_args())
            .env_clear()
            .envs(
                program
                    .get_envs()
                    .filter_map(|(name, value)| Some((name, value?))),
            );
        self.spawn_as(command)
    }

    /// Starts `serve` with a wall clock that differs by the content of a file, such as `+2h`.
    pub(crate) fn spawn_with_clock(&self, offset: &Path) -> Provider {
        let mut command = self.program(&["serve"]);
        command
            .env("LD_PRELOAD", faketime())
            .env("FAKETIME_TIMESTAMP_FILE", offset)
            .env("FAKETIME_NO_CACHE", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        self.spawn_as(command)
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

    /// The versions in the state with what they are.
    pub(crate) fn versions(&self) -> BTreeMap<u64, String> {
        let inspected = self.inspect();
        let records = inspected["records"].as_array().unwrap().iter();
        records
            .map(|record| {
                let state = record["state"].as_str().unwrap().to_owned();
                (record["transitVersion"].as_u64().unwrap(), state)
            })
            .collect()
    }

    /// Adds a version to the key.
    pub(crate) async fn rotate(&self) {
        let admin = shared_openbao().await.admin();
        let mount = &self.tenant.transit_mount;
        admin.rotate_key(mount, KEY).await.unwrap();
    }

    pub(crate) async fn configure_key(&self, config: KeyConfig) {
        let admin = shared_openbao().await.admin();
        let mount = &self.tenant.transit_mount;
        admin.configure_key(mount, KEY, config).await.unwrap();
    }

    /// Deletes the key and creates another one of its name, in a later second than those of all its
    /// versions: a version of the same number and second could not be told apart.
    pub(crate) async fn recreate_key(&self) {
        let admin = shared_openbao().await.admin();
        let mount = &self.tenant.transit_mount;
        let newest = async || {
            let path = format!("{mount}/keys/{KEY}");
            let metadata: Value = admin.read(&path).await.unwrap().json().unwrap();
            let keys = metadata["data"]["keys"].as_object().unwrap().values();
            keys.map(|second| second.as_u64().unwrap()).max().unwrap()
        };
        let before = newest().await;
        wait_until(SOON, "a key of another second", async || {
            let deletable = KeyConfig {
                deletion_allowed: Some(true),
                ..KeyConfig::default()
            };
            self.configure_key(deletable).await;
            admin.delete_key(mount, KEY).await.unwrap();
            let new = NewKey::default();
            admin.create_key(mount, KEY, &new).await.unwrap();
            newest().await > before
        })
        .await;
    }

    /// Grants what `policy openbao` prints, after a change.
    pub(crate) async fn grant(&self, change: impl FnOnce(String) -> String) {
        let printed = self.run(&["policy", "openbao"]);
        assert_eq!(printed.code, Some(0), "{}", printed.err);
        let admin = shared_openbao().await.admin();
        let policy = change(printed.out);
        let granted = admin.write_policy(&self.tenant.policy, &policy).await;
        granted.unwrap();
    }

    /// What `key-id` says about the key's version 1.
    pub(crate) async fn key_id(&self) -> Value {
        self.key_id_of(1).await
    }

    /// What `key-id` says about a version of the key.
    pub(crate) async fn key_id_of(&self, version: u64) -> Value {
        let admin = shared_openbao().await.admin();
        let path = format!("{}/keys/{KEY}", self.tenant.transit_mount);
        let metadata: Value = admin.read(&path).await.unwrap().json().unwrap();
        let version = version.to_string();
        let created_at = metadata["data"]["keys"][&version].to_string();
        let of = ["key-id", "--version", &version, "--created-at", &created_at];
        self.run(&[&of[..], &["--output", "json"]].concat()).json()
    }

    /// What a peer that has promoted `version` has stored: encrypted without this node.
    pub(crate) async fn stored_by_peer(&self, version: u64, plaintext: &[u8]) -> DecryptRequest {
        let derived = self.key_id_of(version).await;
        let body = json!({
            "plaintext": STANDARD.encode(plaintext),
            "associated_data": derived["associatedDataBase64"],
            "key_version": version,
        });
        let admin = shared_openbao().await.admin();
        let path = format!("{}/encrypt/{KEY}", self.tenant.transit_mount);
        let answer: Value = admin.write(&path, &body).await.unwrap().json().unwrap();
        let bytes = |value: &Value| Bytes::copy_from_slice(value.as_str().unwrap().as_bytes());
        let annotations = derived["annotations"].as_object().unwrap().iter();
        DecryptRequest {
            ciphertext: bytes(&answer["data"]["ciphertext"]),
            uid: "test".to_owned(),
            key_id: derived["keyId"].as_str().unwrap().to_owned(),
            annotations: annotations
                .map(|(name, value)| (name.clone(), bytes(value)))
                .collect(),
        }
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

/// The library that fakes the time of a program, from Debian.
fn faketime() -> PathBuf {
    let places = fs::read_dir("/usr/lib").unwrap();
    let mut places = places.map(|place| place.unwrap().path());
    let library = places.find_map(|place| {
        let library = place.join("faketime/libfaketimeMT.so.1");
        library.exists().then_some(library)
    });
    library.unwrap_or_else(|| panic!("no libfaketime; install it with `apt-get install faketime`"))
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
    /// Fits its published schema.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.code, Some(0), "{}", self.err);
        let result = serde_json::from_str(&self.out).unwrap();
        assert_published(&result);
        result
    }

    /// A result of this exit code, with these parts.
    #[track_caller]
    pub(crate) fn assert_told(&self, code: i32, parts: &[&str]) {
        let Self { out, err, .. } = self;
        assert_eq!(self.code, Some(code), "{out}{err}");
        for part in parts {
            assert!(out.contains(part), "{part:?} is missing: {out}");
        }
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
            let known = [
                "  cause: ",
                "  - ",
                "  data: ",
                "  next: ",
                "        ",
                "  do not ",
            ];
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
