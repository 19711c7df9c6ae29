//! What has changed since a backup record was written: every recorded fact beside today's.
//!
//! Drift decides nothing. A higher generation is the usual course of things, another mount is not; a
//! person who knows what was done in between can tell.

use kms_domain::{
    recovery::{
        origin::LiveKey,
        record::{BackupRecord, NotedEtcd, NotedFile},
    },
    scope::{IdentityScope, TransitKeyPath},
    transit::KeyProfile,
};
use schemars::JsonSchema;
use serde::Serialize;

use super::verify_pair::Pair;
use crate::{build_info::BuildInfo, config::Config, state::Stored};

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

/// Compares what can be compared: the state only if it is valid, the key only if OpenBao told, the
/// etcd snapshot only if it is a file, whose hash is `snapshot`.
#[must_use]
pub fn drift(
    record: &BackupRecord,
    config: &Config,
    stored: Option<&Stored>,
    pair: &Pair,
    snapshot: Option<&NotedFile>,
) -> Vec<Drift> {
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
    if let Some(stored) = stored
        && let Some(document) = &stored.document
    {
        let active = document.registry().active();
        let recorded = record.active();
        all.add("activeTransitVersion", recorded.version(), active.version());
        all.add("activeKeyIdHash", recorded.id_hash(), active.id_hash());
        all.add(
            "state.generation",
            note.state.generation,
            document.generation(),
        );
        all.add("state.hash", &note.state.hash, document.hash());
        all.add(
            "state.checkpoint",
            &note.state.checkpoint,
            stored.checkpoint_status(),
        );
    }
    if let LiveKey::Listed(profile) = pair.lineage.live() {
        all.add_key(record, profile);
    }
    if let Some(etcd) = &note.etcd {
        all.add_etcd(etcd, pair, snapshot);
    }
    all.0
}

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

#[derive(Default)]
struct Comparison(Vec<Drift>);

impl Comparison {
    fn add(&mut self, field: impl ToString, recorded: impl ToString, found: impl ToString) {
        let (recorded, found) = (recorded.to_string(), found.to_string());
        if recorded != found {
            self.0.push(Drift {
                field: field.to_string(),
                recorded,
                found,
            });
        }
    }

    fn add_key(&mut self, record: &BackupRecord, profile: &KeyProfile) {
        let note = record.note();
        let limits = &note.limits;
        self.add("transit.latestVersion", limits.latest, profile.latest());
        for (field, recorded, found) in [
            (
                "minAvailableVersion",
                limits.min_available,
                profile.min_available(),
            ),
            (
                "minDecryptionVersion",
                limits.min_decryption,
                profile.min_decryption(),
            ),
            (
                "minEncryptionVersion",
                limits.min_encryption,
                profile.min_encryption(),
            ),
        ] {
            self.add(format!("transit.{field}"), recorded, found);
        }
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
        if let Some(file) = snapshot {
            let hash = "etcdSnapshot.sha256";
            self.add(hash, etcd.file.sha256_hex(), file.sha256_hex());
            self.add("etcdSnapshot.bytes", etcd.file.bytes, file.bytes);
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
