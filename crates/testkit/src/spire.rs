//! A real SPIRE: a server and one agent, on loopback, for processes of the user of the tests.

#![expect(clippy::unwrap_used, reason = "a failed set-up fails the test")]

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

use openbao_lab::port::free_port;
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    daemon::{Daemon, SOON, program},
    files,
    pki::Authority,
    wait::wait_until,
};

const INSTALL: &str = "cargo xtask tools --kubernetes";
const TRUST_DOMAIN: &str = "harbor.test";

/// Life of JWT-SVIDs, in seconds. The agent keeps one for half of it.
const SVID_LIFE: &str = "600";

/// A server and its agent, running or stopped. Drop kills both and removes their directory.
pub struct Spire {
    // Dropped first, while their files still exist.
    agent: Option<Daemon>,
    #[expect(dead_code, reason = "runs until this is dropped")]
    server: Daemon,
    directory: TempDir,
    bundle_port: u16,
    /// SPIFFE ID of the agent.
    agent_id: String,
}

impl Spire {
    /// Starts server and agent, without registration entries.
    ///
    /// # Panics
    /// When one fails to start or its program is missing. The message has the command to install it.
    pub async fn start() -> Self {
        let directory = TempDir::new().unwrap();
        let root = directory.path();
        Authority::new(root).server("bundle");
        let (port, bundle_port) = (free_port().unwrap(), free_port().unwrap());
        write_server_config(root, port, bundle_port);
        write_agent_config(root, port);

        let arguments = ["run", "-config", &path_in(root, "server.conf")].map(str::to_owned);
        let mut server = Daemon::spawn(&server_program(), &arguments, &root.join("server.log"));
        server
            .ready(async || ask_server(root, &["healthcheck"]).status.success())
            .await;

        let token = ask_server(root, &["token", "generate", "-output", "json"]);
        let token: Value = serde_json::from_slice(&token.stdout).unwrap();
        let token = token["value"].as_str().unwrap();
        let mut spire = Self {
            agent: None,
            server,
            bundle_port,
            agent_id: format!("spiffe://{TRUST_DOMAIN}/spire/agent/join_token/{token}"),
            directory,
        };
        spire.start_agent_with(&["-joinToken", token]).await;
        spire
    }

    /// Starts the stopped agent, with the same identity and socket and without cached SVIDs.
    ///
    /// # Panics
    /// When it fails to start.
    pub async fn start_agent(&mut self) {
        self.start_agent_with(&[]).await;
    }

    async fn start_agent_with(&mut self, more: &[&str]) {
        let config = self.file("agent.conf").display().to_string();
        let arguments: Vec<_> = ["run", "-config", &config]
            .iter()
            .chain(more)
            .map(|&text| text.to_owned())
            .collect();
        let mut agent = Daemon::spawn(&agent_program(), &arguments, &self.file("agent.log"));
        let socket = self.file("agent.sock");
        agent
            .ready(async || {
                let mut check = Command::new(agent_program());
                check.arg("healthcheck").arg("-socketPath").arg(&socket);
                check.output().unwrap().status.success()
            })
            .await;
        self.agent = Some(agent);
    }

    /// Kills the agent. Its socket then refuses connections.
    pub fn kill_agent(&mut self) {
        self.agent = None;
    }

    /// A SPIFFE ID of the trust domain.
    #[must_use]
    pub fn id(&self, path: &str) -> String {
        format!("spiffe://{TRUST_DOMAIN}/{path}")
    }

    /// SPIFFE ID of the agent.
    #[must_use]
    pub fn agent_id(&self) -> &str {
        &self.agent_id
    }

    /// A script that passes its arguments to `spire-server`, for this server.
    #[must_use]
    pub fn server_command(&self) -> String {
        let (program, socket) = (server_program(), self.file("server.sock"));
        format!(
            "#!/bin/sh\nexec {} \"$@\" -socketPath {}\n",
            program.display(),
            socket.display()
        )
    }

    /// The `iss` of its JWT-SVIDs.
    #[must_use]
    pub fn issuer(&self) -> &'static str {
        "https://spire.harbor.test"
    }

    /// URI of the Workload API.
    #[must_use]
    pub fn workload_api(&self) -> String {
        format!("unix://{}", self.file("agent.sock").display())
    }

    /// URI of the server's own API, which has no Workload API.
    #[must_use]
    pub fn server_api(&self) -> String {
        format!("unix://{}", self.file("server.sock").display())
    }

    /// URL of the trust bundle, with the public keys of JWT-SVIDs.
    #[must_use]
    pub fn bundle_url(&self) -> String {
        format!("https://127.0.0.1:{}", self.bundle_port)
    }

    /// The PEM file with the CA of [`Self::bundle_url`].
    #[must_use]
    pub fn ca_file(&self) -> PathBuf {
        self.file("ca.crt")
    }

    /// Registers the user of the tests with this SPIFFE ID, and waits until the agent has the entry.
    ///
    /// # Panics
    /// When the server refuses.
    pub async fn register(&self, spiffe_id: &str) {
        let user = format!("unix:uid:{}", rustix::process::getuid().as_raw());
        self.ask(&[
            "entry",
            "create",
            "-entryID",
            "kms",
            "-parentID",
            &self.agent_id,
            "-spiffeID",
            spiffe_id,
            "-selector",
            &user,
            "-jwtSVIDTTL",
            SVID_LIFE,
        ]);
        self.wait_for_entry(spiffe_id).await;
    }

    /// Waits until the agent issues SVIDs of this SPIFFE ID to the user of the tests.
    ///
    /// # Panics
    /// When it does not.
    pub async fn wait_for_entry(&self, spiffe_id: &str) {
        let mut fetch = Command::new(agent_program());
        fetch
            .args(["api", "fetch", "jwt", "-audience", "test", "-spiffeID"])
            .arg(spiffe_id)
            .arg("-socketPath")
            .arg(self.file("agent.sock"));
        wait_until(SOON, "the entry at the agent", async || {
            fetch.output().unwrap().status.success()
        })
        .await;
    }

    /// Removes the entry of [`Self::register`]. The agent follows within a second.
    ///
    /// # Panics
    /// When the server refuses.
    pub fn deregister(&self) {
        self.ask(&["entry", "delete", "-entryID", "kms"]);
    }

    /// Signs new JWT-SVIDs with a new key, whose public key the bundle then has.
    ///
    /// # Panics
    /// When the server refuses.
    pub async fn rotate_key(&self) {
        let prepared = self.ask(&["localauthority", "jwt", "prepare", "-output", "json"]);
        let prepared: Value = serde_json::from_slice(&prepared).unwrap();
        let key = prepared["prepared_authority"]["authority_id"]
            .as_str()
            .unwrap();
        self.ask(&["localauthority", "jwt", "activate", "-authorityID", key]);
        wait_until(SOON, "the new key in the bundle", async || {
            let bundle = self.ask(&["bundle", "show", "-format", "spiffe"]);
            String::from_utf8_lossy(&bundle).contains(key)
        })
        .await;
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn ask(&self, arguments: &[&str]) -> Vec<u8> {
        let answer = ask_server(self.directory.path(), arguments);
        let said = String::from_utf8_lossy(&answer.stderr);
        assert!(answer.status.success(), "{arguments:?}: {said}");
        answer.stdout
    }
}

/// Runs a command of the server's administration.
fn ask_server(root: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(server_program());
    command
        .args(arguments)
        .arg("-socketPath")
        .arg(root.join("server.sock"));
    command.output().unwrap()
}

fn path_in(root: &Path, name: &str) -> String {
    root.join(name).display().to_string()
}

fn write_server_config(root: &Path, port: u16, bundle_port: u16) {
    let file = |name: &str| path_in(root, name);
    let config = format!(
        r#"server {{
    bind_address = "127.0.0.1"
    bind_port = "{port}"
    socket_path = "{socket}"
    trust_domain = "{TRUST_DOMAIN}"
    data_dir = "{data}"
    jwt_issuer = "https://spire.harbor.test"
    federation {{
        bundle_endpoint {{
            address = "127.0.0.1"
            port = {bundle_port}
            profile "https_web" {{
                serving_cert_file {{
                    cert_file_path = "{certificate}"
                    key_file_path = "{key}"
                    file_sync_interval = "1h"
                }}
            }}
        }}
    }}
}}
plugins {{
    DataStore "sql" {{
        plugin_data {{
            database_type = "sqlite3"
            connection_string = "{database}"
        }}
    }}
    NodeAttestor "join_token" {{ plugin_data {{}} }}
    KeyManager "memory" {{ plugin_data {{}} }}
}}
"#,
        socket = file("server.sock"),
        data = file("server"),
        certificate = file("bundle.crt"),
        key = file("bundle.key"),
        database = file("server.sqlite3"),
    );
    files::replace(&root.join("server.conf"), config.as_bytes(), 0o600);
}

fn write_agent_config(root: &Path, port: u16) {
    let file = |name: &str| path_in(root, name);
    let config = format!(
        r#"agent {{
    server_address = "127.0.0.1"
    server_port = "{port}"
    socket_path = "{socket}"
    trust_domain = "{TRUST_DOMAIN}"
    data_dir = "{data}"
    insecure_bootstrap = true
    experimental {{ sync_interval = "1s" }}
}}
plugins {{
    NodeAttestor "join_token" {{ plugin_data {{}} }}
    KeyManager "disk" {{ plugin_data {{ directory = "{data}" }} }}
    WorkloadAttestor "unix" {{ plugin_data {{}} }}
}}
"#,
        socket = file("agent.sock"),
        data = file("agent"),
    );
    files::replace(&root.join("agent.conf"), config.as_bytes(), 0o600);
}

fn server_program() -> PathBuf {
    program("SPIRE_SERVER", "kubernetes/spire-server", INSTALL)
}

fn agent_program() -> PathBuf {
    program("SPIRE_AGENT", "kubernetes/spire-agent", INSTALL)
}
