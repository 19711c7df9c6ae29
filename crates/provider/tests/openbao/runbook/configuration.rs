//! A configuration that is gone, and each identity field of one that is another's.

use std::fs;

use serde_json::json;
use testkit::runbook::Walk;

use crate::{
    machine::CONFIG,
    node::TIMING,
    scene::{FIRST, Scene},
};

/// A served cluster, with what its configuration management has.
async fn scene() -> Scene {
    let mut scene = Scene::new(TIMING).await;
    scene.serve(FIRST).await;
    scene.store(FIRST, "one").await;
    scene.rotate().await;
    scene.store(FIRST, "two").await;
    let machine = scene.machine(FIRST);
    for (path, name) in [
        (CONFIG, "config.yaml"),
        ("/etc/openbao-kms/tls/ca.crt", "ca.crt"),
    ] {
        fs::copy(machine.path(path), scene.backup(name)).unwrap();
    }
    scene.record(FIRST, "record.json").await;
    scene
}

#[tokio::test]
async fn a_lost_configuration_is_put_back_and_compared_before_any_start() {
    let mut scene = scene().await;
    let mut walk = Walk::of("operate/disaster-recovery/configuration-loss");
    walk.to_incident(&mut scene, "the configuration is lost")
        .await;
    fs::remove_dir_all(scene.machine(FIRST).path("/etc/openbao-kms")).unwrap();
    walk.to_end(&mut scene).await;
    scene.assert_readable(FIRST).await;
}

#[tokio::test]
async fn each_identity_field_that_differs_is_named_and_nothing_is_lost() {
    let mut scene = scene().await;
    for (parent, member) in [
        ("/transit/keyIdScope", "providerName"),
        ("/transit/keyIdScope", "clusterId"),
        ("/transit/keyIdScope", "transitMountId"),
        ("/transit/keyIdScope", "keyLineageId"),
        ("/openbao", "instanceId"),
        ("/openbao", "namespace"),
        ("/transit", "mountPath"),
        ("/transit", "keyName"),
    ] {
        let mut walk = Walk::of("operate/disaster-recovery/wrong-identity");
        let field = format!("{}/{member}", &parent[1..]).replace('/', ".");
        walk.set_word("field", &field);
        walk.to_incident(&mut scene, "one field is another one")
            .await;
        let machine = scene.machine(FIRST);
        let mut config = machine.config(&scene.tenant, TIMING);
        config.pointer_mut(parent).unwrap()[member] = json!("another");
        machine.configure(&config);
        walk.to_end(&mut scene).await;
        scene.assert_readable(FIRST).await;
    }
}
