//! What a drill tells: for people the verdict first, then what to do, then step by step how it was
//! established, then what `verify-backup` says of the restored pair.

mod checks;

use std::{
    borrow::Cow,
    io::{self, Write},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use jiff::Timestamp;
use kms_domain::recovery::{pair::Verdict as PairVerdict, record::NotedFile};
use schemars::JsonSchema;
use serde::Serialize;

use super::{
    Rehearsal, Setup,
    age::{Age, Ages, Hours, Made},
    failure::DrillError,
};
use crate::{
    cli::exit::Exit,
    recovery::{pair_report::PairReport, verify_pair::Depth, witness::Witnesses},
    report::{DoNot, Render, Report, one_line},
};
use checks::checks;

/// What a drill amounts to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The backups were restored, and every object opened.
    Compatible,
    /// The same, but one of them is older than `--max-age`.
    Outdated,
    /// They were restored, and all objects open once steps were taken, as the drill did in its copy.
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
    pub const ALL: [Self; 6] = [
        Self::Compatible,
        Self::Outdated,
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
            Self::Outdated => "outdated",
            Self::CompatibleAfter => "compatible-after",
            Self::Incompatible => "incompatible",
            Self::NotRestorable => "not-restorable",
            Self::Inconclusive => "inconclusive",
        }
    }

    fn exit(self) -> Exit {
        match self {
            Self::Compatible => Exit::Success,
            Self::Outdated | Self::CompatibleAfter | Self::Incompatible | Self::NotRestorable => {
                Exit::CheckFailed
            }
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
    #[serde(flatten)]
    age: Option<AgeShown>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct AgeShown {
    #[serde(skip)]
    made: SystemTime,
    /// RFC 3339.
    made_at: String,
    age_seconds: u64,
    /// What tells: `archive` (the raft snapshot itself), `record` or `modification-time`.
    age_source: &'static str,
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

    /// When each backup was made, by store, as far as it is known.
    #[must_use]
    pub fn made(&self) -> Vec<(&'static str, SystemTime)> {
        let inputs = [
            ("etcd", &self.etcd_snapshot),
            ("openbao", &self.openbao_snapshot),
        ];
        let made = inputs.map(|(store, input)| Some((store, input.age.as_ref()?.made)));
        made.into_iter().flatten().collect()
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
                let etcd = rehearsal.etcd_as_recorded.as_ref();
                witnesses.report(config, pair, Depth::Data, etcd, true, now)
            }
            Err(error) => PairReport::unread(config, error, now),
        });
        let age = |store, made: Option<Made>| made.map(|made| Age::of(store, made, now));
        let ages = Ages {
            most: setup.max_age,
            etcd: age("etcd", rehearsal.etcd_made),
            openbao: age("OpenBao", rehearsal.openbao_made),
        };
        let verdict = match verdict(rehearsal, verification.as_ref()) {
            Verdict::Compatible if ages.too_old().next().is_some() => Verdict::Outdated,
            verdict => verdict,
        };
        let mut report = Report::new("drill", now);
        report.identify(&config.fingerprint());
        let pair = verification.as_ref();
        for check in checks(witnesses, rehearsal, &ages, pair) {
            report.push(check);
        }
        report.conclude(match (verdict.exit(), &rehearsal.not_removed) {
            // Proven, and yet somebody has to look after what is left.
            (Exit::Success, Some(_)) => Exit::Unclassified,
            (exit, _) => exit,
        });
        Self {
            verdict,
            summary: summary(verdict, rehearsal, pair),
            next_steps: next_steps(verdict, rehearsal, pair),
            do_not: do_not(verdict, pair),
            report,
            etcd_snapshot: InputShown::of(&setup.etcd_snapshot, rehearsal.etcd.as_ref(), ages.etcd),
            openbao_snapshot: InputShown::of(
                &setup.openbao_snapshot,
                rehearsal.openbao.as_ref(),
                ages.openbao,
            ),
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

fn summary(verdict: Verdict, rehearsal: &Rehearsal, pair: Option<&PairReport>) -> String {
    match (verdict, pair, &rehearsal.failure) {
        (Verdict::Outdated, Some(pair), _) => format!(
            "OpenBao came back, but a backup is too old; {}",
            pair.summary()
        ),
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

fn next_steps(verdict: Verdict, rehearsal: &Rehearsal, pair: Option<&PairReport>) -> Vec<String> {
    let mut steps: Vec<String> = pair.map_or_else(Vec::new, |pair| pair.next_steps().to_vec());
    if verdict == Verdict::Outdated {
        steps.push("back up both stores now, etcd first, and run the drill again".to_owned());
    }
    if pair.is_none()
        && let Some(failure) = &rehearsal.failure
    {
        steps.extend(failure.next_step().map(Cow::into_owned));
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
    fn of(path: &Path, file: Option<&NotedFile>, age: Option<Age>) -> Self {
        Self {
            path: path.to_owned(),
            age: age.map(|age| AgeShown {
                made: age.made.at,
                made_at: Timestamp::try_from(age.made.at)
                    .unwrap_or_default()
                    .strftime("%Y-%m-%dT%H:%M:%SZ")
                    .to_string(),
                age_seconds: age.age.as_secs(),
                age_source: age.made.source.as_str(),
            }),
            file: file.map(|file| FileShown {
                sha256: file.sha256_hex(),
                bytes: file.bytes,
            }),
        }
    }

    fn text(&self, name: &str, out: &mut dyn Write) -> io::Result<()> {
        write!(out, "{name}: {}", self.path.display())?;
        if let Some(file) = &self.file {
            write!(out, " sha256={} bytes={}", file.sha256, file.bytes)?;
        }
        if let Some(age) = &self.age {
            let hours = Hours(Duration::from_secs(age.age_seconds));
            write!(out, " age={hours} (by {})", age.age_source)?;
        }
        writeln!(out)
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
            writeln!(out, "{}", DoNot(not))?;
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

    use openbao_lab::server::{restore::RestoreError, snapshot::SnapshotError};
    use proptest::prelude::*;

    use super::*;
    use crate::{
        config::{Environment, Flags, load},
        drill::{Durations, Stage, isolation::Isolation},
        report::claims::{self, Counted},
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
            max_age: None,
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
            etcd_as_recorded: None,
            etcd_made: None,
            openbao: None,
            openbao_made: None,
            version: None,
            audit_devices: None,
            durations: Durations::default(),
            verified: None,
            not_removed: None,
        }
    }

    fn told(setup: &Setup, rehearsal: &Rehearsal) -> (Exit, String) {
        let witnesses = Witnesses::gather(&setup.config, Path::new("config.yaml"), None);
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
    fn a_full_disk_or_a_lost_server_condemns_no_backup_and_a_refused_snapshot_does() {
        let failed = |said: &str| {
            let failed = SnapshotError::Failed {
                action: "restore",
                said: said.to_owned(),
            };
            let failure = DrillError::from(RestoreError::Snapshot(failed));
            told(&setup(true), &exposed(Stage::Restore, Some(failure)))
        };
        let (exit, text) = failed("Code: 500. write /x: no space left on device");
        assert_eq!(exit, Exit::Runtime);
        assert!(text.contains("nothing disproven"), "{text}");
        let (exit, _) = failed("connection refused");
        assert_eq!(exit, Exit::Runtime);
        for untried in [
            RestoreError::MoreShares {
                needed: 3,
                given: 1,
            },
            RestoreError::OtherSeal { static_seal: false },
        ] {
            let (exit, text) = told(&setup(true), &exposed(Stage::Unseal, Some(untried.into())));
            assert_eq!(exit, Exit::Runtime, "{text}");
        }
        let (exit, text) = failed("Code: 500. hash mismatch of state.bin");
        assert_eq!(exit, Exit::CheckFailed);
        assert!(text.starts_with("drill: not-restorable\n"), "{text}");
        assert!(text.contains("[skip] openbao.shares"), "{text}");
    }

    proptest! {
        #[test]
        fn a_restore_is_called_whole_only_if_nothing_is_lost_and_nothing_untested(
            pair in claims::any_pair(),
        ) {
            let counted = Counted::of(&pair);
            let mut rehearsal = exposed(Stage::Verify, None);
            rehearsal.verified = Some(Ok(pair));
            let (exit, text) = told(&setup(true), &rehearsal);
            let headline: Vec<_> = text.lines().take(2).collect();
            if claims::denies_loss(headline[1]) || exit == Exit::Success {
                prop_assert_eq!(counted, Counted::default(), "{}", text);
            }
        }
    }

    #[test]
    fn a_drill_without_a_verdict_says_nothing_of_a_loss() {
        for failure in [None, Some(DrillError::Lost), Some(DrillError::NotIsolated)] {
            let (_, text) = told(&setup(true), &exposed(Stage::Restore, failure));
            let headline: Vec<_> = text.lines().take(2).collect();
            assert!(!claims::denies_loss(headline[1]), "{text}");
        }
    }
}
