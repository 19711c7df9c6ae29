//! The note that is kept with every backup set. Implements `docs/format/backup-record.md`.
//!
//! Its hash finds damage and careless edits; it is no signature. What the note says of keys is
//! derived again when it is read, so a `key_id` hash in it always belongs to the names beside it.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    digest::{MalformedDigest, digest_type},
    fingerprint::IdentityFingerprint,
    json::{self, JsonProblem},
    key::{KeyScope, TransitKey},
    registry::{
        RecordState,
        document::{Generation, StateHash},
    },
    scope::TransitKeyPath,
    transit::TransitVersion,
};

mod raw;

use raw::RawRecord;
pub use raw::RecordProblem;

/// The largest file that is read.
pub const MAX_FILE_BYTES: usize = 4 * 1024 * 1024;

digest_type!(
    /// `bkr1.` and a digest of everything else in the record.
    RecordHash,
    "bkr1."
);

/// What was true of one node and its key when a backup set was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupRecord {
    note: Note,
    hash: RecordHash,
}

/// The contents of a [`BackupRecord`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// RFC 3339, for people; nothing is concluded from it.
    pub recorded_at: String,
    /// The program that made the record.
    pub plugin_version: String,
    /// The names of the key lineage.
    pub scope: Arc<KeyScope>,
    /// Where the key is.
    pub path: TransitKeyPath,
    /// The node's state file.
    pub state: NotedState,
    /// The key's own limits.
    pub limits: NotedLimits,
    /// Every version that metadata or the state file knew, by number.
    pub versions: BTreeMap<TransitVersion, NotedVersion>,
    /// The etcd snapshot of the set.
    pub etcd: Option<NotedEtcd>,
    /// The OpenBao snapshot of the set.
    pub openbao: Option<NotedFile>,
}

/// The state file and its checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotedState {
    /// The state file's.
    pub generation: Generation,
    /// The state file's.
    pub hash: StateHash,
    /// How the checkpoint stood to it: `current`, `behind` or `missing`.
    pub checkpoint: String,
}

/// The key's limits in OpenBao.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotedLimits {
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
pub struct NotedVersion {
    /// Version and creation second in the record's scope.
    pub key: Arc<TransitKey>,
    /// Whether OpenBao decrypted with it at the time.
    pub decryptable: bool,
    /// Its place in the state file; `None` when the node had not met it.
    pub state: Option<RecordState>,
}

/// A file of the backup set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotedFile {
    /// Of the whole file, lower-case hexadecimal.
    pub sha256: String,
    /// The length.
    pub bytes: u64,
}

/// The etcd snapshot of the backup set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotedEtcd {
    /// The file.
    pub file: NotedFile,
    /// The highest revision in it.
    pub revision: u64,
    /// How many live objects need each version.
    pub required: BTreeMap<TransitVersion, u64>,
}

/// Why a file is not a backup record.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Beyond [`MAX_FILE_BYTES`].
    #[error("the file has {0} bytes, more than a backup record can have")]
    TooLarge(usize),
    /// Not this format.
    #[error("the file is not a backup record")]
    Json(#[source] JsonProblem),
    /// A format that this program does not know.
    #[error("the schema version {0:?} is not known")]
    UnknownSchema(String),
    /// The hash has no valid form.
    #[error("recordHash is malformed")]
    Hash(#[source] MalformedDigest),
    /// The contents are not those that were hashed.
    #[error(
        "the record was changed: it states the hash {stated}, but its contents have {computed}"
    )]
    Changed {
        /// As the record says.
        stated: RecordHash,
        /// Of its contents.
        computed: RecordHash,
    },
    /// The contents break a rule of the format.
    #[error("the record's contents are invalid")]
    Contents(#[source] RecordProblem),
}

impl BackupRecord {
    /// Hashes the contents.
    ///
    /// # Errors
    /// [`RecordProblem::NoneActive`] and [`RecordProblem::SeveralActive`]: one version of the key
    /// is active.
    pub fn new(note: Note) -> Result<Self, RecordProblem> {
        require_one_active(&note)?;
        Ok(Self {
            hash: RawRecord::of(&note).content_hash(),
            note,
        })
    }

    /// Reads and checks the bytes of a record. White space between tokens is free.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        if bytes.len() > MAX_FILE_BYTES {
            return Err(RecordError::TooLarge(bytes.len()));
        }
        let mut raw: RawRecord = json::read(bytes).map_err(RecordError::Json)?;
        if raw.schema_version != raw::SCHEMA {
            return Err(RecordError::UnknownSchema(raw.schema_version));
        }
        let stated = std::mem::take(&mut raw.record_hash);
        let stated = RecordHash::parse(&stated).map_err(RecordError::Hash)?;
        let computed = raw.content_hash();
        if stated != computed {
            return Err(RecordError::Changed { stated, computed });
        }
        let note = raw.read().map_err(RecordError::Contents)?;
        require_one_active(&note).map_err(RecordError::Contents)?;
        Ok(Self { note, hash: stated })
    }

    /// The text of the file.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut raw = RawRecord::of(&self.note);
        raw.record_hash = self.hash.to_string();
        json::indented(&raw)
    }

    /// What it says.
    #[must_use]
    pub fn note(&self) -> &Note {
        &self.note
    }

    /// The hash of what it says.
    #[must_use]
    pub fn hash(&self) -> &RecordHash {
        &self.hash
    }

    /// The version that encrypted.
    #[must_use]
    pub fn active(&self) -> Option<&Arc<TransitKey>> {
        active(&self.note).next()
    }
}

impl Note {
    /// Of the names and the place of the key.
    #[must_use]
    pub fn fingerprint(&self) -> IdentityFingerprint {
        IdentityFingerprint::of(self.scope.identity(), &self.path)
    }
}

fn require_one_active(note: &Note) -> Result<(), RecordProblem> {
    let mut active = active(note).map(|key| key.version());
    match (active.next(), active.next()) {
        (Some(_), None) => Ok(()),
        (None, _) => Err(RecordProblem::NoneActive),
        (Some(one), Some(other)) => Err(RecordProblem::SeveralActive(one, other)),
    }
}

fn active(note: &Note) -> impl Iterator<Item = &Arc<TransitKey>> {
    let versions = note.versions.values();
    versions
        .filter(|version| version.state == Some(RecordState::Active))
        .map(|version| &version.key)
}
