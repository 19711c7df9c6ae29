//! Debug correlation: calls have names in the log that are found in the audit log of OpenBao, for
//! as long as configured and no longer.

use std::fs;

use kms_domain::digest::TextHash;
use serde_json::{Value, json};
use testkit::{openbao::shared_openbao, wait::wait_until};

use crate::{
    node::{Node, QUIET, TIMING},
    provider::SOON,
};

const NAMES: [&str; 4] = [
    "openbao_request_id",
    "request_uid_hash",
    "debug_correlation_incident",
    "debug_correlation_expires_at",
];

fn correlate(node: &mut Node, ttl: &str) {
    node.config["logging"]["logOpenBaoRequestIDs"] = json!(true);
    node.config["logging"]["debugCorrelation"] =
        json!({"enabled": true, "incidentId": "INC-7", "ttl": ttl});
}

#[tokio::test]
async fn a_call_is_found_in_the_audit_log_by_its_name() {
    let mut node = Node::new(QUIET).await;
    correlate(&mut node, "10m");
    let provider = node.serve().await;
    provider.encrypt(b"seed").await.unwrap();

    let event = provider.events("kms.request").last().unwrap();
    assert_eq!(event["request_uid_hash"], TextHash::of("test").as_str());
    assert_eq!(event["debug_correlation_incident"], "INC-7");
    assert!(event["debug_correlation_expires_at"].is_string(), "{event}");

    let encrypted = |event: &Value| event["openbao_operation"] == "transit_encrypt";
    let event = provider.events("openbao.request").filter(encrypted).last();
    let event = event.unwrap();
    assert_eq!(event["debug_correlation_incident"], "INC-7");
    let audit = fs::read_to_string(shared_openbao().await.audit_log()).unwrap();
    let id = event["openbao_request_id"].as_str().unwrap();
    let path = format!("{}/encrypt/etcd", node.tenant.transit_mount);
    let found = audit.lines().any(|line| {
        let line: Value = serde_json::from_str(line).unwrap_or_default();
        line["request"]["id"] == id && line["request"]["path"] == path
    });
    assert!(found, "{id}");
}

#[tokio::test]
async fn it_ends_by_itself_while_the_provider_goes_on() {
    let mut node = Node::new(TIMING).await;
    correlate(&mut node, "3s");
    let provider = node.serve().await;
    let correlated = |event: &Value| NAMES.iter().any(|name| event.get(name).is_some());
    let mut probes = provider.events("openbao.request");
    assert!(probes.any(|event| correlated(&event)));
    wait_until(SOON, "a call without a name", async || {
        let last = provider.events("openbao.request").last();
        last.is_some_and(|event| !correlated(&event))
    })
    .await;
    provider.encrypt(b"seed").await.unwrap();
    let event = provider.events("kms.request").last().unwrap();
    assert!(!correlated(&event), "{event}");
}

#[tokio::test]
async fn without_it_no_call_has_a_name() {
    let mut node = Node::new(QUIET).await;
    node.config["logging"]["logOpenBaoRequestIDs"] = json!(true);
    let provider = node.serve().await;
    provider.encrypt(b"seed").await.unwrap();
    let log = provider.log();
    for name in NAMES {
        assert!(!log.contains(name), "{name}");
    }
}
