//! `record-backup` on a node with a real key and a real etcd snapshot.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use kms_domain::recovery::record::BackupRecord;
use openbao_lab::admin::transit::KeyConfig;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use testkit::{
    files,
    openbao::{OpenBao, shared_openbao},
};

use crate::{
    corpus::Corpus,
    node::{Finished, Node, TIMING},
};

fn record(node: &Node, out: &Path, options: &[&str]) -> Finished {
    let out = out.to_str().unwrap();
    node.run(&[&["record-backup", "--out", out], options].concat())
}

fn sha256(path: &Path) -> String {
    let hash = Sha256::digest(fs::read(path).unwrap());
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn a_record_tells_all_that_the_runbook_asks_for_and_is_never_overwritten() {
    let node = Node::new(TIMING).await;
    let provider = node.serve().await;
    let corpus = Corpus::of(&node, &provider).await;
    let etcd = corpus.snapshot("etcd.db");
    let openbao = corpus.directory.path().join("openbao.snap");
    shared_openbao().await.save_snapshot(&openbao).await;
    let out = corpus.directory.path().join("record.json");
    let sets = [
        "--etcd-snapshot",
        etcd.to_str().unwrap(),
        "--openbao-snapshot",
        openbao.to_str().unwrap(),
    ];
    let json = record(&node, &out, &[&sets[..], &["--output", "json"]].concat()).json();

    let text = fs::read(&out).unwrap();
    let mode = fs::metadata(&out).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o640);
    let record_read = BackupRecord::decode(&text).unwrap();
    let noted: Value = serde_json::from_slice(&text).unwrap();
    let key_id = provider.status().await.key_id;
    assert_eq!(record_read.active().id().as_str(), key_id);
    let inspected = node.inspect();
    assert_eq!(noted["state"]["hash"], inspected["stateHash"]);
    assert_eq!(noted["state"]["checkpoint"], "current");
    assert_eq!(noted["clusterId"], "cluster-test");
    assert_eq!(noted["transit"]["latestVersion"], 2);
    assert_eq!(noted["etcdSnapshot"]["sha256"], json!(sha256(&etcd)));
    assert_eq!(noted["openbaoSnapshot"]["sha256"], json!(sha256(&openbao)));
    let bytes = fs::metadata(&openbao).unwrap().len();
    assert_eq!(noted["openbaoSnapshot"]["bytes"], bytes);
    // One seed of version 1 was overwritten under version 2, one object was deleted, and one is
    // stored under another provider name.
    assert_eq!(
        noted["etcdSnapshot"]["requiredVersions"],
        json!([{"transitVersion": 1, "objects": 3}, {"transitVersion": 2, "objects": 3}])
    );
    let versions: Vec<_> = noted["versions"].as_array().unwrap().iter().collect();
    assert_eq!(versions.len(), 2);
    assert!(
        versions
            .iter()
            .all(|version| version["decryptable"] == true)
    );

    assert_eq!(json["schemaVersion"], "v1");
    assert_eq!(json["command"], "record-backup");
    assert_eq!(json["verdict"], "recorded");
    assert_eq!(json["recordHash"], noted["recordHash"]);
    assert!(!json["limitations"].as_array().unwrap().is_empty());

    let again = record(&node, &out, &[]);
    again.assert_refused(1, &["was not written", "exists already", "name a new file"]);
    assert_eq!(fs::read(&out).unwrap(), text);
    let left = fs::read_dir(corpus.directory.path()).unwrap().count();
    assert_eq!(left, 3, "no temporary file stays behind");

    // A snapshot that has lost its hash is noted, and not silently.
    let whole = fs::read(&etcd).unwrap();
    let cut = corpus.directory.path().join("cut.db");
    files::replace(&cut, &whole[..whole.len() - 32], 0o640);
    let out = corpus.directory.path().join("of-cut.json");
    let text = record(&node, &out, &["--etcd-snapshot", cut.to_str().unwrap()]);
    assert_eq!(text.code, Some(0), "{}", text.err);
    let warned = "[warn] etcd.integrity: Integrity of the source - the file has no SHA-256";
    assert!(text.out.contains(warned), "{}", text.out);
}

#[tokio::test]
async fn nothing_is_noted_without_a_state_that_fits_the_key() {
    let directory = TempDir::new().unwrap();
    let out = directory.path().join("record.json");
    let node = Node::new(TIMING).await;
    record(&node, &out, &[]).assert_told(4, &["no registry state", "no record was written"]);

    let stopped = node.serve().await.stop().await;
    assert_eq!(stopped.code, Some(0), "{}", stopped.err);
    let good = fs::read(node.state_file()).unwrap();
    files::replace(&node.state_file(), &good[..good.len() / 2], 0o640);
    record(&node, &out, &[]).assert_told(4, &["record-backup: state_corrupt\n", "is not valid"]);
    files::replace(&node.state_file(), &good, 0o640);

    node.rotate().await;
    node.configure_key(KeyConfig {
        min_decryption_version: Some(2),
        ..KeyConfig::default()
    })
    .await;
    record(&node, &out, &[]).assert_told(4, &["contradict each other", "do not recreate"]);
    assert!(!out.exists());
}

#[tokio::test]
async fn a_set_that_needs_more_than_the_key_has_is_noted_and_reported() {
    let node = Node::new(TIMING).await;
    let provider = node.serve().await;
    let corpus = Corpus::of(&node, &provider).await;
    let mut sealer =
        crate::corpus::sealer(&node, &provider, testkit::stored::SourceType::HkdfSeed).await;
    sealer.key_id = format!("obk2.{}", "A".repeat(43));
    corpus.put(&sealer, "secrets/default/stranger");
    let etcd = corpus.snapshot("etcd.db");
    let out = corpus.directory.path().join("record.json");
    let done = record(&node, &out, &["--etcd-snapshot", etcd.to_str().unwrap()]);
    assert_eq!(done.code, Some(4), "{}", done.err);
    assert!(
        done.out
            .starts_with("record-backup: recorded-incompatible\n"),
        "{}",
        done.out
    );
    assert!(
        done.out
            .contains("of provider kms-test: 1 object without a version of the key"),
        "{}",
        done.out
    );
    assert!(
        done.out.contains("bao-kms-provider verify-backup"),
        "{}",
        done.out
    );
    assert!(BackupRecord::decode(&fs::read(&out).unwrap()).is_ok());

    let cut = corpus.directory.path().join("cut.db");
    let whole = fs::read(&etcd).unwrap();
    files::replace(&cut, &whole[..whole.len() - 4096], 0o640);
    let out = corpus.directory.path().join("other.json");
    record(&node, &out, &["--etcd-snapshot", cut.to_str().unwrap()])
        .assert_told(4, &["cannot be part of a backup set", "next: "]);
    assert!(!out.exists());
}

#[tokio::test]
async fn without_openbao_nothing_is_noted() {
    let server = OpenBao::start().await;
    let node = Node::on(&server, TIMING).await;
    node.serve().await.stop().await;
    let _stopped = server.stop().await;
    let directory = TempDir::new().unwrap();
    let out = directory.path().join("record.json");
    record(&node, &out, &[]).assert_told(5, &["could not be read from OpenBao", "next: "]);
    assert!(!out.exists());
}
