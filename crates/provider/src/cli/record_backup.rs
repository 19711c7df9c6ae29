//! `record-backup`: the note that is kept with every backup set.

use std::{
    io::{self, Write},
    path::PathBuf,
};

use clap::Args;
use kms_domain::recovery::record::{BackupRecord, NotedFile};
use schemars::JsonSchema;
use serde::Serialize;

use super::{Context, Failure, OutputFlag, exit::Exit, progress::ProgressLine};
use crate::{
    clock::{Clock as _, SystemClock},
    recovery::{
        backup_record::{self, BackupSet, Noted},
        scan,
    },
    report::{Check, Render, Report},
    state::disk,
};

/// Write down what a backup set of etcd and OpenBao belongs to
///
/// Run it on a node that serves, when the snapshots have been made, and keep the file with them.
/// Nothing else is written or changed. Exit code 4 when the state, the key or the etcd snapshot do
/// not fit together, 5 when OpenBao or a file cannot be read.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// The new file; one that exists is never overwritten
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// The etcd snapshot of the set: its hash, revision and required versions are noted
    #[arg(long, value_name = "FILE")]
    etcd_snapshot: Option<PathBuf>,
    /// The OpenBao snapshot of the set: its hash is noted
    #[arg(long, value_name = "FILE")]
    openbao_snapshot: Option<PathBuf>,
    #[command(flatten)]
    output: OutputFlag,
}

impl Options {
    pub(super) fn run(self, context: &mut Context<'_>) -> Result<Exit, Failure> {
        let config = context.load()?.config;
        config.auth.jwt_file()?;
        // Found again on writing; this only spares the wait.
        if self.out.symlink_metadata().is_ok() {
            return Err(Failure::RecordFile(disk::DiskError::Exists {
                path: self.out,
            }));
        }
        let set = BackupSet {
            etcd: self.etcd_snapshot.as_deref(),
            openbao: self.openbao_snapshot.as_deref(),
        };
        let now = SystemClock.now();
        let progress = ProgressLine::new("reading etcd");
        let noted = backup_record::gather(&config, set, now, &|done| progress.show(done));
        drop(progress);
        let noted = noted?;
        disk::create_new(&self.out, noted.record.encode().as_bytes())
            .map_err(Failure::RecordFile)?;

        let mut report = Report::new("record-backup", now);
        report.identify(&config.fingerprint());
        let summary = Summary::of(report, &noted, self.out);
        self.output.output.write(&summary, context.out)?;
        Ok(summary.report.exit())
    }
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Summary {
    /// `recorded`, or `recorded-incompatible` when the set's own parts do not fit.
    verdict: &'static str,
    #[serde(flatten)]
    report: Report,
    path: PathBuf,
    record_hash: String,
    active_transit_version: u64,
    active_key_id_hash: String,
    state_generation: u64,
    state_hash: String,
    latest_transit_version: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    etcd_snapshot: Option<EtcdShown>,
    #[serde(skip_serializing_if = "Option::is_none")]
    openbao_snapshot: Option<FileShown>,
    limitations: Vec<&'static str>,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct FileShown {
    sha256: String,
    bytes: u64,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct EtcdShown {
    #[serde(flatten)]
    file: FileShown,
    revision: u64,
    required_versions: Vec<Required>,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Required {
    transit_version: u64,
    objects: u64,
}

const NO_PROOF: &str = "A record tells what belongs together; it does not prove that the backup can \
     be restored. Run verify-backup against a restored OpenBao.";
const NO_ETCD: &str = "No etcd snapshot was named, so the record does not tell which versions the \
     set must be able to decrypt.";
const NO_OPENBAO: &str =
    "No OpenBao snapshot was named, so the record does not tell which one belongs to the set.";
const NOT_OPENED: &str = "Of the OpenBao snapshot only the hash was taken: it is encrypted, and \
     what is in it shows only when it is restored.";

impl Summary {
    fn of(mut report: Report, noted: &Noted, path: PathBuf) -> Self {
        let record = &noted.record;
        for check in checks(noted) {
            report.push(check);
        }
        let note = record.note();
        let mut limitations = vec![NO_PROOF];
        limitations.extend(note.etcd.is_none().then_some(NO_ETCD));
        limitations.push(match note.openbao {
            None => NO_OPENBAO,
            Some(_) => NOT_OPENED,
        });
        Self {
            verdict: match report.exit() {
                Exit::Success => "recorded",
                _ => "recorded-incompatible",
            },
            report,
            path,
            record_hash: record.hash().to_string(),
            active_transit_version: record.active().version().get(),
            active_key_id_hash: record.active().id_hash().to_string(),
            state_generation: note.state.generation.get(),
            state_hash: note.state.hash.to_string(),
            latest_transit_version: note.limits.latest.get(),
            etcd_snapshot: note.etcd.as_ref().map(|etcd| EtcdShown {
                file: FileShown::of(&etcd.file),
                revision: etcd.revision,
                required_versions: etcd
                    .required
                    .iter()
                    .map(|(version, &objects)| Required {
                        transit_version: version.get(),
                        objects,
                    })
                    .collect(),
            }),
            openbao_snapshot: note.openbao.as_ref().map(FileShown::of),
            limitations,
        }
    }
}

fn checks(noted: &Noted) -> Vec<Check> {
    let record: &BackupRecord = &noted.record;
    let mut checks = vec![checkpoint(&record.note().state.checkpoint)];
    const ID: &str = "etcd.versions";
    const TITLE: &str = "The key decrypts what the etcd snapshot holds";
    let Some(inventory) = &noted.inventory else {
        checks.push(Check::skip(ID, TITLE, "no --etcd-snapshot was given"));
        return checks;
    };
    checks.push(scan::integrity(inventory.trust));
    let etcd = record.note().etcd.as_ref();
    let needed: u64 = etcd.map_or(0, |etcd| etcd.required.values().sum());
    let provider = &record.note().scope.identity().provider_name;
    let check = if noted.unmapped > 0 || noted.damaged > 0 {
        let message = format!(
            "{} objects of provider {provider} need a version that the key does not have or is \
             another key's; {} values of this provider are damaged in etcd",
            noted.unmapped, noted.damaged
        );
        Check::fail(ID, TITLE, message)
            .impact("restored as it is, this set loses those objects; the record was written")
            .remediation("run verify-backup with this snapshot: it names each cause and remedy")
    } else if needed == 0 {
        let message = format!("the snapshot holds no object of provider {provider}");
        Check::warn(ID, TITLE, message).remediation(
            "if secrets are encrypted in this cluster, this is another cluster's snapshot",
        )
    } else {
        let message = format!("{needed} objects, none of which was decrypted to prove it");
        Check::pass(ID, TITLE).message(message)
    };
    checks.push(check);
    checks
}

fn checkpoint(status: &str) -> Check {
    const ID: &str = "registry.state";
    const TITLE: &str = "State and checkpoint agree with each other and with the key";
    match status {
        "current" => Check::pass(ID, TITLE),
        other => Check::warn(ID, TITLE, format!("the checkpoint is {other}"))
            .remediation("compare with a peer: bao-kms-provider inspect-state"),
    }
}

impl FileShown {
    fn of(file: &NotedFile) -> Self {
        Self {
            sha256: file.sha256_hex(),
            bytes: file.bytes,
        }
    }
}

impl Render for Summary {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "record-backup: {}", self.verdict)?;
        writeln!(out, "path: {}", self.path.display())?;
        writeln!(out, "recordHash: {}", self.record_hash)?;
        writeln!(out, "activeTransitVersion: {}", self.active_transit_version)?;
        writeln!(out, "activeKeyIdHash: {}", self.active_key_id_hash)?;
        writeln!(out, "stateGeneration: {}", self.state_generation)?;
        writeln!(out, "stateHash: {}", self.state_hash)?;
        writeln!(out, "latestTransitVersion: {}", self.latest_transit_version)?;
        if let Some(etcd) = &self.etcd_snapshot {
            let FileShown { sha256, bytes } = &etcd.file;
            let revision = etcd.revision;
            writeln!(
                out,
                "etcdSnapshot: sha256={sha256} bytes={bytes} revision={revision}"
            )?;
            for required in &etcd.required_versions {
                writeln!(
                    out,
                    "required: transitVersion={} objects={}",
                    required.transit_version, required.objects
                )?;
            }
        }
        if let Some(FileShown { sha256, bytes }) = &self.openbao_snapshot {
            writeln!(out, "openbaoSnapshot: sha256={sha256} bytes={bytes}")?;
        }
        self.report.checks_text(out)?;
        for limitation in &self.limitations {
            writeln!(out, "limitation: {limitation}")?;
        }
        Ok(())
    }
}
