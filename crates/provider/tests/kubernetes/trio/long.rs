//! Losses of one part of a cluster, each with its return, and losses of all parts at once.

mod all_at_once;
mod openbao_lost;
mod releases;
mod replaced;
mod upgrade;

use rustix::process::Signal;

use super::{
    Trio,
    everyday::rotation,
    explained::{ETCD_LEADER, assert_explained, assert_none_failed},
};
use crate::members::Loss;

#[tokio::test]
#[ignore = "long: minutes of load on a cluster of three"]
async fn the_leader_of_openbao_is_lost_in_every_way() {
    let mut trio = Trio::new().await;
    for (name, loss) in [
        ("the leader of OpenBao steps down", Loss::StepDown),
        ("the leader of OpenBao is sealed", Loss::Seal),
        (
            "the leader of OpenBao is separated from the other members",
            Loss::Partition,
        ),
        (
            "the leader of OpenBao is out of reach for all nodes",
            Loss::Way,
        ),
        ("the leader of OpenBao hangs", Loss::Hang),
        ("the leader of OpenBao is killed", Loss::Kill),
    ] {
        let record = trio
            .play(name, async |trio| {
                trio.lose_leader(loss, async |trio| {
                    // A rotation makes every API server request a new seed.
                    rotation(trio).await;
                    assert_eq!(trio.triage(0).await, "healthy");
                })
                .await;
            })
            .await;
        assert_none_failed(&record);
    }
}

#[tokio::test]
#[ignore = "long: minutes of load on a cluster of three"]
async fn every_node_and_member_of_etcd_is_lost_once() {
    let mut trio = Trio::new().await;
    let killed = "every node is killed and started, one after another";
    let record = trio
        .play(killed, async |trio| {
            for number in 0..3 {
                trio.servers[number].kill();
                trio.end_provider(number, Signal::KILL).await;
                trio.start_provider(number).await;
                trio.servers[number].ready_after_restarts().await;
                trio.nodes_agree().await;
            }
        })
        .await;
    assert_explained(&record, &[0, 1, 2], &[]);

    let record = trio
        .play("the leader of etcd is killed and started", async |trio| {
            let etcd = trio.servers[0].etcd();
            let leader = etcd.leader();
            etcd.kill_member(leader);
            rotation(trio).await;
            trio.servers[0].etcd().start_member(leader).await;
        })
        .await;
    assert_explained(&record, &[], &ETCD_LEADER);

    let record = trio
        .play("a member of etcd is lost and replaced", async |trio| {
            let etcd = trio.servers[0].etcd();
            etcd.kill_member(1);
            etcd.replace_member(1).await;
            // The new member must count for the majority.
            etcd.kill_member(2);
            rotation(trio).await;
            trio.servers[0].etcd().start_member(2).await;
        })
        .await;
    assert_explained(&record, &[], &ETCD_LEADER);
}
