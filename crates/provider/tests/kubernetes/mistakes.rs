//! Mistakes in the `EncryptionConfiguration`: what the API server says, and that nothing is lost.

use testkit::{
    control_plane::{Kind, WITHIN, kms},
    wait::wait_until,
};

use crate::cluster::Cluster;

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
