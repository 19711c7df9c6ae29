//! Runs Go in the Go modules of this project: for the tests with a real kube-apiserver, OAuth issuer, SPIRE or cosign,
//! and for the linter of workflows.

use std::process::{Command, Stdio};

use crate::process;

/// A Go module of this project.
#[derive(PartialEq, Eq)]
pub(crate) struct Module {
    /// Path from the root of the workspace.
    pub(crate) path: &'static str,
    /// Its go.mod.
    pub(crate) manifest: &'static str,
    /// Its go.sum.
    pub(crate) sums: &'static str,
}

pub(crate) const CONTROL_PLANE: Module = Module {
    path: "tests/control-plane",
    manifest: include_str!("../../tests/control-plane/go.mod"),
    sums: include_str!("../../tests/control-plane/go.sum"),
};

/// The API server of an earlier release of Kubernetes.
pub(crate) const CONTROL_PLANE_EARLIER: Module = Module {
    path: "tests/control-plane-earlier",
    manifest: include_str!("../../tests/control-plane-earlier/go.mod"),
    sums: include_str!("../../tests/control-plane-earlier/go.sum"),
};

pub(crate) const ISSUER: Module = Module {
    path: "tests/issuer",
    manifest: include_str!("../../tests/issuer/go.mod"),
    sums: include_str!("../../tests/issuer/go.sum"),
};

pub(crate) const COSIGN: Module = Module {
    path: "tests/cosign",
    manifest: include_str!("../../tests/cosign/go.mod"),
    sums: include_str!("../../tests/cosign/go.sum"),
};

pub(crate) const WORKLOAD_API: Module = Module {
    path: "tests/workload-api",
    manifest: include_str!("../../tests/workload-api/go.mod"),
    sums: include_str!("../../tests/workload-api/go.sum"),
};

/// The linter of workflows.
pub(crate) const WORKFLOWS: Module = Module {
    path: "tests/workflows",
    manifest: include_str!("../../tests/workflows/go.mod"),
    sums: include_str!("../../tests/workflows/go.sum"),
};

/// The reason if Go cannot read the modules. Go's own message goes to standard error.
pub(crate) fn problem() -> Option<&'static str> {
    match CONTROL_PLANE
        .command("go", &["list", "-m"])
        .stdout(Stdio::null())
        .status()
    {
        Ok(status) if status.success() => None,
        Ok(_) => Some("the `go` in PATH cannot read tests/control-plane (its message is above)"),
        Err(_) => Some("`go` is missing in PATH"),
    }
}

impl Module {
    /// `go` or `gofmt`, with the module as working directory.
    pub(crate) fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        // A go.work file above the checkout would select other versions.
        command
            .args(args)
            .current_dir(process::root().join(self.path))
            .env("GOWORK", "off");
        command
    }

    /// The version after a word at the start of a line of go.mod: that of a module, or of Go.
    pub(crate) fn pinned(&self, word: &str) -> &'static str {
        let mut lines = self.manifest.lines().map(str::split_whitespace);
        lines
            .find_map(|mut words| (words.next() == Some(word)).then(|| words.next())?)
            .unwrap_or_default()
    }
}
