//! The alert rules: complete, on documented metrics, and each seen to fire and to be silent.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::files;

use crate::{
    cases::{CASES, Case},
    promtool,
    queries::assert_documented,
};

const FILE: &str = include_str!("../../../../packaging/prometheus/bao-kms-provider.rules.yaml");
const PAGE: &str = include_str!("../../../../docs/operate/alerts.md");

/// Those of the reference provider: whoever routes by name finds them again.
const OF_THE_REFERENCE: [&str; 14] = [
    "OpenBaoKMSStatusCacheStale",
    "OpenBaoKMSCircuitBreakerOpen",
    "OpenBaoKMSMetadataProbeFailing",
    "OpenBaoKMSOpenBaoErrorRateHigh",
    "OpenBaoKMSAuthFailures",
    "OpenBaoKMSTokenTTLShort",
    "OpenBaoKMSKeyIDHashDiverged",
    "OpenBaoKMSRotationPendingStuck",
    "OpenBaoKMSAADValidationErrors",
    "OpenBaoKMSUnknownKeyIDErrors",
    "OpenBaoKMSGRPCLatencyHigh",
    "OpenBaoKMSConcurrencyRejected",
    "OpenBaoKMSStaleSocketRemoved",
    "OpenBaoKMSProcessRestarting",
];

#[derive(Deserialize)]
struct File {
    groups: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    rules: Vec<Rule>,
}

#[derive(Deserialize)]
struct Rule {
    alert: String,
    expr: String,
    labels: Labels,
    annotations: Annotations,
}

#[derive(Deserialize)]
struct Labels {
    severity: String,
}

#[derive(Deserialize)]
struct Annotations {
    summary: String,
    description: String,
    runbook_url: String,
}

fn rules() -> Vec<Rule> {
    let file: File = serde_saphyr::from_str(FILE).unwrap();
    file.groups
        .into_iter()
        .flat_map(|group| group.rules)
        .collect()
}

#[test]
fn every_alert_says_what_it_means_and_where_the_runbook_is() {
    let mut headings: BTreeSet<_> = PAGE
        .lines()
        .filter_map(|line| line.strip_prefix("## OpenBaoKMS"))
        .map(|rest| format!("OpenBaoKMS{rest}"))
        .collect();
    for rule in rules() {
        let name = &rule.alert;
        let severity = &*rule.labels.severity;
        assert!(matches!(severity, "critical" | "warning"), "{name}");
        assert!(!rule.annotations.summary.is_empty(), "{name}");
        assert!(rule.annotations.description.len() > 60, "{name}");
        let anchor = format!("docs/operate/alerts.md#{}", name.to_lowercase());
        assert_eq!(rule.annotations.runbook_url, anchor);
        assert!(headings.remove(name), "{name} has no section");
    }
    assert!(headings.is_empty(), "sections without alert: {headings:?}");
}

#[test]
fn the_alerts_of_the_reference_are_there() {
    let names: BTreeSet<_> = rules().into_iter().map(|rule| rule.alert).collect();
    for name in OF_THE_REFERENCE {
        assert!(names.contains(name), "{name}");
    }
}

#[test]
fn every_metric_in_a_rule_is_documented() {
    for rule in rules() {
        assert_documented(&rule.expr);
    }
}

#[test]
fn an_annotation_names_only_labels_that_the_alert_has() {
    for rule in rules() {
        let case = CASES.iter().find(|case| case.alert == rule.alert).unwrap();
        let texts = [&rule.annotations.summary, &rule.annotations.description];
        for named in texts.iter().flat_map(|text| text.split("$labels.").skip(1)) {
            let label = named.split(' ').next().unwrap();
            let has = case.labels.contains(&format!("{label}=\""));
            assert!(has, "{} has no label {label}", rule.alert);
        }
    }
}

#[test]
fn every_alert_fires_when_it_should_and_only_then() {
    let rules = rules();
    let alerts: BTreeSet<_> = rules.iter().map(|rule| &*rule.alert).collect();
    let tried: BTreeSet<_> = CASES.iter().map(|case| case.alert).collect();
    assert_eq!(
        alerts, tried,
        "each alert has a case, and each case an alert"
    );

    let mut tests = Vec::new();
    for rule in &rules {
        for case in CASES.iter().filter(|case| case.alert == rule.alert) {
            assert!(!case.silent.is_empty(), "{}", case.alert);
            let severity = &*rule.labels.severity;
            tests.push(test(case, case.firing, Some(severity)));
            tests.extend(case.silent.iter().map(|silent| test(case, silent, None)));
        }
    }
    let directory = TempDir::new().unwrap();
    let write = |name: &str, text: &str| {
        files::replace(&directory.path().join(name), text.as_bytes(), 0o644)
    };
    write("rules.yaml", FILE);
    let file = json!({
        "rule_files": ["rules.yaml"],
        "evaluation_interval": "1m",
        "tests": tests,
    });
    write("test.yaml", &file.to_string());
    promtool::assert_passes(&["check", "rules", "rules.yaml"], directory.path());
    promtool::assert_passes(&["test", "rules", "test.yaml"], directory.path());
}

/// One value a minute; the alert is looked for after half an hour.
fn test(case: &Case, series: &[(&str, &str)], severity: Option<&str>) -> Value {
    let series: Vec<_> = series
        .iter()
        .map(|(series, values)| json!({"series": series, "values": values}))
        .collect();
    let firing = severity.map(|severity| {
        let mut labels = format!(
            r#"ALERTS{{alertname="{}",alertstate="firing",severity="{severity}""#,
            case.alert
        );
        if !case.labels.is_empty() {
            labels.push(',');
            labels.push_str(case.labels);
        }
        labels.push('}');
        json!({"labels": labels, "value": 1})
    });
    json!({
        "name": case.alert,
        "interval": "1m",
        "input_series": series,
        "promql_expr_test": [{
            "expr": format!(r#"ALERTS{{alertname="{}",alertstate="firing"}}"#, case.alert),
            "eval_time": "30m",
            "exp_samples": firing.into_iter().collect::<Vec<_>>(),
        }],
    })
}
