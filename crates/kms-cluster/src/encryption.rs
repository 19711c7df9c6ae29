//! The encryption of one API server, by its metrics.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub(crate) const KEY_ID: &str =
    "apiserver_envelope_encryption_key_id_hash_status_last_timestamp_seconds";
pub(crate) const CONFIGURATION: &str = "apiserver_encryption_config_controller_last_config_info";

/// Hashes of the keys and of the `EncryptionConfiguration` in use.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Encryption {
    /// For each KMS provider, the hash of the key_id in its latest Status.
    pub key_id_hashes: BTreeMap<String, String>,
    /// Absent before Kubernetes 1.34.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configuration_hash: Option<String>,
}

impl Encryption {
    /// Of the text of `/metrics`.
    #[must_use]
    pub fn parse(metrics: &str) -> Self {
        let mut newest: BTreeMap<String, (f64, String)> = BTreeMap::new();
        for (line, value) in series(metrics, KEY_ID) {
            let (Some(provider), Some(hash)) =
                (label(line, "provider_name"), label(line, "key_id_hash"))
            else {
                continue;
            };
            let known = newest.get(provider).map_or(f64::MIN, |(time, _)| *time);
            if value >= known {
                newest.insert(provider.to_owned(), (value, hash.to_owned()));
            }
        }
        let configuration = series(metrics, CONFIGURATION).find(|(_, value)| *value > 0.0);
        Self {
            key_id_hashes: newest
                .into_iter()
                .map(|(provider, (_, hash))| (provider, hash))
                .collect(),
            configuration_hash: configuration
                .and_then(|(line, _)| label(line, "hash"))
                .map(str::to_owned),
        }
    }
}

/// Labels and value of each series.
pub(crate) fn series<'m>(
    metrics: &'m str,
    name: &'static str,
) -> impl Iterator<Item = (&'m str, f64)> + use<'m> {
    metrics.lines().filter_map(move |line| {
        let rest = line.strip_prefix(name)?.strip_prefix('{')?;
        let (labels, value) = rest.rsplit_once("} ")?;
        Some((labels, value.trim().parse().ok()?))
    })
}

/// The value of a label without escapes.
pub(crate) fn label<'l>(labels: &'l str, name: &str) -> Option<&'l str> {
    let all = labels.split("\",");
    let mut all = all.filter_map(|pair| pair.split_once("=\""));
    let (_, value) = all.find(|(known, _)| *known == name)?;
    Some(value.trim_end_matches('"'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_status_of_each_provider_counts() {
        let metrics = "\
# HELP apiserver_envelope_encryption_key_id_hash_status_last_timestamp_seconds x
apiserver_envelope_encryption_key_id_hash_status_last_timestamp_seconds{apiserver_id_hash=\"sha256:a\",key_id_hash=\"sha256:old\",provider_name=\"kms\"} 1.5e+09
apiserver_envelope_encryption_key_id_hash_status_last_timestamp_seconds{apiserver_id_hash=\"sha256:a\",key_id_hash=\"sha256:new\",provider_name=\"kms\"} 1.7e+09
apiserver_encryption_config_controller_last_config_info{apiserver_id_hash=\"sha256:a\",hash=\"sha256:c\"} 1
";
        let read = Encryption::parse(metrics);
        assert_eq!(read.key_id_hashes["kms"], "sha256:new");
        assert_eq!(read.configuration_hash.as_deref(), Some("sha256:c"));
        assert_eq!(Encryption::parse(""), Encryption::default());
    }
}
