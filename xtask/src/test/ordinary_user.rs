//! Runs the program's tests with OpenBao as a user without privileges.
//!
//! The checkout may be unreadable for this user, for example in root's home. So the programs are
//! copied to a readable directory, and the user gets its own private directories.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use super::Reach;
use super::tally::{Server, Tally};
use crate::process::{self, Error, say};
use crate::tools::Tool;

/// Directory of the tests and their snapshots of messages.
const TESTS: &str = "crates/provider/tests/openbao";

/// Modules about stored data, requests, versions of the key and logins of a page alone: the user makes no difference to
/// them.
const SAME_FOR_EVERY_USER: [&str; 29] = [
    "answers",
    "batcher",
    "benchmark",
    "bulk",
    "clock",
    "corpus",
    "correlation",
    "discovery",
    "forms",
    "histories",
    "html",
    "legacy",
    "load",
    "login::pages",
    "login::spire",
    "metrics",
    "nodes",
    "outage",
    "pair",
    "prefix",
    "proxy",
    "requests",
    "rotation",
    "scan_etcd",
    "soak",
    "stalled_log",
    "traffic",
    "upgrade",
    "wire",
];

/// `nobody` on every Linux. No entry in the user database is needed.
const USER: u32 = 65534;

pub(super) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

/// Runs the test program `openbao` of the package `provider`, built by the previous run of the
/// suite.
pub(super) fn run_again(
    reach: Reach,
    openbao: &Path,
    tools: &[Tool],
    tally: &mut Tally,
) -> Result<(), Error> {
    let built = Built::find(reach)?;
    let stage = Stage::new()?;
    let tests = stage.program(&built.tests, "openbao-tests")?;

    let mut command = Command::new("setpriv");
    command
        .arg(format!("--reuid={USER}"))
        .arg(format!("--regid={USER}"))
        .args(["--clear-groups", "--"])
        .arg(tests)
        .args(SAME_FOR_EVERY_USER.map(|module| format!("--skip={module}::")))
        .env("BAO_BIN", stage.program(openbao, "bao")?)
        .env(
            "BAO_KMS_PROVIDER_BIN",
            stage.program(&built.program, "bao-kms-provider")?,
        )
        .env("INSTA_WORKSPACE_ROOT", stage.reviewed(Path::new(TESTS))?)
        .env("INSTA_UPDATE", "no")
        .env("TMPDIR", stage.private_dir("tmp")?)
        .env("XDG_RUNTIME_DIR", stage.private_dir("run")?)
        .env("HOME", stage.private_dir("home")?)
        .current_dir(stage.0.join("home"));
    // Besides OpenBao these tests need etcd and its commands, the OAuth issuer, cosign and SPIRE.
    let needed = |tool: &&Tool| {
        let prefixes = ["ETCD", "HYDRA", "COSIGN", "SPIRE_"];
        prefixes
            .iter()
            .any(|prefix| tool.variable.starts_with(prefix))
    };
    for tool in tools.iter().filter(needed) {
        command.env(tool.variable, stage.program(&tool.path, tool.variable)?);
    }

    say(&format!(
        "\nAgain as an ordinary user, uid {USER}: tests of the program with OpenBao"
    ));
    tally.enter(Some(Server::OpenBao));
    super::stream(command, tally).map_err(|failure| match failure {
        Error::Start { source, .. } if source.kind() == io::ErrorKind::NotFound => Error::Refused(
            "`setpriv` is missing, but the tests must also run as an ordinary user; \
             install it (Debian: apt-get install util-linux), or run all tests as an ordinary user"
                .into(),
        ),
        other => other,
    })
}

/// Programs built by cargo.
struct Built {
    tests: PathBuf,
    program: PathBuf,
}

impl Built {
    /// Uses the options of the suite: other options would select other features and build again.
    fn find(reach: Reach) -> Result<Self, Error> {
        let mut ask = super::suite(
            reach,
            &["--no-run", "--message-format=json-render-diagnostics"],
        );
        ask.stderr(Stdio::null());
        let output = ask.output();
        let output = output.map_err(|source| Error::Start {
            program: process::name(&ask),
            source,
        })?;

        let messages = String::from_utf8_lossy(&output.stdout);
        let artifacts: Vec<Value> = messages
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect();

        let executable = |kind: &str, name: &str| {
            let wanted = |artifact: &&Value| {
                let path = artifact["manifest_path"].as_str().unwrap_or_default();
                path.ends_with("/crates/provider/Cargo.toml")
                    && artifact["target"]["kind"][0] == kind
                    && artifact["target"]["name"] == name
                    && artifact["profile"]["test"] == (kind == "test")
            };
            let path = artifacts
                .iter()
                .find(wanted)
                .and_then(|found| found["executable"].as_str());
            path.map(PathBuf::from).ok_or_else(|| {
                Error::Refused(format!(
                    "cargo built no {kind} program `{name}` in the package `provider` to run as an \
                     ordinary user"
                ))
            })
        };
        Ok(Self {
            tests: executable("test", "openbao")?,
            program: executable("bin", "bao-kms-provider")?,
        })
    }
}

/// A directory readable by all users, removed at the end. Its name is short: Unix socket paths
/// below it are limited to 107 bytes.
struct Stage(PathBuf);

impl Stage {
    fn new() -> Result<Self, Error> {
        let path = std::env::temp_dir().join(format!("xtask-{}", std::process::id()));
        create_dir(&path, 0o755)?;
        Ok(Self(path))
    }

    fn program(&self, from: &Path, name: &str) -> Result<PathBuf, Error> {
        let to = self.0.join(name);
        fs::copy(from, &to).map_err(Error::file("copy a program to", &to))?;
        Ok(to)
    }

    /// Copies the snapshot files below `tests`, a path in the checkout, and returns the new root
    /// directory.
    fn reviewed(&self, tests: &Path) -> Result<&Path, Error> {
        let source = process::root().join(tests);
        for entry in fs::read_dir(&source).map_err(Error::file("list", &source))? {
            let name = entry.map_err(Error::file("list", &source))?.file_name();
            let from = source.join(&name);
            if from.is_dir() {
                self.reviewed(&tests.join(name))?;
            } else if from
                .extension()
                .is_some_and(|extension| extension == "snap")
            {
                let directory = self.0.join(tests);
                fs::create_dir_all(&directory).map_err(Error::file("create", &directory))?;
                let to = directory.join(name);
                fs::copy(&from, &to).map_err(Error::file("copy a snapshot to", &to))?;
            }
        }
        Ok(&self.0)
    }

    fn private_dir(&self, name: &str) -> Result<PathBuf, Error> {
        let path = self.0.join(name);
        create_dir(&path, 0o700)?;
        chown(&path, Some(USER), Some(USER)).map_err(Error::file("hand over", &path))?;
        Ok(path)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if fs::remove_dir_all(&self.0).is_err() {
            say(&format!("cannot remove {}", self.0.display()));
        }
    }
}

/// Fails if the path exists: it may belong to another user.
fn create_dir(path: &Path, mode: u32) -> Result<(), Error> {
    // The mode is set again after the creation, because the umask may have reduced it.
    DirBuilder::new()
        .mode(mode)
        .create(path)
        .and_then(|()| fs::set_permissions(path, Permissions::from_mode(mode)))
        .map_err(Error::file("create", path))
}
