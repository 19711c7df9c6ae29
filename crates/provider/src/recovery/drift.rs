//! What has changed since a backup record was written: every recorded fact beside today's.
//!
//! Drift decides nothing. A higher generation is the usual course of things, another mount is not; a
//! person who knows what was done in between can tell.

use kms_domain::{
    recovery::{
        origin::LiveKey,
        record::{BackupRecord, NotedEtcd, NotedFile},
    },
    registry::document::Document,
    scope::{IdentityScope, TransitKeyPath},
    transit::KeyProfile,
};
use schemars::JsonSchema;
use serde::Serialize;

use super::verify_pair::Pair;
use crate::{build_info::BuildInfo, config::Config, state::Stored};

/// The recorded facts, held against today's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Those that are others now.
    pub drift: Vec<Drift>,
    /// The members of the record without a fact of today to compare with.
    pub not_compared: Vec<String>,
}

/// One recorded fact that is another one now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Drift {
    /// The member of the record.
    pub field: String,
    /// What it says.
    pub recorded: String,
    /// What is true now.
    pub found: String,
}

/// Compares what can be compared: the state only if there is a valid one, the key only if OpenBao
/// told, the hash and size of the etcd snapshot, which are in `snapshot`, only if it is a file.
#[must_use]
pub fn drift(
    record: &BackupRecord,
    config: &Config,
    stored: Option<&Stored>,
    pair: &Pair,
    snapshot: Option<&NotedFile>,
) -> Comparison {
    let note = record.note();
    let mut all = Comparison::default();
    all.add(
        "pluginVersion",
        &note.plugin_version,
        BuildInfo::CURRENT.version,
    );
    let recorded = names(note.scope.identity(), &note.path);
    let found = names(&config.scope, &config.key);
    for ((field, recorded), (_, found)) in recorded.into_iter().zip(found) {
        all.add(field, recorded, found);
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
    all
}

/// The members of a record that the state of this node tells.
const STATE: [&str; 5] = [
    "activeTransitVersion",
    "activeKeyIdHash",
    "state.generation",
    "state.hash",
    "state.checkpoint",
];

/// Those that the key's metadata tells, beside its versions.
const KEY: [&str; 4] = [
    "transit.latestVersion",
    "transit.minAvailableVersion",
    "transit.minDecryptionVersion",
    "transit.minEncryptionVersion",
];

/// Those that only a file tells.
const FILE: [&str; 2] = ["etcdSnapshot.sha256", "etcdSnapshot.bytes"];

/// What must not differ, by the members of a record.
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
    fn add(&mut self, field: impl ToString, recorded: impl ToString, found: impl ToString) {
        let (recorded, found) = (recorded.to_string(), found.to_string());
        if recorded != found {
            self.drift.push(Drift {
                field: field.to_string(),
                recorded,
                found,
            });
        }
    }

    fn add_state(&mut self, record: &BackupRecord, stored: &Stored, document: &Document) {
        let [version, key_id, generation, hash, checkpoint] = STATE;
        let (recorded, active) = (record.active(), document.registry().active());
        self.add(version, recorded.version(), active.version());
        self.add(key_id, recorded.id_hash(), active.id_hash());
        let recorded = &record.note().state;
        self.add(generation, recorded.generation, document.generation());
        self.add(hash, &recorded.hash, document.hash());
        self.add(checkpoint, &recorded.checkpoint, stored.checkpoint_status());
    }

    fn add_key(&mut self, record: &BackupRecord, profile: &KeyProfile) {
        let note = record.note();
        let limits = &note.limits;
        let [latest, available, decryption, encryption] = KEY;
        self.add(latest, limits.latest, profile.latest());
        self.add(available, limits.min_available, profile.min_available());
        self.add(decryption, limits.min_decryption, profile.min_decryption());
        self.add(encryption, limits.min_encryption, profile.min_encryption());
        for (version, noted) in &note.versions {
            let live = profile.created_at(*version);
            if let Some(live) = live {
                let field = format!("versions[{version}].createdAtUnix");
                self.add(field, noted.key.created_at(), live);
            }
            let decryptable = live == Some(noted.key.created_at());
            let field = format!("versions[{version}].decryptable");
            self.add(field, noted.decryptable, decryptable);
        }
    }

    fn add_etcd(&mut self, etcd: &NotedEtcd, pair: &Pair, snapshot: Option<&NotedFile>) {
        let [hash, bytes] = FILE;
        match snapshot {
            Some(file) => {
                self.add(hash, etcd.file.sha256_hex(), file.sha256_hex());
                self.add(bytes, etcd.file.bytes, file.bytes);
            }
            None => self.not_compared.extend(FILE.map(str::to_owned)),
        }
        let revision = pair.inventory.totals.revision;
        self.add("etcdSnapshot.revision", etcd.revision, revision);
        let mut versions: Vec<_> = etcd.required.keys().copied().collect();
        versions.extend(pair.rows.iter().filter_map(|row| row.version));
        versions.sort_unstable();
        versions.dedup();
        for version in versions {
            let rows = pair.rows.iter().filter(|row| row.version == Some(version));
            let found: u64 = rows.map(|row| row.finding.objects).sum();
            let recorded = etcd.required.get(&version).copied().unwrap_or(0);
            let field = format!("etcdSnapshot.requiredVersions[{version}].objects");
            self.add(field, recorded, found);
        }
    }
}
