//! Records the facts about this node and its key for a backup set. Implements
//! `docs/format/backup-record.md`.
//!
//! The record is the only output. A state that contradicts the live key is rejected, because a
//! restore would rely on one of the two.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read, Seek as _, Write},
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use kms_domain::{
    key::KeyScope,
    recovery::{
        claims::VersionClaims,
        rebuild::OWN_STATE,
        record::{
            BackupRecord, EtcdInfo, FileInfo, LimitsInfo, Note, RecordProblem, StateInfo,
            VersionInfo,
        },
        resolve::{Resolution, ResolveError},
    },
    registry::{RegistryConflict, document::Document},
    transit::{KeyProfile, ProfileRefused},
};
use kms_node::{
    advice::{self, Found},
    auth::CallFailure,
    build_info::BuildInfo,
    config::Config,
    connection::{self, ConnectionError},
    exit::Exit,
    report::rfc3339,
    state::{StateError, Stored},
};
use sha2::{Digest as _, Sha256};

use super::{
    EtcdError, EtcdSource, Stamp,
    cause::of_unanswered,
    open,
    raft_snapshot::{self, RaftSnapshot, RaftSnapshotError},
    verify_pair::{self, Pair, Unanswered, VerifyOptions, Watch},
};

/// Existing files of the backup set.
#[derive(Debug, Clone, Copy)]
pub struct BackupSet<'a> {
    /// File from `etcdctl snapshot save`.
    pub etcd: Option<&'a Path>,
    /// Prefix of the selected API server; see [`VerifyOptions::prefix`].
    pub etcd_prefix: Option<&'a str>,
    /// File from `bao operator raft snapshot save`.
    pub openbao: Option<&'a Path>,
}

/// A record, and findings about the backup set.
#[derive(Debug)]
pub struct NewRecord {
    pub record: BackupRecord,
    /// Result of the etcd snapshot and the live key, if a snapshot was given.
    pub pair: Option<Pair>,
    /// Objects of this key, under any provider name, without a version in the live key.
    pub unmapped: u64,
    /// Inspection result of the OpenBao snapshot, if one was given.
    pub openbao: Option<RaftSnapshot>,
}

/// Failure before a record exists.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The state is unusable.
    #[error(transparent)]
    State(#[from] StateError),
    /// No state exists.
    #[error(
        "there is no registry state at {}, so the active version is unknown; no record was written",
        .0.display()
    )]
    NoState(PathBuf),
    /// Setting up the OpenBao client failed.
    #[error("{UNREAD}")]
    Connection(#[from] ConnectionError),
    #[error("{UNREAD}")]
    Metadata(#[from] CallFailure),
    /// The key's properties do not permit its use.
    #[error(
        "the settings of the key are unsafe, so that a backup of it may not restore; no record was \
         written"
    )]
    Profile(#[from] ProfileRefused),
    #[error(
        "the registry state and the key in OpenBao contradict each other, so that one of them is \
         not the one that data was encrypted with; no record was written"
    )]
    Conflict(#[from] RegistryConflict),
    /// Reading the etcd snapshot failed.
    #[error("the etcd snapshot cannot be part of a backup set; no record was written")]
    Etcd(#[from] EtcdError),
    #[error(
        "OpenBao did not decrypt the DEKs of the etcd snapshot, so that a record would not show \
         whether the set belongs together; no record was written"
    )]
    Unanswered(#[source] Box<Unanswered>),
    /// The OpenBao snapshot is invalid or damaged.
    #[error(
        "the OpenBao snapshot {} cannot be part of a backup set; no record was written",
        path.display()
    )]
    OpenBao {
        path: PathBuf,
        #[source]
        problem: RaftSnapshotError,
    },
    #[error("cannot read {}, a file of the backup set", path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The facts violate the rules of a record.
    #[error("the facts of this node make no valid backup record; no record was written")]
    Note(#[from] RecordProblem),
}

const UNREAD: &str = "the key's metadata could not be read from OpenBao, so that a record would \
     not show what the backup must hold; no record was written";

impl BackupError {
    /// Cause of the failure.
    #[must_use]
    pub fn cause(&self) -> Found {
        let cause = match self {
            Self::Etcd(error) => return error.cause(),
            Self::State(error) => advice::state::of_error(error),
            Self::NoState(_) => &advice::state::NO_ACTIVE_VERSION,
            Self::Connection(_) => &advice::node::MISCONFIGURED,
            Self::Metadata(failure) => advice::openbao::of_call(failure),
            Self::Profile(refused) => return advice::key::found_profile(refused),
            Self::Conflict(_) => &advice::state::CONFLICT,
            Self::Unanswered(unanswered) => of_unanswered(unanswered),
            Self::OpenBao { problem, .. } => problem.cause(),
            Self::Unreadable { .. } => &advice::snapshot::NOT_OPENED,
            Self::Note(_) => &advice::evidence::RECORD_IMPOSSIBLE,
        };
        (cause, Vec::new())
    }

    /// Exit code of the command: a store that could not be read decides nothing about the set.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Connection(_)
            | Self::Metadata(_)
            | Self::Unanswered(_)
            | Self::Unreadable { .. } => Exit::Runtime,
            Self::OpenBao { problem, .. } if !problem.is_damage() => Exit::Runtime,
            Self::Etcd(error) if !error.is_damage() => Exit::Runtime,
            _ => Exit::CheckFailed,
        }
    }
}

/// Gathers the facts. Read-only.
///
/// # Errors
/// [`BackupError`].
pub fn gather(
    config: &Config,
    set: BackupSet<'_>,
    now: SystemTime,
    watch: Watch<'_>,
) -> Result<NewRecord, BackupError> {
    let stored = config.state().load()?;
    let Some(document) = &stored.document else {
        return Err(BackupError::NoState(config.state_path.document()));
    };
    let metadata = connection::ask_for_key(config)??;
    let profile = KeyProfile::check(&metadata, &config.key.key_name)?;
    profile.require_retained(document.registry())?;

    let scope = Arc::new(KeyScope::new(config.scope.clone()));
    let versions = VersionInfo::all(&scope, document, &profile);
    let openbao = set.openbao.map(note_openbao).transpose()?;
    let (etcd, pair, unmapped) = match set.etcd {
        None => (None, None, 0),
        Some(path) => {
            let options = VerifyOptions {
                prefix: set.etcd_prefix.map(str::to_owned),
                claims: vec![VersionClaims::of_registry(OWN_STATE, document.registry())],
                ..VerifyOptions::default()
            };
            let (etcd, pair, unmapped) = note_etcd(config, path, options, watch)?;
            (etcd, Some(pair), unmapped)
        }
    };

    let (openbao, inspected) = openbao.unzip();
    let record = BackupRecord::new(Note {
        recorded_at: rfc3339(now),
        plugin_version: BuildInfo::CURRENT.version.to_owned(),
        scope,
        path: config.key.clone(),
        state: state(document, &stored),
        limits: LimitsInfo::of(&profile),
        versions,
        etcd,
        openbao,
    })?;
    Ok(NewRecord {
        record,
        pair,
        unmapped,
        openbao: inspected,
    })
}

/// Size and hash of a raft snapshot after its inspection.
fn note_openbao(path: &Path) -> Result<(FileInfo, RaftSnapshot), BackupError> {
    let file = open(path).map_err(|source| BackupError::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    note_raft_snapshot(&file).map_err(|problem| BackupError::OpenBao {
        path: path.to_owned(),
        problem,
    })
}

/// Reads all of `file` twice: for the inspection, and for its size and hash.
///
/// # Errors
/// [`RaftSnapshotError`].
pub(crate) fn note_raft_snapshot(
    file: &File,
) -> Result<(FileInfo, RaftSnapshot), RaftSnapshotError> {
    let opened = Stamp::of(file).map_err(RaftSnapshotError::Read)?;
    let inspected = raft_snapshot::inspect(file);
    // The hash alone would be of a later content.
    let noted = inspected.and_then(|inspected| {
        let noted = note(file).map_err(RaftSnapshotError::Read)?;
        Ok((noted, inspected))
    });
    raft_snapshot::require_unchanged(file, opened)?;
    noted
}

/// Size and hash of the original file of `source`, packed or plain; `None` for a running etcd.
///
/// # Errors
/// [`EtcdError::Form`].
pub fn note_source(source: &EtcdSource) -> Result<Option<FileInfo>, EtcdError> {
    match source {
        EtcdSource::File(snapshot) => snapshot.note().map(Some),
        EtcdSource::Live(_) => Ok(None),
    }
}

/// File to compare with `recorded`: the unpacked database of `source` if it equals `recorded`,
/// because it was packed later; otherwise `given`.
///
/// # Errors
/// [`EtcdError::Form`].
pub fn note_as_recorded(
    source: &EtcdSource,
    given: FileInfo,
    recorded: &FileInfo,
) -> Result<FileInfo, EtcdError> {
    if let EtcdSource::File(snapshot) = source
        && given != *recorded
        && let Some(content) = snapshot.note_unpacked()?
        && content == *recorded
    {
        return Ok(content);
    }
    Ok(given)
}

/// Size and hash of a file from its start.
pub(crate) fn note(mut file: &File) -> io::Result<FileInfo> {
    file.rewind()?;
    note_while_copied(&mut file, &mut io::sink())
}

/// Size and hash of everything that is copied.
pub(crate) fn note_while_copied(from: &mut dyn Read, to: &mut dyn Write) -> io::Result<FileInfo> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 18];
    let mut bytes = 0_u64;
    loop {
        let read = from.read(&mut buffer)?;
        let Some(part) = buffer.get(..read).filter(|part| !part.is_empty()) else {
            let sha256 = hash.finalize().into();
            return Ok(FileInfo { sha256, bytes });
        };
        hash.update(part);
        to.write_all(part)?;
        bytes = bytes.saturating_add(u64::try_from(read).unwrap_or(u64::MAX));
    }
}

fn state(document: &Document, stored: &Stored) -> StateInfo {
    StateInfo {
        generation: document.generation(),
        hash: document.hash().clone(),
        checkpoint: stored.checkpoint_status().to_owned(),
    }
}

fn note_etcd(
    config: &Config,
    path: &Path,
    options: VerifyOptions,
    watch: Watch<'_>,
) -> Result<(Option<EtcdInfo>, Pair, u64), BackupError> {
    let source = EtcdSource::file(path)?;
    let mut pair = verify_pair::verify(config, &source, options, watch)?;
    if let Some(unanswered) = pair.unanswered.take() {
        return Err(BackupError::Unanswered(Box::new(unanswered)));
    }

    let mut required = BTreeMap::new();
    let mut unmapped = 0_u64;
    for row in &pair.rows {
        let objects = row.finding.objects;
        let sum: &mut u64 = match &row.finding.origin {
            Resolution::Live(key) => required.entry(key.version()).or_default(),
            Resolution::Unresolved(ResolveError::OtherProvider { version, .. }) => {
                required.entry(*version).or_default()
            }
            Resolution::Known(_) | Resolution::Unresolved(_) => &mut unmapped,
        };
        *sum = sum.saturating_add(objects);
    }

    let etcd = note_source(&source)?.map(|file| EtcdInfo {
        file,
        revision: pair.inventory.totals.revision.unsigned_abs(),
        required,
    });
    Ok((etcd, pair, unmapped))
}
