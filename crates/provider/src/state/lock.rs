//! The lock beside the state: one writer at a time.
//!
//! The lock is the kernel's, on an open file, so it ends with the process however that ends. The
//! file itself says nothing and is never deleted: a second process could lock a new file under the
//! same name while the first still holds the old one.

use std::{
    ffi::OsStr,
    fs, io,
    os::{fd::OwnedFd, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use rustix::{fs::FlockOperation, io::Errno};

use super::disk::{Directory, DiskError};

/// Why the state could not be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process holds it.
    #[error(
        "{} is locked: another process, usually the running provider, is using this state, and a \
         second writer would break its history; nothing was changed. Stop that process or wait for \
         it to end. Deleting the lock file does not free the state",
        path.display()
    )]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// The lock file or its directory is unsafe or unusable.
    #[error("the state cannot be locked; nothing was changed")]
    Unusable(#[source] DiskError),
    /// The file system refused to lock.
    #[error("{} cannot be locked; nothing was changed", path.display())]
    System {
        /// The lock file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
}

/// Held by the only writer; dropping it releases the state.
#[derive(Debug)]
pub(super) struct Lock {
    descriptor: OwnedFd,
}

/// Who holds the lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The process that took it.
    pub pid: u32,
    /// The first 15 bytes of its program's name.
    pub program: String,
}

impl Holder {
    /// Looks the lock file up in the kernel's list, since trying the lock could make a provider
    /// that starts at this moment fail. A process that is not visible from here is not found.
    ///
    /// # Errors
    /// When the lock file or the list cannot be examined; a missing file is locked by nobody.
    pub fn of(lock_file: &Path) -> io::Result<Option<Self>> {
        let file = match fs::symlink_metadata(lock_file) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let list = fs::read_to_string("/proc/locks")?;
        let entries = list.lines().filter_map(Entry::parse);
        let mut holders = entries
            .filter(|entry| entry.inode == file.ino())
            .map(|entry| (entry.device, Self::running(entry.pid)));
        let device = (
            u64::from(rustix::fs::major(file.dev())),
            u64::from(rustix::fs::minor(file.dev())),
        );
        // Some file systems give files another device number than their own; there the program
        // tells a provider's lock from that of an unrelated file.
        Ok(holders
            .find(|(on, holder)| *on == device || holder.is_provider())
            .map(|(_, holder)| holder))
    }

    /// Whether it is this program, as far as its name tells.
    #[must_use]
    pub fn is_provider(&self) -> bool {
        self.program == "bao-kms-provider"[..15]
    }

    fn running(pid: u32) -> Self {
        let program = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let program = program.trim_end().to_owned();
        Self { pid, program }
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
            Err(Errno::WOULDBLOCK) => Err(LockError::Locked { path }),
            Err(errno) => Err(LockError::System {
                path,
                source: errno.into(),
            }),
        }
    }
}

impl Drop for Lock {
    /// Closing the descriptor would not do: a child that was just forked shares it until it runs
    /// its own program.
    fn drop(&mut self) {
        // It cannot fail on a held lock, and the process's end would release it all the same.
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
            Err(LockError::Locked { path }) => assert_eq!(path, file),
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
