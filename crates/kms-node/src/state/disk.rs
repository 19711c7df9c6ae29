//! Durable file operations: the state directory, and the files of commands in other places. No
//! other module of this program writes or renames files.
//!
//! Implements the file rules and the write order of `docs/format/state-document.md`. Every file is
//! opened relative to a directory pinned by its descriptor, without following symlinks, and is
//! checked on the open descriptor. An attacker therefore has no gap between check and use.
//! Ancestors of the directory are trusted as host administration.
//!
//! A failed write stops where it failed, without cleanup. The disk then holds the same content as
//! after a crash at that point, so one set of repairs covers both.

use std::{
    ffi::{OsStr, OsString},
    fmt,
    fs::File,
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Access, AtFlags, CWD, FileType, Mode, OFlags, Stat, StatVfs, StatVfsMountFlags},
    io::Errno,
    process::geteuid,
};

use super::StorageFault;

/// Calls of a durable write whose failures a test cannot provoke by arranging files.
pub trait Disk: Send {
    /// Writes all of `bytes` at the file's position.
    ///
    /// # Errors
    /// The file may then hold any part of `bytes`.
    fn write(&mut self, file: &File, bytes: &[u8]) -> io::Result<()>;

    /// Makes the content of a file, or the entries of a directory, survive a power loss.
    ///
    /// # Errors
    /// The surviving content is then unknown.
    fn sync(&mut self, file: BorrowedFd<'_>) -> io::Result<()>;

    /// Atomically replaces the entry `to` with the entry `from` of the same directory.
    ///
    /// # Errors
    /// Both entries are then unchanged.
    fn rename(&mut self, directory: BorrowedFd<'_>, from: &OsStr, to: &OsStr) -> io::Result<()>;
}

/// File operations of the operating system.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemDisk;

impl Disk for SystemDisk {
    fn write(&mut self, mut file: &File, bytes: &[u8]) -> io::Result<()> {
        file.write_all(bytes)
    }

    fn sync(&mut self, file: BorrowedFd<'_>) -> io::Result<()> {
        Ok(rustix::fs::fsync(file)?)
    }

    fn rename(&mut self, directory: BorrowedFd<'_>, from: &OsStr, to: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::renameat(directory, from, directory, to)?)
    }
}

/// Why the state directory or a file in it is unusable.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The path exists, but another user could have created or changed it.
    #[error("{} {flaw}", path.display())]
    Unsafe {
        path: PathBuf,
        /// The violated rule, with the remedy.
        flaw: Flaw,
    },
    /// Another directory has replaced the opened and locked one.
    #[error(
        "the state directory {} was replaced while in use; nothing was written: restart the \
         provider, so that it loads and locks what is there now",
        path.display()
    )]
    DirectoryReplaced { path: PathBuf },
    /// The file to create exists already.
    #[error("{} exists already and was not changed", path.display())]
    Exists { path: PathBuf },
    /// The operating system returned an error.
    #[error("cannot {attempt} {}{}", path.display(), match space {
        Some(space) => format!(" on a file system with {space}"),
        None => String::new(),
    })]
    System {
        /// The attempted operation, as a verb.
        attempt: &'static str,
        path: PathBuf,
        /// Of a full or read-only file system.
        space: Option<Space>,
        #[source]
        source: io::Error,
    },
}

impl DiskError {
    /// The bounded cause, for log, `/ready` and metrics.
    #[must_use]
    pub fn fault(&self) -> StorageFault {
        match self {
            Self::Unsafe { .. } => StorageFault::UnsafeFiles,
            Self::DirectoryReplaced { .. } => StorageFault::DirectoryGone,
            Self::Exists { .. } => StorageFault::ForeignState,
            Self::System { source, .. } => StorageFault::of(source),
        }
    }
}

/// A violated file rule, worded to follow a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// A symlink or another file in place of the state directory.
    #[error("is a symlink or not a directory; state.path must lie directly in a real directory")]
    NotADirectory,
    /// Mode bits `0022` of the directory: write access for group or others.
    #[error(
        "has mode {0}, so that others can exchange the files in it; if they are still yours, \
         remove write access for group and others"
    )]
    SharedDirectory(Octal),
    /// The process about to write is not the owner of the directory.
    #[error(
        "belongs to user {owner}, yet this process runs as user {effective}; run it as the \
         directory's owner"
    )]
    ForeignDirectory {
        /// Owner of the directory, with the power to replace its files.
        owner: u32,
        /// Effective user of this process.
        effective: u32,
    },
    /// A symlink, directory, FIFO, socket or device in place of a file.
    #[error("is not a regular file; it was neither followed nor read: find its origin")]
    NotARegularFile,
    /// The file has more permissions than allowed.
    #[error(
        "has mode {mode}, at most {most} is allowed; if its content is still yours, reduce the mode"
    )]
    TooOpen {
        mode: Octal,
        /// The most permissions allowed.
        most: Octal,
    },
    /// The owner of the file is another user.
    #[error("belongs to user {0}; expected are this process, root or the directory's owner")]
    ForeignFile(u32),
    /// The file has a second name elsewhere.
    #[error("has further hard links, so another name can change it; remove those")]
    HardLinked,
    /// The file is larger than any file this program writes.
    #[error(
        "is larger than the limit of {0} bytes, so another program wrote it: move it away, and keep it"
    )]
    TooLarge(u64),
}

/// Permission bits, shown as `0640`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Octal(u32);

impl fmt::Display for Octal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

impl fmt::Debug for Octal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Free space of a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Bytes available to users other than root.
    pub free_bytes: u64,
    /// `None` on a file system that has no limit of inodes.
    pub free_inodes: Option<u64>,
    read_only: bool,
}

impl Space {
    /// The space at `path`. Blocks on the file system.
    fn at(path: &Path) -> io::Result<Self> {
        Ok(Self::from(rustix::fs::statvfs(path)?))
    }

    /// Why a file of `bytes` and a second, small file cannot be stored; `None` if they can. Quotas
    /// are not visible here.
    #[must_use]
    pub(super) fn fault(&self, bytes: usize) -> Option<StorageFault> {
        const BLOCK: usize = 4096;
        let needed = bytes.next_multiple_of(BLOCK).saturating_add(BLOCK);
        let fits = u64::try_from(needed).is_ok_and(|needed| needed <= self.free_bytes);
        if self.read_only {
            Some(StorageFault::ReadOnly)
        } else if !fits || self.free_inodes == Some(0) {
            Some(StorageFault::NoSpace)
        } else {
            None
        }
    }
}

impl From<StatVfs> for Space {
    fn from(facts: StatVfs) -> Self {
        Self {
            free_bytes: facts.f_bavail.saturating_mul(facts.f_frsize),
            free_inodes: (facts.f_files > 0).then_some(facts.f_favail),
            read_only: facts.f_flag.contains(StatVfsMountFlags::RDONLY),
        }
    }
}

impl fmt::Display for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MIB: u64 = 1 << 20;
        match self.free_bytes {
            bytes @ ..MIB => write!(f, "{bytes} bytes ")?,
            bytes => write!(f, "{} MiB ", bytes / MIB)?,
        }
        if let Some(inodes) = self.free_inodes {
            write!(f, "and {inodes} inodes ")?;
        }
        f.write_str("free")?;
        match self.read_only {
            true => f.write_str(", mounted read-only"),
            false => Ok(()),
        }
    }
}

/// An open directory writable by its owner only.
#[derive(Debug)]
pub(super) struct Directory {
    descriptor: OwnedFd,
    path: PathBuf,
    facts: Stat,
}

impl Directory {
    /// Pins the directory at `path`; `None` if it is absent.
    pub(super) fn open(path: &Path) -> Result<Option<Self>, DiskError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let descriptor = match rustix::fs::openat(CWD, path, flags, Mode::empty()) {
            Ok(descriptor) => descriptor,
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::NOTDIR | Errno::LOOP) => return Err(flawed(path, Flaw::NotADirectory)),
            Err(errno) => return Err(failed("open", path)(errno.into())),
        };
        let facts = facts_of(&descriptor, path)?;
        require_unshared(&facts, path)?;
        Ok(Some(Self {
            descriptor,
            path: path.to_owned(),
            facts,
        }))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn space(&self) -> io::Result<Space> {
        Ok(Space::from(rustix::fs::fstatvfs(&self.descriptor)?))
    }

    /// Writes `content` to a file of its own name, syncs it, and removes it.
    pub(super) fn try_writing(&self, content: &[u8]) -> Result<(), DiskError> {
        self.require_own()?;
        // One name a process: two checks at a time must not disturb each other.
        let name = OsString::from(format!("write-test-{}", std::process::id()));
        let path = self.path.join(&name);
        let temporary = Temporary::of(self.descriptor.as_fd(), &path, &name);
        temporary.remove_stale()?;
        let file = temporary.create()?;
        let written = temporary.fill(&mut SystemDisk, &file, PRIVATE, content);
        let removed = temporary.remove_stale();
        written.and(removed)?;
        SystemDisk
            .sync(self.descriptor.as_fd())
            .map_err(failed("sync", &self.path))
    }

    /// Requires ownership by this process, a precondition of every write.
    fn require_own(&self) -> Result<(), DiskError> {
        let (owner, effective) = (self.facts.st_uid, geteuid().as_raw());
        if owner == effective {
            Ok(())
        } else {
            let flaw = Flaw::ForeignDirectory { owner, effective };
            Err(flawed(&self.path, flaw))
        }
    }

    /// Requires the path to lead to this same directory still, with safe permissions.
    pub(super) fn require_in_place(&self) -> Result<(), DiskError> {
        // Uses `stat` instead of `open`: a sandboxed process may have no access to another
        // directory.
        match rustix::fs::statat(CWD, &self.path, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(now) if (now.st_dev, now.st_ino) == (self.facts.st_dev, self.facts.st_ino) => {
                require_unshared(&now, &self.path)
            }
            Ok(_) | Err(Errno::NOENT) => Err(DiskError::DirectoryReplaced {
                path: self.path.clone(),
            }),
            Err(errno) => Err(failed("examine", &self.path)(errno.into())),
        }
    }

    /// The content of a file of at most `limit` bytes; `None` if the file is absent.
    pub(super) fn read(&self, name: &OsStr, limit: u64) -> Result<Option<Vec<u8>>, DiskError> {
        let content = self.read_start(name, limit.saturating_add(1))?;
        let fits = |content: &Vec<u8>| u64::try_from(content.len()).is_ok_and(|it| it <= limit);
        match content {
            Some(content) if !fits(&content) => {
                Err(flawed(&self.path.join(name), Flaw::TooLarge(limit)))
            }
            content => Ok(content),
        }
    }

    /// The first `most` bytes of a file, or all of a shorter one; `None` if the file is absent.
    pub(super) fn read_start(&self, name: &OsStr, most: u64) -> Result<Option<Vec<u8>>, DiskError> {
        let path = self.path.join(name);
        // Without NONBLOCK, opening a FIFO in place of the file would block the process.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let descriptor = match rustix::fs::openat(&self.descriptor, name, flags, Mode::empty()) {
            Ok(descriptor) => descriptor,
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(not_opened(&path, errno)),
        };
        let facts = facts_of(&descriptor, &path)?;
        let owners = [0, geteuid().as_raw(), self.facts.st_uid];
        if let Some(flaw) = file_flaw(&facts, 0o640, &owners) {
            return Err(flawed(&path, flaw));
        }
        let mut content = Vec::new();
        File::from(descriptor)
            .take(most)
            .read_to_end(&mut content)
            .map_err(failed("read", &path))?;
        Ok(Some(content))
    }

    /// Replaces a whole file durably. On success, the new content survives a power loss. On
    /// failure, the name leads to the complete old or the complete new content.
    pub(super) fn replace(
        &self,
        disk: &mut dyn Disk,
        name: &OsStr,
        content: &[u8],
    ) -> Result<(), DiskError> {
        self.require_in_place()?;
        let path = self.path.join(name);
        match rustix::fs::statat(&self.descriptor, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(facts) if is_regular(&facts) => {}
            Ok(_) => return Err(flawed(&path, Flaw::NotARegularFile)),
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(failed("examine", &path)(errno.into())),
        }

        let temporary = Temporary::of(self.descriptor.as_fd(), &path, name);
        temporary.remove_stale()?;

        let file = temporary.create()?;
        temporary.fill(disk, &file, PRIVATE, content)?;
        temporary.put_in_place(disk, name)
    }

    /// Stores `content` durably under a new name. A file of that name with equal content is
    /// accepted; one with other content stays unchanged and is an error.
    pub(super) fn keep(
        &self,
        disk: &mut dyn Disk,
        name: &OsStr,
        content: &[u8],
    ) -> Result<(), DiskError> {
        self.require_in_place()?;
        self.remove_stale(name)?;

        let limit = u64::try_from(content.len()).unwrap_or(u64::MAX);
        match self.read(name, limit)? {
            Some(kept) if kept == content => Ok(()),
            Some(_) => Err(DiskError::Exists {
                path: self.path.join(name),
            }),
            None => {
                let path = self.path.join(name);
                publish_new(disk, self.descriptor.as_fd(), &path, name, PRIVATE, content)
            }
        }
    }

    /// Removes the temporary file of an interrupted write of `name`.
    pub(super) fn remove_stale(&self, name: &OsStr) -> Result<(), DiskError> {
        Temporary::of(self.descriptor.as_fd(), &self.path.join(name), name).remove_stale()
    }

    /// Opens the lock file, creating it if it is absent. On a read-only file system, an existing
    /// one is opened for reading, which suffices for the kernel lock.
    pub(super) fn open_lock(&self, name: &OsStr) -> Result<OwnedFd, DiskError> {
        self.require_own()?;
        let path = self.path.join(name);
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let open =
            |flags| rustix::fs::openat(&self.descriptor, name, flags, Mode::from_raw_mode(0o600));
        let descriptor = match open(flags) {
            // If the file is absent, `EROFS` explains more than the second error.
            Err(Errno::ROFS) => {
                open(flags - OFlags::RDWR - OFlags::CREATE).map_err(|_| Errno::ROFS)
            }
            opened => opened,
        }
        .map_err(|errno| not_opened(&path, errno))?;

        let facts = facts_of(&descriptor, &path)?;
        match file_flaw(&facts, 0o700, &[geteuid().as_raw()]) {
            Some(flaw) => Err(flawed(&path, flaw)),
            None => Ok(descriptor),
        }
    }
}

/// Requires that [`create_new`] can write to `path`, as far as is known before: it is absent, and its
/// directory is writable for this user. A check before long work spares the wait.
///
/// # Errors
/// [`DiskError::Exists`], or a missing or closed directory. A path that ends with a slash is one.
pub fn require_new(path: &Path) -> Result<(), DiskError> {
    if path.symlink_metadata().is_ok() {
        let path = path.to_owned();
        return Err(DiskError::Exists { path });
    }
    let directory = match path.parent() {
        _ if path.as_os_str().as_bytes().ends_with(b"/") => path,
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        parent => parent.unwrap_or(path),
    };
    let access = Access::WRITE_OK | Access::EXEC_OK;
    rustix::fs::accessat(CWD, directory, access, AtFlags::EACCESS)
        .map_err(|errno| failed("write to the directory", directory)(errno.into()))
}

/// Writes a new file, whole and durable, with mode 0640, in any directory the caller may write to.
/// An existing file stays unchanged.
///
/// # Errors
/// [`DiskError::Exists`], or an error of the operating system. The name then leads to nothing or to
/// the complete content.
pub fn create_new(path: &Path, content: &[u8]) -> Result<(), DiskError> {
    let (directory, name) = parent_of(path)?;
    let directory = directory.as_fd();
    publish_new(&mut SystemDisk, directory, path, name, PRIVATE, content)
}

/// The same with mode 0600.
///
/// # Errors
/// Those of [`create_new`].
pub fn create_private(path: &Path, content: &[u8]) -> Result<(), DiskError> {
    let (directory, name) = parent_of(path)?;
    let directory = directory.as_fd();
    publish_new(&mut SystemDisk, directory, path, name, OWN, content)
}

/// Publishes by `link` instead of `rename`, because a link never replaces a file created meanwhile.
fn publish_new(
    disk: &mut dyn Disk,
    directory: BorrowedFd<'_>,
    path: &Path,
    name: &OsStr,
    mode: Mode,
    content: &[u8],
) -> Result<(), DiskError> {
    let temporary = Temporary::of(directory, path, name);
    let file = temporary.create()?;
    let mut publish = || {
        temporary.fill(disk, &file, mode, content)?;
        let new = &temporary.name;
        match rustix::fs::linkat(directory, new, directory, name, AtFlags::empty()) {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) => Err(DiskError::Exists {
                path: path.to_owned(),
            }),
            Err(errno) => Err(failed("create", path)(errno.into())),
        }
    };

    let published = publish();
    rustix::fs::unlinkat(directory, &temporary.name, AtFlags::empty())
        .map_err(|errno| failed("remove", &temporary.path)(errno.into()))?;

    published?;
    disk.sync(directory)
        .map_err(failed("sync the directory of", path))
}

/// Replaces a world-readable file, whole and durable, with mode 0644, in any directory the caller
/// may write to.
///
/// # Errors
/// An error of the operating system. The name then leads to the complete old or new content.
pub fn replace_public(path: &Path, content: &[u8]) -> Result<(), DiskError> {
    replace(path, content, PUBLIC)
}

/// The same with mode 0600.
///
/// # Errors
/// Those of [`replace_public`].
pub fn replace_private(path: &Path, content: &[u8]) -> Result<(), DiskError> {
    replace(path, content, OWN)
}

fn replace(path: &Path, content: &[u8], mode: Mode) -> Result<(), DiskError> {
    let (directory, name) = parent_of(path)?;
    let temporary = Temporary::of(directory.as_fd(), path, name);
    temporary.remove_stale()?;
    let file = temporary.create()?;

    temporary.fill(&mut SystemDisk, &file, mode, content)?;
    temporary.put_in_place(&mut SystemDisk, name)
}

const PRIVATE: Mode = Mode::from_raw_mode(0o640);
const OWN: Mode = Mode::from_raw_mode(0o600);
const PUBLIC: Mode = Mode::from_raw_mode(0o644);

/// A write in progress: `.<name>.tmp` beside its target.
struct Temporary<'d> {
    directory: BorrowedFd<'d>,
    name: OsString,
    path: PathBuf,
    target: &'d Path,
}

impl<'d> Temporary<'d> {
    fn of(directory: BorrowedFd<'d>, target: &'d Path, name: &OsStr) -> Self {
        let mut temporary = OsString::from(".");
        temporary.push(name);
        temporary.push(".tmp");
        Self {
            directory,
            path: target.with_file_name(&temporary),
            name: temporary,
            target,
        }
    }

    /// Removes the file of a process killed during a write.
    fn remove_stale(&self) -> Result<(), DiskError> {
        match rustix::fs::unlinkat(self.directory, &self.name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(failed("remove the stale", &self.path)(errno.into())),
        }
    }

    fn create(&self) -> Result<File, DiskError> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(self.directory, &self.name, flags, PRIVATE)
            .map(File::from)
            .map_err(|errno| failed("create", &self.path)(errno.into()))
    }

    fn fill(
        &self,
        disk: &mut dyn Disk,
        file: &File,
        mode: Mode,
        content: &[u8],
    ) -> Result<(), DiskError> {
        disk.write(file, content)
            .map_err(failed("write", &self.path))?;
        // The umask has cleared bits of the mode given at creation.
        rustix::fs::fchmod(file, mode)
            .map_err(|errno| failed("set the mode of", &self.path)(errno.into()))?;
        disk.sync(file.as_fd()).map_err(failed("sync", &self.path))
    }

    fn put_in_place(&self, disk: &mut dyn Disk, name: &OsStr) -> Result<(), DiskError> {
        disk.rename(self.directory, &self.name, name)
            .map_err(failed("put the new content in place of", self.target))?;
        disk.sync(self.directory)
            .map_err(failed("sync the directory of", self.target))
    }
}

/// The opened parent directory, and the file name in it.
fn parent_of(path: &Path) -> Result<(OwnedFd, &OsStr), DiskError> {
    let name = path
        .file_name()
        .ok_or_else(|| failed("create", path)(io::ErrorKind::InvalidFilename.into()))?;
    let parent = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };

    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::openat(CWD, parent, flags, Mode::empty())
        .map_err(|errno| failed("open the directory", parent)(errno.into()))?;
    Ok((directory, name))
}

/// The first violated file rule, in this order: regular file, permissions within `most`, owner
/// among `owners`, one link. `owners` may include the owner of the directory, who can replace every
/// file in it anyway.
fn file_flaw(facts: &Stat, most: u32, owners: &[u32]) -> Option<Flaw> {
    let mode = facts.st_mode & 0o7777;
    if !is_regular(facts) {
        Some(Flaw::NotARegularFile)
    } else if mode & 0o777 & !most != 0 {
        Some(Flaw::TooOpen {
            mode: Octal(mode),
            most: Octal(most),
        })
    } else if !owners.contains(&facts.st_uid) {
        Some(Flaw::ForeignFile(facts.st_uid))
    } else if facts.st_nlink != 1 {
        Some(Flaw::HardLinked)
    } else {
        None
    }
}

fn is_regular(facts: &Stat) -> bool {
    FileType::from_raw_mode(facts.st_mode) == FileType::RegularFile
}

fn require_unshared(directory: &Stat, path: &Path) -> Result<(), DiskError> {
    let mode = Octal(directory.st_mode & 0o7777);
    if mode.0 & 0o022 != 0 {
        return Err(flawed(path, Flaw::SharedDirectory(mode)));
    }
    Ok(())
}

fn facts_of(descriptor: &OwnedFd, path: &Path) -> Result<Stat, DiskError> {
    rustix::fs::fstat(descriptor).map_err(|errno| failed("examine", path)(errno.into()))
}

/// Opening fails for a symlink, a socket and (for writing) a directory.
fn not_opened(path: &Path, errno: Errno) -> DiskError {
    match errno {
        Errno::LOOP | Errno::NXIO | Errno::ISDIR => flawed(path, Flaw::NotARegularFile),
        other => failed("open", path)(other.into()),
    }
}

fn flawed(path: &Path, flaw: Flaw) -> DiskError {
    DiskError::Unsafe {
        path: path.to_owned(),
        flaw,
    }
}

fn failed(attempt: &'static str, path: &Path) -> impl Fn(io::Error) -> DiskError {
    move |source| {
        let full = [StorageFault::NoSpace, StorageFault::ReadOnly];
        let space = full.contains(&StorageFault::of(&source));
        let directory = path.parent().unwrap_or(path);
        DiskError::System {
            attempt,
            path: path.to_owned(),
            space: space.then(|| Space::at(directory).ok()).flatten(),
            source,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::{
            fs::{PermissionsExt as _, chown, symlink},
            net::UnixListener,
        },
    };

    use tempfile::{TempDir, tempdir};

    use super::*;

    const NAME: &str = "state.json";

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn open(path: &Path) -> Directory {
        Directory::open(path).unwrap().unwrap()
    }

    /// A private directory with one valid file in it.
    fn with_file(content: &str) -> (TempDir, PathBuf) {
        let directory = tempdir().unwrap();
        let file = directory.path().join(NAME);
        open(directory.path())
            .replace(&mut SystemDisk, OsStr::new(NAME), content.as_bytes())
            .unwrap();
        (directory, file)
    }

    fn read(directory: &TempDir) -> Result<Option<Vec<u8>>, DiskError> {
        open(directory.path()).read(OsStr::new(NAME), 16)
    }

    #[track_caller]
    fn assert_flaw<T: fmt::Debug>(outcome: Result<T, DiskError>, path: &Path, expected: Flaw) {
        match outcome {
            Err(DiskError::Unsafe { path: named, flaw }) => {
                assert_eq!((named.as_path(), flaw), (path, expected));
            }
            other => panic!("expected {expected:?}, got {other:?}"),
        }
    }

    #[test]
    fn a_new_file_is_whole_private_and_takes_the_place_of_none() {
        let directory = tempdir().unwrap();
        let path = directory.path().join("new");
        create_new(&path, b"first").unwrap();
        let again = create_new(&path, b"second");
        assert!(matches!(again, Err(DiskError::Exists { path: named }) if named == path));
        assert_eq!(fs::read(&path).unwrap(), b"first");
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o640);
        let left: Vec<_> = fs::read_dir(directory.path()).unwrap().collect();
        assert_eq!(left.len(), 1);
        symlink(
            directory.path().join("target"),
            directory.path().join("link"),
        )
        .unwrap();
        let link = create_new(&directory.path().join("link"), b"");
        assert!(matches!(link, Err(DiskError::Exists { .. })));
    }

    #[test]
    fn a_missing_directory_or_file_is_absent_and_not_an_error() {
        let directory = tempdir().unwrap();
        assert!(
            Directory::open(&directory.path().join("none"))
                .unwrap()
                .is_none()
        );
        assert_eq!(read(&directory).unwrap(), None);
    }

    #[test]
    fn a_directory_that_others_can_write_is_refused() {
        let directory = tempdir().unwrap();
        for mode in [0o700, 0o750, 0o755, 0o2750] {
            set_mode(directory.path(), mode);
            open(directory.path());
        }
        for mode in [0o720, 0o702, 0o777, 0o1777] {
            set_mode(directory.path(), mode);
            let flaw = Flaw::SharedDirectory(Octal(mode));
            assert_flaw(Directory::open(directory.path()), directory.path(), flaw);
        }
    }

    #[test]
    fn a_symlink_or_file_in_place_of_the_directory_is_refused() {
        let (directory, file) = with_file("x");
        let link = directory.path().join("link");
        symlink(directory.path(), &link).unwrap();
        for path in [&link, &file] {
            assert_flaw(Directory::open(path), path, Flaw::NotADirectory);
        }
    }

    #[test]
    fn only_modes_within_0640_are_read() {
        let (directory, file) = with_file("x");
        for mode in [0o640, 0o600, 0o440, 0o400] {
            set_mode(&file, mode);
            assert_eq!(read(&directory).unwrap().unwrap(), b"x");
        }
        for bit in [0o100, 0o020, 0o010, 0o004, 0o002, 0o001] {
            set_mode(&file, 0o640 | bit);
            let flaw = Flaw::TooOpen {
                mode: Octal(0o640 | bit),
                most: Octal(0o640),
            };
            assert_flaw(read(&directory), &file, flaw);
        }
    }

    #[test]
    fn what_is_not_a_regular_file_is_neither_followed_nor_waited_for() {
        let (directory, file) = with_file("x");
        let elsewhere = directory.path().join("elsewhere");
        rustix::fs::rename(&file, &elsewhere).unwrap();

        symlink(&elsewhere, &file).unwrap();
        assert_not_regular(&directory, &file);
        fs::remove_file(&file).unwrap();

        fs::create_dir(&file).unwrap();
        assert_not_regular(&directory, &file);
        fs::remove_dir(&file).unwrap();

        let mode = Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(CWD, &file, FileType::Fifo, mode, 0).unwrap();
        assert_not_regular(&directory, &file);
        fs::remove_file(&file).unwrap();

        let _listener = UnixListener::bind(&file).unwrap();
        assert_not_regular(&directory, &file);
        assert_eq!(fs::read(&elsewhere).unwrap(), b"x");
    }

    #[track_caller]
    fn assert_not_regular(directory: &TempDir, file: &Path) {
        let name = OsStr::new(NAME);
        let pinned = open(directory.path());
        assert_flaw(pinned.read(name, 16), file, Flaw::NotARegularFile);
        assert_flaw(pinned.open_lock(name), file, Flaw::NotARegularFile);
        assert_flaw(
            pinned.replace(&mut SystemDisk, name, b"new"),
            file,
            Flaw::NotARegularFile,
        );
    }

    #[test]
    fn a_second_hard_link_is_refused() {
        let (directory, file) = with_file("x");
        fs::hard_link(&file, directory.path().join("other-name")).unwrap();
        assert_flaw(read(&directory), &file, Flaw::HardLinked);
        set_mode(&file, 0o600);
        let lock = open(directory.path()).open_lock(OsStr::new(NAME));
        assert_flaw(lock, &file, Flaw::HardLinked);
    }

    #[test]
    fn a_file_beyond_the_limit_is_refused() {
        let (directory, file) = with_file("sixteen bytes...");
        assert_eq!(read(&directory).unwrap().unwrap().len(), 16);
        let mut appended = File::options().append(true).open(&file).unwrap();
        appended.write_all(b".").unwrap();
        assert_flaw(read(&directory), &file, Flaw::TooLarge(16));
    }

    #[test]
    fn a_file_belongs_to_the_process_root_or_the_owner_of_the_directory() {
        let (directory, file) = with_file("x");
        let facts = rustix::fs::stat(&file).unwrap();
        let owner = facts.st_uid;
        assert_eq!(file_flaw(&facts, 0o640, &[0, owner]), None);
        assert_eq!(
            file_flaw(&facts, 0o640, &[owner + 1, owner + 2]),
            Some(Flaw::ForeignFile(owner))
        );

        // Only root can give a file away; other users can test the rule above only.
        let stranger = 61_234;
        if !geteuid().is_root() {
            chown(&file, Some(stranger), None).unwrap_err();
            return;
        }
        chown(&file, Some(stranger), None).unwrap();
        assert_flaw(read(&directory), &file, Flaw::ForeignFile(stranger));
        chown(directory.path(), Some(stranger), None).unwrap();
        assert_eq!(read(&directory).unwrap().unwrap(), b"x");
        let foreign = Flaw::ForeignDirectory {
            owner: stranger,
            effective: 0,
        };
        let lock = open(directory.path()).open_lock(OsStr::new("lock"));
        assert_flaw(lock, directory.path(), foreign);
    }

    #[test]
    fn a_replaced_file_is_new_whole_and_readable_by_the_group() {
        let (directory, file) = with_file("old");
        let stale = directory.path().join(".state.json.tmp");
        symlink(&file, &stale).unwrap();
        let before = rustix::fs::stat(&file).unwrap().st_ino;

        let pinned = open(directory.path());
        pinned
            .replace(&mut SystemDisk, OsStr::new(NAME), b"new")
            .unwrap();

        let after = rustix::fs::stat(&file).unwrap();
        assert_ne!(after.st_ino, before);
        assert_eq!(after.st_mode & 0o7777, 0o640);
        assert_eq!(fs::read(&file).unwrap(), b"new");
        assert!(fs::symlink_metadata(&stale).is_err());
    }

    #[test]
    fn nothing_is_written_after_the_directory_was_exchanged() {
        let (parent, name) = (tempdir().unwrap(), OsStr::new(NAME));
        let path = parent.path().join("state");
        fs::create_dir(&path).unwrap();
        set_mode(&path, 0o700);
        let pinned = open(&path);
        let aside = parent.path().join("aside");
        rustix::fs::rename(&path, &aside).unwrap();

        let refused = pinned.replace(&mut SystemDisk, name, b"x");
        assert!(matches!(refused, Err(DiskError::DirectoryReplaced { .. })));
        fs::create_dir(&path).unwrap();
        set_mode(&path, 0o700);
        let refused = pinned.replace(&mut SystemDisk, name, b"x");
        assert!(matches!(refused, Err(DiskError::DirectoryReplaced { .. })));
        for directory in [path, aside] {
            assert_eq!(fs::read_dir(directory).unwrap().count(), 0);
        }
    }

    #[test]
    fn a_disk_is_full_without_bytes_or_inodes_for_a_save() {
        let space = |free_bytes, free_inodes| Space {
            free_bytes,
            free_inodes,
            read_only: false,
        };
        let full = Some(StorageFault::NoSpace);
        assert_eq!(space(12_288, Some(1)).fault(5000), None);
        assert_eq!(space(12_288, None).fault(5000), None);
        assert_eq!(space(12_287, Some(1)).fault(5000), full);
        assert_eq!(space(1 << 30, Some(0)).fault(5000), full);
        assert_eq!(space(12, Some(0)).to_string(), "12 bytes and 0 inodes free");
        let read_only = Space {
            read_only: true,
            ..space(1 << 30, None)
        };
        assert_eq!(read_only.fault(0), Some(StorageFault::ReadOnly));
        assert_eq!(read_only.to_string(), "1024 MiB free, mounted read-only");
    }

    #[test]
    fn a_write_test_leaves_nothing_behind() {
        let directory = tempdir().unwrap();
        set_mode(directory.path(), 0o750);
        let pinned = Directory::open(directory.path()).unwrap().unwrap();
        pinned.try_writing(b"content").unwrap();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
        assert!(pinned.space().unwrap().fault(1).is_none());
    }
}
