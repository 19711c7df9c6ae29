//! Faults of the node: configuration, files, state, provider.

use rustix::process::Signal;
use serde_json::json;

use super::case::triage;
use crate::{
    node::{Node, QUIET},
    upkeep::stopped_at,
};

#[tokio::test]
async fn a_node_that_serves_is_healthy() {
    let node = Node::new(QUIET).await;
    let _provider = node.serve().await;
    let said = triage(&node, &[], "healthy");
    assert_eq!(said.json["exitCode"], 0);
    assert_eq!(said.json["data"]["impact"], "none_lost");
    assert_eq!(said.json["doNot"], json!([]));
    assert_eq!(said.status("kms.round_trip"), "pass");
    assert!(said.text.contains("limitation: No etcd data was tried"));
    said.next("--encryption-config");
}

#[tokio::test]
async fn a_provider_that_does_not_run_is_started() {
    let (node, _) = stopped_at(1).await;
    triage(&node, &[], "not_running")
        .means("none_lost", 4, "provider.running")
        .next("systemctl start bao-kms-provider")
        .next("journalctl");
    // Killed, it leaves its socket behind.
    let provider = node.serve().await;
    provider.signal(Signal::KILL);
    provider.ended().await;
    triage(&node, &[], "not_running")
        .means("none_lost", 4, "provider.running")
        .found("ended without a clean stop");
}
