//! The machines of the pages: `cp-1`, which has no name on most pages, `cp-2` and `cp-3`; `openbao`,
//! `openbao-2` and `openbao-3`. Every node has a provider, an API server and a member of etcd.
//!
//! The stand-ins are those of `Scene` and `ControlPlaneNode`, for each machine.

mod nodes;
mod servers;
mod sound;

use std::{collections::BTreeMap, fs, path::PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::{
    control_plane::{ControlPlane, kms},
    etcd::Etcd,
    files,
    openbao::{OpenBao, StoppedOpenBao, cluster_ca},
    runbook::{self, Answers, Done, Shell, Walk},
    tenant::Tenant,
    wait::wait_until,
};
use tokio::sync::oneshot;

use super::super::on_another_thread;
use crate::{machine::Machine, node::TIMING, provider::SOON, runbook::name_files};

/// The machine without a name on the page.
const FIRST: &str = "cp-1";

const NODES: [&str; 3] = [FIRST, "cp-2", "cp-3"];
const OPENBAO: [&str; 3] = ["openbao", "openbao-2", "openbao-3"];

const ETCD_MANIFEST: &str = "/etc/kubernetes/manifests/etcd.yaml";
const API_SERVER_MANIFEST: &str = "/etc/kubernetes/manifests/kube-apiserver.yaml";

/// The option that the kubelet of the test reads.
const NEW_CLUSTER: &str = "--initial-cluster-state=new\n";

pub(super) struct Site {
    machines: BTreeMap<&'static str, Machine>,
    openbao: Vec<Server>,
    /// Whether a majority of the three servers is needed: the members are those of the start.
    intact: bool,
    servers: Vec<ControlPlane>,
    etcd_runs: [bool; 3],
    server_runs: [bool; 3],
    /// API servers that cannot become ready before the page has them restarted.
    blocked: [bool; 3],
    tenant: Tenant,
    /// For commands that ask, by the beginning of the command.
    answers: Answers,
    /// Ports of the first machine that lead to the metrics of another.
    tunnels: Vec<(String, String)>,
    /// Secrets that every API server reads after each command.
    kept: Vec<&'static str>,
    /// The key, with the times of its versions, in the snapshot that OpenBao is taken back to.
    key_in_snapshot: Option<Value>,
    backup: TempDir,
    /// Dropped last, it ends the relays of OpenBao.
    _relays: oneshot::Sender<()>,
}

enum Server {
    Running(OpenBao),
    Stopped(StoppedOpenBao),
    Moving,
}

impl Site {
    /// Everything serves, and the API servers encrypt Secrets.
    pub(super) async fn new() -> Self {
        let ((openbao, tenant), relays) = on_another_thread(async || {
            let servers = OpenBao::start_cluster().await;
            let tenant = Tenant::new(&servers[0]).await;
            (servers, tenant)
        })
        .await;
        let ca = cluster_ca(&openbao);
        files::replace(&tenant.ca_file(), ca.as_bytes(), 0o644);
        let server = ControlPlane::on(Etcd::start_cluster().await);
        let others = ["cp-2", "cp-3"].map(|host| server.beside(host));
        let mut site = Self {
            machines: BTreeMap::new(),
            openbao: openbao.into_iter().map(Server::Running).collect(),
            intact: true,
            servers: [server].into_iter().chain(others).collect(),
            etcd_runs: [true; 3],
            server_runs: [false; 3],
            blocked: [false; 3],
            tenant,
            answers: Answers::default(),
            tunnels: Vec::new(),
            kept: Vec::new(),
            key_in_snapshot: None,
            backup: TempDir::new().unwrap(),
            _relays: relays,
        };
        for number in 0..3 {
            let machine = site.node(number);
            site.machines.insert(NODES[number], machine);
            let machine = site.openbao_machine(number);
            site.machines.insert(OPENBAO[number], machine);
        }
        for name in NODES {
            site.install(name);
            let started = site.machine_mut(name).systemctl("start").await;
            assert_eq!(started.code, Some(0), "{}", site.machine(name).journal());
        }
        site.follow_manifests().await;
        site
    }

    /// A control-plane node with the manifests and without a provider's files.
    fn node(&self, number: usize) -> Machine {
        let mut machine = self.machine_of_operator(number);
        let server = &self.servers[number];
        machine.reach_member(server.etcd(), number);
        let shell = &mut machine.shell;
        name_files(shell, server);
        shell.name("https://127.0.0.1:6443", server.endpoint());
        machine.write_manifests();
        let socket = machine.path("/run/openbao-kms/kms.sock");
        let mut kms = kms("openbao-kms", &socket);
        kms["kms"]["timeout"] = "15s".into();
        let encryption = json!({
            "apiVersion": "apiserver.config.k8s.io/v1",
            "kind": "EncryptionConfiguration",
            // The pages count Secrets alone.
            "resources": [{"resources": ["secrets"], "providers": [kms]}],
        });
        let text = format!("{encryption:#}");
        files::replace(&server.encryption_file(), text.as_bytes(), 0o600);
        machine
    }

    fn openbao_machine(&self, number: usize) -> Machine {
        let mut machine = self.machine_of_operator(number);
        let server = self.running(number);
        let data = server.ca_file().with_file_name("raft");
        machine.shell.name("/var/lib/openbao/raft", data.display());
        let address = server.endpoint().address.to_string();
        machine.shell.set("BAO_ADDR", address);
        fs::create_dir(machine.path("/etc/openbao")).unwrap();
        // That of all servers: a standby sends some commands to the active one.
        let ca = machine.path("/etc/openbao/ca.crt");
        fs::copy(self.tenant.ca_file(), &ca).unwrap();
        machine.shell.set("BAO_CACERT", ca);
        machine.log_in(server);
        machine
    }

    /// A machine on which all addresses of the pages lead to the test's.
    fn machine_of_operator(&self, number: usize) -> Machine {
        let mut machine = Machine::new(self.backup.path());
        machine.reach_openbao(self.running(0), &self.tenant);
        for (other, name) in OPENBAO.iter().enumerate() {
            let address = self.running(other).endpoint().address.to_string();
            machine
                .shell
                .name(&format!("https://{name}.example:8200"), address);
        }
        let etcd = self.servers[0].etcd();
        for other in 0..3 {
            let host = format!("https://10.0.0.{}", 11 + other);
            let client = etcd.client_url_of(other);
            // The own one is at 127.0.0.1 on the pages.
            if other != number {
                machine.shell.name(&format!("{host}:2379"), client);
            }
            let peer = etcd.peer_url_of(other);
            machine.shell.name(&format!("{host}:2380"), peer);
        }
        machine
    }

    /// Puts the files of a new installation in place, with all servers of OpenBao.
    fn install(&self, name: &str) {
        let machine = self.machine(name);
        machine.install(&self.tenant, TIMING);
        machine.configure(&self.config(machine));
    }

    fn config(&self, machine: &Machine) -> Value {
        let mut config = machine.config(&self.tenant, TIMING);
        let address = |number| self.running(number).endpoint().address.to_string();
        let further = [1, 2].map(|number| json!({"address": address(number)}));
        config["openbao"]["failoverAddresses"] = json!(further);
        config["openbao"]["timeout"] = json!("2s");
        config
    }

    fn machine(&self, name: &str) -> &Machine {
        let name = if name.is_empty() { FIRST } else { name };
        &self.machines[name]
    }

    fn machine_mut(&mut self, name: &str) -> &mut Machine {
        let name = if name.is_empty() { FIRST } else { name };
        self.machines.get_mut(name).unwrap()
    }

    fn etcd(&self) -> &Etcd {
        self.servers[0].etcd()
    }

    /// Where a file of the backups is.
    pub(super) fn backup(&self, name: &str) -> PathBuf {
        self.backup.path().join(name)
    }

    /// Somebody will type this when a command that begins so asks for it.
    pub(super) fn will_type(&mut self, command: &'static str, answer: impl Into<String>) {
        self.answers.add(command, answer);
    }

    /// Types the secrets of the new server on the page, then the share and token of the saved OpenBao.
    pub(super) fn will_restore(&mut self, walk: &Walk, share: &str, token: String) {
        self.will_type("bao operator unseal", walk.word("new-unseal-key"));
        self.will_type("bao login", walk.word("new-root-token"));
        for _ in OPENBAO {
            self.will_type("bao operator unseal", share);
        }
        self.will_type("bao login", token);
    }

    /// Puts the unseal share where a drill reads it.
    pub(super) fn write_unseal_share(&self) {
        let file = self.machine(FIRST).path("/root/unseal-share");
        self.running(0).write_unseal_key(&file);
    }

    /// A provider of the tests listens elsewhere after each start, unlike a tunnel's end.
    fn follow_tunnels(&mut self) {
        for (port, name) in &self.tunnels {
            let here = self.machine(name).metrics();
            let page = format!("http://127.0.0.1:{port}");
            let first = self.machines.get_mut(FIRST).unwrap();
            first.shell.name(&page, here);
        }
    }
}

impl Machine {
    /// Lets a kubelet run etcd and the API server.
    fn write_manifests(&self) {
        let etcd = format!("kind: Pod\n{NEW_CLUSTER}");
        files::replace(&self.path(ETCD_MANIFEST), etcd.as_bytes(), 0o600);
        files::replace(&self.path(API_SERVER_MANIFEST), b"kind: Pod\n", 0o600);
    }

    /// Gives the operator of OpenBao a token.
    fn log_in(&self, openbao: &OpenBao) {
        let token = openbao.secrets().root_token.expose();
        let file = self.path("/root").join(".vault-token");
        files::replace(&file, token.as_bytes(), 0o600);
    }
}

impl runbook::Site for Site {
    fn shell(&self, machine: &str) -> &Shell {
        &self.machine(machine).shell
    }

    fn nodes(&self) -> Vec<String> {
        NODES.map(str::to_owned).into()
    }

    async fn instead(&mut self, machine: &str, words: &[String]) -> Option<Done> {
        self.follow_tunnels();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match words[..] {
            ["ssh", "-fNL", tunnel, peer] => {
                let port = tunnel.strip_suffix(":127.0.0.1:8081").unwrap();
                self.tunnels.push((port.to_owned(), peer.to_owned()));
                Some(Done::silently())
            }
            ["systemctl", verb, "bao-kms-provider"] => {
                Some(self.machine_mut(machine).systemctl(verb).await)
            }
            ["systemctl", "start", "openbao"] => {
                self.start_openbao(machine).await;
                Some(Done::silently())
            }
            ["journalctl", .., lines] => Some(self.machine(machine).journalctl(lines)),
            ["scp", from, to] => {
                let (peer, from) = from.split_once(':').unwrap();
                let peer = self.machine(peer);
                Some(self.machine(machine).scp(peer, from, to))
            }
            _ => None,
        }
    }

    fn configure(&mut self, sections: &str) {
        self.machine(FIRST).replace_sections(sections);
    }

    fn typed(&mut self, command: &str) -> Option<String> {
        self.answers.take(command)
    }

    async fn settle(&mut self, machine: &str, command: &str) {
        self.follow_manifests().await;
        if command.contains("raft snapshot restore -force") {
            self.wait_until_sealed(machine).await;
        } else if command.contains("raft snapshot restore") {
            wait_until(SOON, "the key of the snapshot", async || {
                self.key_versions().await == self.key_in_snapshot
            })
            .await;
        } else if command.starts_with("bao operator unseal") {
            self.wait_for_members(machine).await;
        }
        self.assert_readable(command).await;
    }
}
