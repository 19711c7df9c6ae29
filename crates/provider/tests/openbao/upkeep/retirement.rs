//! `retire-versions` and `restore-versions`: reviewed, applied, and seen from the socket.

use openbao_lab::admin::transit::KeyConfig;
use serde_json::json;
use testkit::wait::wait_until;
use tonic::Code;

use super::{files, json_of, stopped_at, transcript};
use crate::{
    node::{Finished, Node, TIMING},
    provider::{SOON, assert_decrypt_refused, to_decrypt},
};

const RETIRE: &[&str] = &["retire-versions", "--before-version", "2"];
const RESTORE: &[&str] = &["restore-versions", "--versions", "1"];

/// The hash of a plan, which must be one.
fn planned(node: &Node, command: &[&str]) -> String {
    let plan = node.run(&[command, &["--output", "json"]].concat()).json();
    assert_eq!(plan["applied"], false);
    plan["stateHash"].as_str().unwrap().to_owned()
}

fn apply(node: &Node, command: &[&str], hash: &str) -> Finished {
    node.run(&[command, &["--apply", "--expected-state-hash", hash]].concat())
}

fn assert_versions(node: &Node, expected: &[(u64, &str)]) {
    assert_eq!(node.inspect()["stateCheckpointStatus"], "current");
    let versions = node.versions();
    let found: Vec<_> = versions.iter().map(|(v, state)| (*v, &**state)).collect();
    assert_eq!(found, expected);
}

#[tokio::test]
async fn a_retired_version_decrypts_no_more_until_it_is_restored() {
    let (node, encrypted) = stopped_at(2).await;
    let before = files(&node);
    let plan = node.run(RETIRE);
    insta::assert_snapshot!("retire-plan", transcript(&node, &plan));
    let plan = node.run(&[RETIRE, &["--output", "json"]].concat());
    insta::assert_snapshot!("retire-plan-json", transcript(&node, &plan));
    assert_eq!(files(&node), before, "a plan writes nothing");

    let hash = planned(&node, RETIRE);
    let retired = apply(&node, RETIRE, &hash);
    insta::assert_snapshot!("retire-applied", transcript(&node, &retired));
    assert_versions(&node, &[(1, "removed"), (2, "active")]);

    let provider = node.serve().await;
    let unknown = async || {
        let refused = provider.decrypt(to_decrypt(&encrypted[0])).await;
        let refused = refused.unwrap_err();
        assert_eq!(refused.code(), Code::NotFound);
        let removed = "key version 1 was removed on this node; run restore-versions";
        assert_decrypt_refused(&refused, "key_id unknown", removed);
    };
    unknown().await;
    // Neither a request nor the probes after it take the version up again.
    let probes = r#"transit_metadata_observation_total{status="ok"}"#;
    let seen = provider.metric(probes).await;
    wait_until(SOON, "two more probes", async || {
        provider.metric(probes).await >= seen + 2.0
    })
    .await;
    unknown().await;
    provider.encrypt(b"seed").await.unwrap();
    provider.stop().await;
    assert_versions(&node, &[(1, "removed"), (2, "active")]);

    let plan = node.run(RESTORE);
    insta::assert_snapshot!("restore-plan", transcript(&node, &plan));
    let restored = apply(&node, RESTORE, &planned(&node, RESTORE));
    insta::assert_snapshot!("restore-applied", transcript(&node, &restored));
    assert_versions(&node, &[(1, "retired"), (2, "active")]);
    let provider = node.serve().await;
    let decrypted = provider.decrypt(to_decrypt(&encrypted[0])).await.unwrap();
    assert_eq!(decrypted, &b"seed"[..]);
}

#[tokio::test]
async fn openbao_is_not_asked_about_a_retired_version() {
    let (mut node, encrypted) = stopped_at(2).await;
    assert_eq!(apply(&node, RETIRE, &planned(&node, RETIRE)).code, Some(0));
    // Every further reading of metadata is a discovery.
    node.config["status"] = json!({"probeInterval": "1h", "statusMaxStaleness": "2h"});
    let provider = node.serve().await;
    let reads = r#"openbao_requests_total{operation="transit_metadata_read",status="ok"}"#;
    let before = provider.metric(reads).await;
    assert_ne!(before, 0.0);
    for _ in 0..3 {
        let refused = provider.decrypt(to_decrypt(&encrypted[0])).await;
        assert_eq!(refused.unwrap_err().code(), Code::NotFound);
    }
    assert_eq!(provider.metric(reads).await, before);
}

#[tokio::test]
async fn only_the_reviewed_state_is_changed() {
    let (node, _) = stopped_at(3).await;
    let first = planned(&node, RETIRE);
    assert_eq!(apply(&node, RETIRE, &first).code, Some(0));
    let before = files(&node);
    let all = &["retire-versions", "--before-version", "3"];
    let outdated = apply(&node, all, &first);
    insta::assert_snapshot!("retire-outdated", transcript(&node, &outdated));
    assert_eq!(files(&node), before);
}

#[tokio::test]
async fn a_plan_that_changes_nothing_still_names_its_command_and_writes_nothing() {
    let (node, _) = stopped_at(2).await;
    let hash = planned(&node, RETIRE);
    assert_eq!(apply(&node, RETIRE, &hash).code, Some(0));
    let before = files(&node);
    let again = node.run(&[RETIRE, &["--output", "json"]].concat());
    insta::assert_snapshot!("retire-nothing-json", transcript(&node, &again));
    let again = json_of(&again);
    assert_eq!(again["nextStateHash"], again["stateHash"]);
    let hash = again["stateHash"].as_str().unwrap();
    assert_eq!(apply(&node, RETIRE, hash).code, Some(0));
    assert_eq!(files(&node), before);
}

#[tokio::test]
async fn a_running_provider_keeps_its_state_and_a_plan_needs_no_stop() {
    let (node, encrypted) = stopped_at(2).await;
    let provider = node.serve().await;
    let hash = planned(&node, RETIRE);
    let before = files(&node);
    let locked = transcript(&node, &apply(&node, RETIRE, &hash));
    let locked = locked.replace(&provider.pid().to_string(), "<pid>");
    insta::assert_snapshot!("retire-locked", locked);
    assert_eq!(files(&node), before);
    provider.decrypt(to_decrypt(&encrypted[0])).await.unwrap();
}

#[tokio::test]
async fn a_version_that_openbao_blocks_can_be_retired_but_not_restored() {
    let (node, _) = stopped_at(2).await;
    let minimum = |version| KeyConfig {
        min_decryption_version: Some(version),
        ..KeyConfig::default()
    };
    node.configure_key(minimum(2)).await;
    let retired = apply(&node, RETIRE, &planned(&node, RETIRE));
    assert_eq!(retired.code, Some(0), "{}", retired.err);
    let before = files(&node);
    let blocked = node.run(RESTORE);
    insta::assert_snapshot!("restore-blocked", transcript(&node, &blocked));
    assert_eq!(files(&node), before);

    node.configure_key(minimum(1)).await;
    let restored = apply(&node, RESTORE, &planned(&node, RESTORE));
    assert_eq!(restored.code, Some(0), "{}", restored.err);
}

#[tokio::test]
async fn without_a_state_nothing_is_retired_or_made() {
    let node = Node::new(TIMING).await;
    let refused = node.run(RETIRE);
    insta::assert_snapshot!("retire-no-state", transcript(&node, &refused));
    let refused = apply(&node, RESTORE, &format!("krs1.{}", "A".repeat(43)));
    assert_eq!(refused.code, Some(4));
    assert!(!node.state_file().exists());
    assert!(!node.checkpoint().exists());
}

#[tokio::test]
async fn the_newest_versions_and_those_that_are_not_removed_are_refused() {
    let (node, _) = stopped_at(2).await;
    let refused = node.run(&["retire-versions", "--before-version", "3"]);
    insta::assert_snapshot!("retire-above-active", transcript(&node, &refused));
    let refused = node.run(&["restore-versions", "--versions", "1,2,1"]);
    insta::assert_snapshot!("restore-refused", transcript(&node, &refused));
}

#[tokio::test]
async fn an_interrupted_save_is_completed_before_a_plan_is_applied() {
    let (node, _) = stopped_at(2).await;
    let checkpoint = std::fs::read(node.checkpoint()).unwrap();
    assert_eq!(apply(&node, RETIRE, &planned(&node, RETIRE)).code, Some(0));
    // As if the retirement had been cut short between its two files.
    testkit::files::replace(&node.checkpoint(), &checkpoint, 0o640);
    let restored = apply(&node, RESTORE, &planned(&node, RESTORE));
    assert_eq!(restored.code, Some(0), "{}", restored.err);
    assert_versions(&node, &[(1, "retired"), (2, "active")]);
}

#[tokio::test]
async fn a_missing_checkpoint_is_refused_before_anything_is_asked() {
    let (mut node, _) = stopped_at(2).await;
    let hash = planned(&node, RETIRE);
    std::fs::remove_file(node.checkpoint()).unwrap();
    node.config["openbao"]["address"] = json!("https://127.0.0.1:1");
    let refused = [
        node.run(RETIRE),
        node.run(RESTORE),
        apply(&node, RETIRE, &hash),
    ];
    for refused in refused {
        let said = ["is missing", "from a backup", "--accept-missing-checkpoint"];
        refused.assert_refused(4, &said);
    }
    assert!(!node.checkpoint().exists());
}

#[tokio::test]
async fn nothing_is_planned_without_openbao() {
    let (mut node, _) = stopped_at(2).await;
    node.config["openbao"]["address"] = json!("https://127.0.0.1:1");
    let refused = node.run(RETIRE);
    insta::assert_snapshot!("retire-openbao-down", transcript(&node, &refused));
}
