//! What a scrape of a real provider says: exactly the metrics that the documentation lists, and
//! each of them moves with what it tells of.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::unix::fs::PermissionsExt as _,
    time::Duration,
};

use serde_json::json;
use testkit::{
    openbao::shared_openbao,
    relay::{Line, Relay},
    tenant::Timing,
    wait::wait_until,
};

use crate::{
    node::{Node, QUIET, TIMING},
    provider::{Provider, SOON, to_decrypt},
};

/// A version that is found waits for longer than the test.
const PATIENT: Timing = Timing {
    activation_delay: Duration::from_secs(3600),
    ..TIMING
};

/// The families of a scrape; a name is as its samples have it.
fn scraped(text: &str) -> Documented {
    let mut families = Documented::new();
    let mut family = String::new();
    for line in text.lines() {
        if let Some(typed) = line.strip_prefix("# TYPE ") {
            let (name, kind) = typed.split_once(' ').unwrap();
            let suffix = match kind {
                "counter" => "_total",
                "info" => "_info",
                _ => "",
            };
            family = format!("{name}{suffix}");
            families.insert(family.clone(), (kind.to_owned(), BTreeSet::new()));
        } else if let Some((_, labels)) = line.split_once('{') {
            let labels = labels.split("\",").map(|label| label.split('=').next());
            let labels = labels.flatten().filter(|label| *label != "le");
            let (_, seen) = families.get_mut(&family).unwrap();
            seen.extend(labels.map(str::to_owned));
        }
    }
    families
}

/// What the documentation says of a family: its type and its labels.
type Documented = BTreeMap<String, (String, BTreeSet<String>)>;

/// The families of the documentation, from rows such as
/// ``| `name`, `name` | gauge, 1 | `label` (`value`); more |``.
fn documented() -> Documented {
    let page = include_str!("../../../../docs/observability.md");
    let (_, section) = page.split_once("## Metrics").unwrap();
    let (section, _) = section.split_once("\n## ").unwrap();
    let mut families = Documented::new();
    for row in section.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        let kind = cells[2].split(',').next().unwrap();
        let labels: BTreeSet<_> = cells[3]
            .split(';')
            .next()
            .unwrap()
            .split(['(', ')'])
            .step_by(2)
            .flat_map(|outside| outside.split('`').skip(1).step_by(2))
            .map(str::to_owned)
            .collect();
        for name in cells[1].split(", ") {
            let name = name.trim_matches('`').to_owned();
            families.insert(name, (kind.to_owned(), labels.clone()));
        }
    }
    families
}

async fn now(provider: &Provider, series: &str) -> bool {
    let metrics = provider.metrics().await;
    let series = format!("openbao_kms_{series}");
    metrics.lines().any(|line| line.starts_with(&series))
}

#[tokio::test]
async fn a_scrape_holds_what_the_documentation_lists_and_nothing_else() {
    let mut node = Node::new(PATIENT).await;
    let relay = Relay::to(&shared_openbao().await.endpoint()).await;
    node.config["openbao"]["address"] = json!(relay.address);
    node.config["legacy"] = json!({"vaultKubernetesKms": {"providerName": "old"}});
    let mut provider = node.serve().await;
    node.rotate().await;
    provider.wait_for_event("key.pending").await;
    relay.set(Line::Cut);
    let aside = node.state_dir().with_extension("aside");
    rustix::fs::rename(node.state_dir(), aside).unwrap();
    std::fs::remove_file(node.tenant.jwt_file()).unwrap();
    let legacy = node.sockets.path().join("vault-kubernetes-kms.sock");
    for socket in [node.sockets.socket(), legacy] {
        let private = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(socket, private).unwrap();
    }
    wait_until(SOON, "what shows in need alone", async || {
        now(&provider, "jwt_ttl_seconds").await
            && now(&provider, "readiness_reason{").await
            && now(&provider, "persistence_error{").await
            && now(&provider, "file_unreadable{").await
            && now(&provider, "socket_fault{").await
            && now(&provider, "legacy_socket_fault{").await
    })
    .await;
    let metrics = provider.metrics().await;
    assert_eq!(scraped(&metrics), documented());
    assert!(!metrics.contains("{}"), "{metrics}");
    assert!(metrics.ends_with("# EOF\n"));
}

#[tokio::test]
async fn a_scrape_has_the_format_that_the_client_prefers() {
    let node = Node::new(QUIET).await;
    let provider = node.serve().await;
    let (of_open_metrics, open_metrics) = provider
        .metrics_as("application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.2,*/*;q=0.1")
        .await;
    assert_eq!(
        of_open_metrics,
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    );
    let (of_text, text) = provider.metrics_as("*/*").await;
    assert_eq!(of_text, "text/plain; version=0.0.4; charset=utf-8");
    assert!(!text.contains("# EOF") && !text.contains("# UNIT"));
    let requests = "openbao_kms_grpc_requests_total";
    assert!(text.contains(&format!("\n# TYPE {requests} counter\n")));
    assert!(text.contains("\n# TYPE openbao_kms_build_info gauge\n"));
    let names = |text: &str| -> BTreeSet<String> {
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        let series = samples.filter_map(|line| Some(line.rsplit_once(' ')?.0.to_owned()));
        series.collect()
    };
    assert_eq!(names(&text), names(&open_metrics));
    // Each sample follows the metadata of its own name, as Prometheus requires of this format.
    let mut family = "";
    for line in text.lines() {
        if let Some(typed) = line.strip_prefix("# TYPE ") {
            family = typed.split(' ').next().unwrap();
        } else if !line.starts_with('#') {
            let name = line.split(['{', ' ']).next().unwrap();
            let of_histogram = ["_bucket", "_sum", "_count"];
            let name = of_histogram
                .iter()
                .find_map(|suffix| name.strip_suffix(suffix).filter(|it| *it == family))
                .unwrap_or(name);
            assert_eq!(name, family, "{line}");
        }
    }
}

#[tokio::test]
async fn what_the_alerts_compare_with_is_what_is_configured() {
    let node = Node::new(PATIENT).await;
    let provider = node.serve().await;
    for (series, value) in [
        ("status_max_staleness_seconds", 60.0),
        ("status_probe_interval_seconds", 0.2),
        ("deep_probe_interval_seconds", 0.5),
        ("rotation_expected_wait_seconds", 3600.4),
        ("login_before_token_expiry_seconds", 300.0),
        ("credential_min_remaining_seconds", 120.0),
        ("clock_skew_leeway_seconds", 30.0),
        (r#"grpc_concurrency_limit{method="decrypt"}"#, 64.0),
        (r#"auth_method_info{method="jwt"}"#, 1.0),
        (r#"certificate_source_info{source="none"}"#, 1.0),
    ] {
        assert_eq!(provider.metric(series).await, value, "{series}");
    }
    let start = provider.events("serve.start").next().unwrap();
    let fingerprint = start["fingerprint"].as_str().unwrap();
    let identity = format!(r#"identity_info{{fingerprint="{fingerprint}"}}"#);
    assert_eq!(provider.metric(&identity).await, 1.0);
}

#[tokio::test]
async fn a_rotation_shows_while_it_waits() {
    let node = Node::new(PATIENT).await;
    let mut provider = node.serve().await;
    assert_eq!(provider.metric("state_generation").await, 1.0);
    assert_eq!(provider.metric("state_checkpoint_current").await, 1.0);
    assert_eq!(provider.metric("oldest_readable_key_version").await, 1.0);
    assert!(!now(&provider, "pending_key_version").await);
    assert!(!now(&provider, "pending_key_id_hash").await);
    let saved = r#"last_success_timestamp_seconds{event="state_save"}"#;
    assert!(provider.metric(saved).await > 1.7e9);

    node.rotate().await;
    provider.wait_for_event("key.pending").await;
    assert_eq!(provider.metric("pending_key_version").await, 2.0);
    let found = provider.events("key.pending").next().unwrap();
    let hash = found["pending_key_id_hash"].as_str().unwrap();
    let waiting = format!(r#"pending_key_id_hash{{hash="{hash}"}}"#);
    assert_eq!(provider.metric(&waiting).await, 1.0);
    assert_eq!(provider.metric("readable_key_versions").await, 1.0);
    let since = provider.metric("rotation_pending_since_timestamp_seconds");
    assert!(since.await > 1.7e9);
    assert!(provider.metric("state_generation").await >= 2.0);
    provider.stop().await;

    let again = node.serve().await;
    assert!(again.metric("state_generation").await >= 2.0);
}

#[tokio::test]
async fn an_openbao_that_is_gone_shows_as_reasons_classes_and_old_successes() {
    let mut node = Node::new(TIMING).await;
    let relay = Relay::to(&shared_openbao().await.endpoint()).await;
    node.config["openbao"]["address"] = json!(relay.address);
    let provider = node.serve().await;
    let encrypted = provider.encrypt(b"seed").await.unwrap();
    let events = ["metadata_probe", "deep_probe", "login", "state_save"]
        .map(|event| format!(r#"last_success_timestamp_seconds{{event="{event}"}}"#));
    for event in &events {
        assert!(provider.metric(event).await > 1.7e9, "{event}");
    }
    assert!(!now(&provider, "readiness_reason{").await);

    relay.set(Line::Cut);
    provider.decrypt(to_decrypt(&encrypted)).await.unwrap_err();
    let class = r#"grpc_errors_total{method="decrypt",error_class="openbao_connection_failed"}"#;
    assert_eq!(provider.metric(class).await, 1.0);
    wait_until(SOON, "an open breaker", async || {
        let reason = r#"readiness_reason{reason="circuit_breaker_open"}"#;
        provider.metric(reason).await == 1.0
    })
    .await;
    let failed = r#"transit_metadata_observation_total{status="connection_failed"}"#;
    assert!(provider.metric(failed).await >= 3.0);
    assert_eq!(provider.metric("ready").await, 0.0);
}

#[tokio::test]
async fn a_jwt_that_nobody_renews_shows_before_a_login_needs_it() {
    let node = Node::new(TIMING).await;
    let provider = node.serve().await;
    wait_until(SOON, "a JWT of an hour", async || {
        provider.metric("jwt_ttl_seconds").await > 3000.0
    })
    .await;
    let mut claims = node.tenant.claims();
    claims["exp"] = (claims["iat"].as_u64().unwrap() + 50).into();
    node.tenant.write_jwt(&claims);
    wait_until(SOON, "a JWT of 50 seconds", async || {
        (1.0..=50.0).contains(&provider.metric("jwt_ttl_seconds").await)
    })
    .await;
    std::fs::remove_file(node.tenant.jwt_file()).unwrap();
    wait_until(SOON, "no JWT", async || {
        provider.metric("jwt_ttl_seconds").await == 0.0
    })
    .await;
    assert_eq!(provider.metric("ready").await, 1.0, "the token still lives");
}

#[tokio::test]
async fn the_clock_of_openbao_is_compared_with_ours() {
    let node = Node::new(QUIET).await;
    let provider = node.serve().await;
    let offset = provider.metric("openbao_clock_offset_seconds").await;
    assert!(offset != 0.0 && offset.abs() < 30.0, "{offset}");
}

#[tokio::test]
async fn the_process_tells_of_itself() {
    let node = Node::new(QUIET).await;
    let provider = node.serve().await;
    let metrics = provider.metrics().await;
    let value = |name: &str| -> f64 {
        let mut lines = metrics.lines();
        let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("{name}")).parse().unwrap()
    };
    assert!(value("process_start_time_seconds") > 1.7e9);
    assert!(value("process_cpu_seconds_total") > 0.0);
    assert!(value("process_resident_memory_bytes") > 1e6);
    let bytes = value("process_virtual_memory_bytes");
    assert!(bytes >= value("process_resident_memory_bytes"));
    let open = value("process_open_fds");
    assert!((5.0..value("process_max_fds")).contains(&open), "{open}");
}
