//! Faults on the way to OpenBao: unreachable is not lost.

use testkit::{fake::FakeOpenBao, files, openbao::OpenBao};

use super::case::triage;
use crate::node::{Node, QUIET};

#[tokio::test]
async fn an_openbao_that_is_sealed_or_stopped_has_lost_nothing() {
    let mut server = OpenBao::start().await;
    let node = Node::on(&server, QUIET).await;
    let _provider = node.serve().await;
    server.seal().await;
    let ca = node.tenant.ca_file();
    let address = server.endpoint().address.to_string();
    let reached = format!("-address={address} -ca-cert={}", ca.display());
    let said = triage(&node, &[], "openbao_sealed");
    said.means("none_lost", 4, "openbao.reachable")
        .found("is sealed")
        .next(&format!("bao operator unseal {reached}"))
        .warns_first("delete or overwrite the encrypted data in etcd");
    assert!(said.text.contains("unreachable is not lost"));
    // The provider itself is well so far.
    assert_eq!(said.status("provider.process"), "pass");
    server.unseal().await;
    let stopped = server.stop().await;
    triage(&node, &[], "openbao_unreachable")
        .means("none_lost", 4, "openbao.reachable")
        .found("refused")
        .next(&format!("bao status {reached}"));
    let server = stopped.start().await;
    triage(&node, &[], "healthy");
    drop(server);
}

#[tokio::test]
async fn a_server_that_the_configured_ca_does_not_vouch_for() {
    let node = Node::new(QUIET).await;
    let other = FakeOpenBao::start([]).await;
    let ca = node.tenant.ca_file();
    files::replace(&ca, other.ca_pem().as_bytes(), 0o644);
    triage(&node, &[], "openbao_untrusted")
        .means("none_lost", 4, "openbao.reachable")
        .found("not signed by the configured CA")
        .next(&format!("another node: {}", ca.display()))
        .warns_first("take over the CA");
}
