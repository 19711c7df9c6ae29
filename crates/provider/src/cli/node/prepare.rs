//! `node prepare`: users, groups, directories and files.

use std::path::{Path, PathBuf};

use clap::Args;
use kms_install::{
    directory::Directory,
    node::{Given, Status, Step, Want, accounts::Accounts, disk::Root, plan},
};
use kms_node::{
    advice::{NextStep, install, site::shell, texts},
    config::Config,
    report::{counted, one_line, outcome::Outcome},
    state::Holder,
};

use super::{
    AWAITED, BROKEN, Context, DIFFERS, DONE, Exit, Failure, Node, NodeError, PLANNED, Row, UNREAD,
    applying, conclude, count, differing, outcome, require_root,
};
use crate::cli::{OutputFlag, progress::tell};

const COMMAND: &str = "node prepare";
const PREPARED: &str = "prepared";

/// Make users, groups, directories and files of this node
///
/// Shows a plan, and makes it with --apply. A file with other content than that of the installation is
/// kept, and nothing is changed then. Exit code 4 when a file differs or is missing.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// Directory that init wrote
    #[arg(value_name = "DIRECTORY")]
    directory: PathBuf,
    /// CA certificate of OpenBao, for openbao.caCertFile
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Credential of the login, for the file that the configuration names; for several, repeat it, each
    /// with the file name of its destination
    #[arg(long, value_name = "FILE")]
    credential: Vec<PathBuf>,
    /// Make the changes
    #[arg(long)]
    apply: bool,
    /// Root directory of the node, for the build of an image
    #[arg(long, value_name = "DIRECTORY", default_value = "/")]
    root: PathBuf,
    #[command(flatten)]
    output: OutputFlag,
}

impl Options {
    pub(super) fn run(self, context: &mut Context<'_>) -> Result<Exit, Failure> {
        let installation = Directory::read(&self.directory).map_err(NodeError::from)?;
        let config = &installation.loaded.config;
        let given = Given::read(config, self.ca.as_deref(), &self.credential);
        let given = given.map_err(NodeError::from)?;
        if self.apply {
            require_root(context)?;
        }
        let root = Root::new(&self.root);
        let steps = plan(&installation, &root, &given);
        let accounts = Accounts::read(&root);
        let planned: Vec<_> = steps
            .iter()
            .map(|step| Row::of(step, &step.assess(&root, &accounts)))
            .collect();
        let differs = planned.iter().position(|row| row.status == DIFFERS);
        let (rows, failed) = match self.apply && differs.is_none() {
            true => apply(&steps, &root),
            false => (planned, None),
        };

        let mut outcome = outcome(COMMAND, &installation, self.apply, rows);
        match (differs.and_then(|at| steps.get(at)), failed) {
            (_, Some(found)) => {
                let again = context.again();
                conclude(
                    &mut outcome,
                    &install::CHANGE_FAILED,
                    &[("again", &again)],
                    found,
                );
            }
            (Some(step), None) => self.differs(&mut outcome, step, context),
            (None, None) => self.complete(&mut outcome, config, &steps, context),
        }
        self.output.show(&outcome, context)
    }

    /// Names the first difference; the table has all of them.
    fn differs(&self, outcome: &mut Outcome<Node>, step: &Step, context: &Context<'_>) {
        let rows = outcome.result.steps.iter();
        let found: Vec<_> = rows
            .filter(|row| row.status == DIFFERS)
            .map(|row| format!("{} {}", row.object, row.detail))
            .collect();
        if step.want == Want::Unit {
            conclude(outcome, &install::PACKAGE_MISSING, &[], found.join("; "));
            return;
        }
        let made = step.made_from().map(|name| self.directory.join(name));
        let values = differing(&self.root_of(step), made);
        let again = context.again();
        let mut values = texts(&values);
        values.push(("again", &again));
        conclude(outcome, &install::FILE_DIFFERS, &values, found.join("; "));
    }

    fn root_of(&self, step: &Step) -> PathBuf {
        Root::new(&self.root).of(&step.path)
    }

    /// Nothing differs: what is left to do.
    fn complete(
        &self,
        outcome: &mut Outcome<Node>,
        config: &Config,
        steps: &[Step],
        context: &Context<'_>,
    ) {
        let rows = &outcome.result.steps;
        let [planned, done, awaited, unread] =
            [PLANNED, DONE, AWAITED, UNREAD].map(|status| count(rows, status));
        let missing = steps.iter().zip(rows);
        let is_system = Root::new(&self.root).is_system();
        let missing: Vec<_> = missing
            .filter(|(_, row)| row.status == AWAITED)
            .filter_map(|(step, _)| {
                let (name, path) = (step.name, shell(&step.path));
                let text = format!("put the {name} there, or name it with --ca or --credential");
                Some(match is_system {
                    true => NextStep::run(text, step.by_hand("FILE")?),
                    false => {
                        NextStep::act(format!("name {path} ({name}) with --ca or --credential"))
                    }
                })
            })
            .collect();
        let made = counted(done, "step");
        if planned > 0 {
            let changes = counted(planned, "change");
            let headline = match awaited {
                0 => format!("{changes} of this node planned"),
                _ => format!(
                    "{changes} of this node planned; {} only you have",
                    counted(awaited, "file")
                ),
            };
            outcome.conclude(PLANNED, Exit::Success, headline);
            outcome.add_step(NextStep::run("make the changes", applying(context)));
        } else if awaited > 0 {
            let files = format!("{made} made; missing: {}", counted(awaited, "file"));
            conclude(outcome, &install::FILES_AWAITED, &[], files);
        } else {
            let headline = match done {
                0 => "this node is prepared: nothing to do".to_owned(),
                _ => format!("this node is prepared: {made} made"),
            };
            outcome.conclude(PREPARED, Exit::Success, headline);
            if is_system && is_outdated(config, steps, &outcome.result.steps) {
                outcome.add_step(NextStep::run(
                    "restart the provider with the new configuration, one node at a time",
                    match outcome.result.model {
                        "systemd" => "systemctl restart bao-kms-provider",
                        _ => "crictl stop $(crictl ps --quiet --name bao-kms-provider)",
                    },
                ));
            } else if is_system {
                let directory = shell(&self.directory);
                outcome.add_steps([
                    NextStep::run(
                        "check this node",
                        format!("bao-kms-provider node check {directory}"),
                    ),
                    NextStep::run(
                        "start the provider",
                        format!("bao-kms-provider node start {directory} --apply"),
                    ),
                ]);
            }
        }
        outcome.add_steps(missing);
        if unread > 0 {
            outcome.add_limitations([
                "some files are readable for root alone: run the plan as root to compare them",
            ]);
        }
    }
}

/// Whether a provider runs that began with another configuration.
fn is_outdated(config: &Config, steps: &[Step], rows: &[Row]) -> bool {
    let mut steps = steps.iter().zip(rows);
    let replaced = steps
        .any(|(step, row)| row.status == DONE && step.path == Path::new(kms_install::node::CONFIG));
    replaced && matches!(Holder::of(&config.state_path.lock()), Ok(Some(_)))
}

/// Makes the steps in their order up to the first failure, which is the second value.
fn apply(steps: &[Step], root: &Root) -> (Vec<Row>, Option<String>) {
    let mut accounts = Accounts::read(root);
    let mut rows = Vec::new();
    let mut failed = None;
    for step in steps {
        let status = step.assess(root, &accounts);
        let mut row = Row::of(step, &status);
        if matches!(status, Status::Change(_)) && failed.is_none() {
            tell(&format!("{}: {}", step.name, step.path.display()));
            match step.apply(root, &accounts) {
                Ok(()) => row.status = DONE,
                Err(error) => {
                    row.status = BROKEN;
                    failed = Some(one_line(&error));
                }
            }
            accounts = Accounts::read(root);
        }
        rows.push(row);
    }
    tell("");
    (rows, failed)
}
