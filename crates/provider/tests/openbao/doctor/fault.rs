//! One fault: a node to seed it on, and what `doctor` must say of it.

use std::{
    os::unix::fs::chown,
    path::{Path, PathBuf},
    process::Command,
};

use rustix::process::geteuid;
use serde_json::{Value, json};
use testkit::openbao::{OpenBao, shared_openbao};

use crate::{
    node::{Finished, Node, QUIET},
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
}

/// What `doctor` said first.
pub(super) struct Diagnosis {
    /// What to do about it.
    pub(super) remedy: String,
}

impl Patient {
    /// A new node, which `doctor` lets pass.
    pub(super) async fn new() -> Self {
        Self::of(Node::new(QUIET).await)
    }

    /// A new node with a server of its own.
    pub(super) async fn on(server: &OpenBao) -> Self {
        Self::of(Node::on(server, QUIET).await)
    }

    /// A node that was stopped after it had followed the key to this version.
    pub(super) async fn stopped_at(version: u64) -> Self {
        Self::of(stopped_at(version).await.0)
    }

    pub(super) fn of(node: Node) -> Self {
        Self {
            node,
            given: false,
            encryption_config: None,
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
        Diagnosis {
            remedy: text("remediation"),
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
        let Self { remedy } = self;
        assert!(remedy.contains(words), "{words:?} is missing: {remedy}");
        self
    }

    /// Runs the commands of the remedy, then requires that nothing is wrong any more.
    pub(super) async fn carried_out_cures(&self, patient: &Patient) {
        self.carry_out().await;
        patient.is_well();
    }

    /// Runs the commands of the remedy.
    pub(super) async fn carry_out(&self) {
        let commands = self.commands();
        assert!(!commands.is_empty(), "no command: {}", self.remedy);
        for command in &commands {
            let words: Vec<_> = command.split_whitespace().collect();
            match words[..] {
                ["bao", "write", ref arguments @ ..] => bao_write(arguments).await,
                ["chmod" | "chgrp" | "chown" | "kill" | "ps", ..] => {
                    let mut command = Command::new(words[0]);
                    let done = command.args(&words[1..]).output().unwrap();
                    assert!(done.status.success(), "{command:?}: {done:?}");
                }
                _ => panic!("not a command that a test runs: {command}"),
            }
        }
    }

    /// What stands in backquotes, or after `run: `.
    fn commands(&self) -> Vec<String> {
        match self.remedy.split_once("run: ") {
            Some((_, command)) => vec![command.to_owned()],
            None => {
                let pieces = self.remedy.split('`').skip(1).step_by(2);
                pieces.map(str::to_owned).collect()
            }
        }
    }
}

/// `bao write [-f] PATH [NAME=VALUE ...]`, as an administrator.
async fn bao_write(arguments: &[&str]) {
    let mut arguments = arguments.iter().filter(|argument| **argument != "-f");
    let path = arguments.next().unwrap();
    let body: serde_json::Map<String, Value> = arguments
        .map(|setting| {
            let (name, value) = setting.split_once('=').unwrap();
            (name.to_owned(), json!(value))
        })
        .collect();
    let admin = shared_openbao().await.admin();
    admin.write(path, &body).await.unwrap();
}

fn give(path: &Path) {
    chown(path, Some(SERVICE_USER), Some(SERVICE_USER)).unwrap();
    if path.is_dir() {
        for entry in path.read_dir().unwrap() {
            give(&entry.unwrap().path());
        }
    }
}
