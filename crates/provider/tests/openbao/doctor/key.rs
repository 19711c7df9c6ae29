//! Faults of the Transit mount and its key.

use openbao_lab::admin::{
    Admin,
    transit::{KeyConfig, NewKey},
};
use serde_json::json;
use testkit::{
    openbao::{OpenBao, shared_openbao},
    tenant::{KEY, Tenant},
};

use super::fault::Patient;
use crate::node::{Node, QUIET};

async fn admin() -> Admin<'static> {
    shared_openbao().await.admin()
}

/// Changes the key, requires the finding, and carries out the remedy.
async fn configured(patient: &Patient, config: KeyConfig, id: &str, words: &str) {
    patient.node.configure_key(config).await;
    let found = patient.shows(4, id, words);
    found.carried_out_cures(patient).await;
}

#[tokio::test]
async fn a_mount_that_would_make_a_missing_key() {
    let patient = Patient::new().await;
    let path = format!("{}/config/keys", patient.node.tenant.transit_mount);
    let body = json!({"disable_upsert": false});
    admin().await.write(&path, &body).await.unwrap();
    let found = patient.shows(4, "transit.disable_upsert", "creates missing keys");
    found.carried_out_cures(&patient).await;
}

#[tokio::test]
async fn a_key_that_may_be_deleted() {
    let deletable = KeyConfig {
        deletion_allowed: Some(true),
        ..KeyConfig::default()
    };
    let patient = Patient::new().await;
    configured(&patient, deletable, "transit.profile", "it may be deleted").await;
}

#[tokio::test]
async fn a_key_that_is_soft_deleted() {
    let patient = Patient::new().await;
    let key = format!("{}/keys/{KEY}", patient.node.tenant.transit_mount);
    let admin = admin().await;
    admin.delete(&format!("{key}/soft-delete")).await.unwrap();
    let found = patient.shows(4, "transit.profile", "the key is soft-deleted");
    found.carried_out_cures(&patient).await;
}

/// What nothing in OpenBao can take back needs another key.
#[tokio::test]
async fn a_key_that_can_never_be_used() {
    for (key, words) in [
        (
            NewKey {
                exportable: true,
                ..NewKey::default()
            },
            "it is exportable",
        ),
        (
            NewKey {
                kind: "chacha20-poly1305",
                ..NewKey::default()
            },
            "its type is \"chacha20-poly1305\"",
        ),
    ] {
        let tenant = Tenant::without_key(shared_openbao().await).await;
        let mut patient = Patient::of(Node::of(tenant, QUIET));
        let mount = patient.node.tenant.transit_mount.clone();
        admin().await.create_key(&mount, KEY, &key).await.unwrap();
        let found = patient.shows(4, "transit.profile", words);
        found
            .says("keyLineageId of its own")
            .warns("do not delete, rename or recreate the key");
        patient.name = "other".to_owned();
        found.carry_out(&patient).await;
        patient.configure("/transit/keyName", "other");
        let lineage = "ffeeddccbbaa99887766554433221100";
        patient.configure("/transit/keyIdScope/keyLineageId", lineage);
        patient.node.grant(|policy| policy).await;
        patient.is_well();
    }
}

#[tokio::test]
async fn a_key_that_is_not_there() {
    let mut patient = Patient::new().await;
    patient.configure("/transit/keyName", "misspelt");
    patient.node.grant(|policy| policy).await;
    let found = patient.shows(4, "transit.metadata", "does not exist");
    found.says("compare transit.mountPath");
    patient.configure("/transit/keyName", KEY);
    patient.node.grant(|policy| policy).await;
    patient.is_well();
}

#[tokio::test]
async fn a_version_that_is_hidden_from_decryption() {
    let hidden = KeyConfig {
        min_decryption_version: Some(2),
        ..KeyConfig::default()
    };
    let patient = Patient::stopped_at(2).await;
    let words = "version 1 is hidden by min_decryption_version 2";
    configured(&patient, hidden, "transit.version_restrictions", words).await;
}

#[tokio::test]
async fn an_active_version_that_may_not_encrypt() {
    let blocked = KeyConfig {
        min_encryption_version: Some(2),
        ..KeyConfig::default()
    };
    let patient = Patient::stopped_at(1).await;
    patient.node.rotate().await;
    let words = "min_encryption_version is above the active version 1";
    configured(&patient, blocked, "transit.version_restrictions", words).await;
}

#[tokio::test]
async fn a_key_that_was_made_anew() {
    let server = OpenBao::start().await;
    let patient = Patient::on(&server).await;
    let provider = patient.node.serve().await;
    provider.stop().await;
    let snapshot = patient.node.tenant.path().join("snapshot");
    server.save_snapshot(&snapshot).await;
    let mount = &patient.node.tenant.transit_mount;
    let admin = server.admin();
    let deletable = KeyConfig {
        deletion_allowed: Some(true),
        ..KeyConfig::default()
    };
    let created_at = async || {
        let answer = admin.read(&format!("{mount}/keys/{KEY}")).await.unwrap();
        let metadata: serde_json::Value = answer.json().unwrap();
        metadata["data"]["keys"]["1"].clone()
    };
    let original = created_at().await;
    // Creation is recorded in whole seconds, so another second must be waited for.
    while created_at().await == original {
        admin.configure_key(mount, KEY, deletable).await.unwrap();
        admin.delete_key(mount, KEY).await.unwrap();
        let new = NewKey::default();
        admin.create_key(mount, KEY, &new).await.unwrap();
    }
    let found = patient.shows(4, "transit.version_restrictions", "the key was recreated");
    // The valid files do not pass beside a key that they do not fit, and times are readable.
    let report = patient.node.run(&["verify-key"]).out;
    let warned = "[warn] registry.state: State and checkpoint - the files are valid, and do not fit the \
        key: version 1 was created at 20";
    assert!(report.contains(warned), "{report}");
    found
        .says("restore a backup of OpenBao with the original key")
        .warns("do not accept the present key");
    server.return_to_snapshot(&snapshot).await;
    patient.is_well();
}
