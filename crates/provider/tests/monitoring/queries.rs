//! The metrics and labels that a query names, held against the documentation.

use std::collections::{BTreeMap, BTreeSet};

/// Labels that Prometheus and histograms add.
const ADDED: [&str; 3] = ["job", "instance", "le"];

/// Asserts that the query asks for documented metrics with their labels.
pub(crate) fn assert_documented(query: &str) {
    let documented = documented();
    let mut found = 0;
    for (name, matched) in selectors(query) {
        if name == "up" {
            continue;
        }
        let histogram = ["_bucket", "_sum", "_count"];
        let family = histogram
            .iter()
            .find_map(|suffix| name.strip_suffix(suffix));
        let labels = documented
            .get(name)
            .or_else(|| documented.get(family?))
            .unwrap_or_else(|| panic!("{name} is not documented: {query}"));
        for label in matched {
            let known = labels.contains(label) || ADDED.contains(&label);
            assert!(known, "{name} has no label {label}: {query}");
        }
        found += 1;
    }
    assert!(found > 0, "no metric in: {query}");
}

/// Metric names in a query, and the labels that are matched right after them.
fn selectors(query: &str) -> Vec<(&str, Vec<&str>)> {
    let mut selectors = Vec::new();
    let mut rest = query;
    while let Some(start) = rest.find(is_name) {
        // A word inside a label's value is none of ours.
        if let Some(quote) = rest[..start].find('"') {
            let after = &rest[quote + 1..];
            rest = &after[after.find('"').unwrap() + 1..];
            continue;
        }
        let word = &rest[start..];
        let end = word.find(|c| !is_name(c)).unwrap_or(word.len());
        let (name, after) = word.split_at(end);
        rest = after;
        if name != "up" && !name.starts_with("openbao") && !name.starts_with("process") {
            continue;
        }
        let mut labels = Vec::new();
        if let Some(braced) = after.strip_prefix('{') {
            let (matchers, beyond) = braced.split_once('}').unwrap();
            labels = matchers
                .split("\",")
                .map(|matcher| matcher.split(['=', '!']).next().unwrap().trim())
                .filter(|label| !label.is_empty())
                .collect();
            rest = beyond;
        }
        selectors.push((name, labels));
    }
    selectors
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// The labels of each metric in the tables of the documentation.
fn documented() -> BTreeMap<String, BTreeSet<String>> {
    let page = include_str!("../../../../docs/observability.md");
    // Those of the daemon, then those of the drill.
    let (_, sections) = page.split_once("## Metrics\n").unwrap();
    let (sections, _) = sections.split_once("\n## Logs").unwrap();
    let mut metrics = BTreeMap::new();
    for row in sections.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        let labels = cells[3].split(';').next().unwrap();
        let labels: BTreeSet<_> = labels
            .split('`')
            .skip(1)
            .step_by(2)
            .map(str::to_owned)
            .collect();
        for name in cells[1].split(", ") {
            metrics.insert(name.trim_matches('`').to_owned(), labels.clone());
        }
    }
    metrics
}

#[test]
fn a_query_is_taken_apart_into_metrics_and_labels() {
    let query = r#"sum by (job, le) (rate(openbao_b{x="process_d",y=~"e|f"}[5m])) / 0.1 unless up{job="g"}"#;
    let expected = [("openbao_b", vec!["x", "y"]), ("up", vec!["job"])];
    assert_eq!(selectors(query), expected);
}
