//! The JWT and the token: what a start says about a JWT that cannot work, and how a running
//! provider gets over a token that OpenBao has revoked.

mod approle;
mod cert;
mod fallback;
#[cfg(feature = "issuer-tests")]
mod issuer;
mod method;
#[cfg(feature = "issuer-tests")]
mod oauth_issuer;
mod pages;
mod pkcs11;
#[cfg(feature = "issuer-tests")]
mod spire;
mod storm;
mod token;
mod userpass;

use std::{
    fs,
    os::unix::fs::symlink,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use kms_node::kms_api::generated::EncryptRequest;
use openbao_lab::admin::login::JwtRole;
use serde_json::{Value, json};
use testkit::{
    files,
    openbao::shared_openbao,
    relay::{Line, Relay},
    tenant::{AUDIENCE, ISSUER, ROLE, SUBJECT},
    wait::wait_until,
};
use tonic::Code;

use crate::{
    node::{IMPATIENT, Node, QUIET, TIMING},
    provider::{Provider, SOON, assert_decrypt_refused, to_decrypt},
};

/// Ends every token of the node, as an administrator or an expired parent does.
pub(crate) async fn revoke_tokens(node: &Node) {
    let path = format!("sys/leases/revoke-prefix/auth/{}", node.tenant.jwt_mount);
    let admin = shared_openbao().await.admin();
    admin.write(&path, &json!({"sync": true})).await.unwrap();
}

fn changed(claims: &Value, name: &str, value: Value) -> Value {
    let mut claims = claims.clone();
    claims[name] = value;
    claims
}

#[tokio::test]
async fn a_jwt_that_cannot_work_is_said_to_be_so_and_never_sent() {
    let node = Node::new(IMPATIENT).await;
    let good = node.tenant.claims();
    let now = good["iat"].as_u64().unwrap();
    for (name, value, said) in [
        ("aud", json!(["other"]), "auth.jwt.expectedAudience"),
        (
            "iss",
            json!("https://other.test"),
            "auth.jwt.expectedIssuer",
        ),
        ("sub", json!("node-2"), "auth.jwt.expectedSubject"),
        ("exp", json!(now - 600), "it expired 60"),
        ("exp", json!(now + 20), "it expires in"),
        ("nbf", json!(now + 600), "it is not valid yet"),
    ] {
        node.tenant.write_jwt(&changed(&good, name, value));
        let refused = node.refused().await;
        refused.assert_refused(5, &[said, "login failed", "no data was changed"]);
        assert!(!refused.err.contains("jwt_login"), "{}", refused.err);
    }
    assert!(!node.state_file().exists());
}

#[tokio::test]
async fn a_jwt_that_openbao_refuses_ends_the_start() {
    let mut node = Node::new(IMPATIENT).await;
    let admin = shared_openbao().await.admin();
    let role = format!("auth/{}/role/{ROLE}", node.tenant.jwt_mount);
    let role_of = |name: &str, value: Value| {
        let role = json!({
            "role_type": "jwt",
            "user_claim": "sub",
            "bound_audiences": [AUDIENCE],
            "bound_subject": SUBJECT,
            "token_policies": [node.tenant.policy],
            "token_ttl": "30m",
        });
        changed(&role, name, value)
    };
    for (name, value, said) in [
        ("bound_audiences", json!(["other"]), "login failed"),
        ("bound_subject", json!("other"), "login failed"),
        ("token_ttl", json!("30s"), "auth.loginBeforeTokenExpiry"),
    ] {
        admin.write(&role, &role_of(name, value)).await.unwrap();
        node.refused().await.assert_refused(5, &[said]);
    }
    node.config["auth"]["jwt"]["role"] = json!("no-such-role");
    node.refused().await.assert_refused(5, &["login failed"]);

    let stranger = Node::new(IMPATIENT).await;
    fs::copy(stranger.tenant.jwt_file(), node.tenant.jwt_file()).unwrap();
    node.config["auth"]["jwt"]["role"] = json!(ROLE);
    admin
        .write(&role, &role_of("token_ttl", json!("30m")))
        .await
        .unwrap();
    let refused = node.refused().await;
    refused.assert_refused(5, &["login failed"]);
    assert!(!refused.err.contains(ISSUER), "a claim was printed");
}

#[tokio::test]
async fn an_unsafe_or_missing_jwt_file_is_a_configuration_error() {
    let node = Node::new(IMPATIENT).await;
    let file = node.tenant.jwt_file();
    let jwt = fs::read(&file).unwrap();
    files::replace(&file, &jwt, 0o644);
    let refused = node.refused().await;
    refused.assert_refused(3, &["auth.jwt.jwtFile", "chmod 0640", "node.jwt"]);

    fs::remove_file(&file).unwrap();
    let refused = node.refused().await;
    refused.assert_refused(3, &["auth.jwt.jwtFile", "node.jwt"]);

    symlink(node.tenant.ca_file(), &file).unwrap();
    let refused = node.refused().await;
    refused.assert_refused(3, &["auth.jwt.jwtFile", "symbolic link"]);
}

#[tokio::test]
async fn a_revoked_token_is_replaced_by_one_login_within_the_call() {
    let node = Node::new(QUIET).await;
    let provider = node.serve().await;
    let encrypted = provider.encrypt(b"seed").await.unwrap();
    revoke_tokens(&node).await;

    for call in provider.decrypt_at_once(8, &to_decrypt(&encrypted)) {
        assert_eq!(call.await.unwrap().unwrap(), &b"seed"[..]);
    }
    let logins = provider.metric(r#"auth_login_total{status="ok"}"#).await;
    assert_eq!(logins, 2.0, "the start's and one more");
    let denied = r#"openbao_requests_total{operation="transit_decrypt",status="unauthenticated"}"#;
    assert!(provider.metric(denied).await >= 1.0);
    assert_eq!(provider.status().await.healthz, "ok");
}

#[tokio::test]
async fn tokens_revoked_under_load_fail_no_call() {
    let node = Node::new(QUIET).await;
    let provider = node.serve().await;
    let request = to_decrypt(&provider.encrypt(b"seed").await.unwrap());
    let stop = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..32)
        .map(|_| {
            let (mut client, request) = (provider.client(), request.clone());
            let stop = Arc::clone(&stop);
            tokio::spawn(async move {
                let mut calls = 0;
                while !stop.load(Ordering::Relaxed) {
                    client.decrypt(request.clone()).await.unwrap();
                    let seed = EncryptRequest {
                        plaintext: "seed".into(),
                        uid: "test".to_owned(),
                    };
                    client.encrypt(seed).await.unwrap();
                    calls += 2;
                }
                calls
            })
        })
        .collect();
    let login = r#"auth_login_total{status="ok"}"#;
    for logins in [2.0, 3.0, 4.0] {
        revoke_tokens(&node).await;
        wait_until(SOON, "a login", async || {
            provider.metric(login).await == logins
        })
        .await;
    }
    let calls = r#"grpc_requests_total{method="encrypt",status="ok"}"#;
    let before = provider.metric(calls).await;
    wait_until(SOON, "calls with the last token", async || {
        provider.metric(calls).await > before + 100.0
    })
    .await;
    stop.store(true, Ordering::Relaxed);
    for caller in callers {
        assert!(caller.await.unwrap() > 0);
    }
    assert_eq!(provider.metric(login).await, 4.0, "a login too many");
}

/// A denial says nothing against the token, and no login can bring another.
#[tokio::test]
async fn a_policy_that_denies_probes_while_the_jwt_is_expired_stops_no_decrypt() {
    let node = Node::new(TIMING).await;
    let provider = node.serve().await;
    let encrypted = provider.encrypt(b"seed").await.unwrap();
    let good = node.tenant.claims();
    let now = good["iat"].as_u64().unwrap();
    node.tenant
        .write_jwt(&changed(&good, "exp", json!(now - 600)));
    node.grant(|policy| policy.replace("/config/keys\"", "/config/other\""))
        .await;
    let expired = r#"auth_login_total{status="jwt_expired"}"#;
    wait_until(SOON, "a denied probe and a login", async || {
        provider.metric(expired).await >= 1.0
    })
    .await;
    for _ in 0..50 {
        provider.decrypt(to_decrypt(&encrypted)).await.unwrap();
    }
    assert_eq!(provider.status().await.healthz, "unhealthy");
    let failed = provider.events("auth.login").last().unwrap();
    assert_eq!(failed["detail"], "expired");

    // Once the token is dead as well, the message names the JWT and not OpenBao.
    revoke_tokens(&node).await;
    let refused = provider.decrypt(to_decrypt(&encrypted)).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    let said = "this node's JWT is expired or not valid yet by this node's clock; no data is lost";
    assert_decrypt_refused(&refused, "transit authentication failed", said);
    fs::remove_file(node.tenant.jwt_file()).unwrap();
    wait_until(SOON, "the missing file", async || {
        let failed = provider.events("auth.login").last().unwrap();
        failed["detail"] == "file_missing"
    })
    .await;
    let refused = provider.decrypt(to_decrypt(&encrypted)).await.unwrap_err();
    let said = "this node's JWT file cannot be read; no data is lost";
    assert_decrypt_refused(&refused, "transit authentication failed", said);

    node.tenant.write_jwt(&good);
    node.grant(|policy| policy).await;
    provider.wait_for_reasons(&[]).await;
    provider.decrypt(to_decrypt(&encrypted)).await.unwrap();
}

#[tokio::test]
async fn a_long_outage_delays_the_next_login_no_more_than_a_short_one() {
    let mut node = Node::new(TIMING).await;
    let relay = Relay::to(&shared_openbao().await.endpoint()).await;
    relay.set(Line::Cut);
    node.config["openbao"]["address"] = json!(relay.address);
    let mut provider = node.spawn();
    let failed = |provider: &Provider| provider.events("auth.login").count();
    wait_until(SOON, "six failed logins", async || failed(&provider) >= 6).await;
    let outage = Instant::now();
    relay.set(Line::Open);
    provider.ready().await;
    // A pause that doubles would be 32 s by now.
    assert!(outage.elapsed() < Duration::from_secs(16));
    let last = provider.events("auth.login").last().unwrap();
    assert_eq!(last["status"], "ok");
}

#[tokio::test]
async fn a_renewed_jwt_is_read_at_the_next_login() {
    let mut node = Node::new(TIMING).await;
    let jwt = node.config["auth"]["jwt"].as_object_mut().unwrap();
    jwt.remove("expectedSubject");
    let provider = node.serve().await;
    let encrypted = provider.encrypt(b"seed").await.unwrap();

    let server = shared_openbao().await;
    let role = JwtRole {
        audience: AUDIENCE,
        subject: "renewed",
        policy: &node.tenant.policy,
    };
    let (mount, admin) = (&node.tenant.jwt_mount, server.admin());
    admin.write_jwt_role(mount, ROLE, role).await.unwrap();
    revoke_tokens(&node).await;
    wait_until(SOON, "a refused login", async || {
        provider.status().await.healthz == "unhealthy"
    })
    .await;
    let refused = provider.decrypt(to_decrypt(&encrypted)).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    assert_decrypt_refused(&refused, "transit authentication failed", "no data is lost");

    node.tenant
        .write_jwt(&changed(&node.tenant.claims(), "sub", json!("renewed")));
    wait_until(SOON, "a login with the new file", async || {
        provider.decrypt(to_decrypt(&encrypted)).await.is_ok()
    })
    .await;
}
