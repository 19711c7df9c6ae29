//! Bounded causes of a state that cannot be saved or has changed on disk. Log, `/ready` and metrics
//! use the same words.

use std::{fmt, io};

use rustix::io::Errno;

/// Why the disk fails to store the next state, or holds another one than the state in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum StorageFault {
    /// Space, inodes or quota are exhausted.
    NoSpace,
    /// The file system is mounted read-only.
    ReadOnly,
    /// The process or the machine has exhausted its file descriptors.
    NoDescriptors,
    /// The state directory was removed, unmounted or replaced.
    DirectoryGone,
    /// The operating system denies access.
    Permission,
    /// Any other error of the disk.
    Io,
    /// The disk exceeded the time limit of the watcher.
    NoAnswer,
    /// The files hold another state than the one in use.
    ForeignState,
    /// A file or the directory violates a rule of mode, owner or type.
    UnsafeFiles,
}

impl StorageFault {
    /// The word for log, `/ready` and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoSpace => "no_space",
            Self::ReadOnly => "read_only",
            Self::NoDescriptors => "no_descriptors",
            Self::DirectoryGone => "directory_gone",
            Self::Permission => "permission",
            Self::Io => "io",
            Self::NoAnswer => "no_answer",
            Self::ForeignState => "foreign_state",
            Self::UnsafeFiles => "unsafe_files",
        }
    }

    /// Whether the files contradict the state in use. Every other fault concerns access only: the
    /// pair was durable when it was published, and shows no change since.
    #[must_use]
    pub fn contradicts(self) -> bool {
        match self {
            Self::ForeignState | Self::UnsafeFiles => true,
            Self::NoSpace
            | Self::ReadOnly
            | Self::NoDescriptors
            | Self::DirectoryGone
            | Self::Permission
            | Self::Io
            | Self::NoAnswer => false,
        }
    }

    /// Cause of an operating system error.
    #[must_use]
    pub fn of(error: &io::Error) -> Self {
        match Errno::from_io_error(error) {
            Some(Errno::NOSPC | Errno::DQUOT) => Self::NoSpace,
            Some(Errno::ROFS) => Self::ReadOnly,
            Some(Errno::MFILE | Errno::NFILE) => Self::NoDescriptors,
            Some(Errno::NOENT | Errno::STALE) => Self::DirectoryGone,
            Some(Errno::ACCESS | Errno::PERM) => Self::Permission,
            _ => Self::Io,
        }
    }
}

impl fmt::Display for StorageFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_the_system_has_its_word() {
        for (errno, word) in [
            (Errno::NOSPC, "no_space"),
            (Errno::DQUOT, "no_space"),
            (Errno::ROFS, "read_only"),
            (Errno::MFILE, "no_descriptors"),
            (Errno::NFILE, "no_descriptors"),
            (Errno::NOENT, "directory_gone"),
            (Errno::STALE, "directory_gone"),
            (Errno::ACCESS, "permission"),
            (Errno::PERM, "permission"),
            (Errno::IO, "io"),
        ] {
            let fault = StorageFault::of(&errno.into());
            assert_eq!(fault.as_str(), word, "{errno}");
            assert!(!fault.contradicts());
        }
        let other = io::Error::other("short write");
        assert_eq!(StorageFault::of(&other), StorageFault::Io);
    }
}
