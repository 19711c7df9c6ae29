//! `cargo xtask bench`: compares the provider with direct Transit requests to a real OpenBao, and
//! its backup commands with `etcdutl`.

use std::{fs, io};

use crate::process::{self, Error};

/// Builds the released program and the benchmark, and runs the benchmark.
pub(crate) fn run(options: &[&str]) -> Result<(), Error> {
    check(options)?;
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
    let mut bench = process::cargo(&[&bench[..], &["--bench", "ratios", "--"], options].concat());
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

/// Checks the options before minutes of building.
fn check(mut options: &[&str]) -> Result<(), Error> {
    while let ["--quick", rest @ ..] | ["--output", "text" | "json", rest @ ..] = options {
        options = rest;
    }
    match options {
        [] => Ok(()),
        [option, ..] => Err(Error::Usage(format!(
            "unknown option of bench: {option}; it accepts --quick, --output text, --output json"
        ))),
    }
}
