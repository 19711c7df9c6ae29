//! Evidence from etcd: its sources and its evaluation.
//!
//! Data from etcd is untrusted; it may be damaged or hostile. A source gives a result only if it
//! was read completely.

pub mod backup_record;
pub mod backups;
pub mod cause;
pub mod drift;
pub mod etcd_live;
pub mod evidence;
pub mod evidence_report;
pub mod form;
pub mod inventory;
pub mod local_knowledge;
pub mod pair_report;
pub(crate) mod picture;
pub mod prefix;
pub mod raft_snapshot;
pub mod recover_state;
pub mod recovery_report;
pub mod retirement_report;
pub mod rows;
pub mod scan;
mod tar_files;
mod truncated;
pub mod unpacked;
pub mod unread;
pub mod verify_pair;

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::OnceLock,
};

use etcd_snapshot::{
    damage::SnapshotError,
    file::{Integrity, OnProgress, Snapshot, is_database},
    keys::Superseded,
    revision::{Object, Revisions, Totals},
};
use kms_domain::recovery::record::FileInfo;
use kms_node::advice::{Found, snapshot};

use backup_record::note;
use etcd_live::{LiveError, LiveEtcd};
use form::Form;
use rustix::fs::OFlags;
use unpacked::{UnpackError, unpack};
use unread::Unread;

/// Source of the objects.
#[derive(Debug)]
pub enum EtcdSource {
    /// A file of `etcdctl snapshot save`, or the `member/snap/db` of a stopped member; plain, or in
    /// a gzip, zip, zstd or tar archive.
    File(SnapshotFile),
    /// A running etcd, read at a single revision.
    Live(LiveEtcd),
}

/// An open file, so that every reading uses the same inode.
#[derive(Debug)]
pub struct SnapshotFile {
    path: PathBuf,
    file: File,
    /// Stamp of the file when it was opened. A reading or hash of a file that was written to since
    /// then fails, so that all of them are of the same content.
    opened: Stamp,
    /// Database from an archive.
    unpacked: OnceLock<File>,
    /// Stamp of the file with the verified hash, and its replaced entries. Readings with an equal
    /// stamp skip the hash and the comparison of the keys.
    verified: OnceLock<(Stamp, Option<Superseded>)>,
}

/// File attributes for detecting writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// Result of a source read to its end.
#[derive(Debug)]
pub struct EtcdReading<A> {
    pub gathered: A,
    /// Revision of the reading, and number of keys and superseded revisions.
    pub totals: Totals,
    pub trust: Trust,
    /// Keys outside the permitted or requested range of a running etcd.
    pub unread: Option<Unread>,
}

/// Integrity status of a reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// Read from a file.
    File {
        /// Whether the file has a hash at its end.
        integrity: Integrity,
        /// Number of the damaged meta page, 0 or 1. The last transaction may be missing.
        damaged_meta: Option<u64>,
    },
    /// Read from a running etcd. Its responses are trusted.
    Live {
        /// Number of restarts at a newer revision because compaction removed the current one.
        restarts: u32,
    },
}

impl Trust {
    /// Reason why the reading may differ from the stored data; `None` if there is no known reason.
    #[must_use]
    pub fn doubt(self) -> Option<String> {
        match self {
            Self::File {
                damaged_meta: Some(page),
                ..
            } => Some(format!(
                "meta page {page} is damaged, so the last changes may be missing"
            )),
            Self::File {
                integrity: Integrity::NoHash,
                ..
            } => Some(
                "there is no SHA-256 at its end, so damage may have stayed unnoticed".to_owned(),
            ),
            Self::File { .. } | Self::Live { .. } => None,
        }
    }

    /// Code in reports.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::File {
                integrity: Integrity::Verified,
                ..
            } => "verified",
            Self::File {
                integrity: Integrity::NoHash,
                ..
            } => "no-hash",
            Self::Live { .. } => "live",
        }
    }
}

/// Failure of a source.
#[derive(Debug, thiserror::Error)]
pub enum EtcdError {
    /// The file does not exist, or opening it is not permitted.
    #[error("cannot open the etcd snapshot {}", path.display())]
    Open { path: PathBuf, source: io::Error },
    /// Reading failed before the end of the file, or the file is damaged.
    #[error("the etcd snapshot {} was not read to its end", path.display())]
    Snapshot {
        path: PathBuf,
        /// Position and kind of damage.
        source: SnapshotError,
    },
    /// The file has another format, or unpacking it yielded no snapshot.
    #[error("the etcd snapshot {} was not read", path.display())]
    Form {
        path: PathBuf,
        /// Detected format, or failure of unpacking.
        #[source]
        problem: UnpackError,
    },
    #[error(transparent)]
    Live(#[from] LiveError),
    /// More distinct key IDs, encrypted DEKs and resources than in any cluster.
    #[error(
        "etcd holds more than {limit} bytes of different key IDs, encrypted DEKs, annotations and \
         resource names: no cluster writes so many, so it is damaged or was made to exhaust memory"
    )]
    TooVaried {
        /// Memory limit in bytes.
        limit: usize,
    },
}

impl EtcdSource {
    /// Opens a snapshot file. Its format is detected at the first reading.
    ///
    /// # Errors
    /// [`EtcdError::Open`].
    pub fn file(path: &Path) -> Result<Self, EtcdError> {
        match open(path).and_then(|file| Ok((Stamp::of(&file)?, file))) {
            Ok((opened, file)) => Ok(Self::File(SnapshotFile {
                path: path.to_owned(),
                file,
                opened,
                unpacked: OnceLock::new(),
                verified: OnceLock::new(),
            })),
            Err(source) => Err(EtcdError::Open {
                path: path.to_owned(),
                source,
            }),
        }
    }

    /// Passes every object to `gather`, with an accumulator from `new`. A restart drops the
    /// accumulator and calls `new` again. A running etcd has only the newest revisions, so it
    /// ignores `revisions`. Progress counts bytes of a file, and objects of a running etcd.
    ///
    /// # Errors
    /// [`EtcdError`] before the end of the source. The caller must then undo side effects of
    /// `gather`.
    pub fn read<A>(
        &self,
        revisions: Revisions,
        on_progress: OnProgress<'_>,
        mut new: impl FnMut() -> A,
        gather: impl FnMut(&mut A, Object<'_>),
    ) -> Result<EtcdReading<A>, EtcdError> {
        match self {
            Self::File(snapshot) => {
                let file = snapshot.database()?;
                let SnapshotFile { path, verified, .. } = snapshot;
                let read = || {
                    let stamp = Stamp::of(file)
                        .map_err(|source| SnapshotError::Unreadable { offset: 0, source })?;
                    let mut snapshot = Snapshot::open(file, on_progress)?;
                    if let Some((_, superseded)) = verified.get().filter(|(it, _)| *it == stamp) {
                        snapshot.trust(superseded.as_ref());
                    }
                    let reading = snapshot.gather(revisions, new(), gather)?;
                    if reading.integrity == Integrity::Verified {
                        verified.get_or_init(|| (stamp, reading.superseded));
                    }
                    Ok(EtcdReading {
                        gathered: reading.gathered,
                        totals: reading.totals,
                        trust: Trust::File {
                            integrity: reading.integrity,
                            damaged_meta: snapshot.damaged_meta(),
                        },
                        unread: None,
                    })
                };
                let read = read();
                // Damage in a file that is being written to is no finding about the backup.
                snapshot.require_unchanged()?;
                read.map_err(|source| EtcdError::Snapshot {
                    path: path.clone(),
                    source,
                })
            }
            // An etcd range has a single revision per key, so superseded ones are unavailable.
            Self::Live(live) => Ok(live.read(on_progress, new, gather)?),
        }
    }

    /// The source with a running etcd at this revision. A file has all revisions.
    #[must_use]
    pub fn at(self, revision: i64) -> Self {
        match self {
            Self::File(_) => self,
            Self::Live(live) => Self::Live(live.at(revision)),
        }
    }

    /// Path of the file, or URLs of the members, for reports.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::File(SnapshotFile { path, .. }) => path.display().to_string(),
            Self::Live(live) => live.name(),
        }
    }
}

impl SnapshotFile {
    /// The original file, packed or plain.
    pub(crate) fn given(&self) -> &File {
        &self.file
    }

    /// The database: the file itself, or its unpacked copy.
    ///
    /// # Errors
    /// [`EtcdError::Form`], or [`EtcdError::Snapshot`] if reading the file fails.
    pub(crate) fn database(&self) -> Result<&File, EtcdError> {
        self.require_unchanged()?;
        if let Some(database) = self.unpacked.get() {
            return Ok(database);
        }

        let plain = self.file.metadata().is_ok_and(|it| it.is_file())
            && is_database(&self.file).map_err(|source| EtcdError::Snapshot {
                path: self.path.clone(),
                source,
            })?;
        if plain {
            return Ok(&self.file);
        }

        let database = unpack(&self.file);
        self.require_unchanged()?;
        let database = database.map_err(|problem| self.not_read(problem))?;
        Ok(self.unpacked.get_or_init(|| database))
    }

    /// Size and hash of the file as given, packed or plain.
    ///
    /// # Errors
    /// [`EtcdError::Form`].
    pub(crate) fn note(&self) -> Result<FileInfo, EtcdError> {
        let special = Form::of_kind(&self.file).map_err(|error| self.unreadable(error))?;
        if let Some(form) = special {
            return Err(self.not_read(UnpackError::NotASnapshot(form)));
        }
        let noted = note(&self.file).map_err(|error| self.unreadable(error))?;
        self.require_unchanged()?;
        Ok(noted)
    }

    /// The same of the unpacked database; `None` for a plain file.
    ///
    /// # Errors
    /// [`EtcdError::Form`].
    pub(crate) fn note_unpacked(&self) -> Result<Option<FileInfo>, EtcdError> {
        let noted = self.unpacked.get().map(note).transpose();
        noted.map_err(|error| self.unreadable(error))
    }

    fn require_unchanged(&self) -> Result<(), EtcdError> {
        let now = Stamp::of(&self.file).map_err(|error| self.unreadable(error))?;
        match now.is_written_since(self.opened) {
            true => Err(self.not_read(UnpackError::Changed)),
            false => Ok(()),
        }
    }

    fn unreadable(&self, error: io::Error) -> EtcdError {
        self.not_read(UnpackError::Read(error))
    }

    fn not_read(&self, problem: UnpackError) -> EtcdError {
        EtcdError::Form {
            path: self.path.clone(),
            problem,
        }
    }
}

/// Opens a file of a backup set. Non-blocking, so that a pipe without a writer causes no hang.
///
/// # Errors
/// The file does not exist, or opening it is not permitted.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}

/// Opens a file that must be a regular one, so that reading it ends.
///
/// # Errors
/// Those of opening it, and [`io::ErrorKind::InvalidInput`] for another kind of file.
pub fn open_regular(path: &Path) -> io::Result<File> {
    let file = open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is not a regular file",
        )),
    }
}

impl Stamp {
    pub(crate) fn of(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        Ok(Self {
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }

    /// Whether the content may differ. The change time is left out: a rename, as of a backup job that
    /// replaces its latest file, sets it too, and the open file keeps its content.
    pub(crate) fn is_written_since(&self, earlier: Self) -> bool {
        (self.size, self.modified) != (earlier.size, earlier.modified)
    }
}

impl EtcdError {
    /// Whether the source was readable but damaged.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Snapshot { source, .. } => source.is_damage(),
            Self::TooVaried { .. } => true,
            Self::Open { .. } | Self::Form { .. } | Self::Live(_) => false,
        }
    }

    /// Whether the command line lacks a required option.
    #[must_use]
    pub fn is_misuse(&self) -> bool {
        matches!(self, Self::Live(LiveError::NoAuthority { .. }))
    }

    /// Cause of the failure.
    #[must_use]
    pub fn cause(&self) -> Found {
        match self {
            Self::Form { path, problem } => problem.cause(path),
            Self::Open { .. } => (&snapshot::NOT_OPENED, Vec::new()),
            Self::Snapshot { source, .. } if source.is_damage() => (&snapshot::DAMAGED, Vec::new()),
            Self::Snapshot { .. } => (&snapshot::UNREADABLE, Vec::new()),
            Self::TooVaried { .. } => (&snapshot::OVERSIZED, Vec::new()),
            Self::Live(error) => (error.cause(), Vec::new()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use etcd_snapshot::revision::Revisions;
    use tempfile::TempDir;

    use super::*;

    #[expect(
        clippy::disallowed_methods,
        reason = "the backup job of a test writes in place"
    )]
    #[test]
    fn a_file_that_is_written_to_has_neither_a_hash_nor_objects_and_a_replaced_one_has() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("etcd.db");
        fs::write(&path, b"first").unwrap();
        let source = EtcdSource::file(&path).unwrap();
        let EtcdSource::File(file) = &source else {
            panic!("a file");
        };
        let first = file.note().unwrap();

        fs::write(directory.path().join("new"), b"other content").unwrap();
        fs::rename(directory.path().join("new"), &path).unwrap();
        assert_eq!(file.note().unwrap(), first, "the open file stays as it was");

        let source = EtcdSource::file(&path).unwrap();
        fs::write(&path, b"written in place").unwrap();
        let EtcdSource::File(file) = &source else {
            panic!("a file");
        };
        let changed = |result: Result<(), EtcdError>| {
            let problem = result.unwrap_err();
            assert!(
                matches!(
                    problem,
                    EtcdError::Form {
                        problem: UnpackError::Changed,
                        ..
                    }
                ),
                "{problem:?}"
            );
        };
        changed(file.note().map(|_| ()));
        changed(file.database().map(|_| ()));
        let read = source.read(Revisions::Newest, &|_| {}, || (), |(), _| {});
        changed(read.map(|_| ()));
    }
}
