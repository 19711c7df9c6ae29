//! The second socket for a cluster of vault-kubernetes-kms: it also decrypts what that plugin stored.

use std::{
    fs::{self, Permissions},
    os::unix::{fs::PermissionsExt as _, net::UnixListener},
};

use kms_node::kms_api::generated::{
    DecryptRequest, EncryptRequest, StatusRequest,
    key_management_service_client::KeyManagementServiceClient,
};
use openbao_lab::port::free_port;
use serde_json::{Value, json};
use testkit::{
    files,
    openbao::shared_openbao,
    tenant::{KEY, Tenant},
    wait::wait_until,
};
use tonic::transport::{Channel, Endpoint};

use crate::{
    node::{Node, TIMING},
    old_plugin::OldPlugin,
    provider::{Provider, SOON, assert_decrypt_refused, to_decrypt},
};

const NAME: &str = "vault-kubernetes-kms";

/// A node whose provider also reads objects of the plugin.
async fn node() -> (Node, OldPlugin) {
    let mut node = Node::new(TIMING).await;
    node.config["legacy"] = json!({"vaultKubernetesKms": {"providerName": NAME}});
    let plugin = OldPlugin::of(&node.tenant.transit_mount);
    (node, plugin)
}

fn reader(node: &Node) -> KeyManagementServiceClient<Channel> {
    let socket = node.sockets.path().join("vault-kubernetes-kms.sock");
    let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display()));
    KeyManagementServiceClient::new(endpoint.unwrap().connect_lazy())
}

async fn assert_read(node: &Node, stored: DecryptRequest, plaintext: &[u8]) {
    let answer = reader(node).decrypt(stored).await.unwrap();
    assert_eq!(answer.into_inner().plaintext, plaintext);
}

/// Asserts that the reader refuses with this sentence.
async fn assert_refused(node: &Node, stored: DecryptRequest, sentence: &str, of_the_data: &str) {
    let refused = reader(node).decrypt(stored).await.err().unwrap();
    assert_decrypt_refused(&refused, sentence, of_the_data);
}

#[tokio::test]
async fn objects_of_the_plugin_are_read_under_each_key_id_that_it_stored() {
    let (node, plugin) = node().await;
    let old = plugin.encrypt(b"seed of version 1").await;
    let provider = node.serve().await;
    assert_read(&node, old.clone(), b"seed of version 1").await;

    node.rotate().await;
    let new = plugin.encrypt(b"seed of version 2").await;
    assert_eq!(new.key_id, "2");
    assert_read(&node, new.clone(), b"seed of version 2").await;
    // The key was rotated between the two requests of the plugin, or an older release wrote it.
    for key_id in ["1", "2", &plugin.created_at("1").await] {
        let key_id = key_id.to_owned();
        assert_read(
            &node,
            DecryptRequest {
                key_id,
                ..old.clone()
            },
            b"seed of version 1",
        )
        .await;
    }
    assert!(
        provider
            .metric(r#"legacy_decrypts_total{status="ok"}"#)
            .await
            >= 5.0
    );
    let own = r#"grpc_requests_total{method="decrypt",status="ok"}"#;
    assert_eq!(provider.metric(own).await, 0.0, "counted apart");
    provider.stop().await;
    assert!(
        !node
            .sockets
            .path()
            .join("vault-kubernetes-kms.sock")
            .exists()
    );
}

#[tokio::test]
async fn whatever_the_plugin_did_not_store_is_refused() {
    let (node, plugin) = node().await;
    let provider = node.serve().await;
    let stored = plugin.encrypt(b"seed").await;
    let with_key_id = |key_id: &str| DecryptRequest {
        key_id: key_id.to_owned(),
        ..stored.clone()
    };
    for key_id in ["", "01", "-1", "1.0", "v1", "obk2.x"] {
        assert_refused(&node, with_key_id(key_id), "key_id malformed", "damaged").await;
    }
    let mismatch = "key_id does not match the ciphertext";
    for key_id in ["2", "1700000000"] {
        assert_refused(&node, with_key_id(key_id), mismatch, "damaged").await;
    }
    let mut annotated = stored.clone();
    annotated
        .annotations
        .insert("a.example".to_owned(), "b".into());
    assert_refused(&node, annotated, "annotations invalid", "damaged").await;
    let other = |ciphertext: &'static str| DecryptRequest {
        ciphertext: ciphertext.into(),
        ..stored.clone()
    };
    assert_refused(&node, other(""), "ciphertext is required", "damaged").await;
    assert_refused(&node, other("vault:v1:"), "ciphertext invalid", "damaged").await;
    let newer = DecryptRequest {
        key_id: "7".to_owned(),
        ..other("vault:v7:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=")
    };
    assert_refused(&node, newer, "transit decrypt failed", "key version 7").await;

    // Associated data separates the objects of both providers, with one key.
    let own = to_decrypt(&provider.encrypt(b"own").await.unwrap());
    let own = DecryptRequest {
        annotations: [].into(),
        key_id: "1".to_owned(),
        ..own
    };
    assert_refused(&node, own, "transit decrypt failed", "key version 1").await;
    let at_ours = provider.decrypt(stored).await.err().unwrap();
    assert_decrypt_refused(&at_ours, "key_id malformed", "damaged");

    let class = r#"legacy_errors_total{error_class="aad_mismatch"}"#;
    assert_eq!(provider.metric(class).await, 1.0);
    let events = provider.events("legacy.decrypt");
    assert!(
        events
            .filter(|event| event["error_class"] == "aad_mismatch")
            .count()
            == 1
    );
    assert!(!provider.log().contains("vault:v"));
}

/// kube-apiserver reads through a provider only after an Encrypt by it.
#[tokio::test]
async fn whatever_is_written_through_its_socket_is_of_this_provider() {
    let (node, _) = node().await;
    let provider = node.serve().await;
    let status = reader(&node).status(StatusRequest {}).await.unwrap();
    assert_eq!(status.into_inner().key_id, provider.status().await.key_id);
    let request = EncryptRequest {
        plaintext: "new".into(),
        uid: "test".to_owned(),
    };
    let written = reader(&node).encrypt(request).await.unwrap().into_inner();
    assert_eq!(written.key_id, provider.status().await.key_id);
    assert_eq!(written.annotations.len(), 7);
    assert_read(&node, to_decrypt(&written), b"new").await;
    let read = provider.decrypt(to_decrypt(&written)).await.unwrap();
    assert_eq!(read, &b"new"[..]);
    let decrypts = r#"legacy_decrypts_total{status="ok"}"#;
    assert_eq!(provider.metric(decrypts).await, 0.0);
}

#[tokio::test]
async fn another_key_is_read_with_the_printed_policy_in_the_sandbox() {
    let (mut node, _) = node().await;
    let server = shared_openbao().await;
    let other = Tenant::new(server).await;
    let plugin = OldPlugin::of(&other.transit_mount);
    let stored = plugin.encrypt(b"seed").await;
    let admin = server.admin();
    // The latest version of our own key is below that of the other.
    admin.rotate_key(&other.transit_mount, KEY).await.unwrap();
    let key_id = plugin.key_id().await;
    let rotated = DecryptRequest {
        key_id,
        ..stored.clone()
    };
    node.config["legacy"]["vaultKubernetesKms"]["mountPath"] = json!(other.transit_mount);
    node.config["hardening"] = json!({"landlock": "best-effort"});

    let provider = node.serve().await;
    let denied = reader(&node).decrypt(stored.clone()).await.err().unwrap();
    assert_decrypt_refused(&denied, "transit permission denied", "no data is lost");
    let doctor = node.run(&["doctor", "--output", "json"]);
    assert_eq!(doctor.code, Some(4), "{}", doctor.out);
    assert!(
        doctor
            .out
            .contains(&format!("update on {}/decrypt/{KEY}", other.transit_mount))
    );
    assert!(doctor.out.contains("kms.legacy_status"), "{}", doctor.out);

    node.grant(|policy| policy).await;
    assert_read(&node, stored, b"seed").await;
    assert_read(&node, rotated, b"seed").await;
    assert_eq!(provider.status().await.healthz, "ok");
    let doctor = node.run(&["doctor", "--output", "json"]);
    assert_eq!(doctor.code, Some(0), "{}", doctor.out);

    // Without its socket, kube-apiserver cannot use it.
    fs::remove_file(node.sockets.path().join("vault-kubernetes-kms.sock")).unwrap();
    let mut provider: Provider = provider;
    provider.wait_for_event("socket.rebound").await;
    assert_eq!(node.run(&["doctor"]).code, Some(0));
}

#[tokio::test]
async fn a_missing_key_is_no_damage_of_an_object() {
    let (mut node, plugin) = node().await;
    node.config["legacy"]["vaultKubernetesKms"]["keyName"] = json!("absent");
    let _provider = node.serve().await;
    node.grant(|policy| policy).await;
    let stored = plugin.encrypt(b"seed").await;
    assert_refused(&node, stored, "transit key not found", "key version 1").await;
}

#[tokio::test]
async fn the_entry_of_the_plugin_in_the_encryption_configuration_is_checked() {
    let (node, _) = node().await;
    let _provider = node.serve().await;
    let kms = |name: &str, socket: &str| {
        let endpoint = format!("unix://{}", node.sockets.path().join(socket).display());
        json!({"kms": {"apiVersion": "v2", "name": name, "endpoint": endpoint, "timeout": "15s"}})
    };
    let (own, old) = (
        kms("kms-test", "kms.sock"),
        kms(NAME, "vault-kubernetes-kms.sock"),
    );
    for (providers, found) in [
        (json!([own, old]), None),
        (json!([old, own]), Some("legacy_first")),
        (json!([own]), Some("legacy_unlisted")),
        (
            json!([own, kms(NAME, "elsewhere.sock")]),
            Some("legacy_endpoint"),
        ),
    ] {
        let file = node.sockets.path().join("encryption.json");
        let text = json!({
            "apiVersion": "apiserver.config.k8s.io/v1",
            "kind": "EncryptionConfiguration",
            "resources": [{"resources": ["secrets"], "providers": providers}],
        });
        files::replace(&file, text.to_string().as_bytes(), 0o640);
        let file = file.to_str().unwrap();
        let doctor = node.run(&["doctor", "--encryption-config", file, "--output", "json"]);
        for code in ["legacy_first", "legacy_unlisted", "legacy_endpoint"] {
            assert_eq!(
                doctor.out.contains(code),
                found == Some(code),
                "{}",
                doctor.out
            );
        }
    }
}

#[tokio::test]
async fn a_second_socket_that_cannot_be_bound_leaves_all_else_serving() {
    let (mut node, plugin) = node().await;
    let health = format!("127.0.0.1:{}", free_port().unwrap());
    node.config["server"]["healthAddress"] = json!(health);
    let path = node.sockets.path().join("vault-kubernetes-kms.sock");
    let stored = plugin.encrypt(b"seed").await;
    files::replace(&path, b"of an administrator", 0o600);
    let mut provider = node.serve().await;
    let own = provider.encrypt(b"own").await.unwrap();
    provider.decrypt(to_decrypt(&own)).await.unwrap();
    assert_eq!(provider.reasons().await, [""; 0]);
    assert_fault(&provider, "not_a_socket").await;
    assert_reported(&node, true);

    // A live socket of another process stays.
    fs::remove_file(&path).unwrap();
    let other = UnixListener::bind(&path).unwrap();
    assert_fault(&provider, "in_use").await;
    let failed = provider.events("socket.rebind_failed");
    let reasons: Vec<_> = failed
        .map(|it| (it["listener"].clone(), it["reason"].clone()))
        .collect();
    let of = |reason: &str| (json!("legacy"), json!(reason));
    assert_eq!(reasons, [of("not_a_socket"), of("in_use")]);

    drop(other);
    provider.wait_for_event("socket.restored").await;
    assert_read(&node, stored, b"seed").await;
    assert_reported(&node, false);
    let (_, ready) = provider.health("/ready").await;
    assert_eq!(ready["legacy_socket_fault"], json!(null));
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    assert_fault(&provider, "mode").await;
    for command in ["doctor", "triage"] {
        let report = node.run(&[command, "--output", "json"]);
        let fix = format!("chmod 0660 {}", path.display());
        assert!(report.out.contains(&fix), "{command}: {}", report.out);
    }

    // A stop does not wait for a socket that was never bound.
    provider.stop().await;
    files::replace(&path, b"of an administrator", 0o600);
    let provider = node.serve().await;
    assert_eq!(provider.stop().await.code, Some(0));
    assert!(path.exists());
}

/// Waits until `/ready`, `/why` and the metrics have this fault of the second socket.
async fn assert_fault(provider: &Provider, fault: &str) {
    wait_until(SOON, fault, async || {
        let (_, ready) = provider.health("/ready").await;
        ready["legacy_socket_fault"] == fault
    })
    .await;
    let (_, why) = provider.health("/why").await;
    assert_eq!(why["legacy_socket"]["fault"]["class"], fault, "{why}");
    let series = format!(r#"legacy_socket_fault{{reason="{fault}"}}"#);
    assert_eq!(provider.metric(&series).await, 1.0);
}

/// Asserts whether `doctor` and `triage` report the second socket.
#[track_caller]
fn assert_reported(node: &Node, is_lost: bool) {
    for command in ["doctor", "triage"] {
        let done = node.run(&[command, "--output", "json"]);
        let report: Value = serde_json::from_str(&done.out).unwrap();
        let found = report["cause"] == "legacy_socket_unusable";
        assert_eq!(found, is_lost, "{command}: {report:#}");
        let code = if is_lost { 4 } else { 0 };
        assert_eq!(done.code, Some(code), "{command}: {report:#}");
    }
}
