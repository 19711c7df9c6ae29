//! `cargo xtask bench`: compares the provider with direct Transit requests to a real OpenBao, and
//! its backup commands with `etcdutl`.

use std::path::Path;
use std::{fs, io};

use crate::process::{self, Error};

/// Builds the released program and the benchmark, and runs the benchmark.
pub(crate) fn run(options: &[&str]) -> Result<(), Error> {
    let options = checked(options)?;
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    // Standard output is only for the report.
    process::run(process::cargo(&["xtask", "tools"]).stdout(io::stderr()))?;

    let release = ["build", "--release", "--locked", "--package", "provider"];
    process::run(&mut process::cargo(
        &[&release[..], &["--bin", "bao-kms-provider"]].concat(),
    ))?;

    // `cargo bench` builds a program of the same name with the features of the tests, so keep a
    // copy.
    let built = process::root().join("target/release/bao-kms-provider");
    let measured = process::root().join("target/release/bao-kms-provider-measured");
    fs::copy(&built, &measured).map_err(Error::file("copy", &built))?;

    let bench = ["bench", "--locked", "--package", "provider"];
    let mut bench = process::cargo(&[&bench[..], &["--bench", "ratios", "--"], &options].concat());
    let bench = bench.env("BAO_KMS_PROVIDER_BIN", measured);
    for (variable, tool) in [
        ("BAO_BIN", "openbao/bao"),
        ("ETCD", "etcd/etcd"),
        ("ETCDCTL", "etcd/etcdctl"),
        ("ETCDUTL", "etcd/etcdutl"),
    ] {
        bench.env(variable, process::root().join("target/tools").join(tool));
    }
    process::run(bench)
}

/// Checks the options before minutes of building, and returns them with absolute paths: the
/// benchmark runs in another directory.
fn checked(options: &[&str]) -> Result<Vec<String>, Error> {
    let mut checked = Vec::new();
    let mut rest = options;
    loop {
        rest = match rest {
            [] => return Ok(checked),
            ["--quick", rest @ ..] => {
                checked.push("--quick".to_owned());
                rest
            }
            ["--output", form @ ("text" | "json"), rest @ ..] => {
                checked.extend(["--output", form].map(str::to_owned));
                rest
            }
            [option @ ("--only" | "--file"), value, rest @ ..] => {
                checked.extend([*option, value].map(str::to_owned));
                rest
            }
            [
                option @ ("--peer" | "--budget" | "--history" | "--chart"),
                path,
                rest @ ..,
            ] => {
                let absolute = std::path::absolute(path);
                let absolute = absolute.map_err(Error::file("find", Path::new(path)))?;
                if matches!(*option, "--peer" | "--budget") && !absolute.exists() {
                    return Err(Error::Usage(format!(
                        "{option} {path}: there is no such file"
                    )));
                }
                checked.extend([(*option).to_owned(), absolute.display().to_string()]);
                rest
            }
            [option, ..] => {
                return Err(Error::Usage(format!(
                    "unusable option of bench: {option}; it accepts --quick, --output text|json, \
                     --only PART, --file OBJECTSxBYTES, --peer PATH, --history FILE, --chart FILE, \
                     --budget FILE"
                )));
            }
        }
    }
}
