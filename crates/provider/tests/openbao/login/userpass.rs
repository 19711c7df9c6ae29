//! Login with a password.

use serde_json::{Value, json};

use super::method::Method;

#[tokio::test]
async fn a_password_buys_tokens_and_a_changed_one_needs_no_restart() {
    let first = "MARKER-password-0123456789";
    let second = "MARKER password with spaces-9876543210";
    let mut method = Method::userpass(first).await;
    let provider = method.lives().await;

    method.set_password(second).await;
    method.revoke().await;
    method.fails(&provider, "credential").await;
    method.put(second);
    method.recovers(&provider).await;
    method.assert_silent(provider, &[first, second]).await;
}

/// OpenBao answers as without the login method. Logins of this method have the name in their path.
#[tokio::test]
async fn a_user_whose_address_is_excluded_has_a_login_method() {
    let method = Method::userpass("MARKER-password-0123456789").await;
    let bound = json!({"token_bound_cidrs": ["10.9.9.0/24"]});
    method.write("users/node-1", &bound).await;
    let triage = method.node.run(&["triage", "--output", "json"]);
    let triage: Value = serde_json::from_str(&triage.out).unwrap();
    assert_eq!(triage["verdict"], "login_address_excluded", "{triage:#}");
}
