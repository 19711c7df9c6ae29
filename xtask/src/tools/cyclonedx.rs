//! cargo-cyclonedx, the generator of bills of materials.

use std::fs;
use std::path::PathBuf;

use super::{directory, lock};
use crate::process::{self, Error, say};

const VERSION: &str = "0.5.9";

/// Compiles the pinned version with its own Cargo.lock once, and returns the program.
pub(crate) fn install() -> Result<PathBuf, Error> {
    let (tools, home) = (
        directory(),
        directory().join(format!("cyclonedx-{VERSION}")),
    );
    fs::create_dir_all(&tools).map_err(Error::file("create", &tools))?;
    let _lock = lock(&tools.join(".lock"))?;
    let program = home.join("bin/cargo-cyclonedx");
    if !program.exists() {
        say("compiling cargo-cyclonedx");
        let mut install = process::cargo(&["install", "--quiet", "--locked", "cargo-cyclonedx"]);
        install.args(["--version", VERSION, "--root"]).arg(&home);
        // Only a whole program arrives there.
        process::run(&mut install)?;
    }
    Ok(program)
}
