//! `cargo xtask lint`: all static checks.

use std::fs;
use std::process::Stdio;

use crate::circles;
use crate::go;
use crate::process::{self, Error, say};
use crate::prose;
use crate::proto;

/// Crates banned from the dependency tree: TLS and cryptography come only from aws-lc-rs.
const BANNED: [&str; 2] = ["ring", "openssl-sys"];

/// Name and function of a check.
type Check = (&'static str, fn() -> Result<(), Error>);

/// Runs every check, also after a failed one, and lists the failed ones at the end.
pub(crate) fn run() -> Result<(), Error> {
    let checks: [Check; 12] = [
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
        ("circular dependencies", circles::run),
        ("Go", go_programs),
        ("workflows", workflows),
        ("English", prose::run),
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
        say("\nlint: all checks passed");
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

/// The only feature is the code generator of this package.
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

/// The fuzz targets are a separate workspace, which the other checks skip.
fn fuzz_targets() -> Result<(), Error> {
    let manifest = ["--manifest-path", "fuzz/Cargo.toml"];
    let format = [&["fmt"], &manifest[..], &["--check"]].concat();
    process::run(&mut process::cargo(&format))?;
    // Reuses the dependencies compiled by the other checks.
    let options = ["--target-dir", "target", "--locked", "--", "-D", "warnings"];
    let clippy = [&["clippy"], &manifest[..], &options].concat();
    // Clippy does not link, so the C++ fuzzer is not needed.
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

/// Our Go programs for the tests with a real kube-apiserver.
fn go_programs() -> Result<(), Error> {
    if let Some(problem) = go::problem() {
        say(&format!("NOT RUN (gofmt, go vet): {problem}"));
        return Ok(());
    }
    process::run(&mut go::CONTROL_PLANE.command("go", &["vet", "./..."]))?;
    let misformatted = process::output(&mut go::CONTROL_PLANE.command("gofmt", &["-l", "."]))?;
    match misformatted.trim() {
        "" => Ok(()),
        files => Err(Error::Refused(format!(
            "run `gofmt -w` in tests/control-plane on: {files}"
        ))),
    }
}

/// Syntax and expressions of the workflows, and a full commit for each action.
fn workflows() -> Result<(), Error> {
    if let Some(problem) = go::problem() {
        say(&format!("NOT RUN (actionlint): {problem}"));
        return Ok(());
    }
    let directory = process::root().join(".github/workflows");
    let mut files = Vec::new();
    for file in fs::read_dir(&directory).map_err(Error::file("read", &directory))? {
        files.push(file.map_err(Error::file("read", &directory))?.path());
    }
    let mut actionlint = go::WORKFLOWS.command("go", &["tool", "actionlint"]);
    process::run(actionlint.args(&files))?;
    for file in &files {
        let text = fs::read_to_string(file).map_err(Error::file("read", file))?;
        let used = text.lines().filter_map(|line| line.split_once("uses: "));
        for (_, action) in used {
            let commit = action.split([' ', '#']).next().unwrap_or_default();
            let commit = commit.rsplit('@').next().unwrap_or_default();
            if commit.len() != 40 || !commit.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                return Err(Error::Refused(format!(
                    "{}: name the commit of the action: {action}",
                    file.display()
                )));
            }
        }
    }
    Ok(())
}

/// Rules of deny.toml. Advisories are a separate check: only they need the network.
fn deny(rules: &[&str]) -> Result<(), Error> {
    let mut version = process::cargo(&["deny", "--version"]);
    let installed = version.stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !installed.is_ok_and(|status| status.success()) {
        say(&format!(
            "NOT RUN ({}): cargo-deny is not installed; install it with",
            rules.join(", ")
        ));
        say("  cargo install --locked cargo-deny@0.20.2");
        return Ok(());
    }
    process::run(&mut process::cargo(
        &[&["deny", "--locked", "check"], rules].concat(),
    ))
}

/// Also runs without cargo-deny: the project guarantees one library for cryptography.
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
    let names = process::output(&mut tree)?;
    let found = BANNED
        .iter()
        .find(|banned| names.lines().any(|name| is(name, banned)));
    match found {
        None => Ok(()),
        Some(crate_name) => Err(Error::Refused(format!(
            "`{crate_name}` is in the dependency tree, but aws-lc-rs must be the only library for cryptography; \
             `cargo tree --workspace --invert {crate_name}` shows the dependents"
        ))),
    }
}

/// Whether a line like `ring v0.17.14 (proc-macro)` is for this crate.
fn is(package: &str, crate_name: &str) -> bool {
    package.split(' ').next() == Some(crate_name)
}
