//! Fault after fault under load: while OpenBao is healthy no call fails, and the process stays as
//! small as it was.

#![expect(
    clippy::print_stdout,
    reason = "figures for whoever asked for the long tests"
)]

use std::time::Duration;

use serde_json::json;
use testkit::{
    openbao::OpenBao,
    relay::{Line, Relay},
    tenant::{Tenant, Timing},
};
use tokio::time::{Instant, sleep};

use crate::{
    node::{Node, TIMING},
    provider::Provider,
    traffic::{Callers, Traffic},
};

/// As the defaults are, so that recovery owes nothing to probes that come often anyway.
const PACE: Timing = Timing {
    probe_interval: Duration::from_secs(30),
    deep_probe_interval: Duration::from_secs(60),
    max_staleness: Duration::from_secs(120),
    ..TIMING
};

const CALLERS: Callers = Callers {
    decrypt: 6,
    encrypt: 2,
};

const FAULT: Duration = Duration::from_secs(1);
/// The time that the provider has to recover.
const RECOVERY: Duration = Duration::from_secs(2);
/// From the end of one fault to the next.
const HEALTHY: Duration = Duration::from_secs(5);

/// What a process may grow by: buffers of connections and an allocator that keeps some.
const GROWTH_BYTES: f64 = 8.0 * 1024.0 * 1024.0;

#[derive(Debug, Clone, Copy)]
enum Fault {
    Line(Line),
    Former(Line),
    Hang,
    Seal,
}

const FAULTS: [Fault; 10] = [
    Fault::Line(Line::Cut),
    Fault::Former(Line::Silent),
    Fault::Line(Line::Reset),
    Fault::Seal,
    Fault::Line(Line::Silent),
    Fault::Hang,
    Fault::Line(Line::HalfOpen),
    Fault::Former(Line::Cut),
    Fault::Line(Line::Delayed(Duration::from_millis(200))),
    Fault::Line(Line::Held),
];

#[tokio::test]
async fn five_faults_in_a_row_fail_no_call_afterwards() {
    soak(&FAULTS[..5]).await;
}

mod long {
    use super::*;

    #[tokio::test]
    #[ignore = "takes ten minutes; `cargo xtask test --long`"]
    async fn a_hundred_faults_fail_no_call_afterwards() {
        soak(&[FAULTS; 10].concat()).await;
    }
}

async fn soak(faults: &[Fault]) {
    let mut server = OpenBao::start().await;
    let mut node = Node::of(Tenant::new(&server).await, PACE);
    let relay = Relay::to(&server.endpoint()).await;
    node.config["openbao"]["address"] = json!(relay.address);
    node.config["openbao"]["timeout"] = json!("2s");
    node.config["logging"]["level"] = json!("info");
    let provider = node.serve().await;
    let traffic = Traffic::begin(&provider, CALLERS).await;
    sleep(RECOVERY).await;
    let before = Size::of(&provider).await;

    let mut healthy = Vec::new();
    for fault in faults {
        match fault {
            Fault::Line(line) => {
                relay.set(*line);
                sleep(FAULT).await;
                relay.set(Line::Open);
            }
            Fault::Former(line) => {
                relay.set_former(*line);
                sleep(FAULT).await;
            }
            Fault::Hang => {
                let hung = server.hang();
                sleep(FAULT).await;
                drop(hung);
            }
            Fault::Seal => {
                server.seal().await;
                sleep(FAULT).await;
                server.unseal().await;
            }
        }
        let healed = Instant::now();
        sleep(HEALTHY).await;
        healthy.push((*fault, healed + RECOVERY, Instant::now()));
    }
    let after = Size::of(&provider).await;
    let record = traffic.end().await;
    let (mut failed, mut calls) = (0, 0);
    for (fault, from, to) in healthy {
        let (of_these, all) = record.failed_between(from, to);
        assert!(all > 0, "{fault:?}: nothing was asked");
        println!("{fault:?}: {of_these} of {all} calls failed afterwards");
        failed += of_these;
        calls += all;
    }
    println!("{failed} of {calls} calls failed; {before:?}, at the end {after:?}");
    assert_eq!(failed, 0);
    assert!(after.memory < before.memory + GROWTH_BYTES, "{after:?}");
    assert!(after.files <= before.files + 4.0, "{after:?}");
}

/// What the process takes.
#[derive(Debug)]
struct Size {
    memory: f64,
    files: f64,
}

impl Size {
    async fn of(provider: &Provider) -> Self {
        let metrics = provider.metrics().await;
        let value = |name: &str| {
            let mut lines = metrics.lines();
            let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            value.unwrap().parse().unwrap()
        };
        Self {
            memory: value("process_resident_memory_bytes"),
            files: value("process_open_fds"),
        }
    }
}
