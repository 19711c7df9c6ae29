//! An earlier build of the program, for the long test of an upgrade under load.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Tool, directory, lock, remove_dir, rename, scratch};
use crate::process::{self, Error, say};

/// Commit of the earlier build; with a first release, that of the newest release.
const COMMIT: &str = "ff516535f5522d553e577439059f8a2d2935fbc7";
const PROGRAM: &str = "bao-kms-provider";

/// Builds the program of the earlier commit from the history, in `target/tools/earlier`.
pub(super) fn build() -> Result<Tool, Error> {
    let home = directory().join("earlier");
    let path = home.join(format!("{PROGRAM}-{COMMIT}"));
    let tool = |path: PathBuf| Tool {
        variable: "EARLIER_BIN",
        path,
    };
    fs::create_dir_all(&home).map_err(Error::file("create", &home))?;
    let _lock = lock(&home.join("lock"))?;
    if path.exists() {
        return Ok(tool(path));
    }
    say(&format!(
        "building the program of commit {COMMIT}, for the test of an upgrade"
    ));
    let partial = home.join("partial");
    scratch(&partial)?;
    unpack(&partial)?;
    let target = home.join("target");
    let mut cargo = process::cargo(&["build", "--locked", "--bin", PROGRAM]);
    cargo.current_dir(&partial).env("CARGO_TARGET_DIR", &target);
    process::run(&mut cargo)?;
    rename(&target.join("debug").join(PROGRAM), &path)?;
    remove_dir(&partial)?;
    remove_dir(&target)?;
    Ok(tool(path))
}

/// A shallow clone lacks the commit; git says so.
fn unpack(to: &Path) -> Result<(), Error> {
    let packed = to.join("source.tar");
    let mut archive = Command::new("git");
    archive.current_dir(process::root());
    process::run(archive.args(["archive", COMMIT, "--output"]).arg(&packed))?;
    let mut tar = Command::new("tar");
    process::run(tar.arg("-xf").arg(&packed).arg("-C").arg(to))
}
