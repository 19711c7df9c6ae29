//! `verify-backup`: may this etcd data and this OpenBao go into service together?

use std::{
    io::Read as _,
    path::{Path, PathBuf},
};

use clap::Args;
use kms_domain::recovery::record::{BackupRecord, MAX_FILE_BYTES};

use super::{
    Context, Failure, OutputFlag, etcd_source::EtcdFlags, exit::Exit, progress::ProgressLine,
};
use crate::{
    clock::{Clock as _, SystemClock},
    recovery::{
        backup_record::note_source,
        drift::drift,
        pair_report::{Facts, PairReport},
        verify_pair::{self, Depth, Question, Watch},
    },
    report::one_line,
    state,
};

/// Prove that an etcd backup and an OpenBao can go into service together
///
/// Reads the etcd snapshot and asks the OpenBao of the configuration: live, or restored in
/// isolation. Changes nothing and shows no secret. Exit code 0 when the pair is compatible, 4 when it
/// is not or not yet, 5 when that could not be established.
#[derive(Debug, Args)]
pub(super) struct Options {
    #[command(flatten)]
    etcd: EtcdFlags,
    /// The record that record-backup wrote for this set
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// Decrypt every distinct DEK, or open every object too
    #[arg(long, value_enum, default_value_t, value_name = "DEPTH")]
    depth: Depth,
    /// Name the first few objects that do not open
    #[arg(long)]
    show_names: bool,
    #[command(flatten)]
    output: OutputFlag,
}

impl Options {
    pub(super) fn run(self, context: &mut Context<'_>) -> Result<Exit, Failure> {
        let config = context.load()?.config;
        config.auth.jwt_file()?;
        let record = self.record.as_deref().map(read_record).transpose()?;
        let source = self.etcd.source()?;
        let stored = state::inspect(&config.state_path);

        let mut evidence = Vec::new();
        if let Ok(stored) = &stored
            && let Some(document) = &stored.document
        {
            let records = document.registry().records().iter();
            evidence.extend(records.map(|record| record.key.clone()));
        }
        if let Some(record) = &record {
            let versions = record.note().versions.values();
            evidence.extend(versions.map(|version| version.key.clone()));
        }
        let depth = self.depth;
        let question = Question {
            prefix: self.etcd.prefix(),
            evidence,
            depth,
            names: self.show_names,
        };
        let verified = {
            let reading = ProgressLine::new("reading etcd");
            let trying = ProgressLine::new("trying encrypted DEKs");
            let opening = ProgressLine::new("opening objects");
            let watch = Watch {
                reading: &|done| reading.show(done),
                trying: &|done| trying.show(done),
                opening: &|done| opening.show(done),
            };
            verify_pair::verify(&config, &source, question, watch)
        };
        let pair = match verified {
            Ok(pair) => pair,
            Err(error) => {
                let report = PairReport::unread(&config, &error, SystemClock.now());
                self.output.output.write(&report, context.out)?;
                return Ok(report.exit());
            }
        };

        let no_state = match &stored {
            Ok(_) => "there is no state on this node".to_owned(),
            Err(error) => one_line(error),
        };
        let document = stored.as_ref().ok().and_then(|it| it.document.as_ref());
        let snapshot = match &record {
            Some(record) if record.note().etcd.is_some() => note_source(&source)?,
            _ => None,
        };
        let drift = record.as_ref().map_or_else(Vec::new, |record| {
            let stored = stored.as_ref().ok();
            drift(record, &config, stored, &pair, snapshot.as_ref())
        });
        let facts = Facts {
            config: &config,
            pair: &pair,
            depth,
            state: document.ok_or(&*no_state),
            record: record.as_ref(),
            drift: &drift,
        };
        let report = PairReport::new(facts, SystemClock.now());
        self.output.output.write(&report, context.out)?;
        Ok(report.exit())
    }
}

fn read_record(path: &Path) -> Result<BackupRecord, Failure> {
    let read = || {
        let mut bytes = Vec::new();
        let most = u64::try_from(MAX_FILE_BYTES).unwrap_or(u64::MAX);
        let file = std::fs::File::open(path)?;
        file.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().map_err(|source| Failure::RecordUnreadable {
        path: path.to_owned(),
        source,
    })?;
    BackupRecord::decode(&bytes).map_err(|problem| Failure::RecordInvalid {
        path: path.to_owned(),
        problem,
    })
}
