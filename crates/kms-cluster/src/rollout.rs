//! `rollout`: the phase of each API server on the way to encryption, and the next one that is safe.
//!
//! Each phase is evidence, never a setting: every API server writes a Secret of its own, its metrics
//! name the provider that encrypted it, and every API server reads every one of these Secrets.

pub mod judge;
pub mod report;

use std::collections::{BTreeMap, BTreeSet};

use kms_node::advice::{Cause, cluster};
use kms_operator::diagnose::encryption_config::Ruled;
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
/// Prefix of the values of a KMS v2 provider, before its name.
const KMS_V2: &str = "k8s:enc:kms:v2:";
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

#[cfg(test)]
mod tests {
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
        let writes = Observed::parse(metrics).writes;
        let expected = [("", 1.0), ("k8s:enc:kms:v2:openbao:", 2.0)];
        let expected = expected.map(|(prefix, count)| (prefix.to_owned(), count));
        assert_eq!(writes, BTreeMap::from(expected));
    }
}
