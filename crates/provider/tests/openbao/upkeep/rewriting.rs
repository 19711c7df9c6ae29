//! `verify-rotation` with evidence: what is counted is what `etcdctl` shows, and only a running etcd
//! proves that rewriting is finished.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use testkit::{
    etcd::Etcd,
    stored::{Sealer, SourceType},
};

use super::{check, json_of, rewrite, shown, snapshots};
use crate::{
    corpus::{Corpus, OBJECT, sealer},
    node::{Node, TIMING},
};

fn verified(node: &Node, evidence: &[&str]) -> (Option<i32>, Value) {
    let options = ["verify-rotation", "--output", "json"];
    let finished = node.run(&[&options[..], evidence].concat());
    assert_eq!(finished.err, "");
    (finished.code, json_of(&finished))
}

/// How many objects of each resource carry this `key_id`, as `etcdctl` shows them.
fn by_etcdctl(etcd: &Etcd, key_id: &str) -> BTreeMap<String, u64> {
    let all = etcd.ctl(&["get", "--prefix", "/registry/", "--write-out=json"]);
    let all: Value = serde_json::from_slice(&all).unwrap();
    let mut resources = BTreeMap::new();
    for object in all["kvs"].as_array().unwrap() {
        let bytes = |name: &str| STANDARD.decode(object[name].as_str().unwrap()).unwrap();
        let value = bytes("value");
        if value
            .windows(key_id.len())
            .any(|part| part == key_id.as_bytes())
        {
            let key = String::from_utf8(bytes("key")).unwrap();
            let resource = key.split('/').nth(2).unwrap().to_owned();
            *resources.entry(resource).or_default() += 1;
        }
    }
    resources
}

/// The same of a report, for version 1.
fn by_report(report: &Value) -> BTreeMap<String, u64> {
    let rows = report["underOldVersions"].as_array().unwrap().iter();
    rows.map(|row| {
        assert_eq!(row["transitVersion"], 1);
        let resource = row["resource"].as_str().unwrap().to_owned();
        (resource, row["objects"].as_u64().unwrap())
    })
    .collect()
}

fn sum(counts: &BTreeMap<String, u64>) -> u64 {
    counts.values().sum()
}

#[tokio::test]
async fn a_rotation_is_over_when_the_running_etcd_holds_nothing_under_an_older_version() {
    let node = Node::new(TIMING).await;
    let provider = node.serve().await;
    let first = provider.encrypt(b"seed").await.unwrap().key_id;
    let corpus = Corpus::of(&node, &provider).await;
    let live = corpus.live();
    let live: Vec<&str> = live.iter().map(String::as_str).collect();
    let old = corpus.snapshot("old.db");
    let old = old.as_path();

    let (code, report) = verified(&node, &live);
    assert_eq!((code, &report["verdict"]), (Some(4), &json!("unfinished")));
    assert_eq!(report["confidence"], "proven");
    let counted = by_etcdctl(&corpus.etcd, &first);
    assert_eq!(by_report(&report), counted);
    assert_eq!(report["objectsUnderOldVersions"], sum(&counted));
    assert_eq!(sum(&counted), 3);
    let unfinished = node.run(&[&["verify-rotation"], &live[..]].concat());
    insta::assert_snapshot!(
        "verify-rotation-unfinished",
        shown(&node, &corpus, &unfinished)
    );

    // One of three is not all.
    let newest = sealer(&node, &provider, SourceType::HkdfSeed).await;
    corpus.put(&newest, "secrets/default/one");
    let (code, report) = verified(&node, &live);
    assert_eq!(code, Some(4));
    let counted = by_etcdctl(&corpus.etcd, &first);
    assert_eq!(by_report(&report), counted);
    assert_eq!(report["objectsUnderOldVersions"], 2);

    rewrite(&node, &provider, &corpus).await;
    let (code, report) = verified(&node, &live);
    assert_eq!((code, &report["verdict"]), (Some(0), &json!("finished")));
    assert_eq!(report["confidence"], "proven");
    assert_eq!(report["objectsUnderOldVersions"], 0);
    assert!(by_etcdctl(&corpus.etcd, &first).is_empty());
    let protection = check(&report, "etcd.protection");
    let message = protection["message"].as_str().unwrap();
    assert!(message.contains("secrets 1 plaintext"), "{message}");
    assert!(!message.contains("pods"), "{message}");

    // A backup that still needs the old version undoes nothing, and is told.
    let both = [live, snapshots(&[old])].concat();
    let (code, report) = verified(&node, &both);
    assert_eq!((code, &report["verdict"]), (Some(0), &json!("finished")));
    assert_eq!(check(&report, "etcd.backups")["status"], "warn");
    let finished = node.run(&[&["verify-rotation"], &both[..]].concat());
    insta::assert_snapshot!("verify-rotation-finished", shown(&node, &corpus, &finished));
}

#[tokio::test]
async fn a_snapshot_shows_what_was_and_proves_nothing_of_now() {
    let node = Node::new(TIMING).await;
    let provider = node.serve().await;
    let corpus = Corpus::of(&node, &provider).await;
    let old = corpus.snapshot("old.db");
    rewrite(&node, &provider, &corpus).await;
    let new = corpus.snapshot("new.db");
    let (old, new) = (old.as_path(), new.as_path());

    let (code, report) = verified(&node, &snapshots(&[old]));
    assert_eq!((code, &report["verdict"]), (Some(4), &json!("unfinished")));
    assert_eq!(report["objectsUnderOldVersions"], 3);
    assert_eq!(report["confidence"], "limited");
    // The latest decides, in whatever order they are named.
    for files in [[old, new], [new, old]] {
        let (code, report) = verified(&node, &snapshots(&files));
        assert_eq!((code, &report["verdict"]), (Some(0), &json!("finished")));
        assert_eq!(report["confidence"], "limited");
        let limits = report["limitations"].to_string();
        assert!(limits.contains("No running etcd was read"), "{limits}");
    }

    // Nor does rotation-plan look at any.
    let refused = node.run(&[&["rotation-plan"], &snapshots(&[new])[..]].concat());
    assert_eq!(refused.code, Some(2));
}

#[tokio::test]
async fn a_rotation_that_this_node_has_not_followed_is_not_over() {
    let node = Node::new(TIMING).await;
    let provider = node.serve().await;
    let corpus = Corpus::of(&node, &provider).await;
    rewrite(&node, &provider, &corpus).await;
    provider.stop().await;
    node.rotate().await;
    let live = corpus.live();
    let live: Vec<&str> = live.iter().map(String::as_str).collect();
    let (code, report) = verified(&node, &live);
    assert_eq!(
        (code, &report["verdict"]),
        (Some(4), &json!("not-promoted"))
    );
    assert_eq!(check(&report, "etcd.rewritten")["status"], "fail");
    let step = report["nextSteps"][0]["text"].as_str().unwrap();
    assert!(step.starts_with("wait until every node"), "{step}");
}

#[tokio::test]
async fn what_is_known_is_shown_when_the_evidence_or_openbao_is_of_no_use() {
    let mut node = Node::new(TIMING).await;
    let provider = node.serve().await;
    let corpus = Corpus::of(&node, &provider).await;
    rewrite(&node, &provider, &corpus).await;
    let own = sealer(&node, &provider, SourceType::HkdfSeed).await;
    provider.stop().await;

    let away = node.run(&["verify-rotation", "--endpoints", "http://127.0.0.1:9"]);
    assert_eq!(away.code, Some(5), "{}", away.err);
    let start = "verify-rotation: inconclusive\n";
    assert!(away.out.starts_with(start), "{}", away.out);
    assert!(away.out.contains("[fail] etcd.read"), "{}", away.out);
    for fact in [["activeTransitVersion", "2"], ["confidence", "limited"]] {
        let mut rows = away.out.lines().map(|row| row.split_whitespace());
        assert!(rows.any(|row| row.eq(fact)), "{fact:?}: {}", away.out);
    }
    let (code, report) = verified(&node, &["--endpoints", "http://127.0.0.1:9"]);
    assert_eq!(code, Some(5));
    assert_eq!(report.get("objectsUnderOldVersions"), None);

    let other = Etcd::start().await;
    other.put("/registry/secrets/default/plain", OBJECT);
    let empty = corpus.directory.path().join("empty.db");
    other.save_snapshot(&empty);
    let (code, report) = verified(&node, &snapshots(&[&empty]));
    assert_eq!(
        (code, &report["verdict"]),
        (Some(5), &json!("inconclusive"))
    );

    let live = corpus.live();
    let live: Vec<&str> = live.iter().map(String::as_str).collect();
    // The state alone tells the versions, but not that the key has no newer one.
    let address = node.config["openbao"]["address"].take();
    node.config["openbao"]["address"] = json!("https://127.0.0.1:9");
    let (code, report) = verified(&node, &live);
    assert_eq!((code, &report["verdict"]), (Some(4), &json!("finished")));
    assert_eq!(report["transitMetadataStatus"], "fail");
    assert_eq!(report["confidence"], "limited");
    node.config["openbao"]["address"] = address;

    let stranger = Sealer {
        key_id: format!("obk2.{}", "A".repeat(43)),
        ..own
    };
    corpus.put(&stranger, "secrets/default/strange");
    let (code, report) = verified(&node, &live);
    assert_eq!((code, &report["verdict"]), (Some(4), &json!("unresolved")));
    assert_eq!(report["confidence"], "limited");
    assert_eq!(check(&report, "etcd.key_ids")["status"], "fail");
}
