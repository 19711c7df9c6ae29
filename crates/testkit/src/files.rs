//! Files and directories with the modes required by the provider.

#![expect(clippy::unwrap_used, reason = "a failed set-up fails the test")]

use std::{
    fs::{self, File, Permissions},
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

/// Replaces a file atomically, as required for credentials.
pub fn replace(path: &Path, content: &[u8], mode: u32) {
    let directory = path.parent().unwrap();
    let mut file = tempfile::NamedTempFile::new_in(directory).unwrap();
    file.write_all(content).unwrap();
    set_mode(file.as_file(), mode);
    file.persist(path).unwrap();
}

/// Creates a directory below an existing one.
pub fn directory(path: &Path, mode: u32) {
    fs::create_dir(path).unwrap();
    set_mode(&File::open(path).unwrap(), mode);
}

fn set_mode(file: &File, mode: u32) {
    file.set_permissions(Permissions::from_mode(mode)).unwrap();
}

/// A private directory for the provider's socket. Drop removes it.
///
/// The provider accepts sockets below `/run` and below the runtime directory of an ordinary user.
/// An ordinary user gets a runtime directory for the test. The directory of an installed provider
/// is never used.
pub struct SocketDir {
    directory: TempDir,
    /// `None` for root.
    runtime: Option<TempDir>,
}

impl SocketDir {
    /// Creates the directory.
    ///
    /// # Panics
    /// When the directory cannot be created.
    #[must_use]
    pub fn new() -> Self {
        let private = || {
            let mode = Permissions::from_mode(0o700);
            let made = tempfile::Builder::new().permissions(mode).tempdir();
            made.unwrap()
        };
        let runtime = (!rustix::process::geteuid().is_root()).then(private);
        let parent = runtime.as_ref().map_or(Path::new("/run"), TempDir::path);
        let directory = tempfile::Builder::new()
            .prefix("obk-test-")
            .permissions(Permissions::from_mode(0o750))
            .tempdir_in(parent)
            .unwrap();
        set_mode(&File::open(directory.path()).unwrap(), 0o750);
        Self { directory, runtime }
    }

    /// Path of the socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("kms.sock")
    }

    /// Path of the directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Sets the runtime directory for a provider started by `command`.
    pub fn set_environment(&self, command: &mut Command) {
        if let Some(runtime) = &self.runtime {
            command.env("XDG_RUNTIME_DIR", runtime.path());
        }
    }
}

impl Default for SocketDir {
    fn default() -> Self {
        Self::new()
    }
}
