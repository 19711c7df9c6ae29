//! The view of the API servers: their health checks and their own metrics of the encryption.

use sha2::{Digest as _, Sha256};
use testkit::{
    control_plane::{ControlPlane, WITHIN},
    wait::wait_until,
};

use super::Trio;

const SEEN: &str = "apiserver_envelope_encryption_key_id_hash_status_last_timestamp_seconds";
const INVALID: &str = "apiserver_envelope_encryption_invalid_key_id_from_status_total";
const LATENCY: &str = "apiserver_envelope_encryption_kms_operations_latency_seconds";

impl Trio {
    /// Asserts that every node uses the same key, that every API server has adopted it and reports
    /// its KMS provider as healthy, and that none has seen an invalid key_id of a healthy provider.
    pub(super) async fn assert_sound(&self, scenario: &str) {
        self.nodes_agree().await;
        let status = self.providers[0].as_ref().unwrap().status().await;
        let expected = hash(&status.key_id);
        for server in &self.servers {
            let url = server.endpoint();
            wait_until(WITHIN, "the key of the nodes", async || {
                // Its health check reads Status.
                let ready = server.get("/readyz?verbose").await;
                let healthy = ready.is_some_and(|(status, checks)| {
                    status == 200 && checks.contains("[+]kms-providers ok")
                });
                healthy && newest_hash(server).await.as_ref() == Some(&expected)
            })
            .await;
            // An unhealthy Status has an empty key_id.
            let invalid = server.metric(INVALID, &[]).await;
            let unhealthy = server.metric(INVALID, &["error=\"empty\""]).await;
            println!("{scenario}: {url}: {:.0} unhealthy Status", unhealthy.abs());
            assert_eq!(invalid, unhealthy, "{scenario}: {url}");
            for method in ["Status", "Encrypt", "Decrypt"] {
                let label = format!("method_name=\"/v2.KeyManagementService/{method}\"");
                let total = async |kind: &str| {
                    let name = format!("{LATENCY}_{kind}");
                    server.metric(&name, &[&label]).await
                };
                let (seconds, calls) = (total("sum").await, total("count").await);
                println!("{scenario}: {url}: {calls} {method} in {seconds:.3} s");
            }
        }
    }
}

/// The hash of the key_id of the last Status that an API server has received.
async fn newest_hash(server: &ControlPlane) -> Option<String> {
    let (_, metrics) = server.get("/metrics").await?;
    let series = metrics.lines().filter_map(|line| line.strip_prefix(SEEN));
    let seen = series.filter_map(|series| {
        let (labels, time) = series.rsplit_once(' ')?;
        let (_, label) = labels.split_once("key_id_hash=\"")?;
        let (hash, _) = label.split_once('"')?;
        Some((time.parse::<f64>().ok()?, hash.to_owned()))
    });
    let newest = seen.max_by(|(one, _), (other, _)| one.total_cmp(other));
    newest.map(|(_, hash)| hash)
}

/// As the API server labels a key_id.
pub(super) fn hash(key_id: &str) -> String {
    let digest = Sha256::digest(key_id.as_bytes());
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}
