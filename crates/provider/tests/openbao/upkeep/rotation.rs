//! `rotation-plan` and `verify-rotation` through a whole rotation, and when something is in the way.

use openbao_lab::admin::transit::KeyConfig;
use serde_json::json;
use testkit::wait::wait_until;

use super::{files, json_of, stopped_at, transcript, without_state};
use crate::{
    node::{Node, TIMING},
    provider::SOON,
};

#[tokio::test]
async fn a_new_node_is_told_whether_it_may_make_its_first_state() {
    let node = Node::new(TIMING).await;
    let eligible = node.run(&["rotation-plan"]);
    insta::assert_snapshot!("rotation-plan-new-node", transcript(&node, &eligible));
    node.rotate().await;
    let denied = node.run(&["rotation-plan"]);
    insta::assert_snapshot!("rotation-plan-bootstrap-denied", transcript(&node, &denied));
    assert!(!node.state_file().exists());
}

#[tokio::test]
async fn a_pending_version_is_shown_with_what_it_waits_for() {
    let mut node = Node::new(TIMING).await;
    node.config["rotation"]["activationDelay"] = json!("1h");
    let provider = node.serve().await;
    node.rotate().await;
    wait_until(SOON, "a stable version", async || {
        let plan = node.run(&["rotation-plan", "--output", "json"]).json();
        plan["pendingPromotesAfter"].is_string()
    })
    .await;
    provider.stop().await;
    let before = files(&node);
    for (name, arguments) in [
        ("rotation-plan-pending", &["rotation-plan"][..]),
        (
            "rotation-plan-pending-json",
            &["rotation-plan", "--output", "json"],
        ),
    ] {
        insta::assert_snapshot!(name, transcript(&node, &node.run(arguments)));
    }
    assert_eq!(files(&node), before);
}

#[tokio::test]
async fn a_finished_rotation_is_reported_with_limited_confidence() {
    let (node, _) = stopped_at(2).await;
    for (name, arguments) in [
        ("verify-rotation", &["verify-rotation"][..]),
        (
            "verify-rotation-json",
            &["verify-rotation", "--output", "json"],
        ),
    ] {
        insta::assert_snapshot!(name, transcript(&node, &node.run(arguments)));
    }
}

#[tokio::test]
async fn what_the_state_says_is_shown_also_when_openbao_cannot_be_asked() {
    let (mut node, _) = stopped_at(2).await;
    node.grant(|policy| policy.replace("/keys/etcd", "/nothing"))
        .await;
    let denied = node.run(&["rotation-plan"]);
    insta::assert_snapshot!("rotation-plan-denied", transcript(&node, &denied));

    node.config["auth"]["jwt"]["role"] = json!("nobody");
    let no_login = node.run(&["verify-rotation", "--output", "json"]);
    assert_eq!(no_login.code, Some(4));
    let no_login = json_of(&no_login);
    assert_eq!(no_login["transitMetadataStatus"], "fail");
    let error = no_login["transitMetadataError"].as_str().unwrap();
    assert!(error.contains("login failed"), "{error}");
    assert_eq!(no_login["activeTransitVersion"], 2);
    assert_eq!(no_login["confidence"], "limited");
}

#[tokio::test]
async fn a_key_that_lacks_what_the_state_needs_fails_the_plan() {
    let (node, _) = stopped_at(2).await;
    let hidden = KeyConfig {
        min_decryption_version: Some(2),
        ..KeyConfig::default()
    };
    node.configure_key(hidden).await;
    let plan = node.run(&["verify-rotation", "--output", "json"]);
    assert_eq!(plan.code, Some(4));
    let plan = json_of(&plan);
    assert_eq!(plan["transitMetadataStatus"], "fail");
    let error = plan["transitMetadataError"].as_str().unwrap();
    let hidden = "hidden by min_decryption_version 2";
    assert!(error.contains(hidden), "{error}");
    let steps = plan["nextSteps"].to_string();
    assert!(steps.contains("min_decryption_version=1\""), "{steps}");
    assert_eq!(plan["latestTransitVersion"], 2);
}

#[tokio::test]
async fn a_state_that_cannot_be_believed_is_refused() {
    let (node, _) = stopped_at(2).await;
    let refused = without_state(&node, &["rotation-plan"]);
    insta::assert_snapshot!("rotation-plan-state-lost", transcript(&node, &refused));
}

#[tokio::test]
async fn a_missing_checkpoint_is_a_warning_and_nothing_is_written() {
    let (node, _) = stopped_at(2).await;
    std::fs::remove_file(node.checkpoint()).unwrap();
    let plan = node.run(&["rotation-plan", "--output", "json"]).json();
    assert_eq!(plan["stateCheckpointStatus"], "missing");
    assert_eq!(plan["stateCheckpointLoaded"], false);
    let warning = plan["stateCheckpointWarning"].as_str().unwrap();
    assert!(warning.contains("is the newest"), "{warning}");
    assert!(!node.checkpoint().exists());
}
