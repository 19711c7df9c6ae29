//! Mistakes in the `EncryptionConfiguration`: what the API server says, and that nothing is lost.

use serde_json::Value;
use testkit::{
    control_plane::{Kind, WITHIN, kms},
    wait::wait_until,
};

use crate::{cluster::Cluster, node::Node};

#[tokio::test]
async fn another_provider_name_reads_nothing_and_the_right_one_reads_all_again() {
    let (mut cluster, provider) = Cluster::encrypting().await;
    cluster.write_each("kept", "under the right name").await;
    cluster.control_plane.stop().await;

    let renamed = kms("kms-renamed", &cluster.node.sockets.socket());
    cluster.control_plane.encrypt_with(&[renamed]);
    cluster.control_plane.spawn(&[]);
    wait_until(WITHIN, "word of the failure", async || {
        cluster
            .control_plane
            .log()
            .contains("no matching prefix found")
    })
    .await;
    // The provider answers, so the API server finds its health good: only reads tell.
    let (_, said) = cluster.control_plane.get("/readyz?verbose").await.unwrap();
    assert!(said.contains("[+]kms-providers ok"), "{said}");
    let refused = cluster.control_plane.read(Kind::Secret, "kept").await;
    let refused = refused.err().unwrap().to_string();
    assert!(refused.contains("no matching prefix found"), "{refused}");

    cluster.restart_with(&[cluster.kms()]).await;
    cluster.assert_each("kept", "under the right name").await;
    cluster.print_calls("renamed", &provider).await;
}

#[tokio::test]
async fn a_socket_that_nobody_serves_keeps_the_api_server_from_being_ready() {
    let (mut cluster, provider) = Cluster::encrypting().await;
    cluster.write_each("kept", "behind the right socket").await;
    cluster.control_plane.stop().await;

    let elsewhere = cluster.node.sockets.path().join("elsewhere.sock");
    let mistaken = kms(crate::cluster::NAME, &elsewhere);
    cluster.control_plane.encrypt_with(&[mistaken]);
    cluster.control_plane.spawn(&[]);
    wait_until(WITHIN, "word of the failure", async || {
        cluster.control_plane.log().contains("elsewhere.sock")
    })
    .await;
    let (_, said) = cluster.control_plane.get("/readyz?verbose").await.unwrap();
    assert!(said.contains("[-]kms-providers failed"), "{said}");

    cluster.restart_with(&[cluster.kms()]).await;
    cluster.assert_each("kept", "behind the right socket").await;
    cluster.print_calls("wrong socket", &provider).await;
}

#[tokio::test]
async fn beside_an_object_that_looks_corrupt_stand_the_missing_version_and_the_way_back() {
    // Asks of the plan first, and then applies it.
    fn change(node: &Node, command: &[&str]) {
        let planned = node.run(&[command, &["--output", "json"]].concat());
        let planned: Value = serde_json::from_str(&planned.out).unwrap();
        let hash = planned["stateHash"].as_str().unwrap();
        let apply = ["--apply", "--expected-state-hash", hash];
        let applied = node.run(&[command, &apply].concat());
        assert_eq!(applied.code, Some(0), "{}", applied.err);
    }
    let (mut cluster, provider) = Cluster::encrypting().await;
    cluster.write_each("kept", "under version 1").await;
    cluster.control_plane.stop().await;
    cluster.node.rotate().await;
    provider.encrypt_under(2).await;
    provider.stop().await;
    let retire = ["retire-versions", "--before-version", "2"];
    change(&cluster.node, &retire);
    let provider = cluster.node.serve().await;

    let gate = "--feature-gates=AllowUnsafeMalformedObjectDeletion=true";
    cluster.control_plane.spawn(&[gate]);
    let control_plane = &cluster.control_plane;
    let removed = "key_id unknown: key version 1 was removed on this node; run restore-versions; do not delete the object";
    let mut said = String::new();
    wait_until(WITHIN, "word of the missing version", async || {
        let refused = control_plane.read(Kind::Secret, "kept").await.err();
        said = refused.map_or(String::new(), |refused| refused.to_string());
        said.contains(removed)
    })
    .await;
    println!("of one object: {said}");
    let refused = control_plane.names(Kind::Secret).await.err().unwrap();
    println!("of the list: {refused}");
    assert!(refused.to_string().contains("do not delete the object"));

    cluster.control_plane.stop().await;
    provider.stop().await;
    change(&cluster.node, &["restore-versions", "--versions", "1"]);
    let _provider = cluster.node.serve().await;
    cluster.control_plane.start(&[]).await;
    cluster.assert_each("kept", "under version 1").await;
}
