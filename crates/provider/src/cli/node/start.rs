//! `node start`: the provider enabled, started and ready.

use std::{
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use clap::Args;
use kms_install::{
    directory::Directory,
    node::{
        MANIFEST, Status,
        accounts::Accounts,
        disk::Root,
        manager::{self, Image, UnitState},
        manifest,
    },
    plan::Model,
};
use kms_node::{
    advice::{
        Cause, NextStep, install,
        site::{quoted, shell},
        texts,
    },
    config::Config,
    duration::parse_positive,
    plain_http::{self, HttpUrl},
    probe::{KmsClient, ProbeError},
    report::{one_line, outcome::Outcome, table::Table},
    state::Holder,
};

use super::{
    BROKEN, Context, DONE, Exit, Failure, Node, NodeError, PLANNED, PRESENT, Row, UNREAD, applying,
    compare_nodes, conclude, differing, of_this_node, outcome, require_root, unprepared,
};
use crate::cli::{OutputFlag, progress::tell, runtime, triage};

const COMMAND: &str = "node start";
const READY: &str = "ready";
const STARTED: &str = "started";
/// Between two questions for the readiness.
const PAUSE: Duration = Duration::from_millis(500);
const REQUEST_LIMIT: Duration = Duration::from_secs(5);

/// Enable and start the provider, and wait until it is ready
///
/// Under systemd by its unit, as a static pod by its manifest. Shows a plan, and makes it with --apply.
/// The result has the fingerprint and the hash of the active key ID: both are equal on every node. After
/// a failed start it has the first cause, as triage finds it. Exit code 4 when the provider is not ready.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// Directory that init wrote
    #[arg(value_name = "DIRECTORY")]
    directory: PathBuf,
    /// Make the changes
    #[arg(long)]
    apply: bool,
    /// Longest time until the provider is ready
    #[arg(long, value_name = "DURATION", default_value = "2m", value_parser = parse_positive)]
    wait: Duration,
    #[command(flatten)]
    output: OutputFlag,
}

/// Why the start ended early: a cause with its values, and the finding.
type Stopped = (&'static Cause, Vec<(&'static str, String)>, String);

impl Options {
    pub(super) fn run(self, context: &mut Context<'_>) -> Result<Exit, Failure> {
        let installation = Directory::read(&self.directory).map_err(NodeError::from)?;
        if self.apply {
            require_root(context)?;
        }
        let (mut rows, mut stopped) = match &installation.model {
            Model::Systemd => (self.unit()?, None),
            Model::StaticPod { image, .. } => pod(&installation, image),
        };
        if stopped.is_none() {
            stopped = self.unfit(&installation, context);
        }
        let planned = rows.iter().any(|row| row.status == PLANNED);
        if self.apply && stopped.is_none() && planned {
            stopped = self.change(&installation, &mut rows);
        }
        let waits = self.apply && stopped.is_none();
        let ready = waits && self.becomes_ready(&installation.loaded.config)?;

        let mut outcome = outcome(COMMAND, &installation, self.apply, rows);
        let of_unit = installation.model == Model::Systemd;
        if let Some((cause, values, found)) = stopped {
            if cause == &install::CHANGE_FAILED && of_unit {
                Self::diagnose(&mut outcome, cause, found, context)?;
            } else {
                let again = context.again();
                let mut known = texts(&values);
                known.push(("again", &again));
                conclude(&mut outcome, cause, &known, found);
            }
        } else if ready {
            self.report_ready(&mut outcome, &installation.loaded.config);
        } else if waits {
            let found = format!("not ready after {} s", self.wait.as_secs());
            Self::diagnose(&mut outcome, &install::NOT_READY, found, context)?;
        } else if planned {
            let headline = "the start of the provider is planned";
            outcome.conclude(PLANNED, Exit::Success, headline);
            outcome.add_step(NextStep::run("start it", applying(context)));
        } else {
            let headline = "the provider is enabled and started: nothing to do";
            outcome.conclude(STARTED, Exit::Success, headline);
            let text = "wait until it is ready, and see its key";
            outcome.add_step(NextStep::run(text, applying(context)));
        }
        self.output.show(&outcome, context)
    }

    fn unit(&self) -> Result<Vec<Row>, NodeError> {
        let state = UnitState::ask()?;
        let row = |step, is, change: &str| match is {
            true => Row::new(step, manager::UNIT, PRESENT),
            false => Row::new(step, manager::UNIT, PLANNED).detail(change),
        };
        Ok(vec![
            row("enable", state.is_enabled, "start it at each boot"),
            row("start", state.is_active, "start it now"),
        ])
    }

    /// The node has to be prepared, with the identity of the installation.
    fn unfit(&self, installation: &Directory, context: &Context<'_>) -> Option<Stopped> {
        if context.environment.effective_uid == 0
            && let Err(Ok(found)) = of_this_node(installation, context.environment)
        {
            let expected = installation.loaded.config.fingerprint();
            let found = format!("this node has {found}, and the installation {expected}");
            return Some((&install::OTHER_INSTALLATION, Vec::new(), found));
        }
        let missing = unprepared(installation);
        let missing: Vec<_> = missing
            .iter()
            .filter(|row| row.status != UNREAD)
            .map(|row| format!("{} ({})", row.object, row.status))
            .collect();
        let values = vec![("directory", shell(&self.directory))];
        (!missing.is_empty()).then(|| (&install::UNPREPARED, values, missing.join(", ")))
    }

    /// Makes the planned steps.
    fn change(&self, installation: &Directory, rows: &mut [Row]) -> Option<Stopped> {
        tell("starting the provider");
        let done = match installation.model {
            Model::Systemd => manager::start().map_err(|error| one_line(&error)),
            Model::StaticPod { .. } => {
                let root = Root::new(Path::new("/"));
                let made = manifest(installation).apply(&root, &Accounts::read(&root));
                made.map_err(|error| one_line(&error))
            }
        };
        tell("");
        let status = match done {
            Ok(()) => DONE,
            Err(_) => BROKEN,
        };
        for row in rows.iter_mut().filter(|row| row.status == PLANNED) {
            row.status = status;
        }
        let found = done.err()?;
        Some((&install::CHANGE_FAILED, Vec::new(), found))
    }

    /// Asks until the provider is ready, or the time is over. Without a listener for health, Status of its
    /// socket is the answer.
    fn becomes_ready(&self, config: &Config) -> Result<bool, Failure> {
        let runtime = runtime()?;
        let begun = Instant::now();
        let ready = loop {
            let answer = runtime.block_on(async {
                match &config.server.health {
                    Some(health) if health.port() != 0 => {
                        let url = HttpUrl::local(health.bind_to(), "/ready");
                        let got = plain_http::get(&url, plain_http::JSON, REQUEST_LIMIT).await;
                        got.map(drop).map_err(|error| one_line(&error))
                    }
                    _ => key_id_hash(&config.server.socket_path)
                        .await
                        .map(drop)
                        .map_err(|error| one_line(&error)),
                }
            });
            // Another process may answer at the address.
            let runs = matches!(Holder::of(&config.state_path.lock()), Ok(Some(_)) | Err(_));
            let left = self.wait.saturating_sub(begun.elapsed());
            match answer {
                Ok(()) if runs => break true,
                _ if left.is_zero() => break false,
                Ok(()) => tell("another process answers at server.healthAddress"),
                Err(error) => tell(&format!("{error}; {} s left", left.as_secs())),
            }
            thread::sleep(PAUSE.min(left));
        };
        tell("");
        runtime.shutdown_background();
        Ok(ready)
    }

    fn report_ready(&self, outcome: &mut Outcome<Node>, config: &Config) {
        let mut table = Table::new("identity", ["name", "value"]);
        table.row(["identityFingerprint", config.fingerprint().as_str()]);
        let socket = &config.server.socket_path;
        let hash = runtime().ok().and_then(|runtime| {
            let hash = runtime.block_on(key_id_hash(socket)).ok();
            runtime.shutdown_background();
            hash
        });
        table.facts("keyIdHash", hash.clone());
        outcome.result.key_id_hash = hash;
        outcome.conclude(READY, Exit::Success, "the provider is ready");
        outcome.add_table(table);
        outcome.add_steps(compare_nodes(config));
        outcome.add_steps([
            NextStep::act(
                "then give each API server its new flags: first all of them as readers, then as writers",
            ),
        ]);
    }

    /// Ends with the first failure that triage finds; `otherwise` is the cause if it finds none.
    fn diagnose(
        outcome: &mut Outcome<Node>,
        otherwise: &Cause,
        found: String,
        context: &Context<'_>,
    ) -> Result<(), Failure> {
        let triage = triage::Options::of_node().outcome(context)?;
        if triage.exit() == Exit::Success {
            let again = context.again();
            conclude(outcome, otherwise, &[("again", &again)], found);
        } else {
            outcome.take_over(&triage);
            let headline = format!("{found}: {}", triage.headline());
            outcome.conclude(triage.verdict(), triage.exit(), headline);
        }
        Ok(())
    }
}

/// `key_id` of Status, hashed.
async fn key_id_hash(socket: &Path) -> Result<String, ProbeError> {
    let mut client = KmsClient::new(socket, REQUEST_LIMIT)?;
    let healthy = client.healthy(None).await?;
    Ok(healthy.key_id.hash().to_string())
}

/// Image and manifest of the static pod.
fn pod(installation: &Directory, image: &str) -> (Vec<Row>, Option<Stopped>) {
    let mut stopped = None;
    let found = match Image::find(image) {
        Image::Present => Row::new("image", image, PRESENT),
        Image::Absent => {
            let values = vec![("image", quoted(image))];
            stopped = Some((&install::IMAGE_MISSING, values, image.to_owned()));
            Row::new("image", image, super::AWAITED).detail("not loaded")
        }
        Image::Unknown => Row::new("image", image, UNREAD)
            .detail("crictl and ctr are missing or without answer: see that the image is loaded"),
    };
    let root = Root::new(Path::new("/"));
    let step = manifest(installation);
    let status = step.assess(&root, &Accounts::read(&root));
    let row = Row::of(&step, &status);
    if let Status::Differs(difference) = status
        && stopped.is_none()
    {
        let made = installation.path.join("bao-kms-provider.yaml");
        stopped = Some((
            &install::FILE_DIFFERS,
            differing(Path::new(MANIFEST), Some(made)),
            format!("{MANIFEST} {difference}"),
        ));
    }
    (vec![found, row], stopped)
}
