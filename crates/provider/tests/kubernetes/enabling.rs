//! Encryption comes to a cluster that has objects already.

use testkit::control_plane::{Kind, identity};

use crate::cluster::{Cluster, contains};

#[tokio::test]
async fn a_cluster_goes_from_plaintext_to_encryption_phase_by_phase() {
    let mut cluster = Cluster::new().await;
    let provider = cluster.node.serve().await;
    let key_id = cluster.key_id_of(1).await;
    cluster.control_plane.start(&[]).await;
    cluster.control_plane.define_custom_resource().await;
    cluster.write_each("before", "plain of old").await;

    // Readers: every API server must be able to read what the first writer will write.
    let readers = [identity(), cluster.kms()];
    cluster.restart_with(&readers).await;
    cluster.write_each("reader", "still plain").await;
    cluster.assert_plaintext("before", "plain of old");
    cluster.assert_plaintext("reader", "still plain");

    // Writers: new writes are encrypted, old objects stay as they are and readable.
    let writers = [cluster.kms(), identity()];
    cluster.restart_with(&writers).await;
    cluster.write_each("writer", "no longer plain").await;
    cluster.assert_plaintext("before", "plain of old");
    for kind in Kind::ALL {
        cluster.assert_stored_under(kind, "writer", &key_id);
        let stored = cluster.control_plane.stored(kind, "writer");
        assert!(!contains(&stored, b"no longer plain"), "{kind:?}");
    }

    // The rewrite, and then nothing needs the identity provider any more.
    for kind in Kind::ALL {
        cluster.control_plane.rewrite(kind).await.unwrap();
        for name in ["before", "reader", "writer"] {
            cluster.assert_stored_under(kind, name, &key_id);
        }
    }
    cluster.restart_with(&[cluster.kms()]).await;
    cluster.assert_each("before", "plain of old").await;
    cluster.assert_each("reader", "still plain").await;
    cluster.assert_each("writer", "no longer plain").await;
    let calls = cluster.print_calls("enabling", &provider).await;
    assert_eq!(
        calls.encrypt, 3,
        "one seed for each start that had the provider"
    );
}
