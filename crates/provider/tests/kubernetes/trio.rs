//! A cluster as in production: three servers of OpenBao, three members of etcd, and three nodes,
//! each with a provider and an API server of its own. Scenarios run under load; each prints its row
//! of the table in `docs/operate/clusters.md`.

mod everyday;
mod explained;
mod long;
mod pages;
mod sound;

use std::{process::Command, thread, time::Duration};

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;
use testkit::{
    control_plane::{ControlPlane, Kind, Load, Record, WITHIN, kms},
    etcd::Etcd,
    files,
    tenant::{KEY, Timing},
    wait::wait_until,
};
use tokio::{runtime, sync::oneshot, task::spawn_blocking, time::timeout};

use crate::{
    cluster::NAME,
    members::{Member, cluster},
    node::{Finished, Node, TIMING, program},
    provider::{Provider, SOON},
};

/// Successful calls before the fault of a scenario, and after its end: about two seconds each.
const CALM: u64 = 200;

/// Limit for a request to OpenBao that may hang.
const PATIENCE: Duration = Duration::from_secs(5);

/// Promotes later than the others, so that a rotation is seen on its way.
const LATE: Timing = Timing {
    activation_delay: Duration::from_secs(4),
    ..TIMING
};

/// Three of each, and the clients of the API servers.
pub(crate) struct Trio {
    openbao: Vec<Member>,
    nodes: Vec<Node>,
    /// `None` while a provider is stopped.
    providers: Vec<Option<Provider>>,
    servers: Vec<ControlPlane>,
    load: Load,
    /// Transit requests of the providers that have ended.
    earlier_requests: f64,
    /// Files of the operator.
    directory: TempDir,
    /// Dropped last, it ends the relays of OpenBao.
    _relays: oneshot::Sender<()>,
}

impl Trio {
    /// Starts everything, part after part.
    async fn new() -> Self {
        let (openbao, first, relays) = openbao().await;
        let peers = [TIMING, LATE].map(|timing| {
            let mut node = first.peer(timing);
            node.config["openbao"] = first.config["openbao"].clone();
            node.config["logging"] = first.config["logging"].clone();
            node
        });
        let server = ControlPlane::on(Etcd::start_cluster().await);
        let others = ["cp-2", "cp-3"].map(|host| server.beside(host));
        let mut this = Self {
            openbao,
            nodes: [first].into_iter().chain(peers).collect(),
            providers: Vec::new(),
            servers: [server].into_iter().chain(others).collect(),
            load: Load::default(),
            earlier_requests: 0.0,
            directory: TempDir::new().unwrap(),
            _relays: relays,
        };
        for (node, server) in this.nodes.iter().zip(&mut this.servers) {
            this.providers.push(Some(node.serve().await));
            let socket = server.link(&node.sockets.socket());
            server.encrypt_with(&[kms(NAME, &socket)]);
            server.ready_after_restarts().await;
        }
        this.servers[0].define_custom_resource().await;
        for server in &this.servers {
            wait_until(WITHIN, "the custom resource", async || {
                server.names(Kind::Custom).await.is_ok()
            })
            .await;
        }
        let kubeconfig = this.servers[0].kubeconfig();
        let file = this.directory.path().join("kubeconfig");
        files::replace(&file, kubeconfig.as_bytes(), 0o600);
        this
    }

    /// Plays a scenario under load, prints its row, and asserts that nothing is lost or wrong and
    /// that every part serves again.
    async fn play(&mut self, name: &str, scenario: impl AsyncFnOnce(&mut Self)) -> Record {
        let requests = self.transit_requests().await;
        let running = self.load.begin(&self.servers);
        running.pass(CALM).await;
        scenario(self).await;
        running.pass(CALM).await;
        let record = running.end();

        self.assert_sound(name).await;
        let bad = self.load.lost_or_wrong(&self.servers).await;
        let objects = self.load.objects();
        let requests = self.transit_requests().await - requests;
        println!(
            "| {name} | {record} | {} of {objects} | {requests} |",
            bad.len()
        );
        for ((place, error), number) in &record.errors {
            println!("{name}: API server {place}: {number} x {error}");
        }
        assert_eq!(bad, [""; 0], "{name}");
        assert_eq!(record.wrong, 0, "{name}");
        record
    }

    /// Encryptions and decryptions requested of OpenBao by all providers, probes included.
    async fn transit_requests(&self) -> f64 {
        let mut requests = self.earlier_requests;
        for provider in self.providers.iter().flatten() {
            requests += provider.transit_calls().await;
        }
        requests
    }

    /// Ends the provider of a node by this signal.
    async fn end_provider(&mut self, number: usize, signal: Signal) {
        let provider = self.providers[number].take().unwrap();
        self.earlier_requests += provider.transit_calls().await;
        provider.signal(signal);
        provider.ended().await;
    }

    async fn start_provider(&mut self, number: usize) {
        self.providers[number] = Some(self.nodes[number].serve().await);
    }

    /// A command of the operator with the metrics of all running providers.
    async fn compare_nodes(&self) -> Value {
        let mut command = program();
        command.args(["compare-nodes", "--output", "json"]);
        let providers = self.providers.iter().zip(["cp-1", "cp-2", "cp-3"]);
        for (provider, name) in providers {
            let provider = provider.as_ref().unwrap();
            let metrics = format!("{name}={}", provider.metrics_url());
            command.args(["--metrics", &metrics]);
        }
        serde_json::from_str(&run(command).await.out).unwrap()
    }

    /// Waits for the verdict that allows the next step, and returns the verdicts before it.
    async fn nodes_agree(&self) -> Vec<String> {
        let mut verdicts = Vec::new();
        wait_until(WITHIN, "compare-nodes: agree", async || {
            let compared = self.compare_nodes().await;
            let verdict = compared["verdict"].as_str().unwrap().to_owned();
            let agree = verdict == "agree";
            if !agree && verdicts.last() != Some(&verdict) {
                verdicts.push(verdict);
            }
            agree
        })
        .await;
        verdicts
    }

    /// The verdict of `triage` on a node.
    async fn triage(&self, number: usize) -> String {
        let triage = self.nodes[number].program(&["triage", "--output", "json"]);
        let report: Value = serde_json::from_str(&run(triage).await.out).unwrap();
        report["verdict"].as_str().unwrap().to_owned()
    }

    /// Adds a version to the key, through the active server if it is one of these. A standby
    /// forwards the request, and waits for a leader that hangs.
    async fn rotate(&self) {
        let mount = &self.nodes[0].tenant.transit_mount;
        wait_until(SOON, "a rotation by OpenBao", async || {
            let (mut actives, mut standbys) = (Vec::new(), Vec::new());
            for member in &self.openbao {
                match member.server.is_active().await {
                    true => actives.push(&member.server),
                    false => standbys.push(&member.server),
                }
            }
            for server in actives.into_iter().chain(standbys) {
                let admin = server.admin();
                let rotated = timeout(PATIENCE, admin.rotate_key(mount, KEY)).await;
                if matches!(rotated, Ok(Ok(_))) {
                    return true;
                }
            }
            false
        })
        .await;
    }

    /// Runs `rewrite` for all kinds to its proof by etcd.
    async fn rewrite(&self) -> Value {
        let mut command: Command = self.nodes[0].program(&["rewrite", "--output", "json"]);
        command
            .arg("--kubeconfig")
            .arg(self.directory.path().join("kubeconfig"))
            .args(["--rate", "1000"])
            .args(self.servers[0].etcd().options())
            .current_dir(self.directory.path());
        for kind in Kind::ALL {
            command.args(["--resource", kind.resource_name()]);
        }
        for server in &self.servers {
            command.args(["--server", &server.endpoint()]);
        }
        serde_json::from_str(&run(command).await.out).unwrap()
    }
}

/// OpenBao, and a node that knows its three servers. The relays between the servers run on a thread
/// of their own: a test that waits for a command would delay the heartbeats of raft.
async fn openbao() -> (Vec<Member>, Node, oneshot::Sender<()>) {
    let ((members, node), relays) = on_another_thread(async || cluster(TIMING).await).await;
    (members, node, relays)
}

/// Starts something with relays, which run until the sender is dropped.
async fn on_another_thread<T: Send + 'static>(
    start: impl AsyncFnOnce() -> T + Send + 'static,
) -> (T, oneshot::Sender<()>) {
    let (started, something) = oneshot::channel();
    let (relays, ended) = oneshot::channel::<()>();
    let runtime = runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.unwrap();
    thread::spawn(move || {
        runtime.block_on(async {
            started.send(start().await).ok();
            ended.await.ok();
        });
    });
    (something.await.unwrap(), relays)
}

/// Runs a command to its end while the clients and the relays go on.
async fn run(mut command: Command) -> Finished {
    let output = spawn_blocking(move || command.output()).await;
    output.unwrap().unwrap().into()
}
