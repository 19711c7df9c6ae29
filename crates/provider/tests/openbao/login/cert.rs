//! Login with a client certificate and a key file.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    time::Duration,
};

use serde_json::json;
use tempfile::TempDir;
use testkit::{files, pki::Authority, wait::wait_until};

use super::method::Method;
use crate::provider::SOON;

#[tokio::test]
async fn a_certificate_buys_tokens_and_a_replaced_one_needs_no_restart() {
    let directory = TempDir::new().unwrap();
    let (mut method, authority) = Method::cert(directory.path()).await;
    authority.client("node-1", "kms");
    let first = fs::read_to_string(directory.path().join("node-1.key")).unwrap();
    let provider = method.lives().await;

    // Of another authority: refused by OpenBao, not here.
    let other = TempDir::new().unwrap();
    Authority::new(other.path()).client("node-1", "kms");
    replace_pair(other.path(), directory.path());
    method.revoke().await;
    method.fails(&provider, "certificate").await;
    authority.client("node-1", "kms");
    method.recovers(&provider).await;

    // Half a replacement: the key belongs to another certificate.
    fs::copy(
        other.path().join("node-1.key"),
        directory.path().join("node-1.key"),
    )
    .unwrap();
    method.revoke().await;
    method.fails(&provider, "foreign_key").await;
    authority.client("node-1", "kms");
    method.recovers(&provider).await;

    let last = fs::read_to_string(directory.path().join("node-1.key")).unwrap();
    let body = |pem: &str| pem.lines().nth(1).unwrap().to_owned();
    method
        .assert_silent(provider, &[&body(&first), &body(&last)])
        .await;
}

#[tokio::test]
async fn a_certificate_that_ends_is_refused_here_until_there_is_another() {
    let directory = TempDir::new().unwrap();
    let (mut method, authority) = Method::cert(directory.path()).await;
    method.node.config["auth"]["cert"]["minRemainingTtl"] = json!("1s");
    method.node.config["auth"]["cert"]["clockSkewLeeway"] = json!("0s");
    authority.client_for("node-1", "kms", Duration::from_secs(8));
    let provider = method.node.serve().await;
    provider.encrypt(b"seed").await.unwrap();
    wait_until(SOON, "the end of the certificate", async || {
        provider.metric("certificate_ttl_seconds").await <= 0.0
    })
    .await;
    method.revoke().await;
    method.fails(&provider, "expired").await;
    authority.client("node-1", "kms");
    method.recovers(&provider).await;
}

fn replace_pair(from: &Path, to: &Path) {
    for (name, mode) in [("node-1.crt", 0o644), ("node-1.key", 0o600)] {
        files::replace(&to.join(name), &fs::read(from.join(name)).unwrap(), mode);
    }
}

/// As kubelet keeps its certificate: one file with chain and key, replaced by another link.
#[tokio::test]
#[expect(
    clippy::disallowed_methods,
    reason = "kubelet replaces its link in the same way"
)]
async fn the_certificate_of_kubelet_is_followed_through_its_link() {
    let directory = TempDir::new().unwrap();
    let (mut method, authority) = Method::cert(directory.path()).await;
    let current = directory.path().join("kubelet-client-current.pem");
    let renew = |number: u32| {
        authority.client("node-1", "kms");
        let read = |extension: &str| {
            fs::read_to_string(directory.path().join(format!("node-1.{extension}"))).unwrap()
        };
        let target = directory
            .path()
            .join(format!("kubelet-client-{number}.pem"));
        files::replace(&target, (read("crt") + &read("key")).as_bytes(), 0o600);
        let link = directory.path().join("link");
        symlink(&target, &link).unwrap();
        fs::rename(&link, &current).unwrap();
        target
    };
    let first = renew(1);
    let auth = &mut method.node.config["auth"]["cert"];
    auth["certificateFile"] = json!(current);
    auth["keyFile"] = json!(current);
    let provider = method.lives().await;

    renew(2);
    fs::remove_file(first).unwrap();
    method.revoke().await;
    method.recovers(&provider).await;
    method.assert_silent(provider, &[]).await;

    // A link to another directory could be anybody's file.
    let elsewhere = TempDir::new().unwrap();
    let target = elsewhere.path().join("key.pem");
    fs::copy(fs::canonicalize(&current).unwrap(), &target).unwrap();
    fs::remove_file(&current).unwrap();
    symlink(&target, &current).unwrap();
    let refused = method.node.refused().await;
    refused.assert_refused(3, &["auth.cert.keyFile", "symbolic link"]);

    fs::remove_file(&current).unwrap();
    fs::copy(&target, &current).unwrap();
    fs::set_permissions(&current, fs::Permissions::from_mode(0o644)).unwrap();
    let refused = method.node.refused().await;
    refused.assert_refused(3, &["auth.cert.keyFile", "chmod 0640"]);
}
