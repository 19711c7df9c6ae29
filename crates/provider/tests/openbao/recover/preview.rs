//! The state of a preview, in schema v1alpha1: a node goes on with the versions in it.

use std::fs;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use testkit::files;

use crate::{
    node::{Node, TIMING},
    provider::to_decrypt,
};

/// State and checkpoint as a preview writes them: without a fingerprint, also in the hash.
pub(crate) fn of_preview(pair: &[Vec<u8>; 2]) -> [Vec<u8>; 2] {
    let [state, checkpoint] = pair.each_ref().map(|bytes| str::from_utf8(bytes).unwrap());
    let hash_of = |text: &str| {
        let parsed: Value = serde_json::from_str(text).unwrap();
        parsed["currentHash"].as_str().unwrap().to_owned()
    };
    let without = |text: &str, member: &str| -> String {
        let mut lines: Vec<_> = text.lines().collect();
        lines.retain(|line| !line.starts_with(&format!("  \"{member}\"")));
        lines.join("\n") + "\n"
    };
    let legacy = state.replace("openbao-kms/v1alpha2", "openbao-kms/v1alpha1");
    let legacy = without(&legacy, "identityFingerprint");
    let body = without(&legacy, "currentHash");
    let body: String = body.lines().map(str::trim).collect();
    let digest = Sha256::digest(body.replace("\": ", "\":"));
    let hash = format!("krs1.{}", URL_SAFE_NO_PAD.encode(digest));
    let before = hash_of(state);
    [legacy, checkpoint.to_owned()].map(|text| text.replace(&before, &hash).into_bytes())
}

fn pair(node: &Node) -> [Vec<u8>; 2] {
    [node.state_file(), node.checkpoint()].map(|path| fs::read(path).unwrap())
}

fn put(node: &Node, pair: &[Vec<u8>; 2]) {
    files::replace(&node.state_file(), &pair[0], 0o640);
    files::replace(&node.checkpoint(), &pair[1], 0o640);
}

fn codes(node: &Node, exit: i32) -> Vec<String> {
    let refused = node.run(&["recover-state", "--output", "json"]);
    assert_eq!(refused.code, Some(exit), "{}", refused.err);
    let report: Value = serde_json::from_str(&refused.out).unwrap();
    let refusals = report["refusals"].as_array().unwrap().iter();
    let codes = refusals.map(|it| it["code"].as_str().unwrap().to_owned());
    codes.collect()
}

#[tokio::test]
async fn the_state_of_a_preview_continues_with_its_versions() {
    let node = Node::new(TIMING).await;
    let provider = node.serve().await;
    let old = provider.encrypt(b"under version 1").await.unwrap();
    node.rotate().await;
    let new = provider.encrypt_under(2).await;
    provider.stop().await;
    let present = pair(&node);
    put(&node, &of_preview(&present));

    let refused = node.refused().await;
    refused.assert_refused(5, &["of a preview", "recover-state"]);
    for command in ["doctor", "triage", "inspect-state"] {
        let report = node.run(&[command, "--output", "json"]);
        let report: Value = serde_json::from_str(&report.out).unwrap();
        assert_eq!(report["cause"], "state_of_preview", "{command}: {report}");
        let steps = report["nextSteps"].to_string();
        assert!(steps.contains("recover-state --config"), "{steps}");
        if command == "inspect-state" {
            assert_eq!(report["activeTransitVersion"], 2);
            assert_eq!(report["stateCheckpointStatus"], "current");
            assert_eq!(report.get("stateFingerprint"), None);
        }
    }
    assert_eq!(pair(&node), of_preview(&present), "nothing was changed");

    let plan = node.run(&["recover-state", "--output", "json"]).json();
    assert_eq!(plan["state"]["activeTransitVersion"], 2);
    let limitations = plan["limitations"].to_string();
    assert!(
        limitations.contains("names neither mount nor key"),
        "{limitations}"
    );
    let hash = plan["planHash"].as_str().unwrap();
    let apply = ["recover-state", "--apply", "--expected-plan-hash", hash];
    node.run(&apply).assert_told(0, &["applied"]);

    let provider = node.serve().await;
    assert_eq!(provider.status().await.key_id, new.key_id);
    for (encrypted, plaintext) in [(&old, &b"under version 1"[..])] {
        let read = provider.decrypt(to_decrypt(encrypted)).await.unwrap();
        assert_eq!(read, plaintext);
    }
    provider.stop().await;

    // A plain start changes no byte, so the files of one program serve the other.
    let rebuilt = pair(&node);
    node.serve().await.stop().await;
    assert_eq!(pair(&node), rebuilt);
}

#[tokio::test]
async fn the_state_of_a_preview_that_was_changed_or_is_of_others_is_no_evidence() {
    let mut node = Node::new(TIMING).await;
    node.serve().await.stop().await;
    let present = pair(&node);
    let legacy = of_preview(&present);
    let mut damaged = legacy.clone();
    let text = String::from_utf8(legacy[0].clone()).unwrap();
    damaged[0] = text
        .replace("\"retired\"", "\"active\"")
        .replace("\"promotedAtUnix\": 1", "\"promotedAtUnix\": 2")
        .into_bytes();
    assert_ne!(damaged, legacy);
    put(&node, &damaged);
    assert_eq!(codes(&node, 4), ["no_evidence"]);

    put(&node, &legacy);
    let cluster = node.config["transit"]["keyIdScope"]["clusterId"].take();
    node.config["transit"]["keyIdScope"]["clusterId"] = json!("cluster-other");
    assert!(codes(&node, 3).contains(&"other_identity".to_owned()));

    node.config["transit"]["keyIdScope"]["clusterId"] = cluster;
    node.rotate().await;
    assert_eq!(codes(&node, 4), ["undecided"]);

    node.recreate_key().await;
    assert!(codes(&node, 4).contains(&"creation_time_mismatch".to_owned()));
    put(&node, &present);
}
