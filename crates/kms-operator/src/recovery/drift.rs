//! Compares every fact of a backup record with its current value.
//!
//! Drift is information for the operator, without a verdict. A higher generation is expected,
//! another mount is not.

use std::{collections::BTreeSet, fmt::Display};

use kms_domain::{
    recovery::{
        record::{BackupRecord, EtcdInfo, FileInfo},
        resolve::LiveKey,
    },
    registry::document::Document,
    scope::{IdentityScope, TransitKeyPath},
    transit::KeyProfile,
};
use kms_node::{build_info::BuildInfo, config::Config, state::Stored};
use schemars::JsonSchema;
use serde::Serialize;

use super::verify_pair::Pair;

/// Recorded facts compared with current ones.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Facts with a different current value.
    pub drift: Vec<Drift>,
    /// Members of the record without a current value.
    pub not_compared: Vec<String>,
}

/// A recorded fact with a different current value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Drift {
    pub source: DriftSource,
    /// Member of the record.
    pub field: String,
    /// Recorded value.
    pub recorded: String,
    /// Current value.
    pub found: String,
}

/// Where a fact is found now; the most important first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DriftSource {
    /// The key in OpenBao.
    Key,
    Configuration,
    Etcd,
    /// The state of this node.
    State,
    Program,
}

impl DriftSource {
    /// Name in text.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Key => "key in OpenBao",
            Self::Configuration => "configuration",
            Self::Etcd => "etcd",
            Self::State => "state of this node",
            Self::Program => "program",
        }
    }
}

/// Compares the facts with a current value. State members need a valid state, key members need
/// metadata from OpenBao, and hash and size of the etcd snapshot need a file (`snapshot`).
#[must_use]
pub fn drift(
    record: &BackupRecord,
    config: &Config,
    stored: Option<&Stored>,
    pair: &Pair,
    snapshot: Option<&FileInfo>,
) -> Comparison {
    let note = record.note();
    let mut all = Comparison::default();
    all.add(
        DriftSource::Program,
        "pluginVersion",
        &note.plugin_version,
        BuildInfo::CURRENT.version,
    );

    let recorded = names(note.scope.identity(), &note.path);
    let found = names(&config.scope, &config.key);
    for ((field, recorded), (_, found)) in recorded.into_iter().zip(found) {
        all.add(DriftSource::Configuration, field, recorded, found);
    }

    match stored.and_then(|stored| Some((stored, stored.document.as_ref()?))) {
        Some((stored, document)) => all.add_state(record, stored, document),
        None => all.not_compared.extend(STATE.map(str::to_owned)),
    }

    match pair.lineage.live() {
        LiveKey::Listed(profile) => all.add_key(record, profile),
        LiveKey::Missing | LiveKey::Unknown => {
            let versions = note.versions.keys();
            let versions = versions.map(|version| format!("versions[{version}]"));
            all.not_compared.extend(KEY.map(str::to_owned));
            all.not_compared.extend(versions);
        }
    }

    if let Some(etcd) = &note.etcd {
        all.add_etcd(etcd, pair, snapshot);
    }
    all.drift.sort_by_key(|it| it.source);
    all
}

/// Members from the state of this node.
const STATE: [&str; 5] = [
    "activeTransitVersion",
    "activeKeyIdHash",
    "state.generation",
    "state.hash",
    "state.checkpoint",
];

/// Members from the key's metadata, without its versions.
const KEY: [&str; 4] = [
    "transit.latestVersion",
    "transit.minAvailableVersion",
    "transit.minDecryptionVersion",
    "transit.minEncryptionVersion",
];

/// Members that need a snapshot file.
const FILE: [&str; 2] = ["etcdSnapshot.sha256", "etcdSnapshot.bytes"];

/// Identity members of a record. They must match the configuration.
pub(crate) fn names<'s>(
    scope: &'s IdentityScope,
    path: &'s TransitKeyPath,
) -> [(&'static str, &'s str); 8] {
    let namespace = scope.openbao_namespace.as_ref();
    [
        ("clusterId", scope.cluster_id.as_str()),
        ("providerName", scope.provider_name.as_str()),
        ("openbaoInstanceId", scope.openbao_instance_id.as_str()),
        ("openbaoNamespace", namespace.map_or("", |it| it.as_str())),
        ("transitMountId", scope.transit_mount_id.as_str()),
        ("keyLineageId", scope.key_lineage_id.as_str()),
        ("transitMountPath", path.mount_path.as_str()),
        ("transitKeyName", path.key_name.as_str()),
    ]
}

impl Comparison {
    fn add(
        &mut self,
        source: DriftSource,
        field: &str,
        recorded: impl Display,
        found: impl Display,
    ) {
        let (recorded, found) = (recorded.to_string(), found.to_string());
        if recorded != found {
            self.drift.push(Drift {
                source,
                field: field.to_owned(),
                recorded,
                found,
            });
        }
    }

    fn add_state(&mut self, record: &BackupRecord, stored: &Stored, document: &Document) {
        let mut add = |field, recorded: &dyn Display, found: &dyn Display| {
            self.add(DriftSource::State, field, recorded, found);
        };
        let [version, key_id, generation, hash, checkpoint] = STATE;
        let (recorded, active) = (record.active(), document.registry().active());
        add(version, &recorded.version(), &active.version());
        add(key_id, recorded.id_hash(), active.id_hash());
        let recorded = &record.note().state;
        add(generation, &recorded.generation, &document.generation());
        add(hash, &recorded.hash, document.hash());
        add(
            checkpoint,
            &recorded.checkpoint,
            &stored.checkpoint_status(),
        );
    }

    /// Creation times first: a changed one proves another key.
    fn add_key(&mut self, record: &BackupRecord, profile: &KeyProfile) {
        let mut add = |field: &str, recorded: &dyn Display, found: &dyn Display| {
            self.add(DriftSource::Key, field, recorded, found);
        };
        let note = record.note();
        for (version, noted) in &note.versions {
            if let Some(live) = profile.created_at(*version) {
                let field = format!("versions[{version}].createdAtUnix");
                add(&field, &noted.key.created_at(), &live);
            }
        }

        let limits = &note.limits;
        let [latest, available, decryption, encryption] = KEY;
        add(latest, &limits.latest, &profile.latest());
        add(available, &limits.min_available, &profile.min_available());
        add(
            decryption,
            &limits.min_decryption,
            &profile.min_decryption(),
        );
        add(
            encryption,
            &limits.min_encryption,
            &profile.min_encryption(),
        );
        for (version, noted) in &note.versions {
            let decryptable = profile.created_at(*version) == Some(noted.key.created_at());
            let field = format!("versions[{version}].decryptable");
            add(&field, &noted.decryptable, &decryptable);
        }
    }

    fn add_etcd(&mut self, etcd: &EtcdInfo, pair: &Pair, snapshot: Option<&FileInfo>) {
        if snapshot.is_none() {
            self.not_compared.extend(FILE.map(str::to_owned));
        }
        let mut add = |field: &str, recorded: &dyn Display, found: &dyn Display| {
            self.add(DriftSource::Etcd, field, recorded, found);
        };
        let [hash, bytes] = FILE;
        if let Some(file) = snapshot {
            add(hash, &etcd.file.sha256_hex(), &file.sha256_hex());
            add(bytes, &etcd.file.bytes, &file.bytes);
        }
        let revision = pair.inventory.totals.revision;
        add("etcdSnapshot.revision", &etcd.revision, &revision);
        let needed = pair.rows.iter().filter_map(|row| row.version);
        let versions: BTreeSet<_> = etcd.required.keys().copied().chain(needed).collect();
        for version in versions {
            let rows = pair.rows.iter().filter(|row| row.version == Some(version));
            let found: u64 = rows.map(|row| row.finding.objects).sum();
            let recorded = etcd.required.get(&version).copied().unwrap_or(0);
            let field = format!("etcdSnapshot.requiredVersions[{version}].objects");
            add(&field, &recorded, &found);
        }
    }
}
