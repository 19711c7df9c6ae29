//! `verify-backup`: may this etcd data and this OpenBao go into service together?

use std::{
    io::Read as _,
    path::{Path, PathBuf},
};

use clap::Args;
use kms_domain::recovery::record::{BackupRecord, MAX_FILE_BYTES};
use kms_node::{
    clock::{Clock as _, SystemClock},
    config::Config,
};
use kms_operator::recovery::{
    EtcdError, EtcdSource,
    backup_record::{note_as_recorded, note_source},
    local_knowledge::LocalKnowledge,
    pair_report,
    verify_pair::{self, Depth, Pair, VerifyOptions, Watch},
};

use super::{
    Context, Exit, Failure, OutputFlag,
    etcd_source::{EtcdFlags, UnreadFlags},
    progress::ProgressLine,
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
    #[command(flatten)]
    unread: UnreadFlags,
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
        let loaded = context.load()?;
        let config = &loaded.config;
        config.auth.supported()?;
        let record = self.record.as_deref().map(read_record).transpose()?;
        let known = LocalKnowledge::gather(config, &loaded.path, record);
        let again = context.line.typed.clone();
        let verified = self.verify(config, &known);
        let now = SystemClock.now();
        let outcome = match verified {
            Ok((source, pair)) => {
                let noted = known.record.as_ref().and_then(|it| it.note().etcd.as_ref());
                let snapshot = if let Some(noted) = noted
                    && let Some(given) = note_source(&source)?
                {
                    Some(note_as_recorded(&source, given, &noted.file)?)
                } else {
                    None
                };
                known.report(
                    config,
                    &pair,
                    self.depth,
                    snapshot.as_ref(),
                    false,
                    &again,
                    now,
                )
            }
            Err(error) if error.is_misuse() => return Err(error.into()),
            Err(error) => pair_report::not_read(config, &loaded.path, &error, &again, now),
        };
        self.output.show(&outcome, context)
    }

    fn verify(
        &self,
        config: &Config,
        known: &LocalKnowledge,
    ) -> Result<(EtcdSource, Pair), EtcdError> {
        let source = self.etcd.source(Some(&self.unread))?;
        let options = VerifyOptions {
            prefix: self.etcd.prefix(),
            claims: known.claims(),
            removed: known.removed(),
            depth: self.depth,
            sample: None,
            names: self.show_names,
            superseded: false,
        };
        let reading = ProgressLine::new("reading etcd");
        let trying = ProgressLine::new("trying encrypted DEKs");
        let opening = ProgressLine::new("opening objects");
        let watch = Watch {
            reading: &|done| reading.show(done),
            trying: &|done| trying.show(done),
            opening: &|done| opening.show(done),
        };
        let pair = verify_pair::verify(config, &source, options, watch)?;
        Ok((source, pair))
    }
}

pub(super) fn read_record(path: &Path) -> Result<BackupRecord, Failure> {
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
