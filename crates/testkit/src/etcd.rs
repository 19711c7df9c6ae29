//! A real etcd of one member, over TLS on loopback, that only bearers of a client certificate may use.

#![expect(clippy::unwrap_used, reason = "a test without its server has failed")]

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use openbao_lab::port::free_port;
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    daemon::{Daemon, program},
    pki::Authority,
};

const INSTALL: &str = "cargo xtask tools";

/// A running etcd. Its directory is removed on drop.
pub struct Etcd {
    daemon: Daemon,
    endpoint: String,
    directory: TempDir,
}

/// An etcd that has ended properly.
pub struct StoppedEtcd {
    endpoint: String,
    directory: TempDir,
}

impl Etcd {
    /// Starts an empty etcd and waits until it is healthy.
    ///
    /// # Panics
    /// When there is no etcd program, with the command that installs it, or it does not start.
    pub async fn start() -> Self {
        let directory = TempDir::new().unwrap();
        let authority = Authority::new(directory.path());
        authority.server("server");
        authority.client("client", "etcd");
        let endpoint = format!("https://127.0.0.1:{}", free_port().unwrap());
        let stopped = StoppedEtcd {
            endpoint,
            directory,
        };
        stopped.start().await
    }

    /// The URL for clients.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// `ca.crt`, `client.crt` or `client.key`: what a client needs.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// What `etcdctl` prints on its standard output.
    ///
    /// # Panics
    /// When it fails.
    #[must_use]
    pub fn ctl(&self, arguments: &[&str]) -> Vec<u8> {
        succeeded(self.ctl_command(arguments).output().unwrap())
    }

    /// Where the member keeps everything.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// What is stored under a key now.
    ///
    /// # Panics
    /// When etcd does not answer.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<Vec<u8>> {
        let answer = self.ctl(&["get", key, "--write-out=json"]);
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        let value = answer["kvs"][0]["value"].as_str()?;
        Some(STANDARD.decode(value).unwrap())
    }

    /// Stores any bytes under a key.
    ///
    /// # Panics
    /// When etcd does not take it.
    pub fn put(&self, key: &str, value: &[u8]) {
        self.ctl_reading(&["put", key], value);
    }

    /// Does all the operations in one transaction, each written as for `etcdctl`: `put key value`,
    /// `del key`. Etcd takes up to 128.
    ///
    /// # Panics
    /// When it fails.
    pub fn transaction(&self, operations: &[String]) {
        let input = format!("\n{}\n\n\n", operations.join("\n"));
        self.ctl_reading(&["txn"], input.as_bytes());
    }

    /// Saves a snapshot as an operator does, with `etcdctl snapshot save`.
    ///
    /// # Panics
    /// When it fails.
    pub fn save_snapshot(&self, file: &Path) {
        let _progress = self.ctl(&["snapshot", "save", file.to_str().unwrap()]);
    }

    /// Switches access control on: from now on the bearer of the client certificate may read and write
    /// the keys below `prefix` alone.
    ///
    /// # Panics
    /// When it fails.
    pub fn restrict_to(&self, prefix: &str) {
        let below = format!("{prefix}/");
        for arguments in [
            &["user", "add", "root", "--no-password"][..],
            &["user", "grant-role", "root", "root"],
            &["role", "add", "limited"],
            &[
                "role",
                "grant-permission",
                "--prefix=true",
                "limited",
                "readwrite",
                &below,
            ],
            // The common name of the certificate.
            &["user", "add", "client", "--no-password"],
            &["user", "grant-role", "client", "limited"],
            &["auth", "enable"],
        ] {
            let _done = self.ctl(arguments);
        }
    }

    /// Stops etcd properly.
    ///
    /// # Panics
    /// When it does not end.
    pub async fn stop(self) -> StoppedEtcd {
        self.daemon.stop().await;
        StoppedEtcd {
            endpoint: self.endpoint,
            directory: self.directory,
        }
    }

    fn ctl_reading(&self, arguments: &[&str], input: &[u8]) {
        let mut ctl = self.ctl_command(arguments);
        let mut ctl = ctl
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        ctl.stdin.take().unwrap().write_all(input).unwrap();
        succeeded(ctl.wait_with_output().unwrap());
    }

    fn ctl_command(&self, arguments: &[&str]) -> Command {
        let mut ctl = Command::new(tool("etcdctl"));
        ctl.env_clear()
            .env("ETCDCTL_API", "3")
            .arg(format!("--endpoints={}", self.endpoint));
        for (option, name) in [
            ("--cacert", "ca.crt"),
            ("--cert", "client.crt"),
            ("--key", "client.key"),
        ] {
            ctl.arg(option).arg(self.file(name));
        }
        ctl.args(arguments);
        ctl
    }
}

impl StoppedEtcd {
    /// Starts etcd again with the same data and the same URL.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start(self) -> Etcd {
        let path = |name: &str| self.directory.path().join(name).display().to_string();
        let peer = format!("https://127.0.0.1:{}", free_port().unwrap());
        let arguments = [
            ("data-dir", path("data")),
            ("listen-client-urls", self.endpoint.clone()),
            ("advertise-client-urls", self.endpoint.clone()),
            ("listen-peer-urls", peer.clone()),
            ("initial-advertise-peer-urls", peer.clone()),
            ("initial-cluster", format!("default={peer}")),
            ("cert-file", path("server.crt")),
            ("key-file", path("server.key")),
            ("trusted-ca-file", path("ca.crt")),
            ("client-cert-auth", "true".to_owned()),
            ("peer-cert-file", path("server.crt")),
            ("peer-key-file", path("server.key")),
            ("peer-trusted-ca-file", path("ca.crt")),
            ("log-level", "warn".to_owned()),
        ]
        .map(|(option, value)| format!("--{option}={value}"));
        let etcd = program("ETCD", "etcd/etcd", INSTALL);
        let log = self.directory.path().join("etcd.log");
        let mut etcd = Etcd {
            daemon: Daemon::spawn(&etcd, &arguments, &log),
            endpoint: self.endpoint,
            directory: self.directory,
        };
        let mut health = etcd.ctl_command(&["endpoint", "health"]);
        etcd.daemon
            .ready(async || health.output().unwrap().status.success())
            .await;
        etcd
    }

    /// Where the member keeps everything.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// The database as the member left it: a snapshot without the digest at its end.
    #[must_use]
    pub fn database(&self) -> PathBuf {
        self.data_dir().join("member/snap/db")
    }
}

/// `etcdctl` or `etcdutl`.
///
/// # Panics
/// When there is none, with the command that installs it.
#[must_use]
pub fn tool(name: &str) -> PathBuf {
    let variable = name.to_uppercase();
    program(&variable, &format!("etcd/{name}"), INSTALL)
}

/// What `etcdutl`, which works on files, prints on its standard output.
///
/// # Panics
/// When it fails.
#[must_use]
pub fn utl(arguments: &[&str]) -> Vec<u8> {
    let mut utl = Command::new(tool("etcdutl"));
    succeeded(utl.env_clear().args(arguments).output().unwrap())
}

#[track_caller]
fn succeeded(output: Output) -> Vec<u8> {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    output.stdout
}
