//! A reader of the log that stalls: it costs log lines, and nothing else.

use std::{fs, net::TcpListener};

use kms_node::kms_api::generated::StatusRequest;
use rustix::process::Signal;
use testkit::wait::wait_until;

use crate::{
    node::{Node, QUIET},
    provider::{LogReader, Provider, SOON, soon, to_decrypt},
};

const DROPPED: &str = "log_lines_dropped_total";

/// Calls until the pipe and the queue are full.
async fn fill(provider: &Provider, reader: &LogReader) {
    reader.stall();
    let before = provider.metric(DROPPED).await;
    wait_until(SOON, "a dropped line", async || {
        let calls = (0..4).map(|_| {
            let mut client = provider.client();
            tokio::spawn(async move {
                for _ in 0..500 {
                    soon(client.status(StatusRequest {})).await.unwrap();
                }
            })
        });
        for calls in calls.collect::<Vec<_>>() {
            calls.await.unwrap();
        }
        provider.metric(DROPPED).await > before
    })
    .await;
}

#[tokio::test]
async fn a_reader_that_stalls_stops_no_call_and_no_end() {
    let node = Node::new(QUIET).await;
    let (mut provider, reader) = node.spawn_with_reader();
    provider.ready().await;
    let encrypted = provider.encrypt(b"seed").await.unwrap();
    fill(&provider, &reader).await;

    assert_eq!(provider.status().await.healthz, "ok");
    let decrypted = provider.decrypt(to_decrypt(&encrypted)).await.unwrap();
    assert_eq!(decrypted, &b"seed"[..]);
    assert_eq!(soon(provider.health("/ready")).await.0, 200);
    let memory = provider.memory().await;

    reader.go_on();
    wait_until(SOON, "the number of dropped lines", async || {
        let told = provider.events("log.dropped");
        let told: f64 = told.map(|event| event["lines"].as_f64().unwrap()).sum();
        told > 0.0 && told == provider.metric(DROPPED).await
    })
    .await;
    assert!(provider.memory().await <= memory + 4e6);

    fill(&provider, &reader).await;
    provider.signal(Signal::TERM);
    let ended = provider.ended().await;
    assert_eq!(ended.code, Some(0));
    drop(reader);
}

#[tokio::test]
async fn the_last_lines_and_the_reason_of_a_failure_are_written_before_the_end() {
    let mut node = Node::new(QUIET).await;
    let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = taken.local_addr().unwrap().to_string();
    node.config["server"]["healthAddress"] = address.clone().into();
    let (provider, _reader) = node.spawn_with_reader();
    let log = provider.log_file();
    let ended = provider.ended().await;
    assert_eq!(ended.code, Some(5));
    wait_until(SOON, "what was written", async || {
        let err = fs::read_to_string(&log).unwrap();
        let cause = format!("cannot listen on server.healthAddress {address}");
        err.contains(r#""reason":"listener""#) && err.contains(&cause)
    })
    .await;
}
