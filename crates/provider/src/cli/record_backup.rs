//! `record-backup`: the note that is kept with every backup set.

use std::{path::PathBuf, time::SystemTime};

use clap::Args;
use kms_domain::recovery::{offer::RECORDED_WITHIN, pair::Proof};
use kms_node::{
    advice::{self, Site},
    clock::{Clock as _, SystemClock},
    config::Config,
    report::{CheckName, CheckResult, counted, one_line, outcome::Outcome, table::Table},
    state::disk,
};
use kms_operator::{
    attestation::statement::{Findings, Role},
    recovery::{
        backup_record::{self, BackupError, BackupSet, NewRecord},
        backups::newest::newest_pair,
        prefix,
        raft_snapshot::RaftSnapshot,
        rows::{FileRow, Required},
        scan,
        verify_pair::Pair,
    },
};
use schemars::JsonSchema;
use serde::Serialize;

use super::{
    Context, Exit, Failure, OutputFlag,
    attest_flags::{AttestFlags, attest},
    openbao_flags::TokenFlags,
    progress::watching,
};

/// Write the record of a backup set: the state, key and snapshots that belong together
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
    #[arg(long, value_name = "FILE", group = "etcd")]
    etcd_snapshot: Option<PathBuf>,
    /// Take the newest pair of two directories, in place of both snapshots: this one with those of etcd
    #[arg(
        long,
        value_name = "DIRECTORY",
        group = "etcd",
        requires = "openbao_dir",
        conflicts_with_all = ["etcd_snapshot", "openbao_snapshot"]
    )]
    etcd_dir: Option<PathBuf>,
    /// The directory with those of OpenBao
    #[arg(long, value_name = "DIRECTORY", requires = "etcd_dir")]
    openbao_dir: Option<PathBuf>,
    /// As given to kube-apiserver [default: all keys of the snapshot]
    #[arg(long, value_name = "PREFIX", value_parser = prefix::parse, requires = "etcd")]
    etcd_prefix: Option<String>,
    /// The OpenBao snapshot of the set: the hashes in it are verified, and its own is noted
    #[arg(long, value_name = "FILE")]
    openbao_snapshot: Option<PathBuf>,
    #[command(flatten)]
    token: TokenFlags,
    #[command(flatten)]
    attest: AttestFlags,
    #[command(flatten)]
    output: OutputFlag,
}

impl Options {
    pub(super) fn run(mut self, context: &mut Context<'_>) -> Result<Exit, Failure> {
        self.token.apply(context);
        let loaded = context.load()?;
        let config = loaded.config;
        config.auth.supported()?;
        disk::require_new(&self.out).map_err(Failure::RecordFile)?;
        let mut limitations = Vec::new();
        if let (Some(etcd), Some(openbao)) = (&self.etcd_dir, &self.openbao_dir) {
            let pair = newest_pair(etcd, openbao)?;
            limitations = pair.limitations;
            self.etcd_snapshot = Some(pair.etcd);
            self.openbao_snapshot = Some(pair.openbao);
        }
        let set = BackupSet {
            etcd: self.etcd_snapshot.as_deref(),
            etcd_prefix: self.etcd_prefix.as_deref(),
            openbao: self.openbao_snapshot.as_deref(),
        };
        let attestor = self.attest.attestor(&config)?;
        let now = SystemClock.now();
        let gathered =
            watching(|watch| backup_record::gather(&config, set, now, watch).map_err(Box::new));
        let site = Site::new(&loaded.path, Some(&config));
        let mut findings = Findings::default();
        let mut outcome = match gathered {
            Ok(noted) => {
                disk::create_new(&self.out, noted.record.encode().as_bytes())
                    .map_err(Failure::RecordFile)?;
                let note = noted.record.note();
                let etcd = note.etcd.as_ref().map(|etcd| &etcd.file);
                findings.add_file(Role::EtcdSnapshot, etcd);
                findings.add_file(Role::OpenbaoSnapshot, note.openbao.as_ref());
                findings.add_path(Role::BackupRecord, &self.out);
                if let Some(pair) = &noted.pair {
                    findings.add_pair(pair);
                }
                recorded(&config, &noted, self.out.clone(), &site, now)
            }
            Err(error) => {
                for (role, path) in [
                    (Role::EtcdSnapshot, set.etcd),
                    (Role::OpenbaoSnapshot, set.openbao),
                ] {
                    path.into_iter()
                        .for_each(|path| findings.add_path(role, path));
                }
                not_recorded(&config, &error, &site, now)
            }
        };
        outcome.add_limitations(limitations);
        outcome.set_sources(&context.sources);
        let shown = self.output.show(&outcome, context);
        attest(attestor.as_ref(), &config, &outcome, findings, shown)
    }
}

/// The members of `record-backup`; absent if no record was written.
#[derive(Serialize, JsonSchema)]
pub(super) struct RecordBackup {
    #[serde(flatten)]
    record: Option<Recorded>,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Recorded {
    path: PathBuf,
    record_hash: String,
    active_transit_version: u64,
    active_key_id_hash: String,
    state_generation: u64,
    state_hash: String,
    latest_transit_version: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    etcd_snapshot: Option<EtcdRow>,
    #[serde(skip_serializing_if = "Option::is_none")]
    openbao_snapshot: Option<FileRow>,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct EtcdRow {
    #[serde(flatten)]
    file: FileRow,
    revision: u64,
    required_versions: Vec<Required>,
}

const NO_PROOF: &str = "A record names the parts of a set; it does not prove that the set can be \
     restored. Run verify-backup against a restored OpenBao.";
const NO_ETCD: &str = "No etcd snapshot was given, so the record does not name the versions that the \
     set must be able to decrypt.";
const NO_OPENBAO: &str =
    "No OpenBao snapshot was given, so the record does not name the one of the set.";
const NOT_OPENED: &str = "Of the OpenBao snapshot only the hashes were verified: it is encrypted, and \
     its content shows only after a restore.";

fn recorded(
    config: &Config,
    noted: &NewRecord,
    path: PathBuf,
    site: &Site<'_>,
    now: SystemTime,
) -> Outcome<RecordBackup> {
    let note = noted.record.note();
    let checks = checks(noted, site, now);
    let unfit = checks.iter().any(CheckResult::failed);
    let shown = path.display().to_string();
    let recorded = Recorded::of(noted, path);
    let tables = recorded.tables();
    let members = RecordBackup {
        record: Some(recorded),
    };
    let mut outcome = Outcome::new("record-backup", now, members);
    outcome.identify(&config.fingerprint());
    if unfit {
        let headline = format!(
            "the record {shown} was written, but the key does not decrypt all objects of the set"
        );
        outcome.conclude("recorded-incompatible", Exit::CheckFailed, headline);
        outcome.add_cause(&advice::evidence::SET_UNFIT.advise(site, &[]));
    } else {
        let headline = format!("the record {shown} was written: keep it with the snapshots");
        outcome.conclude("recorded", Exit::Success, headline);
    }
    outcome.add_tables(tables);
    outcome.add_checks(checks);
    outcome.add_limitations([NO_PROOF]);
    outcome.add_limitations(note.etcd.is_none().then_some(NO_ETCD));
    outcome.add_limitations([match note.openbao {
        None => NO_OPENBAO,
        Some(_) => NOT_OPENED,
    }]);
    outcome
}

/// The verdict is the code of the cause.
fn not_recorded(
    config: &Config,
    error: &BackupError,
    site: &Site<'_>,
    now: SystemTime,
) -> Outcome<RecordBackup> {
    let mut outcome = Outcome::new("record-backup", now, RecordBackup { record: None });
    outcome.identify(&config.fingerprint());
    let advice = advice::advise(&error.cause(), site);
    outcome.conclude_with(&advice);
    let headline = format!("no record was written: {}", advice.headline);
    outcome.conclude(advice.code, error.exit(), headline);
    outcome.set_found(one_line(error));
    if matches!(error, BackupError::Profile(_)) {
        let check = advice::key::CHECK.advise(site, &[]);
        outcome.add_steps(check);
    }
    outcome
}

impl Recorded {
    fn of(noted: &NewRecord, path: PathBuf) -> Self {
        let record = &noted.record;
        let note = record.note();
        let etcd = note.etcd.as_ref().map(|etcd| EtcdRow {
            file: (&etcd.file).into(),
            revision: etcd.revision,
            required_versions: Required::rows(&etcd.required),
        });
        Self {
            path,
            record_hash: record.hash().to_string(),
            active_transit_version: record.active().version().get(),
            active_key_id_hash: record.active().id_hash().to_string(),
            state_generation: note.state.generation.get(),
            state_hash: note.state.hash.to_string(),
            latest_transit_version: note.limits.latest.get(),
            etcd_snapshot: etcd,
            openbao_snapshot: note.openbao.as_ref().map(Into::into),
        }
    }

    fn tables(&self) -> [Table; 3] {
        let mut facts = Table::new("record", ["fact", "value"]);
        facts.facts("record hash", [&self.record_hash]);
        facts.facts("active version", [self.active_transit_version]);
        facts.facts("active keyIdHash", [&self.active_key_id_hash]);
        facts.facts("latest version", [self.latest_transit_version]);
        facts.facts("state generation", [self.state_generation]);
        facts.facts("state hash", [&self.state_hash]);
        let etcd = self.etcd_snapshot.as_ref();
        let files = [
            ("etcd", etcd.map(|etcd| &etcd.file)),
            ("OpenBao", self.openbao_snapshot.as_ref()),
        ];
        let files = files
            .into_iter()
            .filter_map(|(store, file)| Some((store, file?)));
        let files = Table::of("snapshots", files)
            .column("store", |(store, _)| store)
            .column("sha256", |(_, file)| &file.sha256)
            .column("bytes", |(_, file)| file.bytes);
        let versions = etcd.map_or(&[][..], |etcd| &*etcd.required_versions);
        let versions = Table::of("versions of the etcd snapshot", versions)
            .column("version", |it| it.transit_version)
            .column("objects", |it| it.objects);
        [facts, files.table(), versions.table()]
    }
}

fn checks(noted: &NewRecord, site: &Site<'_>, now: SystemTime) -> Vec<CheckResult> {
    let mut checks = vec![checkpoint(&noted.record.note().state.checkpoint, site)];
    match &noted.pair {
        None => {
            checks.extend([VERSIONS, DEKS].map(|name| name.skip("no --etcd-snapshot was given")))
        }
        Some(pair) => {
            checks.push(scan::integrity(pair.inventory.trust, site));
            checks.push(versions(noted, pair, site));
            checks.push(deks(pair));
        }
    }
    checks.push(openbao(noted.openbao, site));
    checks.push(prompt(noted.openbao, now));
    checks
}

const VERSIONS: CheckName = CheckName("etcd.versions", "Versions of the etcd snapshot");
const DEKS: CheckName = CheckName(
    "deks.decrypt",
    "Decryption of the encrypted DEKs of the etcd snapshot",
);
const OPENBAO: CheckName = CheckName("openbao.snapshot", "Hashes of the OpenBao snapshot");
const PROMPT: CheckName = CheckName(
    "openbao.age",
    "Time from the OpenBao snapshot to its record",
);
const LOSES: &str = "restored as it is, this set loses those objects; the record was written";

fn versions(noted: &NewRecord, pair: &Pair, site: &Site<'_>) -> CheckResult {
    let note = noted.record.note();
    let etcd = note.etcd.as_ref();
    let needed: u64 = etcd.map_or(0, |etcd| etcd.required.values().sum());
    let provider = &note.scope.identity().provider_name;
    let damaged = pair.damaged;
    if noted.unmapped > 0 || damaged > 0 {
        let message = format!(
            "of provider {provider}: {} without a version of the key, {} damaged in etcd",
            counted(noted.unmapped, "object"),
            counted(damaged, "value")
        );
        VERSIONS
            .fail(message)
            .impact(LOSES)
            .code(advice::evidence::SET_UNFIT.code)
    } else if needed == 0 {
        let message = format!("the snapshot holds no object of provider {provider}");
        VERSIONS
            .warn(message)
            .because(advice::evidence::NO_OBJECTS.advise(site, &[]))
            .impact("if secrets are encrypted in this cluster, this is another cluster's snapshot")
    } else {
        VERSIONS.pass().message(counted(needed, "object"))
    }
}

fn deks(pair: &Pair) -> CheckResult {
    let sum = |count: fn(&Proof) -> u64| {
        let counts = pair.rows.iter().map(|row| count(&row.finding.seeds));
        counts.fold(0, u64::saturating_add)
    };
    let (proven, failed) = (sum(|it| it.proven), sum(|it| it.failed));
    if failed > 0 {
        let objects = pair.rows.iter().map(|row| row.objects_of_failed_seeds());
        let objects = objects.fold(0, u64::saturating_add);
        let (failed, objects) = (counted(failed, "encrypted DEK"), counted(objects, "object"));
        let message = format!("not decrypted: {failed} of {objects}");
        DEKS.fail(message)
            .impact(LOSES)
            .code(advice::evidence::SET_UNFIT.code)
    } else if proven == 0 {
        DEKS.skip("none was decrypted")
    } else {
        DEKS.pass().message(counted(proven, "encrypted DEK"))
    }
}

fn openbao(snapshot: Option<RaftSnapshot>, site: &Site<'_>) -> CheckResult {
    match snapshot {
        None => OPENBAO.skip("no --openbao-snapshot was given"),
        Some(RaftSnapshot { sealed: true, .. }) => OPENBAO.pass(),
        Some(RaftSnapshot { sealed: false, .. }) => OPENBAO
            .warn("it has no SHA256SUMS.sealed")
            .because(advice::snapshot::OPENBAO_UNSIGNED.advise(site, &[])),
    }
}

/// `backups` takes the versions of a record for those of a snapshot of the same hour alone.
fn prompt(snapshot: Option<RaftSnapshot>, now: SystemTime) -> CheckResult {
    let Some(snapshot) = snapshot else {
        return PROMPT.skip("no --openbao-snapshot was given");
    };
    let age = snapshot.created.and_then(|it| now.duration_since(it).ok());
    match age {
        Some(age) if age.as_secs() > RECORDED_WITHIN => PROMPT
            .warn(format!("{} h", age.as_secs() / 3600))
            .impact(
                "the versions in the record are those of OpenBao now, possibly after a restore; `backups` \
                 does not take them for those of the snapshot",
            ),
        _ => PROMPT.pass(),
    }
}

fn checkpoint(status: &str, site: &Site<'_>) -> CheckResult {
    const NAME: CheckName = CheckName("registry.state", "State and checkpoint");
    match status {
        "current" => NAME.pass(),
        other => NAME
            .warn(format!("the checkpoint is {other}"))
            .because(advice::state::CHECKPOINT_LOST.advise(site, &[])),
    }
}
