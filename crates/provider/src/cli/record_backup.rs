//! `record-backup`: the note that is kept with every backup set.

use std::{
    io::{self, Write},
    path::PathBuf,
};

use clap::Args;
use kms_domain::recovery::{pair::Proof, record::NotedFile};
use schemars::JsonSchema;
use serde::Serialize;

use super::{Context, Failure, OutputFlag, exit::Exit, progress::ProgressLine};
use crate::{
    clock::{Clock as _, SystemClock},
    recovery::{
        backup_record::{self, BackupSet, Noted},
        prefix,
        raft_snapshot::RaftSnapshot,
        scan,
        verify_pair::{Pair, Watch},
    },
    report::{Check, Render, Report},
    state::disk,
};

/// Write down what a backup set of etcd and OpenBao belongs to
///
/// Run it on a node that serves, when the snapshots have been made, and keep the file with them.
/// Nothing else is written or changed. Exit code 4 when the state, the key or the snapshots do not fit
/// together, 5 when OpenBao or a file cannot be read, or a file is no snapshot.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// The new file; one that exists is never overwritten
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// The etcd snapshot of the set: its hash, revision and required versions are noted, and its DEKs
    /// are tried
    #[arg(long, value_name = "FILE")]
    etcd_snapshot: Option<PathBuf>,
    /// As given to kube-apiserver [default: all keys of the snapshot]
    #[arg(long, value_name = "PREFIX", value_parser = prefix::parse, requires = "etcd_snapshot")]
    etcd_prefix: Option<String>,
    /// The OpenBao snapshot of the set: the hashes in it are verified, and its own is noted
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
            etcd_prefix: self.etcd_prefix.as_deref(),
            openbao: self.openbao_snapshot.as_deref(),
        };
        let now = SystemClock.now();
        let noted = {
            let reading = ProgressLine::new("reading etcd");
            let trying = ProgressLine::new("trying encrypted DEKs");
            let watch = Watch {
                reading: &|done| reading.show(done),
                trying: &|done| trying.show(done),
                opening: &|_| {},
            };
            backup_record::gather(&config, set, now, watch)
        }?;
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
const NOT_OPENED: &str = "Of the OpenBao snapshot only the hashes were verified: it is encrypted, and \
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
    let mut checks = vec![checkpoint(&noted.record.note().state.checkpoint)];
    match &noted.pair {
        None => checks.extend(
            [VERSIONS, DEKS]
                .map(|(id, title)| Check::skip(id, title, "no --etcd-snapshot was given")),
        ),
        Some(pair) => {
            checks.push(scan::integrity(pair.inventory.trust));
            checks.push(versions(noted, pair));
            checks.push(deks(pair));
        }
    }
    checks.push(openbao(noted.openbao));
    checks
}

/// Identifier and title of a check. Stable.
type Name = (&'static str, &'static str);

const VERSIONS: Name = (
    "etcd.versions",
    "The key has the versions that the etcd snapshot needs",
);
const DEKS: Name = (
    "deks.decrypt",
    "Every encrypted DEK of the etcd snapshot decrypts",
);
const OPENBAO: Name = (
    "openbao.snapshot",
    "The OpenBao snapshot has the hashes that are in it",
);
const LOSES: &str = "restored as it is, this set loses those objects; the record was written";
const VERIFY: &str = "run verify-backup with this snapshot: it names each cause and remedy";

fn versions(noted: &Noted, pair: &Pair) -> Check {
    let (id, title) = VERSIONS;
    let note = noted.record.note();
    let etcd = note.etcd.as_ref();
    let needed: u64 = etcd.map_or(0, |etcd| etcd.required.values().sum());
    let provider = &note.scope.identity().provider_name;
    let damaged = pair.damaged;
    if noted.unmapped > 0 || damaged > 0 {
        let message = format!(
            "{} objects of provider {provider} need a version that the key does not have or is \
             another key's; {damaged} values of this provider are damaged in etcd",
            noted.unmapped
        );
        Check::fail(id, title, message)
            .impact(LOSES)
            .remediation(VERIFY)
    } else if needed == 0 {
        let message = format!("the snapshot holds no object of provider {provider}");
        Check::warn(id, title, message).remediation(
            "if secrets are encrypted in this cluster, this is another cluster's snapshot",
        )
    } else {
        Check::pass(id, title).message(format!("{needed} objects"))
    }
}

fn deks(pair: &Pair) -> Check {
    let (id, title) = DEKS;
    let sum = |count: fn(&Proof) -> u64| {
        let counts = pair.rows.iter().map(|row| count(&row.finding.seeds));
        counts.fold(0, u64::saturating_add)
    };
    let (proven, failed) = (sum(|it| it.proven), sum(|it| it.failed));
    if failed > 0 {
        let objects = pair.rows.iter().map(|row| row.objects_of_failed_seeds());
        let objects = objects.fold(0, u64::saturating_add);
        let message = format!("{failed} encrypted DEKs of {objects} objects do not decrypt");
        Check::fail(id, title, message)
            .impact(LOSES)
            .remediation(VERIFY)
    } else if proven == 0 {
        Check::skip(id, title, "there is none that the key should decrypt")
    } else {
        Check::pass(id, title).message(format!("{proven} encrypted DEKs"))
    }
}

fn openbao(snapshot: Option<RaftSnapshot>) -> Check {
    let (id, title) = OPENBAO;
    match snapshot {
        None => Check::skip(id, title, "no --openbao-snapshot was given"),
        Some(RaftSnapshot { sealed: true, .. }) => Check::pass(id, title),
        Some(RaftSnapshot { sealed: false, .. }) => {
            Check::warn(id, title, "it has no SHA256SUMS.sealed")
                .impact("OpenBao restores it with -force alone, since it cannot tell who wrote it")
                .remediation("save another one: bao operator raft snapshot save FILE")
        }
    }
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
