//! A node is asked for what a faster peer has written under a version that it does not know.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use kms_node::kms_api::generated::DecryptRequest;
use serde_json::json;
use testkit::{
    openbao::shared_openbao,
    relay::{Line, Relay},
    tenant::KEY,
    wait::wait_until,
};
use tonic::Code;

use crate::{
    node::{Node, QUIET},
    provider::{Call, Provider, SOON, assert_decrypt_refused, to_decrypt},
};

const IN_FLIGHT: &str = r#"grpc_in_flight{method="decrypt"}"#;

/// How many calls a provider has for unknown key_ids in these tests, and slots for decryptions.
const MANY: u8 = 64;

/// The same request under key_ids that nobody has made.
fn unknown(request: &DecryptRequest) -> Vec<DecryptRequest> {
    (0..MANY)
        .map(|number| DecryptRequest {
            key_id: format!("obk2.{}", URL_SAFE_NO_PAD.encode([number; 32])),
            ..request.clone()
        })
        .collect()
}

fn at_once(provider: &Provider, requests: &[DecryptRequest]) -> Vec<Call> {
    requests
        .iter()
        .flat_map(|request| provider.decrypt_at_once(1, request))
        .collect()
}

/// How many times metadata was asked for, whatever came of it.
async fn readings(provider: &Provider) -> f64 {
    let metrics = provider.metrics().await;
    metrics
        .lines()
        .filter(|line| line.contains(r#"requests_total{operation="transit_metadata_read""#))
        .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
        .sum()
}

/// A node that observes nothing by itself, with its line to OpenBao.
async fn quiet() -> (Node, Relay) {
    let mut node = Node::new(QUIET).await;
    let relay = Relay::to(&shared_openbao().await.endpoint()).await;
    node.config["openbao"]["address"] = json!(relay.address);
    node.config["openbao"]["timeout"] = json!("50s");
    (node, relay)
}

async fn wait_for_in_flight(provider: &Provider, count: f64) {
    let awaited = format!("{count} decryptions under way");
    wait_until(SOON, &awaited, async || {
        provider.metric(IN_FLIGHT).await == count
    })
    .await;
}

#[tokio::test]
async fn what_a_faster_peer_has_written_is_read_at_the_first_request() {
    let node = Node::new(QUIET).await;
    let provider = node.serve().await;
    let watch = provider.watch_status();
    let old = provider.encrypt(b"old").await.unwrap();
    node.rotate().await;
    let stored = node.stored_by_peer(2, b"by a peer").await;
    let before = readings(&provider).await;
    for _ in 0..2 {
        let decrypted = provider.decrypt(stored.clone()).await.unwrap();
        assert_eq!(decrypted, "by a peer");
    }
    assert_eq!(readings(&provider).await, before + 1.0);
    assert_eq!(provider.events("key.pending").count(), 1);
    assert_eq!(provider.encrypt(b"seed").await.unwrap().key_id, old.key_id);
    let key_ids = watch.key_ids().await;
    assert_eq!(key_ids, std::slice::from_ref(&old.key_id));

    let inspected = node.inspect();
    let pending = &inspected["records"][1];
    assert_eq!(pending["transitVersion"], 2);
    assert_eq!(pending["state"], "pending");
    let count = &pending["stableObservationCount"];
    assert!(
        count.is_null(),
        "a request counts as an observation: {count}"
    );
    provider.stop().await;
    let provider = node.serve().await;
    assert_eq!(provider.decrypt(stored).await.unwrap(), "by a peer");
    assert_eq!(provider.status().await.key_id, old.key_id);
}

#[tokio::test]
async fn many_unknown_key_ids_at_once_are_one_reading_of_metadata() {
    let node = Node::new(QUIET).await;
    let provider = node.serve().await;
    let known = to_decrypt(&provider.encrypt(b"seed").await.unwrap());
    let before = readings(&provider).await;
    for _ in 0..2 {
        for call in at_once(&provider, &unknown(&known)) {
            let refused = call.await.unwrap().unwrap_err();
            assert_eq!(refused.code(), Code::NotFound);
            assert_decrypt_refused(
                &refused,
                "key_id unknown",
                "key version 1 of this key and configuration",
            );
        }
        assert_eq!(readings(&provider).await, before + 1.0);
    }
    assert_eq!(provider.decrypt(known).await.unwrap(), "seed");
    assert_eq!(provider.status().await.healthz, "ok");
    assert_eq!(node.inspect()["stateGeneration"], 1);
}

#[tokio::test]
async fn unknown_key_ids_take_no_slot_from_known_ones() {
    let (node, relay) = quiet().await;
    let provider = node.serve().await;
    let known = to_decrypt(&provider.encrypt(b"seed").await.unwrap());
    relay.set(Line::Held);
    let strangers = at_once(&provider, &unknown(&known));
    wait_for_in_flight(&provider, f64::from(MANY)).await;
    let calls = provider.decrypt_at_once(MANY.into(), &known);
    wait_for_in_flight(&provider, 2.0 * f64::from(MANY)).await;
    assert_eq!(provider.status().await.healthz, "ok");
    relay.set(Line::Open);
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap(), "seed");
    }
    for stranger in strangers {
        let refused = stranger.await.unwrap().unwrap_err();
        assert_eq!(refused.code(), Code::NotFound);
    }
}

#[tokio::test]
async fn a_requester_that_leaves_does_not_end_the_discovery_it_has_asked_for() {
    let (node, relay) = quiet().await;
    let provider = node.serve().await;
    node.rotate().await;
    let stored = node.stored_by_peer(2, b"by a peer").await;
    let before = readings(&provider).await;
    relay.set(Line::Held);
    let call = provider.decrypt_at_once(1, &stored).remove(0);
    wait_for_in_flight(&provider, 1.0).await;
    call.abort();
    wait_for_in_flight(&provider, 0.0).await;
    relay.set(Line::Open);
    wait_until(SOON, "the version in the state", async || {
        node.versions().contains_key(&2)
    })
    .await;
    assert_eq!(provider.decrypt(stored).await.unwrap(), "by a peer");
    assert_eq!(readings(&provider).await, before + 1.0);
    assert_eq!(provider.reasons().await, [""; 0]);
}

#[tokio::test]
async fn a_discovery_that_fails_is_not_repeated_and_touches_no_known_key() {
    let node = Node::new(QUIET).await;
    let provider = node.serve().await;
    let known = to_decrypt(&provider.encrypt(b"seed").await.unwrap());
    let keys = format!("{}/keys/{KEY}", node.tenant.transit_mount);
    node.grant(|policy| policy.replace(&keys, "nothing")).await;
    let [first, second, ..] = &unknown(&known)[..] else {
        panic!("there are {MANY}")
    };
    let mut after_the_first = None;
    for request in [first, second] {
        let refused = provider.decrypt(request.clone()).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unavailable);
        assert_decrypt_refused(&refused, "key metadata refresh failed", "no data is lost");
        let readings = readings(&provider).await;
        assert_eq!(*after_the_first.get_or_insert(readings), readings);
    }
    assert_eq!(provider.reasons().await, ["metadata_read_failed"]);
    assert_eq!(provider.decrypt(known).await.unwrap(), "seed");
}
