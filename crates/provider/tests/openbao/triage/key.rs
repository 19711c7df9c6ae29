//! Faults of the key: which of them lose data, and which only look as if.

use openbao_lab::admin::{
    Admin,
    transit::{KeyConfig, NewKey},
};
use serde_json::{Value, json};
use testkit::{
    etcd::Etcd,
    openbao::{OpenBao, shared_openbao},
    tenant::KEY,
};

use super::case::triage;
use crate::{
    node::{Node, QUIET, TIMING},
    upkeep::stopped_at,
};

async fn admin() -> Admin<'static> {
    shared_openbao().await.admin()
}

/// What OpenBao tells of the key.
async fn metadata(node: &Node) -> Value {
    let path = format!("{}/keys/{KEY}", node.tenant.transit_mount);
    let answer = admin().await.read(&path).await.unwrap();
    let mut metadata: Value = answer.json().unwrap();
    metadata["data"].take()
}

fn deletable() -> KeyConfig {
    KeyConfig {
        deletion_allowed: Some(true),
        ..KeyConfig::default()
    }
}

async fn delete_key(node: &Node) {
    node.configure_key(deletable()).await;
    let mount = &node.tenant.transit_mount;
    admin().await.delete_key(mount, KEY).await.unwrap();
}

/// Makes a key of that name with another creation second than the one before.
async fn recreate_key(node: &Node) {
    let mount = &node.tenant.transit_mount;
    let original = metadata(node).await["keys"]["1"].clone();
    // Creation is recorded in whole seconds, so another second must be waited for.
    while metadata(node).await["keys"]["1"] == original {
        delete_key(node).await;
        let new = NewKey::default();
        admin().await.create_key(mount, KEY, &new).await.unwrap();
    }
}

#[tokio::test]
async fn a_key_that_is_gone_is_lost_without_a_backup() {
    let (node, _) = stopped_at(1).await;
    node.configure_key(deletable()).await;
    triage(&node, &[], "key_unusable")
        .means("at_risk", 4, "transit.profile")
        .next("deletion_allowed=false");
    delete_key(&node).await;
    triage(&node, &[], "key_lost")
        .means("lost_without_backup", 4, "transit.metadata")
        .next("compare transit.mountPath")
        .next("restore a backup of OpenBao")
        .next("verify-backup --etcd-snapshot FILE --depth data --config");
}

#[tokio::test]
async fn a_key_that_is_soft_deleted_can_be_brought_back() {
    let (node, _) = stopped_at(1).await;
    let path = format!("{}/keys/{KEY}/soft-delete", node.tenant.transit_mount);
    admin().await.delete(&path).await.unwrap();
    triage(&node, &[], "key_unusable")
        .means("at_risk", 4, "transit.profile")
        .next("soft-delete-restore");
}

#[tokio::test]
async fn a_key_that_was_made_anew_is_not_the_old_one() {
    let (node, _) = stopped_at(1).await;
    recreate_key(&node).await;
    triage(&node, &[], "key_recreated")
        .means("lost_without_backup", 4, "transit.version_restrictions")
        .found("the key was recreated")
        .next("systemctl stop bao-kms-provider")
        .next("original key")
        .warns_first("accept the present key");
    both_creation_times(&node, "1");
}

#[tokio::test]
async fn a_key_that_was_made_anew_is_so_too_when_it_lacks_later_versions() {
    let (node, _) = stopped_at(2).await;
    recreate_key(&node).await;
    triage(&node, &[], "key_recreated").means(
        "lost_without_backup",
        4,
        "transit.version_restrictions",
    );
    both_creation_times(&node, "1");
}

/// `triage` and `doctor` name both times, and neither takes the key for an older copy.
#[track_caller]
fn both_creation_times(node: &Node, version: &str) {
    let outputs = [
        triage(node, &[], "key_recreated").text,
        node.run(&["doctor"]).out,
    ];
    for output in outputs {
        let words = format!("version {version} was created at 20");
        assert!(output.contains(&words), "{output}");
        let (_, after) = output.split_once(&words).unwrap();
        let (times, _) = after.split_once('\n').unwrap();
        assert!(times.contains("Z, and at 20"), "{times}");
        assert!(!output.contains("older copy"), "{output}");
        assert!(!output.contains("continue to decrypt"), "{output}");
    }
}

#[tokio::test]
async fn an_openbao_from_before_a_rotation_is_behind() {
    let server = OpenBao::start().await;
    let node = Node::on(&server, TIMING).await;
    let provider = node.serve().await;
    let before = node.tenant.path().join("before.snap");
    server.save_snapshot(&before).await;
    let mount = &node.tenant.transit_mount;
    server.admin().rotate_key(mount, KEY).await.unwrap();
    provider.encrypt_under(2).await;
    provider.stop().await;
    triage(&node, &[], "not_running");
    server.return_to_snapshot(&before).await;
    triage(&node, &[], "openbao_rolled_back")
        .means("lost_without_backup", 4, "transit.version_restrictions")
        .found("holds an older copy of the key")
        .next("a later backup of OpenBao")
        .warns_first("rotate the key to reach the missing numbers");
}

#[tokio::test]
async fn a_hidden_version_comes_back_by_the_command_that_is_shown_and_a_trimmed_one_does_not() {
    let (node, _) = stopped_at(2).await;
    let mount = &node.tenant.transit_mount;
    let hidden = KeyConfig {
        min_decryption_version: Some(2),
        min_encryption_version: Some(2),
        ..KeyConfig::default()
    };
    node.configure_key(hidden).await;
    let before = metadata(&node).await;
    let lower = format!(" {mount}/keys/{KEY}/config min_decryption_version=1");
    let said = triage(&node, &[], "versions_below_minimum");
    said.means("unknown", 4, "transit.version_restrictions")
        .found("version 1 is hidden")
        .next(&lower);
    assert_eq!(metadata(&node).await, before, "the key was changed");
    let path = format!("{mount}/keys/{KEY}/config");
    let lowered = json!({"min_decryption_version": 1, "min_encryption_version": 0});
    admin().await.write(&path, &lowered).await.unwrap();
    triage(&node, &[], "not_running");

    node.configure_key(hidden).await;
    admin().await.trim_key(mount, KEY, 2).await.unwrap();
    triage(&node, &[], "versions_lost")
        .means("lost_without_backup", 4, "transit.version_restrictions")
        .found("trimmed")
        .next("a backup of OpenBao from before")
        .warns_first("rotate the key to reach the missing numbers");
}

#[tokio::test]
async fn an_active_version_that_may_not_encrypt_is_unblocked() {
    let (node, _) = stopped_at(1).await;
    node.rotate().await;
    let blocked = KeyConfig {
        min_encryption_version: Some(2),
        ..KeyConfig::default()
    };
    node.configure_key(blocked).await;
    triage(&node, &[], "encryption_blocked")
        .means("none_lost", 4, "transit.version_restrictions")
        .next("min_encryption_version=1");
}

#[tokio::test]
async fn a_mount_that_would_replace_a_lost_key_is_set_right() {
    let node = Node::new(QUIET).await;
    let path = format!("{}/config/keys", node.tenant.transit_mount);
    let body = json!({"disable_upsert": false});
    admin().await.write(&path, &body).await.unwrap();
    triage(&node, &[], "key_unusable")
        .means("at_risk", 4, "transit.disable_upsert")
        .next("disable_upsert=true");
}

/// Without a key and a state, etcd alone tells a first installation from a loss.
#[tokio::test]
async fn a_first_installation_is_no_loss() {
    let node = Node::new(TIMING).await;
    delete_key(&node).await;
    let said = triage(&node, &[], "key_absent");
    said.means("unknown", 4, "transit.metadata")
        .next("triage --endpoints")
        .warns_first("create a key of that name while etcd may hold");
    let doctor = node.run(&["doctor", "--output", "json"]);
    let doctor: Value = serde_json::from_str(&doctor.out).unwrap();
    assert_eq!(doctor["cause"], "key_absent");

    let etcd = Etcd::start().await;
    etcd.put("/registry/secrets/default/plain", b"k8s\0 plain");
    let snapshot = node.tenant.path().join("etcd.db");
    etcd.save_snapshot(&snapshot);
    let evidence = ["--etcd-snapshot", snapshot.to_str().unwrap()];
    let mount = &node.tenant.transit_mount;
    let said = triage(&node, &evidence, "first_installation");
    said.means("none_lost", 4, "transit.metadata")
        .next(&format!(" -f {mount}/keys/{KEY}"));
    assert!(!said.text.contains("restore"), "{}", said.text);

    let new = NewKey::default();
    admin().await.create_key(mount, KEY, &new).await.unwrap();
    let said = triage(&node, &evidence, "not_running");
    assert_eq!(said.status("etcd.decrypt"), "warn");

    // An object of an earlier key: the same node, with the same answers of OpenBao.
    let provider = node.serve().await;
    let kind = testkit::stored::SourceType::HkdfSeed;
    let sealer = crate::corpus::sealer(&node, &provider, kind).await;
    provider.stop().await;
    let key = "/registry/secrets/default/one";
    etcd.put(key, &sealer.value(key, crate::corpus::OBJECT));
    let later = node.tenant.path().join("later.db");
    etcd.save_snapshot(&later);
    for file in [node.state_file(), node.checkpoint()] {
        std::fs::remove_file(file).unwrap();
    }
    delete_key(&node).await;
    triage(
        &node,
        &["--etcd-snapshot", later.to_str().unwrap()],
        "key_lost",
    )
    .means("lost_without_backup", 4, "transit.metadata")
    .found("1 of 1 secrets need version 1");
}
