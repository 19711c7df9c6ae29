//! `drill`: would the backups of today come back? `drill history`: did they?

mod history;

use std::{
    io::{self, IsTerminal as _, Write as _},
    path::{Path, PathBuf, absolute},
    sync::Arc,
    time::SystemTime,
};

use clap::{Args, Subcommand};
use jiff::Timestamp;
use kms_daemon::lifecycle::{self, Hangup};
use kms_node::{
    advice::site::shell,
    clock::{Clock as _, SystemClock},
    report::{Output, text::Look},
    state::disk,
};
use kms_operator::{
    attestation::statement::Findings,
    drill::{
        self, ProgressReporter, Setup,
        kept::Kept,
        metrics,
        report::{self, DrillReport},
    },
    recovery::local_knowledge::LocalKnowledge,
};

use super::{
    Context, Exit, Failure, PageFlags,
    attest_flags::{AttestFlags, attest},
    progress::ProgressLine,
    runtime,
    verify_backup::read_record,
};

/// Rehearse a restore of both backups in isolation, and remove the copy again
///
/// Restores the OpenBao snapshot into a private OpenBao on loopback, unseals it, and opens every
/// object of the etcd snapshot with the key in it. Contacts nothing that is in service. Exit code 0 when
/// everything opened, 4 when the backups do not restore all data or are too old, 5 when that could not be established.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(super) struct Options {
    #[command(subcommand)]
    command: Option<Part>,
    /// Absent for a subcommand alone.
    #[command(flatten)]
    setup: Option<Setup>,
    /// Write the report as JSON to a new file, or to one named after the time in a directory
    #[arg(long, value_name = "PATH")]
    report: Option<PathBuf>,
    /// Replace a file for the textfile collector of node exporter
    #[arg(long, value_name = "FILE")]
    metrics_file: Option<PathBuf>,
    #[command(flatten)]
    attest: AttestFlags,
    #[command(flatten)]
    output: PageFlags,
}

#[derive(Debug, Subcommand)]
enum Part {
    History(history::Options),
}

impl Options {
    pub(super) fn run(mut self, context: &mut Context<'_>) -> Result<Exit, Failure> {
        match (self.command.take(), self.setup.take()) {
            (Some(Part::History(options)), _) => options.run(context),
            (None, Some(setup)) => self.drill(setup, context),
            // The parser requires the snapshots.
            (None, None) => Ok(Exit::Usage),
        }
    }

    fn drill(self, mut setup: Setup, context: &mut Context<'_>) -> Result<Exit, Failure> {
        let loaded = context.load()?;
        let config = Arc::new(loaded.config);
        let record = setup.record.as_deref().map(read_record).transpose()?;
        self.output.require_new()?;
        if let Some(path) = &self.report {
            let path = dated(path, SystemClock.now());
            disk::require_new(&path).map_err(Failure::DrillReportFile)?;
        }
        // Before the copy exists, so that OpenBao in service is contacted beside no copy.
        let attestor = self.attest.attestor(&config)?;
        lifecycle::prepare();

        let known = LocalKnowledge::gather(&config, &loaded.path, record);
        let runtime = runtime()?;
        let rehearsal = runtime.block_on(async {
            let stop = lifecycle::stop_signal(Hangup::Stops).map_err(Failure::Runtime)?;
            let told = told(&loaded.path);
            Ok::<_, Failure>(drill::rehearse(&config, &mut setup, &known, told, stop).await)
        });
        // After a signal, objects may still be on their way through a thread.
        runtime.shutdown_background();

        let now = SystemClock.now();
        let again = context.again();
        let rehearsal = rehearsal?;
        let report = report::outcome(&config, &setup, &known, &rehearsal, &again, now);
        let shown = self.output.show(&report, context);
        let measured = match &self.metrics_file {
            Some(path) => metrics::write(path, &config, &report, now),
            None => Ok(()),
        };
        let written = match &self.report {
            Some(path) => write_report(&dated(path, now), &report),
            None => Ok(()),
        };
        let written = written.and(measured.map_err(Failure::DrillMetricsFile));
        let mut findings = Findings::default();
        if attestor.is_some() {
            findings.add_drill(&setup, &rehearsal);
            findings.add_backups(&report.result);
        }
        attest(
            attestor.as_ref(),
            &config,
            &report,
            findings,
            written.and(shown),
        )
    }
}

fn write_report(path: &Path, report: &DrillReport) -> Result<(), Failure> {
    let mut json = Vec::new();
    Output::Json.write(report, Look::default(), &mut json)?;
    disk::create_new(path, &json).map_err(Failure::DrillReportFile)
}

/// The path itself, or in a directory a name that sorts by time.
fn dated(path: &Path, now: SystemTime) -> PathBuf {
    if !path.is_dir() {
        return path.to_owned();
    }
    let time = Timestamp::try_from(now).unwrap_or_default();
    path.join(format!("drill-{}.json", time.strftime("%Y%m%dT%H%M%SZ")))
}

/// Progress is for a terminal; the way to a kept copy is for everybody.
fn told(config: &Path) -> ProgressReporter {
    let reading = ProgressLine::new("reading etcd");
    let opening = ProgressLine::new("opening objects");
    let terminal = io::stderr().is_terminal();
    let config = absolute(config).unwrap_or_else(|_| config.to_owned());
    ProgressReporter {
        step: Box::new(move |step| {
            if terminal {
                // Progress is a courtesy.
                writeln!(io::stderr(), "drill: {step}").ok();
            }
        }),
        reading: Arc::new(move |done| reading.show(done)),
        opening: Arc::new(move |done| opening.show(done)),
        kept: Box::new(move |kept| {
            writeln!(io::stderr(), "{}", way_to(kept, &config)).ok();
        }),
    }
}

/// The verdict, the end of a kept copy, and the command that reads an object with it.
fn way_to(kept: &Kept, config: &Path) -> String {
    let until = Timestamp::try_from(kept.until).unwrap_or_default();
    format!(
        "drill: {}\ndrill: the restored OpenBao is kept until {}; Ctrl-C removes it earlier\n  \
         next: bring back objects that can be read, in another shell of this host\n        \
         bao-kms-provider extract --etcd-snapshot {} --resource secrets --namespace NAMESPACE \
         --name NAME --output-dir DIRECTORY --openbao-address {} --openbao-cacert {} --token-file {} \
         --config {}",
        kept.found,
        until.strftime("%Y-%m-%dT%H:%M:%SZ"),
        shell(&kept.etcd),
        kept.address,
        shell(&kept.ca_file),
        shell(&kept.token_file),
        shell(config),
    )
}
