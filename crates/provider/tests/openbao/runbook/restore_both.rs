//! Both stores come back from one backup set, then etcd from an older one, then OpenBao does.

use std::fs;

use testkit::{files, runbook::Walk};

use crate::{
    node::TIMING,
    scene::{FIRST, Scene},
};

#[tokio::test]
async fn both_stores_come_back_as_a_pair_and_only_as_one() {
    let mut scene = Scene::with_own_openbao(TIMING).await;
    scene.serve(FIRST).await;
    scene.store(FIRST, "one").await;
    fs::create_dir(scene.backup("monday")).unwrap();
    scene.etcd().save_snapshot(&scene.backup("monday/etcd.db"));
    let monday = scene.backup("monday/openbao.snap");
    scene.openbao().save_snapshot(&monday).await;
    scene
        .record(
            FIRST,
            "monday/record.json --etcd-snapshot /backup/monday/etcd.db",
        )
        .await;
    scene.rotate().await;
    scene.store(FIRST, "two").await;

    let mut walk = Walk::of("operate/disaster-recovery/restore-both");
    walk.to_incident(&mut scene, "both stores are lost").await;
    let (share, token) = scene.kept_secrets();
    let at_hand = scene.machine(FIRST).path("/root/unseal-share");
    scene.openbao().write_unseal_key(&at_hand);
    scene.lose_openbao().await;
    let _answer = scene.etcd().ctl(&["del", "--prefix", "/"]);
    walk.to_incident(&mut scene, "the new server has its own unseal key")
        .await;
    scene.will_type("bao operator unseal", walk.word("new-unseal-key"));
    scene.will_type("bao login", walk.word("new-root-token"));
    scene.will_type("bao operator unseal", share);
    scene.will_type("bao login", token);

    let damaged = "the etcd snapshot of the set is damaged";
    walk.to_incident(&mut scene, damaged).await;
    assert!(scene.stores("two"));
    scene.assert_readable(FIRST).await;
    let file = scene.backup("tuesday/etcd.db");
    let whole = fs::read(&file).unwrap();
    files::replace(&file, &whole[..whole.len() / 2], 0o600);

    let older = "OpenBao is restored from the older set";
    walk.to_incident(&mut scene, older).await;
    assert!(scene.stores("one") && !scene.stores("two"));
    scene.assert_readable(FIRST).await;
    files::replace(&file, &whole, 0o600);
    scene.take_openbao_back(&monday).await;
    scene
        .assert_unreadable(FIRST, "transit decrypt failed")
        .await;
    walk.to_end(&mut scene).await;
}
