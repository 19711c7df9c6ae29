//! The Transit key and what the node may do with it: refused at the start, or found out later.

use std::time::Duration;

use openbao_lab::admin::{
    Admin,
    transit::{KeyConfig, NewKey},
};
use serde_json::{Value, json};
use testkit::{
    openbao::shared_openbao,
    tenant::{KEY, Tenant, Timing},
    wait::wait_until,
};
use tonic::Code;

use crate::{
    node::{IMPATIENT, Node, TIMING},
    provider::{SOON, assert_decrypt_refused, to_decrypt},
};

/// Far enough apart that a test reacts before the third failure in a row, after which a probe
/// pauses for long.
const CALM: Timing = Timing {
    probe_interval: Duration::from_secs(3),
    deep_probe_interval: Duration::from_secs(3),
    ..TIMING
};

async fn admin() -> Admin<'static> {
    shared_openbao().await.admin()
}

async fn created_at(mount: &str) -> Value {
    let path = format!("{mount}/keys/{KEY}");
    let metadata: Value = admin().await.read(&path).await.unwrap().json().unwrap();
    metadata["data"]["keys"]["1"].clone()
}

/// Grants all but these operations.
async fn grant_without(node: &Node, denied: &[&str]) {
    node.grant(|mut policy| {
        for operation in denied {
            let path = format!("{}/{operation}", node.tenant.transit_mount);
            assert!(policy.contains(&path), "{path} is not in {policy}");
            policy = policy.replace(&path, "nothing");
        }
        policy
    })
    .await;
}

#[tokio::test]
async fn a_key_that_must_not_be_used_ends_the_start_at_once() {
    for (key, said) in [
        (
            NewKey {
                kind: "chacha20-poly1305",
                ..NewKey::default()
            },
            "its type is \"chacha20-poly1305\"",
        ),
        (
            NewKey {
                exportable: true,
                ..NewKey::default()
            },
            "it is exportable",
        ),
        (
            NewKey {
                allow_plaintext_backup: true,
                ..NewKey::default()
            },
            "it allows plaintext backup",
        ),
        (
            NewKey {
                derived: true,
                convergent_encryption: true,
                ..NewKey::default()
            },
            "it encrypts equal plaintexts to equal ciphertexts",
        ),
    ] {
        let tenant = Tenant::without_key(shared_openbao().await).await;
        let node = Node::of(tenant, TIMING);
        let mount = &node.tenant.transit_mount;
        admin().await.create_key(mount, KEY, &key).await.unwrap();
        let refused = node.refused().await;
        refused.assert_refused(
            5,
            &["the key must not be used", said, "no data was changed"],
        );
        let probes = refused.err.matches(r#""message":"status.probe""#).count();
        assert_eq!(probes, 1, "waiting does not mend it: {}", refused.err);
        assert!(!node.state_file().exists());
    }
}

#[tokio::test]
async fn a_missing_key_is_never_made() {
    let tenant = Tenant::without_key(shared_openbao().await).await;
    let node = Node::of(tenant, IMPATIENT);
    let refused = node.refused().await;
    let key = format!("Transit key {KEY} on mount {}", node.tenant.transit_mount);
    refused.assert_refused(5, &["cannot read the metadata", &key]);
    let path = format!("{}/keys/{KEY}", node.tenant.transit_mount);
    assert!(admin().await.read(&path).await.is_err());
    assert!(!node.state_file().exists());
}

#[tokio::test]
async fn a_key_that_was_rotated_before_the_first_start_needs_its_state_restored() {
    let node = Node::new(TIMING).await;
    node.rotate().await;
    let refused = node.refused().await;
    refused.assert_refused(5, &["rotated to version 2", "recover-state"]);
    assert!(!node.state_file().exists());
    assert!(!node.checkpoint().exists());
}

#[tokio::test]
async fn a_mount_that_would_make_missing_keys_stops_encryption_and_a_start() {
    let node = Node::new(TIMING).await;
    let provider = node.serve().await;
    let encrypted = provider.encrypt(b"seed").await.unwrap();
    let path = format!("{}/config/keys", node.tenant.transit_mount);
    let set = async |disable: bool| {
        let body = json!({"disable_upsert": disable});
        admin().await.write(&path, &body).await.unwrap();
    };
    set(false).await;
    provider.wait_for_reasons(&["upsert_allowed"]).await;
    assert_eq!(provider.status().await.key_id, "");
    provider.assert_encrypt_refused().await;
    provider.decrypt(to_decrypt(&encrypted)).await.unwrap();
    set(true).await;
    provider.wait_for_reasons(&[]).await;
    provider.stop().await;

    set(false).await;
    let refused = node.refused().await;
    refused.assert_refused(5, &["creates missing keys", "disable_upsert=true"]);
}

#[tokio::test]
async fn a_version_hidden_from_decryption_is_named_and_comes_back() {
    let node = Node::new(CALM).await;
    let provider = node.serve().await;
    let encrypted = provider.encrypt(b"seed").await.unwrap();
    node.rotate().await;
    let minimum = |version| KeyConfig {
        min_decryption_version: Some(version),
        ..KeyConfig::default()
    };
    node.configure_key(minimum(2)).await;
    let refused = provider.decrypt(to_decrypt(&encrypted)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert_decrypt_refused(
        &refused,
        "transit decrypt failed",
        "key version 1 is below min_decryption_version",
    );
    let event = provider.events("kms.request").last().unwrap();
    assert_eq!(event["error_class"], "transit_version_refused");
    wait_until(SOON, "profile_invalid", async || {
        let reasons = provider.reasons().await;
        reasons.iter().any(|reason| reason == "profile_invalid")
    })
    .await;
    node.configure_key(minimum(1)).await;
    provider.wait_for_reasons(&[]).await;
    provider.decrypt(to_decrypt(&encrypted)).await.unwrap();
    provider.stop().await;

    node.configure_key(minimum(2)).await;
    let refused = node.refused().await;
    refused.assert_refused(5, &["version 1 is hidden by min_decryption_version 2"]);
}

#[tokio::test]
async fn a_key_made_anew_under_its_name_is_never_used() {
    let node = Node::new(TIMING).await;
    let provider = node.serve().await;
    let encrypted = provider.encrypt(b"seed").await.unwrap();
    let mount = &node.tenant.transit_mount;
    let original = created_at(mount).await;
    // Creation is recorded in whole seconds, so another second must be waited for.
    wait_until(SOON, "a key of another second", async || {
        let deletable = KeyConfig {
            deletion_allowed: Some(true),
            ..KeyConfig::default()
        };
        node.configure_key(deletable).await;
        let admin = admin().await;
        admin.delete_key(mount, KEY).await.unwrap();
        let new = NewKey::default();
        admin.create_key(mount, KEY, &new).await.unwrap();
        created_at(mount).await != original
    })
    .await;
    wait_until(SOON, "profile_invalid", async || {
        provider.reasons().await.first().map(String::as_str) == Some("profile_invalid")
    })
    .await;
    provider.assert_encrypt_refused().await;
    let refused = provider.decrypt(to_decrypt(&encrypted)).await.unwrap_err();
    assert_decrypt_refused(
        &refused,
        "transit decrypt failed",
        "key version 1 of this OpenBao did not encrypt this",
    );
    let event = provider.events("kms.request").last().unwrap();
    assert_eq!(event["error_class"], "aad_mismatch");
    provider.stop().await;

    let refused = node.refused().await;
    refused.assert_refused(
        5,
        &[
            "the key was recreated",
            "do not accept the present key as the original one",
        ],
    );
}

#[tokio::test]
async fn a_policy_without_decrypt_is_found_before_the_socket_opens() {
    let node = Node::new(TIMING).await;
    grant_without(&node, &[&format!("decrypt/{KEY}")]).await;
    let mut provider = node.spawn();
    provider.wait_for_event("health.listening").await;
    provider.wait_for_reasons(&["deep_probe_failed"]).await;
    let (_, ready) = provider.health("/ready").await;
    assert_eq!(ready["deep_error_class"], "permission_denied");
    assert!(!node.sockets.socket().exists());

    grant_without(&node, &[]).await;
    provider.ready().await;
    assert_eq!(provider.status().await.healthz, "ok");
    provider.stop().await;

    grant_without(&node, &[&format!("decrypt/{KEY}")]).await;
    let impatient = json!("10ms");
    let mut node = node;
    node.config["bootstrap"]["graceTimeout"] = impatient;
    let refused = node.refused().await;
    refused.assert_refused(5, &["fails to decrypt its own ciphertext of key version 1"]);
}

#[tokio::test]
async fn a_policy_that_loses_a_permission_is_noticed_and_followed() {
    let node = Node::new(CALM).await;
    let provider = node.serve().await;
    let encrypted = provider.encrypt(b"seed").await.unwrap();

    grant_without(&node, &[&format!("encrypt/{KEY}")]).await;
    provider.wait_for_reasons(&["deep_probe_failed"]).await;
    provider.assert_encrypt_refused().await;
    provider.decrypt(to_decrypt(&encrypted)).await.unwrap();
    grant_without(&node, &[]).await;
    provider.wait_for_reasons(&[]).await;

    grant_without(&node, &[&format!("decrypt/{KEY}"), "config/keys"]).await;
    let refused = provider.decrypt(to_decrypt(&encrypted)).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert_decrypt_refused(&refused, "transit permission denied", "no data is lost");
    wait_until(SOON, "upsert_check_failed", async || {
        provider.reasons().await.first().map(String::as_str) == Some("upsert_check_failed")
    })
    .await;
    grant_without(&node, &[]).await;
    provider.wait_for_reasons(&[]).await;
    provider.encrypt(b"seed").await.unwrap();
}
