//! `retire-versions` with evidence: no version goes that an object in etcd or in a backup needs.

use std::fs;

use serde_json::{Value, json};
use testkit::{
    etcd::Etcd,
    stored::{Sealer, SourceType, random},
};

use super::{check, files, json_of, rewrite, shown, snapshots};
use crate::{
    corpus::{Corpus, OBJECT, sealer},
    node::{Finished, Node, TIMING},
    provider::Provider,
};

/// Two versions of the key, and an etcd with objects under both.
async fn rotated() -> (Node, Provider, Corpus) {
    let node = Node::new(TIMING).await;
    let provider = node.serve().await;
    let corpus = Corpus::of(&node, &provider).await;
    (node, provider, corpus)
}

fn retire(node: &Node, more: &[&str]) -> Finished {
    let plan = ["retire-versions", "--before-version", "2"];
    node.run(&[&plan[..], more].concat())
}

/// The report of a plan, whatever came of it.
fn planned(node: &Node, evidence: &[&str]) -> (Option<i32>, Value) {
    let finished = retire(node, &[evidence, &["--output", "json"]].concat());
    assert_eq!(finished.err, "");
    (finished.code, json_of(&finished))
}

fn apply(node: &Node, evidence: &[&str], plan: &Value) -> Finished {
    let hash = plan["stateHash"].as_str().unwrap();
    let apply = ["--apply", "--expected-state-hash", hash];
    retire(node, &[evidence, &apply].concat())
}

/// Resource and objects of everything that needs version 1, source by source.
fn needed(plan: &Value) -> Vec<(String, String, u64)> {
    let rows = plan["removedVersions"][0]["neededBy"].as_array().unwrap();
    let text = |row: &Value, name: &str| row[name].as_str().unwrap().to_owned();
    rows.iter()
        .map(|row| {
            let objects = row["objects"].as_u64().unwrap();
            (text(row, "source"), text(row, "resource"), objects)
        })
        .collect()
}

#[tokio::test]
async fn a_version_is_retired_only_when_nothing_in_etcd_and_in_every_backup_needs_it() {
    let (node, provider, corpus) = rotated().await;
    let live = corpus.live();
    let live: Vec<&str> = live.iter().map(String::as_str).collect();
    let old = corpus.snapshot("old.db");
    let old = old.as_path();

    for evidence in [live.clone(), snapshots(&[old])] {
        let (code, plan) = planned(&node, &evidence);
        assert_eq!(code, Some(4), "{plan:#}");
        assert_eq!(plan["verdict"], "needed");
        assert_eq!(plan["confidence"], "proven");
        let found = needed(&plan);
        let found: Vec<_> = found.iter().map(|(_, it, n)| (it.as_str(), *n)).collect();
        assert_eq!(found, [("configmaps", 1), ("secrets", 2)]);
    }
    let refused = retire(&node, &live);
    insta::assert_snapshot!("retire-needed-live", shown(&node, &corpus, &refused));
    let both = [live.clone(), snapshots(&[old])].concat();
    let (_, plan) = planned(&node, &both);
    assert_eq!(needed(&plan).len(), 4);

    provider.stop().await;
    let before = files(&node);
    let refused = apply(&node, &snapshots(&[old]), &plan);
    insta::assert_snapshot!("retire-needed-apply", shown(&node, &corpus, &refused));
    assert_eq!(files(&node), before);

    // After the rewriting the old revisions are there until compaction.
    let provider = node.serve().await;
    rewrite(&node, &provider, &corpus).await;
    provider.stop().await;
    let new = corpus.snapshot("new.db");
    let new = new.as_path();
    let allowed = retire(&node, &snapshots(&[new]));
    insta::assert_snapshot!("retire-allowed", shown(&node, &corpus, &allowed));
    let (code, plan) = planned(&node, &snapshots(&[new, old]));
    assert_eq!(code, Some(4), "{plan:#}");
    assert!(
        needed(&plan)
            .iter()
            .all(|row| row.0 == old.to_str().unwrap()),
        "{plan:#}"
    );
    let revision = plan["sources"][0]["revision"].to_string();
    let _answer = corpus.etcd.ctl(&["compact", &revision, "--physical=true"]);
    let compacted = corpus.snapshot("compacted.db");
    let evidence = [live, snapshots(&[&compacted])].concat();
    let (code, plan) = planned(&node, &evidence);
    assert_eq!(code, Some(0), "{plan:#}");
    assert_eq!(plan["removedVersions"][0]["neededBy"], json!([]));
    assert_eq!(plan["removedVersions"][0]["olderRevisions"], json!([]));
    assert_eq!(check(&plan, "key.older_revisions")["status"], "pass");

    let retired = apply(&node, &evidence, &plan);
    assert_eq!(retired.code, Some(0), "{} {}", retired.out, retired.err);
    let applied = "retire-versions: allowed\nthe state was changed as planned: ";
    assert!(retired.out.starts_with(applied), "{}", retired.out);
    assert!(!retired.out.contains("No etcd was read"), "{}", retired.out);
    let versions = node.versions();
    assert_eq!(versions[&1], "removed");

    // The backup still needs it: a version that is gone already is no plan, but is told.
    let (code, plan) = planned(&node, &snapshots(&[old]));
    assert_eq!(code, Some(0), "{plan:#}");
    let missed = check(&plan, "key.removed_before");
    assert_eq!(missed["status"], "warn");
    let remedy = missed["remediation"].as_str().unwrap();
    assert!(remedy.contains(" --versions 1"), "{remedy}");
}

#[tokio::test]
async fn evidence_is_read_again_when_a_plan_is_applied() {
    let (node, provider, corpus) = rotated().await;
    let live = corpus.live();
    let live: Vec<&str> = live.iter().map(String::as_str).collect();
    let key = "/registry/secrets/default/one";
    let before_rewriting = corpus.etcd.get(key).unwrap();
    rewrite(&node, &provider, &corpus).await;
    provider.stop().await;
    let (code, plan) = planned(&node, &live);
    assert_eq!((code, &plan["verdict"]), (Some(0), &json!("allowed")));

    corpus.etcd.put(key, &before_rewriting);
    let before = files(&node);
    let refused = apply(&node, &live, &plan);
    assert_eq!(refused.code, Some(4), "{}", refused.out);
    let row = "  secrets 1  ";
    assert!(refused.out.contains(row), "{}", refused.out);
    assert_eq!(files(&node), before);
}

#[tokio::test]
async fn objects_that_nobody_can_account_for_forbid_a_retirement_and_those_of_others_do_not() {
    let (node, provider, corpus) = rotated().await;
    rewrite(&node, &provider, &corpus).await;
    let own = sealer(&node, &provider, SourceType::HkdfSeed).await;
    provider.stop().await;
    let stranger = |provider: &str| Sealer {
        provider: provider.to_owned(),
        source: random(),
        key_id: format!("obk2.{}", "A".repeat(43)),
        ..own.clone()
    };
    let theirs = Sealer {
        annotations: vec![("version.example.org".to_owned(), b"1".into())],
        ..stranger("another")
    };
    corpus.put(&theirs, "secrets/default/theirs");
    let fine = corpus.snapshot("fine.db");
    let (code, plan) = planned(&node, &snapshots(&[&fine]));
    assert_eq!(code, Some(0), "{plan:#}");

    corpus.put(&stranger(&own.provider), "secrets/default/strange");
    let strange = corpus.snapshot("strange.db");
    let evidence = snapshots(&[&strange, &fine]);
    let (code, plan) = planned(&node, &evidence);
    assert_eq!(code, Some(4), "{plan:#}");
    assert_eq!(plan["verdict"], "unresolved");
    assert_eq!(plan["confidence"], "limited");
    assert_eq!(check(&plan, "etcd.key_ids")["status"], "fail");
    assert_eq!(plan["sources"][0]["unresolvedObjects"], 1);
    assert_eq!(plan["sources"][1]["unresolvedObjects"], 0);
    let before = files(&node);
    let refused = apply(&node, &evidence, &plan);
    insta::assert_snapshot!("retire-unresolved", shown(&node, &corpus, &refused));
    assert_eq!(files(&node), before);

    let _answer = corpus
        .etcd
        .ctl(&["del", "/registry/secrets/default/strange"]);
    let cut = format!("k8s:enc:kms:v2:{}:\n\u{7f}", own.provider);
    corpus
        .etcd
        .put("/registry/secrets/default/cut", cut.as_bytes());
    let live = corpus.live();
    let live: Vec<&str> = live.iter().map(String::as_str).collect();
    let (code, plan) = planned(&node, &live);
    assert_eq!((code, &plan["verdict"]), (Some(4), &json!("unresolved")));
    assert_eq!(check(&plan, "etcd.values")["status"], "fail");
    assert_eq!(plan["sources"][0]["damagedValues"], json!({"secrets": 1}));
    assert_eq!(apply(&node, &live, &plan).code, Some(4));
}

#[tokio::test]
async fn evidence_that_shows_nothing_or_cannot_be_read_retires_nothing() {
    let (node, provider, corpus) = rotated().await;
    rewrite(&node, &provider, &corpus).await;
    provider.stop().await;
    let good = corpus.snapshot("good.db");
    let good = good.as_path();
    let (_, plan) = planned(&node, &snapshots(&[good]));
    let before = files(&node);

    // Another cluster's, or one from before the provider was there.
    let other = Etcd::start().await;
    other.put("/registry/secrets/default/plain", OBJECT);
    let empty = corpus.directory.path().join("empty.db");
    other.save_snapshot(&empty);
    let evidence = snapshots(&[good, &empty]);
    let (code, empty) = planned(&node, &evidence);
    assert_eq!(code, Some(5), "{empty:#}");
    assert_eq!(empty["verdict"], "inconclusive");
    assert_eq!(empty["confidence"], "limited");
    assert_eq!(check(&empty, "etcd.objects")["status"], "fail");
    assert_eq!(apply(&node, &evidence, &plan).code, Some(5));
    // A prefix bounds no evidence: objects of this key count wherever they are.
    let elsewhere = [snapshots(&[good]), vec!["--etcd-prefix", "/elsewhere"]].concat();
    let (_, same) = planned(&node, &elsewhere);
    let objects = same["sources"][0]["objects"].clone();
    assert_eq!(objects, plan["sources"][0]["objects"]);

    let cut = corpus.directory.path().join("cut.db");
    let whole = fs::read(good).unwrap();
    testkit::files::replace(&cut, &whole[..whole.len() - 1000], 0o600);
    let damaged = apply(&node, &snapshots(&[good, &cut]), &plan);
    damaged.assert_refused(
        5,
        &[
            "the evidence could not be read",
            "cut.db need; nothing was changed and no data is lost",
            "do not retire a version on the strength of the other sources alone",
            "the file is cut off",
        ],
    );
    let missing = corpus.directory.path().join("missing.db");
    let away = ["--endpoints", "http://127.0.0.1:9"];
    for evidence in [&snapshots(&[good, &missing])[..], &away] {
        for finished in [retire(&node, evidence), apply(&node, evidence, &plan)] {
            assert_eq!(finished.code, Some(5), "{}", finished.err);
            assert_eq!(finished.out, "");
        }
    }
    // Without the certificate that vouches for it, a running etcd is anybody's.
    let unknown = retire(&node, &["--endpoints", corpus.etcd.endpoint()]);
    assert_eq!(unknown.code, Some(2), "{}", unknown.err);
    let stranger = other.file("ca.crt").display().to_string();
    let mut live = corpus.live();
    live[3] = stranger;
    let live: Vec<&str> = live.iter().map(String::as_str).collect();
    let distrusted = apply(&node, &live, &plan);
    assert_eq!(distrusted.code, Some(5), "{}", distrusted.err);
    let reason = "cannot connect to etcd";
    assert!(distrusted.err.contains(reason), "{}", distrusted.err);
    assert_eq!(files(&node), before);
}
