//! Faults on the way to OpenBao: unreachable is not lost.

use std::fs;

use openbao_lab::port::free_port;
use serde_json::{Value, json};
use testkit::{
    fake::{FakeOpenBao, Handshake, Reply, SERVER_NAME},
    files,
    openbao::{OpenBao, shared_openbao},
    tenant::{AUDIENCE, ROLE, SUBJECT},
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
    let ca = fs::read(server.ca_file()).unwrap();
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
    let _server = standby_without_leader(server).await;
    triage(&node, &[], "openbao_no_leader")
        .means("none_lost", 4, "openbao.leader")
        .found("knows no active server")
        .next("a majority");
}

async fn standby_without_leader(server: OpenBao) -> OpenBao {
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
    server
}

/// As a server that is separated from the other members of its cluster.
#[tokio::test]
async fn a_server_without_a_leader_is_no_incident_while_another_one_serves() {
    let standby = standby_without_leader(OpenBao::start().await).await;
    let mut node = Node::new(TIMING).await;
    let own = fs::read_to_string(node.tenant.ca_file()).unwrap();
    let both = own + &fs::read_to_string(standby.ca_file()).unwrap();
    files::replace(&node.tenant.ca_file(), both.as_bytes(), 0o644);
    let serves = node.config["openbao"]["address"].clone();
    node.config["openbao"]["address"] = json!(standby.endpoint().address.to_string());
    node.config["openbao"]["failoverAddresses"] = json!([{"address": serves}]);
    let provider = node.serve().await;

    let said = triage(&node, &[], "healthy");
    let passed_over = "does not serve: it knows no active server";
    assert!(said.text.contains(passed_over), "{}", said.text);
    // Other commands log in at the server that serves.
    let verified = node.run(&["verify-key"]);
    assert_eq!(verified.code, Some(0), "{}", verified.out);
    drop(provider);
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

/// The certificates are those of the server, and are named whatever is wrong with them.
#[tokio::test]
async fn each_fault_of_a_certificate_is_named_with_the_presented_chain() {
    let mut node = Node::new(QUIET).await;
    let config = node.config.clone();
    let ca = node.tenant.ca_file();
    let good = fs::read(&ca).unwrap();
    for (handshake, verdict, words) in [
        (
            Handshake::SelfSignedCa,
            "ca_as_server_certificate",
            "presents a CA certificate as its own",
        ),
        (
            Handshake::ForClients,
            "certificate_not_for_servers",
            "lacks serverAuth",
        ),
        (
            Handshake::ClientCertificate,
            "client_certificate_required",
            "requires a client certificate",
        ),
        (Handshake::Expired, "openbao_untrusted", "has expired"),
    ] {
        let fake = Scripted::start_with(handshake, Vec::new()).await;
        files::replace(&ca, fake.ca_pem.as_bytes(), 0o644);
        node.config["openbao"]["address"] = json!(fake.address);
        node.config["openbao"]["tlsServerName"] = json!(SERVER_NAME);
        let said = triage(&node, &[], verdict);
        said.means("none_lost", 4, "openbao.reachable")
            .found(words)
            .found("; certificate 1 presented: subject \"CN=")
            .found(", valid ")
            .found(", SHA-256 ");
        let doctor = node.run(&["doctor", "--output", "json"]);
        let doctor: Value = serde_json::from_str(&doctor.out).unwrap();
        assert_eq!(doctor["cause"], verdict);
    }
    // Both certificates are used, although a PEM reader drops the second one.
    let other = FakeOpenBao::start([]).await;
    let glued = [other.ca_pem().trim_end().as_bytes(), &good].concat();
    files::replace(&ca, &glued, 0o644);
    node.config = config;
    let said = triage(&node, &[], "not_running");
    assert_eq!(said.status("openbao.tls"), "warn");
    assert!(said.text.contains("on one line"), "{}", said.text);
}

/// Each with its cause, and `doctor` names the same one.
#[tokio::test]
async fn each_refusal_of_a_login_has_its_cause() {
    let mut node = Node::new(QUIET).await;
    let admin = shared_openbao().await.admin();
    let mount = node.tenant.jwt_mount.clone();
    let path = format!("auth/{mount}/role/{ROLE}");
    let policy = node.tenant.policy.clone();
    let refused = |node: &Node, verdict: &str, words: &str, step: &str| {
        let said = triage(node, &[], verdict);
        said.means("none_lost", 4, "openbao.auth")
            .found(words)
            .next(step)
            .warns_first("root token");
        let doctor = node.run(&["doctor", "--output", "json"]);
        let doctor: Value = serde_json::from_str(&doctor.out).unwrap();
        assert_eq!(doctor["cause"], verdict, "{doctor:#}");
    };
    let role = |change: Value| {
        let mut role = json!({
            "role_type": "jwt", "user_claim": "sub", "bound_audiences": [AUDIENCE],
            "bound_subject": SUBJECT, "bound_claims": {}, "token_bound_cidrs": [],
            "token_policies": [policy], "token_no_default_policy": true,
            "token_ttl": "30m", "token_max_ttl": "1h", "token_num_uses": 0,
        });
        let own = role.as_object_mut().unwrap();
        own.extend(change.as_object().unwrap().clone());
        role
    };
    for (change, verdict, words, step) in [
        (
            json!({"bound_audiences": ["other"]}),
            "login_audience",
            "the audience of the JWT is not among bound_audiences",
            "bound_audiences=AUDIENCE",
        ),
        (
            json!({"bound_subject": "other"}),
            "login_subject",
            "the subject of the JWT is not bound_subject",
            "bound_subject=SUBJECT",
        ),
        (
            json!({"bound_claims": {"group": "nodes"}}),
            "login_claims",
            "differs from bound_claims",
            "correct bound_claims",
        ),
        (
            json!({"user_claim": "nobody"}),
            "login_role_unsuitable",
            "needs a claim that the JWT lacks",
            "user_claim",
        ),
        (
            json!({"token_bound_cidrs": ["10.9.9.0/24"]}),
            "login_address_excluded",
            "the role excludes the address of this node",
            "token_bound_cidrs=CIDR",
        ),
    ] {
        admin.write(&path, &role(change)).await.unwrap();
        refused(&node, verdict, words, step);
    }

    admin.delete(&path).await.unwrap();
    let list = format!(
        "bao list -address={}",
        node.config["openbao"]["address"].as_str().unwrap()
    );
    refused(&node, "login_role_missing", "has no such role", &list);
    admin.write(&path, &role(json!({}))).await.unwrap();

    let config = format!("auth/{mount}/config");
    let issuer = json!({
        "bound_issuer": "https://other.test",
        "jwt_validation_pubkeys": [node.tenant.public_key_pem()],
    });
    admin.write(&config, &issuer).await.unwrap();
    refused(&node, "login_issuer", "is not bound_issuer", "bound_issuer");

    node.config["auth"]["jwt"]["mountPath"] = json!("auth/nothing");
    let words = "no login method is mounted";
    refused(&node, "login_mount_missing", words, "bao auth list");
    node.config["openbao"]["namespace"] = json!("team-a");
    let words = "the namespace does not exist";
    refused(
        &node,
        "login_namespace_missing",
        words,
        "bao namespace list",
    );
}

/// The node is in one namespace, and the login method in another.
#[tokio::test]
async fn a_login_method_in_the_root_namespace_is_found() {
    let mut node = Node::new(QUIET).await;
    let admin = shared_openbao().await.admin();
    let namespace = format!("team-{}", node.tenant.jwt_mount);
    let path = format!("sys/namespaces/{namespace}");
    admin.write(&path, &json!({})).await.unwrap();
    node.config["openbao"]["namespace"] = json!(namespace);
    triage(&node, &[], "login_mount_elsewhere")
        .means("none_lost", 4, "openbao.auth")
        .next("bao auth list");
    admin.delete(&path).await.unwrap();
}

/// A warning while it works.
#[tokio::test]
async fn limits_of_the_role_are_told_before_they_stop_the_node() {
    let node = Node::new(QUIET).await;
    let admin = shared_openbao().await.admin();
    let role = json!({
        "role_type": "jwt", "user_claim": "sub", "bound_audiences": [AUDIENCE],
        "token_policies": [node.tenant.policy], "token_ttl": "30m", "token_max_ttl": "1h",
        "token_no_default_policy": false, "token_num_uses": 40, "token_bound_cidrs": ["127.0.0.0/8", "::1/128"],
    });
    let path = format!("auth/{}/role/{ROLE}", node.tenant.jwt_mount);
    admin.write(&path, &role).await.unwrap();
    let doctor = node.run(&["doctor"]);
    assert_eq!(doctor.code, Some(0), "{}", doctor.out);
    for words in [
        "[warn] openbao.auth: Login to OpenBao - each token is good for 40 requests",
        "[warn] openbao.auth: Login to OpenBao - tokens are bound to 127.0.0.0/8",
        "token_num_uses=0",
    ] {
        assert!(doctor.out.contains(words), "{words}: {}", doctor.out);
    }
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

/// What works is measured: a changed policy applies to the token in use, a lost JWT does not.
#[tokio::test]
async fn the_calls_that_still_work_are_measured_through_the_socket() {
    let mut node = Node::new(QUIET).await;
    let address = format!("127.0.0.1:{}", free_port().unwrap());
    node.config["server"]["healthAddress"] = json!(address);
    let _provider = node.serve().await;
    fs::remove_file(node.tenant.jwt_file()).unwrap();
    let said = triage(&node, &[], "jwt_unusable");
    let service = &said.json["service"];
    for call in ["status", "encrypt", "decrypt"] {
        assert_eq!(service[call], "works", "{}", said.text);
    }
    // Text and JSON come from two runs, which may name two adjacent seconds.
    let expires = service["tokenExpires"].as_str().unwrap();
    assert!(expires.ends_with('Z'), "{expires}");
    assert!(said.text.contains("expires at 20"), "{}", said.text);
    node.tenant.write_jwt(&node.tenant.claims());

    for (call, works) in [("decrypt", "encrypt"), ("encrypt", "status")] {
        let path = format!("/{call}/etcd\"");
        node.grant(|policy| policy.replace(&path, "/nothing\""))
            .await;
        let said = triage(&node, &[], "policy_insufficient");
        let service = &said.json["service"];
        assert_eq!(service[works], "works", "{}", said.text);
        let failure = service[call].as_str().unwrap();
        assert!(failure.contains("PermissionDenied"), "{failure}");
        assert!(
            !said.text.contains("until its token expires"),
            "{}",
            said.text
        );
    }
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
