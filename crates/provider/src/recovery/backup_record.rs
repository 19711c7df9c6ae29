//! Notes what is true of this node and its key when a backup set is made.
//! Implements `docs/format/backup-record.md`.
//!
//! Nothing but the note is written. A state that does not fit the live key is not noted: whoever
//! restores by the record would take one of the two for granted.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read as _, Seek as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use jiff::Timestamp;
use kms_domain::{
    key::KeyScope,
    recovery::{
        claims::VersionClaims,
        origin::{Gap, Origin},
        rebuild::OWN_STATE,
        record::{
            BackupRecord, Note, NotedEtcd, NotedFile, NotedLimits, NotedState, NotedVersion,
            RecordProblem,
        },
    },
    registry::document::Document,
    transit::{KeyProfile, ProfileRefused, RegistryConflict},
};
use sha2::{Digest as _, Sha256};

use super::{
    EtcdError, EtcdSource, SnapshotFile, open,
    raft_snapshot::{self, RaftSnapshot, RaftSnapshotError},
    verify_pair::{self, Depth, Pair, Question, Unanswered, Watch},
};
use crate::{
    auth::CallFailure,
    build_info::BuildInfo,
    config::Config,
    connection::{self, ConnectionError},
    state::{StateError, Stored},
};

/// The files of the set, as far as they are there already.
#[derive(Debug, Clone, Copy)]
pub struct BackupSet<'a> {
    /// What `etcdctl snapshot save` wrote.
    pub etcd: Option<&'a Path>,
    /// The prefix of the API server in it; see [`Question::prefix`].
    pub etcd_prefix: Option<&'a str>,
    /// What `bao operator raft snapshot save` wrote.
    pub openbao: Option<&'a Path>,
}

/// A note, and what in the set does not fit it.
#[derive(Debug)]
pub struct Noted {
    /// To be written.
    pub record: BackupRecord,
    /// What etcd holds and the live key decrypts of it, if it was read.
    pub pair: Option<Pair>,
    /// Objects of this key, under any provider name, that need no version that the live key has.
    pub unmapped: u64,
    /// What shows in the OpenBao snapshot without a key, if one was named.
    pub openbao: Option<RaftSnapshot>,
}

/// Why there is nothing to note.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The state cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// There is no state.
    #[error(
        "there is no registry state at {}, so it is not known which version is active; no record \
         was written. Run this on a node that serves; if this one did, run recover-state \
         first",
        .0.display()
    )]
    NoState(PathBuf),
    /// OpenBao could not be asked.
    #[error("{UNREAD}")]
    Connection(#[from] ConnectionError),
    /// OpenBao did not tell what the key has.
    #[error("{UNREAD}")]
    Metadata(#[from] CallFailure),
    /// The key must not be used.
    #[error(
        "the key is not set up as this node relies on, so that a backup of it may not restore; no \
         record was written. Correct in OpenBao what is named below; do not recreate the key"
    )]
    Profile(#[from] ProfileRefused),
    /// State and key contradict each other.
    #[error(
        "the registry state and the key in OpenBao contradict each other, so that one of them is \
         not the one that data was encrypted with; no record was written. Run verify-key and mend \
         that first; do not edit the state, and do not recreate the key"
    )]
    Conflict(#[from] RegistryConflict),
    /// The etcd snapshot gives no answer.
    #[error("the etcd snapshot cannot be part of a backup set; no record was written")]
    Etcd(#[from] EtcdError),
    /// OpenBao did not try the DEKs of the etcd snapshot.
    #[error(
        "OpenBao did not decrypt the DEKs of the etcd snapshot, so that a record would not tell \
         whether the set belongs together; no record was written"
    )]
    Unanswered(#[source] Box<Unanswered>),
    /// The OpenBao snapshot is none, or is damaged.
    #[error(
        "the OpenBao snapshot {} cannot be part of a backup set; no record was written",
        path.display()
    )]
    OpenBao {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        problem: RaftSnapshotError,
    },
    /// A file of the set could not be read.
    #[error("cannot read {}, a file of the backup set", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The facts make no record.
    #[error("what was found makes no backup record; no record was written")]
    Note(#[from] RecordProblem),
}

const UNREAD: &str = "the key's metadata could not be read from OpenBao, so that a record would \
     not tell what the backup must hold; no record was written. Mend the cause and try again";

/// Gathers everything; writes nothing.
///
/// # Errors
/// [`BackupError`].
pub fn gather(
    config: &Config,
    set: BackupSet<'_>,
    now: SystemTime,
    watch: Watch<'_>,
) -> Result<Noted, BackupError> {
    let stored = config.state().load()?;
    let Some(document) = &stored.document else {
        return Err(BackupError::NoState(config.state_path.document()));
    };
    let metadata = connection::ask_for_key(config)??;
    let profile = KeyProfile::check(&metadata, &config.key.key_name)?;
    profile.require_retained(document.registry())?;

    let scope = Arc::new(KeyScope::new(config.scope.clone()));
    let versions = NotedVersion::all(&scope, document, &profile);
    let openbao = set.openbao.map(note_openbao).transpose()?;
    let (etcd, pair, unmapped) = match set.etcd {
        None => (None, None, 0),
        Some(path) => {
            let question = Question {
                prefix: set.etcd_prefix.map(str::to_owned),
                claims: vec![VersionClaims::of_registry(OWN_STATE, document.registry())],
                removed: Vec::new(),
                depth: Depth::Dek,
                sample: None,
                superseded: false,
                names: false,
            };
            let (etcd, pair, unmapped) = note_etcd(config, path, question, watch)?;
            (etcd, Some(pair), unmapped)
        }
    };
    let (openbao, inspected) = openbao.unzip();
    let record = BackupRecord::new(Note {
        recorded_at: Timestamp::try_from(now)
            .unwrap_or_default()
            .strftime("%Y-%m-%dT%H:%M:%SZ")
            .to_string(),
        plugin_version: BuildInfo::CURRENT.version.to_owned(),
        scope,
        path: config.key.clone(),
        state: state(document, &stored),
        limits: NotedLimits::of(&profile),
        versions,
        etcd,
        openbao,
    })?;
    Ok(Noted {
        record,
        pair,
        unmapped,
        openbao: inspected,
    })
}

/// Length and hash of a raft snapshot whose content has the hashes that are in it.
fn note_openbao(path: &Path) -> Result<(NotedFile, RaftSnapshot), BackupError> {
    let file = open(path).map_err(|source| BackupError::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    let inspected = raft_snapshot::inspect(&file).map_err(|problem| BackupError::OpenBao {
        path: path.to_owned(),
        problem,
    })?;
    Ok((note(path, &file)?, inspected))
}

/// Length and hash of the very file that `source` was given, packed or not; `None` of a running etcd.
///
/// # Errors
/// [`BackupError::Unreadable`].
pub fn note_source(source: &EtcdSource) -> Result<Option<NotedFile>, BackupError> {
    match source {
        EtcdSource::File(SnapshotFile { path, file, .. }) => note(path, file).map(Some),
        EtcdSource::Live(_) => Ok(None),
    }
}

/// What to compare with `recorded`: `given`, the file of `source`, or the database in it, where that
/// is the one that was recorded and was packed later.
///
/// # Errors
/// [`BackupError::Unreadable`].
pub fn note_as_recorded(
    source: &EtcdSource,
    given: NotedFile,
    recorded: &NotedFile,
) -> Result<NotedFile, BackupError> {
    if let EtcdSource::File(SnapshotFile { path, unpacked, .. }) = source
        && given != *recorded
        && let Some((database, _)) = unpacked.get()
    {
        let content = note(path, database)?;
        if content == *recorded {
            return Ok(content);
        }
    }
    Ok(given)
}

fn note(path: &Path, mut file: &File) -> Result<NotedFile, BackupError> {
    let mut read = || {
        file.rewind()?;
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 1 << 18];
        let mut bytes = 0_u64;
        loop {
            let read = file.read(&mut buffer)?;
            if read == 0 {
                break;
            }
            hash.update(&buffer[..read]);
            bytes = bytes.saturating_add(u64::try_from(read).unwrap_or(u64::MAX));
        }
        let sha256 = hash.finalize().into();
        Ok(NotedFile { sha256, bytes })
    };
    read().map_err(|source| BackupError::Unreadable {
        path: path.to_owned(),
        source,
    })
}

fn state(document: &Document, stored: &Stored) -> NotedState {
    NotedState {
        generation: document.generation(),
        hash: document.hash().clone(),
        checkpoint: stored.checkpoint_status().to_owned(),
    }
}

fn note_etcd(
    config: &Config,
    path: &Path,
    question: Question,
    watch: Watch<'_>,
) -> Result<(Option<NotedEtcd>, Pair, u64), BackupError> {
    let source = EtcdSource::file(path)?;
    let mut pair = verify_pair::verify(config, &source, question, watch)?;
    if let Some(unanswered) = pair.unanswered.take() {
        return Err(BackupError::Unanswered(Box::new(unanswered)));
    }
    let mut required = BTreeMap::new();
    let mut unmapped = 0_u64;
    for row in &pair.rows {
        let objects = row.finding.objects;
        let sum: &mut u64 = match &row.finding.origin {
            Origin::Live(key) => required.entry(key.version()).or_default(),
            Origin::Gap(Gap::OtherProvider { version, .. }) => {
                required.entry(*version).or_default()
            }
            Origin::Known(_) | Origin::Gap(_) => &mut unmapped,
        };
        *sum = sum.saturating_add(objects);
    }
    let etcd = note_source(&source)?.map(|file| NotedEtcd {
        file,
        revision: pair.inventory.totals.revision.unsigned_abs(),
        required,
    });
    Ok((etcd, pair, unmapped))
}
