//! Inspects a raft snapshot of OpenBao without any key: verifies the completeness of the archive,
//! and the hashes of `meta.json` and `state.bin` in `SHA256SUMS`. `state.bin` is encrypted.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufReader, Read},
    time::{Duration, SystemTime},
};

use etcd_snapshot::file::is_database;
use flate2::bufread::MultiGzDecoder;
use kms_node::advice::{Cause, snapshot};
use sha2::{Digest as _, Sha256};

use super::{
    Stamp,
    form::Form,
    tar_files::{TarError, TarFile, each_file},
    unpacked::Source,
};

/// A snapshot with verified hashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RaftSnapshot {
    /// Creation time from the archive, in whole seconds.
    pub created: Option<SystemTime>,
    /// Whether `SHA256SUMS.sealed` exists, for authentication of the hashes by OpenBao.
    pub sealed: bool,
}

/// Failed validation of a raft snapshot.
#[derive(Debug, thiserror::Error)]
pub enum RaftSnapshotError {
    #[error("cannot read the file")]
    Read(#[source] io::Error),
    /// The file has another format.
    #[error("the file is {0}, not a raft snapshot of OpenBao")]
    Form(Form),
    /// The file contains no part of a raft snapshot.
    #[error("the file is not a raft snapshot of OpenBao: {0}")]
    Unknown(&'static str),
    /// A part is missing, or its hash differs.
    #[error("the raft snapshot is damaged: {0}")]
    Damaged(String),
    #[error("the file was written to while it was read")]
    Changed,
}

impl RaftSnapshotError {
    /// Whether the file is a raft snapshot that cannot be restored. Another format is no evidence
    /// of a damaged backup.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Damaged(_) => true,
            Self::Read(_) | Self::Form(_) | Self::Unknown(_) | Self::Changed => false,
        }
    }

    /// Cause of the failure.
    #[must_use]
    pub fn cause(&self) -> &'static Cause {
        match self {
            Self::Read(_) | Self::Changed => &snapshot::UNREADABLE,
            Self::Form(_) | Self::Unknown(_) => &snapshot::OPENBAO_WRONG_FILE,
            Self::Damaged(_) => &snapshot::OPENBAO_DAMAGED,
        }
    }
}

const META: &[u8] = b"meta.json";
const STATE: &[u8] = b"state.bin";
const SUMS: &[u8] = b"SHA256SUMS";
const SEALED: &[u8] = b"SHA256SUMS.sealed";
/// Size limit in bytes. The file has two lines.
const MAX_SUMS: u64 = 4096;

/// Requires that `file` was not written to since it had the stamp.
///
/// # Errors
/// [`RaftSnapshotError::Changed`], or an unreadable status.
pub(crate) fn require_unchanged(file: &File, opened: Stamp) -> Result<(), RaftSnapshotError> {
    let now = Stamp::of(file).map_err(RaftSnapshotError::Read)?;
    match now.is_written_since(opened) {
        true => Err(RaftSnapshotError::Changed),
        false => Ok(()),
    }
}

/// Reads all of `file`.
///
/// # Errors
/// [`RaftSnapshotError`].
pub fn inspect(file: &File) -> Result<RaftSnapshot, RaftSnapshotError> {
    if let Some(form) = Form::of_kind(file).map_err(RaftSnapshotError::Read)? {
        return Err(RaftSnapshotError::Form(form));
    }
    let source = Source::new(file);
    let head = source.head().map_err(RaftSnapshotError::Read)?;
    match Form::of(&head) {
        Some(Form::Gzip) => {}
        Some(form) => return Err(RaftSnapshotError::Form(form)),
        None if is_database(&head[..]).unwrap_or(false) => {
            return Err(RaftSnapshotError::Form(Form::Database));
        }
        None => {
            return Err(RaftSnapshotError::Unknown("its format is unknown"));
        }
    }

    let mut parts = Parts::default();
    let mut content = MultiGzDecoder::new(BufReader::new(&source));
    let walked = each_file(&mut content, |file| parts.add(file));
    let walked = walked.and_then(|()| {
        // The checksum of the compression follows the archive.
        io::copy(&mut content, &mut io::sink())?;
        Ok(())
    });
    match walked {
        Ok(()) => parts.judge(),
        Err(Stop::Wrong(error)) => Err(error),
        Err(Stop::Tar(TarError::Read(error))) if source.has_failed() => {
            Err(RaftSnapshotError::Read(error))
        }
        Err(Stop::Tar(_)) if !parts.is_raft() => Err(RaftSnapshotError::Unknown(
            "it is a gzip archive, truncated or without a tar archive in it",
        )),
        Err(Stop::Tar(TarError::Read(error))) if error.kind() != io::ErrorKind::UnexpectedEof => {
            Err(RaftSnapshotError::Damaged(error.to_string()))
        }
        Err(Stop::Tar(TarError::Sparse)) => {
            Err(RaftSnapshotError::Damaged(TarError::Sparse.to_string()))
        }
        Err(Stop::Tar(TarError::Read(_) | TarError::Truncated)) => {
            Err(RaftSnapshotError::Damaged("it is truncated".to_owned()))
        }
    }
}

/// Parts found in the archive.
#[derive(Default)]
struct Parts {
    /// SHA-256 of `meta.json` and `state.bin`, in hex.
    hashes: BTreeMap<Vec<u8>, String>,
    sums: Option<String>,
    sealed: bool,
    created: Option<SystemTime>,
}

/// Error while reading the archive.
enum Stop {
    Tar(TarError),
    Wrong(RaftSnapshotError),
}

impl From<TarError> for Stop {
    fn from(error: TarError) -> Self {
        Self::Tar(error)
    }
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Tar(error.into())
    }
}

impl Parts {
    fn add(&mut self, file: TarFile<'_>) -> Result<(), Stop> {
        let is_new = match file.name {
            META | STATE => {
                let mut hash = Hashing(Sha256::new());
                io::copy(file.content, &mut hash)?;
                let hash = hash.0.finalize();
                let hash = hash.iter().map(|byte| format!("{byte:02x}")).collect();
                self.hashes.insert(file.name.to_vec(), hash).is_none()
            }
            SUMS => {
                let mut sums = String::new();
                file.content.take(MAX_SUMS).read_to_string(&mut sums)?;
                self.sums.replace(sums).is_none()
            }
            SEALED => !std::mem::replace(&mut self.sealed, true),
            other => {
                let other = other.escape_ascii();
                return Err(Stop::Wrong(match self.is_raft() {
                    true => damaged(format!("it holds a further file `{other}`")),
                    false => RaftSnapshotError::Unknown(
                        "it is an archive of other files than OpenBao writes",
                    ),
                }));
            }
        };

        if !is_new {
            let name = file.name.escape_ascii();
            return Err(Stop::Wrong(damaged(format!("it holds `{name}` twice"))));
        }

        if self.created.is_none() {
            let seconds = file.modified.filter(|seconds| *seconds > 0);
            self.created =
                seconds.and_then(|it| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(it)));
        }
        Ok(())
    }

    /// Whether any part of a raft snapshot was found.
    fn is_raft(&self) -> bool {
        !self.hashes.is_empty() || self.sums.is_some() || self.sealed
    }

    fn judge(self) -> Result<RaftSnapshot, RaftSnapshotError> {
        if !self.is_raft() {
            let empty = "it is an archive without files";
            return Err(RaftSnapshotError::Unknown(empty));
        }

        let sums = self.sums.ok_or_else(|| damaged("it has no SHA256SUMS"))?;
        for name in [META, STATE] {
            let shown = name.escape_ascii();
            let found = self.hashes.get(name);
            let found = found.ok_or_else(|| damaged(format!("it has no {shown}")))?;
            let stated = sums.lines().find_map(|line| {
                let (hash, file) = line.split_once("  ")?;
                (file.as_bytes() == name).then_some(hash)
            });
            match stated {
                None => return Err(damaged(format!("SHA256SUMS does not name {shown}"))),
                Some(stated) if !stated.eq_ignore_ascii_case(found) => {
                    return Err(damaged(format!(
                        "the SHA-256 of {shown} differs from SHA256SUMS"
                    )));
                }
                Some(_) => {}
            }
        }

        Ok(RaftSnapshot {
            created: self.created,
            sealed: self.sealed,
        })
    }
}

fn damaged(problem: impl Into<String>) -> RaftSnapshotError {
    RaftSnapshotError::Damaged(problem.into())
}

struct Hashing(Sha256);

impl io::Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
