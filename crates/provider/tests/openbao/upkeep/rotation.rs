//! `rotation-plan` and `verify-rotation` through a whole rotation, and when something is in the way.

use std::{
    io::{BufRead as _, BufReader},
    process::Stdio,
};

use openbao_lab::admin::transit::KeyConfig;
use serde_json::json;
use testkit::{files, openbao::shared_openbao, wait::wait_until};

use super::{files as state_files, json_of, stopped_at, transcript, without_state};
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
        plan["pendingStableObservationCount"] == 2
    })
    .await;
    provider.stop().await;
    let before = state_files(&node);
    for (name, arguments) in [
        ("rotation-plan-pending", &["rotation-plan"][..]),
        (
            "rotation-plan-pending-json",
            &["rotation-plan", "--output", "json"],
        ),
    ] {
        insta::assert_snapshot!(name, transcript(&node, &node.run(arguments)));
    }
    assert_eq!(state_files(&node), before);

    let waited = ["rotation-plan", "--wait", "1ms", "--output", "json"];
    let waited = node.run(&waited);
    assert_eq!(waited.code, Some(4), "{}", waited.err);
    let waited = json_of(&waited);
    assert_eq!(
        (&waited["verdict"], &waited["exitCode"]),
        (&json!("pending"), &json!(4))
    );
    assert_eq!(waited["pendingRequiredObservationCount"], 2);
}

#[tokio::test]
async fn a_wait_ends_with_the_promotion() {
    let node = Node::new(TIMING).await;
    let provider = node.serve().await;
    node.rotate().await;
    let often = ["--wait", "1m", "--interval", "100ms", "--output", "json"];
    for command in ["rotation-plan", "verify-rotation"] {
        let plan = node.run(&[&[command], &often[..]].concat()).json();
        assert_eq!(
            (&plan["verdict"], &plan["activeTransitVersion"]),
            (&json!("active"), &json!(2))
        );
    }

    let watch = ["rotation-plan", "--watch", "--interval", "100ms"];
    let mut watch = node.program(&watch).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let mut verdict = |wanted: &str| lines.any(|line| line.unwrap().contains(wanted));
    assert!(verdict("rotation-plan: active"));
    node.rotate().await;
    assert!(verdict("rotation-plan: active"));
    watch.kill().unwrap();
    watch.wait().unwrap();
    provider.stop().await;
}

#[tokio::test]
async fn another_openbao_and_a_token_are_used_for_one_command_and_named() {
    let (mut node, _) = stopped_at(2).await;
    let address = node.config["openbao"]["address"].take();
    let address = address.as_str().unwrap();
    node.config["openbao"]["address"] = json!("https://127.0.0.1:1");
    node.config["auth"]["jwt"]["role"] = json!("nobody");
    let token = node.state_dir().parent().unwrap().join("token");
    let secrets = shared_openbao().await.secrets();
    files::replace(&token, secrets.root_token.expose().as_bytes(), 0o600);
    let file = ["--token-file", token.to_str().unwrap()];
    let plan = |options: &[&str]| {
        let mut command = node.program(&[&["rotation-plan", "-o", "json"], options].concat());
        command.env("BAO_ADDR", address);
        json_of(&command.output().unwrap().into())
    };

    let found = plan(&file);
    assert_eq!(found["transitMetadataStatus"], "pass", "{found:#}");
    assert_eq!(found["latestTransitVersion"], 2);
    let source =
        |option, value, source| json!({"option": option, "value": value, "source": source});
    let expected = [
        source("--openbao-address", address, "BAO_ADDR"),
        source("--token-file", file[1], "command line"),
    ];
    assert_eq!(found["optionSources"], json!(expected));

    let wins = plan(&[&file[..], &["--openbao-address=https://127.0.0.1:2"]].concat());
    assert_eq!(wins["transitMetadataStatus"], "fail", "{wins:#}");
    assert_eq!(wins["optionSources"][0]["source"], "command line");

    files::replace(&token, secrets.root_token.expose().as_bytes(), 0o644);
    let open = plan(&file);
    let error = open["transitMetadataError"].as_str().unwrap();
    assert!(error.contains("has mode 0644"), "{error}");

    files::replace(&token, b"s.revoked", 0o600);
    assert_eq!(plan(&file)["cause"], "token_rejected");
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
