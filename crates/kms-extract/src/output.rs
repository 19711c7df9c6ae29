//! Writes plaintext into a directory of the caller: the directory 0700, its files 0600, and all of
//! them or none.
//!
//! Files are written into a directory within it, and are moved up when all of them are complete. So
//! plaintext is below the output directory alone, also after a crash.

use std::{
    fs::File,
    io::{self, Write as _},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{
        AtFlags, CWD, Dir, Mode, OFlags, fchmod, fstat, fsync, mkdirat, openat, renameat, unlinkat,
    },
    io::Errno,
    process::geteuid,
};

/// Directory of files that are not complete yet.
const STAGING: &str = ".incomplete";
const DIRECTORY_MODE: Mode = Mode::RWXU;
const FILE_MODE: Mode = Mode::RUSR.union(Mode::WUSR);

/// Failure of writing.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    #[error("{} is not empty", .0.display())]
    NotEmpty(PathBuf),
    #[error("{} belongs to another user", .0.display())]
    OtherOwner(PathBuf),
    #[error("cannot use {}", path.display())]
    Directory {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot write {}", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// A file to write.
pub struct OutputFile<'a> {
    pub name: &'a str,
    pub content: &'a [u8],
}

/// Checks that the directory can be written: that it is absent, or empty and the caller's.
///
/// # Errors
/// [`OutputError`].
pub fn check(path: &Path) -> Result<(), OutputError> {
    match open(path) {
        Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(unusable(path, error)),
        Ok(directory) => require_own_and_empty(path, &directory),
    }
}

/// Writes all files, or none.
///
/// # Errors
/// [`OutputError`]. Then the directory is empty, or absent if it was.
pub fn write(path: &Path, files: &[OutputFile<'_>]) -> Result<(), OutputError> {
    let is_new = match mkdirat(CWD, path, DIRECTORY_MODE) {
        Ok(()) => true,
        Err(Errno::EXIST) => false,
        Err(error) => return Err(unusable(path, error)),
    };
    let directory = open(path).map_err(|error| unusable(path, error))?;
    require_own_and_empty(path, &directory)?;
    fchmod(&directory, DIRECTORY_MODE).map_err(|error| unusable(path, error))?;

    let written = write_into(path, &directory, files);
    if written.is_err() {
        remove(&directory, files);
        if is_new {
            // What is left is empty.
            unlinkat(CWD, path, AtFlags::REMOVEDIR).ok();
        }
    }
    written
}

fn write_into(
    path: &Path,
    directory: &OwnedFd,
    files: &[OutputFile<'_>],
) -> Result<(), OutputError> {
    let unusable = |error| unusable(path, error);
    mkdirat(directory, STAGING, DIRECTORY_MODE).map_err(unusable)?;
    let staging = openat(directory, STAGING, FLAGS, Mode::empty()).map_err(unusable)?;
    fchmod(&staging, DIRECTORY_MODE).map_err(unusable)?;
    for file in files {
        write_file(&staging, file).map_err(|source| OutputError::File {
            path: path.join(file.name),
            source,
        })?;
    }
    for file in files {
        renameat(&staging, file.name, directory, file.name).map_err(|error| OutputError::File {
            path: path.join(file.name),
            source: error.into(),
        })?;
    }
    unlinkat(directory, STAGING, AtFlags::REMOVEDIR).map_err(unusable)?;
    fsync(directory).map_err(unusable)
}

fn write_file(staging: &OwnedFd, file: &OutputFile<'_>) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = openat(staging, file.name, flags, FILE_MODE)?;
    fchmod(&opened, FILE_MODE)?;
    let mut opened = File::from(opened);
    opened.write_all(file.content)?;
    opened.sync_all()
}

/// Removes the files after a failure, as far as the file system allows it.
fn remove(directory: &OwnedFd, files: &[OutputFile<'_>]) {
    let staging = openat(directory, STAGING, FLAGS, Mode::empty());
    for file in files {
        if let Ok(staging) = &staging {
            unlinkat(staging, file.name, AtFlags::empty()).ok();
        }
        unlinkat(directory, file.name, AtFlags::empty()).ok();
    }
    unlinkat(directory, STAGING, AtFlags::REMOVEDIR).ok();
}

const FLAGS: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

fn open(path: &Path) -> Result<OwnedFd, Errno> {
    openat(CWD, path, FLAGS, Mode::empty())
}

fn require_own_and_empty(path: &Path, directory: &OwnedFd) -> Result<(), OutputError> {
    let unusable = |error| unusable(path, error);
    if fstat(directory).map_err(unusable)?.st_uid != geteuid().as_raw() {
        return Err(OutputError::OtherOwner(path.to_owned()));
    }
    for entry in Dir::read_from(directory).map_err(unusable)? {
        let entry = entry.map_err(unusable)?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            return Err(OutputError::NotEmpty(path.to_owned()));
        }
    }
    Ok(())
}

fn unusable(path: &Path, error: Errno) -> OutputError {
    OutputError::Directory {
        path: path.to_owned(),
        source: error.into(),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use tempfile::TempDir;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    fn names(path: &Path) -> Vec<String> {
        let entries = fs::read_dir(path).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn the_files_are_for_their_owner_alone() {
        let parent = TempDir::new().unwrap();
        let existing = parent.path().join("existing");
        fs::create_dir(&existing).unwrap();
        fs::set_permissions(&existing, fs::Permissions::from_mode(0o755)).unwrap();
        for path in [existing, parent.path().join("new")] {
            check(&path).unwrap();
            let files = [
                OutputFile {
                    name: "a.yaml",
                    content: b"1",
                },
                OutputFile {
                    name: "b.yaml",
                    content: b"",
                },
            ];
            write(&path, &files).unwrap();
            assert_eq!(mode(&path), 0o700);
            assert_eq!(names(&path), ["a.yaml", "b.yaml"]);
            assert_eq!(mode(&path.join("a.yaml")), 0o600);
            assert_eq!(fs::read(path.join("a.yaml")).unwrap(), b"1");
            assert!(matches!(check(&path), Err(OutputError::NotEmpty(_))));
            assert!(matches!(
                write(&path, &files),
                Err(OutputError::NotEmpty(_))
            ));
        }
    }

    #[test]
    fn all_files_are_written_or_none() {
        let parent = TempDir::new().unwrap();
        let files = [
            OutputFile {
                name: "a.yaml",
                content: b"1",
            },
            OutputFile {
                name: "no/directory",
                content: b"2",
            },
        ];
        let new = parent.path().join("new");
        assert!(matches!(write(&new, &files), Err(OutputError::File { .. })));
        assert!(!new.exists());
        let existing = parent.path().join("existing");
        fs::create_dir(&existing).unwrap();
        assert!(matches!(
            write(&existing, &files),
            Err(OutputError::File { .. })
        ));
        assert!(names(&existing).is_empty());
    }

    #[test]
    fn a_link_or_a_file_is_no_directory() {
        let parent = TempDir::new().unwrap();
        let real = parent.path().join("real");
        fs::create_dir(&real).unwrap();
        let link = parent.path().join("link");
        std::os::unix::fs::symlink(&real, &link).unwrap();
        for path in [link, parent.path().join("missing/below")] {
            assert!(matches!(
                write(&path, &[]),
                Err(OutputError::Directory { .. })
            ));
        }
    }
}
