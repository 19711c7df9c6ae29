//! The registry state of this node: its known Transit key versions, the active one, and a
//! checkpoint for detecting a rollback.
//!
//! Implements `docs/format/state-document.md`. [`StateReader`] has read access only. A
//! [`LockedState`] holds the machine-wide lock for writing, and the [`StateWriter`] made from it
//! commits one document after another. The disk takes precedence over memory, and a rejected state
//! leaves every file unchanged.
//!
//! All calls block on the disk; async callers run them on a blocking thread.

mod commit;
pub mod disk;
mod fault;
mod lock;
mod path;
pub mod rebuild;

use std::{error::Error as _, ffi::OsStr, path::PathBuf};

pub use commit::{CommitError, StateWriter};
use disk::{Directory, Disk, DiskError, Space, SystemDisk};
pub use fault::StorageFault;
use kms_domain::{
    identity::{self, OtherIdentity},
    registry::{
        checkpoint::{Checkpoint, CheckpointError, CheckpointStatus, Rollback},
        document::{Document, DocumentError, MAX_FILE_BYTES},
    },
    schema::{NewerSchema, schema_version},
    scope::{IdentityScope, TransitKeyPath},
};
use lock::Lock;
pub use lock::{Holder, LockError};
pub use path::{StatePath, StatePathProblem};

use crate::error_chain::one_line;

/// Read-only access to the state of one configuration. It needs no lock, because writers replace
/// every file as a whole.
#[derive(Debug, Clone)]
pub struct StateReader {
    path: StatePath,
    scope: IdentityScope,
    key_path: TransitKeyPath,
}

/// State document and checkpoint, consistent with each other and with the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The newest document, as far as the checkpoint shows.
    pub document: Option<Document>,
    /// Checkpoint of the last accepted document.
    pub checkpoint: Option<Checkpoint>,
    /// Relation of document and checkpoint, which determines the repair by a writer.
    pub anchor: CheckpointStatus,
}

/// Handling of a missing checkpoint after the first generation. An attacker with the power to
/// delete the checkpoint could present an older state as the newest one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MissingCheckpoint {
    /// The default: without proof that the state is the newest, it is rejected.
    #[default]
    Refuse,
    /// The operator has compared the state with a peer or a backup record and confirms it as the
    /// newest.
    Accept,
}

/// The state under the exclusive writer lock, still unchanged.
#[derive(Debug)]
pub struct LockedState {
    reader: StateReader,
    directory: Directory,
    lock: Lock,
}

/// Why the state is unusable. Only [`StateError::CheckpointWrite`] may leave a file changed.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The directory to write in is absent.
    #[error(
        "the state directory {} does not exist",
        path.display()
    )]
    NoDirectory { path: PathBuf },
    #[error(transparent)]
    Lock(#[from] LockError),
    /// A file or the directory is unsafe or unreadable.
    #[error("the registry state cannot be read; nothing was changed")]
    Unreadable(#[source] DiskError),
    /// The checkpoint does not decode.
    #[error(
        "the checkpoint {} is not valid, so that an older state could not be told from the newest; \
         nothing was changed",
        path.display()
    )]
    CorruptCheckpoint {
        path: PathBuf,
        /// The violated format rule.
        #[source]
        problem: CheckpointError,
    },
    /// The state file does not decode.
    #[error(
        "the state file {} is not valid, so that it is unknown which keys are in use; nothing was \
         changed",
        path.display()
    )]
    CorruptDocument {
        path: PathBuf,
        /// The violated format rule.
        #[source]
        problem: DocumentError,
    },
    /// State and checkpoint contradict each other.
    #[error(
        "the state file {} and its checkpoint do not belong together, so that keys in use may be \
         missing from it; nothing was changed",
        path.display()
    )]
    RolledBack {
        path: PathBuf,
        /// The difference between them.
        #[source]
        problem: Rollback,
    },
    /// The state was created under another configuration. This is a configuration error.
    #[error(
        "the state file {} was made for another cluster, key or provider name than configured; \
         nothing was changed",
        path.display()
    )]
    OtherConfiguration {
        path: PathBuf,
        /// The differing fields.
        #[source]
        problem: OtherIdentity,
    },
    /// Refused by [`MissingCheckpoint::Refuse`].
    #[error(
        "the checkpoint {} is missing, so that nothing shows whether the state file {} is the \
         newest or an older one; nothing was changed",
        checkpoint.display(),
        state.display()
    )]
    CheckpointMissing { state: PathBuf, checkpoint: PathBuf },
    /// A preview wrote the state file. It is undamaged, and evidence for a rebuild.
    #[error(
        "the state file {} is of a preview; nothing was changed. recover-state makes one of the \
         present schema of it",
        path.display()
    )]
    OfPreview { path: PathBuf },
    /// A newer release wrote the file. It is undamaged: that release reads it.
    #[error(
        "{} was {schema}; nothing was changed and no data is lost. {NEWER_RELEASE}",
        path.display()
    )]
    OtherRelease {
        /// The state file or its checkpoint.
        path: PathBuf,
        /// The schema named in the file.
        schema: NewerSchema,
    },
    /// The checkpoint of an accepted state could not be written; the state is unchanged.
    #[error("the checkpoint could not be brought up to date; the next start tries again")]
    CheckpointWrite(#[source] DiskError),
}

/// Advice for a file written by a newer release.
pub const NEWER_RELEASE: &str = "Use that release or a later one; do not edit or delete the \
    file. Only to give up what that release knew, rebuild the state with recover-state \
    --replace-newer-release";

impl StateError {
    /// The finding alone, without consequence and remedy.
    #[must_use]
    pub fn finding(&self) -> String {
        match self {
            Self::OtherRelease { path, schema } => format!("{} was {schema}", path.display()),
            Self::OfPreview { .. } => DocumentError::LegacySchema.to_string(),
            other => other.source().map_or_else(|| other.to_string(), one_line),
        }
    }

    /// The bounded cause, for log and metrics.
    #[must_use]
    pub fn fault(&self) -> StorageFault {
        match self {
            Self::NoDirectory { .. } => StorageFault::DirectoryGone,
            Self::Lock(LockError::Unusable(problem))
            | Self::Unreadable(problem)
            | Self::CheckpointWrite(problem) => problem.fault(),
            Self::Lock(LockError::System { source, .. }) => StorageFault::of(source),
            Self::Lock(LockError::Locked { .. })
            | Self::CorruptCheckpoint { .. }
            | Self::CorruptDocument { .. }
            | Self::RolledBack { .. }
            | Self::OtherConfiguration { .. }
            | Self::CheckpointMissing { .. }
            | Self::OfPreview { .. }
            | Self::OtherRelease { .. } => StorageFault::ForeignState,
        }
    }

    fn of_checkpoint(path: PathBuf, problem: CheckpointError) -> Self {
        match problem {
            CheckpointError::NewerRelease(schema) => Self::OtherRelease { path, schema },
            problem => Self::CorruptCheckpoint { path, problem },
        }
    }

    fn of_document(path: PathBuf, problem: DocumentError) -> Self {
        match problem {
            DocumentError::NewerRelease(schema) => Self::OtherRelease { path, schema },
            DocumentError::LegacySchema => Self::OfPreview { path },
            problem => Self::CorruptDocument { path, problem },
        }
    }
}

impl StateReader {
    /// Creates a reader without accessing the disk.
    #[must_use]
    pub fn new(path: StatePath, scope: IdentityScope, key_path: TransitKeyPath) -> Self {
        Self {
            path,
            scope,
            key_path,
        }
    }

    #[must_use]
    pub fn path(&self) -> &StatePath {
        &self.path
    }

    /// Reads and validates both files.
    ///
    /// # Errors
    /// [`StateError`], for a state no writer would accept. A missing checkpoint is accepted here.
    pub fn load(&self) -> Result<Stored, StateError> {
        let directory = Directory::open(self.path.directory()).map_err(StateError::Unreadable)?;
        self.load_from(directory.as_ref())
    }

    /// Path and schema version, of any release, of state document and checkpoint. A file without a
    /// readable schema version is left out: [`Self::load`] reports it.
    ///
    /// # Errors
    /// The directory or a file is unsafe or unreadable.
    pub fn schemas(&self) -> Result<Vec<(PathBuf, String)>, DiskError> {
        let Some(directory) = Directory::open(self.path.directory())? else {
            return Ok(Vec::new());
        };
        let mut schemas = Vec::new();
        for path in [self.path.document(), self.path.checkpoint()] {
            let name = path.file_name().unwrap_or_default();
            let start = directory.read_start(name, MAX_FILE_BYTES as u64)?;
            let schema = start.and_then(|start| schema_version(&start));
            schemas.extend(schema.map(|schema| (path, schema)));
        }
        Ok(schemas)
    }

    /// Takes the writer lock without waiting and without reading the state.
    ///
    /// # Errors
    /// [`StateError::Lock`], or an error for a missing or unsafe directory.
    pub fn lock(self) -> Result<LockedState, StateError> {
        let directory = Directory::open(self.path.directory())
            .map_err(StateError::Unreadable)?
            .ok_or_else(|| StateError::NoDirectory {
                path: self.path.directory().to_owned(),
            })?;
        let lock = Lock::take(&directory, &self.path.lock_name())?;
        Ok(LockedState {
            reader: self,
            directory,
            lock,
        })
    }

    /// Validates the pair first, then its configuration, and reports the first error.
    fn load_from(&self, directory: Option<&Directory>) -> Result<Stored, StateError> {
        let stored = load_pair(directory, &self.path)?;
        if let Some(document) = &stored.document {
            self.require_configured(document)?;
        }
        Ok(stored)
    }

    fn require_configured(&self, document: &Document) -> Result<(), StateError> {
        identity::require_identity(document, &self.scope, &self.key_path).map_err(|problem| {
            StateError::OtherConfiguration {
                path: self.path.document(),
                problem,
            }
        })
    }
}

impl Stored {
    /// The status word in reports.
    #[must_use]
    pub fn checkpoint_status(&self) -> &'static str {
        match self.anchor {
            CheckpointStatus::Absent => "absent",
            CheckpointStatus::Current => "current",
            CheckpointStatus::Behind => "behind",
            CheckpointStatus::Missing { .. } => "missing",
        }
    }
}

impl LockedState {
    /// Reads like [`StateReader::load`], without repairs.
    ///
    /// # Errors
    /// As [`StateReader::load`].
    pub fn load(&self) -> Result<Stored, StateError> {
        self.reader.load_from(Some(&self.directory))
    }

    /// Accepts the state for writing. A crash during a commit may leave the checkpoint behind the
    /// document, or missing after the first document; both are repaired here.
    ///
    /// # Errors
    /// [`StateError`]; the lock is then released.
    pub fn start_writing(self, missing: MissingCheckpoint) -> Result<StateWriter, StateError> {
        self.start_writing_on(Box::new(SystemDisk), missing)
    }

    /// Like [`LockedState::start_writing`], on the given disk implementation.
    ///
    /// # Errors
    /// As [`LockedState::start_writing`].
    pub fn start_writing_on(
        self,
        mut disk: Box<dyn Disk>,
        missing: MissingCheckpoint,
    ) -> Result<StateWriter, StateError> {
        let Stored {
            document, anchor, ..
        } = self.load()?;

        let path = self.reader.path;
        let write_checkpoint = match anchor {
            CheckpointStatus::Absent | CheckpointStatus::Current => None,
            CheckpointStatus::Behind
            | CheckpointStatus::Missing {
                first_generation: true,
            } => document.as_ref(),
            CheckpointStatus::Missing {
                first_generation: false,
            } => match missing {
                MissingCheckpoint::Accept => document.as_ref(),
                MissingCheckpoint::Refuse => {
                    return Err(StateError::CheckpointMissing {
                        state: path.document(),
                        checkpoint: path.checkpoint(),
                    });
                }
            },
        };

        if let Some(document) = write_checkpoint {
            let text = Checkpoint::of(document).encode();
            self.directory
                .replace(&mut *disk, &path.checkpoint_name(), text.as_bytes())
                .map_err(StateError::CheckpointWrite)?;
        }

        Ok(StateWriter::new(
            path,
            self.directory,
            self.lock,
            disk,
            anchor,
            document,
        ))
    }
}

/// A trial write in the state directory.
#[derive(Debug)]
pub struct Trial {
    /// `None` if it is unknown.
    pub space: Option<Space>,
    /// Whether a copy of the state could be written, synced and removed.
    pub written: Result<(), DiskError>,
}

impl Trial {
    /// Writes a copy of the state under another name and removes it, which needs what a save needs.
    /// `None` without a state directory. The state itself is unchanged. Blocks on the disk.
    #[must_use]
    pub fn make(path: &StatePath) -> Option<Self> {
        let directory = match Directory::open(path.directory()) {
            Ok(directory) => directory?,
            Err(problem) => {
                return Some(Self {
                    space: None,
                    written: Err(problem),
                });
            }
        };
        let state = directory.read_start(path.document_name(), MAX_FILE_BYTES as u64);
        let content = state.ok().flatten();
        let content = content.unwrap_or_else(|| vec![b' '; 1024]);
        Some(Self {
            space: directory.space().ok(),
            written: directory.try_writing(&content),
        })
    }

    /// Why the next save would fail; `None` if it would succeed, or if only the provider's user can
    /// tell.
    #[must_use]
    pub fn fault(&self) -> Option<StorageFault> {
        match &self.written {
            Ok(()) => None,
            Err(DiskError::Unsafe { .. }) => self.space.and_then(|space| space.fault(0)),
            Err(problem) => Some(problem.fault()),
        }
    }
}

/// Reads and validates both files without a configuration.
///
/// # Errors
/// As [`StateReader::load`], except [`StateError::OtherConfiguration`].
pub fn inspect(path: &StatePath) -> Result<Stored, StateError> {
    let directory = Directory::open(path.directory()).map_err(StateError::Unreadable)?;
    load_pair(directory.as_ref(), path)
}

/// Like [`inspect`], for a state of a preview.
///
/// # Errors
/// As [`inspect`], also for a state in another schema.
pub fn inspect_preview(path: &StatePath) -> Result<Stored, StateError> {
    let directory = Directory::open(path.directory()).map_err(StateError::Unreadable)?;
    match directory {
        Some(directory) => paired(Pair::read(&directory, path, Document::decode_legacy)?, path),
        None => paired(Pair::default(), path),
    }
}

fn load_pair(directory: Option<&Directory>, path: &StatePath) -> Result<Stored, StateError> {
    match directory {
        Some(directory) => paired(Pair::read(directory, path, Document::decode)?, path),
        None => paired(Pair::default(), path),
    }
}

/// Validates checkpoint and document together.
fn paired(pair: Pair, path: &StatePath) -> Result<Stored, StateError> {
    let Pair {
        document,
        checkpoint,
    } = pair;
    let anchor =
        CheckpointStatus::of(document.as_ref(), checkpoint.as_ref()).map_err(|problem| {
            StateError::RolledBack {
                path: path.document(),
                problem,
            }
        })?;
    Ok(Stored {
        document,
        checkpoint,
        anchor,
    })
}

/// Document and checkpoint, each decoded and valid by itself.
#[derive(Debug, Default, PartialEq, Eq)]
struct Pair {
    document: Option<Document>,
    checkpoint: Option<Checkpoint>,
}

impl Pair {
    /// Validates the checkpoint, then the document, and reports the first error.
    fn read(
        directory: &Directory,
        path: &StatePath,
        decode: fn(&[u8]) -> Result<Document, DocumentError>,
    ) -> Result<Self, StateError> {
        // A valid file has at most `MAX_FILE_BYTES`. One more byte makes a larger file fail to
        // decode.
        let read = |name: &OsStr| {
            directory
                .read_start(name, MAX_FILE_BYTES as u64 + 1)
                .map_err(StateError::Unreadable)
        };
        let checkpoint = read(&path.checkpoint_name())?
            .map(|bytes| Checkpoint::decode(&bytes))
            .transpose()
            .map_err(|problem| StateError::of_checkpoint(path.checkpoint(), problem))?;
        let document = read(path.document_name())?
            .map(|bytes| decode(&bytes))
            .transpose()
            .map_err(|problem| StateError::of_document(path.document(), problem))?;
        Ok(Self {
            document,
            checkpoint,
        })
    }
}
