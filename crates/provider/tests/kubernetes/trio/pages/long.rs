//! Losses that take minutes.

use testkit::runbook::Walk;

use super::site::Site;

#[tokio::test]
#[ignore = "long: minutes on a cluster of three"]
async fn openbao_comes_back_on_all_its_servers_by_the_page() {
    let mut site = Site::new().await;
    site.store("one").await;
    let early = site.backup("openbao-early.snap");
    site.save_openbao(&early).await;
    site.rotate().await;
    site.store("two").await;

    let mut walk = Walk::on_cluster("operate/disaster-recovery/restore-openbao");
    walk.to_incident(&mut site, "OpenBao loses its disk").await;
    let (share, token) = site.kept_secrets();
    site.lose_openbao().await;
    walk.to_incident(&mut site, "the new server has its own unseal key")
        .await;
    site.will_restore(&walk, &share, token);
    let incident = "OpenBao is taken back to before the rotation";
    walk.to_incident(&mut site, incident).await;
    site.adopted().await;

    site.note_key_in_snapshot().await;
    site.take_openbao_back(&early).await;
    walk.to_incident(&mut site, "somebody rotates all the same")
        .await;
    site.rotate_key().await;
    site.wait_until_unhealthy().await;
    walk.to_end(&mut site).await;
    site.assert_sound().await;
}

#[tokio::test]
#[ignore = "long: minutes on a cluster of three"]
async fn both_stores_come_back_on_all_members_by_the_page() {
    let mut site = Site::new().await;
    site.store("one").await;
    site.rotate().await;
    site.store("two").await;

    let mut walk = Walk::on_cluster("operate/disaster-recovery/restore-both");
    walk.to_incident(&mut site, "both stores are lost").await;
    let (share, token) = site.kept_secrets();
    site.write_unseal_share();
    site.lose_openbao().await;
    site.lose_etcd();
    walk.to_incident(&mut site, "the new server has its own unseal key")
        .await;
    site.will_restore(&walk, &share, token);
    walk.to_end(&mut site).await;
    site.assert_sound().await;
}

#[tokio::test]
#[ignore = "long: minutes on a cluster of three"]
async fn a_node_is_replaced_with_its_member_of_etcd_by_the_page() {
    let mut site = Site::new().await;
    site.store("one").await;
    site.rotate().await;
    site.store("two").await;
    site.back_up_node("cp-2");
    site.record("record.json").await;

    let mut walk = Walk::on_cluster("operate/disaster-recovery/node-replacement");
    walk.to_incident(&mut site, "cp-2 is replaced").await;
    site.lose_node("cp-2").await;
    let again = "cp-2 is replaced once more, and its backup is missing";
    walk.to_incident(&mut site, again).await;
    site.adopted().await;
    // Everything is in place but the state.
    site.lose_state("cp-2").await;
    let alone = "cp-2 is replaced a third time, and there is no other node";
    walk.to_incident(&mut site, alone).await;
    site.adopted().await;
    for node in ["cp-1", "cp-2", "cp-3"] {
        site.lose_state(node).await;
    }
    walk.to_end(&mut site).await;
    site.assert_sound().await;
}

#[tokio::test]
#[ignore = "long: minutes on a cluster of three"]
async fn one_node_after_another_is_down_with_its_member_of_etcd_by_the_page() {
    let mut site = Site::new().await;
    site.store("one").await;
    let old = site.state_of("cp-2");
    site.rotate().await;
    site.store("two").await;

    let mut walk = Walk::on_cluster("operate/disaster-recovery/multi-node");
    let image = "the disk of cp-2 is put back from an old image";
    walk.to_incident(&mut site, image).await;
    site.return_state("cp-2", &old).await;
    for down in ["cp-2", "cp-3", "cp-1"] {
        let others = format!("the others go on without {down}");
        walk.to_incident(&mut site, &others).await;
        site.assert_others_go_on_without(down).await;
    }
    walk.to_end(&mut site).await;
    site.assert_sound().await;
}
