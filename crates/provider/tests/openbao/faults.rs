//! Every fault of the way to OpenBao under load, with its cost in figures: the table of
//! `docs/operate/outages.md`.

#![expect(
    clippy::print_stdout,
    reason = "figures for whoever asked for the long tests"
)]

use std::time::Duration;

use openbao_client::endpoint::Endpoint;
use serde_json::json;
use testkit::{
    files,
    openbao::{OpenBao, cluster_ca, shared_openbao},
    relay::{Line, Relay},
    tenant::{Tenant, Timing},
};
use tokio::time::{Instant, sleep};

use crate::{
    members::{Loss, Lost, active, cluster},
    node::Node,
    provider::Provider,
    traffic::{Callers, Cost, Traffic},
};

/// As the defaults are, but for a start that need not wait.
const DEFAULTS: Timing = Timing {
    probe_interval: Duration::from_secs(30),
    deep_probe_interval: Duration::from_secs(60),
    max_staleness: Duration::from_secs(120),
    activation_delay: Duration::from_secs(30),
    stable_observations: 2,
    grace_timeout: Duration::from_secs(30),
    retry_interval: Duration::from_millis(100),
};

const CALLERS: Callers = Callers {
    decrypt: 12,
    encrypt: 4,
};

/// Where servers are lost.
const MANY: Callers = Callers {
    decrypt: 16,
    encrypt: 16,
};

/// A node, its provider, and the way to OpenBao.
struct Scene {
    node: Node,
    provider: Provider,
    relay: Relay,
}

impl Scene {
    async fn on(server: &OpenBao, endpoint: &Endpoint) -> Self {
        let mut node = Node::of(Tenant::new(server).await, DEFAULTS);
        let relay = Relay::to(endpoint).await;
        node.config["openbao"]["address"] = json!(relay.address);
        node.config["openbao"]["timeout"] = json!("2s");
        node.config["logging"]["level"] = json!("info");
        let provider = node.serve().await;
        Self {
            node,
            provider,
            relay,
        }
    }

    async fn new() -> Self {
        let server = shared_openbao().await;
        Self::on(server, &server.endpoint()).await
    }

    /// Plays a fault under load until `fault` has ended it; then the calls go on until all is well
    /// again.
    async fn play<T>(&self, fault: impl AsyncFnOnce(&Self) -> T) -> (Cost, T) {
        let traffic = Traffic::begin(&self.provider, CALLERS).await;
        sleep(Duration::from_secs(2)).await;
        let from = Instant::now();
        let left = fault(self).await;
        let healed = Instant::now();
        let mut well = 0;
        while well < 30 && healed.elapsed() < Duration::from_secs(90) {
            sleep(Duration::from_millis(100)).await;
            let healthy = self.provider.status().await.healthz == "ok";
            let encrypts = self.provider.encrypt(b"seed").await.is_ok();
            well = if healthy && encrypts { well + 1 } else { 0 };
        }
        (traffic.end().await.cost(from, healed), left)
    }

    async fn line(line: Line, lasts: Duration) -> Cost {
        let scene = Self::new().await;
        let fault = async |scene: &Self| {
            scene.relay.set(line);
            sleep(lasts).await;
            scene.relay.set(Line::Open);
        };
        scene.play(fault).await.0
    }
}

fn row(name: &str, cost: &Cost) {
    println!("| {name} | {cost} |");
    assert_eq!(cost.wrong, 0, "{name}");
    assert!(cost.longest < Duration::from_millis(3500), "{name}: {cost}");
}

mod long {
    use super::*;

    const FIVE: Duration = Duration::from_secs(5);

    #[tokio::test]
    #[ignore = "takes minutes; `cargo xtask test --long`"]
    async fn faults_of_the_network() {
        let cost = async {
            let scene = Scene::new().await;
            let gone = async |scene: &Scene| scene.relay.set_former(Line::Silent);
            scene.play(gone).await.0
        };
        row("kept connections vanish without a FIN", &cost.await);
        for (name, line, lasts) in [
            ("no byte passes for 5 s", Line::Silent, FIVE),
            ("answers are lost for 5 s", Line::HalfOpen, FIVE),
            ("connections are refused for 5 s", Line::Cut, FIVE),
            ("connections are refused for 45 s", Line::Cut, 9 * FIVE),
            ("connections are reset for 5 s", Line::Reset, FIVE),
            (
                "each answer 300 ms later for 5 s",
                Line::Delayed(Duration::from_millis(150)),
                FIVE,
            ),
        ] {
            row(name, &Scene::line(line, lasts).await);
        }
    }

    #[tokio::test]
    #[ignore = "takes minutes; `cargo xtask test --long`"]
    async fn faults_of_one_server() {
        let mut server = OpenBao::start().await;
        let endpoint = server.endpoint();
        let scene = Scene::on(&server, &endpoint).await;
        let hung = async |_: &Scene| {
            let hung = server.hang();
            sleep(FIVE).await;
            drop(hung);
        };
        row("OpenBao hangs for 5 s", &scene.play(hung).await.0);
        let sealed = async |_: &Scene| {
            server.seal().await;
            sleep(FIVE).await;
            server.unseal().await;
        };
        row("OpenBao is sealed for 5 s", &scene.play(sealed).await.0);
        let stopped = async |_: &Scene| {
            let stopped = server.stop().await;
            sleep(FIVE).await;
            stopped.start().await
        };
        let (cost, _server) = scene.play(stopped).await;
        row("OpenBao is stopped and started", &cost);
    }

    #[tokio::test]
    #[ignore = "takes minutes; `cargo xtask test --long`"]
    async fn a_sealed_server_behind_a_balancer() {
        let [first, second, third] = OpenBao::start_cluster().await;
        let tenant = Tenant::new(&first).await;
        let servers = [first, second, third];
        let ca = cluster_ca(&servers);
        files::replace(&tenant.ca_file(), ca.as_bytes(), 0o644);
        let [first, mut second, _third] = servers;
        let mut node = Node::of(tenant, DEFAULTS);
        let relay = Relay::to(&second.endpoint()).await;
        node.config["openbao"]["address"] = json!(relay.address);
        node.config["openbao"]["timeout"] = json!("2s");
        let provider = node.serve().await;
        let scene = Scene {
            node,
            provider,
            relay,
        };
        let sealed = async |scene: &Scene| {
            second.seal().await;
            scene.relay.lead_to(&first.endpoint());
        };
        let (cost, ()) = scene.play(sealed).await;
        row("the server of the kept connections is sealed", &cost);
        drop(scene.node);
    }

    /// Calls that begin a second after a new leader exists succeed, and no answer is wrong.
    #[tokio::test]
    #[ignore = "takes minutes; `cargo xtask test --long`"]
    async fn a_leader_is_lost_under_writers_and_readers() {
        let (mut servers, node) = cluster(DEFAULTS).await;
        let provider = node.serve().await;
        for (name, lose) in [
            ("the leader is out of reach for this node alone", Loss::Way),
            (
                "the leader is separated from the other members",
                Loss::Partition,
            ),
            ("the leader steps down", Loss::StepDown),
            ("the leader is sealed", Loss::Seal),
            ("the leader hangs", Loss::Hang),
            ("the leader is killed", Loss::Kill),
        ] {
            let traffic = Traffic::begin(&provider, MANY).await;
            sleep(Duration::from_secs(2)).await;
            let leader = servers.swap_remove(active(&servers).await);
            let from = Instant::now();
            let lost = lose.befalls(leader, &servers).await;
            // Out of reach for one node, it is still the leader.
            if !matches!(lost, Lost::Unreachable(_)) {
                active(&servers).await;
            }
            let led = Instant::now();
            sleep(Duration::from_secs(5)).await;
            let record = traffic.end().await;
            let (failed, all) =
                record.failed_between(led + Duration::from_secs(1), led + Duration::from_secs(5));
            row(name, &record.cost(from, led));
            assert_eq!(failed, 0, "{name}: of {all} calls with a new leader");
            servers.push(lost.returns().await);
        }
    }
}
