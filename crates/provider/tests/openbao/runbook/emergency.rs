//! What may be done in an emergency, and what the provider says to what may not.

use openbao_lab::admin::transit::KeyConfig;
use serde_json::json;
use testkit::{files, runbook::Walk, tenant::KEY};

use crate::{
    node::TIMING,
    scene::{FIRST, Scene},
};

/// Shows an `EncryptionConfiguration` of this node with `name` for the provider.
fn encryption_config(scene: &Scene, name: &str) {
    let machine = scene.machine(FIRST);
    let socket = machine.path("/run/openbao-kms/kms.sock");
    let kms = json!({
        "apiVersion": "v2",
        "name": name,
        "timeout": "15s",
        "endpoint": format!("unix://{}", socket.display()),
    });
    let config = json!({
        "apiVersion": "apiserver.config.k8s.io/v1",
        "kind": "EncryptionConfiguration",
        "resources": [{"resources": ["secrets"], "providers": [{"kms": kms}, {"identity": {}}]}],
    });
    let path = machine.path("/etc/kubernetes/encryption-config.yaml");
    files::replace(&path, config.to_string().as_bytes(), 0o600);
}

#[tokio::test]
async fn unsafe_actions_are_named_as_such_and_taken_back() {
    let mut scene = Scene::new(TIMING).await;
    scene.serve(FIRST).await;
    scene.store(FIRST, "one").await;
    scene.rotate().await;
    scene.store(FIRST, "two").await;
    encryption_config(&scene, "openbao-kms");

    let mut walk = Walk::of("operate/disaster-recovery/emergency-actions");
    let raised = "somebody raises min_decryption_version";
    walk.to_incident(&mut scene, raised).await;
    let minimum = KeyConfig {
        min_decryption_version: Some(2),
        ..KeyConfig::default()
    };
    let mount = &scene.tenant.transit_mount;
    let admin = scene.admin();
    admin.configure_key(mount, KEY, minimum).await.unwrap();
    scene.wait_for_status(FIRST, "unhealthy").await;

    let renamed = "somebody changes the name in the EncryptionConfiguration";
    walk.to_incident(&mut scene, renamed).await;
    scene.wait_for_status(FIRST, "ok").await;
    scene.assert_readable(FIRST).await;
    encryption_config(&scene, "kms-renamed");
    let both = "the name is changed in the provider too";
    walk.to_incident(&mut scene, both).await;
    let machine = scene.machine(FIRST);
    let good = machine.config(&scene.tenant, TIMING);
    let mut config = good.clone();
    config["transit"]["keyIdScope"]["providerName"] = json!("kms-renamed");
    machine.configure(&config);

    let reads = "somebody reads a ciphertext from etcd";
    walk.to_incident(&mut scene, reads).await;
    scene.machine(FIRST).configure(&good);
    walk.set_word("ciphertext", &scene.last_ciphertext());
    let searches = "somebody searches the log for plaintext";
    walk.to_incident(&mut scene, searches).await;
    scene.store(FIRST, "three").await;
    scene.assert_readable(FIRST).await;
    let journal = scene.machine(FIRST).journal();
    assert!(journal.contains(r#""level":"debug""#));
    scene.assert_shows_no_seed(&journal);
    walk.to_end(&mut scene).await;
}
