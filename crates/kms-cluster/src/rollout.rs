//! `rollout`: the phase of each API server on the way to encryption, and the next one that is safe.
//!
//! Each phase is evidence, never a setting: every API server writes a Secret of its own, the running
//! etcd or the metrics of the API server name the provider that encrypted it, and every API server
//! reads every one of these Secrets.

pub mod judge;
pub mod report;

use std::collections::{BTreeMap, BTreeSet};

use kms_node::advice::{Cause, cluster};
use kms_operator::{
    diagnose::encryption_config::Ruled,
    recovery::{etcd_live::LiveEtcd, inventory::Protected},
};
use serde_json::{Value, json};

use crate::{
    api::{Api, CallError, METADATA},
    encryption::{Encryption, label, series},
    servers::{identity, leases, unexamined},
};
use judge::{Phase, Server, Unreadable};

/// Beginning of the name of each Secret.
const PROBE: &str = "bao-kms-provider-probe";
const WRITES: &str = "apiserver_storage_transformation_operations_total";
/// Beginning of every value that is not plaintext.
const ENCRYPTED: &str = "k8s:enc:";
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
    /// The etcd of the cluster. It shows the stored form of each Secret.
    pub etcd: Option<LiveEtcd>,
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

/// Metrics of an API server, and the transformer of its Secret.
struct Observed {
    metrics: Metrics,
    /// Prefix of the stored value, empty for plaintext; `None` if the evidence does not decide.
    transformer: Option<String>,
}

/// Metrics of an API server.
struct Metrics {
    encryption: Encryption,
    /// SHA-256 of the name of its lease.
    identity: Option<String>,
    /// Secrets written, by the prefix of the stored value.
    writes: BTreeMap<String, f64>,
    /// Whether every counter of writes names the resource, as from Kubernetes 1.32 on.
    names_resources: bool,
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
    // One without any EncryptionConfiguration does not show its lease.
    let examined = servers.iter().filter(|it| it.problem.is_none());
    let anonymous = examined.filter(|it| it.identity.is_none()).count();
    let known: Vec<&String> = servers
        .iter()
        .filter_map(|it| it.identity.as_ref())
        .collect();
    Gathered {
        unexamined: unexamined(&known, anonymous, &leases),
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
    let mut observed = observe(api, place, settings, &mut created)
        .await
        .map_err(|error| failure(&error));
    if let (Ok(seen), Some(etcd)) = (&mut observed, &settings.etcd) {
        let path = format!(
            "secrets/{}/{}",
            settings.namespace,
            name_of(place, settings)
        );
        match etcd.stored(&path).await {
            // Proves also that this etcd is that of the API server. A second write may be that of
            // another one.
            Ok(Some(stored)) => {
                let original = stored.is_original.then_some(stored.protected);
                seen.transformer = original.as_ref().and_then(transformer);
            }
            Ok(None) => observed = Err(&cluster::PROBE_NOT_STORED),
            Err(error) => observed = Err(error.cause()),
        }
    }
    Probe { created, observed }
}

/// Metrics after the API server has written a Secret, and the transformer by its counters.
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
        let before = Metrics::read(api).await?;
        // Also without an answer it may exist.
        *created = true;
        api.create::<Value>(&path, &secret).await?;
        let after = Metrics::read(api).await?;
        let written = after.written_since(&before);
        // Several if another client wrote while the configuration was reloaded.
        if written.len() <= 1 || trials == TRIALS || settings.etcd.is_some() {
            let transformer = match &*written {
                [prefix] => Some((*prefix).clone()),
                // Without any EncryptionConfiguration there is no counter, and without a KMS provider
                // no Status.
                [] if after.names_resources && after.encryption.key_id_hashes.is_empty() => {
                    Some(String::new())
                }
                _ => None,
            };
            return Ok(Observed {
                metrics: after,
                transformer,
            });
        }
        api.delete(&path_of(place, settings)).await?;
    }
}

/// The prefix of stored values, without the name of a key; `None` for values that no API server
/// writes.
fn transformer(stored: &Protected) -> Option<String> {
    let prefix = match stored {
        Protected::Plaintext => return Some(String::new()),
        Protected::KmsV2(name) => format!("kms:v2:{name}"),
        Protected::KmsV1(name) => format!("kms:v1:{name}"),
        Protected::Local(_) => format!("{}:v1", stored.as_str()),
        Protected::Unknown | Protected::NotAnObject | Protected::Damaged(_) => return None,
    };
    Some(format!("{ENCRYPTED}{prefix}:"))
}

impl Metrics {
    async fn read(api: &Api) -> Result<Self, CallError> {
        Ok(Self::parse(&api.text("/metrics").await?))
    }

    fn parse(metrics: &str) -> Self {
        let writes = series(metrics, WRITES).filter_map(|(labels, value)| {
            let is = |name, wanted| label(labels, name) == Some(wanted);
            let secrets = is("resource", "secrets") && is("transformation_type", "to_storage");
            let prefix = label(labels, "transformer_prefix").filter(|_| secrets)?;
            // Within aescbc and its like, the name of the key is a prefix as well.
            let is_whole = prefix.is_empty() || prefix.starts_with(ENCRYPTED);
            is_whole.then(|| (prefix.to_owned(), value))
        });
        Self {
            encryption: Encryption::parse(metrics),
            identity: identity(metrics),
            writes: writes.collect(),
            names_resources: series(metrics, WRITES)
                .all(|(labels, _)| label(labels, "resource").is_some()),
        }
    }

    /// The transformers that wrote Secrets.
    fn written_since(&self, before: &Self) -> Vec<&String> {
        let earlier = |prefix| before.writes.get(prefix).copied().unwrap_or_default();
        let writes = self.writes.iter();
        let newer = writes.filter(|(prefix, count)| **count > earlier(*prefix));
        newer.map(|(prefix, _)| prefix).collect()
    }
}

/// The name of the KMS v2 provider, if all API servers together have one.
fn only_provider(observed: &[Result<Observed, &'static Cause>]) -> Option<String> {
    let seen = observed.iter().flatten();
    let names = seen.flat_map(|it| it.metrics.encryption.key_id_hashes.keys());
    let names: BTreeSet<&String> = names.collect();
    match names.len() {
        1 => names.into_iter().next().cloned(),
        _ => None,
    }
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
        metrics,
        transformer,
    } = observed;
    let Metrics {
        encryption,
        identity,
        ..
    } = metrics;
    server.host = identity.as_ref().and_then(|it| leases.get(it)).cloned();
    server.identity = identity;
    let key = provider.and_then(|name| encryption.key_id_hashes.get(name));
    let file = settings
        .files
        .iter()
        .find(|file| Some(&file.hash) == encryption.configuration_hash.as_ref());
    let of = |name: &str| self::transformer(&Protected::KmsV2(name.to_owned()));
    let ours = provider.and_then(of);
    let is_ours = transformer.as_ref().map(|it| Some(it) == ours.as_ref());
    server.phase = match (is_ours, key) {
        (Some(true), _) if file.is_some_and(|file| !file.reads_plaintext) => Some(Phase::Sole),
        (Some(true), _) => Some(Phase::Writers),
        (Some(false), Some(_)) => Some(Phase::Readers),
        (_, None) if encryption.key_id_hashes.is_empty() => Some(Phase::None),
        (Some(false), None) | (None, _) => None,
    };
    server.writes = transformer.map(|prefix| match prefix.is_empty() {
        true => "plaintext".to_owned(),
        false => prefix.trim_end_matches(':').to_owned(),
    });
    server.key_id_hash = key.cloned();
    server.configuration_hash = encryption.configuration_hash;
    server
}

#[cfg(test)]
mod tests {
    use etcd_snapshot::value::Protection;

    use super::*;

    #[test]
    fn the_counters_name_the_writer_of_secrets() {
        let metrics = "\
apiserver_storage_transformation_operations_total{resource=\"secrets\",status=\"OK\",transformation_type=\"to_storage\",transformer_prefix=\"\"} 1
apiserver_storage_transformation_operations_total{resource=\"secrets\",status=\"OK\",transformation_type=\"to_storage\",transformer_prefix=\"k8s:enc:kms:v2:openbao:\"} 2
apiserver_storage_transformation_operations_total{resource=\"secrets\",status=\"OK\",transformation_type=\"to_storage\",transformer_prefix=\"key1:\"} 9
apiserver_storage_transformation_operations_total{resource=\"secrets\",status=\"OK\",transformation_type=\"from_storage\",transformer_prefix=\"identity\"} 9
apiserver_storage_transformation_operations_total{resource=\"pods\",status=\"OK\",transformation_type=\"to_storage\",transformer_prefix=\"x\"} 9
";
        let read = Metrics::parse(metrics);
        assert!(read.names_resources);
        let expected = [("", 1.0), ("k8s:enc:kms:v2:openbao:", 2.0)];
        let expected = expected.map(|(prefix, count)| (prefix.to_owned(), count));
        assert_eq!(read.writes, BTreeMap::from(expected));
    }

    #[test]
    fn counters_before_kubernetes_1_32_name_no_writer_of_secrets() {
        let metrics = "\
apiserver_storage_transformation_operations_total{status=\"OK\",transformation_type=\"to_storage\",transformer_prefix=\"k8s:enc:kms:v2:openbao:\"} 2
";
        let read = Metrics::parse(metrics);
        assert!(!read.names_resources);
        assert_eq!(read.writes, BTreeMap::new());
        assert!(Metrics::parse("").names_resources);
    }

    #[test]
    fn the_stored_form_has_the_prefix_of_the_counters() {
        let prefix = |value: &[u8]| transformer(&Protection::of(value).into());
        for (value, expected) in [
            (
                &b"k8s:enc:kms:v2:openbao:\x0a"[..],
                Some("k8s:enc:kms:v2:openbao:"),
            ),
            (b"k8s:enc:kms:v1:old:x", Some("k8s:enc:kms:v1:old:")),
            (b"k8s:enc:aescbc:v1:key1:x", Some("k8s:enc:aescbc:v1:")),
            (
                b"k8s:enc:secretbox:v1:key1:x",
                Some("k8s:enc:secretbox:v1:"),
            ),
            (b"k8s\0x", Some("")),
            (b"k8s:enc:new:x", None),
            (b"other", None),
        ] {
            assert_eq!(prefix(value).as_deref(), expected, "{value:?}");
        }
    }
}
