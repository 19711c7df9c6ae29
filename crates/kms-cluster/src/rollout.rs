//! `rollout`: the phase of each API server on the way to encryption, and the next one that is safe.
//!
//! Each phase is evidence, never a setting: every API server writes a Secret of its own, its metrics
//! name the provider that encrypted it, and every API server reads every one of these Secrets.

pub mod judge;
pub mod report;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use kms_node::advice::{Cause, cluster};
use kms_operator::diagnose::encryption_config::{Ruled, hash};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    api::{Api, CallError, JSON, METADATA},
    encryption::{CONFIGURATION, Encryption, KEY_ID, label, series},
};
use judge::{Phase, Server, Unreadable};

/// Beginning of the name of each Secret.
const PROBE: &str = "bao-kms-provider-probe";
const WRITES: &str = "apiserver_storage_transformation_operations_total";
/// Prefix of the values of a KMS v2 provider, before its name.
const KMS_V2: &str = "k8s:enc:kms:v2:";
/// API servers renew their lease about every 10 s; one that ended keeps it for an hour.
const LEASE_RENEWED: Duration = Duration::from_secs(60);
/// Trials until no other write happens during a probe.
const TRIALS: u32 = 5;

/// Input of an examination.
pub struct Settings {
    /// Name in the EncryptionConfiguration; `None` is the only KMS v2 provider.
    pub provider: Option<String>,
    /// Namespace of the Secrets.
    pub namespace: String,
    /// Files that API servers may have, recognized by their hash.
    pub files: Vec<Ruled>,
    /// A number for the names of the Secrets.
    pub run: u128,
}

/// Evidence of all API servers.
pub struct Gathered {
    pub servers: Vec<Server>,
    /// Secrets that an API server could not read.
    pub unreadable: Vec<Unreadable>,
    /// Host names of running API servers without an examination; `None` if their leases could not be
    /// read.
    pub unexamined: Option<Vec<String>>,
    /// Secrets that were not deleted.
    pub left: Vec<String>,
    /// Name of the KMS provider; `None` if there is none, or several.
    pub provider: Option<String>,
}

/// Result of a Secret at one API server.
struct Probe {
    /// It may have to be deleted.
    created: bool,
    observed: Result<Observed, &'static Cause>,
}

/// Metrics of an API server.
struct Observed {
    encryption: Encryption,
    /// SHA-256 of the name of its lease.
    identity: Option<String>,
    /// Secrets written, by the prefix of the stored value.
    writes: BTreeMap<String, f64>,
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
struct LeaseMetadata {
    name: String,
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
pub async fn servers(api: &Api) -> Result<Vec<String>, CallError> {
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

/// Examines every API server. `apis` are connections to each one.
pub async fn examine(apis: &[Api], settings: &Settings) -> Gathered {
    let mut probes = Vec::new();
    for (place, api) in apis.iter().enumerate() {
        probes.push(probe(api, place, settings).await);
    }
    let unreadable = read_all(apis, &mut probes, settings).await;
    let mut left = Vec::new();
    for (place, probe) in probes.iter().enumerate() {
        if probe.created && !is_deleted(apis, &path_of(place, settings)).await {
            left.push(name_of(place, settings));
        }
    }

    let observed: Vec<_> = probes.into_iter().map(|probe| probe.observed).collect();
    let given = settings.provider.clone();
    let provider = given.or_else(|| only_provider(&observed));
    let leases = leases(apis).await;
    let servers: Vec<Server> = apis
        .iter()
        .zip(observed)
        .map(|(api, observed)| seen(api, observed, provider.as_deref(), &leases, settings))
        .collect();
    Gathered {
        unexamined: (!leases.is_empty()).then(|| unexamined(&servers, &leases)),
        servers,
        unreadable,
        left,
        provider,
    }
}

/// Reads each Secret through each API server. An API server that gives no answer about a Secret is
/// one that was not examined; only an error inside it shows that it cannot read.
async fn read_all(apis: &[Api], probes: &mut [Probe], settings: &Settings) -> Vec<Unreadable> {
    let written: Vec<bool> = probes.iter().map(|probe| probe.observed.is_ok()).collect();
    let mut unreadable = Vec::new();
    for (place, _) in written.iter().enumerate().filter(|(_, written)| **written) {
        let path = path_of(place, settings);
        for (reader, probe) in apis.iter().zip(&mut *probes) {
            let Err(error) = reader.get::<Value>(&path, METADATA).await else {
                continue;
            };
            match (error.refusal(), apis.get(place)) {
                (Some(refusal), Some(writer)) if refusal.status == 500 => {
                    unreadable.push(Unreadable {
                        writer: writer.server().to_owned(),
                        reader: reader.server().to_owned(),
                        cause: error.cause(),
                    });
                }
                _ => probe.observed = Err(failure(&error)),
            }
        }
    }
    unreadable
}

/// Deletes through the first API server that answers, since the one that wrote may have ended.
async fn is_deleted(apis: &[Api], path: &str) -> bool {
    for api in apis {
        match api.delete(path).await {
            Ok(()) => return true,
            Err(error) if error.refusal().is_some_and(|it| it.status == 404) => return true,
            Err(_) => {}
        }
    }
    false
}

fn name_of(place: usize, settings: &Settings) -> String {
    format!("{PROBE}-{}-{place}", settings.run)
}

fn path_of(place: usize, settings: &Settings) -> String {
    let name = name_of(place, settings);
    format!("/api/v1/namespaces/{}/secrets/{name}", settings.namespace)
}

fn failure(error: &CallError) -> &'static Cause {
    match error.refusal() {
        Some(refusal) if refusal.status == 403 => &cluster::ROLLOUT_FORBIDDEN,
        _ => error.cause(),
    }
}

async fn probe(api: &Api, place: usize, settings: &Settings) -> Probe {
    let mut created = false;
    let observed = observe(api, place, settings, &mut created).await;
    Probe {
        created,
        observed: observed.map_err(|error| failure(&error)),
    }
}

/// Metrics after the API server has written a Secret, with the writes of that moment alone.
async fn observe(
    api: &Api,
    place: usize,
    settings: &Settings,
    created: &mut bool,
) -> Result<Observed, CallError> {
    let path = format!("/api/v1/namespaces/{}/secrets", settings.namespace);
    let secret = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name_of(place, settings)},
        "type": "kms.openbao.org/probe",
    });
    let mut trials = 0;
    loop {
        trials += 1;
        let before = Observed::read(api).await?;
        // Also without an answer it may exist.
        *created = true;
        api.create::<Value>(&path, &secret).await?;
        let mut after = Observed::read(api).await?;
        after.writes.retain(|prefix, count| {
            *count > before.writes.get(prefix).copied().unwrap_or_default()
        });
        // Another client wrote while the configuration was reloaded.
        if after.writes.len() <= 1 || trials == TRIALS {
            return Ok(after);
        }
        api.delete(&path_of(place, settings)).await?;
    }
}

impl Observed {
    async fn read(api: &Api) -> Result<Self, CallError> {
        Ok(Self::parse(&api.text("/metrics").await?))
    }

    fn parse(metrics: &str) -> Self {
        // Before Kubernetes 1.34 only the metrics of the key name the API server.
        let mut named = series(metrics, CONFIGURATION).chain(series(metrics, KEY_ID));
        let identity = named.find_map(|(labels, value)| {
            let identity = label(labels, "apiserver_id_hash");
            identity.filter(|it| value > 0.0 && !it.is_empty())
        });
        let writes = series(metrics, WRITES).filter_map(|(labels, value)| {
            let is = |name, wanted| label(labels, name) == Some(wanted);
            let secrets = is("resource", "secrets") && is("transformation_type", "to_storage");
            let prefix = label(labels, "transformer_prefix").filter(|_| secrets);
            Some((prefix?.to_owned(), value))
        });
        Self {
            encryption: Encryption::parse(metrics),
            identity: identity.map(str::to_owned),
            writes: writes.collect(),
        }
    }
}

/// The name of the KMS v2 provider, if all API servers together have one.
fn only_provider(observed: &[Result<Observed, &'static Cause>]) -> Option<String> {
    let seen = observed.iter().flatten();
    let names = seen.flat_map(|it| it.encryption.key_id_hashes.keys());
    let names: BTreeSet<&String> = names.collect();
    match names.len() {
        1 => names.into_iter().next().cloned(),
        _ => None,
    }
}

/// Host name of each running API server, by the hash of the name of its lease; empty if no API server
/// shows them.
async fn leases(apis: &[Api]) -> BTreeMap<String, String> {
    let path = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases\
        ?labelSelector=apiserver.kubernetes.io%2Fidentity%3Dkube-apiserver";
    for api in apis {
        if let Ok(leases) = api.get::<Leases>(path, JSON).await {
            return running(leases);
        }
    }
    BTreeMap::new()
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

/// What one API server does, in the words of a phase.
fn seen(
    api: &Api,
    observed: Result<Observed, &'static Cause>,
    provider: Option<&str>,
    leases: &BTreeMap<String, String>,
    settings: &Settings,
) -> Server {
    let mut server = Server {
        server: api.server().to_owned(),
        host: None,
        identity: None,
        phase: None,
        writes: None,
        key_id_hash: None,
        configuration_hash: None,
        problem: None,
    };
    let observed = match observed {
        Ok(observed) => observed,
        Err(cause) => {
            server.problem = Some(cause);
            return server;
        }
    };
    let Observed {
        encryption,
        identity,
        writes,
    } = observed;
    server.host = identity.as_ref().and_then(|it| leases.get(it)).cloned();
    server.identity = identity;
    let mut prefixes = writes.into_keys();
    let prefix = prefixes.next();
    let alone = prefixes.next().is_none();
    // Without any EncryptionConfiguration there is no counter, and without a KMS provider no Status.
    let is_plain = prefix.is_none() && encryption.key_id_hashes.is_empty();
    let key = provider.and_then(|name| encryption.key_id_hashes.get(name));
    let file = settings
        .files
        .iter()
        .find(|file| Some(&file.hash) == encryption.configuration_hash.as_ref());
    let writer = prefix.as_deref().or(is_plain.then_some(""));
    server.phase = writer.filter(|_| alone).and_then(|prefix| {
        let ours = provider.is_some_and(|name| prefix == format!("{KMS_V2}{name}:"));
        match (ours, key.is_some()) {
            (true, _) if file.is_some_and(|file| !file.reads_plaintext) => Some(Phase::Sole),
            (true, _) => Some(Phase::Writers),
            (false, true) => Some(Phase::Readers),
            (false, false) if encryption.key_id_hashes.is_empty() => Some(Phase::None),
            (false, false) => None,
        }
    });
    server.writes = prefix
        .filter(|_| alone)
        .map(|prefix| match prefix.is_empty() {
            true => "plaintext".to_owned(),
            false => prefix.trim_end_matches(':').to_owned(),
        });
    server.key_id_hash = key.cloned();
    server.configuration_hash = encryption.configuration_hash;
    server
}

/// API servers of the cluster beyond the examined ones. One without any EncryptionConfiguration does
/// not show its lease, so it may be any of the open ones.
fn unexamined(servers: &[Server], leases: &BTreeMap<String, String>) -> Vec<String> {
    let known: BTreeSet<&String> = servers
        .iter()
        .filter_map(|it| it.identity.as_ref())
        .collect();
    let open = leases
        .iter()
        .filter(|(identity, _)| !known.contains(identity));
    let open: Vec<String> = open.map(|(_, host)| host.clone()).collect();
    let anonymous = servers.iter().filter(|it| it.identity.is_none());
    let anonymous = anonymous.filter(|it| it.problem.is_none()).count();
    match open.len() > anonymous {
        true => open,
        false => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
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
            json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": host}},
                   "spec": {"renewTime": time}})
        };
        let leases = json!({"items": [
            lease("apiserver-a", "cp-1", "2026-11-29T22:32:32.590651Z"),
            lease("apiserver-b", "cp-2", "2026-11-29T22:32:02.000000Z"),
            lease("apiserver-c", "gone", "2026-11-29T22:02:02.000000Z"),
            {"metadata": {"name": "apiserver-d"}, "spec": {}},
        ]});
        let running = running(serde_json::from_value(leases).unwrap());
        let hosts: Vec<&str> = running.values().map(String::as_str).collect();
        assert_eq!(hosts.len(), 2);
        assert!(hosts.contains(&"cp-1") && hosts.contains(&"cp-2"));
        assert_eq!(running[&hash(b"apiserver-a")], "cp-1");
    }

    #[test]
    fn the_counters_name_the_writer_of_secrets() {
        let metrics = "\
apiserver_storage_transformation_operations_total{resource=\"secrets\",status=\"OK\",transformation_type=\"to_storage\",transformer_prefix=\"\"} 1
apiserver_storage_transformation_operations_total{resource=\"secrets\",status=\"OK\",transformation_type=\"to_storage\",transformer_prefix=\"k8s:enc:kms:v2:openbao:\"} 2
apiserver_storage_transformation_operations_total{resource=\"secrets\",status=\"OK\",transformation_type=\"from_storage\",transformer_prefix=\"identity\"} 9
apiserver_storage_transformation_operations_total{resource=\"pods\",status=\"OK\",transformation_type=\"to_storage\",transformer_prefix=\"x\"} 9
";
        let writes = Observed::parse(metrics).writes;
        let expected = [("", 1.0), ("k8s:enc:kms:v2:openbao:", 2.0)];
        let expected = expected.map(|(prefix, count)| (prefix.to_owned(), count));
        assert_eq!(writes, BTreeMap::from(expected));
    }
}
