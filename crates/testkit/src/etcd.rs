//! A real etcd with one member or a cluster of three, over TLS on loopback. Clients need a client
//! certificate.

#![expect(clippy::unwrap_used, reason = "a failed set-up fails the test")]

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::Value;
use tempfile::TempDir;

use crate::{daemon::program, pki::Authority};

pub use member::Join;

use member::Member;

mod member;

const INSTALL: &str = "cargo xtask tools";

/// A running etcd. Drop removes its directory.
pub struct Etcd {
    members: Vec<Member>,
    /// URLs of all members, separated by commas.
    endpoint: String,
    directory: TempDir,
}

/// An etcd after a graceful stop.
pub struct StoppedEtcd(Etcd);

impl Etcd {
    /// Starts an empty etcd with one member and waits until it is healthy.
    ///
    /// # Panics
    /// When etcd fails to start or its program is missing. The message has the command to install
    /// it.
    pub async fn start() -> Self {
        Self::start_members(1).await
    }

    /// As [`Self::start`], with three members.
    ///
    /// # Panics
    /// As there.
    pub async fn start_cluster() -> Self {
        Self::start_members(3).await
    }

    async fn start_members(count: usize) -> Self {
        let directory = TempDir::new().unwrap();
        let authority = Authority::new(directory.path());
        authority.server("server");
        authority.client("client", "etcd");
        let members: Vec<Member> = (1..=count)
            .map(|number| Member::new(number, directory.path()))
            .collect();
        let urls: Vec<&str> = members.iter().map(Member::client_url).collect();
        let etcd = Self {
            endpoint: urls.join(","),
            members,
            directory,
        };
        etcd.start_all().await;
        etcd
    }

    /// The URLs for clients, separated by commas.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Options of our commands that name this etcd.
    #[must_use]
    pub fn options(&self) -> Vec<String> {
        let mut options = vec!["--endpoints".to_owned(), self.endpoint.clone()];
        for (option, file) in [
            ("--cacert", "ca.crt"),
            ("--cert", "client.crt"),
            ("--key", "client.key"),
        ] {
            options.extend([option.to_owned(), self.file(file).display().to_string()]);
        }
        options
    }

    /// Path of `ca.crt`, `client.crt` or `client.key`, for clients.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Runs `etcdctl` and returns its standard output.
    ///
    /// # Panics
    /// When the command fails.
    #[must_use]
    pub fn ctl(&self, arguments: &[&str]) -> Vec<u8> {
        succeeded(self.ctl_command(arguments).output().unwrap())
    }

    /// The data directory of the first member.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.data_dir_of(0)
    }

    /// The data directory of a member, counted from 0.
    #[must_use]
    pub fn data_dir_of(&self, number: usize) -> PathBuf {
        self.members[number].data().to_owned()
    }

    /// The URL of a member for clients.
    #[must_use]
    pub fn client_url_of(&self, number: usize) -> &str {
        self.members[number].client_url()
    }

    /// The URL of a member for the other members.
    #[must_use]
    pub fn peer_url_of(&self, number: usize) -> &str {
        self.members[number].peer_url()
    }

    /// The current value of a key.
    ///
    /// # Panics
    /// When the request fails.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<Vec<u8>> {
        let answer = self.ctl(&["get", key, "--write-out=json"]);
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        let value = answer["kvs"][0]["value"].as_str()?;
        Some(STANDARD.decode(value).unwrap())
    }

    /// Stores a value of any bytes under a key.
    ///
    /// # Panics
    /// When the request fails.
    pub fn put(&self, key: &str, value: &[u8]) {
        self.ctl_reading(&["put", key], value);
    }

    /// Runs all operations in one transaction. Each is written as for `etcdctl`: `put key value` or
    /// `del key`. etcd accepts up to 128.
    ///
    /// # Panics
    /// When the command fails.
    pub fn transaction(&self, operations: &[String]) {
        let input = format!("\n{}\n\n\n", operations.join("\n"));
        self.ctl_reading(&["txn"], input.as_bytes());
    }

    /// Saves a snapshot of the first member with `etcdctl snapshot save`.
    ///
    /// # Panics
    /// When the command fails.
    pub fn save_snapshot(&self, file: &Path) {
        let save = ["snapshot", "save", file.to_str().unwrap()];
        let mut ctl = self.ctl_command_at(self.members[0].client_url(), &save);
        succeeded(ctl.output().unwrap());
    }

    /// Enables access control: the user of the client certificate may read and write only the keys
    /// below `prefix`.
    ///
    /// # Panics
    /// When the command fails.
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
            // The user name is the common name of the client certificate.
            &["user", "add", "client", "--no-password"],
            &["user", "grant-role", "client", "limited"],
            &["auth", "enable"],
        ] {
            let _done = self.ctl(arguments);
        }
    }

    /// Stops etcd gracefully.
    ///
    /// # Panics
    /// When etcd fails to end.
    pub async fn stop(self) -> StoppedEtcd {
        for member in &self.members {
            member.stop().await;
        }
        StoppedEtcd(self)
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
        self.ctl_command_at(&self.endpoint, arguments)
    }

    fn ctl_command_at(&self, endpoint: &str, arguments: &[&str]) -> Command {
        let mut ctl = Command::new(tool("etcdctl"));
        ctl.env_clear()
            .env("ETCDCTL_API", "3")
            .arg(format!("--endpoints={endpoint}"));
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
    /// Starts etcd again with the same data and URL.
    ///
    /// # Panics
    /// When etcd fails to start.
    pub async fn start(self) -> Etcd {
        self.0.start_all().await;
        self.0
    }

    /// The data directory of the first member.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.0.data_dir()
    }

    /// The database after the stop: a snapshot without the trailing SHA-256.
    #[must_use]
    pub fn database(&self) -> PathBuf {
        self.data_dir().join("member/snap/db")
    }
}

/// Path of `etcdctl` or `etcdutl`.
///
/// # Panics
/// When the program is missing. The message has the command to install it.
#[must_use]
pub fn tool(name: &str) -> PathBuf {
    let variable = name.to_uppercase();
    program(&variable, &format!("etcd/{name}"), INSTALL)
}

/// Runs `etcdutl`, the offline tool for etcd files, and returns its standard output.
///
/// # Panics
/// When the command fails.
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
