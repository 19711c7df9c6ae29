//! A token from a file.

use serde_json::{Value, json};
use testkit::{openbao::shared_openbao, wait::wait_until};

use super::method::Method;
use crate::provider::{SOON, to_decrypt};

/// A token of the node's policy, with these settings.
async fn create(method: &Method, settings: Value) -> String {
    let mut token = json!({
        "policies": [method.node.tenant.policy, "default"],
        "no_parent": true,
    });
    for (name, value) in settings.as_object().unwrap() {
        token[name] = value.clone();
    }
    let admin = shared_openbao().await.admin();
    let created = admin.write("auth/token/create", &token).await.unwrap();
    let created: Value = created.json().unwrap();
    created["auth"]["client_token"].as_str().unwrap().to_owned()
}

async fn end(token: &str) {
    let admin = shared_openbao().await.admin();
    let body = json!({"token": token});
    admin.write("auth/token/revoke", &body).await.unwrap();
}

#[tokio::test]
async fn a_token_is_renewed_to_its_end_and_a_new_one_needs_no_restart() {
    let method = Method::token().await;
    let first = create(&method, json!({"ttl": "6s", "explicit_max_ttl": "12s"})).await;
    method.put(&first);
    let provider = method.node.serve().await;
    wait_until(SOON, "the end of the token", async || {
        let left = provider.metric("credential_ttl_seconds").await;
        (1.0..=12.0).contains(&left)
    })
    .await;
    let request = to_decrypt(&provider.encrypt(b"seed").await.unwrap());
    let renewed = r#"auth_renewal_total{status="ok"}"#;
    wait_until(SOON, "a renewal", async || {
        provider.metric(renewed).await >= 1.0
    })
    .await;
    // Its end nears, and then comes.
    let near = r#"auth_login_total{status="token_near_expiry"}"#;
    wait_until(SOON, "the end", async || provider.metric(near).await >= 1.0).await;
    method.fails(&provider, "token_rejected").await;

    let second = create(&method, json!({"ttl": "6s", "period": "6s"})).await;
    method.put(&second);
    method.recovers(&provider).await;
    provider.decrypt(request.clone()).await.unwrap();

    // A new token is taken when the present one nears its end, though that could be renewed.
    let third = create(&method, json!({"type": "batch", "ttl": "1h"})).await;
    method.put(&third);
    wait_until(SOON, "the life of the third token", async || {
        provider.metric("token_ttl_seconds").await > 60.0
    })
    .await;
    end(&second).await;
    provider.decrypt(request).await.unwrap();
    method
        .assert_silent(provider, &[&first, &second, &third])
        .await;
}

#[tokio::test]
async fn tokens_that_must_not_or_cannot_serve_are_refused_with_the_reason() {
    let method = Method::token().await;
    let good = json!({"ttl": "1h"});
    let alone = json!({"ttl": "1h", "no_default_policy": true,
        "policies": [method.node.tenant.policy]});
    for (token, said) in [
        (json!({"ttl": "1h", "num_uses": 50}), "ends after"),
        (json!({"policies": ["root"]}), "it is a root token"),
        (json!({"ttl": "2s", "renewable": false}), "token ends in"),
        (alone, "deny auth/token/lookup-self"),
        (
            json!("s.unknownunknownunknownunkn"),
            "OpenBao rejects the token",
        ),
        (json!("two words"), "the file holds no token"),
        (json!("two\nlines"), "one line"),
    ] {
        let token = match token {
            Value::String(text) => text,
            // Just before its use, since one ends soon.
            properties => create(&method, properties).await,
        };
        method.put(&token);
        let refused = method.node.refused().await;
        refused.assert_refused(5, &[said]);
        assert!(!refused.err.contains(&token), "{}", refused.err);
    }
    method.put(&create(&method, good).await);
    drop(method.node.serve().await);
}
