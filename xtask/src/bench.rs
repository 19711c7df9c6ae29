//! `cargo xtask bench`: the provider beside direct Transit calls, on a real OpenBao, and its commands
//! on backups beside `etcdutl`.

use std::{fs, io};

use crate::process::{self, Error};

/// Builds the program as it is released, and what measures it, and runs that.
pub(crate) fn run(options: &[&str]) -> Result<(), Error> {
    check(options)?;
    // Standard output is the report's alone.
    process::run(process::cargo(&["xtask", "tools"]).stdout(io::stderr()))?;
    let release = ["build", "--release", "--locked", "--package", "provider"];
    process::run(&mut process::cargo(
        &[&release[..], &["--bin", "bao-kms-provider"]].concat(),
    ))?;
    // `cargo bench` builds a program of the same name with the features of the tests.
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

/// Before minutes of building, not after.
fn check(mut options: &[&str]) -> Result<(), Error> {
    while let ["--quick", rest @ ..] | ["--output", "text" | "json", rest @ ..] = options {
        options = rest;
    }
    match options {
        [] => Ok(()),
        [option, ..] => Err(Error::Usage(format!(
            "bench does not take {option}; only --quick, --output text, --output json"
        ))),
    }
}
