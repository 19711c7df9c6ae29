//! What a drill tells: for people the verdict first, then what to do, then step by step how it was
//! established, then what `verify-backup` says of the restored pair.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use kms_domain::recovery::{pair::Verdict as PairVerdict, record::NotedFile};
use openbao_lab::server::{restore::RestoreError, snapshot::SnapshotError};
use schemars::JsonSchema;
use serde::Serialize;

use super::{DrillError, Rehearsal, Setup, Stage};
use crate::{
    cli::exit::Exit,
    recovery::{pair_report::PairReport, verify_pair::Depth, witness::Witnesses},
    report::{Check, ImpactClass, Render, Report, one_line},
};

/// What a drill amounts to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The backups were restored, and every object opened.
    Compatible,
    /// They were restored, and no object is lost, but something must be done before all open.
    CompatibleAfter,
    /// They were restored, and some objects do not open.
    Incompatible,
    /// OpenBao does not come back from its snapshot with these shares.
    NotRestorable,
    /// The drill did not come to its end, or there was nothing to open.
    Inconclusive,
}

impl Verdict {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Compatible,
        Self::CompatibleAfter,
        Self::Incompatible,
        Self::NotRestorable,
        Self::Inconclusive,
    ];

    /// As in reports and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Compatible => "compatible",
            Self::CompatibleAfter => "compatible-after",
            Self::Incompatible => "incompatible",
            Self::NotRestorable => "not-restorable",
            Self::Inconclusive => "inconclusive",
        }
    }

    fn exit(self) -> Exit {
        match self {
            Self::Compatible => Exit::Success,
            Self::CompatibleAfter | Self::Incompatible | Self::NotRestorable => Exit::CheckFailed,
            Self::Inconclusive => Exit::Runtime,
        }
    }
}

/// The result of `drill`.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DrillReport {
    verdict: Verdict,
    summary: String,
    next_steps: Vec<String>,
    do_not: Vec<&'static str>,
    #[serde(flatten)]
    report: Report,
    etcd_snapshot: InputShown,
    openbao_snapshot: InputShown,
    /// Of the program that the copy ran.
    #[serde(skip_serializing_if = "Option::is_none")]
    openbao_version: Option<String>,
    durations: DurationsShown,
    proven: Proven,
    limitations: Vec<&'static str>,
    /// What `verify-backup` says of the etcd snapshot and the restored copy.
    #[serde(skip_serializing_if = "Option::is_none")]
    verification: Option<PairReport>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct InputShown {
    path: PathBuf,
    /// Of what was read; absent when it was not.
    #[serde(flatten)]
    file: Option<FileShown>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct FileShown {
    sha256: String,
    bytes: u64,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct DurationsShown {
    #[serde(skip_serializing_if = "Option::is_none")]
    restore_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unseal_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    verify_seconds: Option<f64>,
    total_seconds: f64,
}

/// What was seen to open.
#[derive(Debug, Clone, Default, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Proven {
    /// Objects of this provider.
    pub objects: u64,
    /// Distinct encrypted DEKs.
    pub deks: u64,
    /// The versions of the key that did it.
    pub transit_versions: Vec<u64>,
}

/// Identifier and title of a check. Stable.
type Name = (&'static str, &'static str);

const LEFTOVERS: Name = ("drill.leftovers", "Earlier drills have left nothing");
const RECORD: Name = (
    "openbao.record",
    "The OpenBao snapshot is that of the record",
);
const REMOVED: Name = ("drill.removed", "Nothing of the copy is left");

/// Each step as a check.
const STAGES: [(Stage, Name); 6] = [
    (
        Stage::Isolation,
        ("drill.isolation", "The copy cannot reach other systems"),
    ),
    (
        Stage::Inputs,
        ("drill.inputs", "Backups, shares and program are there"),
    ),
    (
        Stage::Restore,
        ("openbao.restore", "OpenBao takes the snapshot"),
    ),
    (
        Stage::Unseal,
        ("openbao.shares", "The shares open the snapshot"),
    ),
    (
        Stage::Start,
        ("openbao.start", "The copy is unsealed and serves"),
    ),
    (
        Stage::Verify,
        ("pair.verified", "Every object opens with the restored key"),
    ),
];

impl DrillReport {
    /// The exit code of the command.
    #[must_use]
    pub fn exit(&self) -> Exit {
        self.report.exit()
    }

    /// What it amounts to.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// What was seen to open.
    #[must_use]
    pub fn proven(&self) -> &Proven {
        &self.proven
    }

    /// How long all of it took.
    #[must_use]
    pub fn total_seconds(&self) -> f64 {
        self.durations.total_seconds
    }

    /// Puts what was found into words.
    #[must_use]
    pub fn new(
        setup: &Setup,
        witnesses: &Witnesses,
        rehearsal: &Rehearsal,
        now: SystemTime,
    ) -> Self {
        let config = &setup.config;
        let verification = rehearsal.verified.as_ref().map(|verified| match verified {
            Ok(pair) => {
                let etcd = rehearsal.etcd.as_ref();
                witnesses.report(config, pair, Depth::Data, etcd, true, now)
            }
            Err(error) => PairReport::unread(config, error, now),
        });
        let verdict = verdict(rehearsal, verification.as_ref());
        let mut report = Report::new("drill", now);
        report.identify(&config.fingerprint());
        let pair = verification.as_ref();
        for (stage, name) in STAGES {
            report.push(stage_check(rehearsal, pair, stage, name));
            match stage {
                Stage::Isolation => report.push(leftovers(rehearsal)),
                Stage::Inputs => report.push(record(witnesses, rehearsal)),
                Stage::Restore | Stage::Unseal | Stage::Start | Stage::Verify => {}
            }
        }
        report.push(removed(rehearsal));
        report.conclude(verdict.exit());
        Self {
            verdict,
            summary: summary(verdict, rehearsal, pair),
            next_steps: next_steps(rehearsal, pair),
            do_not: do_not(verdict, pair),
            report,
            etcd_snapshot: InputShown::of(&setup.etcd_snapshot, rehearsal.etcd.as_ref()),
            openbao_snapshot: InputShown::of(&setup.openbao_snapshot, rehearsal.openbao.as_ref()),
            openbao_version: rehearsal.version.clone(),
            durations: DurationsShown::of(rehearsal),
            proven: Proven::of(rehearsal),
            limitations: limitations(setup, rehearsal),
            verification,
        }
    }
}

fn verdict(rehearsal: &Rehearsal, pair: Option<&PairReport>) -> Verdict {
    match (&rehearsal.failure, pair) {
        // What came after the proof does not take it back.
        (_, Some(pair)) => match pair.verdict() {
            PairVerdict::Compatible => Verdict::Compatible,
            PairVerdict::CompatibleAfter => Verdict::CompatibleAfter,
            PairVerdict::Incompatible => Verdict::Incompatible,
            PairVerdict::Inconclusive => Verdict::Inconclusive,
        },
        (Some(failure), None) if failure.condemns() => Verdict::NotRestorable,
        (_, None) => Verdict::Inconclusive,
    }
}

fn stage_check(
    rehearsal: &Rehearsal,
    pair: Option<&PairReport>,
    stage: Stage,
    (id, title): Name,
) -> Check {
    if stage > rehearsal.stage {
        return Check::skip(id, title, "the drill ended before");
    }
    if stage == rehearsal.stage
        && let Some(failure) = &rehearsal.failure
        && pair.is_none()
    {
        let check = Check::fail(id, title, one_line(failure));
        return match next_step(failure) {
            Some(step) => check.remediation(step),
            None => check,
        };
    }
    match stage {
        Stage::Isolation => isolation(rehearsal, (id, title)),
        Stage::Start => {
            let version = rehearsal.version.as_deref().unwrap_or("unknown");
            Check::pass(id, title).message(format!("OpenBao {version}"))
        }
        Stage::Unseal => match rehearsal.audit_devices {
            None | Some(0) => Check::pass(id, title),
            Some(devices) => {
                let message = format!("its {devices} audit devices were removed from the copy");
                Check::pass(id, title).message(message)
            }
        },
        Stage::Verify => match pair {
            Some(pair) if pair.verdict() == PairVerdict::Compatible => Check::pass(id, title),
            Some(pair) => Check::fail(id, title, pair.summary())
                .impact("a restore of these two backups would not bring all data back")
                .impact_class(ImpactClass::DataRecovery),
            None => Check::skip(id, title, "nothing was verified"),
        },
        Stage::Inputs | Stage::Restore => Check::pass(id, title),
    }
}

fn isolation(rehearsal: &Rehearsal, (id, title): Name) -> Check {
    let isolation = &rehearsal.isolation;
    let network = match &isolation.interfaces {
        Ok(interfaces) if interfaces.is_empty() => "there is no network but loopback".to_owned(),
        Ok(interfaces) => {
            let names: Vec<_> = interfaces.iter().map(String::as_str).collect();
            format!("this machine's network is there ({})", names.join(", "))
        }
        Err(error) => format!("whether there is a network cannot be told ({error})"),
    };
    let confined = match &isolation.confined {
        Ok(()) => "the kernel kept the copy from TCP connections and from other files".to_owned(),
        Err(why) => format!("the kernel did not confine the copy: {why}"),
    };
    let message = format!("{network}; {confined}");
    if isolation.holds() {
        Check::pass(id, title).message(message)
    } else {
        Check::warn(id, title, message)
            .impact("the copy may have revoked leases or rotated passwords in other systems")
            .remediation(ISOLATE)
    }
}

fn leftovers(rehearsal: &Rehearsal) -> Check {
    let (id, title) = LEFTOVERS;
    let Some(leftovers) = &rehearsal.leftovers else {
        return Check::skip(id, title, "the drill ended before");
    };
    if leftovers.is_empty() {
        return Check::pass(id, title);
    }
    let paths = leftovers.iter().map(|path| path.display().to_string());
    let paths: Vec<_> = paths.collect();
    Check::warn(id, title, format!("removed: {}", paths.join(", ")))
        .impact("copies of OpenBao's encrypted data lay there since the machine went down")
}

fn record(witnesses: &Witnesses, rehearsal: &Rehearsal) -> Check {
    let (id, title) = RECORD;
    let Some(record) = &witnesses.record else {
        return Check::skip(id, title, "no --record was given");
    };
    match (&record.note().openbao, &rehearsal.openbao) {
        (None, _) => Check::skip(id, title, "the record names no OpenBao snapshot"),
        (_, None) => Check::skip(id, title, "the drill ended before"),
        (Some(noted), Some(found)) if noted.sha256 == found.sha256 => Check::pass(id, title),
        (Some(noted), Some(_)) => {
            let message = format!("the record has another one: {}", noted.sha256_hex());
            Check::warn(id, title, message).remediation("compare the files of the backup set")
        }
    }
}

fn removed(rehearsal: &Rehearsal) -> Check {
    let (id, title) = REMOVED;
    match &rehearsal.not_removed {
        None => Check::pass(id, title),
        Some((path, error)) => Check::fail(id, title, format!("{}: {error}", path.display()))
            .remediation("remove it; it holds a copy of OpenBao's encrypted data"),
    }
}

const ISOLATE: &str = "run it with packaging/systemd/bao-kms-drill.service, or in another way without \
     a network, such as: systemd-run --pipe -p PrivateNetwork=yes";

/// What helps, and where OpenBao's own words do not say it.
fn next_step(failure: &DrillError) -> Option<&'static str> {
    match failure {
        DrillError::NotIsolated => Some(
            "run it with packaging/systemd/bao-kms-drill.service or in another way without a \
             network, or on Linux 6.7 with Landlock; --allow-network only if no engine in this \
             OpenBao holds credentials of other systems",
        ),
        DrillError::NoLoopback => Some("bring it up there: ip link set lo up"),
        DrillError::Restore(RestoreError::WrongShares) => Some(
            "take the shares that belonged to this OpenBao when the snapshot was made; if it \
             unseals itself, those are its recovery keys, and its seal's key must fit too",
        ),
        DrillError::Restore(RestoreError::OtherSeal { .. }) => Some(
            "give its key with --static-seal-key-file if it unseals itself with seal \"static\"; other \
             seals, such as cloud services and HSMs, cannot be reached from a drill",
        ),
        DrillError::Restore(RestoreError::MoreShares { .. }) => {
            Some("give more shares, each in a file of its own with --unseal-key-file")
        }
        DrillError::Restore(RestoreError::Snapshot(SnapshotError::Failed { .. })) => Some(
            "copy the snapshot again and compare its hash, or take an earlier one; keep the \
             damaged one until another is proven",
        ),
        DrillError::Restore(_) => {
            Some("take the OpenBao program of the version that the snapshot is from")
        }
        DrillError::WorkDir { .. } | DrillError::Snapshot { .. } => {
            Some("look at the path, its permissions, and the space below --work-dir")
        }
        DrillError::Leftovers { .. } => Some("remove it by hand"),
        DrillError::Etcd(_) | DrillError::Hash(_) => Some("look at the path and its permissions"),
        DrillError::BaoNotFound(_)
        | DrillError::Share { .. }
        | DrillError::Interrupted(_)
        | DrillError::Lost => None,
    }
}

fn summary(verdict: Verdict, rehearsal: &Rehearsal, pair: Option<&PairReport>) -> String {
    match (verdict, pair, &rehearsal.failure) {
        (_, Some(pair), _) => format!("OpenBao came back; {}", pair.summary()),
        (Verdict::NotRestorable, None, Some(failure)) => format!(
            "OpenBao does not come back from this snapshot with these shares, so nothing in etcd \
             can be read after a restore: {}",
            first_line(failure)
        ),
        (_, None, Some(failure)) => {
            format!(
                "nothing was proven and nothing disproven: {}",
                first_line(failure)
            )
        }
        (_, None, None) => "nothing was proven and nothing disproven".to_owned(),
    }
}

/// Without what OpenBao wrote; the check has all of it.
fn first_line(failure: &DrillError) -> String {
    let text = one_line(failure);
    text.lines().next().unwrap_or_default().to_owned()
}

fn next_steps(rehearsal: &Rehearsal, pair: Option<&PairReport>) -> Vec<String> {
    let mut steps: Vec<String> = pair.map_or_else(Vec::new, |pair| pair.next_steps().to_vec());
    if pair.is_none()
        && let Some(failure) = &rehearsal.failure
    {
        steps.extend(next_step(failure).map(str::to_owned));
        steps.push("run the drill again".to_owned());
    }
    steps
}

fn do_not(verdict: Verdict, pair: Option<&PairReport>) -> Vec<&'static str> {
    let mut all = pair.map_or_else(Vec::new, |pair| pair.do_not().to_vec());
    if verdict != Verdict::Compatible {
        all.push("do not delete older backups of either store before a drill has succeeded");
    }
    all
}

fn limitations(setup: &Setup, rehearsal: &Rehearsal) -> Vec<&'static str> {
    let isolation = &rehearsal.isolation;
    let mut all = Vec::new();
    let mut add = |applies: bool, text| all.extend(applies.then_some(text));
    add(
        !isolation.holds() && setup.allow_network,
        "Nothing kept the copy from other systems: look there for revoked leases and changed \
         passwords.",
    );
    add(
        isolation.holds() && !isolation.no_network(),
        "The copy was kept from TCP alone: UDP and the Unix sockets of this machine were not \
         closed to it. The systemd unit closes them.",
    );
    add(
        true,
        "The login of the provider was not tried: policies and roles are in the snapshot, but who \
         issues its JWT is not part of a drill.",
    );
    add(
        true,
        "One copy stood for the cluster: that its members, seals in hardware, certificates and \
         addresses can be set up again is not shown.",
    );
    all
}

impl Proven {
    fn of(rehearsal: &Rehearsal) -> Self {
        let mut proven = Self::default();
        let Some(Ok(pair)) = &rehearsal.verified else {
            return proven;
        };
        for row in &pair.rows {
            let objects = row.finding.data.map_or(0, |data| data.proven);
            proven.objects = proven.objects.saturating_add(objects);
            proven.deks = proven.deks.saturating_add(row.finding.seeds.proven);
            let version = row.version.map(|version| version.get());
            let version = version.filter(|version| !proven.transit_versions.contains(version));
            if objects > 0 {
                proven.transit_versions.extend(version);
            }
        }
        proven
    }
}

impl InputShown {
    fn of(path: &Path, file: Option<&NotedFile>) -> Self {
        Self {
            path: path.to_owned(),
            file: file.map(|file| FileShown {
                sha256: file.sha256_hex(),
                bytes: file.bytes,
            }),
        }
    }

    fn text(&self, name: &str, out: &mut dyn Write) -> io::Result<()> {
        let path = self.path.display();
        match &self.file {
            Some(file) => writeln!(
                out,
                "{name}: {path} sha256={} bytes={}",
                file.sha256, file.bytes
            ),
            None => writeln!(out, "{name}: {path}"),
        }
    }
}

impl DurationsShown {
    fn of(rehearsal: &Rehearsal) -> Self {
        let seconds = |took: Duration| (took.as_secs_f64() * 1e3).round() / 1e3;
        let durations = &rehearsal.durations;
        Self {
            restore_seconds: durations.restore.map(seconds),
            unseal_seconds: durations.unseal.map(seconds),
            verify_seconds: durations.verify.map(seconds),
            total_seconds: seconds(durations.total),
        }
    }
}

impl Render for DrillReport {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "drill: {}", self.verdict.as_str())?;
        writeln!(out, "{}", self.summary)?;
        for step in &self.next_steps {
            writeln!(out, "next: {step}")?;
        }
        for not in &self.do_not {
            writeln!(out, "do not: {}", not.trim_start_matches("do not "))?;
        }
        writeln!(out)?;
        self.etcd_snapshot.text("etcd snapshot", out)?;
        self.openbao_snapshot.text("OpenBao snapshot", out)?;
        for (name, seconds) in [
            ("restore", self.durations.restore_seconds),
            ("unseal", self.durations.unseal_seconds),
            ("verify", self.durations.verify_seconds),
            ("in all", Some(self.durations.total_seconds)),
        ] {
            if let Some(seconds) = seconds {
                writeln!(out, "{name}: {seconds:.1} s")?;
            }
        }
        self.report.checks_text(out)?;
        for limitation in &self.limitations {
            writeln!(out, "limitation: {limitation}")?;
        }
        match &self.verification {
            None => Ok(()),
            Some(pair) => pair.details(out),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, sync::Arc, time::UNIX_EPOCH};

    use super::*;
    use crate::{
        config::{Environment, Flags, load},
        drill::{Durations, isolation::Isolation},
    };

    fn setup(allow_network: bool) -> Setup {
        let flags = Flags {
            config: Some("tests/config/good/minimal.yaml".into()),
            ..Flags::default()
        };
        let loaded = load(&flags, &Environment::default()).unwrap();
        Setup {
            config: Arc::new(loaded.config),
            bao: None,
            etcd_snapshot: "etcd.db".into(),
            openbao_snapshot: "openbao.snap".into(),
            seal: None,
            unseal_key_files: Vec::new(),
            work_dir: "/tmp".into(),
            allow_network,
            names: false,
        }
    }

    /// Of a machine with a network and a kernel without Landlock.
    fn exposed(stage: Stage, failure: Option<DrillError>) -> Rehearsal {
        Rehearsal {
            failure,
            stage,
            isolation: Isolation {
                interfaces: Ok(BTreeSet::from(["eth0".to_owned()])),
                confined: Err("the kernel is too old".to_owned()),
            },
            leftovers: None,
            etcd: None,
            openbao: None,
            version: None,
            audit_devices: None,
            durations: Durations::default(),
            verified: None,
            not_removed: None,
        }
    }

    fn told(setup: &Setup, rehearsal: &Rehearsal) -> (Exit, String) {
        let witnesses = Witnesses::gather(&setup.config, None);
        let report = DrillReport::new(setup, &witnesses, rehearsal, UNIX_EPOCH);
        let mut text = Vec::new();
        report.text(&mut text).unwrap();
        (report.exit(), String::from_utf8(text).unwrap())
    }

    #[test]
    fn a_copy_that_could_reach_other_systems_is_not_made_unless_that_is_wanted() {
        let refused = exposed(Stage::Isolation, Some(DrillError::NotIsolated));
        assert!(!refused.isolation.holds());
        let (exit, text) = told(&setup(false), &refused);
        assert_eq!(exit, Exit::Runtime);
        assert!(text.starts_with("drill: inconclusive\n"), "{text}");
        assert!(text.contains("[fail] drill.isolation"), "{text}");
        assert!(
            text.contains("next: run it with packaging/systemd"),
            "{text}"
        );

        let wanted = exposed(Stage::Inputs, Some(DrillError::Lost));
        let (_, text) = told(&setup(true), &wanted);
        assert!(text.contains("[warn] drill.isolation"), "{text}");
        assert!(
            text.contains("(eth0); the kernel did not confine"),
            "{text}"
        );
        assert!(text.contains("limitation: Nothing kept the copy"), "{text}");
    }

    #[test]
    fn a_full_disk_condemns_no_backup_and_a_refused_snapshot_does() {
        let failed = |said: &str| {
            let failed = SnapshotError::Failed {
                action: "restore",
                said: said.to_owned(),
            };
            let failure = DrillError::Restore(RestoreError::Snapshot(failed));
            told(&setup(true), &exposed(Stage::Restore, Some(failure)))
        };
        let (exit, text) = failed("write /x: no space left on device");
        assert_eq!(exit, Exit::Runtime);
        assert!(text.contains("nothing disproven"), "{text}");
        let (exit, text) = failed("failed to verify\nhash of state.bin");
        assert_eq!(exit, Exit::CheckFailed);
        assert!(text.starts_with("drill: not-restorable\n"), "{text}");
        assert!(text.contains("[skip] openbao.shares"), "{text}");
    }
}
