//! `cargo xtask lint`: everything that is checked without running the program.

use std::process::{Command, Stdio};

use crate::go;
use crate::process::{self, Error, say};
use crate::proto;

/// Crates that must not be in the tree: TLS and cryptography come from one library, aws-lc-rs.
const BANNED: [&str; 2] = ["ring", "openssl-sys"];

/// A name and what to run.
type Check = (&'static str, fn() -> Result<(), Error>);

/// Runs every check, also after one has failed, and names the failed ones at the end.
pub(crate) fn run() -> Result<(), Error> {
    let checks: [Check; 9] = [
        ("format", format),
        ("clippy", clippy),
        ("fuzz targets", fuzz_targets),
        ("documentation", documentation),
        ("licences, bans and sources", || {
            deny(&["licenses", "bans", "sources"])
        }),
        ("advisories", || deny(&["advisories"])),
        ("banned crates", banned_crates),
        ("generated code", || proto::run(&["--check"])),
        ("Go", go_programs),
    ];
    let mut failed = Vec::new();
    for (name, check) in checks {
        say(&format!("\n== {name}"));
        if let Err(failure) = check() {
            say(&failure.to_string());
            failed.push(name);
        }
    }
    if failed.is_empty() {
        say("\nlint: all is well");
        return Ok(());
    }
    Err(Error::Refused(format!(
        "lint failed: {}",
        failed.join(", ")
    )))
}

fn format() -> Result<(), Error> {
    process::run(&mut process::cargo(&["fmt", "--all", "--check"]))
}

/// All features are one: the code generator of this package.
fn clippy() -> Result<(), Error> {
    let what = [
        "clippy",
        "--workspace",
        "--all-targets",
        "--all-features",
        "--locked",
    ];
    process::run(&mut process::cargo(
        &[&what[..], &["--", "-D", "warnings"]].concat(),
    ))
}

/// They are a workspace of their own, and would fall behind the code unseen.
fn fuzz_targets() -> Result<(), Error> {
    let manifest = ["--manifest-path", "fuzz/Cargo.toml"];
    let format = [&["fmt"], &manifest[..], &["--check"]].concat();
    process::run(&mut process::cargo(&format))?;
    // What the other checks have compiled is used again.
    let options = ["--target-dir", "target", "--locked", "--", "-D", "warnings"];
    let clippy = [&["clippy"], &manifest[..], &options].concat();
    // Nothing is linked, so the fuzzer itself, which is C++, is not needed.
    process::run(process::cargo(&clippy).env("CUSTOM_LIBFUZZER_PATH", "none/libfuzzer.a"))
}

fn documentation() -> Result<(), Error> {
    let what = [
        "doc",
        "--workspace",
        "--no-deps",
        "--document-private-items",
        "--locked",
    ];
    process::run(process::cargo(&what).env("RUSTDOCFLAGS", "-D warnings"))
}

/// The programs of ours that only the tests of a real kube-apiserver need.
fn go_programs() -> Result<(), Error> {
    if let Some(problem) = go::problem() {
        say(&format!("NOT RUN (gofmt, go vet): {problem}"));
        return Ok(());
    }
    process::run(&mut go::command("go", &["vet", "./..."]))?;
    let misformatted = output(&mut go::command("gofmt", &["-l", "."]))?;
    match misformatted.trim() {
        "" => Ok(()),
        files => Err(Error::Refused(format!(
            "`gofmt -w` would change, in tests/control-plane: {files}"
        ))),
    }
}

/// The rules of deny.toml. Advisories are a check of their own, because they alone need the
/// network.
fn deny(rules: &[&str]) -> Result<(), Error> {
    let mut version = process::cargo(&["deny", "--version"]);
    let installed = version.stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !installed.is_ok_and(|status| status.success()) {
        say(&format!(
            "NOT RUN ({}): cargo-deny is not installed; get it with",
            rules.join(", ")
        ));
        say("  cargo install --locked cargo-deny@0.20.2");
        return Ok(());
    }
    process::run(&mut process::cargo(
        &[&["deny", "--locked", "check"], rules].concat(),
    ))
}

/// Holds without cargo-deny too, for the suite's claim about cryptography rests on it.
fn banned_crates() -> Result<(), Error> {
    let what = [
        "tree",
        "--workspace",
        "--all-features",
        "--locked",
        "--edges",
        "all",
    ];
    let mut tree = process::cargo(&[&what[..], &["--prefix", "none", "--format", "{p}"]].concat());
    let names = output(&mut tree)?;
    let found = BANNED
        .iter()
        .find(|banned| names.lines().any(|name| is(name, banned)));
    match found {
        None => Ok(()),
        Some(crate_name) => Err(Error::Refused(format!(
            "`{crate_name}` is in the dependency tree, which holds one library for cryptography; \
             `cargo tree --workspace --invert {crate_name}` shows who brings it"
        ))),
    }
}

/// What the program prints.
fn output(command: &mut Command) -> Result<String, Error> {
    let program = process::name(command);
    let output = command.stderr(Stdio::inherit()).output();
    let output = output.map_err(|source| Error::Start {
        program: program.clone(),
        source,
    })?;
    if !output.status.success() {
        return Err(Error::Failed {
            program,
            status: output.status,
        });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether a line like `ring v0.17.14 (proc-macro)` names that crate.
fn is(package: &str, crate_name: &str) -> bool {
    package.split(' ').next() == Some(crate_name)
}
