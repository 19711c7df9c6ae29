//! `benchmark`, directly and through the socket.

use serde_json::{Value, json};

use crate::node::{Node, QUIET};

const FIGURES: [&str; 5] = ["min", "p50", "p90", "p99", "max"];

/// The figures of one call, which must be in their order and longer than nothing.
#[track_caller]
fn assert_plausible(figures: &Value) {
    let all = FIGURES.map(|name| figures[name].as_f64().unwrap());
    assert!(all[0] > 0.0, "{figures}");
    assert!(all.is_sorted(), "{figures}");
}

#[tokio::test]
async fn a_benchmark_needs_no_provider_and_prints_a_row_a_call() {
    let node = Node::new(QUIET).await;
    let text = node.run(&["benchmark"]);
    assert_eq!((text.code, text.err.as_str()), (Some(0), ""));
    let first = "benchmark: 5 round trips through OpenBao succeeded, 1 at a time, in ";
    assert!(text.out.starts_with(first), "{}", text.out);
    for call in ["encrypt", "decrypt"] {
        let start = format!("  transit {call}  ");
        let mut lines = text.out.lines();
        let row = lines.find_map(|line| line.strip_prefix(&start)).unwrap();
        let figures: Vec<_> = row.split_whitespace().collect();
        assert_eq!(figures.len(), FIGURES.len(), "{row}");
        for figure in figures {
            let (_, decimals) = figure.split_once('.').unwrap();
            assert_eq!(decimals.len(), 3, "{row}");
        }
    }
    assert!(!node.state_file().exists());
}

#[tokio::test]
async fn more_at_once_than_connections_is_no_failure() {
    let node = Node::new(QUIET).await;
    let done = node.run(&[
        "benchmark",
        "--iterations=60",
        "--concurrency=30",
        "--output=json",
    ]);
    assert_eq!(done.code, Some(0), "{}", done.err);
    let result = done.json();
    for (member, value) in [
        ("schemaVersion", json!("v1")),
        ("command", json!("benchmark")),
        ("through", json!("openbao")),
        ("iterations", json!(60)),
        ("concurrency", json!(30)),
    ] {
        assert_eq!(result[member], value, "{member}");
    }
    assert_plausible(&result["encryptMs"]);
    assert_plausible(&result["decryptMs"]);
}

#[tokio::test]
async fn through_the_socket_the_running_provider_does_the_work() {
    let node = Node::new(QUIET).await;
    let command = [
        "benchmark",
        "--through-socket",
        "--iterations=7",
        "--concurrency=2",
    ];
    let refused = node.run(&command);
    refused.assert_refused(
        4,
        &[
            "through the provider's socket failed after 0 that succeeded",
            "no process serves the socket",
        ],
    );
    assert_eq!(refused.out, "");

    let provider = node.serve().await;
    let text = node.run(&command);
    assert_eq!(text.code, Some(0), "{}", text.err);
    for line in [
        "7 round trips through the socket succeeded",
        "P99",
        "\n  kms encrypt  ",
        "\n  kms decrypt  ",
    ] {
        assert!(text.out.contains(line), "{line:?} is missing: {}", text.out);
    }
    for method in ["encrypt", "decrypt"] {
        let answered = format!(r#"grpc_requests_total{{method="{method}",status="ok"}}"#);
        assert_eq!(provider.metric(&answered).await, 7.0, "{method}");
    }
    let json = node.run(&[&command[..], &["--output", "json"]].concat());
    assert_eq!(json.json()["through"], "socket");
    assert_plausible(&json.json()["decryptMs"]);
}

#[tokio::test]
async fn what_openbao_refuses_is_named_with_the_next_step() {
    let node = Node::new(QUIET).await;
    node.grant(|policy| policy.replace("/decrypt/", "/decrypt-nothing/"))
        .await;
    let refused = node.run(&["benchmark"]);
    refused.assert_refused(
        4,
        &[
            "a round trip through OpenBao failed after 0 that succeeded",
            "cause: Transit fails to decrypt",
            "data: no data is lost",
            "next: write the policy of the role again",
            "bao-kms-provider policy openbao",
            "do not give the provider a root token",
        ],
    );
    assert_eq!(refused.out, "");
    node.grant(|policy| policy.replace("/keys/", "/no-keys/"))
        .await;
    let refused = node.run(&["benchmark"]);
    refused.assert_refused(4, &["nothing was measured: the metadata", "next: write"]);
}
