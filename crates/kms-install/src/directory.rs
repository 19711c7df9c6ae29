//! Writes the files of an installation into a new directory.

use std::{
    fs, io,
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use crate::files::File;

const DIRECTORY_MODE: u32 = 0o750;

/// Why the files were not written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error("{} has files; nothing is overwritten", .0.display())]
    NotEmpty(PathBuf),
    #[error("cannot write {}", path.display())]
    Failed {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Writes the files. The directory must be absent or empty, and is made with mode 0750.
///
/// # Errors
/// [`WriteError`]; after `Failed` some of the files may exist.
pub fn write(directory: &Path, files: &[File]) -> Result<(), WriteError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| WriteError::Failed { path, source }
    };
    match fs::read_dir(directory) {
        Ok(entries) => {
            if entries.count() > 0 {
                return Err(WriteError::NotEmpty(directory.to_owned()));
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut builder = fs::DirBuilder::new();
            builder.mode(DIRECTORY_MODE).recursive(true);
            builder.create(directory).map_err(failed(directory))?;
        }
        Err(error) => return Err(failed(directory)(error)),
    }
    for file in files {
        let path = directory.join(file.name);
        let mut options = fs::OpenOptions::new();
        options.write(true).create_new(true).mode(file.mode);
        options
            .open(&path)
            .and_then(|mut open| {
                // The umask has cleared bits of the mode given at creation.
                open.set_permissions(fs::Permissions::from_mode(file.mode))?;
                open.write_all(file.content.as_bytes())?;
                open.sync_all()
            })
            .map_err(failed(&path))?;
    }
    Ok(())
}
