//! Files of a node below a root directory, reached without symbolic links of other users.
//!
//! Root writes into directories of the provider's user. So each path is walked from its root: a
//! symbolic link is followed only in a directory of root, and below another root not at all.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Read as _, Write as _},
    os::fd::{AsFd as _, OwnedFd},
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{
        AtFlags, Dir, FileType, Gid, Mode, OFlags, Uid, fchmod, fchown, fstat, fsync, linkat,
        mkdirat, openat, statat, unlinkat,
    },
    io::Errno,
};

/// Far above any file of an installation.
const MAX_BYTES: u64 = 4 * 1024 * 1024;

/// The root directory of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root(PathBuf);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    File,
    Directory,
    Other,
}

/// An existing path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub kind: Kind,
    pub uid: u32,
    pub gid: u32,
    /// Permission bits.
    pub mode: u32,
}

impl Root {
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Whether it is the running system.
    #[must_use]
    pub fn is_system(&self) -> bool {
        self.0 == Path::new("/")
    }

    /// A path of the node as seen from here.
    #[must_use]
    pub fn of(&self, path: &Path) -> PathBuf {
        self.0.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// The path itself; a symbolic link is [`Kind::Other`]. `None` if it or a directory above is
    /// absent.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn look(&self, path: &Path) -> io::Result<Option<Entry>> {
        let (parent, name) = match self.parent(path, false) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            found => found?,
        };
        let found = match statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(None),
            found => found?,
        };
        Ok(Some(Entry {
            kind: match FileType::from_raw_mode(found.st_mode) {
                FileType::RegularFile => Kind::File,
                FileType::Directory => Kind::Directory,
                _ => Kind::Other,
            },
            uid: found.st_uid,
            gid: found.st_gid,
            mode: found.st_mode & 0o7777,
        }))
    }

    /// Content of a regular file.
    ///
    /// # Errors
    /// Those of the operating system, also for another kind of file, and a size beyond 4 MiB.
    pub fn bytes(&self, path: &Path) -> io::Result<Vec<u8>> {
        let (parent, name) = self.parent(path, false)?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(openat(&parent, name, flags, Mode::empty())?);
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("not a regular file"));
        }
        let mut bytes = Vec::new();
        file.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
        match u64::try_from(bytes.len()).is_ok_and(|length| length <= MAX_BYTES) {
            true => Ok(bytes),
            false => Err(io::Error::other("larger than 4 MiB")),
        }
    }

    /// Text of a regular file.
    ///
    /// # Errors
    /// Those of [`Self::bytes`].
    pub fn text(&self, path: &Path) -> io::Result<String> {
        let bytes = self.bytes(path)?;
        String::from_utf8(bytes).map_err(|_| io::Error::other("not UTF-8"))
    }

    /// Names in a directory, without those of subdirectories.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn names(&self, path: &Path) -> io::Result<Vec<String>> {
        let directory = opened(&self.walk(path, false)?)?;
        let mut names = Vec::new();
        for entry in Dir::read_from(&directory)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if !matches!(&*name, "." | "..") {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    pub(super) fn is_empty(&self, path: &Path) -> io::Result<bool> {
        Ok(self.names(path)?.is_empty())
    }

    /// Makes a directory and those above it, or corrects owner and mode of an existing one.
    pub(super) fn make_directory(
        &self,
        path: &Path,
        owner: (u32, u32),
        mode: u32,
    ) -> io::Result<()> {
        let (parent, name) = self.parent(path, true)?;
        match mkdirat(&parent, name, Mode::from_raw_mode(0o700)) {
            Err(Errno::EXIST) => {}
            made => made?,
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = openat(&parent, name, flags, Mode::empty())?;
        give(&directory, owner, mode)?;
        Ok(fsync(opened(&parent)?)?)
    }

    /// Corrects owner and mode of a regular file.
    pub(super) fn set_access(&self, path: &Path, owner: (u32, u32), mode: u32) -> io::Result<()> {
        let (parent, name) = self.parent(path, false)?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = openat(&parent, name, flags, Mode::empty())?;
        if FileType::from_raw_mode(fstat(&file)?.st_mode) != FileType::RegularFile {
            return Err(io::Error::other("not a regular file"));
        }
        give(&file, owner, mode)
    }

    /// Writes a new file, whole and durable. An existing one is an error and stays unchanged.
    pub(super) fn install(
        &self,
        path: &Path,
        content: &[u8],
        owner: (u32, u32),
        mode: u32,
    ) -> io::Result<()> {
        let (parent, name) = self.parent(path, true)?;
        // kubelet reads each file in its directory of manifests, so an unfinished one is beside it.
        let beside = match path.parent() {
            Some(directory) if path == Path::new(super::MANIFEST) => {
                self.parent(directory, true)?.0
            }
            _ => parent.try_clone()?,
        };
        let temporary = format!(".{}.new", name.to_string_lossy());
        // Of an interrupted run.
        match unlinkat(&beside, &*temporary, AtFlags::empty()) {
            Err(Errno::NOENT) => {}
            removed => removed?,
        }
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let file = openat(&beside, &*temporary, flags, Mode::from_raw_mode(0o600))?;
        let mut file = File::from(file);
        let written = file
            .write_all(content)
            .and_then(|()| give(file.as_fd(), owner, mode))
            .and_then(|()| file.sync_all())
            // A link never replaces a file that was made meanwhile.
            .and_then(|()| {
                let flags = AtFlags::empty();
                Ok(linkat(&beside, &*temporary, &parent, name, flags)?)
            });
        let removed = unlinkat(&beside, &*temporary, AtFlags::empty());
        written?;
        removed?;
        Ok(fsync(opened(&parent)?)?)
    }

    /// Removes a file, or an empty directory. `false` if a directory has entries.
    pub(super) fn remove(&self, path: &Path, is_directory: bool) -> io::Result<bool> {
        let (parent, name) = self.parent(path, false)?;
        let flags = match is_directory {
            true => AtFlags::REMOVEDIR,
            false => AtFlags::empty(),
        };
        match unlinkat(&parent, name, flags) {
            Err(Errno::NOTEMPTY | Errno::EXIST) => return Ok(false),
            removed => removed?,
        }
        fsync(opened(&parent)?)?;
        Ok(true)
    }

    fn parent<'p>(&self, path: &'p Path, make: bool) -> io::Result<(OwnedFd, &'p OsStr)> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        Ok((self.walk(parent, make)?, name))
    }

    fn walk(&self, path: &Path, make: bool) -> io::Result<OwnedFd> {
        let step = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut at = rustix::fs::open(&self.0, step, Mode::empty())?;
        for component in path.components() {
            let name = match component {
                Component::RootDir => continue,
                Component::Normal(name) => name,
                _ => return Err(io::ErrorKind::InvalidInput.into()),
            };
            let inside = |flags| openat(&at, name, flags, Mode::empty());
            at = match inside(step | OFlags::NOFOLLOW) {
                Err(Errno::NOENT) if make => {
                    mkdirat(&at, name, Mode::from_raw_mode(0o700))?;
                    let made = inside(step | OFlags::NOFOLLOW)?;
                    fchmod(opened(&made)?, Mode::from_raw_mode(0o755))?;
                    made
                }
                Err(Errno::LOOP | Errno::NOTDIR) if self.is_system() && fstat(&at)?.st_uid == 0 => {
                    inside(step)?
                }
                found => found?,
            };
        }
        Ok(at)
    }
}

/// The same directory, open for reading.
fn opened(directory: &OwnedFd) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(openat(directory, ".", flags, Mode::empty())?)
}

/// The owner first: its change clears set-group-ID.
fn give(file: impl std::os::fd::AsFd, (uid, gid): (u32, u32), mode: u32) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    fchown(&file, Some(uid), Some(gid))?;
    Ok(fchmod(&file, Mode::from_raw_mode(mode))?)
}
