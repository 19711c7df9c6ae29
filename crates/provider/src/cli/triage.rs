//! `triage`: what is broken, what it means for the data, and what to do next.

use std::path::{Path, PathBuf};

use clap::Args;
use tokio::runtime;

use super::{
    Context, Failure, OutputFlag, etcd_source::EvidenceFlags, exit::Exit, progress::ProgressLine,
    verify_backup::read_record,
};
use crate::{
    clock::{Clock as _, SystemClock},
    config::LoadError,
    diagnose::{facts::Facts, node::become_provider},
    report::Report,
    triage::{
        report::TriageReport,
        walk::{self, Material},
    },
};

/// In an incident: say what is broken, whether data is lost, what to do next and what not to do
///
/// Walks from the configuration over login, OpenBao, key and state to a round trip through the running
/// provider, and ends at the first thing that is broken. Changes nothing. Run it as root or as the
/// provider's user; evidence from etcd makes it prove more. Exit code 0 when nothing is broken, 4 when
/// something is, 3 when it is the configuration, 5 when it could not be established.
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

        let mut report = Report::new("triage", SystemClock.now());
        let mut facts = Facts::new(context.load());
        facts.record = record;
        let mut stopped = walk::begin(&facts, &mut report);
        if stopped.is_none()
            && let Ok(loaded) = &facts.loaded
        {
            let loaded = loaded.clone();
            report.identify(&loaded.config.fingerprint());
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
            stopped = walk::walk(&runtime, material, &mut facts, &mut report);
            // A name lookup that hangs must not hold up the end.
            runtime.shutdown_background();
        }
        let path = config_path(&facts);
        let report = TriageReport::new(stopped, &facts, path, report);
        self.output.output.write(&report, context.out)?;
        Ok(report.exit())
    }
}

fn config_path(facts: &Facts) -> &Path {
    match &facts.loaded {
        Ok(loaded) => &loaded.path,
        Err(
            LoadError::Unreadable { path, .. }
            | LoadError::Malformed { path, .. }
            | LoadError::Invalid { path, .. },
        ) => path,
    }
}
