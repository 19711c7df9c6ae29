//! The registry state of this node: which Transit versions it knows, which one is active, and a
//! checkpoint that shows whether an older state has been put back.
//!
//! Implements `docs/format/state-document.md`. [`StateReader`] only looks. A [`LockedState`] is the
//! only one on the machine that may start writing, and the [`StateWriter`] that comes out of it
//! commits one document after another. Nothing here believes memory over disk, and a refusal
//! changes no file.
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
use disk::{Directory, Disk, DiskError, SystemDisk};
pub use fault::StorageFault;
use kms_domain::{
    fingerprint::{self, OtherIdentity},
    registry::{
        anchor::{Anchor, Checkpoint, CheckpointError, Rollback},
        document::{Document, DocumentError, MAX_FILE_BYTES},
    },
    schema::NewerSchema,
    scope::{IdentityScope, TransitKeyPath},
};
use lock::Lock;
pub use lock::{Holder, LockError};
pub use path::{StatePath, StatePathProblem};

use crate::report::one_line;

/// Reads the state of one configuration and cannot write. Takes no lock, since every file is
/// replaced as a whole.
#[derive(Debug, Clone)]
pub struct StateReader {
    path: StatePath,
    scope: IdentityScope,
    key_path: TransitKeyPath,
}

/// Two files that agree with each other and with the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The newest document, as far as the checkpoint can tell.
    pub document: Option<Document>,
    /// What was last accepted.
    pub checkpoint: Option<Checkpoint>,
    /// How they agree, and so what a writer would have to repair.
    pub anchor: Anchor,
}

/// What a writer does about a missing checkpoint of a later generation than the first. Whoever can
/// delete a checkpoint can thereby present an older state as the newest one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MissingCheckpoint {
    /// The usual: nothing proves that the state is the newest, so it is not used.
    #[default]
    Refuse,
    /// The operator has compared the state with a peer or a record and takes it as the newest.
    Accept,
}

/// The state under the only writer's lock, not yet changed.
#[derive(Debug)]
pub struct LockedState {
    reader: StateReader,
    directory: Directory,
    lock: Lock,
}

/// Why the state cannot be used. Nothing was changed, except as [`StateError::Repair`] tells.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A writer needs the directory to exist.
    #[error(
        "the state directory {} does not exist: create it with mode 0750, owned by the user that \
         runs the provider; if it existed before, run recover-state then",
        path.display()
    )]
    NoDirectory {
        /// The directory.
        path: PathBuf,
    },
    /// The lock was not obtained.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// A file or the directory is unsafe or unreadable.
    #[error("the registry state cannot be read; nothing was changed")]
    Unreadable(#[source] DiskError),
    /// The checkpoint is not one.
    #[error(
        "the checkpoint {} is not valid, so that an older state could not be told from the newest; \
         nothing was changed. {RESTORE}",
        path.display()
    )]
    CorruptCheckpoint {
        /// The checkpoint.
        path: PathBuf,
        /// The broken rule.
        #[source]
        problem: CheckpointError,
    },
    /// The state is not a document.
    #[error(
        "the state file {} is not valid, so that it is unknown which keys are in use; nothing was \
         changed. {RESTORE}",
        path.display()
    )]
    CorruptDocument {
        /// The state file.
        path: PathBuf,
        /// The broken rule.
        #[source]
        problem: DocumentError,
    },
    /// State and checkpoint do not belong together.
    #[error(
        "the state file {} and its checkpoint do not belong together, so that keys in use may be \
         missing from it; nothing was changed. {RESTORE}",
        path.display()
    )]
    RolledBack {
        /// The state file.
        path: PathBuf,
        /// How they differ.
        #[source]
        problem: Rollback,
    },
    /// The state was made under another configuration. This is an error of the configuration.
    #[error(
        "the state file {} was made for another cluster, key or provider name than configured; \
         nothing was changed. Change the configuration back, since what is encrypted cannot be \
         read under other names; do not delete the state",
        path.display()
    )]
    OtherConfiguration {
        /// The state file.
        path: PathBuf,
        /// The fields that differ.
        #[source]
        problem: OtherIdentity,
    },
    /// See [`MissingCheckpoint`].
    #[error(
        "the checkpoint {} is missing, so that nothing shows whether the state file {} is the \
         newest or an older one; nothing was changed. Rebuild both with recover-state, from a \
         peer's state, a backup record or etcd data. Only if you have compared this state with a \
         peer and know it to be the newest, start once with `serve --accept-missing-checkpoint`",
        checkpoint.display(),
        state.display()
    )]
    CheckpointMissing {
        /// The state file.
        state: PathBuf,
        /// The checkpoint.
        checkpoint: PathBuf,
    },
    /// Not to be taken for damage: that release reads it.
    #[error(
        "{} was {schema}; nothing was changed and no data is lost. {NEWER_RELEASE}",
        path.display()
    )]
    OtherRelease {
        /// The state file or its checkpoint.
        path: PathBuf,
        /// What it says of itself.
        schema: NewerSchema,
    },
    /// The checkpoint of an accepted state could not be written; the state is unchanged.
    #[error("the checkpoint could not be brought up to date; the next start tries again")]
    Repair(#[source] DiskError),
}

/// The advice for everything that only evidence from elsewhere can mend.
const RESTORE: &str = "Rebuild them with recover-state from a peer's state, a backup record or etcd \
    data, while the provider is stopped; do not edit them and do not delete the checkpoint";

/// The advice for a file that a newer release wrote.
pub(crate) const NEWER_RELEASE: &str = "Use that release or a later one; do not edit or delete the \
    file. Only to give up what that release knew, rebuild the state with recover-state \
    --replace-newer-release";

impl StateError {
    /// What is wrong, without consequence and remedy.
    #[must_use]
    pub fn finding(&self) -> String {
        match self {
            Self::OtherRelease { path, schema } => format!("{} was {schema}", path.display()),
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
            | Self::Repair(problem) => problem.fault(),
            Self::Lock(LockError::System { source, .. }) => StorageFault::of(source),
            Self::Lock(LockError::Locked { .. })
            | Self::CorruptCheckpoint { .. }
            | Self::CorruptDocument { .. }
            | Self::RolledBack { .. }
            | Self::OtherConfiguration { .. }
            | Self::CheckpointMissing { .. }
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
            problem => Self::CorruptDocument { path, problem },
        }
    }
}

impl StateReader {
    /// Opens nothing yet.
    #[must_use]
    pub fn new(path: StatePath, scope: IdentityScope, key_path: TransitKeyPath) -> Self {
        Self {
            path,
            scope,
            key_path,
        }
    }

    /// Where the state is.
    #[must_use]
    pub fn path(&self) -> &StatePath {
        &self.path
    }

    /// Reads both files and judges them.
    ///
    /// # Errors
    /// [`StateError`]: what no writer would accept. A missing checkpoint is no error here.
    pub fn load(&self) -> Result<Stored, StateError> {
        let directory = Directory::open(self.path.directory()).map_err(StateError::Unreadable)?;
        self.load_from(directory.as_ref())
    }

    /// Takes the writer's lock without waiting, and without reading the state.
    ///
    /// # Errors
    /// [`StateError::Lock`], or that the directory is missing or unsafe.
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

    /// The pair first, then the configuration: the first that is wrong is reported.
    fn load_from(&self, directory: Option<&Directory>) -> Result<Stored, StateError> {
        let stored = load_pair(directory, &self.path)?;
        if let Some(document) = &stored.document {
            self.require_configured(document)?;
        }
        Ok(stored)
    }

    fn require_configured(&self, document: &Document) -> Result<(), StateError> {
        fingerprint::require_identity(document, &self.scope, &self.key_path).map_err(|problem| {
            StateError::OtherConfiguration {
                path: self.path.document(),
                problem,
            }
        })
    }
}

impl Stored {
    /// The word for reports.
    #[must_use]
    pub fn checkpoint_status(&self) -> &'static str {
        match self.anchor {
            Anchor::Absent => "absent",
            Anchor::Current => "current",
            Anchor::Behind => "behind",
            Anchor::Missing { .. } => "missing",
        }
    }
}

impl LockedState {
    /// Reads like [`StateReader::load`] and repairs nothing.
    ///
    /// # Errors
    /// As there.
    pub fn load(&self) -> Result<Stored, StateError> {
        self.reader.load_from(Some(&self.directory))
    }

    /// Accepts the state for writing: brings a checkpoint up to date that is behind, or missing
    /// after the first document, as a crash within a commit leaves them.
    ///
    /// # Errors
    /// [`StateError`]; the lock is then released.
    pub fn start_writing(self, missing: MissingCheckpoint) -> Result<StateWriter, StateError> {
        self.start_writing_on(Box::new(SystemDisk), missing)
    }

    /// Like [`LockedState::start_writing`], on a disk that may fail.
    ///
    /// # Errors
    /// As there.
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
            Anchor::Absent | Anchor::Current => None,
            Anchor::Behind
            | Anchor::Missing {
                first_generation: true,
            } => document.as_ref(),
            Anchor::Missing {
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
                .map_err(StateError::Repair)?;
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

/// Reads both files without a configuration to judge them by.
///
/// # Errors
/// As [`StateReader::load`], except [`StateError::OtherConfiguration`].
pub fn inspect(path: &StatePath) -> Result<Stored, StateError> {
    let directory = Directory::open(path.directory()).map_err(StateError::Unreadable)?;
    load_pair(directory.as_ref(), path)
}

/// Checkpoint, document, both together: the first that is wrong is reported.
fn load_pair(directory: Option<&Directory>, path: &StatePath) -> Result<Stored, StateError> {
    let Pair {
        document,
        checkpoint,
    } = match directory {
        Some(directory) => Pair::read(directory, path)?,
        None => Pair::default(),
    };
    let anchor = Anchor::of(document.as_ref(), checkpoint.as_ref()).map_err(|problem| {
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

/// What the two files hold, each valid by itself.
#[derive(Debug, Default, PartialEq, Eq)]
struct Pair {
    document: Option<Document>,
    checkpoint: Option<Checkpoint>,
}

impl Pair {
    fn read(directory: &Directory, path: &StatePath) -> Result<Self, StateError> {
        // One byte more than a valid file has is enough to refuse it like any other damage.
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
            .map(|bytes| Document::decode(&bytes))
            .transpose()
            .map_err(|problem| StateError::of_document(path.document(), problem))?;
        Ok(Self {
            document,
            checkpoint,
        })
    }
}
