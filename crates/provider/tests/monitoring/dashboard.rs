//! The dashboard: its frame, its panels, and that Prometheus understands each of its queries.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::files;

use crate::{promtool, queries::assert_documented};

/// Of the reference provider: whoever knows its dashboard finds them again.
const PANELS: [&str; 19] = [
    "Status Cache Age",
    "Token TTL",
    "Transit Key Version",
    "Circuit Breaker",
    "Active Key Hashes",
    "Rotation Pending",
    "KMS gRPC Request Rate",
    "KMS gRPC Latency",
    "OpenBao Request Rate",
    "OpenBao Request Latency",
    "Error Ratio",
    "Auth Failure Rate",
    "Probe And Runtime Fault Rate",
    "Decrypt Validation Error Rate",
    "Credential TTL",
    "Rotation State",
    "Active Key ID Hash By Instance",
    "Configured Auth And Certificate Source",
    "KMS Concurrency And Rejections",
];

fn dashboard() -> Value {
    let file = include_str!("../../../../packaging/grafana/bao-kms-provider.json");
    serde_json::from_str(file).unwrap()
}

fn queries(dashboard: &Value) -> Vec<String> {
    let panels = dashboard["panels"].as_array().unwrap().iter();
    panels
        .flat_map(|panel| panel["targets"].as_array().unwrap())
        .map(|target| target["expr"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn it_is_found_as_the_dashboard_of_the_reference_is() {
    let dashboard = dashboard();
    assert_eq!(dashboard["title"], "OpenBao Kubernetes KMS Overview");
    assert_eq!(dashboard["uid"], "openbao-kms-overview");
    assert_eq!(dashboard["refresh"], "10s");
    assert_eq!(dashboard["time"], json!({"from": "now-30m", "to": "now"}));
    assert_eq!(dashboard["tags"], json!(["openbao", "kubernetes", "kms"]));
    let source = &dashboard["templating"]["list"][0];
    assert_eq!(source["name"], "datasource");
    assert_eq!(source["type"], "datasource");
    assert_eq!(source["query"], "prometheus");
    assert_eq!(source["current"]["value"], "Prometheus");
    let job = &dashboard["templating"]["list"][1];
    assert_eq!(job["datasource"]["uid"], "${datasource}");
    assert_eq!((&job["name"], &job["multi"]), (&json!("job"), &json!(true)));

    let panels = dashboard["panels"].as_array().unwrap();
    let titles: BTreeSet<_> = panels
        .iter()
        .map(|panel| panel["title"].as_str().unwrap())
        .collect();
    assert_eq!(titles.len(), panels.len(), "two panels have one title");
    let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64()).collect();
    assert_eq!(ids.len(), panels.len(), "two panels have one id");
    for title in PANELS {
        assert!(titles.contains(title), "{title}");
    }
    for panel in panels {
        assert_eq!(panel["datasource"]["uid"], "${datasource}");
        for target in panel["targets"].as_array().unwrap() {
            assert_eq!(target["datasource"]["uid"], "${datasource}");
        }
    }
}

#[test]
fn every_metric_in_it_is_documented_and_of_the_chosen_job() {
    let dashboard = dashboard();
    let variable = &dashboard["templating"]["list"][1]["query"]["query"];
    assert_documented(variable.as_str().unwrap());
    for query in queries(&dashboard) {
        assert_documented(&query);
        // Another job collects the metrics of the drill.
        if query.contains("openbao_kms_drill_") {
            continue;
        }
        let metrics = ["openbao_kms_", "process_"].map(|prefix| query.matches(prefix).count());
        let chosen = query.matches(r#"job=~"$job""#).count();
        assert_eq!(chosen, metrics.iter().sum::<usize>(), "{query}");
    }
}

#[test]
fn prometheus_understands_every_query() {
    let rules: Vec<_> = queries(&dashboard())
        .iter()
        .enumerate()
        .map(|(number, query)| {
            let expr = query.replace("$__rate_interval", "1m");
            json!({"record": format!("query:{number}"), "expr": expr})
        })
        .collect();
    let directory = TempDir::new().unwrap();
    let file = json!({"groups": [{"name": "queries", "rules": rules}]}).to_string();
    files::replace(&directory.path().join("rules.yaml"), file.as_bytes(), 0o644);
    promtool::assert_passes(&["check", "rules", "rules.yaml"], directory.path());
}
