//! Go at work in our one Go module, which only the tests of a real kube-apiserver need.

use std::process::{Command, Stdio};

use crate::process;

/// The module, from the root of the workspace.
const MODULE: &str = "tests/control-plane";

/// Its go.mod.
pub(crate) const MOD: &str = include_str!("../../tests/control-plane/go.mod");

/// Its go.sum.
pub(crate) const SUM: &str = include_str!("../../tests/control-plane/go.sum");

/// Why Go cannot build the module, if it cannot. What Go says itself goes to standard error.
pub(crate) fn problem() -> Option<&'static str> {
    match command("go", &["list", "-m"])
        .stdout(Stdio::null())
        .status()
    {
        Ok(status) if status.success() => None,
        Ok(_) => Some("the `go` in PATH cannot read tests/control-plane (its words are above)"),
        Err(_) => Some("there is no `go` in PATH"),
    }
}

/// `go` or `gofmt`, to be started in the module.
pub(crate) fn command(program: &str, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    // A workspace file above the checkout would choose other versions.
    command
        .args(args)
        .current_dir(process::root().join(MODULE))
        .env("GOWORK", "off");
    command
}

/// What follows a word at the start of a line of go.mod: the version of a module, or of Go.
pub(crate) fn pinned(word: &str) -> &'static str {
    let mut lines = MOD.lines().map(str::split_whitespace);
    lines
        .find_map(|mut words| (words.next() == Some(word)).then(|| words.next())?)
        .unwrap_or_default()
}
