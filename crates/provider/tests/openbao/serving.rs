//! What a healthy provider answers, and what it leaves on disk.

use std::{collections::BTreeMap, fs, os::unix::fs::MetadataExt as _, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use kms_node::probe::KmsClient;
use serde_json::{Value, json};
use testkit::{openbao::shared_openbao, tenant::KEY};

use crate::{
    node::{Node, TIMING},
    provider::to_decrypt,
};

#[tokio::test]
async fn what_encrypt_returns_is_what_status_key_id_and_transit_say() {
    let node = Node::new(TIMING).await;
    let provider = node.serve().await;
    let status = provider.status().await;
    assert_eq!((&*status.version, &*status.healthz), ("v2", "ok"));

    let seed = b"a seed of thirty-two known bytes";
    let encrypted = provider.encrypt(seed).await.unwrap();
    assert_eq!(encrypted.key_id, status.key_id);
    let derived = node.key_id().await;
    assert_eq!(derived["keyId"], status.key_id);
    let annotations: BTreeMap<_, _> = encrypted
        .annotations
        .iter()
        .map(|(name, value)| (name, std::str::from_utf8(value).unwrap()))
        .collect();
    assert_eq!(json!(annotations), derived["annotations"]);

    let ciphertext = std::str::from_utf8(&encrypted.ciphertext).unwrap();
    assert!(ciphertext.starts_with("vault:v1:"), "{ciphertext}");
    let body = json!({
        "ciphertext": ciphertext,
        "associated_data": derived["associatedDataBase64"],
    });
    let server = shared_openbao().await;
    let path = format!("{}/decrypt/{KEY}", node.tenant.transit_mount);
    let direct = server.admin().write(&path, &body).await.unwrap();
    let direct: Value = direct.json().unwrap();
    assert_eq!(direct["data"]["plaintext"], STANDARD.encode(seed));

    let decrypted = provider.decrypt(to_decrypt(&encrypted)).await.unwrap();
    assert_eq!(decrypted, &seed[..]);
}

#[tokio::test]
async fn the_projects_own_client_completes_a_round_trip() {
    let node = Node::new(TIMING).await;
    let _provider = node.serve().await;
    let mut client = KmsClient::new(&node.sockets.socket(), Duration::from_secs(10)).unwrap();
    let trip = client.round_trip(None).await.unwrap();
    assert_eq!(trip.ciphertext_prefix, "vault:v1:");
    assert_eq!(trip.ciphertext_bytes, 89);
    assert_eq!(trip.annotations, 7);
    client.round_trip(Some(&trip.key_id)).await.unwrap();
}

#[tokio::test]
async fn the_first_start_leaves_a_pair_of_generation_1_that_the_next_start_uses() {
    let node = Node::new(TIMING).await;
    let provider = node.serve().await;
    let key_id = provider.status().await.key_id;
    let encrypted = provider.encrypt(b"before the restart").await.unwrap();
    assert_eq!(provider.stop().await.code, Some(0));

    let inspected = node.run(&[
        "inspect-state",
        node.state_file().to_str().unwrap(),
        "--output",
        "json",
    ]);
    inspected.json();
    let state: Value = serde_json::from_slice(&fs::read(node.state_file()).unwrap()).unwrap();
    let checkpoint: Value = serde_json::from_slice(&fs::read(node.checkpoint()).unwrap()).unwrap();
    assert_eq!(state["generation"], 1);
    assert_eq!(state["activeKeyId"], key_id);
    assert_eq!(checkpoint["generation"], 1);
    assert_eq!(checkpoint["currentHash"], state["currentHash"]);
    for file in [node.state_file(), node.checkpoint()] {
        assert_eq!(fs::metadata(file).unwrap().mode() & 0o7777, 0o640);
    }

    let provider = node.serve().await;
    assert_eq!(provider.status().await.key_id, key_id);
    let decrypted = provider.decrypt(to_decrypt(&encrypted)).await.unwrap();
    assert_eq!(decrypted, &b"before the restart"[..]);
    let again: Value = serde_json::from_slice(&fs::read(node.state_file()).unwrap()).unwrap();
    assert_eq!(again, state, "a restart is no observation");
}

#[tokio::test]
async fn metrics_and_health_tell_of_a_healthy_node() {
    let node = Node::new(TIMING).await;
    let provider = node.serve().await;
    let encrypted = provider.encrypt(b"one").await.unwrap();
    provider.decrypt(to_decrypt(&encrypted)).await.unwrap();
    provider.status().await;

    assert_eq!(
        provider.health("/live").await,
        (200, json!({"status": "ok"}))
    );
    let (status, ready) = provider.health("/ready").await;
    assert_eq!(status, 200, "{ready}");
    assert_eq!(ready["healthz"], "ok");
    assert_eq!(ready["rotation_state"], "active");
    assert_eq!(ready["stale"], false);
    let hash = node.key_id().await["keyIdHash"]
        .as_str()
        .unwrap()
        .to_owned();
    for (series, value) in [
        (r#"grpc_requests_total{method="status",status="ok"}"#, 1.0),
        (r#"grpc_requests_total{method="encrypt",status="ok"}"#, 1.0),
        (r#"grpc_requests_total{method="decrypt",status="ok"}"#, 1.0),
        (r#"auth_login_total{status="ok"}"#, 1.0),
        (&*format!(r#"status_key_id_hash{{hash="{hash}"}}"#), 1.0),
        ("key_version", 1.0),
        ("ready", 1.0),
        (r#"rotation_state{state="active"}"#, 1.0),
        (r#"rotation_state{state="pending"}"#, 0.0),
        ("socket_restarts_total", 0.0),
        ("circuit_breaker_state", 0.0),
    ] {
        assert_eq!(provider.metric(series).await, value, "{series}");
    }
    assert!(provider.metric("token_ttl_seconds").await > 60.0);
    assert!(provider.metric("jwt_ttl_seconds").await > 60.0);
}
