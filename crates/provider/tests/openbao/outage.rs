//! OpenBao out of reach, in every way that a real one can be: Decrypt and Encrypt say so, Status
//! turns, and the provider comes back by itself.

use std::{
    fs,
    time::{Duration, Instant},
};

use rcgen::{CertificateParams, KeyPair};
use serde_json::{Value, json};
use testkit::{
    files,
    openbao::{OpenBao, shared_openbao},
    relay::{Line, Relay},
    tenant::Timing,
    wait::wait_until,
};
use tonic::Code;

use crate::{
    node::{IMPATIENT, Node, QUIET, TIMING},
    provider::{Provider, SOON, assert_decrypt_refused, to_decrypt},
};

/// A certificate that signed nothing of ours.
fn other_ca() -> String {
    let params = CertificateParams::new(vec!["other.test".to_owned()]).unwrap();
    let key = KeyPair::generate().unwrap();
    params.self_signed(&key).unwrap().pem()
}

#[tokio::test]
async fn a_start_without_openbao_ends_with_the_cause() {
    let mut node = Node::new(IMPATIENT).await;
    let good = node.config.clone();
    let lasting = [
        "no data was changed",
        "do not delete or overwrite the encrypted data in etcd",
    ];

    node.config["openbao"]["address"] = json!("https://127.0.0.1:1");
    let refused = node.refused().await;
    refused.assert_refused(
        5,
        &[&lasting[..], &["the connection failed: refused"]].concat(),
    );
    let end = r#""message":"serve.shutdown","exit_code":5,"reason":"upsert_check_failed","#;
    assert!(refused.err.contains(end), "{}", refused.err);

    node.config = good.clone();
    node.config["openbao"]["tlsServerName"] = json!("openbao.other.test");
    let refused = node.refused().await;
    refused.assert_refused(5, &[&lasting[..], &["certificate"]].concat());

    node.config = good;
    files::replace(&node.tenant.ca_file(), other_ca().as_bytes(), 0o644);
    let refused = node.refused().await;
    refused.assert_refused(5, &[&lasting[..], &["certificate"]].concat());
    assert!(!node.state_file().exists());
}

#[tokio::test]
async fn a_ca_bundle_that_cannot_be_used_is_a_configuration_error() {
    let node = Node::new(IMPATIENT).await;
    files::replace(&node.tenant.ca_file(), b"no certificate", 0o644);
    let refused = node.refused().await;
    refused.assert_refused(3, &["openbao.caCertFile", "ca.crt"]);

    fs::remove_file(node.tenant.ca_file()).unwrap();
    let refused = node.refused().await;
    refused.assert_refused(3, &["openbao.caCertFile", "ca.crt"]);
}

#[tokio::test]
async fn health_answers_before_openbao_does() {
    let mut node = Node::new(TIMING).await;
    let relay = Relay::to(&shared_openbao().await.endpoint()).await;
    relay.set(Line::Cut);
    node.config["openbao"]["address"] = json!(relay.address);
    let mut provider = node.spawn();
    provider.wait_for_event("health.listening").await;
    assert_eq!(provider.health("/live").await.0, 200);
    assert_eq!(provider.health("/ready").await.0, 503);
    let reasons = [
        "state_unavailable",
        "upsert_check_failed",
        "deep_probe_pending",
    ];
    provider.wait_for_reasons(&reasons).await;
    assert_eq!(provider.metric("ready").await, 0.0);
    assert!(!node.sockets.socket().exists());

    relay.set(Line::Open);
    provider.ready().await;
    assert_eq!(provider.reasons().await, [""; 0]);
    assert_eq!(provider.metric("ready").await, 1.0);
}

#[tokio::test]
async fn a_start_that_waits_for_openbao_can_be_stopped() {
    let mut node = Node::new(TIMING).await;
    node.config["openbao"]["address"] = json!("https://127.0.0.1:1");
    let mut provider = node.spawn();
    provider.wait_for_event("status.probe").await;
    let stopped = provider.stop().await;
    assert_eq!(stopped.code, Some(0), "{}", stopped.err);
    assert!(!stopped.err.contains("error: "), "{}", stopped.err);
}

#[tokio::test]
async fn a_lost_connection_pauses_the_probes_and_heals_by_itself() {
    let mut node = Node::new(TIMING).await;
    let relay = Relay::to(&shared_openbao().await.endpoint()).await;
    node.config["openbao"]["address"] = json!(relay.address);
    let provider = node.serve().await;
    let encrypted = provider.encrypt(b"seed").await.unwrap();

    relay.set(Line::Cut);
    let refused = provider.decrypt(to_decrypt(&encrypted)).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert_decrypt_refused(&refused, "transit unavailable", "no data is lost");
    wait_until(SOON, "the pause", async || {
        provider.reasons().await.last().map(String::as_str) == Some("circuit_breaker_open")
    })
    .await;
    assert_eq!(provider.metric("circuit_breaker_state").await, 1.0);
    assert_eq!(provider.status().await.healthz, "unhealthy");

    relay.set(Line::Open);
    let decrypted = provider.decrypt(to_decrypt(&encrypted)).await.unwrap();
    assert_eq!(decrypted, &b"seed"[..], "decrypting waits for no probe");
    provider.wait_for_reasons(&[]).await;
    assert_eq!(provider.metric("circuit_breaker_state").await, 0.0);
    provider.encrypt(b"seed").await.unwrap();
}

/// How many metadata probes have ended, well or not.
async fn probes(provider: &Provider) -> f64 {
    let metrics = provider.metrics().await;
    metrics
        .lines()
        .filter(|line| line.contains("transit_metadata_observation_total{"))
        .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
        .sum()
}

#[tokio::test]
async fn an_outage_shows_in_status_and_ends_with_it_though_no_probe_is_due() {
    for line in [Line::Cut, Line::Silent] {
        // No probe of its own within an hour.
        let mut node = Node::new(QUIET).await;
        let relay = Relay::to(&shared_openbao().await.endpoint()).await;
        node.config["openbao"]["address"] = json!(relay.address);
        node.config["openbao"]["timeout"] = json!("1s");
        let provider = node.serve().await;
        let encrypted = provider.encrypt(b"seed").await.unwrap();
        let before = probes(&provider).await;

        relay.set(line);
        let lost = Instant::now();
        wait_until(SOON, "an unhealthy status", async || {
            let refused = provider.decrypt(to_decrypt(&encrypted)).await;
            refused.unwrap_err();
            provider.status().await.healthz == "unhealthy"
        })
        .await;
        let shown = lost.elapsed();
        wait_until(SOON, "an open breaker", async || {
            provider.metric("circuit_breaker_state").await == 1.0
        })
        .await;
        assert_eq!(
            provider.reasons().await,
            ["upsert_check_failed", "circuit_breaker_open"]
        );
        let class = &provider.health("/ready").await.1["metadata_error_class"];
        assert!(
            class == "connection_failed" || class == "timeout",
            "{class}"
        );
        let made = probes(&provider).await - before;
        let most = lost.elapsed().as_secs_f64() / 0.75 + 2.0;
        assert!(made <= most, "{made} probes, at most {most:.1}");

        // Nobody calls: the probes alone find out.
        relay.set(Line::Open);
        let back = Instant::now();
        provider.wait_for_reasons(&[]).await;
        println!(
            "{line:?}: unhealthy {shown:?} after the loss, {made} probes, ready {:?} after the return",
            back.elapsed()
        );
        provider.encrypt(b"seed").await.unwrap();
    }
}

#[tokio::test]
async fn a_call_that_succeeds_ends_an_outage_at_once() {
    let mut node = Node::new(QUIET).await;
    let relay = Relay::to(&shared_openbao().await.endpoint()).await;
    node.config["openbao"]["address"] = json!(relay.address);
    // Probes that begin while the line is silent last longer than the test.
    node.config["openbao"]["timeout"] = json!("50s");
    let provider = node.serve().await;
    let encrypted = provider.encrypt(b"seed").await.unwrap();
    relay.set(Line::Cut);
    wait_until(SOON, "an open breaker", async || {
        provider.decrypt(to_decrypt(&encrypted)).await.unwrap_err();
        provider.metric("circuit_breaker_state").await == 1.0
    })
    .await;
    relay.set(Line::Silent);
    let reached = relay.connections();
    wait_until(
        SOON,
        "a probe that waits for a dead connection",
        async || relay.connections() > reached,
    )
    .await;
    relay.set_former(Line::Silent);
    let back = Instant::now();
    wait_until(SOON, "a ready provider", async || {
        let decrypted = provider.decrypt(to_decrypt(&encrypted)).await;
        assert_eq!(decrypted.unwrap(), &b"seed"[..]);
        provider.reasons().await.is_empty()
    })
    .await;
    let waited = back.elapsed();
    println!("ready {waited:?} after the return");
    assert!(
        waited < Duration::from_secs(50),
        "the dead probe was awaited"
    );
}

#[tokio::test]
async fn a_probe_that_is_refused_is_repeated_once_a_second_however_many_calls_succeed() {
    let node = Node::new(TIMING).await;
    let provider = node.serve().await;
    let encrypted = provider.encrypt(b"seed").await.unwrap();
    node.grant(|policy| policy.replace("config/keys", "config/other"))
        .await;
    let open = async || provider.metric("circuit_breaker_state").await == 1.0;
    wait_until(SOON, "an open breaker", open).await;
    let class = &provider.health("/ready").await.1["metadata_error_class"];
    assert_eq!(class, "permission_denied");

    let (begun, before) = (Instant::now(), probes(&provider).await);
    wait_until(SOON, "a few probes", async || {
        let decrypted = provider.decrypt(to_decrypt(&encrypted)).await;
        assert_eq!(decrypted.unwrap(), &b"seed"[..]);
        probes(&provider).await >= before + 5.0
    })
    .await;
    let made = probes(&provider).await - before;
    let most = begun.elapsed().as_secs_f64() / 0.75 + 2.0;
    println!("{made} probes in {:?}", begun.elapsed());
    assert!(made <= most, "{made} probes, at most {most:.1}");

    node.grant(|policy| policy).await;
    provider.wait_for_reasons(&[]).await;
}

#[tokio::test]
async fn a_sealed_or_restarted_openbao_is_followed_without_a_restart() {
    // A probe may fail twice before the third failure makes it pause.
    let timing = Timing {
        probe_interval: Duration::from_secs(5),
        deep_probe_interval: Duration::from_secs(5),
        ..TIMING
    };
    let mut server = OpenBao::start().await;
    let node = Node::on(&server, timing).await;
    server.seal().await;
    let mut provider = node.spawn();
    provider.wait_for_event("status.probe").await;
    let (_, ready) = provider.health("/ready").await;
    assert_eq!(ready["metadata_error_class"], "sealed");
    assert_eq!(ready["reasons"][0], "openbao_sealed");
    server.unseal().await;
    provider.ready().await;
    let encrypted = provider.encrypt(b"seed").await.unwrap();

    server.seal().await;
    let refused = provider.decrypt(to_decrypt(&encrypted)).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert_decrypt_refused(
        &refused,
        "transit unavailable",
        "OpenBao is sealed; no data is lost",
    );
    let event = provider.events("kms.request").last().unwrap();
    assert_eq!(event["error_class"], "openbao_sealed");
    let sealed = r#"openbao_requests_total{operation="transit_decrypt",status="sealed"}"#;
    assert_eq!(provider.metric(sealed).await, 1.0);
    wait_until(SOON, "an unhealthy status", async || {
        provider.status().await.healthz == "unhealthy"
    })
    .await;
    // The cause stays the first reason when the breaker has opened.
    wait_until(SOON, "an open breaker", async || {
        let reasons = provider.reasons().await;
        assert_eq!(reasons[0], "openbao_sealed", "{reasons:?}");
        reasons[1..] == ["circuit_breaker_open"]
    })
    .await;
    let reason = r#"readiness_reason{reason="openbao_sealed"}"#;
    assert_eq!(provider.metric(reason).await, 1.0);
    let impatient = node.peer(IMPATIENT);
    let refused = impatient.refused().await;
    refused.assert_refused(5, &["OpenBao is sealed"]);
    let end = refused
        .err
        .lines()
        .find(|line| line.contains("serve.shutdown"));
    let end: Value = serde_json::from_str(end.unwrap()).unwrap();
    assert_eq!(end["reason"], "openbao_sealed");
    server.unseal().await;
    provider.wait_for_reasons(&[]).await;
    provider.decrypt(to_decrypt(&encrypted)).await.unwrap();

    let stopped = server.stop().await;
    let refused = provider.decrypt(to_decrypt(&encrypted)).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    let unreachable = "OpenBao does not answer; no data is lost";
    assert_decrypt_refused(&refused, "transit unavailable", unreachable);
    let event = provider.events("kms.request").last().unwrap();
    assert_eq!(event["error_class"], "openbao_connection_failed");
    let _server = stopped.start().await;
    let decrypted = provider.decrypt(to_decrypt(&encrypted)).await.unwrap();
    assert_eq!(decrypted, &b"seed"[..]);
    provider.wait_for_reasons(&[]).await;
    assert_eq!(provider.status().await.key_id, encrypted.key_id);
}

#[tokio::test]
async fn an_audit_log_that_blocks_costs_the_calls_meanwhile_and_nothing_afterwards() {
    let (server, audit) = OpenBao::start_with_audit_pipe().await;
    let mut node = Node::on(&server, TIMING).await;
    node.config["openbao"]["timeout"] = json!("1s");
    let provider = node.serve().await;
    let encrypted = provider.encrypt(b"seed").await.unwrap();
    let blocked = audit.block();
    wait_until(SOON, "a call without an answer", async || {
        let refused = provider.decrypt(to_decrypt(&encrypted)).await;
        refused.is_err_and(|refused| {
            assert_decrypt_refused(&refused, "request timed out", "no data is lost");
            true
        })
    })
    .await;
    wait_until(SOON, "an unhealthy status", async || {
        provider.status().await.healthz == "unhealthy"
    })
    .await;
    drop(blocked);
    wait_until(SOON, "an answer", async || {
        provider.decrypt(to_decrypt(&encrypted)).await.is_ok()
    })
    .await;
    provider.wait_for_reasons(&[]).await;
    provider.encrypt(b"seed").await.unwrap();
}
