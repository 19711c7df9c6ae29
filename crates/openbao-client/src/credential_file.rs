//! Reads a credential file if its mode excludes access by others.

use std::{
    ffi::OsString,
    fs::File,
    io::Read,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{FileType, Mode, OFlags, Stat, fstat, lstat, open, readlink},
    io::Errno,
};
use zeroize::Zeroizing;

/// Limits of a credential file. It must also be a regular file, not a symbolic link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CredentialFileRules {
    /// Permission bits that must all be clear.
    pub forbidden_mode: u32,
    /// The largest size in bytes.
    pub max_size: usize,
}

/// Error of reading a credential file. Contains neither path nor content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CredentialFileProblem {
    /// The path is relative.
    #[error("the path must be absolute")]
    AbsolutePathRequired,
    /// The file is missing.
    #[error("the file does not exist")]
    Missing,
    /// The system denied access to the file or failed to read it.
    #[error("the file cannot be read")]
    Unreadable(#[source] Errno),
    /// The last component of the path is a symbolic link.
    #[error("the file is a symbolic link")]
    Symlink,
    /// The path is a directory, pipe, socket or device.
    #[error("the file is not a regular file")]
    NotRegular,
    /// The mode allows access by others.
    #[error("the file has mode {mode:04o}; {forbidden:04o} must be clear")]
    UnsafePermissions {
        /// Permission bits of the file.
        mode: u32,
        /// Permission bits that must be clear.
        forbidden: u32,
    },
    /// The file was replaced or changed its size during the read.
    #[error("the file changed while it was read")]
    Changed,
    /// The file is too large.
    #[error("the file is larger than {limit} bytes")]
    TooLarge {
        /// The largest size in bytes.
        limit: usize,
    },
    /// The read exceeds its time limit, for example on a mount with an unreachable server.
    #[error("the file system below it does not answer")]
    Hangs,
}

impl CredentialFileProblem {
    /// Error code for logs.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::AbsolutePathRequired => "file_path_relative",
            Self::Missing => "file_missing",
            Self::Unreadable(Errno::ACCESS | Errno::PERM) => "file_not_permitted",
            Self::Unreadable(Errno::MFILE | Errno::NFILE) => "no_descriptors",
            Self::Unreadable(_) => "file_unreadable",
            Self::Symlink => "file_symlink",
            Self::NotRegular => "file_not_regular",
            Self::UnsafePermissions { .. } => "file_mode",
            Self::Changed => "file_changed",
            Self::TooLarge { .. } => "file_too_large",
            Self::Hangs => "file_hangs",
        }
    }
}

/// Reads the whole file. Blocks: call it outside the async runtime's threads.
///
/// The path is checked before and after opening, to detect a replaced file. A writer must therefore
/// replace the file by rename.
///
/// # Errors
/// The first violated rule.
pub fn read(
    path: &Path,
    rules: CredentialFileRules,
) -> Result<Zeroizing<Vec<u8>>, CredentialFileProblem> {
    if !path.is_absolute() {
        return Err(CredentialFileProblem::AbsolutePathRequired);
    }

    let before = checked(lstat(path), rules)?;
    // Non-blocking, in case a pipe replaces the file just now.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut file = File::from(open(path, flags, Mode::empty()).map_err(problem_of)?);
    let opened = checked(fstat(&file), rules)?;
    let after = checked(lstat(path), rules)?;
    let identity = |stat: &Stat| (stat.st_dev, stat.st_ino);
    if identity(&before) != identity(&opened) || identity(&opened) != identity(&after) {
        return Err(CredentialFileProblem::Changed);
    }

    let limit = rules.max_size;
    let size = usize::try_from(opened.st_size)
        .ok()
        .filter(|&size| size <= limit)
        .ok_or(CredentialFileProblem::TooLarge { limit })?;
    // One byte more than the size detects a file that grew. The buffer itself never grows.
    let mut content = Zeroizing::new(vec![0; size + 1]);
    let mut filled = 0;
    while let Some(rest @ [_, ..]) = content.get_mut(filled..) {
        match file.read(rest) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => {
                let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
                return Err(CredentialFileProblem::Unreadable(errno));
            }
        }
    }

    if filled != size {
        return Err(CredentialFileProblem::Changed);
    }
    content.truncate(size);
    Ok(content)
}

/// As [`read`]; the path may also be a symbolic link to a file in its own directory, as kubelet keeps
/// one for its current certificate. Root or the owner of the file must own the link, so that nobody
/// else selects the file.
///
/// # Errors
/// The first violated rule; [`CredentialFileProblem::Symlink`] for any other link.
pub fn read_through_link(
    path: &Path,
    rules: CredentialFileRules,
) -> Result<Zeroizing<Vec<u8>>, CredentialFileProblem> {
    let found = lstat(path).map_err(problem_of)?;
    if FileType::from_raw_mode(found.st_mode) != FileType::Symlink {
        return read(path, rules);
    }
    read(&link_target(path)?, rules)
}

/// The file of a symbolic link that [`read_through_link`] follows.
///
/// # Errors
/// [`CredentialFileProblem::Symlink`] for a link that leads elsewhere, or belongs to another user.
pub fn link_target(path: &Path) -> Result<PathBuf, CredentialFileProblem> {
    let link = lstat(path).map_err(problem_of)?;
    let target = readlink(path, Vec::new()).map_err(problem_of)?;
    let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
    let directory = path.parent().ok_or(CredentialFileProblem::Symlink)?;
    let target = directory.join(target);
    if target.parent() != Some(directory) {
        return Err(CredentialFileProblem::Symlink);
    }
    let owner = lstat(&target).map_err(problem_of)?.st_uid;
    match link.st_uid == 0 || link.st_uid == owner {
        true => Ok(target),
        false => Err(CredentialFileProblem::Symlink),
    }
}

fn checked(
    stat: rustix::io::Result<Stat>,
    rules: CredentialFileRules,
) -> Result<Stat, CredentialFileProblem> {
    let stat = stat.map_err(problem_of)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {}
        FileType::Symlink => return Err(CredentialFileProblem::Symlink),
        _ => return Err(CredentialFileProblem::NotRegular),
    }

    let mode = stat.st_mode & 0o7777;
    let forbidden = rules.forbidden_mode;
    if mode & forbidden != 0 {
        return Err(CredentialFileProblem::UnsafePermissions { mode, forbidden });
    }
    Ok(stat)
}

fn problem_of(errno: Errno) -> CredentialFileProblem {
    match errno {
        Errno::NOENT | Errno::NOTDIR => CredentialFileProblem::Missing,
        Errno::LOOP => CredentialFileProblem::Symlink,
        other => CredentialFileProblem::Unreadable(other),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, Permissions},
        os::unix::fs::{PermissionsExt, symlink},
        path::PathBuf,
    };

    use super::*;

    const RULES: CredentialFileRules = CredentialFileRules {
        forbidden_mode: 0o037,
        max_size: 16,
    };

    fn file(content: &[u8], mode: u32) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("credential");
        let mut open = File::create(&path).unwrap();
        std::io::Write::write_all(&mut open, content).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        (directory, path)
    }

    #[test]
    fn a_private_file_is_read_whole_up_to_its_limit() {
        for content in [&b""[..], b"secret", &[b'x'; 16]] {
            for mode in [0o600, 0o640, 0o400] {
                let (_directory, path) = file(content, mode);
                assert_eq!(&read(&path, RULES).unwrap()[..], content);
            }
        }
        let (_directory, path) = file(&[b'x'; 17], 0o600);
        let problem = CredentialFileProblem::TooLarge { limit: 16 };
        assert_eq!(read(&path, RULES).unwrap_err(), problem);
    }

    #[test]
    fn a_file_that_others_may_touch_is_refused() {
        for mode in [0o660, 0o650, 0o644, 0o642, 0o641, 0o777] {
            let (_directory, path) = file(b"x", mode);
            let problem = CredentialFileProblem::UnsafePermissions {
                mode,
                forbidden: 0o037,
            };
            assert_eq!(read(&path, RULES).unwrap_err(), problem, "{mode:o}");
        }
    }

    #[test]
    fn a_link_leads_to_a_file_beside_it_only() {
        let (directory, path) = file(b"x", 0o600);
        let at = |name: &str| directory.path().join(name);
        let inner = at("inner");
        fs::create_dir(&inner).unwrap();
        symlink("credential", at("relative")).unwrap();
        symlink(&path, at("absolute")).unwrap();
        symlink("relative", at("second")).unwrap();
        symlink("../credential", inner.join("outside")).unwrap();
        symlink("none", at("dangling")).unwrap();
        for path in [path.clone(), at("relative"), at("absolute")] {
            assert_eq!(&read_through_link(&path, RULES).unwrap()[..], b"x");
        }
        for (path, problem) in [
            (at("second"), CredentialFileProblem::Symlink),
            (inner.join("outside"), CredentialFileProblem::Symlink),
            (at("dangling"), CredentialFileProblem::Missing),
        ] {
            assert_eq!(read_through_link(&path, RULES).unwrap_err(), problem);
        }
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        assert!(read_through_link(&at("relative"), RULES).is_err());
    }

    #[test]
    fn only_a_regular_file_under_its_own_name_is_read() {
        let (directory, path) = file(b"x", 0o600);
        let at = |name: &str| directory.path().join(name);
        symlink(&path, at("link")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, at("pipe"), Mode::RUSR).unwrap();
        for (path, problem) in [
            (at("link"), CredentialFileProblem::Symlink),
            (at("pipe"), CredentialFileProblem::NotRegular),
            (
                directory.path().to_owned(),
                CredentialFileProblem::NotRegular,
            ),
            (at("none"), CredentialFileProblem::Missing),
            (path.join("below"), CredentialFileProblem::Missing),
            (
                PathBuf::from("credential"),
                CredentialFileProblem::AbsolutePathRequired,
            ),
        ] {
            assert_eq!(read(&path, RULES).unwrap_err(), problem, "{path:?}");
        }
    }
}
