//! `/why`: the running provider's own view, and what `doctor` and `triage` make of it.

use std::fs;

use openbao_lab::port::free_port;
use serde_json::{Value, json};
use testkit::{
    files,
    openbao::shared_openbao,
    relay::{Line, Relay},
    wait::wait_until,
};

use crate::{
    node::{Finished, Node, TIMING},
    provider::{Provider, SOON},
};

/// A node whose health listener is found by its configuration.
async fn node() -> Node {
    let mut node = Node::new(TIMING).await;
    let address = format!("127.0.0.1:{}", free_port().unwrap());
    node.config["server"]["healthAddress"] = json!(address);
    node
}

/// Waits until the view is so.
async fn wait_for(provider: &Provider, awaited: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let mut why = Value::Null;
    wait_until(SOON, awaited, async || {
        why = provider.health("/why").await.1;
        wanted(&why)
    })
    .await;
    why
}

/// The check of this view in a report.
fn check(report: &Finished) -> Value {
    let report: Value = serde_json::from_str(&report.out).unwrap();
    let checks = report["checks"].as_array().unwrap();
    let check = checks.iter().find(|check| check["id"] == "provider.why");
    check.unwrap().clone()
}

#[tokio::test]
async fn a_healthy_provider_tells_of_its_connections_token_and_files() {
    let node = node().await;
    let provider = node.serve().await;
    let why = wait_for(&provider, "two files", |why| {
        why["files"]
            .as_array()
            .is_some_and(|files| files.len() == 2)
            && why["files"][0]["hash_in_use"].is_string()
    })
    .await;
    assert_eq!(why["reasons"], json!([]));
    assert_eq!(why["metadata_probe"], json!({"passed": true}));
    assert_eq!(why["deep_probe"], json!({"passed": true}));
    assert_eq!(why["login"]["state"], "authenticated");
    assert_eq!(
        why["openbao"][0]["address"],
        node.config["openbao"]["address"]
    );
    let peer = &why["openbao"][0]["peers"][0];
    assert!(peer["in_use"].as_u64().unwrap() + peer["idle"].as_u64().unwrap() > 0);
    assert_eq!(why["state"]["unsaved"], Value::Null);
    assert!(why["state"]["free_bytes"].as_u64().unwrap() > 0);
    assert_eq!(why["decrypts"]["hedges"], 0);
    assert_eq!(why["socket"]["activated"], false);
    let doctor = node.run(&["doctor", "--output", "json"]);
    assert_eq!(doctor.code, Some(0), "{}", doctor.out);
    assert_eq!(check(&doctor)["status"], "pass", "{}", doctor.out);
}

#[tokio::test]
async fn what_only_the_running_provider_suffers_from_is_named_by_doctor_and_triage() {
    let mut node = node().await;
    let relay = Relay::to(&shared_openbao().await.endpoint()).await;
    let direct = node.config["openbao"]["address"].clone();
    node.config["openbao"]["address"] = json!(relay.address);
    let provider = node.serve().await;
    relay.set(Line::Cut);
    wait_for(&provider, "a failed probe", |why| {
        why["metadata_probe"]["passed"] == false
            && why["openbao"][0]["peers"][0]["last_failure"]["class"] == "connection_failed"
    })
    .await;
    // The commands have a way of their own that works.
    node.config["openbao"]["address"] = direct;
    let doctor = node.run(&["doctor", "--output", "json"]);
    let found = check(&doctor);
    assert_eq!(found["status"], "fail", "{}", doctor.out);
    let said = found["message"].as_str().unwrap();
    assert!(said.contains("connection_failed"), "{said}");
    let triage = node.run(&["triage"]);
    assert!(
        triage.out.starts_with("triage: provider_unhealthy\n"),
        "{}",
        triage.out
    );
    assert!(triage.out.contains("connection_failed"), "{}", triage.out);
    relay.set(Line::Open);
    wait_for(&provider, "recovery", |why| why["reasons"] == json!([])).await;
}

#[tokio::test]
async fn a_login_that_fails_is_told_with_its_cause_while_the_token_lives() {
    let node = node().await;
    let provider = node.serve().await;
    fs::remove_file(node.tenant.jwt_file()).unwrap();
    let revoke = json!({});
    let path = format!("sys/leases/revoke-prefix/auth/{}", node.tenant.jwt_mount);
    shared_openbao()
        .await
        .admin()
        .write(&path, &revoke)
        .await
        .unwrap();
    let why = wait_for(&provider, "a failed login", |why| {
        why["login"]["last_failure"]["detail"].is_string()
    })
    .await;
    assert_eq!(why["login"]["last_failure"]["detail"], "file_missing");
    let doctor = node.run(&["doctor", "--output", "json"]);
    let said = check(&doctor)["message"].as_str().unwrap().to_owned();
    assert!(said.contains("auth.jwt.jwtFile"), "{said}");
    node.tenant.write_jwt(&node.tenant.claims());
    wait_for(&provider, "a login", |why| {
        why["login"]["state"] == "authenticated" && why["reasons"] == json!([])
    })
    .await;
}

#[tokio::test]
async fn a_ca_bundle_that_is_not_in_use_is_named() {
    let node = node().await;
    let provider = node.serve().await;
    wait_for(&provider, "a look at the bundle", |why| {
        why["files"][0]["hash_in_use"].is_string()
    })
    .await;
    files::replace(&node.tenant.ca_file(), b"no certificate", 0o644);
    let why = wait_for(&provider, "a refused bundle", |why| {
        why["files"][0]["refused"]["class"].is_string()
    })
    .await;
    assert_eq!(why["files"][0]["refused"]["class"], "no_certificate");
    provider.encrypt(b"seed").await.unwrap();
}
