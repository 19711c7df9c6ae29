//! The API servers of a cluster: their addresses, the leases of the running ones, and whether all
//! encrypt alike.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use kms_operator::{
    diagnose::encryption_config::hash,
    recovery::etcd_live::{LiveError, LiveEtcd},
};
use serde::Deserialize;
use tokio::task::JoinSet;

use crate::{
    api::{Api, CallError, JSON},
    encryption::{CONFIGURATION, Encryption, KEY_ID, label, series},
};

/// API servers renew their lease about every 10 s; one that ended keeps it for an hour.
const LEASE_RENEWED: Duration = Duration::from_secs(60);
/// Attempts to read a lease from both the API server and etcd without a renewal in between.
const LEASE_ATTEMPTS: u32 = 5;
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases\
    ?labelSelector=apiserver.kubernetes.io%2Fidentity%3Dkube-apiserver";

/// The encryption of one API server, compared with that of all others.
#[derive(Debug, Clone)]
pub struct Comparison {
    /// `None` if its metrics cannot be read.
    pub encryption: Option<Encryption>,
    /// API servers with another key_id or EncryptionConfiguration.
    pub differing: Vec<String>,
    /// Host names of running API servers that were not compared; `None` if the leases cannot be read.
    pub unexamined: Option<Vec<String>>,
}

impl Comparison {
    /// Whether every running API server has this encryption.
    #[must_use]
    pub fn is_proven(&self) -> bool {
        let whole = self.unexamined.as_ref().is_some_and(Vec::is_empty);
        self.encryption.is_some() && self.differing.is_empty() && whole
    }
}

/// Compares the API server with the others, of which some may be the same one under another address.
/// One that gives no answer shows by its lease.
pub async fn compare(api: &Api, others: &[Api]) -> Comparison {
    let mut reads = JoinSet::new();
    for other in others {
        let other = other.clone();
        reads.spawn(async move {
            let metrics = other.text("/metrics").await.ok()?;
            let encryption = Encryption::parse(&metrics);
            Some((other.server().to_owned(), encryption, identity(&metrics)))
        });
    }
    let metrics = api.text("/metrics").await.ok();
    let others = reads.join_all().await.into_iter().flatten();
    let others: Vec<_> = others.collect();
    let Some(metrics) = metrics else {
        return Comparison {
            encryption: None,
            differing: Vec::new(),
            unexamined: None,
        };
    };
    let (encryption, first) = (Encryption::parse(&metrics), identity(&metrics));
    let known: Vec<&String> = first
        .iter()
        .chain(others.iter().filter_map(|it| it.2.as_ref()))
        .collect();
    let leases = leases(std::slice::from_ref(api)).await;
    Comparison {
        unexamined: unexamined(&known, usize::from(first.is_none()), &leases),
        differing: others
            .iter()
            .filter(|(_, other, _)| *other != encryption)
            .map(|(server, ..)| server.clone())
            .collect(),
        encryption: Some(encryption),
    }
}

#[derive(Deserialize)]
struct Leases {
    items: Vec<Lease>,
}

#[derive(Deserialize)]
struct Lease {
    metadata: LeaseMetadata,
    spec: LeaseSpec,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LeaseMetadata {
    name: String,
    resource_version: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LeaseSpec {
    renew_time: Option<jiff::Timestamp>,
}

#[derive(Deserialize)]
struct Slices {
    items: Vec<Slice>,
}

#[derive(Deserialize)]
struct Slice {
    #[serde(default)]
    endpoints: Vec<Endpoint>,
    #[serde(default)]
    ports: Vec<Port>,
}

#[derive(Deserialize)]
struct Endpoint {
    addresses: Vec<String>,
}

#[derive(Deserialize)]
struct Port {
    port: Option<u16>,
}

/// The API servers behind the service `kubernetes`, as URLs.
///
/// # Errors
/// There is no answer.
pub async fn addresses(api: &Api) -> Result<Vec<String>, CallError> {
    let path = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices\
        ?labelSelector=kubernetes.io%2Fservice-name%3Dkubernetes";
    let slices: Slices = api.get(path, JSON).await?;
    Ok(urls(&slices))
}

fn urls(slices: &Slices) -> Vec<String> {
    let mut urls = BTreeSet::new();
    for slice in &slices.items {
        for port in slice.ports.iter().filter_map(|port| port.port) {
            for address in slice.endpoints.iter().flat_map(|it| &it.addresses) {
                urls.insert(match address.contains(':') {
                    true => format!("https://[{address}]:{port}"),
                    false => format!("https://{address}:{port}"),
                });
            }
        }
    }
    urls.into_iter().collect()
}

/// Host name of each running API server, by the hash of the name of its lease; empty if no API server
/// shows them.
pub(crate) async fn leases(apis: &[Api]) -> BTreeMap<String, String> {
    for api in apis {
        if let Ok(leases) = api.get::<Leases>(LEASES, JSON).await {
            return running(leases);
        }
    }
    BTreeMap::new()
}

/// Whether the API server stores its objects in this etcd; `None` if its leases cannot be read. An API
/// server renews its lease every 10 s, so a restored copy of the etcd has another revision of it.
///
/// # Errors
/// There is no answer of etcd.
pub(crate) async fn is_etcd_of(api: &Api, etcd: &LiveEtcd) -> Result<Option<bool>, LiveError> {
    for _ in 0..LEASE_ATTEMPTS {
        let Ok(leases) = api.get::<Leases>(LEASES, JSON).await else {
            return Ok(None);
        };
        let newest = leases.items.iter().max_by_key(|it| it.spec.renew_time);
        let Some(Lease { metadata, .. }) = newest else {
            return Ok(None);
        };
        let path = format!("leases/kube-system/{}", metadata.name);
        let stored = etcd.stored(&path).await?;
        if stored.is_some_and(|it| it.revision.to_string() == metadata.resource_version) {
            return Ok(Some(true));
        }
    }
    Ok(Some(false))
}

fn running(leases: Leases) -> BTreeMap<String, String> {
    let renewed = leases.items.iter().filter_map(|it| it.spec.renew_time);
    let Some(newest) = renewed.max() else {
        return BTreeMap::new();
    };
    let is_running = |lease: &Lease| {
        let renewed = lease.spec.renew_time;
        renewed.is_some_and(|time| newest.duration_since(time).unsigned_abs() <= LEASE_RENEWED)
    };
    let running = leases.items.into_iter().filter(is_running);
    let named = running.map(|Lease { metadata, .. }| {
        let host = metadata.labels.get("kubernetes.io/hostname");
        let host = host.unwrap_or(&metadata.name).clone();
        (hash(metadata.name.as_bytes()), host)
    });
    named.collect()
}

/// SHA-256 of the name of the lease of an API server; `None` without an EncryptionConfiguration.
pub(crate) fn identity(metrics: &str) -> Option<String> {
    // Before Kubernetes 1.34 only the metrics of the key name the API server.
    let mut named = series(metrics, CONFIGURATION).chain(series(metrics, KEY_ID));
    let identity = named.find_map(|(labels, value)| {
        let identity = label(labels, "apiserver_id_hash");
        identity.filter(|it| value > 0.0 && !it.is_empty())
    });
    identity.map(str::to_owned)
}

/// Host names of running API servers beyond the known ones; `None` without leases. An API server
/// without an identity may be any of the open ones.
pub(crate) fn unexamined(
    known: &[&String],
    anonymous: usize,
    leases: &BTreeMap<String, String>,
) -> Option<Vec<String>> {
    let open = leases
        .iter()
        .filter(|(identity, _)| !known.contains(identity));
    let open: Vec<String> = open.map(|(_, host)| host.clone()).collect();
    (!leases.is_empty()).then(|| match open.len() > anonymous {
        true => open,
        false => Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_service_names_every_api_server() {
        let slices = json!({"items": [
            {"addressType": "IPv4", "ports": [{"name": "https", "port": 6443}],
             "endpoints": [{"addresses": ["10.0.0.12"]}, {"addresses": ["10.0.0.11"]}]},
            {"addressType": "IPv6", "ports": [{"port": 6443}],
             "endpoints": [{"addresses": ["fd00::1"]}]},
            {"endpoints": [], "ports": []},
        ]});
        let slices: Slices = serde_json::from_value(slices).unwrap();
        assert_eq!(
            urls(&slices),
            [
                "https://10.0.0.11:6443",
                "https://10.0.0.12:6443",
                "https://[fd00::1]:6443"
            ]
        );
    }

    #[test]
    fn only_renewed_leases_are_running_api_servers() {
        let lease = |name: &str, host: &str, time: &str| {
            json!({"metadata": {"name": name, "resourceVersion": "1", "labels": {"kubernetes.io/hostname": host}},
                   "spec": {"renewTime": time}})
        };
        let leases = json!({"items": [
            lease("apiserver-a", "cp-1", "2026-11-29T22:32:32.590651Z"),
            lease("apiserver-b", "cp-2", "2026-11-29T22:32:02.000000Z"),
            lease("apiserver-c", "gone", "2026-11-29T22:02:02.000000Z"),
            {"metadata": {"name": "apiserver-d", "resourceVersion": "1"}, "spec": {}},
        ]});
        let running = running(serde_json::from_value(leases).unwrap());
        let hosts: Vec<&str> = running.values().map(String::as_str).collect();
        assert_eq!(hosts.len(), 2);
        assert!(hosts.contains(&"cp-1") && hosts.contains(&"cp-2"));
        assert_eq!(running[&hash(b"apiserver-a")], "cp-1");
    }
}
