//! Packages and images, installed and run as on a host: `cargo xtask test --packages`.
//!
//! They contain the program of this test run, or are the artifacts in the directory `DIST`, as
//! `cargo xtask dist` makes them. Each installation has a root of its own; nothing outside of it is
//! changed. The tests run as root and need Debian's dpkg, lintian, rpm, rpmlint, umoci, containerd and skopeo.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "functions that only tests call may fail like tests"
)]

mod archive;
mod deb;
mod image;
mod long;
mod pages;
mod release;
mod root;
mod rpm;

use std::{
    env,
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::LazyLock,
};

use tempfile::TempDir;

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// This machine in the names of artifacts.
const ARCH: &str = if cfg!(target_arch = "aarch64") {
    "arm64"
} else {
    "amd64"
};

/// The directory of the artifacts, signed with a key whose public part is beside it, with the suffix
/// `.pub`.
static DIST: LazyLock<PathBuf> = LazyLock::new(|| {
    if let Some(ready) = env::var_os("DIST") {
        return ready.into();
    }
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("dist");
    let program = assert_cmd::cargo::cargo_bin("bao-kms-provider");
    dist(&["--program".as_ref(), program.as_os_str()], &out);
    out
});

/// `cargo xtask dist` into `out`, with a statement of provenance and a signature.
fn dist(options: &[&OsStr], out: &Path) {
    let keys = TempDir::new().unwrap();
    let key = keys.path().join("key.pem");
    let mut generate = Command::new("openssl");
    generate.args(["genpkey", "-algorithm", "EC", "-pkeyopt"]);
    succeed(generate.args(["ec_paramgen_curve:P-256", "-out"]).arg(&key));
    let mut public = Command::new("openssl");
    public.args(["pkey", "-pubout", "-in"]).arg(&key);
    succeed(public.arg("-out").arg(out.with_extension("pub")));

    let mut make = repository(env!("CARGO"));
    make.args(["xtask", "dist", "--builder", BUILDER, "--sign-key"]);
    succeed(make.arg(&key).args(options).arg("--out").arg(out));
}

const BUILDER: &str = "https://builder.test/one";

/// A published file for this machine: `name` begins after the version.
fn artifact(name: &str) -> PathBuf {
    let name = name.replace("ARCH", ARCH);
    DIST.join(format!("bao-kms-provider_{VERSION}_{name}"))
}

/// A command in the root of the repository.
fn repository(program: &str) -> Command {
    let mut command = Command::new(program);
    command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."));
    command
}

/// Standard output of a successful command.
#[track_caller]
fn succeed(command: &mut Command) -> String {
    let output = match command.output() {
        Ok(output) => output,
        Err(error) => panic!("{command:?}: {error}; is it installed?"),
    };
    assert!(output.status.success(), "{command:?}: {}", said(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// Both streams.
fn said(output: &Output) -> String {
    let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    format!("{out}{err}")
}
