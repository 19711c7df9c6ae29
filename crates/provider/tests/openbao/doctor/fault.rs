//! One fault: a node to seed it on, and what `doctor` must say of it.

use std::{
    os::unix::fs::{chown, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use kms_node::advice::Cause;
use rustix::process::geteuid;
use serde_json::Value;
use testkit::{
    openbao::{OpenBao, binary, shared_openbao},
    runbook::terminal::Terminal,
};

use crate::{
    node::{Finished, Node, QUIET, program},
    upkeep::stopped_at,
};

/// A user that has no files of its own.
pub(super) const SERVICE_USER: u32 = 65534;

/// A node to break.
pub(super) struct Patient {
    pub(super) node: Node,
    /// Whether everything belongs to the service user.
    given: bool,
    /// For `--encryption-config`.
    pub(super) encryption_config: Option<PathBuf>,
    /// Replaces `NAME` in printed commands: the policy of the role, unless a test sets another.
    pub(super) name: String,
    /// Root token and unseal key, if the node has a server of its own.
    secrets: Option<[String; 2]>,
}

/// The first failure that `doctor` named.
pub(super) struct Diagnosis {
    /// All steps in one text.
    remedy: String,
    /// Printed commands of the steps.
    commands: Vec<String>,
    warnings: String,
}

/// Programs that a test has no counterpart of.
const SERVICE_MANAGER: [&str; 2] = ["systemctl", "journalctl"];

impl Patient {
    /// A new node, which `doctor` lets pass.
    pub(super) async fn new() -> Self {
        Self::of(Node::new(QUIET).await)
    }

    /// A new node with a server of its own.
    pub(super) async fn on(server: &OpenBao) -> Self {
        Self {
            secrets: Some(secrets(server)),
            ..Self::of(Node::on(server, QUIET).await)
        }
    }

    /// A node that was stopped after it had followed the key to this version.
    pub(super) async fn stopped_at(version: u64) -> Self {
        Self::of(stopped_at(version).await.0)
    }

    pub(super) fn of(node: Node) -> Self {
        Self {
            name: node.tenant.policy.clone(),
            node,
            given: false,
            encryption_config: None,
            secrets: None,
        }
    }

    /// If root runs the test, gives everything to the service user, as on a real node.
    pub(super) fn give_to_service_user(&mut self) {
        if geteuid().is_root() {
            let directory = self.node.state_dir();
            give(directory.parent().unwrap());
            give(self.node.tenant.path());
            give(self.node.sockets.path());
            self.configure("/server/socketGroup", SERVICE_USER.to_string());
            self.given = true;
        }
    }

    /// The configuration that every later run uses.
    pub(super) fn configure(&mut self, pointer: &str, value: impl Into<Value>) {
        *self.node.config.pointer_mut(pointer).unwrap() = value.into();
    }

    /// Requires that `doctor` names this check first, with these words and exit code.
    #[track_caller]
    pub(super) fn shows(&self, code: i32, id: &str, words: &str) -> Diagnosis {
        self.shows_after(|_| {}, code, id, words)
    }

    /// As [`Self::shows`], with a change just before the run: the configuration is written anew
    /// for each.
    #[track_caller]
    pub(super) fn shows_after(
        &self,
        seed: impl FnOnce(&Path),
        code: i32,
        id: &str,
        words: &str,
    ) -> Diagnosis {
        let report = self.doctor(&["--output", "json"], seed);
        assert_eq!(report.err, "");
        let shown: Value = serde_json::from_str(&report.out).unwrap();
        assert_eq!(shown["firstFailure"], id, "{}", report.out);
        assert_eq!(report.code, Some(code), "{}", report.out);
        assert_eq!(shown["exitCode"], code);
        let checks = shown["checks"].as_array().unwrap();
        let check = checks.iter().find(|check| check["status"] == "fail");
        let check = check.unwrap();
        let text = |member: &str| match check[member].as_str() {
            Some(text) => text.to_owned(),
            None => panic!("{member} is missing: {check:#}"),
        };
        let message = text("message");
        assert!(message.contains(words), "{words:?} is missing: {message}");
        for member in ["impact", "impactClass"] {
            assert_ne!(text(member), "");
        }
        // Each failure has a cause, whose steps are those of the result.
        assert!(Cause::named(shown["cause"].as_str().unwrap()).is_some());
        assert_eq!(shown["data"]["meaning"], check["impact"]);
        assert_eq!(shown["nextSteps"], check["nextSteps"]);
        let steps = check["nextSteps"].as_array().unwrap().iter();
        let commands = steps.filter_map(|step| Some(step["command"].as_str()?.to_owned()));
        Diagnosis {
            remedy: text("remediation"),
            commands: commands.collect(),
            warnings: shown["warnings"].to_string(),
        }
    }

    /// Requires that nothing is wrong any more.
    #[track_caller]
    pub(super) fn is_well(&self) {
        let report = self.doctor(&[], |_| {});
        assert_eq!(report.code, Some(0), "{}", report.out);
    }

    fn doctor(&self, options: &[&str], seed: impl FnOnce(&Path)) -> Finished {
        let mut command = self.node.program(&[&["doctor"], options].concat());
        if let Some(file) = &self.encryption_config {
            command.arg("--encryption-config").arg(file);
        }
        let config_file = self.node.state_dir().with_file_name("config.yaml");
        if self.given {
            give(&config_file);
        }
        seed(&config_file);
        command.output().unwrap().into()
    }
}

impl Diagnosis {
    /// Requires that the remedy says this, which the test is about to do.
    #[track_caller]
    pub(super) fn says(&self, words: &str) -> &Self {
        let Self { remedy, .. } = self;
        assert!(remedy.contains(words), "{words:?} is missing: {remedy}");
        self
    }

    /// Requires this warning.
    #[track_caller]
    pub(super) fn warns(&self, words: &str) -> &Self {
        let Self { warnings, .. } = self;
        assert!(warnings.contains(words), "{words:?} is missing: {warnings}");
        self
    }

    /// Runs the printed commands, then requires that nothing is wrong any more.
    pub(super) async fn carried_out_cures(&self, patient: &Patient) {
        self.carry_out(patient).await;
        patient.is_well();
    }

    /// Runs the printed commands in a shell, as an administrator, and requires that each succeeds.
    pub(super) async fn carry_out(&self, patient: &Patient) {
        let shared = secrets(shared_openbao().await);
        let [token, unseal_key] = patient.secrets.as_ref().unwrap_or(&shared);
        let programs = tempfile::tempdir().unwrap();
        for (name, path) in [
            ("bao-kms-provider", program().get_program().into()),
            ("bao", binary().path().to_owned()),
        ] {
            symlink(path.canonicalize().unwrap(), programs.path().join(name)).unwrap();
        }
        let path = format!("{}:/usr/bin:/bin", programs.path().display());

        let runs = |command: &&String| {
            let word = command.split(' ').next().unwrap();
            !SERVICE_MANAGER.contains(&word)
        };
        let commands: Vec<_> = self.commands.iter().filter(runs).collect();
        assert!(!commands.is_empty(), "no command: {}", self.remedy);
        for command in commands {
            let terminal = Terminal::with(unseal_key);
            let mut shell = Command::new("/bin/sh");
            patient.node.sockets.set_environment(&mut shell);
            shell.args(["-c", &command.replace("NAME", &patient.name)]);
            shell.env("PATH", &path).env("BAO_TOKEN", token);
            let done = shell.stdin(terminal.stdin()).output().unwrap();
            assert!(done.status.success(), "{command}: {done:?}");
        }
    }
}

fn secrets(server: &OpenBao) -> [String; 2] {
    let secrets = server.secrets();
    [secrets.root_token.expose(), secrets.unseal_key.expose()].map(str::to_owned)
}

fn give(path: &Path) {
    chown(path, Some(SERVICE_USER), Some(SERVICE_USER)).unwrap();
    if path.is_dir() {
        for entry in path.read_dir().unwrap() {
            give(&entry.unwrap().path());
        }
    }
}
