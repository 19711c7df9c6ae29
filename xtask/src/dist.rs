//! `cargo xtask dist`: everything that a release publishes, in `target/dist`.
//!
//! The same commit is to give the same bytes on every run with the same tools: all times are that of the
//! commit, and paths of the building machine are replaced. `--verify-reproducible` proves it.

mod archive;
mod contents;
mod image;
mod packages;
mod program;
mod provenance;
mod reproducible;
mod sbom;
mod signature;

use std::fs::{self, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use sha2::{Digest as _, Sha256};

use crate::process::{self, Error, say};
use contents::Entry;
use program::Programs;

/// Name of the program and of its packages.
const NAME: &str = "bao-kms-provider";

/// An architecture, by its names.
struct Arch {
    /// For Debian, OCI and file names.
    name: &'static str,
    /// For Rust and RPM.
    machine: &'static str,
    /// Path of glibc's dynamic linker.
    loader: &'static str,
}

const ARCHES: [Arch; 2] = [
    Arch {
        name: "amd64",
        machine: "x86_64",
        loader: "lib64/ld-linux-x86-64.so.2",
    },
    Arch {
        name: "arm64",
        machine: "aarch64",
        loader: "lib/ld-linux-aarch64.so.1",
    },
];

impl Arch {
    fn is_host(&self) -> bool {
        self.machine == std::env::consts::ARCH
    }
}

/// Version and commit of a release.
struct Release {
    version: String,
    commit: String,
    /// Whether tracked files differ from the commit.
    dirty: bool,
    /// Time of the commit, in seconds and in RFC 3339.
    epoch: u64,
    date: String,
    /// Level of compression for large files, from 1 to 9.
    level: u8,
}

impl Release {
    fn current(level: u8) -> Result<Self, Error> {
        let git = |args: &[&str]| {
            let mut git = Command::new("git");
            git.args(args).current_dir(process::root());
            process::output(git.env("TZ", "UTC")).map(|text| text.trim().to_owned())
        };
        let epoch = git(&["log", "-1", "--format=%ct"])?;
        let date = "--date=format-local:%Y-%m-%dT%H:%M:%SZ";
        Ok(Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: git(&["rev-parse", "HEAD"])?,
            dirty: !git(&["status", "--porcelain", "--untracked-files=no"])?.is_empty(),
            epoch: epoch
                .parse()
                .map_err(|_| Error::Refused(format!("git gave an invalid time: {epoch}")))?,
            date: git(&["log", "-1", "--format=%cd", date])?,
            level,
        })
    }

    /// `1.0.0-rc.1` comes before `1.0.0` in Debian and RPM if it is written with a tilde.
    fn package_version(&self) -> String {
        self.version.replacen('-', "~", 1)
    }

    /// Name of a published file.
    fn file_name(&self, kind: &str, arch: &Arch, suffix: &str) -> String {
        format!("{NAME}_{}{kind}_linux_{}{suffix}", self.version, arch.name)
    }
}

/// Options of the command.
struct Options {
    arches: Vec<&'static Arch>,
    packages: bool,
    images: bool,
    /// A ready program of this machine, linked to glibc.
    program: Option<PathBuf>,
    out: PathBuf,
    /// URI of the machine that builds, for the statement of provenance.
    builder: Option<String>,
    /// PEM file of the publisher's key.
    sign_key: Option<PathBuf>,
    verify_reproducible: bool,
}

impl Options {
    fn parse(mut args: &[&str]) -> Result<Self, Error> {
        let mut options = Self {
            arches: ARCHES.iter().filter(|arch| arch.is_host()).collect(),
            packages: true,
            images: true,
            program: None,
            out: process::root().join("target/dist"),
            builder: None,
            sign_key: None,
            verify_reproducible: false,
        };
        loop {
            args = match args {
                [] => return Ok(options),
                ["--arch", "all", rest @ ..] => {
                    options.arches = ARCHES.iter().collect();
                    rest
                }
                ["--arch", name, rest @ ..] => {
                    options.arches = ARCHES.iter().filter(|arch| arch.name == *name).collect();
                    rest
                }
                ["--only", "packages", rest @ ..] => {
                    options.images = false;
                    rest
                }
                ["--only", "images", rest @ ..] => {
                    options.packages = false;
                    rest
                }
                ["--program", path, rest @ ..] => {
                    options.program = Some(path.into());
                    rest
                }
                ["--out", path, rest @ ..] => {
                    options.out = path.into();
                    rest
                }
                ["--builder", uri, rest @ ..] => {
                    options.builder = Some((*uri).to_owned());
                    rest
                }
                ["--sign-key", path, rest @ ..] => {
                    options.sign_key = Some(path.into());
                    rest
                }
                ["--verify-reproducible", rest @ ..] => {
                    options.verify_reproducible = true;
                    rest
                }
                [other, ..] => {
                    return Err(Error::Usage(format!("invalid option of dist: {other}")));
                }
            };
            if options.arches.is_empty() || !(options.packages || options.images) {
                return Err(Error::Usage(
                    "the options of dist leave nothing to make".into(),
                ));
            }
        }
    }
}

/// The digests of all files.
const SUMS: &str = "SHA256SUMS";

/// Builds the programs, the packages and images with them, then their descriptions and `SHA256SUMS`.
pub(crate) fn run(args: &[&str]) -> Result<(), Error> {
    let options = Options::parse(args)?;
    let key = options.sign_key.as_deref();
    let key = key.map(signature::Key::new).transpose()?;
    if options.verify_reproducible {
        reproducible::make(args, &options)?;
        return key.map_or(Ok(()), |key| key.sign(&options.out));
    }
    // A program for tests is large, and its packages are short-lived.
    let release = Release::current(if options.program.is_some() { 1 } else { 9 })?;
    if release.dirty {
        say("tracked files differ from the commit: the programs report `dirty: true`");
    }

    let programs = match &options.program {
        Some(program) => vec![Programs::given(program)?],
        None => Programs::build(&options.arches, options.images, &release)?,
    };

    let out = &options.out;
    empty(out)?;
    let out = &out.canonicalize().map_err(Error::file("find", out))?;
    let work = out.join("work");
    if options.packages {
        let texts = contents::Texts::print(&programs, &work)?;
        for of_arch in &programs {
            empty(&work)?;
            packages::make(&release, of_arch, &texts, out, &work)?;
        }
    }
    if options.images {
        image::make(&release, &programs, out)?;
    }
    for program in programs.iter().flat_map(|it| it.published(&release)) {
        write(&out.join(&program.name), &read(program.path)?, 0o755)?;
        // The tool for it takes minutes to compile, which tests of packages do without.
        if options.program.is_none() {
            sbom::make(&release, &program, out, &work)?;
        }
    }
    fs::remove_dir_all(&work).or_else(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Ok(()),
        _ => Err(Error::file("remove", &work)(error)),
    })?;
    if let Some(builder) = &options.builder {
        provenance::make(&release, &options, builder, out)?;
    }
    let lines = digests(out)?.into_iter();
    let lines = lines.map(|(name, digest)| format!("{digest}  {name}\n"));
    let text: String = lines.collect();
    say(&text);
    // In the form of `sha256sum --check`.
    write(&out.join(SUMS), text.as_bytes(), 0o644)?;
    key.map_or(Ok(()), |key| key.sign(out))
}

/// Name and digest of each file, ordered by name.
fn digests(out: &Path) -> Result<Vec<(String, String)>, Error> {
    let mut found = Vec::new();
    for file in fs::read_dir(out).map_err(Error::file("read", out))? {
        let file = file.map_err(Error::file("read", out))?;
        let name = file.file_name().to_string_lossy().into_owned();
        found.push((name, sha256(&read(&file.path())?)));
    }
    found.sort();
    Ok(found)
}

/// Without name and time, so that equal content gives equal bytes.
fn gzip(level: u8, bytes: Vec<u8>) -> Result<Vec<u8>, Error> {
    let start = |source| Error::Start {
        program: "gzip".into(),
        source,
    };
    let mut gzip = Command::new("gzip");
    gzip.arg(format!("-{}n", level))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut child = gzip.spawn().map_err(start)?;
    // Writes while this thread reads: both pipes are shorter than a program.
    let input = child.stdin.take();
    let writer = thread::spawn(move || input.map_or(Ok(()), |mut pipe| pipe.write_all(&bytes)));
    let output = child.wait_with_output().map_err(start)?;
    if !matches!(writer.join(), Ok(Ok(()))) || !output.status.success() {
        return Err(Error::Failed {
            program: "gzip".into(),
            status: output.status,
        });
    }
    Ok(output.stdout)
}

/// Hexadecimal SHA-256.
fn sha256(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn empty(directory: &Path) -> Result<(), Error> {
    if directory.exists() {
        fs::remove_dir_all(directory).map_err(Error::file("remove", directory))?;
    }
    fs::create_dir_all(directory).map_err(Error::file("create", directory))?;
    set_mode(directory, 0o755)
}

/// Sets a mode that is independent of the umask.
fn set_mode(path: &Path, mode: u32) -> Result<(), Error> {
    fs::set_permissions(path, Permissions::from_mode(mode))
        .map_err(Error::file("set the mode of", path))
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(Error::file("read", path))
}

fn read_text(path: &str) -> Result<String, Error> {
    let path = process::root().join(path);
    fs::read_to_string(&path).map_err(Error::file("read", &path))
}

#[expect(
    clippy::disallowed_methods,
    reason = "a file lost in a power failure is made again"
)]
fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), Error> {
    fs::write(path, bytes).map_err(Error::file("write", path))?;
    set_mode(path, mode)
}
