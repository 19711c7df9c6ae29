//! One node that differs: replaced without its state, or with a wrong clock.

use std::fs;

use rustix::process::Signal;
use testkit::files;

use super::super::{
    Trio,
    everyday::{assert_none_failed, rotation},
    run,
};

/// The node that differs.
const NODE: usize = 2;

#[tokio::test]
#[ignore = "long: minutes of load on a cluster of three"]
async fn a_node_is_replaced_without_its_state_while_the_others_serve() {
    let mut trio = Trio::new().await;
    trio.play("rotation before the loss", rotation).await;
    trio.play(
        "a node without its state, by recover-state from a peer",
        replaced,
    )
    .await;
}

async fn replaced(trio: &mut Trio) {
    trio.servers[NODE].kill();
    trio.end_provider(NODE, Signal::KILL).await;
    let lost = &trio.nodes[NODE];
    fs::remove_dir_all(lost.state_dir()).unwrap();
    files::directory(&lost.state_dir(), 0o750);
    let refused = lost.refused().await;
    let missing = "the registry state of this node is missing";
    assert!(refused.err.contains(missing), "{}", refused.err);

    // The checkpoint first: a state one generation ahead of it is completed.
    let peer = trio.directory.path().join("peer.json");
    let checkpoint = peer.with_file_name("peer.json.checkpoint");
    fs::copy(trio.nodes[0].checkpoint(), &checkpoint).unwrap();
    fs::copy(trio.nodes[0].state_file(), &peer).unwrap();

    let peer = peer.display().to_string();
    let etcd = trio.servers[0].etcd().options();
    let mut recover = vec!["recover-state", "--output", "json", "--peer-state", &peer];
    recover.extend(etcd.iter().map(String::as_str));
    let plan = run(lost.program(&recover)).await.json();
    assert_eq!(plan["verdict"], "planned", "{plan:#}");
    let hash = plan["planHash"].as_str().unwrap();
    recover.extend(["--apply", "--expected-plan-hash", hash]);
    let applied = run(lost.program(&recover)).await.json();
    assert_eq!(applied["verdict"], "applied", "{applied:#}");

    trio.start_provider(NODE).await;
    trio.nodes_agree().await;
    trio.servers[NODE].ready_after_restarts().await;
}

#[tokio::test]
#[ignore = "long: minutes of load on a cluster of three"]
async fn a_node_whose_clock_is_wrong_by_ten_minutes_follows_a_rotation() {
    let mut trio = Trio::new().await;
    for (name, by) in [
        (
            "rotation; the clock of one provider is ten minutes ahead",
            "+10m",
        ),
        (
            "rotation; the clock of one provider is ten minutes behind",
            "-10m",
        ),
    ] {
        let record = trio
            .play(name, async |trio| {
                trio.end_provider(NODE, Signal::TERM).await;
                let node = &trio.nodes[NODE];
                let offset = node.tenant.jwt_file().with_file_name("offset");
                files::replace(&offset, by.as_bytes(), 0o644);
                let mut provider = node.spawn_with_clock(&offset);
                provider.ready().await;
                trio.providers[NODE] = Some(provider);
                rotation(trio).await;

                trio.end_provider(NODE, Signal::TERM).await;
                trio.start_provider(NODE).await;
            })
            .await;
        assert_none_failed(&record);
    }
}
