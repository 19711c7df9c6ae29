//! Login with a password.

use super::method::Method;

#[tokio::test]
async fn a_password_buys_tokens_and_a_changed_one_needs_no_restart() {
    let first = "MARKER-password-0123456789";
    let second = "MARKER password with spaces-9876543210";
    let method = Method::userpass(first).await;
    let provider = method.lives().await;

    method.set_password(second).await;
    method.revoke().await;
    method.fails(&provider, "credential").await;
    method.put(second);
    method.recovers(&provider).await;
    method.assert_silent(provider, &[first, second]).await;
}
