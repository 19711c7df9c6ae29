//! Many decrypts at once: how few requests carry them, and that each call still stands alone.

use std::{fs, time::Duration};

use bytes::Bytes;
use kms_node::kms_api::generated::{
    DecryptRequest, EncryptRequest, key_management_service_client::KeyManagementServiceClient,
};
use rustix::process::Signal;
use serde_json::{Value, json};
use testkit::{
    openbao::shared_openbao,
    relay::{Line, Relay},
    tenant::KEY,
    wait::wait_until,
};
use tonic::{Code, Request, transport::Channel};

use crate::{
    load::{node_behind_relay, wait_for_in_flight},
    login::revoke_tokens,
    node::{Node, QUIET},
    provider::{Call, Provider, SOON, assert_decrypt_refused, to_decrypt},
    proxy::Proxy,
};

/// As many calls as the provider takes at once.
const CROWD: usize = 64;
/// Requests under way at once.
const LANES: usize = 2;
/// Overdue requests beside them.
const LATE: usize = 4;

/// A provider whose line to OpenBao can be held while calls gather.
async fn serve() -> (Node, Relay, Provider) {
    let (mut node, relay) = node_behind_relay().await;
    node.config["openbao"]["timeout"] = json!("50s");
    let provider = node.serve().await;
    (node, relay, provider)
}

/// What decrypts to its own number, `count` times.
async fn numbered(provider: &Provider, count: usize) -> Vec<DecryptRequest> {
    let mut client = provider.client();
    let mut requests = Vec::new();
    for number in 0..count {
        let request = EncryptRequest {
            plaintext: number.to_string().into(),
            uid: "test".to_owned(),
        };
        let encrypted = client.encrypt(request).await.unwrap().into_inner();
        requests.push(to_decrypt(&encrypted));
    }
    requests
}

/// A ciphertext of the right form that no key has made.
fn tampered(request: &DecryptRequest) -> DecryptRequest {
    let text = std::str::from_utf8(&request.ciphertext).unwrap();
    DecryptRequest {
        ciphertext: text.replacen(":v1:", ":v1:AAAA", 1).into(),
        ..request.clone()
    }
}

/// How many items each decryption that OpenBao was asked for had, by its own account.
pub(crate) async fn items_asked_for(node: &Node) -> Vec<usize> {
    let log = fs::read_to_string(shared_openbao().await.audit_log()).unwrap();
    let path = format!("{}/decrypt/{KEY}", node.tenant.transit_mount);
    log.lines()
        .filter(|line| line.contains(&path))
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter(|entry| entry["type"] == "request" && entry["error"].is_null())
        .map(|entry| {
            let batch = &entry["request"]["data"]["batch_input"];
            batch.as_array().map_or(1, Vec::len)
        })
        .collect()
}

/// How many items each decryption since then had. Overdue requests are asked again, so a line that
/// was held for long adds a few.
async fn asked_since(node: &Node, before: &[usize]) -> Vec<usize> {
    let mut since = items_asked_for(node).await.split_off(before.len());
    since.sort_unstable();
    since
}

async fn assert_numbered(calls: Vec<Call>) {
    for (number, call) in calls.into_iter().enumerate() {
        assert_eq!(
            call.await.unwrap().unwrap(),
            Bytes::from(number.to_string())
        );
    }
}

#[tokio::test]
async fn equal_decrypts_at_once_are_one_item_and_nothing_is_kept() {
    let (node, relay, provider) = serve().await;
    let request = to_decrypt(&provider.encrypt(b"seed").await.unwrap());
    let asked = items_asked_for(&node).await;
    relay.set(Line::Held);
    let calls = provider.decrypt_at_once(CROWD, &request);
    wait_for_in_flight(&provider, 64.0).await;
    relay.set(Line::Open);
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap(), &b"seed"[..]);
    }
    let first = asked_since(&node, &asked).await;
    assert!(first.len() <= 1 + LATE, "{first:?}");
    assert!(first.iter().all(|items| *items == 1), "{first:?}");
    provider.decrypt(request).await.unwrap();
    assert!(asked_since(&node, &asked).await.len() > first.len());
}

#[tokio::test]
async fn calls_at_once_are_few_requests_of_equal_size() {
    let (node, relay, provider) = serve().await;
    let requests = numbered(&provider, CROWD).await;
    let asked = items_asked_for(&node).await;
    relay.set(Line::Held);
    let calls = provider.decrypt_each_at_once(&requests);
    wait_for_in_flight(&provider, 64.0).await;
    relay.set(Line::Open);
    assert_numbered(calls).await;
    // The first requests may begin before the last calls have arrived.
    let asked = asked_since(&node, &asked).await;
    assert!(asked.len() <= 2 * LANES + LATE + 1, "{asked:?}");
    assert!(
        asked.iter().all(|items| *items <= CROWD / LANES),
        "{asked:?}"
    );
}

/// With two lanes, four of these calls would wait for the answers to the first two.
#[tokio::test]
async fn few_calls_to_a_distant_openbao_wait_for_none_of_the_others() {
    let (node, relay, provider) = serve().await;
    let requests = numbered(&provider, 6).await;
    relay.set(Line::Delayed(Duration::from_millis(10)));
    assert_numbered(provider.decrypt_each_at_once(&requests[..1])).await;
    let asked = items_asked_for(&node).await;
    assert_numbered(provider.decrypt_each_at_once(&requests)).await;
    assert_eq!(asked_since(&node, &asked).await[..6], [1; 6]);
}

#[tokio::test]
async fn a_bad_ciphertext_among_many_fails_alone_and_with_its_own_class() {
    let (_node, relay, provider) = serve().await;
    let mut requests = numbered(&provider, CROWD).await;
    let bad = [0, 5, 40];
    for index in bad {
        requests[index] = tampered(&requests[index]);
    }
    relay.set(Line::Held);
    let calls = provider.decrypt_each_at_once(&requests);
    wait_for_in_flight(&provider, 64.0).await;
    relay.set(Line::Open);
    for (number, call) in calls.into_iter().enumerate() {
        let decrypted = call.await.unwrap();
        if bad.contains(&number) {
            let refused = decrypted.unwrap_err();
            assert_eq!(refused.code(), Code::InvalidArgument);
            assert_decrypt_refused(&refused, "transit decrypt failed", "key version 1");
        } else {
            assert_eq!(decrypted.unwrap(), Bytes::from(number.to_string()));
        }
    }
    let events = provider
        .events("kms.request")
        .map(|event| event["error_class"].clone());
    let classes: Vec<_> = events.filter(|class| !class.is_null()).collect();
    assert_eq!(classes, ["aad_mismatch"; 3]);
}

#[tokio::test]
async fn a_caller_that_goes_away_takes_nothing_from_the_others() {
    let (node, relay, provider) = serve().await;
    let requests = numbered(&provider, 6).await;
    let asked = items_asked_for(&node).await;
    relay.set(Line::Held);
    let calls = provider.decrypt_each_at_once(&requests);
    wait_for_in_flight(&provider, 6.0).await;
    let joined = provider.decrypt_each_at_once(&requests[..5]);
    wait_for_in_flight(&provider, 11.0).await;
    // Of each item one call stays, but for the last.
    let abandoned = [
        &calls[0], &calls[3], &calls[5], &joined[1], &joined[2], &joined[4],
    ];
    for call in abandoned {
        call.abort();
    }
    wait_for_in_flight(&provider, 5.0).await;
    relay.set(Line::Open);
    let mut calls: Vec<_> = calls.into_iter().map(Some).collect();
    let mut joined: Vec<_> = joined.into_iter().map(Some).collect();
    let kept = [
        joined[0].take(),
        calls[1].take(),
        calls[2].take(),
        joined[3].take(),
        calls[4].take(),
    ];
    assert_numbered(kept.into_iter().flatten().collect()).await;
    // What nobody waited for was not sent for its own sake.
    let asked = asked_since(&node, &asked).await;
    assert!(asked.len() <= LANES + LATE + 1, "{asked:?}");
    assert!(asked.iter().all(|items| *items <= 5), "{asked:?}");
}

#[tokio::test]
async fn joined_calls_keep_their_own_deadlines() {
    let (_node, relay, provider) = serve().await;
    let request = to_decrypt(&provider.encrypt(b"seed").await.unwrap());
    relay.set(Line::Held);
    let patient = provider.decrypt_at_once(1, &request).remove(0);
    wait_for_in_flight(&provider, 1.0).await;
    let mut hurried = Request::new(request);
    hurried.set_timeout(Duration::from_millis(200));
    // Whichever side notices first says so.
    assert!(provider.client().decrypt(hurried).await.is_err());
    relay.set(Line::Open);
    assert_eq!(patient.await.unwrap().unwrap(), &b"seed"[..]);
}

#[tokio::test]
async fn a_request_that_fails_is_the_failure_of_every_call_it_carried() {
    let (_node, relay, provider) = serve().await;
    let requests = numbered(&provider, 8).await;
    relay.set(Line::Held);
    let mut calls = provider.decrypt_each_at_once(&requests);
    calls.extend(provider.decrypt_each_at_once(&requests));
    wait_for_in_flight(&provider, 16.0).await;
    relay.set(Line::Cut);
    for call in calls {
        let refused = call.await.unwrap().unwrap_err();
        assert_eq!(refused.code(), Code::Unavailable);
        assert_decrypt_refused(&refused, "transit unavailable", "no data is lost");
    }
    relay.set(Line::Open);
    assert_numbered(provider.decrypt_each_at_once(&requests)).await;
}

#[tokio::test]
async fn a_request_that_nobody_waits_for_does_not_keep_a_lane() {
    let (_node, relay, provider) = serve().await;
    let requests = numbered(&provider, LANES).await;
    relay.set(Line::Held);
    let calls = provider.decrypt_each_at_once(&requests);
    wait_for_in_flight(&provider, 2.0).await;
    for call in calls {
        call.abort();
    }
    let canceled = r#"openbao_requests_total{operation="transit_decrypt",status="canceled"}"#;
    wait_until(SOON, "the end of both requests", async || {
        provider.metric(canceled).await >= 2.0
    })
    .await;
    relay.set(Line::Open);
    assert_numbered(provider.decrypt_each_at_once(&requests)).await;
}

#[tokio::test]
async fn a_refused_token_is_replaced_for_all_that_gathered() {
    let (node, relay, provider) = serve().await;
    let requests = numbered(&provider, CROWD).await;
    revoke_tokens(&node).await;
    relay.set(Line::Held);
    let calls = provider.decrypt_each_at_once(&requests);
    wait_for_in_flight(&provider, 64.0).await;
    relay.set(Line::Open);
    assert_numbered(calls).await;
    let logins = provider.metric(r#"auth_login_total{status="ok"}"#).await;
    assert_eq!(logins, 2.0, "the start's and one more");
}

/// Callers of the test with loss, the decrypts of each, and how many of these follow each encrypt.
const CALLERS: usize = 48;
const DECRYPTS: usize = 100;
const DECRYPTS_AN_ENCRYPT: usize = 10;

/// Each lost request carries many calls, and a lane that waited for it would keep out many more.
#[tokio::test]
async fn a_lost_answer_fails_no_call() {
    let mut node = Node::new(QUIET).await;
    node.config["server"]["maxConcurrentEncrypt"] = json!(CALLERS);
    let proxy = Proxy::of(&mut node).await;
    let provider = node.serve().await;
    let requests = numbered(&provider, CALLERS).await;
    for percent in [1, 3] {
        let (encrypt, decrypt) = (format!("encrypt/{KEY}"), format!("decrypt/{KEY}"));
        proxy.loses(percent, &[&encrypt, &decrypt]);
        let lost = proxy.ruled();
        let callers: Vec<_> = requests
            .iter()
            .enumerate()
            .map(|(number, request)| {
                let (client, request) = (provider.client(), request.clone());
                tokio::spawn(failed_calls(client, number, request))
            })
            .collect();
        let mut failed = 0;
        for caller in callers {
            failed += caller.await.unwrap();
        }
        let lost = proxy.ruled() - lost;
        assert!(lost >= 3, "{lost} requests lost at {percent} %");
        // A tenth of what the loss itself would be.
        let calls = CALLERS * (DECRYPTS + DECRYPTS / DECRYPTS_AN_ENCRYPT);
        assert!(
            failed * 1000 <= calls,
            "{failed} of {calls} calls failed by {lost} lost requests at {percent} %"
        );
    }
    let hedges = r#"openbao_hedges_total{method="decrypt"}"#;
    assert!(provider.metric(hedges).await >= 1.0);
    proxy.passes();
    assert_numbered(provider.decrypt_each_at_once(&requests)).await;
}

/// One call after the other, each for as long as kube-apiserver waits.
async fn failed_calls(
    mut client: KeyManagementServiceClient<Channel>,
    number: usize,
    request: DecryptRequest,
) -> usize {
    const DEADLINE: Duration = Duration::from_secs(3);
    let mut failed = 0;
    for call in 0..DECRYPTS {
        if call % DECRYPTS_AN_ENCRYPT == 0 {
            let mut encrypt = Request::new(EncryptRequest {
                plaintext: "seed".into(),
                uid: "test".to_owned(),
            });
            encrypt.set_timeout(DEADLINE);
            failed += usize::from(client.encrypt(encrypt).await.is_err());
        }
        let mut decrypt = Request::new(request.clone());
        decrypt.set_timeout(DEADLINE);
        match client.decrypt(decrypt).await {
            Ok(answer) => assert_eq!(answer.into_inner().plaintext, number.to_string()),
            Err(_) => failed += 1,
        }
    }
    failed
}

#[tokio::test]
async fn a_stop_answers_all_that_has_gathered() {
    let (_node, relay, provider) = serve().await;
    let requests = numbered(&provider, CROWD).await;
    relay.set(Line::Held);
    let calls = provider.decrypt_each_at_once(&requests);
    wait_for_in_flight(&provider, 64.0).await;
    provider.signal(Signal::TERM);
    relay.set(Line::Open);
    assert_numbered(calls).await;
    let stopped = provider.ended().await;
    assert_eq!(stopped.code, Some(0), "{}", stopped.err);
}
