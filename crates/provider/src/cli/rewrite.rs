//! `rewrite`: objects stored again, so that kube-apiserver encrypts them with its present key.

use std::{
    io::{self, IsTerminal as _},
    num::{NonZeroU32, NonZeroUsize},
    path::PathBuf,
    sync::Mutex,
    time::{Duration, Instant},
};

use clap::{ArgGroup, Args};
use kms_cluster::{
    api::{CallError, ConnectError},
    rewrite::{
        self, Done, End, Method, Progress, RewriteError, Settings,
        report::{self, Lines, roughly},
    },
};
use kms_daemon::lifecycle::{self, Hangup};
use kms_node::{
    advice::Found,
    clock::{Clock as _, SystemClock},
    report::outcome::{Nothing, Outcome},
};
use kms_operator::{
    diagnose::encryption_config::ruled_resources,
    rotation_report::{Rotation, RotationCommand},
};

use super::{
    Context, Exit, Failure, OutputFlag, cluster_flags::ClusterFlags, etcd_source::EvidenceFlags,
    openbao_flags::OpenBaoFlags, progress::tell, rotation_plan::gather, runtime,
};

/// Pause between two lines of progress.
const TELL_EVERY: Duration = Duration::from_millis(500);

/// Store objects again through the Kubernetes API, so that they are encrypted with the present key
///
/// After a rotation, after enabling the provider, or after a change of providers. Patches that change
/// nothing let kube-apiserver write each stale object, at a limited rate; only metadata is requested.
/// An interrupted run continues when it is started again. With a running etcd, the stored form is
/// proven at the end as verify-rotation does. Exit code 4 when objects resist, 5 when the run ends
/// before its last object.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").args(["encryption_config", "resource"]).required(true))]
pub(super) struct Options {
    #[command(flatten)]
    cluster: ClusterFlags,
    /// The EncryptionConfiguration of kube-apiserver: all resources of its rules
    #[arg(long, value_name = "FILE")]
    encryption_config: Option<PathBuf>,
    /// A resource or wildcard as an EncryptionConfiguration names it, such as secrets, *.apps or
    /// widgets.example.com; repeatable
    #[arg(long, value_name = "NAME")]
    resource: Vec<String>,
    /// Objects of this namespace alone
    #[arg(long, value_name = "NAME")]
    namespace: Option<String>,
    /// Count the objects of each resource, and write nothing
    #[arg(long, conflicts_with = "storage_version_migration")]
    dry_run: bool,
    /// Let kube-controller-manager write, by a StorageVersionMigration for each resource
    #[arg(long, conflicts_with = "namespace")]
    storage_version_migration: bool,
    /// Writes a second
    #[arg(long, value_name = "N", default_value = "50")]
    rate: NonZeroU32,
    /// Writes at a time
    #[arg(long, value_name = "N", default_value = "4")]
    concurrency: NonZeroUsize,
    /// Progress, so that an interrupted run continues
    #[arg(long, value_name = "FILE", default_value = "rewrite-progress.json")]
    progress: PathBuf,
    /// Show the names of the first few objects that resist
    #[arg(long)]
    show_names: bool,
    #[command(flatten)]
    etcd: EvidenceFlags,
    #[command(flatten)]
    openbao: OpenBaoFlags,
    #[command(flatten)]
    output: OutputFlag,
}

/// The rewrite did not begin.
#[derive(Debug, thiserror::Error)]
pub(super) enum RewriteFailure {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Rewrite(#[from] RewriteError),
    #[error(transparent)]
    Call(#[from] CallError),
}

impl Options {
    pub(super) fn run(self, context: &mut Context<'_>) -> Result<Exit, Failure> {
        self.openbao.apply(context);
        let rules = match &self.encryption_config {
            None => self.resource.clone(),
            Some(file) => match ruled_resources(file) {
                Ok(rules) => rules,
                Err(check) => {
                    let mut outcome = Outcome::new("rewrite", SystemClock.now(), Nothing {});
                    outcome.add_checks([*check]);
                    outcome.conclude_by_checks();
                    return self.output.show(&outcome, context);
                }
            },
        };
        // A missing file or a state of no use is told before the first write.
        let proves = self.etcd.evidence()?.is_some();
        if proves {
            context.load()?.config.state().load()?;
        }
        let settings = Settings {
            rules,
            namespace: self.namespace.clone(),
            rate: self.rate,
            concurrency: self.concurrency,
            progress: self.progress.clone(),
            names: self.show_names,
            method: match (self.dry_run, self.storage_version_migration) {
                (true, _) => Method::DryRun,
                (false, true) => Method::StorageVersionMigration,
                (false, false) => Method::Patch,
            },
            etcd: self.etcd.live()?,
        };
        let done = self.work(&settings)?;
        let proof = match done.end {
            End::Completed if proves && done.resisted.is_empty() => {
                Some(gather(context, RotationCommand::Verify, Some(&self.etcd))?)
            }
            _ => None,
        };
        let outcome = conclude(done, &settings, proof.as_ref(), context);
        self.output.show(&outcome, context)
    }

    fn work(&self, settings: &Settings) -> Result<Done, Failure> {
        let line = Line::new(self.output.quiet);
        let runtime = runtime()?;
        let done = runtime.block_on(async {
            let stop = lifecycle::stop_signal(Hangup::Stops).map_err(Failure::Runtime)?;
            let api = self.cluster.connect(None).await;
            let api = api.map_err(RewriteFailure::Connect)?;
            // Unknown addresses show by the leases, as API servers that were not compared.
            let others = match self.cluster.connect_each(&api).await {
                Err(RewriteFailure::Call(_)) => Vec::new(),
                others => others?,
            };
            let show = |progress: &Progress<'_>| line.show(progress);
            let done = rewrite::rewrite(&api, &others, settings, &show, stop).await;
            Ok::<_, Failure>(done.map_err(RewriteFailure::Rewrite)?)
        });
        line.clear();
        done
    }
}

fn conclude(
    done: Done,
    settings: &Settings,
    proof: Option<&Outcome<Rotation>>,
    context: &Context<'_>,
) -> Outcome<report::Rewrite> {
    let slower = context.typed_without(&[("--rate", true)]) + " --rate 5";
    let lines = Lines {
        again: &context.again(),
        slower: &slower,
        apply: &context.typed_without(&[("--dry-run", false)]),
        plain: &context.typed_without(&[("--storage-version-migration", false)]),
    };
    let mut outcome = report::outcome(done, settings, proof, lines, SystemClock.now());
    outcome.set_sources(&context.sources);
    outcome
}

impl RewriteFailure {
    pub(super) fn found(&self) -> Found {
        match self {
            Self::Connect(error) => (error.cause(), Vec::new()),
            Self::Rewrite(error) => error.found(),
            Self::Call(error) => (error.cause(), Vec::new()),
        }
    }
}

/// The line of progress on a terminal.
struct Line {
    shown: Option<Mutex<Instant>>,
}

impl Line {
    fn new(quiet: bool) -> Self {
        let shows = io::stderr().is_terminal() && !quiet;
        Self {
            shown: shows.then(|| Mutex::new(Instant::now())),
        }
    }

    fn show(&self, progress: &Progress<'_>) {
        let Some(Ok(mut last)) = self.shown.as_ref().map(Mutex::lock) else {
            return;
        };
        if last.elapsed() >= TELL_EVERY {
            *last = Instant::now();
            tell(&described(progress));
        }
    }

    fn clear(&self) {
        if self.shown.is_some() {
            tell("");
        }
    }
}

fn described(progress: &Progress<'_>) -> String {
    let Progress {
        resource,
        done,
        total,
        elapsed,
    } = progress;
    let milliseconds = u64::try_from(elapsed.as_millis())
        .unwrap_or(u64::MAX)
        .max(1);
    let rate = done.saturating_mul(1000) / milliseconds;
    let left = total.saturating_sub(*done).checked_div(rate);
    let left = left.map_or(String::new(), |left| {
        format!(", about {} left", roughly(left))
    });
    format!("rewrite: {resource}, {done} of {total} objects, {rate} a second{left}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_progress_estimates_the_rest() {
        let line = |done, seconds| {
            described(&Progress {
                resource: "secrets",
                done,
                total: 20_000,
                elapsed: Duration::from_secs(seconds),
            })
        };
        assert_eq!(
            line(500, 10),
            "rewrite: secrets, 500 of 20000 objects, 50 a second, about 7 min left"
        );
        assert_eq!(
            line(0, 0),
            "rewrite: secrets, 0 of 20000 objects, 0 a second"
        );
    }
}
