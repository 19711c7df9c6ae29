//! Calls under way: their limit, their end by time or by the caller, and a stop in their midst.

use std::time::Duration;

use kms_node::kms_api::generated::{EncryptRequest, StatusRequest};
use rustix::process::Signal;
use serde_json::json;
use testkit::{
    openbao::shared_openbao,
    relay::{Line, Relay},
    wait::wait_until,
};
use tonic::{Code, Request};

use crate::{
    node::{Node, QUIET},
    provider::{Provider, SOON, assert_decrypt_refused, to_decrypt},
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

/// Running decrypts and those that wait for them, by default.
const ADMITTED: usize = 3 * 64;

#[tokio::test]
async fn the_call_beyond_the_queue_is_refused_at_once_and_nothing_else_is() {
    let (mut node, relay) = node_behind_relay().await;
    node.config["openbao"]["timeout"] = json!("50s");
    let provider = node.serve().await;
    let request = to_decrypt(&provider.encrypt(b"seed").await.unwrap());
    relay.set(Line::Held);
    let mut calls = provider.decrypt_at_once(ADMITTED + 1, &request);
    wait_until(SOON, "the refused call", async || {
        calls.iter().any(|call| call.is_finished())
    })
    .await;
    wait_for_in_flight(&provider, 192.0).await;
    let finished = calls.iter().position(|call| call.is_finished()).unwrap();
    let refused = calls.swap_remove(finished).await.unwrap().unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert_decrypt_refused(
        &refused,
        "kms request concurrency limit reached",
        "no data is lost",
    );
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
async fn encrypts_beyond_the_limit_wait_within_their_deadline() {
    let (mut node, relay) = node_behind_relay().await;
    node.config["openbao"]["timeout"] = json!("50s");
    let provider = node.serve().await;
    relay.set(Line::Held);
    let calls: Vec<_> = (0..64)
        .map(|_| {
            let mut client = provider.client();
            tokio::spawn(async move {
                let (plaintext, uid) = (b"seed".to_vec().into(), "burst".to_owned());
                client.encrypt(EncryptRequest { plaintext, uid }).await
            })
        })
        .collect();
    let wait_for_calls = async || {
        wait_until(SOON, "64 encryptions under way", async || {
            provider.metric(r#"grpc_in_flight{method="encrypt"}"#).await == 64.0
        })
        .await;
    };
    wait_for_calls().await;
    let mut impatient = Request::new(EncryptRequest {
        plaintext: b"seed".to_vec().into(),
        uid: "impatient".to_owned(),
    });
    impatient.set_timeout(Duration::from_millis(100));
    let waited = provider.client().encrypt(impatient).await.err().unwrap();
    // tonic's client ends the call itself at the same time.
    assert!(matches!(
        waited.code(),
        Code::DeadlineExceeded | Code::Cancelled
    ));
    wait_for_calls().await;

    relay.set(Line::Open);
    for call in calls {
        call.await.unwrap().unwrap();
    }
    let rejections = r#"grpc_concurrency_rejections_total{method="encrypt"}"#;
    assert_eq!(provider.metric(rejections).await, 0.0);
}

/// Ended requests to OpenBao, except decrypts: one that waits is repeated.
async fn other_requests(provider: &Provider) -> f64 {
    let metrics = provider.metrics().await;
    let requests = metrics
        .lines()
        .filter(|line| line.starts_with("openbao_kms_openbao_requests_total{"));
    let calls = requests.filter(|line| !line.contains("\"transit_decrypt\""));
    calls
        .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
        .sum()
}

#[tokio::test]
async fn what_is_answered_from_memory_neither_asks_nor_waits_for_an_openbao_that_hangs() {
    let (mut node, relay) = node_behind_relay().await;
    node.config["openbao"]["timeout"] = json!("50s");
    let provider = node.serve().await;
    let request = to_decrypt(&provider.encrypt(b"seed").await.unwrap());
    let before = other_requests(&provider).await;
    relay.set(Line::Held);
    let call = provider.decrypt_at_once(1, &request).remove(0);
    wait_for_in_flight(&provider, 1.0).await;

    // Few calls: after some seconds without an answer from OpenBao, Status is no longer `ok`.
    let mut client = provider.client();
    for _ in 0..100 {
        let status = client.status(StatusRequest {}).await.unwrap().into_inner();
        assert_eq!(status.healthz, "ok");
    }
    for _ in 0..5 {
        assert_eq!(provider.health("/live").await.0, 200);
        assert_eq!(provider.health("/ready").await.0, 200);
    }
    assert!(!call.is_finished(), "OpenBao answered");

    // Whatever had been asked in the meantime would be counted by now.
    relay.set(Line::Open);
    call.await.unwrap().unwrap();
    provider.decrypt(request).await.unwrap();
    // A decrypt that waits long makes the provider probe OpenBao.
    let after = other_requests(&provider).await;
    assert!(after < before + 10.0, "{}", provider.metrics().await);
}

#[tokio::test]
async fn live_is_live_through_a_start_that_hangs_in_openbao() {
    let (node, relay) = node_behind_relay().await;
    relay.set(Line::Held);
    let mut provider = node.spawn();
    provider.wait_for_event("health.listening").await;
    assert_eq!(
        provider.health("/live").await,
        (200, json!({"status": "ok"}))
    );
    let (status, ready) = provider.health("/ready").await;
    assert_eq!(status, 503);
    let reasons = [
        "state_unavailable",
        "status_stale",
        "metadata_unverified",
        "deep_probe_pending",
    ];
    let expected = json!({
        "status": "unavailable",
        "healthz": "unhealthy",
        "stale": true,
        "rotation_state": "unknown",
        "reasons": reasons,
    });
    assert_eq!(ready, expected);
    relay.set(Line::Open);
    provider.ready().await;
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
    assert_decrypt_refused(&refused, "request timed out", "no data is lost");
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
    let mut provider = node.serve().await;
    let request = to_decrypt(&provider.encrypt(b"seed").await.unwrap());
    let socket = node.sockets.socket();
    relay.set(Line::Held);
    let call = provider.decrypt_at_once(1, &request).remove(0);
    wait_for_in_flight(&provider, 1.0).await;

    provider.signal(Signal::TERM);
    provider.wait_for_event("serve.stopping").await;
    let unavailable = (503, json!({"status": "unavailable"}));
    assert_eq!(provider.health("/live").await, unavailable);
    assert_eq!(provider.reasons().await, ["stopping"]);
    let late = provider.decrypt_at_once(1, &request).remove(0);
    assert!(socket.exists(), "no client is refused before the end");
    let second = node.refused().await;
    second.assert_refused(5, &["is locked"]);

    relay.set(Line::Open);
    assert_eq!(call.await.unwrap().unwrap(), &b"seed"[..]);
    let stopped = provider.ended().await;
    assert_eq!(stopped.code, Some(0), "{}", stopped.err);
    assert!(late.await.unwrap().is_err());
    assert!(!socket.exists());
    let last = stopped.err.lines().last().unwrap();
    assert!(last.contains("serve.shutdown"), "{last}");
}
