//! `triage`: the first failure, its impact on the data, and the next step.

use std::path::{Path, PathBuf};

use clap::Args;
use kms_node::{
    advice::site::shell,
    clock::{Clock as _, SystemClock},
    report::outcome::Outcome,
};
use kms_operator::{
    diagnose::{
        encryption_config::{check_file, check_located, find::locate},
        facts::Facts,
        node::become_provider,
    },
    triage::{
        report::{self, Triage},
        walk::{self, Material},
    },
};

use super::{
    Context, Exit, Failure, OutputFlag, etcd_source::EvidenceFlags, progress::ProgressLine,
    runtime, verify_backup::read_record,
};

/// In an incident: name the first failure, its impact on the data, the next step and the warnings
///
/// Checks configuration, login, OpenBao, key and state, ends with a round trip through the running
/// provider, and stops at the first failure. Changes nothing: it writes and removes a test file beside
/// the state. Run it as root or as the provider's user; evidence from etcd makes it prove more. Exit
/// code 0 when all checks passed, 4 when one failed, 3 when it is one of the configuration, 5 when the
/// result is inconclusive.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// A record that record-backup wrote for this cluster
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// The file that kube-apiserver gets with --encryption-provider-config; by default it is looked up
    /// by its process, its manifest, or the configuration of K3s, RKE2 or OpenShift
    #[arg(long, value_name = "PATH")]
    encryption_config: Option<PathBuf>,
    /// Root directory of the node for that search, such as /host in a debug container
    #[arg(long, value_name = "PATH", default_value = "/")]
    node_root: PathBuf,
    #[command(flatten)]
    output: OutputFlag,
    #[command(flatten)]
    etcd: EvidenceFlags,
}

impl Options {
    pub(super) fn run(self, context: &mut Context<'_>) -> Result<Exit, Failure> {
        let outcome = self.outcome(context)?;
        self.output.show(&outcome, context)
    }

    /// With the options of a run without any.
    pub(super) fn of_node() -> Self {
        Self {
            record: None,
            encryption_config: None,
            node_root: PathBuf::from("/"),
            output: OutputFlag::default(),
            etcd: EvidenceFlags::default(),
        }
    }

    /// Walks through the checks. This thread may become the user of the provider.
    pub(super) fn outcome(&self, context: &Context<'_>) -> Result<Outcome<Triage>, Failure> {
        // Before the change of user: these files belong to root as a rule.
        let sources = self.etcd.sources()?;
        let record = self.record.as_deref().map(read_record).transpose()?;

        let mut checks = Vec::new();
        let mut facts = Facts::new("triage", context.load());
        facts.record = record;
        facts.options = self.etcd.again();
        if let Some(record) = &self.record {
            facts
                .options
                .push_str(&format!(" --record {}", shell(record)));
        }
        if let Some(path) = &self.encryption_config {
            let option = format!(" --encryption-config {}", shell(path));
            facts.options.push_str(&option);
        }
        if self.node_root != Path::new("/") {
            let option = format!(" --node-root {}", shell(&self.node_root));
            facts.options.push_str(&option);
        }
        let mut stopped = walk::begin(&facts, &mut checks);
        if stopped.is_none()
            && let Ok(loaded) = &facts.loaded
        {
            let loaded = loaded.clone();
            // Before the change of user: these files belong to root as a rule.
            facts.encryption = Some(match &self.encryption_config {
                Some(path) => check_file(path, &loaded.config),
                None => check_located(&locate(&self.node_root), &loaded.config),
            });
            // Before the runtime: its threads inherit the user of this one.
            let became = become_provider(&loaded.config);
            let runtime = runtime()?;
            let reading = ProgressLine::new("reading etcd");
            let material = Material {
                loaded: &loaded,
                environment: context.environment,
                became,
                sources,
                prefix: self.etcd.prefix(),
                on_progress: &|done| reading.show(done),
            };
            stopped = walk::walk(&runtime, material, &mut facts, &mut checks);
            // A name lookup that hangs must not hold up the end.
            runtime.shutdown_background();
        }
        let mut outcome = report::outcome(
            stopped,
            checks,
            &facts,
            self.output.verbose,
            SystemClock.now(),
        );
        outcome.set_sources(&context.sources);
        Ok(outcome)
    }
}
