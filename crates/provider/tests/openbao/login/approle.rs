//! Login with a secret ID, plain and wrapped.

use std::{fs, process::Command};

use serde_json::json;
use testkit::{
    openbao::{binary, shared_openbao},
    wait::wait_until,
};

use super::method::Method;
use crate::provider::SOON;

#[tokio::test]
async fn a_secret_id_buys_tokens_until_it_is_destroyed_and_a_new_one_needs_no_restart() {
    let mut method = Method::approle(false).await;
    let first = method.secret_id().await;
    method.put(&first);
    let provider = method.lives().await;

    let destroyed = json!({"secret_id": first});
    method.write("role/kms/secret-id/destroy", &destroyed).await;
    method.revoke().await;
    method.fails(&provider, "credential").await;
    let second = method.secret_id().await;
    method.put(&second);
    method.recovers(&provider).await;

    fs::remove_file(&method.file).unwrap();
    method.revoke().await;
    method.fails(&provider, "file_missing").await;
    let third = method.secret_id().await;
    method.put(&third);
    method.recovers(&provider).await;
    method
        .assert_silent(provider, &[&first, &second, &third])
        .await;
}

/// A wrapping token for the answer to `bao` with these arguments, below the mount.
async fn wrapped(method: &Method, verb: &[&str], path: &str) -> String {
    let server = shared_openbao().await;
    let bao = Command::new(binary().path())
        .args(verb)
        .args(["-wrap-ttl=5m", "-field=wrapping_token"])
        .arg(format!("auth/{}/{path}", method.mount))
        .env_clear()
        .env("BAO_ADDR", server.endpoint().address.to_string())
        .env("BAO_CACERT", server.ca_file())
        .env("BAO_TOKEN", server.secrets().root_token.expose())
        .output()
        .unwrap();
    assert!(bao.status.success(), "{bao:?}");
    String::from_utf8(bao.stdout).unwrap().trim().to_owned()
}

async fn wrapped_secret_id(method: &Method) -> String {
    wrapped(method, &["write", "-f"], "role/kms/secret-id").await
}

#[tokio::test]
async fn a_wrapped_secret_id_is_unwrapped_once_and_a_used_one_is_reported() {
    let mut method = Method::approle(true).await;
    let token = wrapped_secret_id(&method).await;
    method.put(&token);
    let provider = method.lives().await;
    // A command leaves the wrapping token alone, and says so.
    let doctor = method.node.run(&["doctor", "--output", "json"]);
    assert!(doctor.out.contains("secret_id_reserved"), "{}", doctor.out);
    method.revoke().await;
    method.recovers(&provider).await;
    method.assert_silent(provider, &[]).await;

    let refused = method.node.refused().await;
    let path = format!("auth/{}/role/ROLE/secret-id", method.mount);
    refused.assert_refused(5, &["was unwrapped before", "-wrap-ttl=15m", &path]);

    // Another path than that of secret IDs: nothing is unwrapped.
    let substituted = wrapped(&method, &["read"], "role/kms/role-id").await;
    method.put(&substituted);
    let refused = method.node.refused().await;
    refused.assert_refused(5, &["was not created by the secret-id path"]);

    method.put(&method.secret_id().await);
    let refused = method.node.refused().await;
    refused.assert_refused(5, &["holds no wrapping token"]);

    method.put(&wrapped_secret_id(&method).await);
    let provider = method.node.serve().await;
    method.put(&wrapped_secret_id(&method).await);
    let unwrapped = r#"openbao_requests_total{operation="wrapping_unwrap",status="ok"}"#;
    wait_until(SOON, "the second unwrapping", async || {
        provider.metric(unwrapped).await >= 2.0
    })
    .await;
    method.recovers(&provider).await;
}
