//! Zig as C compiler and linker for other machines and older releases of glibc.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use super::wheel::python_with_pip;
use super::{directory, lock, remove_dir, rename, write};
use crate::process::{self, Error, say};

const PACKAGES: &str = include_str!("zig.txt");

/// Installs the pinned Zig and cargo-zigbuild with `pip`, which checks their digests, and returns
/// their directory.
pub(crate) fn install() -> Result<PathBuf, Error> {
    let (tools, home) = (directory(), directory().join("zig"));
    fs::create_dir_all(&tools).map_err(Error::file("create", &tools))?;
    let _lock = lock(&tools.join(".lock"))?;
    let stamp = home.join("stamp");
    if fs::read_to_string(&stamp).is_ok_and(|text| text == PACKAGES) {
        return Ok(home);
    }

    say("downloading Zig from PyPI");
    let partial = tools.join("partial-zig");
    for old in [&partial, &home] {
        remove_dir(old)?;
    }
    let mut pip = Command::new(python_with_pip("Zig", &tools)?);
    pip.args(["-m", "pip", "--disable-pip-version-check", "--no-input"])
        .args(["install", "--quiet", "--no-deps", "--require-hashes"])
        .args(["--only-binary", ":all:", "--target"])
        .arg(&partial)
        .arg("--requirement")
        .arg(process::root().join("xtask/src/tools/zig.txt"));
    process::run(&mut pip)?;
    rename(&partial, &home)?;
    write(PACKAGES, &tools, &stamp)?;
    Ok(home)
}
