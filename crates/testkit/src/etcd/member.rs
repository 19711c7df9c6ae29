//! The members of an etcd cluster: their processes, their loss and their return.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use openbao_lab::port::free_port;
use serde_json::Value;

use super::{Etcd, INSTALL, utl};
use crate::daemon::{Daemon, program};

/// Added to the revisions of a restored snapshot, so that no client meets a revision twice.
const BUMP: &str = "1000000000";

/// One member, running or not. Its URLs stay the same.
pub(super) struct Member {
    daemon: Mutex<Option<Daemon>>,
    name: String,
    client: String,
    peer: String,
    data: PathBuf,
    log: PathBuf,
}

/// Origin of a member's data at its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Join {
    /// A new cluster, or the data of the last run.
    New,
    /// The other members of a running cluster.
    Existing,
}

impl Member {
    pub(super) fn new(number: usize, directory: &Path) -> Self {
        let url = || format!("https://127.0.0.1:{}", free_port().unwrap());
        let suffix = match number {
            1 => String::new(),
            _ => format!("-{number}"),
        };
        Self {
            daemon: Mutex::default(),
            // As kubeadm names it: by its node.
            name: format!("cp-{number}"),
            client: url(),
            peer: url(),
            data: directory.join(format!("data{suffix}")),
            log: directory.join(format!("etcd{suffix}.log")),
        }
    }

    pub(super) fn client_url(&self) -> &str {
        &self.client
    }

    pub(super) fn peer_url(&self) -> &str {
        &self.peer
    }

    pub(super) fn data(&self) -> &Path {
        &self.data
    }

    pub(super) async fn stop(&self) {
        let daemon = self.process().take();
        if let Some(daemon) = daemon {
            daemon.stop().await;
        }
    }

    fn process(&self) -> MutexGuard<'_, Option<Daemon>> {
        self.daemon.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn erase(&self) {
        fs::remove_dir_all(&self.data).unwrap();
    }
}

impl Etcd {
    /// Number of the member that leads the cluster.
    ///
    /// # Panics
    /// When no running member knows a leader.
    #[must_use]
    pub fn leader(&self) -> usize {
        let leads = |member: &Member| {
            let status = self.member_says(member, &["endpoint", "status"]);
            let status = &status?[0]["Status"];
            Some(status["leader"] == status["header"]["member_id"])
        };
        let leader = self
            .members
            .iter()
            .position(|member| leads(member) == Some(true));
        leader.unwrap()
    }

    /// Kills a member, counted from 0.
    ///
    /// # Panics
    /// Without a member of this number.
    pub fn kill_member(&self, number: usize) {
        *self.members[number].process() = None;
    }

    /// Stops a member gracefully, if it runs.
    ///
    /// # Panics
    /// When it fails to end.
    pub async fn stop_member(&self, number: usize) {
        self.members[number].stop().await;
    }

    /// Starts a stopped member and returns at once: it is unhealthy until a majority runs.
    ///
    /// # Panics
    /// When the etcd program is missing.
    pub fn spawn_member(&self, number: usize, join: Join) {
        self.spawn(&self.members[number], join);
    }

    /// Waits until a running member is healthy.
    ///
    /// # Panics
    /// When it ends first.
    pub async fn member_healthy(&self, number: usize) {
        self.healthy(&self.members[number]).await;
    }

    /// Removes all data of a killed member, as a lost disk does.
    ///
    /// # Panics
    /// When the data cannot be removed.
    pub fn erase_member(&self, number: usize) {
        let member = &self.members[number];
        member.erase();
        fs::create_dir(member.data()).unwrap();
    }

    /// Kills all members at once.
    pub fn kill_all(&self) {
        let processes: Vec<_> = self.members.iter().map(|it| it.process().take()).collect();
        drop(processes);
    }

    /// Starts a killed member again with its data, and waits until it is healthy.
    ///
    /// # Panics
    /// When it fails to start.
    pub async fn start_member(&self, number: usize) {
        let member = &self.members[number];
        self.spawn(member, Join::New);
        self.healthy(member).await;
    }

    /// Replaces a killed member by an empty one of the same name and URLs, as after the loss of a
    /// disk.
    ///
    /// # Panics
    /// When a command fails or the member fails to start.
    pub async fn replace_member(&self, number: usize) {
        let lost = &self.members[number];
        lost.erase();
        let others = self.members.iter().filter(|it| it.name != lost.name);
        let urls: Vec<&str> = others.map(Member::client_url).collect();
        let ctl = |arguments: &[&str]| {
            let mut ctl = self.ctl_command_at(&urls.join(","), arguments);
            super::succeeded(ctl.output().unwrap())
        };

        let listed = String::from_utf8(ctl(&["member", "list"])).unwrap();
        let mut members = listed.lines().map(|line| line.split(", "));
        let id = members.find_map(|mut fields| {
            let id = fields.next()?;
            (fields.nth(1)? == lost.name).then_some(id)
        });
        let _removed = ctl(&["member", "remove", id.unwrap()]);
        let peer = format!("--peer-urls={}", lost.peer);
        let _added = ctl(&["member", "add", &lost.name, &peer]);
        self.spawn(lost, Join::Existing);
        self.healthy(lost).await;
    }

    /// Replaces the data of all members by a snapshot. All members must be killed.
    ///
    /// # Panics
    /// When a command fails.
    pub fn restore_all(&self, snapshot: &Path) {
        for member in &self.members {
            member.erase();
            let option = |name: &str, value: &str| format!("--{name}={value}");
            let _restored = utl(&[
                "snapshot",
                "restore",
                snapshot.to_str().unwrap(),
                &option("name", &member.name),
                &option("data-dir", member.data.to_str().unwrap()),
                &option("initial-cluster", &self.initial_cluster()),
                &option("initial-advertise-peer-urls", &member.peer),
                &option("initial-cluster-token", "restored"),
                &option("bump-revision", BUMP),
                "--mark-compacted",
            ]);
        }
    }

    /// Starts all members with their data, and waits until they are healthy.
    ///
    /// # Panics
    /// When one fails to start.
    pub async fn start_all(&self) {
        for member in &self.members {
            self.spawn(member, Join::New);
        }
        for member in &self.members {
            self.healthy(member).await;
        }
    }

    fn spawn(&self, member: &Member, join: Join) {
        let path = |name: &str| self.file(name).display().to_string();
        let state = match join {
            Join::New => "new",
            Join::Existing => "existing",
        };
        let arguments = [
            ("name", member.name.clone()),
            ("data-dir", member.data.display().to_string()),
            ("listen-client-urls", member.client.clone()),
            ("advertise-client-urls", member.client.clone()),
            ("listen-peer-urls", member.peer.clone()),
            ("initial-advertise-peer-urls", member.peer.clone()),
            ("initial-cluster", self.initial_cluster()),
            ("initial-cluster-state", state.to_owned()),
            ("cert-file", path("server.crt")),
            ("key-file", path("server.key")),
            ("trusted-ca-file", path("ca.crt")),
            ("client-cert-auth", "true".to_owned()),
            ("peer-cert-file", path("server.crt")),
            ("peer-key-file", path("server.key")),
            ("peer-trusted-ca-file", path("ca.crt")),
            ("log-level", "warn".to_owned()),
            // The most that etcd recommends; 2 GiB without it, less than the benchmarks write.
            ("quota-backend-bytes", (8_u64 << 30).to_string()),
        ]
        .map(|(option, value)| format!("--{option}={value}"));
        let etcd = program("ETCD", "etcd/etcd", INSTALL);
        *member.process() = Some(Daemon::spawn(&etcd, &arguments, &member.log));
    }

    async fn healthy(&self, member: &Member) {
        let Some(mut daemon) = member.process().take() else {
            return;
        };
        let mut health = self.ctl_command_at(&member.client, &["endpoint", "health"]);
        daemon
            .ready(async || health.output().unwrap().status.success())
            .await;
        *member.process() = Some(daemon);
    }

    /// JSON of a command at this member; `None` if it is silent.
    fn member_says(&self, member: &Member, arguments: &[&str]) -> Option<Value> {
        let arguments = [arguments, &["--write-out=json"]].concat();
        let mut ctl = self.ctl_command_at(&member.client, &arguments);
        let said = ctl.output().unwrap();
        said.status
            .success()
            .then(|| serde_json::from_slice(&said.stdout).unwrap())
    }

    fn initial_cluster(&self) -> String {
        let members = self.members.iter();
        let members: Vec<String> = members
            .map(|Member { name, peer, .. }| format!("{name}={peer}"))
            .collect();
        members.join(",")
    }
}
