//! `verify-key`: what it finds on a good node, and each thing that can be wrong.

use openbao_lab::admin::transit::KeyConfig;
use serde_json::{Value, json};
use testkit::{openbao::shared_openbao, tenant::Tenant};

use super::{json_of, stopped_at, transcript, without_state};
use crate::node::{Node, TIMING};

fn found(node: &Node, code: i32) -> Vec<Value> {
    let finished = node.run(&["verify-key", "--output", "json"]);
    assert_eq!(finished.code, Some(code), "{}", finished.out);
    json_of(&finished)["checks"].as_array().unwrap().clone()
}

#[track_caller]
fn assert_found(checks: &[Value], id: &str, status: &str, said: &str) {
    let check = checks.iter().find(|check| check["id"] == id).unwrap();
    assert_eq!(check["status"], status, "{check}");
    let message = check["message"].as_str().unwrap_or_default();
    assert!(message.contains(said), "{said:?} is missing: {check}");
}

#[tokio::test]
async fn a_good_node_passes_every_check() {
    let (node, _) = stopped_at(2).await;
    let text = node.run(&["verify-key"]);
    insta::assert_snapshot!("verify-key", transcript(&node, &text));
    let json = node.run(&["verify-key", "--output", "json"]);
    insta::assert_snapshot!("verify-key-json", transcript(&node, &json));
}

#[tokio::test]
async fn a_node_without_state_is_told_whether_it_may_make_one() {
    let node = Node::new(TIMING).await;
    let checks = found(&node, 0);
    assert_found(&checks, "registry.state", "warn", "was never rotated");
    assert_found(&checks, "transit.version_restrictions", "pass", "");
    node.rotate().await;
    let checks = found(&node, 0);
    assert_found(&checks, "registry.state", "warn", "rotated to version 2");
    assert!(!node.state_file().exists());
}

#[tokio::test]
async fn every_capability_that_is_too_much_is_listed() {
    let node = Node::new(TIMING).await;
    let mount = &node.tenant.transit_mount;
    let more = format!(
        "path \"{mount}/keys/etcd/rotate\" {{ capabilities = [\"update\"] }}\n\
         path \"{mount}/backup/etcd\" {{ capabilities = [\"read\", \"list\"] }}\n\
         path \"{mount}/config/keys\" {{ capabilities = [\"read\", \"update\", \"sudo\"] }}\n"
    );
    node.grant(|policy| policy + &more).await;
    let text = node.run(&["verify-key"]);
    insta::assert_snapshot!("verify-key-excess", transcript(&node, &text));
    let checks = found(&node, 4);
    let policy = checks
        .iter()
        .find(|check| check["id"] == "transit.capabilities");
    assert_eq!(
        policy.unwrap()["details"]["excess"],
        json!([
            {"path": format!("{mount}/keys/etcd/rotate"), "capabilities": ["update"]},
            {"path": format!("{mount}/backup/etcd"), "capabilities": ["read"]},
            {"path": format!("{mount}/config/keys"), "capabilities": ["sudo", "update"]},
        ])
    );
}

#[tokio::test]
async fn every_capability_that_is_missing_is_listed() {
    let node = Node::new(TIMING).await;
    node.grant(|policy| policy.replace("/decrypt/etcd", "/nothing"))
        .await;
    let checks = found(&node, 4);
    let lacks = format!(
        "it lacks: update on {}/decrypt/etcd",
        node.tenant.transit_mount
    );
    assert_found(&checks, "transit.capabilities", "fail", &lacks);
    assert_found(&checks, "registry.state", "warn", "there is no state");

    node.grant(|policy| policy.replace("/config/keys", "/nothing"))
        .await;
    let text = node.run(&["verify-key"]);
    insta::assert_snapshot!("verify-key-no-config-read", transcript(&node, &text));

    node.grant(|policy| policy.replace("/keys/etcd", "/nothing"))
        .await;
    let text = node.run(&["verify-key"]);
    insta::assert_snapshot!("verify-key-no-metadata", transcript(&node, &text));
}

#[tokio::test]
async fn a_token_that_cannot_be_renewed_is_a_warning() {
    let node = Node::new(TIMING).await;
    let printed = node.run(&["policy", "openbao", "--include-token-renewal=false"]);
    let admin = shared_openbao().await.admin();
    let (name, policy) = (&node.tenant.policy, &printed.out);
    admin.write_policy(name, policy).await.unwrap();
    let checks = found(&node, 0);
    assert_found(&checks, "openbao.renew_capability", "warn", "renew-self");
}

#[tokio::test]
async fn findings_about_the_key_have_codes_and_leave_the_later_checks_out() {
    let node = Node::new(TIMING).await;
    let unsafe_key = KeyConfig {
        deletion_allowed: Some(true),
        exportable: Some(true),
        ..KeyConfig::default()
    };
    node.configure_key(unsafe_key).await;
    let checks = found(&node, 4);
    assert_found(
        &checks,
        "transit.profile",
        "fail",
        "blocking/cryptographic_safety: it is exportable",
    );
    let profile = checks.iter().find(|check| check["id"] == "transit.profile");
    let findings = profile.unwrap()["details"]["findings"].as_array().unwrap();
    let codes: Vec<_> = findings.iter().map(|finding| &finding["code"]).collect();
    assert_eq!(codes, ["exportable", "deletion_allowed"]);
    assert_found(&checks, "transit.disable_upsert", "pass", "");
    for id in ["key_id.deterministic", "transit.version_restrictions"] {
        assert_found(&checks, id, "skip", "because transit.profile failed");
    }
}

#[tokio::test]
async fn a_version_that_cannot_be_read_is_named() {
    let (node, _) = stopped_at(2).await;
    let hidden = KeyConfig {
        min_decryption_version: Some(2),
        ..KeyConfig::default()
    };
    node.configure_key(hidden).await;
    let checks = found(&node, 4);
    let said = "version 1 is hidden by min_decryption_version 2";
    assert_found(&checks, "transit.version_restrictions", "fail", said);
    assert_found(&checks, "registry.state", "pass", "current");
}

#[tokio::test]
async fn an_active_version_that_may_not_encrypt_is_named() {
    let (node, _) = stopped_at(1).await;
    node.rotate().await;
    let blocked = KeyConfig {
        min_encryption_version: Some(2),
        ..KeyConfig::default()
    };
    node.configure_key(blocked).await;
    let checks = found(&node, 4);
    let said = "min_encryption_version is above the active version 1";
    assert_found(&checks, "transit.version_restrictions", "fail", said);
    let said = "active in the state, version 1";
    assert_found(&checks, "key_id.deterministic", "pass", said);
}

#[tokio::test]
async fn a_state_that_cannot_be_believed_fails_and_is_not_compared_with_the_key() {
    let (node, _) = stopped_at(2).await;
    let lost = without_state(&node, &["verify-key", "--output", "json"]);
    assert_eq!(lost.code, Some(4), "{}", lost.out);
    let checks = json_of(&lost)["checks"].as_array().unwrap().clone();
    assert_found(
        &checks,
        "registry.state",
        "fail",
        "there is no state document",
    );
    assert_found(&checks, "transit.version_restrictions", "skip", "");
}

#[tokio::test]
async fn without_a_login_or_a_key_nothing_else_is_asked() {
    let node = Node::of(Tenant::without_key(shared_openbao().await).await, TIMING);
    let checks = found(&node, 4);
    assert_found(&checks, "transit.metadata", "fail", "does not exist");
    assert_found(&checks, "transit.profile", "skip", "");

    let mut node = node;
    node.config["auth"]["jwt"]["role"] = json!("nobody");
    let text = node.run(&["verify-key"]);
    insta::assert_snapshot!("verify-key-no-login", transcript(&node, &text));
}
