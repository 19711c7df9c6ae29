//! Connections of a running provider: bad ones are left, the trusted roots are followed.

use std::fs;

use rcgen::{CertificateParams, KeyPair};
use serde_json::json;
use testkit::{
    files,
    openbao::shared_openbao,
    relay::{Line, Relay},
    wait::wait_until,
};
use tokio::task::JoinSet;
use tonic::Code;

use crate::{
    node::{Node, QUIET},
    provider::{Provider, SOON, to_decrypt},
};

/// Opens several connections and leaves them free.
async fn crowd(provider: &Provider) {
    let client = provider.client();
    let mut calls = JoinSet::new();
    for _ in 0..32 {
        let mut client = client.clone();
        let request = provider::kms::generated::EncryptRequest {
            plaintext: b"seed"[..].into(),
            uid: "test".to_owned(),
        };
        calls.spawn(async move { client.encrypt(request).await.is_ok() });
    }
    assert!(calls.join_all().await.into_iter().all(|ok| ok));
}

#[tokio::test]
async fn kept_connections_to_a_server_that_vanished_cost_one_call() {
    let mut node = Node::new(QUIET).await;
    let relay = Relay::to(&shared_openbao().await.endpoint()).await;
    node.config["openbao"]["address"] = json!(relay.address);
    node.config["openbao"]["timeout"] = json!("2s");
    let provider = node.serve().await;
    let stored = to_decrypt(&provider.encrypt(b"seed").await.unwrap());
    for line in [Line::Silent, Line::HalfOpen] {
        crowd(&provider).await;
        let before = relay.connections();
        assert!(before > 2, "{before}");
        // New connections reach the server again.
        relay.set_former(line);
        let lost = provider.encrypt(b"seed").await.err().unwrap();
        assert_eq!(lost.code(), Code::DeadlineExceeded, "{lost}");
        for _ in 0..8 {
            provider.encrypt(b"seed").await.unwrap();
            provider.decrypt(stored.clone()).await.unwrap();
        }
        assert!(relay.connections() > before);
        relay.set(Line::Open);
    }
    // A reset is no loss at all: the request goes out again.
    crowd(&provider).await;
    relay.set_former(Line::Reset);
    for _ in 0..8 {
        provider.encrypt(b"seed").await.unwrap();
        provider.decrypt(stored.clone()).await.unwrap();
    }
}

#[tokio::test]
async fn a_replaced_ca_bundle_is_used_and_an_unusable_one_is_not() {
    let node = Node::new(QUIET).await;
    let bundle = node.tenant.ca_file();
    let good = fs::read(&bundle).unwrap();
    let mut provider = node.serve().await;
    let stored = to_decrypt(&provider.encrypt(b"seed").await.unwrap());

    let reload = async |status| {
        let series = format!("trust_reloads_total{{status=\"{status}\"}}");
        provider.metric(&series).await
    };
    files::replace(&bundle, b"no certificate", 0o644);
    wait_until(SOON, "a refused bundle", async || {
        reload("no_certificate").await == 1.0
    })
    .await;
    provider.decrypt(stored.clone()).await.unwrap();

    // The CA of another OpenBao: the old one is trusted no more, also by kept connections.
    let key = KeyPair::generate().unwrap();
    let other = CertificateParams::new(vec!["other.test".to_owned()]).unwrap();
    let other = other.self_signed(&key).unwrap().pem();
    files::replace(&bundle, other.as_bytes(), 0o644);
    wait_until(SOON, "other roots", async || reload("ok").await == 1.0).await;
    let refused = provider.decrypt(stored.clone()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");

    files::replace(&bundle, &good, 0o644);
    wait_until(SOON, "a decryption", async || {
        provider.decrypt(stored.clone()).await.is_ok()
    })
    .await;
    assert_eq!(reload("ok").await, 2.0);
    let events = provider.events("openbao.trust_kept");
    let reasons: Vec<_> = events.map(|event| event["reason"].clone()).collect();
    assert_eq!(reasons, ["no_certificate"]);
    provider.assert_running();
}
