//! `triage`: the first failure, its impact on the data, and the next step.

use std::path::PathBuf;

use clap::Args;
use kms_node::clock::{Clock as _, SystemClock};
use kms_operator::{
    diagnose::{facts::Facts, node::become_provider},
    triage::{
        report,
        walk::{self, Material},
    },
};
use tokio::runtime;

use super::{
    Context, Exit, Failure, OutputFlag, etcd_source::EvidenceFlags, progress::ProgressLine,
    verify_backup::read_record,
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
    #[command(flatten)]
    output: OutputFlag,
    #[command(flatten)]
    etcd: EvidenceFlags,
}

impl Options {
    pub(super) fn run(self, context: &mut Context<'_>) -> Result<Exit, Failure> {
        // Before the change of user: these files belong to root as a rule.
        let sources = self.etcd.sources()?;
        let record = self.record.as_deref().map(read_record).transpose()?;

        let mut checks = Vec::new();
        let mut facts = Facts::new("triage", context.load());
        facts.record = record;
        let mut stopped = walk::begin(&facts, &mut checks);
        if stopped.is_none()
            && let Ok(loaded) = &facts.loaded
        {
            let loaded = loaded.clone();
            // Before the runtime, whose threads take on what this one is.
            let became = become_provider(&loaded.config);
            let runtime = runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(Failure::Runtime)?;
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
        let mut outcome = report::outcome(stopped, checks, &facts, SystemClock.now());
        outcome.set_sources(&context.sources);
        self.output.show(&outcome, context)
    }
}
