//! The key is deleted, and then recreated, in an OpenBao that goes back to its snapshot each time.

use openbao_lab::admin::transit::{KeyConfig, NewKey};
use testkit::{runbook::Walk, tenant::KEY};

use crate::{
    node::TIMING,
    scene::{FIRST, Scene},
};

#[tokio::test]
async fn a_lost_key_and_one_made_anew_give_way_to_the_original() {
    let mut scene = Scene::with_own_openbao(TIMING).await;
    scene.serve(FIRST).await;
    scene.store(FIRST, "one").await;
    scene.rotate().await;
    scene.store(FIRST, "two").await;
    let snapshot = scene.backup("openbao.snap");
    scene.openbao().save_snapshot(&snapshot).await;
    scene
        .record(FIRST, "record.json --openbao-snapshot /backup/openbao.snap")
        .await;
    scene.note_key_in_snapshot().await;

    let mut walk = Walk::of("operate/disaster-recovery/key-loss");
    walk.to_incident(&mut scene, "somebody deletes the key")
        .await;
    delete(&scene).await;
    scene
        .assert_unreadable(FIRST, "transit key not found")
        .await;
    walk.to_end(&mut scene).await;
    scene.assert_readable(FIRST).await;

    let mut walk = Walk::of("operate/disaster-recovery/key-recreated");
    let incident = "somebody deletes the key and recreates it";
    walk.to_incident(&mut scene, incident).await;
    delete(&scene).await;
    make(&scene).await;
    scene.wait_for_status(FIRST, "unhealthy").await;
    scene
        .assert_unreadable(FIRST, "transit decrypt failed")
        .await;
    walk.to_end(&mut scene).await;
    scene.assert_readable(FIRST).await;
}

async fn delete(scene: &Scene) {
    let (mount, admin) = (&scene.tenant.transit_mount, scene.admin());
    let deletable = KeyConfig {
        deletion_allowed: Some(true),
        ..KeyConfig::default()
    };
    admin.configure_key(mount, KEY, deletable).await.unwrap();
    admin.delete_key(mount, KEY).await.unwrap();
}

/// With as many versions as the original.
async fn make(scene: &Scene) {
    let (mount, admin, key) = (
        &scene.tenant.transit_mount,
        scene.admin(),
        NewKey::default(),
    );
    admin.create_key(mount, KEY, &key).await.unwrap();
    admin.rotate_key(mount, KEY).await.unwrap();
}
