//! `cargo xtask demo`: shows the program's main task on a real OpenBao.

use crate::process::{self, Error};
use crate::tools;

/// Builds the program that the tests use and runs its lab mode once, with the pinned OpenBao. A
/// release takes twice the time to build.
///
/// `options` go to `bao-kms-provider dev --once`.
pub(crate) fn run(options: &[&str]) -> Result<(), Error> {
    let openbao = tools::openbao()?;
    let build = ["run", "--locked", "--package", "provider"];
    let program = ["--bin", "bao-kms-provider", "--", "dev", "--once"];
    let mut demo = process::cargo(&[&build[..], &program, options].concat());
    process::run(demo.env("BAO_BIN", openbao))
}
