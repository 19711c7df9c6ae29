//! What etcd and a backup record show that the state of a node cannot.

use std::fs;

use openbao_lab::admin::transit::KeyConfig;
use serde_json::json;
use testkit::{etcd::Etcd, files, openbao::shared_openbao, tenant::KEY};

use super::case::triage;
use crate::{
    corpus::{Corpus, OBJECT, sealer},
    node::{Node, TIMING},
    provider::Provider,
};

/// A node at version 2, and an etcd with objects of both versions.
async fn served() -> (Node, Provider, Corpus) {
    let node = Node::new(TIMING).await;
    let provider = node.serve().await;
    let corpus = Corpus::of(&node, &provider).await;
    (node, provider, corpus)
}

/// Both files of the state, which are then gone.
fn take_state(node: &Node) -> [Vec<u8>; 2] {
    [node.state_file(), node.checkpoint()].map(|path| {
        let bytes = fs::read(&path).unwrap();
        fs::remove_file(path).unwrap();
        bytes
    })
}

fn record(node: &Node, etcd: &str) -> String {
    let file = node.tenant.path().join("record.json");
    let file = file.to_str().unwrap().to_owned();
    let done = node.run(&["record-backup", "--out", &file, "--etcd-snapshot", etcd]);
    assert_eq!(done.code, Some(0), "{}{}", done.out, done.err);
    file
}

#[tokio::test]
async fn all_evidence_is_tried_and_proves_a_healthy_node() {
    let (node, _provider, corpus) = served().await;
    let snapshot = corpus.snapshot("etcd.db");
    let snapshot = snapshot.to_str().unwrap();
    let record = record(&node, snapshot);
    let live = corpus.live();
    let mut options = vec!["--etcd-snapshot", snapshot, "--etcd-snapshot", snapshot];
    options.extend(["--record", &record]);
    options.extend(live.iter().map(String::as_str));
    let said = triage(&node, &options, "healthy");
    let checks = said.json["checks"].as_array().unwrap().iter();
    let tried: Vec<_> = checks
        .filter(|check| check["id"] == "etcd.decrypt")
        .map(|check| (&check["status"], check["message"].as_str().unwrap()))
        .collect();
    assert_eq!(tried.len(), 3);
    for (status, message) in tried {
        assert_eq!(status, "pass");
        assert!(message.contains(" of 6 objects"), "{message}");
    }
    assert_eq!(said.status("record.versions"), "pass");
}

/// A new node would take the key for the one that it is to use.
#[tokio::test]
async fn a_key_made_anew_is_found_without_state_by_what_etcd_holds() {
    let node = Node::new(TIMING).await;
    let provider = node.serve().await;
    let etcd = Etcd::start().await;
    let sealer = sealer(&node, &provider, testkit::stored::SourceType::HkdfSeed).await;
    let key = "/registry/secrets/default/one";
    etcd.put(key, &sealer.value(key, OBJECT));
    let snapshot = node.tenant.path().join("etcd.db");
    etcd.save_snapshot(&snapshot);
    let snapshot = snapshot.to_str().unwrap();
    let record = record(&node, snapshot);
    provider.stop().await;
    let _state = take_state(&node);
    node.recreate_key().await;

    let blind = triage(&node, &[], "not_running");
    assert_eq!(blind.json["data"]["impact"], "unknown");
    let doubt = "it is unproven that this key encrypted the stored data";
    assert!(blind.text.contains(doubt), "{}", blind.text);
    // Nothing names the version of the object, so its names may be others as well.
    triage(&node, &["--etcd-snapshot", snapshot], "objects_unexplained")
        .means("unknown", 4, "etcd.decrypt")
        .next("original key")
        .warns_first("delete these objects");
    triage(&node, &["--record", &record], "key_recreated")
        .means("lost_without_backup", 4, "record.versions")
        .found("created at another time");
}

/// What is shown as the next step is done, and mends it.
#[tokio::test]
async fn a_lost_state_is_recovered_by_the_step_that_is_shown() {
    let (node, provider, corpus) = served().await;
    let snapshot = corpus.snapshot("etcd.db");
    let snapshot = snapshot.to_str().unwrap();
    let record = record(&node, snapshot);
    provider.stop().await;
    let _state = take_state(&node);
    let said = triage(&node, &["--etcd-snapshot", snapshot], "state_lost");
    said.next("recover-state --etcd-snapshot FILE");
    let of = ["recover-state", "--etcd-snapshot", snapshot];
    let of = [&of[..], &["--record", &record, "--output", "json"]].concat();
    let plan: serde_json::Value = serde_json::from_str(&node.run(&of).out).unwrap();
    let hash = plan["planHash"].as_str().unwrap();
    let apply = [&of[..], &["--apply", "--expected-plan-hash", hash]].concat();
    let applied = node.run(&apply);
    assert_eq!(applied.code, Some(0), "{}{}", applied.out, applied.err);
    triage(&node, &["--etcd-snapshot", snapshot], "not_running");
    let _provider = node.serve().await;
    triage(&node, &["--etcd-snapshot", snapshot], "healthy");
}

#[tokio::test]
async fn a_lost_state_leaves_hidden_and_trimmed_versions_to_the_evidence() {
    let (node, provider, corpus) = served().await;
    let snapshot = corpus.snapshot("etcd.db");
    let snapshot = snapshot.to_str().unwrap();
    let record = record(&node, snapshot);
    provider.stop().await;
    let _state = take_state(&node);
    let (etcd, record) = (["--etcd-snapshot", snapshot], ["--record", &record[..]]);
    triage(&node, &etcd, "state_lost").means("none_lost", 4, "registry.state");
    let hidden = KeyConfig {
        min_decryption_version: Some(2),
        min_encryption_version: Some(2),
        ..KeyConfig::default()
    };
    node.configure_key(hidden).await;
    for (options, check) in [(&etcd, "etcd.decrypt"), (&record, "record.versions")] {
        triage(&node, options, "versions_below_minimum")
            .means("unknown", 4, check)
            .next("min_decryption_version=1");
    }
    let admin = shared_openbao().await.admin();
    let mount = &node.tenant.transit_mount;
    admin.trim_key(mount, KEY, 2).await.unwrap();
    for (options, check) in [(&etcd, "etcd.decrypt"), (&record, "record.versions")] {
        triage(&node, options, "versions_lost").means("lost_without_backup", 4, check);
    }
}

#[tokio::test]
async fn values_that_were_exchanged_in_etcd_are_damaged_and_the_key_is_not() {
    let (node, provider, corpus) = served().await;
    let unbound = async || {
        let admin = shared_openbao().await.admin();
        let body = json!({"plaintext": "c2VlZA=="});
        let path = format!("{}/encrypt/{KEY}", node.tenant.transit_mount);
        let answer: serde_json::Value = admin.write(&path, &body).await.unwrap().json().unwrap();
        answer["data"]["ciphertext"].as_str().unwrap().to_owned()
    };
    let mut exchanged = sealer(&node, &provider, testkit::stored::SourceType::HkdfSeed).await;
    exchanged.encrypted_source = unbound().await.into_bytes();
    corpus.put(&exchanged, "secrets/default/exchanged");
    let live = corpus.live();
    let live: Vec<_> = live.iter().map(String::as_str).collect();
    triage(&node, &live, "objects_damaged")
        .means("lost_without_backup", 4, "etcd.decrypt")
        .found("1 object")
        .next("verify-backup --etcd-snapshot FILE --depth data --show-names");

    // Not even if it is all that there is under its version: the key decrypts the others.
    node.rotate().await;
    provider.encrypt_under(2).await;
    let kind = testkit::stored::SourceType::HkdfSeed;
    let mut only = sealer(&node, &provider, kind).await;
    only.encrypted_source = unbound().await.into_bytes();
    corpus.put(&only, "secrets/default/only");
    // The provider still writes down what it sees of the new version.
    let again = node.run(&[&["triage"], &live[..]].concat());
    assert_eq!(again.code, Some(4));
    assert!(
        again.out.starts_with("triage: objects_damaged\n"),
        "{}",
        again.out
    );
}

#[tokio::test]
async fn evidence_of_something_else_establishes_nothing() {
    let (node, _provider, corpus) = served().await;
    let snapshot = corpus.snapshot("etcd.db");
    let empty = Etcd::start().await;
    empty.put("/registry/pods/default/one", b"k8s\0 plain");
    let other = corpus.directory.path().join("other.db");
    empty.save_snapshot(&other);
    let other = other.to_str().unwrap();
    triage(&node, &["--etcd-snapshot", other], "evidence_unusable")
        .means("unknown", 5, "etcd.decrypt")
        .found("none of 1 key is of this provider");
    let damaged = corpus.directory.path().join("damaged.db");
    let mut bytes = fs::read(&snapshot).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    files::replace(&damaged, &bytes, 0o640);
    let damaged = damaged.to_str().unwrap();
    triage(&node, &["--etcd-snapshot", damaged], "evidence_unusable").means(
        "unknown",
        5,
        "etcd.decrypt",
    );
    let ca = empty.file("ca.crt").display().to_string();
    let closed = ["--endpoints", "https://127.0.0.1:1", "--cacert", &ca];
    triage(&node, &closed, "evidence_unusable").means("unknown", 5, "etcd.decrypt");
    let missing = node.run(&["triage", "--etcd-snapshot", "/nonexistent"]);
    missing.assert_refused(5, &["cannot open the etcd snapshot"]);
}

#[tokio::test]
async fn a_record_of_other_names_is_another_cluster_unless_the_configuration_was_changed() {
    let (mut node, provider, corpus) = served().await;
    let snapshot = corpus.snapshot("etcd.db");
    let record = record(&node, snapshot.to_str().unwrap());
    let record = ["--record", &record[..]];
    provider.stop().await;
    let stranger = Node::new(TIMING).await;
    let strange = stranger.serve().await;
    triage(&stranger, &record, "evidence_unusable")
        .means("unknown", 5, "config.identity")
        .found("transitMountPath");
    strange.stop().await;
    let _state = take_state(&node);
    node.config["transit"]["keyIdScope"]["clusterId"] = json!("renamed");
    triage(&node, &record, "identity_changed")
        .means("at_risk", 3, "config.identity")
        .found("clusterId is \"renamed\", recorded \"cluster-test\"");
}

/// The objects of [`Corpus`] by version, as in `found`.
const ALL_NEEDS: [&str; 2] = [
    "1 of 1 configmaps, 2 of 4 secrets need version 1",
    "2 of 4 secrets, 1 of 1 widgets.example.org need version 2",
];

/// Faults of the key, of the login and of OpenBao: each stops before the trial decryptions.
#[tokio::test]
async fn given_evidence_is_counted_by_version_and_resource_whatever_fails_first() {
    let (node, provider, corpus) = served().await;
    let snapshot = corpus.snapshot("etcd.db");
    let snapshot = snapshot.to_str().unwrap();
    let record = record(&node, snapshot);
    provider.stop().await;
    let live = corpus.live();
    let mut live: Vec<_> = live.iter().map(String::as_str).collect();
    live.extend(["--etcd-prefix", "/registry", "--record", &record]);
    let recorded = ["--etcd-snapshot", snapshot, "--record", &record];
    let require = |options: &[&str], verdict: &str, stopped_at: &str| {
        let said = triage(&node, options, verdict);
        assert_eq!(said.json["stoppedAt"], stopped_at, "{}", said.text);
        for needs in ALL_NEEDS {
            said.found(needs);
        }
        assert!(
            !said.text.contains("No etcd data was tried"),
            "{}",
            said.text
        );
        let again = format!(
            "triage --config {} {}",
            node.write_config().display(),
            options.join(" ")
        );
        said.next(&again);
        said
    };

    fs::remove_file(node.tenant.jwt_file()).unwrap();
    require(&recorded, "jwt_unusable", "config.files");
    node.tenant.write_jwt(&node.tenant.claims());

    let deletable = KeyConfig {
        deletion_allowed: Some(true),
        ..KeyConfig::default()
    };
    node.configure_key(deletable).await;
    require(&recorded, "key_unusable", "transit.profile");
    let admin = shared_openbao().await.admin();
    let mount = &node.tenant.transit_mount;
    admin.delete_key(mount, KEY).await.unwrap();
    let said = require(&live, "key_lost", "transit.metadata");
    let objects = said.json["objects"].as_array().unwrap();
    let of_secrets = json!({
        "source": objects[0]["source"], "transitVersion": 1, "resource": "secrets",
        "objects": 2, "of": 4, "result": "no_key",
    });
    assert!(objects.contains(&of_secrets), "{objects:#?}");
}

#[tokio::test]
async fn objects_that_need_the_original_key_are_counted() {
    let (node, provider, corpus) = served().await;
    let live = corpus.live();
    let live: Vec<_> = live.iter().map(String::as_str).collect();
    provider.stop().await;
    node.recreate_key().await;
    let said = triage(&node, &live, "key_recreated");
    said.means("lost_without_backup", 4, "etcd.decrypt")
        .found(ALL_NEEDS[0])
        .found("another creation second");
    assert!(!said.text.contains("older copy"), "{}", said.text);

    let verbose = node.run(&[&["triage", "--verbose"], &live[..]].concat());
    for words in super::case::NEVER {
        assert!(verbose.out.contains(words), "{words}: {}", verbose.out);
    }
}
