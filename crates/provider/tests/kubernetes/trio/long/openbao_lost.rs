//! OpenBao is lost on all its servers, while etcd and the API servers run.

use rustix::process::Signal;
use serde_json::Value;
use testkit::{control_plane::WITHIN, wait::wait_until};

use super::{
    super::{
        Trio,
        everyday::rotation,
        explained::{assert_explained, assert_none_failed},
        run,
    },
    all_at_once::{Down, members},
};
use crate::members::active;

/// The node that starts without OpenBao.
const NODE: usize = 1;

#[tokio::test]
#[ignore = "long: minutes of load on a cluster of three"]
async fn openbao_comes_back_on_all_its_servers_while_the_api_servers_run() {
    let mut trio = Trio::new().await;
    let record = trio.play("rotation before the backup", rotation).await;
    assert_none_failed(&record);
    let snapshot = trio.directory.path().join("openbao.snap");
    let leader = active(&trio.openbao).await;
    let leader = &trio.openbao[leader].server;
    leader.save_snapshot(&snapshot).await;

    let lost = "OpenBao is lost with all disks and restored from a snapshot";
    let record = trio.play(lost, async |trio| {
        let down = trio.lose_openbao();
        for number in 0..3 {
            trio.end_provider(number, Signal::TERM).await;
        }
        trio.restore_openbao(down, &snapshot).await;

        let verified = trio.verify_backup().await;
        assert_eq!(verified["verdict"], "compatible", "{verified:#}");
        for number in 0..3 {
            trio.start_provider(number).await;
        }
        rotation(trio).await;
    });
    assert_none_failed(&record.await);

    let sealed = "OpenBao is sealed on all servers while a node starts";
    let record = trio.play(sealed, node_starts_without_openbao);
    assert_explained(&record.await, &[NODE], &[]);
}

async fn node_starts_without_openbao(trio: &mut Trio) {
    trio.servers[NODE].kill();
    trio.end_provider(NODE, Signal::KILL).await;
    let Down { servers, relays } = trio.lose_openbao();
    let mut sealed = Vec::new();
    for server in servers {
        sealed.push(server.start_sealed().await);
    }
    trio.openbao = members(sealed, relays);

    trio.providers[NODE] = Some(trio.nodes[NODE].spawn());
    let server = &mut trio.servers[NODE];
    server.spawn(&[]);
    wait_until(WITHIN, "a start without OpenBao", async || {
        let answer = server.get("/readyz?verbose").await;
        answer.is_some_and(|(_, checks)| checks.contains("[-]kms-providers failed"))
    })
    .await;
    assert_eq!(trio.triage(NODE).await, "openbao_sealed");

    // One of three is no majority.
    trio.openbao[0].server.enter_unseal_key().await;
    println!("one server is unsealed: {}", trio.triage(NODE).await);
    trio.openbao[1].server.enter_unseal_key().await;
    trio.node_ready(NODE).await;
    trio.nodes_agree().await;
    assert_eq!(trio.triage(NODE).await, "healthy");
    trio.openbao[2].server.enter_unseal_key().await;
}

impl Trio {
    /// `verify-backup` of the first node with the running etcd.
    async fn verify_backup(&self) -> Value {
        let mut verify = self.nodes[0].program(&["verify-backup", "--output", "json"]);
        verify
            .args(["--depth", "data"])
            .args(self.servers[0].etcd().options());
        run(verify).await.json()
    }
}
