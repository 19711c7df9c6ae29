//! Runs Go in the only Go module of this project, for the tests with a real kube-apiserver.

use std::process::{Command, Stdio};

use crate::process;

/// Path of the module, from the root of the workspace.
const MODULE: &str = "tests/control-plane";

/// Its go.mod.
pub(crate) const MOD: &str = include_str!("../../tests/control-plane/go.mod");

/// Its go.sum.
pub(crate) const SUM: &str = include_str!("../../tests/control-plane/go.sum");

/// The reason if Go cannot read the module. Go's own message goes to standard error.
pub(crate) fn problem() -> Option<&'static str> {
    match command("go", &["list", "-m"])
        .stdout(Stdio::null())
        .status()
    {
        Ok(status) if status.success() => None,
        Ok(_) => Some("the `go` in PATH cannot read tests/control-plane (its message is above)"),
        Err(_) => Some("`go` is missing in PATH"),
    }
}

/// `go` or `gofmt`, with the module as working directory.
pub(crate) fn command(program: &str, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    // A go.work file above the checkout would select other versions.
    command
        .args(args)
        .current_dir(process::root().join(MODULE))
        .env("GOWORK", "off");
    command
}

/// The version after a word at the start of a line of go.mod: that of a module, or of Go.
pub(crate) fn pinned(word: &str) -> &'static str {
    let mut lines = MOD.lines().map(str::split_whitespace);
    lines
        .find_map(|mut words| (words.next() == Some(word)).then(|| words.next())?)
        .unwrap_or_default()
}
