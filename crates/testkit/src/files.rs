//! Files and directories with the modes that the provider asks for.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot set up its files has failed"
)]

use std::{
    fs::{self, File, Permissions},
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

/// Replaces a file in one step, as credentials have to be replaced.
pub fn replace(path: &Path, content: &[u8], mode: u32) {
    let directory = path.parent().unwrap();
    let mut file = tempfile::NamedTempFile::new_in(directory).unwrap();
    file.write_all(content).unwrap();
    set_mode(file.as_file(), mode);
    file.persist(path).unwrap();
}

/// Makes a directory below an existing one.
pub fn directory(path: &Path, mode: u32) {
    fs::create_dir(path).unwrap();
    set_mode(&File::open(path).unwrap(), mode);
}

fn set_mode(file: &File, mode: u32) {
    file.set_permissions(Permissions::from_mode(mode)).unwrap();
}

/// A private directory where the provider may put its socket; removed on drop.
///
/// The provider accepts sockets in directories below `/run`, and below the runtime directory of an
/// ordinary user, who gets one for the test. Never in the directory of an installed provider.
pub struct SocketDir {
    directory: TempDir,
    /// `None` for root.
    runtime: Option<TempDir>,
}

impl SocketDir {
    /// Makes the directory.
    ///
    /// # Panics
    /// When it cannot be made.
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

    /// Where the socket belongs.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("kms.sock")
    }

    /// The directory itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Tells a provider that is about to be executed its runtime directory.
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
