//! The result of `drill`: the verdict, the cause, the steps as checks, and the result of
//! `verify-backup` for the restored pair.

mod checks;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use kms_domain::recovery::{pair::Verdict as PairVerdict, record::FileInfo};
use kms_node::{
    advice::{self, Site},
    config::Config,
    exit::Exit,
    report::{CheckResult, Status, one_line, outcome::Outcome, rfc3339, shell, table::Table},
};
use schemars::JsonSchema;
use serde::Serialize;

use super::{
    DrillRun, Setup,
    age::{Age, Ages, Made, Span},
    failure::DrillError,
};
use crate::recovery::{
    local_knowledge::LocalKnowledge,
    pair_report::{self, Line, PairReport},
    rows::FileRow,
    verify_pair::Depth,
};
use checks::checks;

/// Verdict of a drill.
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
    /// The hashes in the OpenBao snapshot differ: it is damaged.
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

/// The result of a drill.
pub type DrillReport = Outcome<Drill>;

/// The members of `drill`.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Drill {
    #[serde(skip)]
    judged: Verdict,
    etcd_snapshot: InputRow,
    openbao_snapshot: InputRow,
    /// Of the program that the copy ran.
    #[serde(skip_serializing_if = "Option::is_none")]
    openbao_version: Option<String>,
    durations: DurationsRow,
    proven: Proven,
    /// Result of `verify-backup` for the etcd snapshot and the restored copy.
    #[serde(skip_serializing_if = "Option::is_none")]
    verification: Option<PairReport>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct InputRow {
    path: PathBuf,
    /// Hash of the file; absent if unread.
    #[serde(flatten)]
    file: Option<FileRow>,
    #[serde(flatten)]
    age: Option<AgeRow>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct AgeRow {
    #[serde(skip)]
    made: SystemTime,
    /// RFC 3339.
    made_at: String,
    /// Absent for a time in the future.
    #[serde(skip_serializing_if = "Option::is_none")]
    age_seconds: Option<u64>,
    /// Source of the time: `archive` (the raft snapshot itself), `record`, `name` or
    /// `modification-time`.
    age_source: &'static str,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct DurationsRow {
    #[serde(skip_serializing_if = "Option::is_none")]
    restore_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unseal_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    verify_seconds: Option<f64>,
    total_seconds: f64,
}

/// Proven objects.
#[derive(Debug, Clone, Default, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Proven {
    /// Objects of this provider.
    pub objects: u64,
    /// Distinct encrypted DEKs.
    pub deks: u64,
    /// The versions of the key that did it.
    pub transit_versions: Vec<u64>,
    /// The objects by version, for the metrics.
    #[serde(skip)]
    pub by_version: BTreeMap<u64, u64>,
}

impl Drill {
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        self.judged
    }

    /// When each backup was made, by store, as far as it is known: a time in the future is none.
    #[must_use]
    pub fn made(&self) -> Vec<(&'static str, SystemTime)> {
        let inputs = [
            ("etcd", &self.etcd_snapshot),
            ("openbao", &self.openbao_snapshot),
        ];
        let made = inputs.map(|(store, input)| {
            let age = input.age.as_ref()?;
            age.age_seconds.map(|_| (store, age.made))
        });
        made.into_iter().flatten().collect()
    }

    /// Proven objects.
    #[must_use]
    pub fn proven(&self) -> &Proven {
        &self.proven
    }

    /// How long all of it took.
    #[must_use]
    pub fn total_seconds(&self) -> f64 {
        self.durations.total_seconds
    }

    fn tables(&self) -> [Table; 2] {
        let files = [
            ("etcd", &self.etcd_snapshot),
            ("OpenBao", &self.openbao_snapshot),
        ];
        let span = |age: &AgeRow| {
            age.age_seconds
                .map(|it| Span(Duration::from_secs(it)).to_string())
        };
        let files = Table::of("backups", files)
            .column("file", |(name, _)| name)
            .column("path", |(_, it)| &it.path)
            .column("sha256", |(_, it)| it.file.as_ref().map(|it| &it.sha256))
            .column("bytes", |(_, it)| it.file.as_ref().map(|it| it.bytes))
            .column("age", |(_, it)| it.age.as_ref().and_then(span))
            .column("age from", |(_, it)| {
                it.age.as_ref().map(|it| it.age_source)
            });
        let mut durations = Table::new("durations", ["step", "seconds"]);
        for (name, seconds) in [
            ("restore", self.durations.restore_seconds),
            ("unseal", self.durations.unseal_seconds),
            ("verify", self.durations.verify_seconds),
            ("in all", Some(self.durations.total_seconds)),
        ] {
            durations.facts(name, seconds.map(|it| format!("{it:.1}")));
        }
        [files.table(), durations]
    }
}

/// The report on a drill. `again` is the command line.
#[must_use]
pub fn outcome(
    config: &Config,
    setup: &Setup,
    known: &LocalKnowledge,
    rehearsal: &DrillRun,
    again: &str,
    now: SystemTime,
) -> DrillReport {
    let path = &known.config_path;
    let site = Site::new(path, Some(config));
    let etcd = format!("--etcd-snapshot {}", shell(setup.etcd()));
    let line = Line { etcd: &etcd, again };
    let verification = rehearsal.verified.as_ref().map(|verified| match verified {
        Ok(pair) => {
            let etcd = rehearsal.etcd_as_recorded.as_ref();
            known.report(config, pair, Depth::Data, etcd, true, line, now)
        }
        Err(error) => pair_report::not_read(config, path, error, line, now),
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
    let members = Drill {
        judged: verdict,
        etcd_snapshot: InputRow::of(setup.etcd(), rehearsal.etcd.as_ref(), ages.etcd),
        openbao_snapshot: InputRow::of(setup.openbao(), rehearsal.openbao.as_ref(), ages.openbao),
        openbao_version: rehearsal.version.clone(),
        durations: DurationsRow::of(rehearsal),
        proven: Proven::of(rehearsal),
        verification: None,
    };

    let mut outcome = Outcome::new("drill", now, members);
    outcome.identify(&config.fingerprint());
    let exit = match (verdict.exit(), &rehearsal.not_removed) {
        // Proven, and yet an operator must remove the copy.
        (Exit::Success, Some(_)) => Exit::Unclassified,
        (exit, _) => exit,
    };
    let pair = verification.as_ref();
    outcome.conclude(verdict.as_str(), exit, headline(verdict, rehearsal, pair));
    if verdict == Verdict::Outdated {
        let too_old: Vec<_> = ages.too_old().map(|age| age.to_string()).collect();
        outcome.set_found(too_old.join("; "));
        outcome.add_cause(&advice::drill::OUTDATED.advise(&site, &[]));
    }
    if let (None, Some(failure)) = (pair, &rehearsal.failure) {
        outcome.set_found(found(failure));
        outcome.add_cause(&advice::advise(&failure.cause(), &site));
    }
    outcome.add_tables(outcome.result.tables());
    for (store, at) in outcome.result.made() {
        let since = at
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let event = format!("{store} snapshot made");
        outcome.picture.add_event(since.as_secs(), event);
    }
    if let Some(pair) = pair {
        outcome.take_over(pair);
        outcome.add_table(verification_table(pair));
    }
    if let Some((path, error)) = &rehearsal.not_removed {
        outcome.set_found(format!("{}: {error}", path.display()));
        outcome.add_cause(&advice::drill::LEFTOVERS.advise(&site, &[]));
    }
    if verdict != Verdict::Compatible {
        let again = advice::evidence::AGAIN.advise(&site, &[("again", again)]);
        outcome.add_steps(again);
        outcome.add_warnings([advice::drill::KEEP_BACKUPS]);
    }
    outcome.add_checks(checks(known, rehearsal, &ages, pair));
    outcome.add_limitations(setup.limitations.iter().cloned());
    outcome.add_limitations(limitations(setup, rehearsal));
    outcome.result.verification = verification;
    outcome
}

/// The checks of the pair that did not pass.
fn verification_table(pair: &PairReport) -> Table {
    let open = pair.checks().iter();
    let open = open.filter(|check| check.status() != Status::Pass);
    Table::of("verification of the pair", open)
        .column("status", |it| it.status().as_str())
        .column("check", CheckResult::id)
        .column("found", CheckResult::found)
        .table()
}

fn verdict(rehearsal: &DrillRun, pair: Option<&PairReport>) -> Verdict {
    match (&rehearsal.failure, pair) {
        // A later failure leaves the proof valid.
        (_, Some(pair)) => match pair.result.judged {
            PairVerdict::Compatible => Verdict::Compatible,
            PairVerdict::CompatibleAfter => Verdict::CompatibleAfter,
            PairVerdict::Incompatible => Verdict::Incompatible,
            PairVerdict::Inconclusive => Verdict::Inconclusive,
        },
        (Some(failure), None) if failure.condemns() => Verdict::NotRestorable,
        (_, None) => Verdict::Inconclusive,
    }
}

fn headline(verdict: Verdict, rehearsal: &DrillRun, pair: Option<&PairReport>) -> String {
    match (verdict, pair, &rehearsal.failure) {
        (Verdict::Outdated, Some(pair), _) => format!(
            "OpenBao came back, but a backup is too old; {}",
            pair.headline()
        ),
        (_, Some(pair), _) => format!("OpenBao came back; {}", pair.headline()),
        (Verdict::NotRestorable, None, _) => {
            "the OpenBao snapshot is damaged, so nothing in etcd can be read after a restore with it"
                .to_owned()
        }
        (_, None, Some(failure)) => {
            let (cause, _) = failure.cause();
            format!("nothing was proven and nothing disproven: {}", cause.headline)
        }
        (_, None, None) => "nothing was proven and nothing disproven".to_owned(),
    }
}

/// The first line, and the last error in the log of OpenBao. The check has the rest of the log.
fn found(failure: &DrillError) -> String {
    let text = one_line(failure);
    let mut lines = text.lines();
    let first = lines.next().unwrap_or_default();
    match lines.rfind(|line| line.contains("[ERROR]")) {
        Some(error) => format!("{first} {error}"),
        None => first.to_owned(),
    }
}

fn limitations(setup: &Setup, rehearsal: &DrillRun) -> Vec<&'static str> {
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
    fn of(rehearsal: &DrillRun) -> Self {
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
                if let Some(version) = row.version {
                    *proven.by_version.entry(version.get()).or_default() += objects;
                }
            }
        }
        proven
    }
}

impl InputRow {
    fn of(path: &Path, file: Option<&FileInfo>, age: Option<Age>) -> Self {
        Self {
            path: path.to_owned(),
            age: age.map(|age| AgeRow {
                made: age.made.at,
                made_at: rfc3339(age.made.at),
                age_seconds: age.age.map(|it| it.as_secs()),
                age_source: age.made.source.as_str(),
            }),
            file: file.map(Into::into),
        }
    }
}

impl DurationsRow {
    fn of(rehearsal: &DrillRun) -> Self {
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

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, time::UNIX_EPOCH};

    use kms_node::report::{Output, text::Look};
    use openbao_lab::server::{ServerError, restore::RestoreError, snapshot::SnapshotError};
    use proptest::prelude::*;

    use super::*;
    use crate::{
        claims::{self, Counted},
        drill::{Durations, Stage, isolation::Isolation},
        recovery::raft_snapshot::RaftSnapshotError,
    };

    fn setup(allow_network: bool) -> Setup {
        Setup {
            etcd_snapshot: Some("etcd.db".into()),
            openbao_snapshot: Some("openbao.snap".into()),
            etcd_dir: None,
            openbao_dir: None,
            unseal_key_file: Vec::new(),
            static_seal_key_file: None,
            static_seal_key_id: None,
            record: None,
            bao: None,
            work_dir: "/tmp".into(),
            allow_network,
            show_names: false,
            max_age: None,
            keep: None,
            limitations: Vec::new(),
        }
    }

    /// Of a machine with a network and a kernel without Landlock.
    fn exposed(stage: Stage, failure: Option<DrillError>) -> DrillRun {
        DrillRun {
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

    fn told(setup: &Setup, rehearsal: &DrillRun) -> (Exit, String) {
        let config = claims::config();
        let known = LocalKnowledge::gather(&config, Path::new("config.yaml"), None);
        let outcome = outcome(
            &config,
            setup,
            &known,
            rehearsal,
            "bao-kms-provider drill",
            UNIX_EPOCH,
        );
        let mut text = Vec::new();
        let written = Output::Text.write(&outcome, Look::default(), &mut text);
        written.unwrap();
        (outcome.exit(), String::from_utf8(text).unwrap())
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
    fn a_full_disk_a_lost_server_or_wrong_shares_condemn_no_backup_and_wrong_hashes_do() {
        let failed = |said: &str| {
            RestoreError::Snapshot(SnapshotError::Failed {
                action: "restore",
                said: said.to_owned(),
            })
        };
        let ended = |log: &str| {
            RestoreError::Server(ServerError::Ended {
                log: log.to_owned(),
            })
        };
        for (failure, cause) in [
            (
                failed("Code: 500. write /x: no space left on device"),
                "drill_directory_unusable",
            ),
            (
                failed("[ERROR] core: error while restoring raft snapshot: disk quota exceeded"),
                "drill_directory_unusable",
            ),
            (
                ended("[ERROR] core: write /x: no space left on device"),
                "drill_directory_unusable",
            ),
            (ended("[ERROR] core: panic"), "openbao_copy_failed"),
            (failed("connection refused"), "openbao_snapshot_damaged"),
            (failed("Code: 400. refused"), "openbao_snapshot_damaged"),
            (RestoreError::WrongShares, "unseal_shares_wrong"),
            (
                RestoreError::MoreShares {
                    needed: 3,
                    given: 1,
                },
                "unseal_share_unusable",
            ),
            (
                RestoreError::OtherSeal { static_seal: false },
                "seal_unsupported",
            ),
        ] {
            let failure = DrillError::from(failure);
            assert_eq!(failure.cause().0.code, cause);
            let (exit, text) = told(&setup(true), &exposed(Stage::Restore, Some(failure)));
            assert_eq!(exit, Exit::Runtime, "{text}");
            assert!(text.contains("nothing disproven"), "{text}");
            assert!(text.contains("[skip] openbao.shares"), "{text}");
        }
        let damaged = DrillError::NotRestorable {
            path: "openbao.snap".into(),
            problem: RaftSnapshotError::Damaged("hash of state.bin".to_owned()),
        };
        let (exit, text) = told(&setup(true), &exposed(Stage::Inputs, Some(damaged)));
        assert_eq!(exit, Exit::CheckFailed);
        assert!(text.starts_with("drill: not-restorable\n"), "{text}");
    }

    #[test]
    fn the_last_error_of_openbao_is_in_what_was_found() {
        let log = "[INFO] core: starting\n[ERROR] core: version is too new\n[INFO] core: stopped";
        let log = log.to_owned();
        let failure = DrillError::from(RestoreError::Server(ServerError::Ended { log }));
        let found = found(&failure);
        assert!(
            found.ends_with("end of its log: [ERROR] core: version is too new"),
            "{found}"
        );
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
            if claims::denies_loss(&claims::first_lines(&text)) || exit == Exit::Success {
                prop_assert_eq!(counted, Counted::default(), "{}", text);
            }
        }
    }

    #[test]
    fn a_drill_without_a_verdict_says_nothing_of_a_loss() {
        for failure in [None, Some(DrillError::Lost), Some(DrillError::NotIsolated)] {
            let (_, text) = told(&setup(true), &exposed(Stage::Restore, failure));
            assert!(!claims::denies_loss(&claims::first_lines(&text)), "{text}");
        }
    }
}
