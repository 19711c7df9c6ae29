//! `node`: one node from an installation to a running provider, and back.

mod check;
mod prepare;
mod remove;
mod start;

use std::{
    io,
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use kms_domain::fingerprint::IdentityFingerprint;
use kms_install::{
    directory::{Directory, ReadError},
    node::{
        Given, GivenError, MANIFEST, Status, Step, accounts::Accounts, disk::Root,
        manager::ManagerError, plan,
    },
    plan::Model,
};
use kms_node::{
    advice::{Cause, Found, NextStep, Site, install, site::shell},
    clock::{Clock as _, SystemClock},
    config::{Config, Environment, Flags, LoadError, Loaded},
    exit::Exit,
    report::{outcome::Outcome, table::Table},
};
use schemars::JsonSchema;
use serde::Serialize;

use super::{Context, Failure};

/// Bring one node from the files of init to a running provider, or back
///
/// prepare makes users, directories and files; check is doctor with the installation; start enables the
/// provider, starts it and waits; remove takes it away again and keeps the state. Each shows a plan, and
/// changes the node with --apply. A run can be repeated: existing files are never overwritten.
#[derive(Debug, Args)]
pub(super) struct Options {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make users, groups, directories and files of this node
    Prepare(prepare::Options),
    /// Check this node like doctor, with its installation, ports and start order
    Check(check::Options),
    /// Enable and start the provider, and wait until it is ready
    Start(start::Options),
    /// Stop the provider and remove its files; the state stays
    Remove(remove::Options),
}

impl Options {
    pub(super) fn run(self, context: &mut Context<'_>) -> Result<Exit, Failure> {
        // The unit and the static pod have this place.
        context.flags = Flags {
            config: Some(PathBuf::from(kms_install::node::CONFIG)),
            ..Flags::default()
        };
        match self.action {
            Action::Prepare(options) => options.run(context),
            Action::Check(options) => options.run(context),
            Action::Start(options) => options.run(context),
            Action::Remove(options) => options.run(context),
        }
    }
}

/// Why a command of a node did not begin.
#[derive(Debug, thiserror::Error)]
pub(super) enum NodeError {
    #[error(transparent)]
    Directory(#[from] ReadError),
    #[error(transparent)]
    Given(#[from] GivenError),
    #[error("only root can change the files and services of this node")]
    RootRequired,
    /// The fingerprint of the installation.
    #[error("--delete-state needs the fingerprint of the installation as confirmation: {0}")]
    Unconfirmed(IdentityFingerprint),
    #[error(transparent)]
    Manager(#[from] ManagerError),
    #[error("cannot read {}", path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl NodeError {
    pub(super) fn found(&self) -> Found {
        match self {
            Self::Directory(ReadError::Edited {
                directory, options, ..
            }) => (
                &install::EDITED,
                vec![
                    ("directory", shell(directory)),
                    ("options", options.clone()),
                ],
            ),
            Self::Directory(_) => (&install::UNUSABLE, Vec::new()),
            Self::Given(_) => (&install::GIVEN_UNUSABLE, Vec::new()),
            Self::RootRequired => (&install::ROOT_REQUIRED, Vec::new()),
            Self::Unconfirmed(fingerprint) => (
                &install::UNCONFIRMED,
                vec![("fingerprint", fingerprint.to_string())],
            ),
            Self::Manager(_) | Self::Unreadable { .. } => (&install::CHANGE_FAILED, Vec::new()),
        }
    }
}

/// The members of `node prepare`, `node start` and `node remove`.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Node {
    /// Of the installation.
    directory: PathBuf,
    /// `systemd` or `static-pod`.
    model: &'static str,
    /// Whether `--apply` was given.
    applied: bool,
    steps: Vec<Row>,
    /// Of the active key, once the provider is ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    key_id_hash: Option<String>,
}

/// A step.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(super) struct Row {
    step: &'static str,
    /// A path, or a unit.
    object: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    owner: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    mode: String,
    /// `present`, `planned`, `done`, `differs`, `awaited`, `kept`, `failed` or `unknown`.
    status: &'static str,
    /// The change, or the reason.
    #[serde(skip_serializing_if = "String::is_empty")]
    detail: String,
}

const PRESENT: &str = "present";
const PLANNED: &str = "planned";
const DONE: &str = "done";
const DIFFERS: &str = "differs";
const AWAITED: &str = "awaited";
const KEPT: &str = "kept";
const UNREAD: &str = "unknown";
const BROKEN: &str = "failed";

impl Row {
    fn new(step: &'static str, object: impl Into<String>, status: &'static str) -> Self {
        Self {
            step,
            object: object.into(),
            owner: String::new(),
            mode: String::new(),
            status,
            detail: String::new(),
        }
    }

    fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = detail.into();
        self
    }

    fn of(step: &Step, status: &Status) -> Self {
        let (owner, mode) = step.access();
        let (word, detail) = match status {
            Status::Present => (PRESENT, ""),
            Status::Change(change) => (PLANNED, &**change),
            Status::Differs(difference) => (DIFFERS, &**difference),
            Status::Awaited => (AWAITED, "only you have it"),
            Status::Unknown(reason) => (UNREAD, &**reason),
        };
        Self {
            owner,
            mode,
            ..Self::new(step.name, step.path.display().to_string(), word).detail(detail)
        }
    }
}

fn count(rows: &[Row], status: &str) -> usize {
    rows.iter().filter(|row| row.status == status).count()
}

fn model(installation: &Directory) -> &'static str {
    match installation.model {
        Model::Systemd => "systemd",
        Model::StaticPod { .. } => "static-pod",
    }
}

/// A result with its table of steps, still without a verdict.
fn outcome(
    command: &'static str,
    installation: &Directory,
    applied: bool,
    steps: Vec<Row>,
) -> Outcome<Node> {
    let table = Table::of("steps", &steps)
        .column("step", |row| row.step)
        .column("object", |row| &row.object)
        .column("owner", |row| &row.owner)
        .column("mode", |row| &row.mode)
        .column("status", |row| row.status)
        .column("detail", |row| &row.detail);
    let table = table.table();
    let members = Node {
        directory: installation.path.clone(),
        model: model(installation),
        applied,
        steps,
        key_id_hash: None,
    };
    let mut outcome = Outcome::new(command, SystemClock.now(), members);
    outcome.identify(&installation.loaded.config.fingerprint());
    outcome.add_table(table);
    outcome
}

/// Ends with a cause, its values, and the finding.
fn conclude(
    outcome: &mut Outcome<Node>,
    cause: &Cause,
    values: &[(&'static str, &str)],
    found: impl Into<String>,
) {
    let site = Site::new(Path::new(kms_install::node::CONFIG), None);
    outcome.conclude_with(&cause.advise(&site, values));
    outcome.set_found(found);
}

/// The steps of `node prepare` that are still to be made.
fn unprepared(installation: &Directory) -> Vec<Row> {
    let root = Root::new(Path::new("/"));
    let accounts = Accounts::read(&root);
    let steps = plan(installation, &root, &Given::default());
    let rows = steps
        .iter()
        .map(|step| Row::of(step, &step.assess(&root, &accounts)));
    rows.filter(|row| row.status != PRESENT).collect()
}

/// The configuration of this node, if it has the identity of the installation.
fn of_this_node(
    installation: &Directory,
    environment: &Environment,
) -> Result<Loaded, Result<IdentityFingerprint, LoadError>> {
    let flags = Flags {
        config: Some(PathBuf::from(kms_install::node::CONFIG)),
        ..Flags::default()
    };
    let loaded = kms_node::config::load(&flags, environment).map_err(Err)?;
    let found = loaded.config.fingerprint();
    match found == installation.loaded.config.fingerprint() {
        true => Ok(loaded),
        false => Err(Ok(found)),
    }
}

/// The typed line with `--apply`, below `sudo` for an ordinary user.
fn applying(context: &Context<'_>) -> String {
    let again = context.again();
    match context.environment.effective_uid {
        0 => format!("{again} --apply"),
        _ => format!("sudo {again} --apply"),
    }
}

/// Values of `install::FILE_DIFFERS`.
fn differing(path: &Path, made: Option<PathBuf>) -> Vec<(&'static str, String)> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    // kubelet reads every file in its directory of manifests.
    let beside = match path.ends_with(MANIFEST.trim_start_matches('/')) {
        true => directory.parent().unwrap_or(directory),
        false => directory,
    };
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let aside = beside.join(format!("{name}.before"));
    let mut values = vec![("path", shell(path)), ("aside", shell(&aside))];
    values.extend(made.map(|made| ("made", shell(&made))));
    values
}

/// The comparison of all nodes; `None` without a listener for metrics.
fn compare_nodes(config: &Config) -> Option<NextStep> {
    let port = config.server.metrics.as_ref()?.port();
    let node = format!("--metrics NAME=http://HOST:{port}");
    Some(NextStep::run(
        "when it is ready on every node, compare them",
        format!("bao-kms-provider compare-nodes {node} {node}"),
    ))
}

/// Refuses changes by an ordinary user.
fn require_root(context: &Context<'_>) -> Result<(), NodeError> {
    match context.environment.effective_uid {
        0 => Ok(()),
        _ => Err(NodeError::RootRequired),
    }
}
