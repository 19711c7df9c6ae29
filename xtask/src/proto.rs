//! `cargo xtask proto`: the committed code of the KMS v2 service, generated from its `.proto` file.

use crate::process::{self, Error};

/// Generates the code, or with `--check` in `options` compares it with the committed file.
///
/// The work is done by the program `codegen` of this package, which alone needs the protobuf
/// compiler, so that every other command starts without waiting for it to be built.
pub(crate) fn run(options: &[&str]) -> Result<(), Error> {
    let program = [
        "run",
        "--locked",
        "--package",
        "xtask",
        "--features",
        "codegen",
    ];
    let arguments = ["--bin", "codegen", "--"];
    process::run(&mut process::cargo(
        &[&program[..], &arguments, options].concat(),
    ))
}
