//! Files and directories with exact modes.

use std::{
    fs::{self, DirBuilder, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::Path,
};

/// Creates a directory with exactly this mode, independent of the umask.
///
/// # Errors
/// When the path exists, its parent is missing, or the disk fails.
pub fn create_directory(path: &Path, mode: u32) -> io::Result<()> {
    // Private to this user until the mode is set.
    DirBuilder::new().mode(0o700).create(path)?;
    fs::set_permissions(path, Permissions::from_mode(mode))
}

/// Creates the directory and its missing parents with mode 0700.
pub(crate) fn private_directory(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        private_directory(parent)?;
    }
    create_directory(path, 0o700)
}

/// Writes a file with mode 0600.
pub(crate) fn private_file(path: &Path, content: &[u8]) -> io::Result<()> {
    write(path, content, 0o600)
}

/// Writes a file with mode 0644.
pub(crate) fn public_file(path: &Path, content: &[u8]) -> io::Result<()> {
    write(path, content, 0o644)
}

fn write(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(path)?;
    // An existing file keeps its mode, and the umask may have reduced the mode of a new one.
    file.set_permissions(Permissions::from_mode(mode))?;
    file.write_all(content)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn a_directory_has_its_mode_whatever_the_umask_and_its_parents_are_private() {
        let place = tempfile::tempdir().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
        // The usual umasks all clear the group's write bit.
        let open = place.path().join("open");
        create_directory(&open, 0o2770).unwrap();
        assert_eq!(mode(&open), 0o2770);
        assert!(create_directory(&open, 0o700).is_err(), "it is left alone");
        let deep = place.path().join("a/b");
        private_directory(&deep).unwrap();
        private_directory(&deep).unwrap();
        assert_eq!([mode(&deep), mode(&place.path().join("a"))], [0o700; 2]);
    }
}
