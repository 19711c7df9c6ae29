//! The pages of the runbook that have steps for several members, carried out on three nodes and
//! three servers of OpenBao with the API servers in service.

mod long;
mod site;

use testkit::runbook::Walk;

use site::Site;

#[tokio::test]
async fn openbao_sealed_on_all_servers_is_unsealed_until_an_api_server_starts() {
    let mut site = Site::new().await;
    site.store("one").await;
    site.store("two").await;

    let mut walk = Walk::on_cluster("operate/disaster-recovery/api-server-cannot-start");
    let incident = "OpenBao is sealed, the provider is stopped, and the API server starts";
    walk.to_incident(&mut site, incident).await;
    let (share, _) = site.kept_secrets();
    for _ in 0..3 {
        site.will_type("bao operator unseal", &share);
    }
    site.start_node_without_openbao().await;
    walk.to_end(&mut site).await;
    site.assert_sound().await;
}
