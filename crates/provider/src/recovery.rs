//! Evidence from etcd: where it is read from, and what it adds up to.
//!
//! Whatever etcd holds may be damaged or hostile. An answer exists only once all of it was read; a
//! part is never shown as the whole.

pub mod backup_record;
pub mod drift;
pub mod etcd_live;
pub mod evidence;
pub mod evidence_report;
mod excerpt;
pub mod form;
pub mod inventory;
pub mod pair_report;
pub mod prefix;
pub mod raft_snapshot;
pub mod recover_state;
pub mod recovery_report;
pub mod retirement_report;
pub mod scan;
mod tar_files;
pub mod unpacked;
pub mod unread;
pub mod verify_pair;
pub mod witness;

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
    revision::{Object, Revisions, Totals},
};

use etcd_live::{LiveError, LiveEtcd};
use rustix::fs::OFlags;
use unpacked::{UnpackError, unpack};
use unread::Unread;

/// Where the objects come from.
#[derive(Debug)]
pub enum EtcdSource {
    /// What `etcdctl snapshot save` wrote, or the `member/snap/db` of a stopped member; also in a
    /// gzip, zip, zstd or tar archive.
    File(SnapshotFile),
    /// A running etcd, read at one revision.
    Live(LiveEtcd),
}

/// A file that is open, so that every reading is of the same one.
#[derive(Debug)]
pub struct SnapshotFile {
    path: PathBuf,
    file: File,
    /// The database in the file, if that is an archive, and the file as it was when it was unpacked.
    unpacked: OnceLock<(File, Stamp)>,
    /// The file as it was when its hash was found to be right. A later reading need not compute the
    /// hash again while it is the same.
    verified: OnceLock<Stamp>,
}

/// What changes when a file is written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// What was gathered from a source that was read to its end.
#[derive(Debug)]
pub struct EtcdReading<A> {
    /// What was gathered of all objects.
    pub gathered: A,
    /// What etcd held.
    pub totals: Totals,
    /// What vouches for it.
    pub trust: Trust,
    /// Keys of a running etcd that were left unread.
    pub unread: Option<Unread>,
}

/// What vouches for a reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// The file, as far as it can.
    File {
        /// Whether a hash was there to compare.
        integrity: Integrity,
        /// The meta page, 0 or 1, that is not sound: what was written last may be missing.
        damaged_meta: Option<u64>,
    },
    /// A running etcd, whose word is taken.
    Live {
        /// How often compaction removed the revision being read, and a newer one was begun.
        restarts: u32,
    },
}

impl Trust {
    /// Why the reading may show something else than what was stored.
    #[must_use]
    pub fn doubt(self) -> Option<String> {
        match self {
            Self::File {
                damaged_meta: Some(page),
                ..
            } => Some(format!(
                "meta page {page} is not sound, so what was written last may be missing"
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

    /// The word in reports.
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

/// Why a source gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum EtcdError {
    /// There is no such file, or it may not be read.
    #[error("cannot open the etcd snapshot {}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file could not be read to its end, or is damaged.
    #[error("the etcd snapshot {} gives no answer", path.display())]
    Snapshot {
        /// The file.
        path: PathBuf,
        /// Where it is damaged.
        source: SnapshotError,
    },
    /// The file has another form, or is an archive that gives no snapshot.
    #[error("the etcd snapshot {} was not read", path.display())]
    Form {
        /// The file.
        path: PathBuf,
        /// The form, or why it was not unpacked.
        #[source]
        problem: UnpackError,
    },
    /// A running etcd could not be read to its end.
    #[error(transparent)]
    Live(#[from] LiveError),
    /// More different key IDs, encrypted DEKs and resources than any cluster has.
    #[error(
        "etcd holds more than {limit} bytes of different key IDs, encrypted DEKs, annotations and \
         resource names: no cluster writes so many, so it is damaged or was made to exhaust memory"
    )]
    TooVaried {
        /// The limit in bytes.
        limit: usize,
    },
}

impl EtcdSource {
    /// Opens a snapshot file. Its form is looked at when it is read.
    ///
    /// # Errors
    /// [`EtcdError::Open`].
    pub fn file(path: &Path) -> Result<Self, EtcdError> {
        match open(path) {
            Ok(file) => Ok(Self::File(SnapshotFile {
                path: path.to_owned(),
                file,
                unpacked: OnceLock::new(),
                verified: OnceLock::new(),
            })),
            Err(source) => Err(EtcdError::Open {
                path: path.to_owned(),
                source,
            }),
        }
    }

    /// Lets `gather` put every object into what `new` makes. A reading that must begin anew drops
    /// what it has gathered so far and calls `new` again. A running etcd shows only the newest
    /// revisions, whichever are asked for; its progress counts objects, that of a file bytes.
    ///
    /// # Errors
    /// Whatever keeps the reading from its end. Whatever else `gather` did must be undone.
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
                    if verified.get() == Some(&stamp) {
                        snapshot.trust_hash();
                    }
                    let reading = snapshot.gather(revisions, new(), gather)?;
                    if reading.integrity == Integrity::Verified {
                        verified.get_or_init(|| stamp);
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
                read().map_err(|source| EtcdError::Snapshot {
                    path: path.clone(),
                    source,
                })
            }
            // etcd answers for one revision at a time, so the older ones are out of reach.
            Self::Live(live) => Ok(live.read(on_progress, new, gather)?),
        }
    }

    /// The file or the servers, for reports.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::File(SnapshotFile { path, .. }) => path.display().to_string(),
            Self::Live(live) => live.name(),
        }
    }
}

impl SnapshotFile {
    /// The file as it was given, packed or not.
    pub(crate) fn given(&self) -> &File {
        &self.file
    }

    /// The database: the file itself, or what was unpacked from it.
    ///
    /// # Errors
    /// [`EtcdError::Form`], or [`EtcdError::Snapshot`] when the file cannot be read.
    pub(crate) fn database(&self) -> Result<&File, EtcdError> {
        let form = |problem| EtcdError::Form {
            path: self.path.clone(),
            problem,
        };
        let now = Stamp::of(&self.file).map_err(|error| form(UnpackError::Read(error)))?;
        if let Some((database, then)) = self.unpacked.get() {
            return match now == *then {
                true => Ok(database),
                false => Err(form(UnpackError::Changed)),
            };
        }
        let plain = self.file.metadata().is_ok_and(|it| it.is_file())
            && is_database(&self.file).map_err(|source| EtcdError::Snapshot {
                path: self.path.clone(),
                source,
            })?;
        if plain {
            return Ok(&self.file);
        }
        let database = unpack(&self.file).map_err(form)?;
        if Stamp::of(&self.file).ok() != Some(now) {
            return Err(form(UnpackError::Changed));
        }
        let (database, _) = self.unpacked.get_or_init(|| (database, now));
        Ok(database)
    }
}

/// Opens a file of a backup set without waiting for the writer of a pipe.
///
/// # Errors
/// When there is no such file, or it may not be read.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}

impl Stamp {
    fn of(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        Ok(Self {
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

impl EtcdError {
    /// Whether the source was read and found to be damaged.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Snapshot { source, .. } => source.is_damage(),
            Self::TooVaried { .. } => true,
            Self::Open { .. } | Self::Form { .. } | Self::Live(_) => false,
        }
    }

    /// What helps with a file of another form: a command that unpacks it where there is one.
    #[must_use]
    pub fn next_step(&self) -> Option<String> {
        match self {
            Self::Form { path, problem } => problem.next_step(path),
            Self::Open { .. } | Self::Snapshot { .. } | Self::Live(_) | Self::TooVaried { .. } => {
                None
            }
        }
    }
}
