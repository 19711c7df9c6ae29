//! A private directory. Drop removes it, and so does any end of this process.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Write as _},
    os::unix::{fs::MetadataExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use crate::files::create_directory;

/// Waits for a line, or for the kernel to close the pipe at the end of this process. In the second
/// case servers that are just being killed may still write, so it checks twice. It ignores signals
/// sent to all processes of a service: this process handles them.
const KEEPER: &str = r#"
trap '' HUP INT TERM
cd /
read -r word
for attempt in 1 2 3 4 5 6 7 8 9 10; do
    rm -rf -- "$1"
    if [ "$word" = remove ] && ! [ -e "$1" ]; then exit 0; fi
    sleep 0.5
    if ! [ -e "$1" ]; then exit 0; fi
done
exit 1
"#;

/// The directory is open and locked while it is in use. A directory without a lock is a leftover,
/// for example after a power failure.
pub struct TempWorkspace {
    path: PathBuf,
    lock: File,
    /// The shell that removes the directory; `None` after the request to remove it.
    keeper: Option<Child>,
}

impl TempWorkspace {
    /// Creates a directory with mode 0700. Its name is `prefix` and a random number.
    ///
    /// # Errors
    /// When the directory cannot be created, or the shell that removes it cannot be started.
    pub fn create(parent: &Path, prefix: &str) -> io::Result<Self> {
        let parent = fs::canonicalize(parent)?;
        loop {
            let mut random = [0; 8];
            let filled = aws_lc_rs::rand::fill(&mut random);
            filled.map_err(|_| io::Error::other("the random number generator failed"))?;
            let name = format!("{prefix}{:016x}", u64::from_ne_bytes(random));
            let path = parent.join(name);
            match create_directory(&path, 0o700) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                made => made?,
            }
            // Before the lock, another process may remove it as a leftover; then retry.
            if let Some(lock) = lock(&path)? {
                let keeper = keeper(&path)?;
                return Ok(Self {
                    path,
                    lock,
                    keeper: Some(keeper),
                });
            }
        }
    }

    /// Its absolute path, without symbolic links.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the leftovers of earlier processes of this user: directories beside this one with
    /// the same prefix. Returns the removed paths.
    ///
    /// # Errors
    /// When a directory cannot be read or removed.
    pub fn remove_leftovers(&self, prefix: &str) -> io::Result<Vec<PathBuf>> {
        let mut removed = Vec::new();
        let Some(parent) = self.path.parent() else {
            return Ok(removed);
        };
        let own = self.lock.metadata()?.uid();
        for entry in fs::read_dir(parent)? {
            let entry = entry?;
            let path = entry.path();
            let named = entry.file_name().to_string_lossy().starts_with(prefix);
            if !named || path == self.path {
                continue;
            }
            // Its owner may be removing it just now.
            let Ok(found) = fs::symlink_metadata(&path) else {
                continue;
            };

            let private = found.is_dir() && found.uid() == own && found.mode() & 0o077 == 0;
            if private && let Some(_unused) = lock(&path)? {
                match fs::remove_dir_all(&path) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    done => done?,
                }
                removed.push(path);
            }
        }
        Ok(removed)
    }

    /// Removes the directory and its content.
    ///
    /// # Errors
    /// When a part of it cannot be removed.
    pub fn remove(mut self) -> io::Result<()> {
        self.end()
    }

    fn end(&mut self) -> io::Result<()> {
        if let Some(mut keeper) = self.keeper.take() {
            if let Some(mut word) = keeper.stdin.take() {
                // The line only saves a wait: closing the pipe has the same effect.
                drop(word.write_all(b"remove\n"));
            }
            keeper.wait()?;
        }
        match fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done,
        }
    }
}

impl Drop for TempWorkspace {
    fn drop(&mut self) {
        // Drop cannot report an error; the next process removes the rest.
        drop(self.end());
    }
}

/// Locks a directory. Returns `None` if another process has locked it or has just removed it.
fn lock(path: &Path) -> io::Result<Option<File>> {
    let gone = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => Ok(None),
        _ => Err(error),
    };
    let directory = match File::open(path) {
        Ok(directory) => directory,
        Err(error) => return gone(error),
    };
    match directory.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(None),
        Err(TryLockError::Error(error)) => return Err(error),
    }

    let (locked, named) = match fs::symlink_metadata(path) {
        Ok(named) => (directory.metadata()?, named),
        Err(error) => return gone(error),
    };
    let same = (locked.dev(), locked.ino()) == (named.dev(), named.ino());
    Ok(same.then_some(directory))
}

fn keeper(path: &Path) -> io::Result<Child> {
    Command::new("/bin/sh")
        .args(["-c", KEEPER, "keeper"])
        .arg(path)
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const PREFIX: &str = "scratch-test-";

    fn make(path: &Path, mode: u32) {
        create_directory(path, mode).unwrap();
    }

    #[test]
    fn it_is_gone_when_removed_and_when_dropped() {
        let parent = tempfile::tempdir().unwrap();
        let scratch = TempWorkspace::create(parent.path(), PREFIX).unwrap();
        let mode = fs::metadata(scratch.path()).unwrap().mode();
        assert_eq!(mode & 0o7777, 0o700);
        make(&scratch.path().join("inner"), 0o755);
        scratch.remove().unwrap();
        drop(TempWorkspace::create(parent.path(), PREFIX).unwrap());
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
    }

    #[test]
    fn only_what_nobody_uses_is_a_leftover() {
        let parent = tempfile::tempdir().unwrap();
        let path = |name: &str| parent.path().canonicalize().unwrap().join(name);
        let used = TempWorkspace::create(parent.path(), PREFIX).unwrap();
        let own = TempWorkspace::create(parent.path(), PREFIX).unwrap();
        make(&path("scratch-test-left"), 0o700);
        make(&path("scratch-test-left/inner"), 0o700);
        make(&path("scratch-test-shared"), 0o755);
        make(&path("other"), 0o700);
        symlink(path("other"), path("scratch-test-link")).unwrap();

        let removed = own.remove_leftovers(PREFIX).unwrap();
        assert_eq!(removed, [path("scratch-test-left")]);
        assert!(used.path().exists() && own.path().exists());
        for name in ["scratch-test-shared", "other", "scratch-test-link"] {
            assert!(path(name).exists(), "{name}");
        }
    }
}
