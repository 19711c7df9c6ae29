//! The standby identity.

use openbao_lab::port::free_port;
use serde_json::{Value, json};
use testkit::{
    openbao::shared_openbao,
    relay::{Line, Relay},
    tenant::ROLE,
    wait::wait_until,
};

use super::{changed, revoke_tokens};
use crate::{
    node::{Node, TIMING},
    provider::{Provider, SOON, to_decrypt},
};

const IN_USE: &str = "auth_fallback_in_use";

/// A node with a token as its standby identity.
async fn with_token() -> Node {
    let mut node = Node::new(TIMING).await;
    let token = json!({
        "policies": [node.tenant.policy, "default"],
        "no_parent": true,
        "ttl": "1h",
    });
    let admin = shared_openbao().await.admin();
    let created = admin.write("auth/token/create", &token).await.unwrap();
    let created: Value = created.json().unwrap();
    let file = node.tenant.path().join("emergency.token");
    let token = created["auth"]["client_token"].as_str().unwrap();
    testkit::files::replace(&file, token.as_bytes(), 0o640);
    node.config["auth"]["fallback"] = json!("token");
    node.config["auth"]["token"] = json!({"file": file});
    node
}

async fn switches(provider: &Provider, to: f64) {
    wait_until(SOON, "the other identity", async || {
        provider.encrypt(b"seed").await.ok();
        provider.metric(IN_USE).await == to
    })
    .await;
}

#[tokio::test]
async fn an_expired_jwt_is_bridged_by_the_standby_until_there_is_a_new_one() {
    let mut node = with_token().await;
    // A command needs a known port for the provider's own view.
    let health = format!("127.0.0.1:{}", free_port().unwrap());
    node.config["server"]["healthAddress"] = json!(health);
    let provider = node.serve().await;
    assert_eq!(provider.metric(IN_USE).await, 0.0);
    let request = to_decrypt(&provider.encrypt(b"seed").await.unwrap());
    let good = node.tenant.claims();
    let past = json!(good["iat"].as_u64().unwrap() - 600);
    node.tenant.write_jwt(&changed(&good, "exp", past));
    revoke_tokens(&node).await;
    switches(&provider, 1.0).await;
    provider.decrypt(request.clone()).await.unwrap();
    assert_eq!(provider.health("/ready").await.1["login_fallback"], true);
    let started = provider.events("auth.fallback_started").next().unwrap();
    assert_eq!(started["cause"], "expired");
    let in_use = "the running provider uses the standby identity auth.fallback";
    let triage = node.run(&["triage"]);
    assert!(triage.out.contains(in_use), "{}", triage.out);
    let doctor = node.run(&["doctor"]);
    for part in [in_use, "openbao.fallback", "it expired 60"] {
        assert!(doctor.out.contains(part), "{part}: {}", doctor.out);
    }

    node.tenant.write_jwt(&node.tenant.claims());
    switches(&provider, 0.0).await;
    assert!(provider.events("auth.fallback_ended").next().is_some());
    assert!(provider.health("/ready").await.1["login_fallback"].is_null());
    provider.decrypt(request).await.unwrap();
}

#[tokio::test]
async fn a_refusal_by_openbao_is_bridged_and_an_outage_is_not() {
    let mut node = with_token().await;
    let server = shared_openbao().await;
    let relay = Relay::to(&server.endpoint()).await;
    node.config["openbao"]["address"] = json!(relay.address);
    relay.set(Line::Cut);
    let mut provider = node.spawn();
    wait_until(SOON, "failed logins", async || {
        provider.events("auth.login").count() >= 2
    })
    .await;
    assert_eq!(provider.events("auth.fallback_started").count(), 0);
    assert_eq!(provider.events("auth.fallback_failed").count(), 0);

    let role = format!("auth/{}/role/{ROLE}", node.tenant.jwt_mount);
    let admin = server.admin();
    let written: Value = admin.read(&role).await.unwrap().json().unwrap();
    admin.delete(&role).await.unwrap();
    relay.set(Line::Open);
    provider.ready().await;
    switches(&provider, 1.0).await;
    admin.write(&role, &written["data"]).await.unwrap();
    switches(&provider, 0.0).await;
}

#[tokio::test]
async fn a_start_needs_the_credential_of_one_login() {
    let mut node = with_token().await;
    let file = node.config["auth"]["token"]["file"].clone();
    for absent in ["/auth/token/file", "/auth/jwt/jwtFile"] {
        let present = node.config.pointer(absent).unwrap().clone();
        *node.config.pointer_mut(absent).unwrap() =
            json!(format!("{}.absent", file.as_str().unwrap()));
        let provider = node.serve().await;
        let in_use = if absent.contains("jwt") { 1.0 } else { 0.0 };
        assert_eq!(provider.metric(IN_USE).await, in_use, "{absent}");
        provider.encrypt(b"seed").await.unwrap();
        drop(provider.stop().await);
        *node.config.pointer_mut(absent).unwrap() = present;
    }

    for setting in ["/auth/token/file", "/auth/jwt/jwtFile"] {
        *node.config.pointer_mut(setting).unwrap() = json!("/absent/file");
    }
    let refused = node.refused().await;
    refused.assert_refused(3, &["auth.token.file", "auth.jwt.jwtFile"]);
}
