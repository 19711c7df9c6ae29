//! Connections of a running provider: bad ones are left, the trusted roots are followed.

use std::{fs, time::Duration};

use rcgen::{CertificateParams, KeyPair};
use serde_json::json;
use testkit::{
    files,
    openbao::{OpenBao, cluster_ca, shared_openbao},
    relay::{Line, Relay},
    wait::wait_until,
};
use tokio::{task::JoinSet, time::Instant};
use tonic::Code;

use crate::{
    node::{Node, QUIET, TIMING},
    provider::{Provider, SOON, to_decrypt},
};

/// Opens several connections and leaves them free.
async fn crowd(provider: &Provider) {
    let client = provider.client();
    let mut calls = JoinSet::new();
    for _ in 0..32 {
        let mut client = client.clone();
        let request = kms_node::kms_api::generated::EncryptRequest {
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

/// The addresses of these servers as a list of the configuration.
fn failover(servers: &[&OpenBao]) -> serde_json::Value {
    let addresses = servers.iter().map(|server| server.endpoint().address);
    addresses
        .map(|address| json!({"address": address.to_string()}))
        .collect()
}

/// The server that does the work, once there is one.
async fn active(members: &[OpenBao]) -> usize {
    let mut found = None;
    wait_until(SOON, "an active server", async || {
        for (at, member) in members.iter().enumerate() {
            if member.is_active().await {
                found = Some(at);
            }
        }
        found.is_some()
    })
    .await;
    found.unwrap()
}

/// Encrypts and decrypts again and again; from a second after now on each call must succeed.
async fn assert_serving(provider: &Provider) {
    let begun = Instant::now();
    let mut calls = 0;
    while calls < 20 || begun.elapsed() < Duration::from_secs(3) {
        let started = begun.elapsed();
        let encrypted = provider.encrypt(b"seed").await;
        let outcome = match &encrypted {
            Ok(encrypted) => provider.decrypt(to_decrypt(encrypted)).await.map(drop),
            Err(refused) => Err(refused.clone()),
        };
        let settled = started > Duration::from_secs(1);
        assert!(outcome.is_ok() || !settled, "{started:?}: {outcome:?}");
        calls += u32::from(settled);
    }
}

#[tokio::test]
async fn a_cluster_is_served_from_member_by_member_and_another_one_is_refused() {
    let mut members = Vec::from(OpenBao::start_cluster().await);
    let foreign = OpenBao::start().await;
    let mut node = Node::on(&members[0], TIMING).await;
    let bundle = cluster_ca(&members) + &fs::read_to_string(foreign.ca_file()).unwrap();
    files::replace(&node.tenant.ca_file(), bundle.as_bytes(), 0o644);
    let [first, second, third] = &members[..] else {
        unreachable!()
    };
    node.config["openbao"]["address"] = json!(second.endpoint().address.to_string());
    node.config["openbao"]["failoverAddresses"] = failover(&[&foreign, third, first]);
    node.config["openbao"]["timeout"] = json!("2s");
    let mut provider = node.serve().await;
    provider.wait_for_event("openbao.wrong_cluster").await;
    let told = provider.events("openbao.wrong_cluster").next().unwrap();
    assert_eq!(told["address"], foreign.endpoint().address.to_string());
    // An address is active for as long as its cluster is unknown.
    let leader = [first, second, third][active(&members).await].endpoint();
    wait_until(SOON, "the active server", async || {
        let told = provider.events("openbao.active").last();
        told.is_some_and(|told| told["address"] == leader.address.to_string())
    })
    .await;
    let stored = to_decrypt(&provider.encrypt(b"seed").await.unwrap());
    assert_serving(&provider).await;

    // The active server is killed and comes back; then the next one gives up its part.
    let killed = members.remove(active(&members).await).kill();
    active(&members).await;
    assert_serving(&provider).await;
    assert_eq!(
        &provider.decrypt(stored.clone()).await.unwrap()[..],
        b"seed"
    );

    // Two members of three elect nobody as soon as one of them is late.
    let mut back = killed.start_sealed().await;
    back.unseal_member().await;
    members.push(back);
    members[active(&members).await].step_down().await;
    active(&members).await;
    assert_serving(&provider).await;
    assert_eq!(&provider.decrypt(stored).await.unwrap()[..], b"seed");
    let asked = fs::read_to_string(foreign.audit_log()).unwrap();
    assert!(!asked.contains(&node.tenant.transit_mount), "{asked}");
    provider.assert_running();
}

#[tokio::test]
async fn a_hung_active_server_costs_no_call_longer_than_its_deadline() {
    let members = OpenBao::start_cluster().await;
    let mut node = Node::on(&members[0], TIMING).await;
    files::replace(
        &node.tenant.ca_file(),
        cluster_ca(&members).as_bytes(),
        0o644,
    );
    let [first, second, third] = &members;
    node.config["openbao"]["address"] = json!(first.endpoint().address.to_string());
    node.config["openbao"]["failoverAddresses"] = failover(&[second, third]);
    node.config["openbao"]["timeout"] = json!("2s");
    let mut provider = node.serve().await;
    provider.encrypt(b"seed").await.unwrap();

    let hung = first.hang();
    wait_until(SOON, "a call without the hung server", async || {
        let begun = Instant::now();
        let served = provider.encrypt(b"seed").await.is_ok();
        assert!(begun.elapsed() < Duration::from_millis(2500));
        served
    })
    .await;
    assert_serving(&provider).await;
    drop(hung);
    assert_serving(&provider).await;
    provider.assert_running();
}
