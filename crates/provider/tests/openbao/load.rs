//! Calls under way: their limit, their end by time or by the caller, and a stop in their midst.

use rustix::process::Signal;
use serde_json::json;
use testkit::{openbao::shared_openbao, wait::wait_until};
use tonic::Code;

use crate::{
    node::{Node, QUIET},
    provider::{Provider, SOON, to_decrypt},
    relay::{Line, Relay},
};

const IN_FLIGHT: &str = r#"grpc_in_flight{method="decrypt"}"#;

/// A node whose line to OpenBao can be held.
pub(crate) async fn node_behind_relay() -> (Node, Relay) {
    let mut node = Node::new(QUIET).await;
    let relay = Relay::to(&shared_openbao().await.endpoint()).await;
    node.config["openbao"]["address"] = json!(relay.address);
    (node, relay)
}

pub(crate) async fn wait_for_in_flight(provider: &Provider, count: f64) {
    let awaited = format!("{count} decryptions under way");
    wait_until(SOON, &awaited, async || {
        provider.metric(IN_FLIGHT).await == count
    })
    .await;
}

#[tokio::test]
async fn the_call_beyond_the_limit_is_refused_at_once_and_nothing_else_is() {
    let (mut node, relay) = node_behind_relay().await;
    node.config["openbao"]["timeout"] = json!("50s");
    let provider = node.serve().await;
    let request = to_decrypt(&provider.encrypt(b"seed").await.unwrap());
    relay.set(Line::Held);
    let mut calls = provider.decrypt_at_once(65, &request);
    wait_until(SOON, "the refused call", async || {
        calls.iter().any(|call| call.is_finished())
    })
    .await;
    wait_for_in_flight(&provider, 64.0).await;
    let finished = calls.iter().position(|call| call.is_finished()).unwrap();
    let refused = calls.swap_remove(finished).await.unwrap().unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert_eq!(refused.message(), "kms request concurrency limit reached");
    let rejections = r#"grpc_concurrency_rejections_total{method="decrypt"}"#;
    assert_eq!(provider.metric(rejections).await, 1.0);
    assert_eq!(provider.status().await.healthz, "ok");

    relay.set(Line::Open);
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap(), &b"seed"[..]);
    }
    assert_eq!(provider.metric(IN_FLIGHT).await, 0.0);
    assert_eq!(provider.metric(rejections).await, 1.0);
    provider.decrypt(request).await.unwrap();
}

#[tokio::test]
async fn a_call_ends_in_time_when_openbao_does_not_answer() {
    let (mut node, relay) = node_behind_relay().await;
    node.config["openbao"]["timeout"] = json!("1s");
    let provider = node.serve().await;
    let request = to_decrypt(&provider.encrypt(b"seed").await.unwrap());
    relay.set(Line::Held);
    let refused = provider.decrypt(request.clone()).await.unwrap_err();
    assert_eq!(refused.code(), Code::DeadlineExceeded);
    assert_eq!(refused.message(), "request timed out");
    let event = provider.events("kms.request").last().unwrap();
    assert_eq!(event["error_class"], "timeout");
    relay.set(Line::Open);
    provider.decrypt(request).await.unwrap();
}

#[tokio::test]
async fn a_caller_that_goes_away_frees_its_slot() {
    let (mut node, relay) = node_behind_relay().await;
    node.config["openbao"]["timeout"] = json!("50s");
    node.config["server"]["maxConcurrentDecrypt"] = json!(1);
    let provider = node.serve().await;
    let request = to_decrypt(&provider.encrypt(b"seed").await.unwrap());
    relay.set(Line::Held);
    let call = provider.decrypt_at_once(1, &request).remove(0);
    wait_for_in_flight(&provider, 1.0).await;
    call.abort();
    wait_for_in_flight(&provider, 0.0).await;
    let canceled = r#"grpc_requests_total{method="decrypt",status="canceled"}"#;
    assert_eq!(provider.metric(canceled).await, 1.0);
    relay.set(Line::Open);
    provider.decrypt(request).await.unwrap();
}

#[tokio::test]
async fn a_stop_finishes_what_is_under_way_and_takes_nothing_new() {
    let (mut node, relay) = node_behind_relay().await;
    node.config["openbao"]["timeout"] = json!("50s");
    let provider = node.serve().await;
    let request = to_decrypt(&provider.encrypt(b"seed").await.unwrap());
    let socket = node.sockets.socket();
    relay.set(Line::Held);
    let call = provider.decrypt_at_once(1, &request).remove(0);
    wait_for_in_flight(&provider, 1.0).await;

    provider.signal(Signal::TERM);
    wait_until(SOON, "the socket's end", async || !socket.exists()).await;
    for path in ["/live", "/ready"] {
        let unavailable = (503, json!({"status": "unavailable"}));
        assert_eq!(provider.health(path).await, unavailable);
    }
    assert!(provider.decrypt(request).await.is_err());
    let second = node.refused().await;
    second.assert_refused(5, &["is locked"]);

    relay.set(Line::Open);
    assert_eq!(call.await.unwrap().unwrap(), &b"seed"[..]);
    let stopped = provider.ended().await;
    assert_eq!(stopped.code, Some(0), "{}", stopped.err);
    let last = stopped.err.lines().last().unwrap();
    assert!(last.contains("serve.shutdown"), "{last}");
}
