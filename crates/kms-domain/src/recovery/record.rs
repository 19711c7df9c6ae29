//! The record kept with every backup set.
//! Implements `docs/format/backup-record.md`.
//!
//! The hash detects damage and careless edits; it is not a signature. Decoding derives all keys
//! again, so every `key_id` hash in a record matches the names beside it.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    digest::{MalformedDigest, digest_type, hex},
    fingerprint::IdentityFingerprint,
    json::{self, JsonProblem},
    key::{KeyScope, TransitKey},
    registry::{
        RecordState,
        document::{Document, Generation, StateHash},
    },
    schema::{self, NewerSchema, RECORD as SCHEMA},
    scope::TransitKeyPath,
    transit::{KeyProfile, TransitVersion},
};

mod raw;

use raw::RawRecord;
pub use raw::RecordProblem;

/// Maximum size of a file.
pub const MAX_FILE_BYTES: usize = 4 * 1024 * 1024;

digest_type!(
    /// `bkr1.` and a digest of everything else in the record.
    RecordHash,
    "bkr1."
);

/// State of one node and its key at the time of a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupRecord {
    note: Note,
    active: Arc<TransitKey>,
    hash: RecordHash,
}

/// The contents of a [`BackupRecord`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// RFC 3339, for people; the program ignores it.
    pub recorded_at: String,
    /// Version of the program that made the record.
    pub plugin_version: String,
    /// The names of the key lineage.
    pub scope: Arc<KeyScope>,
    /// The path of the key.
    pub path: TransitKeyPath,
    /// The node's state file.
    pub state: StateInfo,
    /// The key's limits.
    pub limits: LimitsInfo,
    /// Every version in the metadata or the state file, by number.
    pub versions: BTreeMap<TransitVersion, VersionInfo>,
    /// The etcd snapshot of the set.
    pub etcd: Option<EtcdInfo>,
    /// The OpenBao snapshot of the set.
    pub openbao: Option<FileInfo>,
}

/// The state file and its checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateInfo {
    /// Generation in the state file.
    pub generation: Generation,
    /// Hash in the state file.
    pub hash: StateHash,
    /// Status of the checkpoint: `current`, `behind` or `missing`.
    pub checkpoint: String,
}

/// The key's limits in OpenBao.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimitsInfo {
    /// `latest_version`
    pub latest: TransitVersion,
    /// `min_available_version`
    pub min_available: u64,
    /// `min_decryption_version`
    pub min_decryption: u64,
    /// `min_encryption_version`
    pub min_encryption: u64,
}

/// One version of the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionInfo {
    /// Version and creation second in the record's scope.
    pub key: Arc<TransitKey>,
    /// Whether OpenBao decrypted with it at that time.
    pub decryptable: bool,
    /// Its state in the state file; `None` if it was missing there.
    pub state: Option<RecordState>,
}

/// A file of the backup set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileInfo {
    /// Hash of the whole file.
    pub sha256: [u8; 32],
    /// Length of the file.
    pub bytes: u64,
}

/// The etcd snapshot of the backup set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdInfo {
    /// The file.
    pub file: FileInfo,
    /// The highest revision in it.
    pub revision: u64,
    /// Number of live objects that need each version.
    pub required: BTreeMap<TransitVersion, u64>,
}

/// Error of a record file.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Larger than [`MAX_FILE_BYTES`].
    #[error("the file has {0} bytes, more than a backup record can have")]
    TooLarge(usize),
    /// Another file format.
    #[error("the file is not a backup record")]
    Json(#[source] JsonProblem),
    /// A newer release wrote the file; it is intact, and that release reads it.
    #[error("the record was {0}")]
    NewerRelease(NewerSchema),
    /// The schema of another format.
    #[error("the record has the schema {0:?} instead of {SCHEMA:?}")]
    OtherFormat(String),
    /// The hash is malformed.
    #[error("recordHash is malformed")]
    Hash(#[source] MalformedDigest),
    /// The contents differ from the hashed contents.
    #[error(
        "the record was changed: it states the hash {stated}, but its contents have {computed}"
    )]
    Changed {
        /// The hash in the record.
        stated: RecordHash,
        /// The hash of the contents.
        computed: RecordHash,
    },
    /// The contents violate a rule of the format.
    #[error("the record's contents are invalid")]
    Contents(#[source] RecordProblem),
}

impl BackupRecord {
    /// Hashes the contents.
    ///
    /// # Errors
    /// [`RecordProblem::NoneActive`] and [`RecordProblem::SeveralActive`]: exactly one version must
    /// be active.
    pub fn new(note: Note) -> Result<Self, RecordProblem> {
        let active = one_active(&note)?;
        Ok(Self {
            hash: RawRecord::of(&note, &active).content_hash(),
            active,
            note,
        })
    }

    /// Decodes and checks a record. White space between tokens is ignored.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        if bytes.len() > MAX_FILE_BYTES {
            return Err(RecordError::TooLarge(bytes.len()));
        }

        schema::refuse_newer(bytes).map_err(RecordError::NewerRelease)?;
        let mut raw: RawRecord = json::read(bytes).map_err(RecordError::Json)?;
        if raw.schema_version != SCHEMA {
            return Err(RecordError::OtherFormat(raw.schema_version));
        }

        let stated = std::mem::take(&mut raw.record_hash);
        let stated = RecordHash::parse(&stated).map_err(RecordError::Hash)?;
        let computed = raw.content_hash();
        if stated != computed {
            return Err(RecordError::Changed { stated, computed });
        }

        let (note, active) = raw.read().map_err(RecordError::Contents)?;
        Ok(Self {
            note,
            active,
            hash: stated,
        })
    }

    /// Encodes the file.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut raw = RawRecord::of(&self.note, &self.active);
        raw.record_hash = self.hash.to_string();
        json::indented(&raw)
    }

    /// The contents.
    #[must_use]
    pub fn note(&self) -> &Note {
        &self.note
    }

    /// The hash of the contents.
    #[must_use]
    pub fn hash(&self) -> &RecordHash {
        &self.hash
    }

    /// The active version at that time.
    #[must_use]
    pub fn active(&self) -> &Arc<TransitKey> {
        &self.active
    }
}

impl LimitsInfo {
    /// The current limits of the key.
    #[must_use]
    pub fn of(profile: &KeyProfile) -> Self {
        Self {
            latest: profile.latest(),
            min_available: profile.min_available(),
            min_decryption: profile.min_decryption(),
            min_encryption: profile.min_encryption(),
        }
    }
}

impl VersionInfo {
    /// Every version that the key lists or the state has.
    #[must_use]
    pub fn all(
        scope: &Arc<KeyScope>,
        document: &Document,
        profile: &KeyProfile,
    ) -> BTreeMap<TransitVersion, Self> {
        let listed = profile.listed().map(|(version, created_at)| {
            let noted = Self {
                key: Arc::new(TransitKey::new(Arc::clone(scope), version, created_at)),
                decryptable: true,
                state: None,
            };
            (version, noted)
        });

        let known = document.registry().records().iter().map(|record| {
            let version = record.key.version();
            let noted = Self {
                key: Arc::clone(&record.key),
                // A removed version may be deleted or recreated since.
                decryptable: profile.created_at(version) == Some(record.key.created_at()),
                state: Some(record.state),
            };
            (version, noted)
        });

        listed.chain(known).collect()
    }
}

impl FileInfo {
    /// The hash in lower-case hexadecimal.
    #[must_use]
    pub fn sha256_hex(&self) -> String {
        hex(&self.sha256)
    }
}

impl Note {
    /// Fingerprint of the names and the path of the key.
    #[must_use]
    pub fn fingerprint(&self) -> IdentityFingerprint {
        IdentityFingerprint::of(self.scope.identity(), &self.path)
    }
}

fn one_active(note: &Note) -> Result<Arc<TransitKey>, RecordProblem> {
    let mut active = note
        .versions
        .values()
        .filter(|version| version.state == Some(RecordState::Active))
        .map(|version| &version.key);
    match (active.next(), active.next()) {
        (Some(only), None) => Ok(Arc::clone(only)),
        (None, _) => Err(RecordProblem::NoneActive),
        (Some(one), Some(other)) => {
            Err(RecordProblem::SeveralActive(one.version(), other.version()))
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::{collection, option, prelude::*, sample};
    use serde::Deserialize;

    use super::*;
    use crate::{transit::CreatedAt, vectors, vectors::vectors};

    #[derive(Deserialize)]
    struct Vectors {
        records: Vec<Vector>,
    }

    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Vector {
        claim: String,
        record: String,
        active_key_id: String,
    }

    #[test]
    fn every_vector_is_read_and_written() {
        let vectors: Vectors = vectors!("backup_record.json");
        for vector in vectors.records {
            let record = BackupRecord::decode(vector.record.as_bytes()).unwrap();
            assert_eq!(record.encode(), vector.record, "{}", vector.claim);
            assert_eq!(record.active().id().as_str(), vector.active_key_id);
            let again = BackupRecord::new(record.note().clone()).unwrap();
            assert_eq!(again, record);
        }
    }

    /// Version `n` of the golden scope, created at second `n`.
    pub(in crate::recovery) fn noted(versions: &[(u64, Option<RecordState>)]) -> Note {
        let scope = Arc::new(KeyScope::new(vectors::golden_scope()));
        let versions = versions.iter().map(|&(number, state)| {
            let version = vectors::version(number);
            let key = TransitKey::new(Arc::clone(&scope), version, vectors::created_at(number));
            let noted = VersionInfo {
                key: Arc::new(key),
                decryptable: true,
                state,
            };
            (version, noted)
        });
        Note {
            recorded_at: "2024-05-15T20:00:00Z".to_owned(),
            plugin_version: "v1".to_owned(),
            versions: versions.collect(),
            scope: Arc::clone(&scope),
            path: vectors::path("transit", "kubernetes-etcd"),
            state: StateInfo {
                generation: Generation::FIRST,
                hash: vectors::document(&[(1, RecordState::Active)])
                    .hash()
                    .clone(),
                checkpoint: "current".to_owned(),
            },
            limits: LimitsInfo {
                latest: vectors::version(2),
                min_available: 0,
                min_decryption: 1,
                min_encryption: 0,
            },
            etcd: None,
            openbao: None,
        }
    }

    fn two_versions() -> Note {
        let states = [
            (1, Some(RecordState::Retired)),
            (2, Some(RecordState::Active)),
        ];
        noted(&states)
    }

    #[test]
    fn exactly_one_version_is_active() {
        let active = Some(RecordState::Active);
        assert_eq!(
            BackupRecord::new(noted(&[(1, None), (2, Some(RecordState::Pending))])),
            Err(RecordProblem::NoneActive)
        );
        assert_eq!(
            BackupRecord::new(noted(&[(1, active), (2, active)])),
            Err(RecordProblem::SeveralActive(
                vectors::version(1),
                vectors::version(2)
            ))
        );
    }

    /// A record with a correct hash after an edit, so that only a rule can refuse it.
    fn edited(edit: impl FnOnce(&mut serde_json::Value)) -> Result<BackupRecord, RecordError> {
        let mut note = two_versions();
        note.openbao = Some(FileInfo {
            sha256: [0xab; 32],
            bytes: 1,
        });
        note.etcd = Some(EtcdInfo {
            file: FileInfo {
                sha256: [0xcd; 32],
                bytes: 2,
            },
            revision: 3,
            required: [(vectors::version(1), 4), (vectors::version(2), 5)].into(),
        });
        let text = BackupRecord::new(note).unwrap().encode();
        let mut value: serde_json::Value = serde_json::from_str(&text).unwrap();
        edit(&mut value);
        let mut raw: RawRecord = serde_json::from_value(value).unwrap();
        raw.record_hash = String::new();
        raw.record_hash = raw.content_hash().to_string();
        BackupRecord::decode(json::compact(&raw).as_bytes())
    }

    #[test]
    fn contents_that_contradict_the_format_are_refused_for_all_their_hash() {
        assert!(edited(|_| ()).is_ok());
        type Edit = fn(&mut serde_json::Value);
        let cases: [(&str, Edit); 13] = [
            ("clusterId is invalid", |it| it["clusterId"] = " ".into()),
            ("identityFingerprint is malformed", |it| {
                it["identityFingerprint"] = "cfg1.x".into();
            }),
            ("but the names give", |it| {
                it["transitKeyName"] = "other".into();
            }),
            ("version 2 does not follow", |it| {
                it["versions"][1]["createdAtUnix"] = 7.into();
            }),
            ("createdAtUnix is 0", |it| {
                it["versions"][0]["createdAtUnix"] = 0.into();
            }),
            ("version 1 is not in ascending order", |it| {
                it["versions"].as_array_mut().unwrap().reverse();
            }),
            ("version 1 is not in ascending order", |it| {
                it["etcdSnapshot"]["requiredVersions"][1]["transitVersion"] = 1.into();
            }),
            ("no version is active", |it| {
                it["versions"][1]["state"] = "pending".into();
            }),
            ("activeTransitVersion and activeKeyIdHash", |it| {
                it["activeTransitVersion"] = 1.into();
            }),
            ("generation is 0", |it| it["state"]["generation"] = 0.into()),
            ("checkpoint \"lost\"", |it| {
                it["state"]["checkpoint"] = "lost".into();
            }),
            ("state \"lost\"", |it| {
                it["versions"][0]["state"] = "lost".into()
            }),
            ("is not 64 lower-case", |it| {
                it["openbaoSnapshot"]["sha256"] = "AB".repeat(32).into();
            }),
        ];
        for (expected, edit) in cases {
            let Err(RecordError::Contents(problem)) = edited(edit) else {
                panic!("{expected} was not found");
            };
            assert!(problem.to_string().contains(expected), "{problem}");
        }
    }

    #[test]
    fn a_newer_release_is_named_whatever_else_it_writes() {
        let text = BackupRecord::new(two_versions()).unwrap().encode();
        for more in ["", "\"new\": {\"more\": 1},", "\"versions\": 7,"] {
            let newer = text.replace("backup-record/v1", "backup-record/v2");
            let newer = newer.replacen('{', &format!("{{{more}"), 1);
            assert!(matches!(
                BackupRecord::decode(newer.as_bytes()),
                Err(RecordError::NewerRelease(schema)) if schema.to_string().contains("/v2\"")
            ));
        }
        let own = text.replacen('{', "{\"new\": 1,", 1);
        let refused = BackupRecord::decode(own.as_bytes());
        assert!(matches!(refused, Err(RecordError::Json(_))));
    }

    #[test]
    fn an_oversize_file_is_refused_unread() {
        let large = vec![b' '; MAX_FILE_BYTES + 1];
        assert!(matches!(
            BackupRecord::decode(&large),
            Err(RecordError::TooLarge(_))
        ));
    }

    fn any_note() -> impl Strategy<Value = Note> {
        let number = || 1..=u64::MAX / 2;
        let others = [None, Some(RecordState::Retired), Some(RecordState::Removed)];
        let version = (number(), any::<bool>(), sample::select(others.to_vec()));
        let versions = collection::btree_map(number(), version, 1..4);
        let file = (any::<[u8; 32]>(), any::<u64>())
            .prop_map(|(sha256, bytes)| FileInfo { sha256, bytes });
        let required = collection::btree_map(number(), any::<u64>(), 0..3);
        let etcd = (file.clone(), any::<u64>(), required).prop_map(|(file, revision, required)| {
            let required = required.into_iter();
            EtcdInfo {
                file,
                revision,
                required: required
                    .map(|(number, objects)| (vectors::version(number), objects))
                    .collect(),
            }
        });
        let words = (
            ".*",
            ".*",
            sample::select(vec!["current", "behind", "missing"]),
        );
        let all = (
            vectors::any_scope(),
            versions,
            words,
            option::of(etcd),
            option::of(file),
        );
        all.prop_map(
            |(identity, versions, (recorded_at, plugin_version, checkpoint), etcd, openbao)| {
                let scope = Arc::new(KeyScope::new(identity));
                let newest = versions.keys().copied().max();
                let versions = versions
                    .iter()
                    .map(|(&number, &(seconds, decryptable, state))| {
                        let created_at = CreatedAt::new(seconds).unwrap();
                        let version = vectors::version(number);
                        let key = TransitKey::new(Arc::clone(&scope), version, created_at);
                        let active = Some(number) == newest;
                        let noted = VersionInfo {
                            key: Arc::new(key),
                            decryptable,
                            state: if active {
                                Some(RecordState::Active)
                            } else {
                                state
                            },
                        };
                        (version, noted)
                    });
                Note {
                    recorded_at,
                    plugin_version,
                    versions: versions.collect(),
                    scope: Arc::clone(&scope),
                    state: StateInfo {
                        checkpoint: checkpoint.to_owned(),
                        ..two_versions().state
                    },
                    etcd,
                    openbao,
                    ..two_versions()
                }
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(note in any_note()) {
            let record = BackupRecord::new(note).unwrap();
            prop_assert_eq!(BackupRecord::decode(record.encode().as_bytes()).unwrap(), record);
        }

        #[test]
        fn a_changed_byte_is_refused_or_was_white_space(
            note in any_note(),
            at in any::<sample::Index>(),
            byte in any::<u8>(),
        ) {
            let record = BackupRecord::new(note).unwrap();
            let mut text = record.encode().into_bytes();
            let at = at.index(text.len());
            text[at] = byte;
            if let Ok(read) = BackupRecord::decode(&text) {
                prop_assert_eq!(read, record);
            }
        }

        #[test]
        fn hostile_bytes_never_panic(bytes in ".*") {
            prop_assert!(BackupRecord::decode(bytes.as_bytes()).is_err());
        }
    }
}
