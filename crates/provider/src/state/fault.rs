//! The bounded causes of a state that cannot be saved or is not on disk: the same words in the log,
//! on `/ready` and in the metrics.

use std::{fmt, io};

use rustix::io::Errno;

/// Why the disk does not take the next state, or does not hold the one in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum StorageFault {
    /// No space, no inode or no quota is left.
    NoSpace,
    /// The file system is mounted read-only.
    ReadOnly,
    /// The process or the machine has no file descriptor left.
    NoDescriptors,
    /// The state directory was removed, unmounted or replaced.
    DirectoryGone,
    /// The system refuses access.
    Permission,
    /// Any other error of the disk.
    Io,
    /// The disk has not answered within the time that the watcher waits for it.
    NoAnswer,
    /// Another state lies in the place of the one in use.
    ForeignState,
    /// A file or the directory breaks a rule of mode, owner or kind.
    UnsafeFiles,
}

impl StorageFault {
    /// The word for the log, `/ready` and metrics.
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

    /// Whether the files themselves speak against the state in use. Every other fault is one of
    /// access: the pair was durable when it was published, and nothing shows a change since.
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

    /// The cause behind an error of the system.
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
