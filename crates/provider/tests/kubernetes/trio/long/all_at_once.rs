//! All parts are lost at once: by a loss of power, or with their disks.

use std::{path::Path, time::Instant};

use rustix::process::Signal;
use testkit::{
    openbao::{OpenBao, StoppedOpenBao},
    relay::Relay,
    wait::wait_until,
};

use super::super::{
    Trio,
    everyday::rotation,
    explained::{ETCD_LEADER, LATE, assert_explained, assert_none_failed},
    run,
};
use crate::{members::Member, provider::SOON};

/// A part that is started as a whole. The nodes are the providers and the API servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layer {
    Etcd,
    OpenBao,
    Nodes,
}

/// OpenBao after the loss.
pub(super) struct Down {
    pub(super) servers: Vec<StoppedOpenBao>,
    pub(super) relays: Vec<Relay>,
}

#[tokio::test]
#[ignore = "long: minutes of load on a cluster of three"]
async fn after_a_loss_of_power_everything_comes_back_in_each_order() {
    use Layer::{Etcd, Nodes, OpenBao};
    let mut trio = Trio::new().await;
    let record = trio.play("rotation before the loss", rotation).await;
    assert_none_failed(&record);
    for order in [
        [Etcd, OpenBao, Nodes],
        [Etcd, Nodes, OpenBao],
        [OpenBao, Etcd, Nodes],
        [OpenBao, Nodes, Etcd],
        [Nodes, Etcd, OpenBao],
        [Nodes, OpenBao, Etcd],
    ] {
        let name = format!("everything is killed, then started: {order:?}");
        let record = trio.play(&name, async |trio| {
            let mut down = Some(trio.lose_power().await);
            let (mut etcd, mut nodes) = (false, false);
            for layer in order {
                match layer {
                    Etcd => trio.servers[0].etcd().start_all().await,
                    OpenBao => trio.start_openbao(down.take().unwrap()).await,
                    Nodes => trio.spawn_nodes(etcd, down.is_none()).await,
                }
                etcd |= layer == Etcd;
                nodes |= layer == Nodes;
            }
            assert!(etcd && nodes);
            let from = Instant::now();
            trio.nodes_ready().await;
            println!("{name}: ready {:.1?} after the last layer", from.elapsed());
        });
        // API servers without etcd leave calls without an answer.
        let errors = [&ETCD_LEADER[..], &[LATE]].concat();
        assert_explained(&record.await, &[0, 1, 2], &errors);
    }
}

#[tokio::test]
#[ignore = "long: minutes of load on a cluster of three"]
async fn both_stores_are_restored_from_snapshots_on_all_members() {
    let mut trio = Trio::new().await;
    let record = trio.play("rotation before the backup", rotation).await;
    assert_none_failed(&record);
    // etcd first, so that OpenBao is the newer one.
    let [etcd, openbao] = ["etcd.db", "openbao.snap"].map(|name| trio.directory.path().join(name));
    let backup = trio.load.remember();
    trio.servers[0].etcd().save_snapshot(&etcd);
    let leader = crate::members::active(&trio.openbao).await;
    trio.openbao[leader].server.save_snapshot(&openbao).await;
    let record = trio.play("calm after the backup", async |_| {}).await;
    assert_none_failed(&record);

    let from = Instant::now();
    let down = trio.lose_power().await;
    trio.restore_openbao(down, &openbao).await;

    let etcd_file = etcd.to_str().unwrap();
    let verify = [
        "verify-backup",
        "--etcd-snapshot",
        etcd_file,
        "--depth",
        "data",
    ];
    let verify = trio.nodes[0].program(&[&verify[..], &["--output", "json"]].concat());
    let verified = run(verify).await;
    assert_eq!(verified.json()["verdict"], "compatible");
    trio.servers[0].etcd().restore_all(&etcd);
    trio.servers[0].etcd().start_all().await;
    trio.spawn_nodes(true, true).await;
    trio.nodes_ready().await;
    println!("restored in {:.1?}", from.elapsed());

    trio.load.return_to(backup);
    let restored = "after the restore of both stores: rotation";
    let record = trio.play(restored, rotation).await;
    assert_none_failed(&record);
}

/// The servers behind the relays of before.
pub(super) fn members(servers: Vec<OpenBao>, relays: Vec<Relay>) -> Vec<Member> {
    let members = servers.into_iter().zip(relays);
    members
        .map(|(server, relay)| Member { server, relay })
        .collect()
}

impl Trio {
    /// Kills every process.
    async fn lose_power(&mut self) -> Down {
        for number in 0..3 {
            self.end_provider(number, Signal::KILL).await;
        }
        for server in &mut self.servers {
            server.kill();
        }
        self.servers[0].etcd().kill_all();
        self.lose_openbao()
    }

    /// Kills every server of OpenBao.
    pub(super) fn lose_openbao(&mut self) -> Down {
        let members = std::mem::take(&mut self.openbao).into_iter();
        let (servers, relays) = members
            .map(|Member { server, relay }| (server.kill(), relay))
            .unzip();
        Down { servers, relays }
    }

    /// Restores a snapshot on one server with an empty disk, which the others join with empty
    /// disks.
    pub(super) async fn restore_openbao(&mut self, down: Down, snapshot: &Path) {
        let mut restored: Vec<OpenBao> = Vec::new();
        for server in down.servers {
            restored.push(match restored.first() {
                None => server.start_from_snapshot(snapshot).await,
                Some(leader) => server.join_again(leader).await,
            });
        }
        self.openbao = members(restored, down.relays);
    }

    async fn start_openbao(&mut self, Down { servers, relays }: Down) {
        let servers = StoppedOpenBao::start_members(servers).await;
        self.openbao = members(servers, relays);
    }

    /// Starts the nodes, and waits until each has met the parts that are missing.
    async fn spawn_nodes(&mut self, etcd: bool, openbao: bool) {
        for number in 0..3 {
            let mut provider = self.nodes[number].spawn();
            if !openbao {
                provider.wait_for_event("health.listening").await;
                wait_until(SOON, "a start without OpenBao", async || {
                    let reasons = provider.reasons().await;
                    reasons.contains(&"upsert_check_failed".to_owned())
                })
                .await;
            }
            self.providers[number] = Some(provider);
            let server = &mut self.servers[number];
            server.spawn(&[]);
            if !etcd {
                wait_until(SOON, "a start without etcd", async || {
                    server.log().contains("connection refused")
                })
                .await;
            }
        }
    }

    /// Waits until all nodes serve. What ends in between is started again, as by systemd and the
    /// kubelet.
    async fn nodes_ready(&mut self) {
        for number in 0..3 {
            self.node_ready(number).await;
        }
    }

    /// As [`Self::nodes_ready`], one node.
    pub(super) async fn node_ready(&mut self, number: usize) {
        let mut provider = self.providers[number].take().unwrap();
        while !provider.ready_or_ended().await {
            provider = self.nodes[number].spawn();
        }
        self.providers[number] = Some(provider);
        self.servers[number].ready_after_restarts().await;
    }
}
