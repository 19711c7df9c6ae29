//! The view of the API servers: their health checks and their own metrics of the encryption.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};
use testkit::{control_plane::WITHIN, wait::wait_until};

use super::Trio;

const SEEN: &str = "apiserver_envelope_encryption_key_id_hash_status_last_timestamp_seconds";
const INVALID: &str = "apiserver_envelope_encryption_invalid_key_id_from_status_total";
const LATENCY: &str = "apiserver_envelope_encryption_kms_operations_latency_seconds_bucket";

impl Trio {
    /// Asserts that every node uses the same key, that every API server has adopted it and reports
    /// its KMS provider as healthy, and that none has seen an invalid key_id of a healthy provider.
    pub(super) async fn assert_sound(&self, scenario: &str) {
        self.nodes_agree().await;
        let status = self.providers[0].as_ref().unwrap().status().await;
        let expected = hash(&status.key_id);
        for server in &self.servers {
            let url = server.endpoint();
            // Read once: it takes an API server 20 s while a member of etcd is down.
            let mut metrics = Metrics(String::new());
            wait_until(WITHIN, "the key of the nodes", async || {
                // Its health check reads Status.
                let ready = server.get("/readyz?verbose").await;
                let healthy = ready.is_some_and(|(status, checks)| {
                    status == 200 && checks.contains("[+]kms-providers ok")
                });
                if let Some((_, text)) = server.get("/metrics").await {
                    metrics = Metrics(text);
                }
                healthy && metrics.newest_hash() == Some(&*expected)
            })
            .await;

            // An unhealthy Status has an empty key_id.
            let invalid = metrics.sum(INVALID, "");
            let unhealthy = metrics.sum(INVALID, "error=\"empty\"");
            println!("{scenario}: {url}: {:.0} unhealthy Status", unhealthy.abs());
            assert_eq!(invalid, unhealthy, "{scenario}: {url}");
            for method in ["Status", "Encrypt", "Decrypt"] {
                let latencies = metrics.latencies(method);
                println!("{scenario}: {url}: {method}: {latencies}");
            }
        }
    }
}

/// The metrics of an API server.
pub(super) struct Metrics(pub(super) String);

impl Metrics {
    /// Labels and value of each series of a metric.
    fn series(&self, name: &str) -> impl Iterator<Item = (&str, f64)> {
        let series = self.0.lines().filter_map(move |it| it.strip_prefix(name));
        let series = series.filter_map(|series| series.rsplit_once(' '));
        series.filter_map(|(labels, value)| Some((labels, value.parse().ok()?)))
    }

    /// Sum of a metric over the series with `label`.
    fn sum(&self, name: &str, label: &str) -> f64 {
        let series = self.series(name);
        let with_label = series.filter(|(labels, _)| labels.contains(label));
        with_label.map(|(_, value)| value).sum()
    }

    /// The hash of the key_id of the last Status that the API server has received.
    pub(super) fn newest_hash(&self) -> Option<&str> {
        let newest = self.series(SEEN);
        let newest = newest.max_by(|(_, one), (_, other)| one.total_cmp(other));
        label(newest?.0, "key_id_hash")
    }

    /// The histogram of one method since the start of the API server: the number of calls, and
    /// those of every bucket with its upper limit in seconds.
    fn latencies(&self, method: &str) -> String {
        let of_method = format!("KeyManagementService/{method}\"");
        let mut below: BTreeMap<&str, f64> = BTreeMap::new();
        for (labels, number) in self.series(LATENCY) {
            if labels.contains(&of_method) {
                *below.entry(label(labels, "le").unwrap()).or_default() += number;
            }
        }
        let seconds = |limit: &str| limit.parse().unwrap_or(f64::INFINITY);
        let mut limits: Vec<_> = below.into_iter().collect();
        limits.sort_by(|(one, _), (other, _)| seconds(one).total_cmp(&seconds(other)));

        let (mut buckets, mut before) = (Vec::new(), 0.0);
        for (limit, number) in limits {
            if number > before {
                buckets.push(format!("{} up to {limit} s", number - before));
            }
            before = number;
        }
        format!("{before} calls: {}", buckets.join(", "))
    }
}

fn label<'a>(labels: &'a str, name: &str) -> Option<&'a str> {
    let (_, value) = labels.split_once(&format!("{name}=\""))?;
    Some(value.split_once('"')?.0)
}

/// As the API server labels a key_id.
pub(super) fn hash(key_id: &str) -> String {
    let digest = Sha256::digest(key_id.as_bytes());
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}
