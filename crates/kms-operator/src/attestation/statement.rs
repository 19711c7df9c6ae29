//! The in-toto Statement v1 on a result, with the predicate of this program.

use std::{collections::BTreeMap, path::Path};

use kms_domain::{
    fingerprint::{ClusterFingerprint, IdentityFingerprint, KeyFingerprint},
    recovery::{journal::Journal, record::FileInfo},
    transit::TransitVersion,
};
use kms_node::{
    build_info::BuildInfo,
    config::Config,
    report::{outcome::Outcome, rfc3339},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    envelope::{Envelope, MalformedEnvelope},
    public_key::PublicKey,
};
use crate::{
    drill::{DrillRun, Setup, report::Drill},
    recovery::{
        EtcdSource,
        backup_record::{note, note_source},
        open_regular,
        recover_state::GatheredItem,
        verify_pair::Pair,
    },
};

/// Most rows of versions.
const ROWS: usize = 1_000;
const STATEMENT_TYPE: &str = "https://in-toto.io/Statement/v1";
/// Type of the predicate; `docs/format/attestation.md` documents it.
pub const PREDICATE_TYPE: &str = concat!(env!("CARGO_PKG_REPOSITORY"), "/attestation/v1");

/// A statement on files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Statement {
    #[serde(rename = "_type")]
    statement_type: String,
    /// The files; at least one.
    pub subject: Vec<Subject>,
    predicate_type: String,
    pub predicate: Predicate,
}

/// A file by its role and digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Subject {
    /// Role of the file, such as `etcd-snapshot`; a second file of a role has the suffix `-2`.
    pub name: String,
    pub digest: Digest,
}

/// SHA-256 in lower-case hex.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Digest {
    pub sha256: String,
}

/// Result of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Predicate {
    pub command: String,
    pub verdict: String,
    pub exit_code: u8,
    /// Code of the cause in the catalogue of causes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// RFC 3339, whole seconds, UTC.
    pub time: String,
    pub tool: Tool,
    /// `cfg1.` and the digest of the whole identity of the configuration.
    pub identity_fingerprint: String,
    /// `clu1.` and the digest of the name of the cluster.
    pub cluster_fingerprint: String,
    /// `key1.` and the digest of the names that lead to the Transit key.
    pub key_fingerprint: String,
    /// Objects by key version.
    pub versions: Vec<VersionRow>,
    /// Creation time of the backups, as far as known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backups: Vec<BackupRow>,
    /// SHA-256 of the statement before this one in its directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<Digest>,
}

/// The program that made the statement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Tool {
    pub name: String,
    pub version: String,
    /// Source revision, or `unknown`.
    pub commit: String,
}

/// Objects of one version and `key_id`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VersionRow {
    /// Absent if unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transit_version: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_id_hash: Option<String>,
    /// Objects that need the version; absent if no etcd data was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub objects: Option<u64>,
    /// Distinct encrypted DEKs that decrypted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proven_deks: Option<u64>,
    /// Objects that opened; absent if none was opened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opened_objects: Option<u64>,
}

/// Creation time of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackupRow {
    /// `etcd` or `openbao`.
    pub store: String,
    /// RFC 3339.
    pub made_at: String,
}

/// Role of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    EtcdSnapshot,
    OpenbaoSnapshot,
    BackupRecord,
    PeerState,
    RegistryState,
}

impl Role {
    /// Name of the subject.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::EtcdSnapshot => "etcd-snapshot",
            Self::OpenbaoSnapshot => "openbao-snapshot",
            Self::BackupRecord => "backup-record",
            Self::PeerState => "peer-state",
            Self::RegistryState => "registry-state",
        }
    }
}

impl Subject {
    /// Whether the file has this role.
    #[must_use]
    pub fn is(&self, role: Role) -> bool {
        let number = self.name.strip_prefix(role.as_str());
        number.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    }
}

/// Part of a statement that depends on the command.
#[derive(Debug, Default)]
pub struct Findings {
    files: Vec<(Role, String)>,
    versions: Vec<VersionRow>,
    backups: Vec<BackupRow>,
}

impl Findings {
    /// Whether the statement would be about no file.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Adds a file that was read.
    pub fn add_file(&mut self, role: Role, file: Option<&FileInfo>) {
        self.files
            .extend(file.map(|file| (role, file.sha256_hex())));
    }

    /// Adds the objects of a pair by version.
    pub fn add_pair(&mut self, pair: &Pair) {
        let rows = pair.rows.iter().map(|row| VersionRow {
            transit_version: row.version.map(TransitVersion::get),
            key_id_hash: Some(row.key_id_hash.clone()),
            objects: Some(row.finding.objects),
            proven_deks: Some(row.finding.seeds.proven),
            opened_objects: row.finding.data.map(|data| data.proven),
        });
        self.versions.extend(rows);
    }

    /// Adds a file that can be read, for results that are not about its content.
    pub fn add_path(&mut self, role: Role, path: &Path) {
        let noted = open_regular(path).and_then(|file| note(&file));
        self.add_file(role, noted.ok().as_ref());
    }

    /// Adds etcd snapshots. Their reading fails if they are written to after this hash.
    pub fn add_sources<'s>(&mut self, sources: impl IntoIterator<Item = &'s EtcdSource>) {
        for source in sources {
            let noted = note_source(source).ok().flatten();
            self.add_file(Role::EtcdSnapshot, noted.as_ref());
        }
    }

    /// Adds snapshots and objects of a drill. Snapshots that an early failure left unread are read now.
    pub fn add_drill(&mut self, setup: &Setup, run: &DrillRun) {
        for (role, file, path) in [
            (Role::EtcdSnapshot, &run.etcd, setup.etcd()),
            (Role::OpenbaoSnapshot, &run.openbao, setup.openbao()),
        ] {
            match file {
                Some(file) => self.add_file(role, Some(file)),
                None => self.add_path(role, path),
            }
        }
        if let Some(Ok(pair)) = &run.verified {
            self.add_pair(pair);
        }
    }

    /// Adds the evidence of a rebuild. Of several etcd sources, the largest number of objects of a version
    /// counts.
    pub fn add_evidence(&mut self, items: &[GatheredItem]) {
        let mut objects: BTreeMap<TransitVersion, u64> = BTreeMap::new();
        for item in items {
            self.add_item(item.kind.as_str(), &item.sha256);
            for (version, count) in &item.objects {
                let most = objects.entry(*version).or_default();
                *most = (*most).max(*count);
            }
        }
        self.add_objects(&objects);
    }

    /// Adds the evidence in the journal of a rebuild.
    pub fn add_journal(&mut self, journal: &Journal) {
        for item in &journal.evidence {
            self.add_item(&item.kind, &item.sha256);
        }
    }

    fn add_item(&mut self, kind: &str, sha256: &str) {
        let roles = [Role::EtcdSnapshot, Role::BackupRecord, Role::PeerState];
        let role = roles.into_iter().find(|role| role.as_str() == kind);
        // A running etcd has no digest.
        let file = role.filter(|_| !sha256.is_empty());
        self.files
            .extend(file.map(|role| (role, sha256.to_owned())));
    }

    /// Adds the number of objects that need each version.
    pub fn add_objects(&mut self, objects: &BTreeMap<TransitVersion, u64>) {
        self.add_versions(objects.iter().map(|(version, &objects)| VersionRow {
            transit_version: Some(version.get()),
            objects: Some(objects),
            ..VersionRow::default()
        }));
    }

    /// Adds versions.
    pub fn add_versions(&mut self, rows: impl IntoIterator<Item = VersionRow>) {
        self.versions.extend(rows);
    }

    /// Adds the creation times of the backups of a drill.
    pub fn add_backups(&mut self, drill: &Drill) {
        let rows = drill.made().into_iter().map(|(store, made)| BackupRow {
            store: store.to_owned(),
            made_at: rfc3339(made),
        });
        self.backups.extend(rows);
    }

    fn subjects(files: Vec<(Role, String)>) -> Vec<Subject> {
        let mut count: BTreeMap<&str, u32> = BTreeMap::new();
        let subject = |(role, sha256): (Role, String)| {
            let name = role.as_str();
            let number = count.entry(name).or_default();
            *number = number.saturating_add(1);
            Subject {
                name: match number {
                    1 => name.to_owned(),
                    number => format!("{name}-{number}"),
                },
                digest: Digest { sha256 },
            }
        };
        files.into_iter().map(subject).collect()
    }
}

/// The first rows, and the sums of all others in a last row: writers of etcd can create any number.
fn limited(mut rows: Vec<VersionRow>) -> Vec<VersionRow> {
    let more = rows.split_off(rows.len().min(ROWS));
    let sum = |count: fn(&VersionRow) -> Option<u64>| {
        let counts: Vec<u64> = more.iter().filter_map(count).collect();
        let sum = counts.iter().copied().fold(0, u64::saturating_add);
        (!counts.is_empty()).then_some(sum)
    };
    if !more.is_empty() {
        rows.push(VersionRow {
            transit_version: None,
            key_id_hash: None,
            objects: sum(|row| row.objects),
            proven_deks: sum(|row| row.proven_deks),
            opened_objects: sum(|row| row.opened_objects),
        });
    }
    rows
}

/// Error: an envelope without a valid statement.
#[derive(Debug, thiserror::Error)]
pub enum StatementProblem {
    #[error(transparent)]
    Envelope(#[from] MalformedEnvelope),
    /// No signature is valid by one of the keys.
    #[error("no signature is by the key {key_ids} over this content; {}", match same_key {
        true => "a signature names this key, so the content or the signature was changed",
        false => "each signature names another key or none",
    })]
    Signature {
        /// IDs of the given keys.
        key_ids: String,
        /// Whether a signature names a given key.
        same_key: bool,
    },
    #[error("the signed content is no statement with the predicate {PREDICATE_TYPE}")]
    Form,
}

impl Statement {
    pub(super) fn new<R>(
        config: &Config,
        outcome: &Outcome<R>,
        findings: Findings,
        previous: Option<Digest>,
    ) -> Self {
        let tool = BuildInfo::CURRENT;
        Self {
            statement_type: STATEMENT_TYPE.to_owned(),
            subject: Findings::subjects(findings.files),
            predicate_type: PREDICATE_TYPE.to_owned(),
            predicate: Predicate {
                command: outcome.command().to_owned(),
                verdict: outcome.verdict().to_owned(),
                exit_code: outcome.exit().code(),
                cause: outcome.cause().map(str::to_owned),
                time: outcome.time().to_owned(),
                tool: Tool {
                    name: "bao-kms-provider".to_owned(),
                    version: tool.version.to_owned(),
                    commit: tool.commit.to_owned(),
                },
                identity_fingerprint: IdentityFingerprint::of(&config.scope, &config.key)
                    .to_string(),
                cluster_fingerprint: ClusterFingerprint::of(&config.scope).to_string(),
                key_fingerprint: KeyFingerprint::of(&config.scope, &config.key).to_string(),
                versions: limited(findings.versions),
                backups: findings.backups,
                previous,
            },
        }
    }

    /// The payload of an envelope.
    pub(super) fn encode(&self) -> Vec<u8> {
        // Texts and numbers always serialize.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads the content of an envelope after its signature by one of the keys was verified, with the ID of
    /// this key.
    ///
    /// # Errors
    /// [`StatementProblem`].
    pub fn open(bytes: &[u8], keys: &[PublicKey]) -> Result<(Self, String), StatementProblem> {
        let envelope = Envelope::decode(bytes)?;
        let mut signed = keys.iter().filter_map(|key| {
            let payload = envelope.payload_signed_by(key)?;
            Some((payload, key.id().to_owned()))
        });
        let Some((payload, key_id)) = signed.next() else {
            let ids: Vec<_> = keys.iter().map(PublicKey::id).collect();
            return Err(StatementProblem::Signature {
                key_ids: ids.join(" or "),
                same_key: envelope.key_ids().any(|id| ids.contains(&id)),
            });
        };
        let statement: Self =
            serde_json::from_slice(payload).map_err(|_| StatementProblem::Form)?;
        let known = statement.statement_type == STATEMENT_TYPE
            && statement.predicate_type == PREDICATE_TYPE
            && !statement.subject.is_empty();
        known
            .then_some((statement, key_id))
            .ok_or(StatementProblem::Form)
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};

    use super::*;
    use crate::attestation::envelope;

    #[test]
    fn any_number_of_key_ids_gives_a_statement_that_can_be_read() {
        let row = |number| VersionRow {
            transit_version: Some(u64::MAX),
            key_id_hash: Some("x".repeat(43)),
            objects: Some(number),
            proven_deks: Some(1),
            opened_objects: None,
        };
        let rows = limited((0..5_000).map(row).collect());
        assert_eq!(rows.len(), ROWS + 1);
        let objects = rows.iter().filter_map(|row| row.objects).sum::<u64>();
        assert_eq!(objects, (0..5_000).sum::<u64>());
        let last = rows.last().unwrap();
        assert_eq!(
            (
                last.key_id_hash.as_ref(),
                last.proven_deks,
                last.opened_objects
            ),
            (None, Some(4_000), None)
        );
        assert!(serde_json::to_vec(&rows).unwrap().len() * 2 < envelope::MAX_BYTES);
        assert_eq!(limited(vec![row(1)]), [row(1)]);
    }

    #[test]
    fn signed_content_in_another_form_is_refused() {
        let pair = Ed25519KeyPair::generate().unwrap();
        let key = PublicKey::ed25519(pair.public_key().as_ref()).unwrap();
        let open = |payload: &str| {
            let signature = pair.sign(&envelope::encoded(payload.as_bytes()));
            let signature = signature.as_ref().to_vec();
            let envelope = Envelope::signed(payload.as_bytes().to_vec(), key.id(), signature);
            Statement::open(envelope.encode().as_bytes(), std::slice::from_ref(&key)).map(|it| it.0)
        };
        let good = serde_json::json!({
            "_type": STATEMENT_TYPE,
            "subject": [{"name": "etcd-snapshot", "digest": {"sha256": "00"}}],
            "predicateType": PREDICATE_TYPE,
            "predicate": {
                "command": "drill", "verdict": "compatible", "exitCode": 0,
                "time": "2026-11-30T06:16:43Z",
                "tool": {"name": "x", "version": "v1", "commit": "unknown"},
                "identityFingerprint": "", "clusterFingerprint": "", "keyFingerprint": "",
                "versions": [], "unknown": "of a later release",
            },
        });
        assert_eq!(open(&good.to_string()).unwrap().predicate.exit_code, 0);
        for (member, value) in [
            (
                "_type",
                serde_json::json!("https://in-toto.io/Statement/v0.1"),
            ),
            (
                "predicateType",
                serde_json::json!("https://slsa.dev/provenance/v1"),
            ),
            ("subject", serde_json::json!([])),
            ("predicate", serde_json::json!({})),
        ] {
            let mut other = good.clone();
            other[member] = value;
            let refused = open(&other.to_string());
            assert!(matches!(refused, Err(StatementProblem::Form)), "{member}");
        }
        assert!(matches!(open("text"), Err(StatementProblem::Form)));
    }

    #[test]
    fn content_under_the_signature_of_another_key_or_content_is_refused() {
        let pair = Ed25519KeyPair::generate().unwrap();
        let key = PublicKey::ed25519(pair.public_key().as_ref()).unwrap();
        let signature = pair.sign(&envelope::encoded(b"{}")).as_ref().to_vec();
        let open = |payload: &[u8], id: &str, key: &PublicKey| {
            let envelope = Envelope::signed(payload.to_vec(), id, signature.clone());
            Statement::open(envelope.encode().as_bytes(), std::slice::from_ref(key)).unwrap_err()
        };
        let signed = open(b"{}", key.id(), &key);
        assert!(matches!(signed, StatementProblem::Form), "{signed}");
        let changed = open(b"{} ", key.id(), &key);
        let same_key = StatementProblem::Signature {
            key_ids: key.id().to_owned(),
            same_key: true,
        };
        assert_eq!(changed.to_string(), same_key.to_string());
        let other = Ed25519KeyPair::generate().unwrap();
        let other = PublicKey::ed25519(other.public_key().as_ref()).unwrap();
        for id in [key.id(), other.id()] {
            let refused = open(b"{}", id, &other);
            assert!(
                matches!(refused, StatementProblem::Signature { .. }),
                "{refused}"
            );
        }
    }
}
