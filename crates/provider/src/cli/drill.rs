//! `drill`: would the backups of today come back?

use std::{
    io::{self, IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use clap::Args;
use jiff::Timestamp;
use kms_daemon::lifecycle::{self, Hangup};
use kms_node::{
    clock::{Clock as _, SystemClock},
    duration::parse_positive,
    report::{Output, text::Look},
    state::disk::{self, DiskError},
};
use kms_operator::{
    drill::{self, ProgressReporter, Setup, metrics, report},
    recovery::local_knowledge::LocalKnowledge,
};
use openbao_lab::server::restore::StaticSeal;
use tokio::runtime;

use super::{
    Context, Exit, Failure, PageFlags, progress::ProgressLine, verify_backup::read_record,
};

/// Rehearse a restore of both backups in isolation, and remove the copy again
///
/// Restores the OpenBao snapshot into a private OpenBao on loopback, unseals it, and opens every
/// object of the etcd snapshot with the key in it. Contacts nothing that is in service. Exit code 0 when
/// everything opened, 4 when the backups do not restore all data or are too old, 5 when that could not be established.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// What `etcdctl snapshot save` wrote
    #[arg(long, value_name = "FILE")]
    etcd_snapshot: PathBuf,
    /// What `bao operator raft snapshot save` wrote
    #[arg(long, value_name = "FILE")]
    openbao_snapshot: PathBuf,
    /// A file with one unseal key share, or recovery key share of an OpenBao that unseals itself, readable
    /// for nobody else; repeat up to the threshold
    #[arg(long, value_name = "FILE", required = true)]
    unseal_key_file: Vec<PathBuf>,
    /// The current_key of `seal "static"`, where OpenBao unseals itself with it
    #[arg(long, value_name = "FILE", requires = "static_seal_key_id")]
    static_seal_key_file: Option<PathBuf>,
    /// The current_key_id of `seal "static"`
    #[arg(
        long,
        value_name = "ID",
        value_parser = key_id,
        requires = "static_seal_key_file"
    )]
    static_seal_key_id: Option<String>,
    /// The record that record-backup wrote for this set
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// The `bao` program [default: BAO_BIN, then PATH, then target/tools]
    #[arg(long, value_name = "PATH")]
    bao: Option<PathBuf>,
    /// Where the private directory is made; needs three times the size of the OpenBao snapshot
    #[arg(long, value_name = "DIRECTORY", default_value = "/tmp")]
    work_dir: PathBuf,
    /// Go on although nothing keeps the restored copy from other systems
    #[arg(long)]
    allow_network: bool,
    /// Name the first few objects that do not open
    #[arg(long)]
    show_names: bool,
    /// How old both snapshots may be, such as 26h
    #[arg(long, value_name = "DURATION", value_parser = parse_positive)]
    max_age: Option<Duration>,
    /// Write the report as JSON to a new file, or to one named after the time in a directory
    #[arg(long, value_name = "PATH")]
    report: Option<PathBuf>,
    /// Replace a file for the textfile collector of node exporter
    #[arg(long, value_name = "FILE")]
    metrics_file: Option<PathBuf>,
    #[command(flatten)]
    output: PageFlags,
}

impl Options {
    pub(super) fn run(self, context: &mut Context<'_>) -> Result<Exit, Failure> {
        let loaded = context.load()?;
        let config = Arc::new(loaded.config);
        let record = self.record.as_deref().map(read_record).transpose()?;
        self.output.require_new()?;
        // Found again on writing; this only spares the wait.
        if let Some(path) = &self.report
            && !path.is_dir()
            && path.symlink_metadata().is_ok()
        {
            let path = path.clone();
            return Err(Failure::DrillReportFile(DiskError::Exists { path }));
        }
        lifecycle::prepare();

        let known = LocalKnowledge::gather(&config, &loaded.path, record);
        let seal = self.static_seal_key_file.zip(self.static_seal_key_id);
        let setup = Setup {
            config: Arc::clone(&config),
            bao: self.bao,
            etcd_snapshot: self.etcd_snapshot,
            openbao_snapshot: self.openbao_snapshot,
            seal: seal.map(|(key_file, key_id)| StaticSeal { key_id, key_file }),
            unseal_key_files: self.unseal_key_file,
            work_dir: self.work_dir,
            allow_network: self.allow_network,
            names: self.show_names,
            max_age: self.max_age,
        };
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(Failure::Runtime)?;
        let rehearsal = runtime.block_on(async {
            let stop = lifecycle::stop_signal(Hangup::Stops).map_err(Failure::Runtime)?;
            Ok::<_, Failure>(drill::rehearse(&setup, &known, told(), stop).await)
        });
        // After a signal, objects may still be on their way through a thread.
        runtime.shutdown_background();

        let now = SystemClock.now();
        let again = context.again();
        let report = report::outcome(&setup, &known, &rehearsal?, &again, now);
        let shown = self.output.show(&report, context);
        let measured = match &self.metrics_file {
            Some(path) => metrics::write(path, &config, &report, now),
            None => Ok(()),
        };
        if let Some(path) = &self.report {
            let mut json = Vec::new();
            Output::Json.write(&report, Look::default(), &mut json)?;
            disk::create_new(&dated(path, now), &json).map_err(Failure::DrillReportFile)?;
        }
        measured.map_err(Failure::DrillMetricsFile)?;
        shown
    }
}

/// It goes into OpenBao's configuration, where `${` would begin something else.
fn key_id(text: &str) -> Result<String, &'static str> {
    let plain = |c: char| c.is_ascii_graphic() && !"\"\\$".contains(c);
    match !text.is_empty() && text.chars().all(plain) {
        true => Ok(text.to_owned()),
        false => Err("Must be visible ASCII characters without quotes, backslashes and dollars"),
    }
}

/// The path itself, or in a directory a name that sorts by time.
fn dated(path: &Path, now: SystemTime) -> PathBuf {
    if !path.is_dir() {
        return path.to_owned();
    }
    let time = Timestamp::try_from(now).unwrap_or_default();
    path.join(format!("drill-{}.json", time.strftime("%Y%m%dT%H%M%SZ")))
}

/// On a terminal and nowhere else.
fn told() -> ProgressReporter {
    let reading = ProgressLine::new("reading etcd");
    let opening = ProgressLine::new("opening objects");
    let terminal = io::stderr().is_terminal();
    ProgressReporter {
        step: Box::new(move |step| {
            if terminal {
                // Progress is a courtesy.
                writeln!(io::stderr(), "drill: {step}").ok();
            }
        }),
        reading: Box::new(move |done| reading.show(done)),
        opening: Box::new(move |done| opening.show(done)),
    }
}
