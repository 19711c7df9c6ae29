//! cosign, which verifies signatures and statements of this project.

use std::path::PathBuf;

use crate::daemon;

/// Path of the program.
///
/// # Panics
/// When it is missing.
#[must_use]
pub fn cosign() -> PathBuf {
    let install = "cargo xtask test --kubernetes --long";
    daemon::program("COSIGN", "kubernetes/cosign", install)
}
