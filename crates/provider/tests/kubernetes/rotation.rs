//! A rotation, from OpenBao to the bytes in etcd, and the API server's own account of it.

use sha2::{Digest as _, Sha256};
use testkit::{
    control_plane::{Kind, WITHIN, identity},
    wait::wait_until,
};

use crate::cluster::Cluster;

const HASHES: &str = "apiserver_envelope_encryption_key_id_hash_total";
const SEEN: &str = "apiserver_envelope_encryption_key_id_hash_status_last_timestamp_seconds";
const INVALID: &str = "apiserver_envelope_encryption_invalid_key_id_from_status_total";
const LATENCY: &str = "apiserver_envelope_encryption_kms_operations_latency_seconds";

#[tokio::test]
async fn a_rotation_reaches_etcd_and_old_objects_stay_readable() {
    let (cluster, provider) = Cluster::encrypting().await;
    let before = cluster.key_id_of(1).await;
    cluster.write_each("old", "under version 1").await;

    cluster.node.rotate().await;
    let after = cluster.key_id_of(2).await;
    let control_plane = &cluster.control_plane;
    wait_until(WITHIN, "the API server's new key", async || {
        // Its health check asks for Status too, so that we need not wait for its poll.
        control_plane.get("/readyz").await;
        let hash = label(&after);
        control_plane.metric(SEEN, &[&hash]).await > 0.0
    })
    .await;
    cluster.write_each("new", "under version 2").await;
    for kind in Kind::ALL {
        cluster.assert_stored_under(kind, "old", &before);
        cluster.assert_stored_under(kind, "new", &after);
        control_plane.rewrite(kind).await.unwrap();
        cluster.assert_stored_under(kind, "old", &after);
    }
    cluster.assert_each("old", "under version 1").await;

    for (key_id, direction) in [(&before, "from_storage"), (&after, "to_storage")] {
        let labels = [
            label(key_id),
            format!("transformation_type=\"{direction}\""),
        ];
        let labels = labels.each_ref().map(String::as_str);
        assert!(
            control_plane.metric(HASHES, &labels).await > 0.0,
            "{labels:?}"
        );
    }
    assert_eq!(control_plane.metric(INVALID, &[]).await, 0.0);
    for method in ["Status", "Encrypt"] {
        let method = format!("method_name=\"/v2.KeyManagementService/{method}\"");
        let total = |kind: &str| format!("{LATENCY}_{kind}");
        let seconds = control_plane.metric(&total("sum"), &[&method]).await;
        let calls = control_plane.metric(&total("count"), &[&method]).await;
        println!("{method}: {calls} calls took {seconds} s in all");
        assert!(calls > 0.0);
    }
    let calls = cluster.print_calls("rotation", &provider).await;
    assert_eq!(
        (calls.encrypt, calls.decrypt),
        (2, 0),
        "one seed for each key_id"
    );
}

/// As the API server labels a key_id.
fn label(key_id: &str) -> String {
    let digest = Sha256::digest(key_id.as_bytes());
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("key_id_hash=\"sha256:{hex}\"")
}

#[tokio::test]
async fn a_changed_encryption_configuration_is_taken_without_a_restart() {
    let mut cluster = Cluster::new().await;
    let provider = cluster.node.serve().await;
    let key_id = cluster.key_id_of(1).await;
    cluster
        .control_plane
        .encrypt_with(&[identity(), cluster.kms()]);
    let reload = "--encryption-provider-config-automatic-reload=true";
    cluster.control_plane.start(&[reload]).await;
    cluster.control_plane.define_custom_resource().await;
    cluster.write_each("before", "plain").await;
    cluster.assert_plaintext("before", "plain");

    cluster
        .control_plane
        .encrypt_with(&[cluster.kms(), identity()]);
    let control_plane = &cluster.control_plane;
    wait_until(WITHIN, "the reload", async || {
        control_plane
            .write(Kind::Secret, "probe", "x")
            .await
            .unwrap();
        control_plane
            .stored(Kind::Secret, "probe")
            .starts_with(b"k8s:enc:kms:v2:")
    })
    .await;
    cluster.write_each("after", "no longer plain").await;
    for kind in Kind::ALL {
        cluster.assert_stored_under(kind, "after", &key_id);
    }
    cluster.assert_each("before", "plain").await;
    cluster.print_calls("reload", &provider).await;
}
