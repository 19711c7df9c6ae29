//! API servers of Kubernetes 1.29 to 1.31, which send the path of the socket as `:authority`.

use std::{env, process::Command};

use crate::node::{Node, TIMING};

/// The client's three rounds share a connection: only the first spells the authority out.
#[tokio::test]
async fn an_api_server_that_sends_a_path_as_its_authority_is_served() {
    let client = env::var_os("OLD_CLIENT")
        .unwrap_or_else(|| panic!("OLD_CLIENT is not set; use `cargo xtask test --kubernetes`"));
    let node = Node::new(TIMING).await;
    let provider = node.serve().await;
    let key_id = provider.status().await.key_id;

    let called = Command::new(client)
        .arg(node.sockets.socket())
        .output()
        .unwrap();
    let said = String::from_utf8(called.stdout).unwrap();
    let failed = String::from_utf8(called.stderr).unwrap();
    assert!(called.status.success(), "{said}{failed}");
    let round = [
        format!("Status: version v2, healthz ok, key_id {key_id}\n"),
        format!("Encrypt: 89 bytes under key_id {key_id}\n"),
        "Decrypt: 32 bytes, as they were\n".to_owned(),
    ];
    assert_eq!(said, round.concat().repeat(3));
}
