//! Faults on the way to OpenBao: unreachable is not lost.

use openbao_lab::admin::login::JwtRole;
use serde_json::{Value, json};
use testkit::{
    fake::{FakeOpenBao, Reply, SERVER_NAME},
    files,
    openbao::{OpenBao, shared_openbao},
    tenant::{ROLE, SUBJECT},
    wait::wait_until,
};

use super::case::triage;
use crate::{
    doctor::openbao::Scripted,
    node::{Node, QUIET, TIMING},
    provider::SOON,
};

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
    assert!(said.text.contains("\nOpenBao is sealed\n"));
    assert!(
        said.text
            .contains("no data is lost: the key is in OpenBao's storage")
    );
    // What has passed is listed in brief, what comes after is not said to be anything.
    let passed = "[pass] process.identity, config.identity, provider.process, provider.socket, ";
    assert!(said.text.contains(passed), "{}", said.text);
    assert!(said.text.contains("[skip] openbao.leader, openbao.clock, "));
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
async fn an_openbao_that_hangs_is_unreachable_after_its_timeout() {
    let server = OpenBao::start().await;
    let mut node = Node::on(&server, QUIET).await;
    node.config["openbao"]["timeout"] = json!("1s");
    let hung = server.hang();
    triage(&node, &[], "openbao_unreachable")
        .means("none_lost", 4, "openbao.reachable")
        .found("no answer in time");
    drop(hung);
    triage(&node, &[], "not_running");
}

#[tokio::test]
async fn an_openbao_without_storage_is_never_initialized() {
    let server = OpenBao::start_uninitialized().await;
    let mut node = Node::new(QUIET).await;
    node.config["openbao"]["address"] = json!(server.endpoint().address.to_string());
    let ca = std::fs::read(server.ca_file()).unwrap();
    files::replace(&node.tenant.ca_file(), &ca, 0o644);
    triage(&node, &[], "openbao_uninitialized")
        .means("at_risk", 4, "openbao.reachable")
        .next("restore its storage from a backup")
        .warns_first("bao operator init");
}

#[tokio::test]
async fn a_standby_without_an_active_server_waits_for_a_majority() {
    let server = OpenBao::start().await;
    let node = Node::on(&server, QUIET).await;
    let server = server.stop().await.start_without_majority().await;
    let admin = server.admin();
    wait_until(SOON, "an unsealed standby", async || {
        let Ok(answer) = admin.read("sys/leader").await else {
            return false;
        };
        let leader: Value = answer.json().unwrap();
        leader["is_self"] == false
    })
    .await;
    triage(&node, &[], "openbao_no_leader")
        .means("none_lost", 4, "openbao.leader")
        .found("knows no active server")
        .next("a majority");
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
        .next(&format!("compare {} with the CA bundle", ca.display()))
        .warns_first("trust the CA of an unknown server");
}

#[tokio::test]
async fn a_role_that_refuses_the_jwt_is_corrected_and_nobody_gets_a_root_token() {
    let mut node = Node::new(QUIET).await;
    let tenant = &node.tenant;
    let role = JwtRole {
        audience: "other",
        subject: SUBJECT,
        policy: &tenant.policy,
    };
    let admin = shared_openbao().await.admin();
    let mount = &tenant.jwt_mount;
    admin.write_jwt_role(mount, ROLE, role).await.unwrap();
    triage(&node, &[], "login_refused")
        .means("none_lost", 4, "openbao.auth")
        .next("bound_audiences")
        .warns_first("root token");
    node.config["auth"]["jwt"]["mountPath"] = json!("auth/nothing");
    node.config["openbao"]["namespace"] = json!("team-a");
    triage(&node, &[], "login_refused")
        .means("none_lost", 4, "openbao.auth")
        .next(" -namespace=team-a auth/nothing/role/");
}

#[tokio::test]
async fn a_policy_that_lacks_something_is_written_anew() {
    let node = Node::new(QUIET).await;
    for path in ["/keys/etcd", "/encrypt/etcd", "/decrypt/etcd"] {
        let without = |policy: String| policy.replace(&format!("{path}\""), "/nothing\"");
        node.grant(without).await;
        triage(&node, &[], "policy_insufficient")
            .means("none_lost", 4, "transit.capabilities")
            .found(path)
            .next("policy openbao --config")
            .warns_first("wider policy");
    }
    let without = |policy: String| policy.replace("/config/keys\"", "/nothing\"");
    node.grant(without).await;
    triage(&node, &[], "policy_insufficient").means("none_lost", 4, "transit.disable_upsert");
    // What is too much is told, and is not what is broken.
    let mount = &node.tenant.transit_mount;
    let more = format!("path \"{mount}/keys/etcd/rotate\" {{ capabilities = [\"update\"] }}\n");
    node.grant(|policy| policy + &more).await;
    let said = triage(&node, &[], "not_running");
    assert_eq!(said.status("transit.capabilities"), "warn");
}

/// Real servers on this machine share its clock, so this one only claims another time. A clock matters
/// where it is in the way of a login.
#[tokio::test]
async fn a_clock_that_is_wrong_is_named_when_the_login_fails() {
    let unsealed = json!({"initialized": true, "sealed": false}).to_string();
    let far = "Fri, 01 Jan 2038 00:00:00 GMT".to_owned();
    let alone = json!({"ha_enabled": false, "is_self": false}).to_string();
    let run = [
        Reply::Dated(unsealed, far),
        Reply::ok(alone),
        Reply::Json(400, json!({"errors": ["refused"]}).to_string()),
    ];
    let twice = run.iter().cloned().chain(run.iter().cloned());
    let fake = Scripted::start(twice.collect()).await;
    let mut node = Node::new(QUIET).await;
    files::replace(&node.tenant.ca_file(), fake.ca_pem.as_bytes(), 0o644);
    node.config["openbao"]["address"] = json!(fake.address);
    node.config["openbao"]["tlsServerName"] = json!(SERVER_NAME);
    triage(&node, &[], "clock_wrong")
        .means("none_lost", 4, "openbao.clock")
        .found("s ahead of this node's")
        .next("NTP");
}

/// The provider serves through another address, so nothing is said to be out of reach.
#[tokio::test]
async fn an_address_that_does_not_serve_is_no_incident_while_another_one_does() {
    let mut node = Node::new(TIMING).await;
    let serves = node.config["openbao"]["address"].clone();
    node.config["openbao"]["address"] = json!("https://127.0.0.1:1");
    node.config["openbao"]["failoverAddresses"] = json!([{"address": serves}]);
    let provider = node.serve().await;
    let said = triage(&node, &[], "healthy");
    let passed_over = "https://127.0.0.1:1 does not serve: ";
    assert!(said.text.contains(passed_over), "{}", said.text);
    let doctor = node.run(&["doctor"]);
    assert_eq!(doctor.code, Some(0), "{}", doctor.out);
    assert!(doctor.out.contains(passed_over), "{}", doctor.out);
    drop(provider);
}
