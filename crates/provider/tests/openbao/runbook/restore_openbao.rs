//! OpenBao loses its disk, comes back from its snapshot, and is then taken back too far.

use testkit::{runbook::Walk, tenant::KEY};

use crate::{
    node::TIMING,
    scene::{FIRST, Scene},
};

#[tokio::test]
async fn openbao_comes_back_from_its_snapshot() {
    let mut scene = Scene::with_own_openbao(TIMING).await;
    scene.serve(FIRST).await;
    scene.store(FIRST, "one").await;
    let early = scene.backup("openbao-early.snap");
    scene.openbao().save_snapshot(&early).await;
    scene.rotate().await;
    scene.store(FIRST, "two").await;

    let mut walk = Walk::of("operate/disaster-recovery/restore-openbao");
    walk.to_incident(&mut scene, "OpenBao loses its disk").await;
    let (share, token) = scene.kept_secrets();
    scene.lose_openbao().await;
    walk.to_incident(&mut scene, "the new server has its own unseal key")
        .await;
    scene.will_type("bao operator unseal", walk.word("new-unseal-key"));
    scene.will_type("bao login", walk.word("new-root-token"));
    scene.will_type("bao operator unseal", share);
    scene.will_type("bao login", token);
    let incident = "OpenBao is taken back to before the rotation";
    walk.to_incident(&mut scene, incident).await;
    scene.assert_readable(FIRST).await;

    scene.note_key_in_snapshot().await;
    scene.take_openbao_back(&early).await;
    scene
        .assert_unreadable(FIRST, "transit decrypt failed")
        .await;
    let rotates = "somebody rotates all the same";
    walk.to_incident(&mut scene, rotates).await;
    let mount = &scene.tenant.transit_mount;
    scene.admin().rotate_key(mount, KEY).await.unwrap();
    scene.wait_for_status(FIRST, "unhealthy").await;
    scene
        .assert_unreadable(FIRST, "transit decrypt failed")
        .await;
    walk.to_end(&mut scene).await;
    scene.assert_readable(FIRST).await;
}
