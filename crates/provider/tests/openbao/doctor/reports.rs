//! Whole reports, as a person and as a program sees them.

use serde_json::json;

use crate::{
    node::{Finished, Node, QUIET},
    upkeep::transcript,
};

/// Compares a report with the one that was reviewed.
#[track_caller]
pub(super) fn assert_text(name: &str, node: &Node, report: &Finished) {
    let shown = transcript(node, report);
    let sockets = node.sockets.path().to_str().unwrap();
    let shown = shown
        .replace(node.tenant.path().to_str().unwrap(), "<tenant>")
        .replace(sockets, "<socket directory>");
    let varying = [
        "https://127.0.0.1:",
        "process ",
        "uid=",
        "gid=",
        "groups=",
        "gid ",
        "at most ",
        "\"pid\": ",
        "\"user\": ",
        "\"provider\": ",
        "removed; ",
        "MiB and ",
        "freeBytes\": ",
        "freeInodes\": ",
        "skewSecondsAtLeast\": ",
        "skewSecondsAtMost\": ",
    ];
    let shown = varying.into_iter().fold(shown, hide_numbers);
    insta::assert_snapshot!(name, shown);
}

/// Hides the numbers that follow directly on this text.
fn hide_numbers(text: String, after: &str) -> String {
    let mut pieces = text.split(after);
    let first = pieces.next().unwrap_or_default().to_owned();
    pieces.fold(first, |shown, piece| {
        let rest = piece.trim_start_matches(|c: char| c.is_ascii_digit() || c == ',');
        let number = if rest.len() < piece.len() { "<n>" } else { "" };
        // A comma may end the member rather than belong to the number.
        let comma = if piece[..piece.len() - rest.len()].ends_with(',') {
            ","
        } else {
            ""
        };
        format!("{shown}{after}{number}{comma}{rest}")
    })
}

#[tokio::test]
async fn a_node_that_serves() {
    let node = Node::new(QUIET).await;
    let provider = node.serve().await;
    let encrypts = async || {
        provider
            .metric(r#"grpc_requests_total{method="encrypt",status="ok"}"#)
            .await
    };
    let before = encrypts().await;
    let text = node.run(&["doctor"]);
    assert_text("serving", &node, &text);
    let json = node.run(&["doctor", "--output", "json"]);
    assert_text("serving-json", &node, &json);
    // It asks for Status alone.
    assert_eq!(encrypts().await, before);
    provider.stop().await;
}

#[tokio::test]
async fn a_node_that_is_new() {
    let node = Node::new(QUIET).await;
    assert_text("new", &node, &node.run(&["doctor"]));
}

#[tokio::test]
async fn a_configuration_with_two_problems() {
    let mut node = Node::new(QUIET).await;
    node.config["openbao"]["address"] = json!("http://127.0.0.1:8200");
    node.config["transit"]["keyName"] = json!("a/b");
    assert_text("invalid", &node, &node.run(&["doctor"]));
}

#[tokio::test]
async fn a_login_that_this_build_does_not_have() {
    let mut node = Node::new(QUIET).await;
    node.config["auth"]["method"] = json!("cert");
    let report = node.run(&["doctor"]);
    assert_eq!(report.code, Some(3), "{}", report.out);
    let refused = "doctor: failed\nconfig.validate: ";
    assert!(report.out.contains(refused), "{}", report.out);
}
