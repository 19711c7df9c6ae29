//! One node that differs: replaced without its state, or with a wrong clock.

use std::fs;

use rustix::process::Signal;
use testkit::{files, wait::wait_until};

use super::super::{
    Trio,
    everyday::rotation,
    explained::{ETCD_LEADER, assert_explained, assert_none_failed},
    run,
};
use crate::provider::SOON;

/// The node that differs.
const NODE: usize = 2;

#[tokio::test]
#[ignore = "long: minutes of load on a cluster of three"]
async fn a_node_is_replaced_without_its_state_while_the_others_serve() {
    let mut trio = Trio::new().await;
    let record = trio.play("rotation before the loss", rotation).await;
    assert_none_failed(&record);
    let lost = "a node is lost with its disk and its member of etcd, and replaced";
    let record = trio.play(lost, replaced).await;
    assert_explained(&record, &[NODE], &ETCD_LEADER);
}

async fn replaced(trio: &mut Trio) {
    trio.servers[NODE].kill();
    trio.end_provider(NODE, Signal::KILL).await;
    trio.servers[0].etcd().kill_member(NODE);
    trio.servers[0].etcd().replace_member(NODE).await;

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
    // Beside the JWT, where the sandbox lets the program read.
    let jwt = trio.nodes[NODE].tenant.jwt_file();
    let offset = jwt.with_file_name("offset");
    let set = |by: &str| files::replace(&offset, by.as_bytes(), 0o644);
    for (name, by) in [
        (
            "rotation; the clock of one node steps ten minutes ahead",
            "+10m",
        ),
        (
            "rotation; the clock of one node steps back ten minutes",
            "-10m",
        ),
    ] {
        let record = trio.play(name, async |trio| {
            set("+0");
            trio.end_provider(NODE, Signal::TERM).await;
            let mut provider = trio.nodes[NODE].spawn_with_clock(&offset);
            provider.ready().await;
            set(by);
            wait_until(SOON, "the wrong clock", async || {
                let offset = provider.metric("openbao_clock_offset_seconds").await;
                offset.abs() > 590.0
            })
            .await;
            trio.providers[NODE] = Some(provider);
            rotation(trio).await;
        });
        assert_none_failed(&record.await);
    }

    let starts = "a provider starts ten minutes behind, then its clock is set right";
    let record = trio.play(starts, async |trio| {
        trio.end_provider(NODE, Signal::TERM).await;
        let mut provider = trio.nodes[NODE].spawn_with_clock(&offset);
        // Its JWT was issued in the future of this clock.
        wait_until(SOON, "a refused login", async || {
            let mut logins = provider.events("auth.login");
            logins.any(|login| login["detail"] == "issued_in_future")
        })
        .await;
        set("+0");
        provider.ready().await;
        trio.providers[NODE] = Some(provider);
    });
    assert_none_failed(&record.await);
}
