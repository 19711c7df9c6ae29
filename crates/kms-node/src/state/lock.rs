//! The lock file beside the state: one writer at a time.
//!
//! The lock is a kernel lock on an open file, so it ends with the process in every case. The file
//! has no meaningful content and is never deleted: otherwise a second process could lock a new file
//! of the same name while the first still holds the old one.

use std::{
    ffi::OsStr,
    fmt,
    fs::{self, Metadata},
    io,
    os::{fd::OwnedFd, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use rustix::{fs::FlockOperation, io::Errno};

use super::disk::{Directory, DiskError};

/// Why the state could not be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process holds the lock.
    #[error(
        "{} is locked by {}, and a second writer would break the history of the state; nothing was \
         changed. Stop that process or wait for it to end. Deleting the lock file does not free the \
         state",
        path.display(),
        match holder {
            Some(holder) => holder.to_string(),
            None => "another process, usually the running provider".to_owned(),
        }
    )]
    Locked {
        path: PathBuf,
        /// `None` outside this PID namespace, or if `/proc` does not list it.
        holder: Option<Holder>,
    },
    /// The lock file or its directory is unsafe or unusable.
    #[error("the state cannot be locked; nothing was changed")]
    Unusable(#[source] DiskError),
    /// The file system returned an error for the lock call.
    #[error("{} cannot be locked; nothing was changed", path.display())]
    System {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// The lock of the single writer; dropping it releases the state.
#[derive(Debug)]
pub(super) struct Lock {
    descriptor: OwnedFd,
}

/// Readings of the kernel's list before a lock counts as free.
const READINGS: usize = 5;

/// Process holding the lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    pub pid: u32,
    /// The first 15 bytes of its program name.
    pub program: String,
}

impl Holder {
    /// Reads the kernel's list of locks, because trying the lock could make a concurrently starting
    /// provider fail. A process outside this PID namespace is not found.
    ///
    /// # Errors
    /// The lock file or the list is unreadable. A missing lock file is unlocked.
    pub fn of(lock_file: &Path) -> io::Result<Option<Self>> {
        let file = match fs::symlink_metadata(lock_file) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };

        // The kernel gives the list in parts. An entry between two parts is missed if an earlier lock is
        // released meanwhile.
        for _ in 0..READINGS {
            let list = fs::read_to_string("/proc/locks")?;
            let holder = Self::in_list(&list, &file);
            if holder.is_some() {
                return Ok(holder);
            }
        }
        Ok(None)
    }

    fn in_list(list: &str, file: &Metadata) -> Option<Self> {
        let entries = list.lines().filter_map(Entry::parse);
        let mut holders = entries
            .filter(|entry| entry.inode == file.ino())
            .map(|entry| (entry.device, Self::running(entry.pid)));

        let device = (
            u64::from(rustix::fs::major(file.dev())),
            u64::from(rustix::fs::minor(file.dev())),
        );
        // Some file systems report a device number for files that differs from their own. In this
        // case, the program name distinguishes a provider's lock from a lock on an unrelated file.
        holders
            .find(|(on, holder)| *on == device || holder.is_provider())
            .map(|(_, holder)| holder)
    }

    /// Whether it is this program, judging by its name.
    #[must_use]
    pub fn is_provider(&self) -> bool {
        self.program == "bao-kms-provider"[..15]
    }

    /// The running process of this number.
    #[must_use]
    pub fn running(pid: u32) -> Self {
        let program = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let program = program.trim_end().to_owned();
        Self { pid, program }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} ({})", self.pid, self.program)
    }
}

/// One held `flock` in the kernel's list: `1: FLOCK  ADVISORY  WRITE 71 fe:01:1234 0 EOF`.
struct Entry {
    pid: u32,
    device: (u64, u64),
    inode: u64,
}

impl Entry {
    fn parse(line: &str) -> Option<Self> {
        let fields: Vec<_> = line.split_whitespace().collect();
        let [_, "FLOCK", _, "WRITE", pid, file, ..] = fields[..] else {
            return None;
        };
        let mut file = file.split(':');
        let mut number = |radix| u64::from_str_radix(file.next()?, radix).ok();
        Some(Self {
            pid: pid.parse().ok()?,
            device: (number(16)?, number(16)?),
            inode: number(10)?,
        })
    }
}

impl Lock {
    /// Takes the lock without waiting.
    pub(super) fn take(directory: &Directory, name: &OsStr) -> Result<Self, LockError> {
        let descriptor = directory.open_lock(name).map_err(LockError::Unusable)?;
        let path = directory.path().join(name);
        match rustix::fs::flock(&descriptor, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { descriptor }),
            Err(Errno::WOULDBLOCK) => {
                let holder = Holder::of(&path).ok().flatten();
                Err(LockError::Locked { path, holder })
            }
            Err(errno) => Err(LockError::System {
                path,
                source: errno.into(),
            }),
        }
    }
}

impl Drop for Lock {
    /// Closing the descriptor would be insufficient: a newly forked child shares it until its
    /// `exec`.
    fn drop(&mut self) {
        // Unlocking a held lock cannot fail, and the end of the process releases it anyway.
        rustix::fs::flock(&self.descriptor, FlockOperation::Unlock).ok();
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{MetadataExt as _, PermissionsExt as _},
        path::Path,
    };

    use tempfile::tempdir;

    use super::{super::disk::Flaw, *};

    fn take(path: &Path) -> Result<Lock, LockError> {
        let directory = Directory::open(path).unwrap().unwrap();
        Lock::take(&directory, OsStr::new("lock"))
    }

    #[test]
    fn a_held_lock_excludes_others_until_dropped_and_its_file_stays() {
        let directory = tempdir().unwrap();
        let file = directory.path().join("lock");
        let held = take(directory.path()).unwrap();
        let made = fs::metadata(&file).unwrap();
        assert_eq!(made.mode() & 0o7777, 0o600);

        match take(directory.path()) {
            Err(LockError::Locked { path, holder }) => {
                assert_eq!(path, file);
                assert_eq!(holder.unwrap().pid, std::process::id());
            }
            other => panic!("expected a held lock, got {other:?}"),
        }
        let forked = held.descriptor.try_clone().unwrap();
        drop(held);
        let again = take(directory.path()).unwrap();
        drop((again, forked));
        assert_eq!(fs::metadata(&file).unwrap().ino(), made.ino());
    }

    #[test]
    fn a_lock_file_that_others_can_open_is_refused() {
        let directory = tempdir().unwrap();
        drop(take(directory.path()).unwrap());
        for bit in [0o040, 0o020, 0o010, 0o004, 0o002, 0o001] {
            let mode = fs::Permissions::from_mode(0o600 | bit);
            fs::set_permissions(directory.path().join("lock"), mode).unwrap();
            match take(directory.path()) {
                Err(LockError::Unusable(DiskError::Unsafe { flaw, .. })) => {
                    assert!(matches!(flaw, Flaw::TooOpen { .. }), "{flaw:?}");
                }
                other => panic!("expected a refusal of mode {bit:o}, got {other:?}"),
            }
        }
    }
}
