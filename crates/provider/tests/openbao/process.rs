//! The process and what it owns on the node: the socket, the lock, the state and its checkpoint.

use std::{fs, net::TcpListener, os::unix::fs::MetadataExt as _, path::Path};

use kms_domain::registry::document::Document;
use rustix::process::Signal;
use serde_json::json;
use testkit::files;

use crate::{
    node::{Node, QUIET},
    provider::to_decrypt,
};

fn read(path: &Path) -> Document {
    Document::decode(&fs::read(path).unwrap()).unwrap()
}

fn write(path: &Path, text: &str) {
    files::replace(path, text.as_bytes(), 0o640);
}

/// A node that has served once and stopped, and its document.
async fn served() -> (Node, Document) {
    let node = Node::new(QUIET).await;
    let stopped = node.serve().await.stop().await;
    assert_eq!(stopped.code, Some(0), "{}", stopped.err);
    let document = read(&node.state_file());
    (node, document)
}

#[tokio::test]
async fn a_killed_provider_comes_back_over_its_dead_socket() {
    let node = Node::new(QUIET).await;
    let provider = node.serve().await;
    let encrypted = provider.encrypt(b"seed").await.unwrap();
    provider.signal(Signal::KILL);
    assert_eq!(provider.ended().await.code, None);
    assert!(node.sockets.socket().exists());

    let provider = node.serve().await;
    assert_eq!(provider.events("socket.stale_removed").count(), 1);
    assert_eq!(provider.metric("socket_restarts_total").await, 1.0);
    let decrypted = provider.decrypt(to_decrypt(&encrypted)).await.unwrap();
    assert_eq!(decrypted, &b"seed"[..]);
}

#[tokio::test]
async fn the_socket_has_its_mode_and_goes_with_a_clean_stop() {
    let mut node = Node::new(QUIET).await;
    node.config["server"]["socketMode"] = json!("0600");
    let socket = node.sockets.socket();
    for signal in [Signal::TERM, Signal::INT] {
        let provider = node.serve().await;
        let mode = fs::symlink_metadata(&socket).unwrap().mode();
        assert_eq!(mode & 0o7777, 0o600);
        provider.signal(signal);
        let stopped = provider.ended().await;
        assert_eq!(stopped.code, Some(0), "{}", stopped.err);
        assert!(!socket.exists());
    }
}

#[tokio::test]
async fn a_second_provider_of_the_same_state_is_refused_and_disturbs_nothing() {
    let node = Node::new(QUIET).await;
    let provider = node.serve().await;
    let before = (fs::read(node.state_file()).unwrap(), node.sockets.socket());
    let refused = node.refused().await;
    let lock = format!(
        "key-registry.json.lock is locked by process {}",
        provider.pid()
    );
    refused.assert_refused(
        5,
        &[&lock, "Deleting the lock file does not free the state"],
    );
    assert_eq!(fs::read(node.state_file()).unwrap(), before.0);
    assert!(before.1.exists());
    assert_eq!(provider.status().await.healthz, "ok");
}

#[tokio::test]
async fn a_socket_that_somebody_serves_is_never_taken() {
    let mut node = Node::new(QUIET).await;
    let provider = node.serve().await;
    let key_id = provider.status().await.key_id;
    let inode = fs::symlink_metadata(node.sockets.socket()).unwrap().ino();
    let elsewhere = node.tenant.path().join("elsewhere");
    files::directory(&elsewhere, 0o750);
    node.config["state"]["path"] = json!(elsewhere.join("key-registry.json"));
    let refused = node.refused().await;
    let running = format!("process {} (bao-kms-provide) serves", provider.pid());
    refused.assert_refused(5, &[&running, "kms.sock"]);
    let socket = fs::symlink_metadata(node.sockets.socket()).unwrap();
    assert_eq!(socket.ino(), inode);
    assert_eq!(provider.status().await.key_id, key_id);
}

#[tokio::test]
async fn what_is_not_a_socket_is_left_where_it_is() {
    let node = Node::new(QUIET).await;
    let path = node.sockets.socket();
    write(&path, "of value to somebody");
    let refused = node.refused().await;
    refused.assert_refused(3, &["server.socketPath", "not a socket"]);
    assert_eq!(fs::read(&path).unwrap(), b"of value to somebody");
}

#[tokio::test]
async fn directories_that_others_may_write_are_refused() {
    let node = Node::new(QUIET).await;
    let open = |path: &Path, mode| {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
        fs::set_permissions(path, mode).unwrap();
    };
    open(&node.state_dir(), 0o770);
    node.refused()
        .await
        .assert_refused(3, &["state.path", "chmod 0750"]);
    open(&node.state_dir(), 0o750);
    open(node.sockets.path(), 0o777);
    let refused = node.refused().await;
    refused.assert_refused(3, &["server.socketPath", "chmod 2750"]);
}

#[tokio::test]
async fn a_listener_that_is_taken_ends_the_start() {
    let mut node = Node::new(QUIET).await;
    let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for field in ["healthAddress", "metricsAddress"] {
        let free = std::mem::replace(&mut node.config["server"][field], json!(address));
        let refused = node.refused().await;
        let said = format!("cannot listen on server.{field} {address}");
        refused.assert_refused(5, &[&said]);
        let end = r#""level":"error","message":"serve.shutdown","exit_code":5,"reason":"listener","operation":"serve.shutdown"}"#;
        assert!(refused.err.contains(end), "{}", refused.err);
        node.config["server"][field] = free;
    }
}

#[tokio::test]
async fn a_state_of_another_configuration_names_what_differs() {
    let (mut node, document) = served().await;
    let good = node.config.clone();
    for (section, name) in [
        ("keyIdScope", "clusterId"),
        ("keyIdScope", "keyLineageId"),
        ("keyIdScope", "providerName"),
        ("keyIdScope", "transitMountId"),
    ] {
        node.config["transit"][section][name] = json!("other");
        let refused = node.refused().await;
        let field = format!("transit.{section}.{name} is \"other\"");
        refused.assert_refused(3, &[&field, "do not delete the state"]);
        node.config = good.clone();
    }
    node.config["openbao"]["instanceId"] = json!("other");
    let refused = node.refused().await;
    refused.assert_refused(3, &["openbao.instanceId is \"other\""]);
    node.config = good.clone();
    node.config["transit"]["keyName"] = json!("other");
    let refused = node.refused().await;
    refused.assert_refused(3, &["transit.mountPath or transit.keyName differs"]);
    node.config = good;
    assert_eq!(read(&node.state_file()), document);
}

#[tokio::test]
async fn a_bad_configuration_is_one_message_with_every_problem() {
    let mut node = Node::new(QUIET).await;
    node.config["openbao"]["address"] = json!("http://127.0.0.1:8200");
    node.config["status"]["probeInterval"] = json!("soon");
    node.config["transit"]["keyName"] = json!("a/b");
    let refused = node.refused().await;
    let fields = ["openbao.address", "status.probeInterval", "transit.keyName"];
    refused.assert_refused(3, &[&fields[..], &["list every problem"]].concat());
}
