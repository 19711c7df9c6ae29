//! `verify-backup`: may this etcd data and this OpenBao go into service together?

use std::path::{Path, PathBuf};

use clap::Args;
use kms_domain::recovery::record::{BackupRecord, MAX_FILE_BYTES};
use kms_node::{
    clock::{Clock as _, SystemClock},
    config::Config,
};
use kms_operator::{
    attestation::statement::{Findings, Role},
    recovery::{
        EtcdError, EtcdSource,
        backup_record::{note_as_recorded, note_source},
        local_knowledge::LocalKnowledge,
        pair_report::{self, Line},
        recover_state::read_file,
        verify_pair::{self, Depth, Pair, VerifyOptions},
    },
};

use super::{
    Context, Exit, Failure, PageFlags,
    attest_flags::{AttestFlags, attest},
    etcd_source::{EtcdFlags, UnreadFlags},
    openbao_flags::OpenBaoFlags,
    progress::watching,
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
    #[arg(long, value_name = "FILE", help_heading = "Verification")]
    record: Option<PathBuf>,
    /// Decrypt every distinct DEK, or open every object too
    #[arg(
        long,
        value_enum,
        default_value_t,
        value_name = "DEPTH",
        help_heading = "Verification"
    )]
    depth: Depth,
    /// Name the first few objects that do not open
    #[arg(long, help_heading = "Verification")]
    show_names: bool,
    #[command(flatten)]
    openbao: OpenBaoFlags,
    #[command(flatten)]
    attest: AttestFlags,
    #[command(flatten)]
    output: PageFlags,
}

impl Options {
    pub(super) fn run(self, context: &mut Context<'_>) -> Result<Exit, Failure> {
        self.output.require_new()?;
        self.openbao.apply(context);
        let loaded = context.load()?;
        let config = &loaded.config;
        config.auth.supported()?;
        self.attest.require_subject(self.etcd.is_file())?;
        let attestor = self.attest.attestor(config)?;
        let record = self.record.as_deref().map(read_record).transpose()?;
        let known = LocalKnowledge::gather(config, &loaded.path, record);
        let (etcd, again) = (self.etcd.options(), context.again());
        let line = Line {
            etcd: &etcd,
            again: &again,
        };
        let noted = known.record.as_ref().and_then(|it| it.note().etcd.as_ref());
        let mut findings = Findings::default();
        let source = self.etcd.source(Some(&self.unread));
        let verified = source.and_then(|source| {
            let given = match noted.is_some() || attestor.is_some() {
                true => note_source(&source)?,
                false => None,
            };
            // Damage is a result too, on the file as given.
            findings.add_file(Role::EtcdSnapshot, given.as_ref());
            let pair = self.verify(config, &known, &source)?;
            let snapshot = match noted.zip(given) {
                Some((noted, given)) => Some(note_as_recorded(&source, given, &noted.file)?),
                None => None,
            };
            Ok((pair, snapshot))
        });
        let now = SystemClock.now();
        let mut outcome = match verified {
            Ok((pair, snapshot)) => {
                findings.add_pair(&pair);
                known.report(
                    config,
                    &pair,
                    self.depth,
                    snapshot.as_ref(),
                    false,
                    line,
                    now,
                )
            }
            Err(error) if error.is_misuse() => return Err(error.into()),
            Err(error) => pair_report::not_read(config, &loaded.path, &error, line, now),
        };
        outcome.set_sources(&context.sources);
        let shown = self.output.show(&outcome, context);
        attest(attestor.as_ref(), config, &outcome, findings, shown)
    }

    fn verify(
        &self,
        config: &Config,
        known: &LocalKnowledge,
        source: &EtcdSource,
    ) -> Result<Pair, EtcdError> {
        let options = VerifyOptions {
            prefix: self.etcd.prefix(),
            claims: known.claims(),
            removed: known.removed(),
            depth: self.depth,
            names: self.show_names,
            ..VerifyOptions::default()
        };
        watching(|watch| verify_pair::verify(config, source, options, watch))
    }
}

pub(super) fn read_record(path: &Path) -> Result<BackupRecord, Failure> {
    let bytes = read_file(path, MAX_FILE_BYTES).map_err(|source| Failure::RecordUnreadable {
        path: path.to_owned(),
        source,
    })?;
    BackupRecord::decode(&bytes).map_err(|problem| Failure::RecordInvalid {
        path: path.to_owned(),
        problem,
    })
}
