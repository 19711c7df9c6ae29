//! Events of an ordinary year, all on one cluster: restarts, a lost leader and a rotation.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustix::process::Signal;
use serde_json::Value;
use testkit::{control_plane::Kind, wait::wait_until};

use super::{
    Trio,
    explained::{assert_explained, assert_none_failed},
};
use crate::{
    cluster::contains,
    members::{Loss, active},
    provider::SOON,
};

#[tokio::test]
async fn a_cluster_of_three_serves_through_restarts_a_lost_leader_and_a_rotation() {
    let mut trio = Trio::new().await;

    let record = trio
        .play("providers restarted one after another", restarts)
        .await;
    assert_none_failed(&record);

    let lost = "the leader of OpenBao is killed, and an API server is restarted";
    let record = trio
        .play(lost, async |trio| {
            trio.lose_leader(Loss::Kill, async |trio| {
                trio.servers[2].stop().await;
                trio.servers[2].ready_after_restarts().await;
            })
            .await;
        })
        .await;
    assert_explained(&record, &[2], &[]);

    let record = trio.play("rotation, promotion, rewrite", rotation).await;
    assert_none_failed(&record);

    trio.assert_losses_are_seen().await;
}

/// One node after another, with `compare-nodes` as the gate.
async fn restarts(trio: &mut Trio) {
    for number in 0..3 {
        trio.end_provider(number, Signal::TERM).await;
        trio.start_provider(number).await;
        trio.nodes_agree().await;
    }
}

/// A rotation is promoted by each node in its own time. The rewrite waits for all of them.
pub(super) async fn rotation(trio: &mut Trio) {
    let before = trio.key_id().await;
    trio.rotate().await;
    trio.key_id_after(&before).await;
    let verdicts = trio.nodes_agree().await;
    assert!(verdicts.contains(&"rotating".to_owned()), "{verdicts:?}");
    let after = trio.key_id().await;
    trio.assert_sound("rotation").await;

    // Every API server writes under the new key alone.
    for (number, server) in trio.servers.iter().enumerate() {
        for kind in Kind::ALL {
            let name = format!("new-{number}");
            server.write(kind, &name, "after").await.unwrap();
            assert!(contains(&server.stored(kind, &name), after.as_bytes()));
        }
    }
    assert!(trio.stored_under(&before) > 0);
    let rewritten = trio.rewrite().await;
    assert_eq!(rewritten["verdict"], "proven", "{rewritten:#}");
    assert_eq!(trio.stored_under(&before), 0);
}

impl Trio {
    /// Deletes an object behind the API servers: each one must report it.
    async fn assert_losses_are_seen(&self) {
        let name = "run-1-0-0";
        let key = Kind::Secret.etcd_key(name);
        assert_eq!(self.servers[0].etcd().ctl(&["del", &key]), b"1\n");
        let lost = self.load.lost_or_wrong(&self.servers).await;
        assert_eq!(lost.len(), self.servers.len(), "{lost:?}");
        assert!(lost.iter().all(|it| it.contains(name)), "{lost:?}");
    }

    /// Loses the leader of OpenBao, does `meanwhile` without it, and takes the server back.
    pub(super) async fn lose_leader(&mut self, loss: Loss, meanwhile: impl AsyncFnOnce(&mut Self)) {
        let leader = self.openbao.swap_remove(active(&self.openbao).await);
        let lost = loss.befalls(leader, &self.openbao).await;
        meanwhile(self).await;
        self.openbao.push(lost.returns().await);
    }

    /// The key_id of the first node.
    pub(super) async fn key_id(&self) -> String {
        let status = self.providers[0].as_ref().unwrap().status().await;
        status.key_id
    }

    /// Waits for the first node's promotion.
    pub(super) async fn key_id_after(&self, before: &str) {
        wait_until(SOON, "a promotion", async || self.key_id().await != before).await;
    }

    /// Number of objects that etcd stores under this key_id.
    pub(super) fn stored_under(&self, key_id: &str) -> usize {
        let read =
            self.servers[0]
                .etcd()
                .ctl(&["get", "/registry/", "--prefix", "--write-out=json"]);
        let read: Value = serde_json::from_slice(&read).unwrap();
        let values = read["kvs"].as_array().unwrap().iter();
        let values = values.map(|kv| STANDARD.decode(kv["value"].as_str().unwrap()).unwrap());
        values
            .filter(|value| contains(value, key_id.as_bytes()))
            .count()
    }
}
