//! A hundred nodes lose their tokens at the same moment: their logins are spread, and each node logs
//! in once.

#![expect(clippy::print_stdout, reason = "figures")]

use std::{fs, time::Duration};

use serde_json::{Value, json};
use testkit::{
    openbao::OpenBao,
    tenant::{Tenant, Timing},
    wait::wait_until,
};
use tokio::time::sleep;

use crate::{
    node::{Node, TIMING},
    provider::{Provider, SOON},
};

const NODES: usize = 100;

const PACE: Timing = Timing {
    probe_interval: Duration::from_secs(10),
    deep_probe_interval: Duration::from_secs(3600),
    max_staleness: Duration::from_secs(60),
    grace_timeout: Duration::from_secs(120),
    ..TIMING
};

mod long {
    #[tokio::test]
    #[ignore = "takes minutes; `cargo xtask test --long`"]
    async fn a_hundred_nodes_in_step_log_in_once_each_and_apart() {
        super::storm().await;
    }
}

async fn storm() {
    let server = OpenBao::start().await;
    let first = Node::of(Tenant::new(&server).await, PACE);
    let mut nodes: Vec<Node> = (1..NODES).map(|_| first.peer(PACE)).collect();
    nodes.push(first);
    let mut providers: Vec<Provider> = nodes.iter().map(Node::spawn).collect();
    for provider in &mut providers {
        provider.ready().await;
    }

    // The end of an outage brings all nodes in step.
    let outage = server.hang();
    for provider in &providers {
        wait_until(SOON, "a failed probe", async || {
            !provider.reasons().await.is_empty()
        })
        .await;
    }
    drop(outage);
    for provider in &providers {
        provider.wait_for_reasons(&[]).await;
    }
    lose_tokens(&server, &nodes[0], "one interval after an outage", 2).await;
    // Ten intervals, in which the nodes drift apart.
    sleep(10 * PACE.probe_interval).await;
    lose_tokens(&server, &nodes[0], "ten intervals later", 3).await;
}

/// Revokes all tokens, waits for the logins, and prints their distribution.
async fn lose_tokens(server: &OpenBao, node: &Node, title: &str, round: usize) {
    let mount = &node.tenant.jwt_mount;
    let path = format!("sys/leases/revoke-prefix/auth/{mount}");
    let sync = json!({"sync": true});
    server.admin().write(&path, &sync).await.unwrap();
    wait_until(SOON, "a login of each node", async || {
        logins(server, mount).len() >= round * NODES
    })
    .await;
    // Time for repeated logins, if a node made any.
    sleep(PACE.probe_interval).await;
    let logins = logins(server, mount);
    assert_eq!(logins.len(), round * NODES, "repeated logins");
    let these = &logins[(round - 1) * NODES..];
    let within = |from: &f64| {
        these
            .iter()
            .filter(|at| (0.0..1.0).contains(&(**at - from)))
            .count()
    };
    let fullest = these.iter().map(within).max().unwrap();
    let last = these[NODES - 1] - these[0];
    println!("{title}: {NODES} logins within {last:.1} s, at most {fullest} in one second");
    assert!(fullest < NODES * 2 / 3, "in step: {fullest}");
}

/// Seconds of the day of all successful logins, in order.
fn logins(server: &OpenBao, mount: &str) -> Vec<f64> {
    let log = fs::read_to_string(server.audit_log()).unwrap();
    let path = format!("auth/{mount}/login");
    let entries = log
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let logins = entries.filter(|entry| {
        entry["type"] == "response" && entry["request"]["path"] == path && entry["error"].is_null()
    });
    let mut times: Vec<f64> = logins
        .map(|entry| seconds(entry["time"].as_str().unwrap()))
        .collect();
    times.sort_by(f64::total_cmp);
    times
}

/// Seconds of the day in a time such as `2026-11-29T18:03:57.25Z`.
fn seconds(time: &str) -> f64 {
    let (_, of_day) = time.trim_end_matches('Z').split_once('T').unwrap();
    of_day
        .split(':')
        .fold(0.0, |sum, part| sum * 60.0 + part.parse::<f64>().unwrap())
}
