//! `cargo xtask proto`: the committed code of the gRPC services, generated from their `.proto` files.

use crate::process::{self, Error};

/// Generates the code, or with `--check` in `options` compares it with the committed files.
///
/// The program `codegen` of this package does the work. Only it needs the protobuf compiler, so
/// that other commands start without building the compiler.
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
