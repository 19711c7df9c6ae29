//! The serialized form of a record.
//! Implements `docs/format/backup-record.md` section 2.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{EtcdInfo, FileInfo, LimitsInfo, Note, RecordHash, StateInfo, VersionInfo};
use crate::{
    digest::{MalformedDigest, TextHash},
    fingerprint::IdentityFingerprint,
    json,
    key::{KeyScope, TransitKey},
    registry::{
        RecordState,
        document::{Generation, StateHash},
    },
    schema::RECORD as SCHEMA,
    scope::{
        ClusterId, IdentityScope, KeyLineageId, KeyName, MountPath, NameProblem, Namespace,
        OpenBaoInstanceId, ProviderName, TransitKeyPath, TransitMountId,
    },
    transit::{CreatedAt, TransitVersion},
};

/// A rule violated by the contents of a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordProblem {
    /// A name violates its rule.
    #[error("{member} is invalid")]
    Name {
        /// The member.
        member: &'static str,
        /// The violated rule.
        #[source]
        problem: NameProblem,
    },
    /// A hash is malformed.
    #[error("{member} is malformed")]
    Digest {
        /// The member.
        member: &'static str,
        /// The violated rule.
        #[source]
        problem: MalformedDigest,
    },
    /// A version, creation second or generation outside its range.
    #[error("{member} is {value}, outside 1 to {}", i64::MAX)]
    Number {
        /// The member.
        member: &'static str,
        /// The value.
        value: u64,
    },
    /// A SHA-256 other than 64 lower-case hexadecimal digits.
    #[error("sha256 {0:?} is not 64 lower-case hexadecimal digits")]
    Sha256(String),
    /// An unknown enumeration value.
    #[error("{member} {word:?} does not exist")]
    Word {
        /// The member.
        member: &'static str,
        /// The value.
        word: String,
    },
    /// The fingerprint differs from that of the names.
    #[error("identityFingerprint is {stated}, but the names give {derived}")]
    Fingerprint {
        /// The fingerprint in the record.
        stated: IdentityFingerprint,
        /// The fingerprint of its names.
        derived: IdentityFingerprint,
    },
    /// A `key_id` hash differs from the one derived from the names, the version and its creation
    /// second.
    #[error("keyIdHash of version {0} does not follow from the record's names and creation second")]
    ForeignKeyIdHash(TransitVersion),
    /// A duplicate version, or versions out of order.
    #[error("version {0} is not in ascending order, once")]
    Order(TransitVersion),
    /// The stated active version differs from the version with state `active`.
    #[error(
        "activeTransitVersion and activeKeyIdHash are not those of the version whose state is active"
    )]
    OtherActive,
    /// No version is active.
    #[error("no version is active")]
    NoneActive,
    /// More than one version is active.
    #[error("versions {0} and {1} are both active")]
    SeveralActive(TransitVersion, TransitVersion),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RawRecord {
    pub(super) schema_version: String,
    recorded_at: String,
    plugin_version: String,
    identity_fingerprint: String,
    cluster_id: String,
    provider_name: String,
    openbao_instance_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    openbao_namespace: Option<String>,
    transit_mount_id: String,
    key_lineage_id: String,
    transit_mount_path: String,
    transit_key_name: String,
    active_transit_version: u64,
    active_key_id_hash: String,
    state: RawState,
    transit: RawTransit,
    versions: Vec<RawVersion>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    etcd_snapshot: Option<RawEtcd>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    openbao_snapshot: Option<RawFile>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) record_hash: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawState {
    generation: u64,
    hash: String,
    checkpoint: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawTransit {
    latest_version: u64,
    min_available_version: u64,
    min_decryption_version: u64,
    min_encryption_version: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawVersion {
    transit_version: u64,
    created_at_unix: u64,
    key_id_hash: String,
    decryptable: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    state: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawFile {
    sha256: String,
    bytes: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawEtcd {
    sha256: String,
    bytes: u64,
    revision: u64,
    required_versions: Vec<RawRequired>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawRequired {
    transit_version: u64,
    objects: u64,
}

impl RawRecord {
    /// The record, with an empty hash.
    pub(super) fn of(note: &Note, active: &TransitKey) -> Self {
        let identity = note.scope.identity();
        Self {
            schema_version: SCHEMA.to_owned(),
            recorded_at: note.recorded_at.clone(),
            plugin_version: note.plugin_version.clone(),
            identity_fingerprint: note.fingerprint().to_string(),
            cluster_id: identity.cluster_id.to_string(),
            provider_name: identity.provider_name.to_string(),
            openbao_instance_id: identity.openbao_instance_id.to_string(),
            openbao_namespace: identity
                .openbao_namespace
                .as_ref()
                .map(Namespace::to_string),
            transit_mount_id: identity.transit_mount_id.to_string(),
            key_lineage_id: identity.key_lineage_id.to_string(),
            transit_mount_path: note.path.mount_path.to_string(),
            transit_key_name: note.path.key_name.to_string(),
            active_transit_version: active.version().get(),
            active_key_id_hash: active.id_hash().to_string(),
            state: RawState {
                generation: note.state.generation.get(),
                hash: note.state.hash.to_string(),
                checkpoint: note.state.checkpoint.clone(),
            },
            transit: RawTransit {
                latest_version: note.limits.latest.get(),
                min_available_version: note.limits.min_available,
                min_decryption_version: note.limits.min_decryption,
                min_encryption_version: note.limits.min_encryption,
            },
            versions: note.versions.values().map(RawVersion::of).collect(),
            etcd_snapshot: note.etcd.as_ref().map(RawEtcd::of),
            openbao_snapshot: note.openbao.as_ref().map(RawFile::of),
            record_hash: String::new(),
        }
    }

    /// Hash over all members but `recordHash`, which must still be empty.
    pub(super) fn content_hash(&self) -> RecordHash {
        RecordHash::of_bytes(json::compact(self).as_bytes())
    }

    pub(super) fn read(self) -> Result<(Note, Arc<TransitKey>), RecordProblem> {
        let namespace = self.openbao_namespace.as_deref();
        let identity = IdentityScope {
            provider_name: name("providerName", ProviderName::parse(&self.provider_name))?,
            cluster_id: name("clusterId", ClusterId::parse(&self.cluster_id))?,
            openbao_instance_id: name(
                "openbaoInstanceId",
                OpenBaoInstanceId::parse(&self.openbao_instance_id),
            )?,
            openbao_namespace: namespace
                .map(|namespace| name("openbaoNamespace", Namespace::parse(namespace)))
                .transpose()?,
            transit_mount_id: name(
                "transitMountId",
                TransitMountId::parse(&self.transit_mount_id),
            )?,
            key_lineage_id: name("keyLineageId", KeyLineageId::parse(&self.key_lineage_id))?,
        };

        let path = TransitKeyPath {
            mount_path: name(
                "transitMountPath",
                MountPath::parse(&self.transit_mount_path),
            )?,
            key_name: name("transitKeyName", KeyName::parse(&self.transit_key_name))?,
        };

        let stated = IdentityFingerprint::parse(&self.identity_fingerprint);
        let stated = digest("identityFingerprint", stated)?;
        let derived = IdentityFingerprint::of(&identity, &path);
        if stated != derived {
            return Err(RecordProblem::Fingerprint { stated, derived });
        }

        let scope = Arc::new(KeyScope::new(identity));
        let versions = self.versions.iter().map(|raw| {
            let read = raw.read(&scope)?;
            Ok((read.key.version(), read))
        });
        let versions = ascending(versions)?;

        let note = Note {
            recorded_at: self.recorded_at,
            plugin_version: self.plugin_version,
            scope,
            path,
            state: self.state.read()?,
            limits: self.transit.read()?,
            versions,
            etcd: self.etcd_snapshot.map(RawEtcd::read).transpose()?,
            openbao: self.openbao_snapshot.map(RawFile::read).transpose()?,
        };

        let active = super::one_active(&note)?;
        let same = active.version().get() == self.active_transit_version
            && active.id_hash().as_str() == self.active_key_id_hash;
        match same {
            true => Ok((note, active)),
            false => Err(RecordProblem::OtherActive),
        }
    }
}

impl RawState {
    fn read(self) -> Result<StateInfo, RecordProblem> {
        if !["current", "behind", "missing"].contains(&self.checkpoint.as_str()) {
            return Err(RecordProblem::Word {
                member: "checkpoint",
                word: self.checkpoint,
            });
        }
        Ok(StateInfo {
            generation: Generation::new(self.generation)
                .ok_or_else(|| number("generation", self.generation))?,
            hash: digest("hash", StateHash::parse(&self.hash))?,
            checkpoint: self.checkpoint,
        })
    }
}

impl RawTransit {
    fn read(self) -> Result<LimitsInfo, RecordProblem> {
        Ok(LimitsInfo {
            latest: version("latestVersion", self.latest_version)?,
            min_available: self.min_available_version,
            min_decryption: self.min_decryption_version,
            min_encryption: self.min_encryption_version,
        })
    }
}

impl RawVersion {
    fn of(noted: &VersionInfo) -> Self {
        Self {
            transit_version: noted.key.version().get(),
            created_at_unix: noted.key.created_at().get(),
            key_id_hash: noted.key.id_hash().to_string(),
            decryptable: noted.decryptable,
            state: noted.state.map(|state| state.as_str().to_owned()),
        }
    }

    fn read(&self, scope: &Arc<KeyScope>) -> Result<VersionInfo, RecordProblem> {
        let version = version("transitVersion", self.transit_version)?;
        let created_at = CreatedAt::new(self.created_at_unix)
            .ok_or_else(|| number("createdAtUnix", self.created_at_unix))?;
        let key = TransitKey::new(Arc::clone(scope), version, created_at);
        let stated = digest("keyIdHash", TextHash::parse(&self.key_id_hash))?;
        if stated != *key.id_hash() {
            return Err(RecordProblem::ForeignKeyIdHash(version));
        }
        let state = self.state.as_deref().map(|word| {
            RecordState::parse(word).ok_or_else(|| RecordProblem::Word {
                member: "state",
                word: word.to_owned(),
            })
        });
        Ok(VersionInfo {
            key: Arc::new(key),
            decryptable: self.decryptable,
            state: state.transpose()?,
        })
    }
}

impl RawFile {
    fn of(file: &FileInfo) -> Self {
        Self {
            sha256: file.sha256_hex(),
            bytes: file.bytes,
        }
    }

    fn read(self) -> Result<FileInfo, RecordProblem> {
        file(self.sha256, self.bytes)
    }
}

impl RawEtcd {
    fn of(etcd: &EtcdInfo) -> Self {
        let required = etcd.required.iter().map(|(version, &objects)| RawRequired {
            transit_version: version.get(),
            objects,
        });
        Self {
            sha256: etcd.file.sha256_hex(),
            bytes: etcd.file.bytes,
            revision: etcd.revision,
            required_versions: required.collect(),
        }
    }

    fn read(self) -> Result<EtcdInfo, RecordProblem> {
        let required = self.required_versions.iter().map(|raw| {
            let version = version("transitVersion", raw.transit_version)?;
            Ok((version, raw.objects))
        });
        Ok(EtcdInfo {
            required: ascending(required)?,
            file: file(self.sha256, self.bytes)?,
            revision: self.revision,
        })
    }
}

/// Requires each version once and in order, so that equal contents have equal text.
fn ascending<T>(
    entries: impl Iterator<Item = Result<(TransitVersion, T), RecordProblem>>,
) -> Result<BTreeMap<TransitVersion, T>, RecordProblem> {
    let mut all = BTreeMap::new();
    for entry in entries {
        let (version, value) = entry?;
        if all
            .last_key_value()
            .is_some_and(|(&last, _)| last >= version)
        {
            return Err(RecordProblem::Order(version));
        }
        all.insert(version, value);
    }
    Ok(all)
}

fn file(text: String, bytes: u64) -> Result<FileInfo, RecordProblem> {
    let mut sha256 = [0; 32];
    for (byte, digits) in sha256.iter_mut().zip(text.as_bytes().chunks(2)) {
        let digits = std::str::from_utf8(digits).unwrap_or_default();
        *byte = u8::from_str_radix(digits, 16).unwrap_or_default();
    }

    let file = FileInfo { sha256, bytes };
    // Accepts only the canonical spelling of 32 bytes.
    match file.sha256_hex() == text {
        true => Ok(file),
        false => Err(RecordProblem::Sha256(text)),
    }
}

fn name<T>(member: &'static str, read: Result<T, NameProblem>) -> Result<T, RecordProblem> {
    read.map_err(|problem| RecordProblem::Name { member, problem })
}

fn digest<T>(member: &'static str, read: Result<T, MalformedDigest>) -> Result<T, RecordProblem> {
    read.map_err(|problem| RecordProblem::Digest { member, problem })
}

fn version(member: &'static str, value: u64) -> Result<TransitVersion, RecordProblem> {
    TransitVersion::new(value).ok_or_else(|| number(member, value))
}

fn number(member: &'static str, value: u64) -> RecordProblem {
    RecordProblem::Number { member, value }
}
