//! `state.path` and the files beside it.

use std::{
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
};

/// `state.path`: an absolute path with a file name. Checkpoint and lock lie beside the document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatePath {
    directory: PathBuf,
    name: OsString,
}

/// Why a path is invalid as `state.path`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StatePathProblem {
    /// The path would depend on the working directory.
    #[error("must be an absolute path")]
    NotAbsolute,
    /// The path ends in `/`, `/.` or `..`.
    #[error("must end in a file name")]
    NoFileName,
}

impl StatePath {
    /// Checks the form only, without disk access.
    ///
    /// # Errors
    /// The first violated rule.
    pub fn parse(path: &Path) -> Result<Self, StatePathProblem> {
        if !path.is_absolute() {
            return Err(StatePathProblem::NotAbsolute);
        }
        match (path.parent(), path.file_name()) {
            // `Path` drops a trailing slash or dot, a sign of an intended directory.
            (Some(directory), Some(name))
                if directory.join(name).as_os_str() == path.as_os_str() =>
            {
                Ok(Self {
                    directory: directory.to_owned(),
                    name: name.to_owned(),
                })
            }
            _ => Err(StatePathProblem::NoFileName),
        }
    }

    /// The directory owned by the provider.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    #[must_use]
    pub fn document(&self) -> PathBuf {
        self.directory.join(self.document_name())
    }

    #[must_use]
    pub fn checkpoint(&self) -> PathBuf {
        self.directory.join(self.checkpoint_name())
    }

    /// Path of the writer's lock file.
    #[must_use]
    pub fn lock(&self) -> PathBuf {
        self.directory.join(self.lock_name())
    }

    pub(super) fn document_name(&self) -> &OsStr {
        &self.name
    }

    pub(super) fn checkpoint_name(&self) -> OsString {
        self.beside(".checkpoint")
    }

    pub(super) fn lock_name(&self) -> OsString {
        self.beside(".lock")
    }

    fn beside(&self, suffix: &str) -> OsString {
        let mut name = self.name.clone();
        name.push(suffix);
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_path_is_absolute_and_ends_in_a_file_name() {
        let path = StatePath::parse(Path::new("/var/lib/kms/state.json")).unwrap();
        assert_eq!(path.document(), Path::new("/var/lib/kms/state.json"));
        assert_eq!(
            path.checkpoint(),
            Path::new("/var/lib/kms/state.json.checkpoint")
        );
        assert_eq!(path.lock_name(), "state.json.lock");

        for (bad, problem) in [
            ("", StatePathProblem::NotAbsolute),
            ("state.json", StatePathProblem::NotAbsolute),
            ("/", StatePathProblem::NoFileName),
            ("/var/lib/", StatePathProblem::NoFileName),
            ("/var/lib/.", StatePathProblem::NoFileName),
            ("/var/lib/..", StatePathProblem::NoFileName),
        ] {
            assert_eq!(StatePath::parse(Path::new(bad)), Err(problem), "{bad:?}");
        }
    }
}
