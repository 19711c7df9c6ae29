//! `node remove`: the provider stopped, and its unchanged files removed.

use std::{
    io::{self, IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use clap::Args;
use kms_install::{
    directory::Directory,
    node::{
        MANIFEST,
        disk::Root,
        manager::{self, UnitState},
        removal::{Removal, Status, removals},
    },
    plan::Model,
};
use kms_node::{
    advice::{NextStep, install},
    config::Config,
    report::{counted, one_line},
    state::Holder,
};
use kms_operator::diagnose::encryption_config::{
    find::{Located, locate},
    has_provider,
};

use super::{
    BROKEN, Context, DONE, Exit, Failure, KEPT, NodeError, PLANNED, Row, applying, conclude, count,
    of_this_node, outcome, require_root,
};
use crate::cli::OutputFlag;

const COMMAND: &str = "node remove";
const REMOVED: &str = "removed";
/// More than a stop takes: 15 s for running calls, and those of kubelet before it.
const STOP_LIMIT: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(250);

/// Stop the provider and remove its files; the state stays
///
/// Shows a plan, and makes it with --apply. Files that differ from the installation, the credential, the
/// CA certificate, users and groups stay. Refused while kube-apiserver on this node has the provider in
/// its EncryptionConfiguration.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// Directory that init wrote
    #[arg(value_name = "DIRECTORY")]
    directory: PathBuf,
    /// Make the changes
    #[arg(long)]
    apply: bool,
    /// Also delete the state of this node; it is required to decrypt after a rotation
    #[arg(long)]
    delete_state: bool,
    /// Fingerprint of the installation, which confirms --delete-state; on a terminal it is asked for
    #[arg(long, value_name = "FINGERPRINT", requires = "delete_state")]
    confirm: Option<String>,
    /// Root directory of the node, for the build of an image
    #[arg(long, value_name = "DIRECTORY", default_value = "/")]
    root: PathBuf,
    #[command(flatten)]
    output: OutputFlag,
}

impl Options {
    pub(super) fn run(self, context: &mut Context<'_>) -> Result<Exit, Failure> {
        let installation = Directory::read(&self.directory).map_err(NodeError::from)?;
        if self.apply {
            require_root(context)?;
        }
        let root = Root::new(&self.root);
        let config = &installation.loaded.config;
        let state = config.state_path.directory();
        let planned = removals(&installation, &root, self.delete_state).map_err(|source| {
            NodeError::Unreadable {
                path: root.of(state),
                source,
            }
        })?;
        let unit = match installation.model {
            Model::Systemd if root.is_system() => Some(UnitState::ask().map_err(NodeError::from)?),
            _ => None,
        };
        let runs = unit.filter(UnitState::is_used);
        let mut rows = Vec::new();
        rows.extend(
            runs.iter().map(|_| {
                Row::new("stop", manager::UNIT, PLANNED).detail("stop and disable the unit")
            }),
        );
        rows.extend(planned.iter().map(row));

        let refused = in_use(config, &root).map(|found| (&install::IN_USE, found));
        let other = match root.is_system() && self.delete_state {
            true => of_this_node(&installation, context.environment).err(),
            false => None,
        };
        // Without a configuration the directory of the state decides alone.
        let other = other.and_then(Result::ok).map(|found| {
            let expected = config.fingerprint();
            let found = format!("this node has {found}, and the installation {expected}");
            (&install::OTHER_INSTALLATION, found)
        });
        let refused = refused.or(other);
        let mut failed = None;
        if self.apply && refused.is_none() {
            self.confirm(config)?;
            rows.clear();
            failed = apply(&planned, &root, config, runs.is_some(), &mut rows);
        }

        let mut outcome = outcome(COMMAND, &installation, self.apply, rows);
        let again = context.again();
        if let Some((cause, found)) = refused {
            conclude(&mut outcome, cause, &[("again", &again)], found);
        } else if let Some(found) = failed {
            let cause = &install::CHANGE_FAILED;
            conclude(&mut outcome, cause, &[("again", &again)], found);
        } else {
            let [left, done, kept] =
                [PLANNED, DONE, KEPT].map(|status| count(&outcome.result.steps, status));
            let kept = match kept {
                0 => String::new(),
                _ => format!("; {} kept", counted(kept, "object")),
            };
            match left {
                0 => {
                    let headline = match done {
                        0 => format!("nothing to remove on this node{kept}"),
                        _ => format!("{} made on this node{kept}", counted(done, "removal")),
                    };
                    outcome.conclude(REMOVED, Exit::Success, headline);
                }
                _ => {
                    let headline =
                        format!("{} on this node planned{kept}", counted(left, "removal"));
                    outcome.conclude(PLANNED, Exit::Success, headline);
                    outcome.add_steps([
                        NextStep::run(
                            "see that no object in etcd needs the provider; on a node of kubeadm its \
                             certificates are found",
                            "bao-kms-provider scan-etcd --endpoints 127.0.0.1:2379",
                        ),
                        NextStep::run("remove", applying(context)),
                    ]);
                    outcome.add_warnings(install::IN_USE.warnings.iter().copied());
                }
            }
        }
        self.output.show(&outcome, context)
    }

    /// Requires the fingerprint for the deletion of the state: by the option, or typed on the terminal.
    fn confirm(&self, config: &Config) -> Result<(), NodeError> {
        if !self.delete_state {
            return Ok(());
        }
        let fingerprint = config.fingerprint();
        let unconfirmed = || NodeError::Unconfirmed(fingerprint.clone());
        let given = match &self.confirm {
            Some(given) => given.clone(),
            None if io::stdin().is_terminal() && io::stderr().is_terminal() => {
                let mut typed = String::new();
                let asked = write!(
                    io::stderr(),
                    "The state of this node is deleted. Type the fingerprint {fingerprint}: "
                );
                let asked = asked.and_then(|()| io::stdin().read_line(&mut typed));
                asked.map_err(|_closed| unconfirmed())?;
                typed.trim().to_owned()
            }
            None => return Err(unconfirmed()),
        };
        match given == fingerprint.as_str() {
            true => Ok(()),
            false => Err(unconfirmed()),
        }
    }
}

fn row(removal: &Removal) -> Row {
    let (status, detail) = match &removal.status {
        Status::Remove => (PLANNED, ""),
        Status::RemoveIfEmpty => (PLANNED, "if it is empty by then"),
        Status::Kept(reason) => (KEPT, &**reason),
    };
    Row::new(removal.name, removal.path.display().to_string(), status).detail(detail)
}

/// The file of kube-apiserver that has this provider, or hides whether it has.
fn in_use(config: &Config, root: &Root) -> Option<String> {
    match locate(root.path()) {
        Located::Nothing | Located::WithoutFlag { .. } => None,
        Located::Several(files) => {
            let used = files
                .iter()
                .find(|file| has_provider(file, config) != Some(false))?;
            Some(format!("{} has it", used.display()))
        }
        Located::File { path, named_by } => {
            let place = format!("{} ({named_by})", path.display());
            match has_provider(&path, config) {
                Some(false) => None,
                Some(true) => Some(format!("{place} has it")),
                None => Some(format!("{place} cannot be read, so it may have it")),
            }
        }
    }
}

/// Stops the provider, then removes; returns the first failure.
fn apply(
    planned: &[Removal],
    root: &Root,
    config: &Config,
    has_unit: bool,
    rows: &mut Vec<Row>,
) -> Option<String> {
    if has_unit {
        let row = Row::new("stop", manager::UNIT, DONE);
        if let Err(error) = manager::stop() {
            rows.push(Row {
                status: BROKEN,
                ..row
            });
            return Some(one_line(&error));
        }
        rows.push(row);
    }
    // kubelet ends the pod once its manifest is gone.
    let (manifests, others): (Vec<_>, Vec<_>) = planned
        .iter()
        .partition(|it| it.path == Path::new(MANIFEST));
    let remove = |removals: Vec<&Removal>, rows: &mut Vec<Row>| {
        removals.into_iter().find_map(|it| remove(it, root, rows))
    };
    let failed = remove(manifests, rows);
    if failed.is_some() {
        return failed;
    }
    if root.is_system() && !is_stopped(config) {
        return Some("the provider still runs: it holds the lock on its state".to_owned());
    }
    remove(others, rows)
}

fn remove(removal: &Removal, root: &Root, rows: &mut Vec<Row>) -> Option<String> {
    let mut row = row(removal);
    let mut failed = None;
    if !matches!(removal.status, Status::Kept(_)) {
        match removal.apply(root) {
            Ok(true) => {
                row.status = DONE;
                row = row.detail("");
            }
            Ok(false) => {
                row.status = KEPT;
                row = row.detail("has other files");
            }
            Err(error) => {
                row.status = BROKEN;
                failed = Some(format!("{}: {error}", removal.path.display()));
            }
        }
    }
    rows.push(row);
    failed
}

/// Waits until no provider holds the lock on the state.
fn is_stopped(config: &Config) -> bool {
    let begun = Instant::now();
    loop {
        let holder = Holder::of(&config.state_path.lock());
        if !matches!(&holder, Ok(Some(holder)) if holder.is_provider()) {
            return true;
        }
        if begun.elapsed() >= STOP_LIMIT {
            return false;
        }
        thread::sleep(PAUSE);
    }
}
