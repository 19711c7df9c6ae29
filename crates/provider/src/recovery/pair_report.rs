//! What `verify-backup` tells: for people the verdict first, then version by version what is lost,
//! what to do and what not to do, then how it was established.

mod advice;
mod checks;
mod key_ids;

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashSet},
    io::{self, Write},
    path::Path,
    time::SystemTime,
};

use advice::{advice, damage_advice, limitations, open_question, recorded_backup};
use checks::{DATA, DEKS, DRIFT, KEY, MAPPED, OBJECTS, STATE, checks, skipped};
use key_ids::{KeyIdShown, lost, untested};
use kms_domain::{
    recovery::{
        origin::{LiveKey, Origin},
        pair::{Remedy, Verdict},
        record::BackupRecord,
    },
    registry::document::Document,
};
use schemars::JsonSchema;
use serde::Serialize;

use super::{
    EtcdError,
    drift::{Comparison, Drift},
    excerpt::{Excerpt, FEW_ROWS, FEW_WORDS, LeftOut, ROWS},
    scan,
    unread::Unread,
    verify_pair::{Depth, Pair, Row, Unanswered},
};
use crate::{
    cli::exit::Exit,
    config::Config,
    report::{Check, DoNot, Render, Report, one_line, shell},
};

/// Everything that the report is made of.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// Whose names and key were compared.
    pub config: &'a Config,
    /// The file that it was read from, for the commands that are printed.
    pub config_path: &'a Path,
    /// What was found.
    pub pair: &'a Pair,
    /// How far the proof was asked to go.
    pub depth: Depth,
    /// The state of this node, valid by itself, or why there is none.
    pub state: Result<&'a Document, &'a str>,
    /// The record that was given.
    pub record: Option<&'a BackupRecord>,
    /// What has changed since it was written.
    pub compared: &'a Comparison,
    /// Whether OpenBao is a copy that was made from a snapshot just now.
    pub rehearsed: bool,
}

/// The result of `verify-backup`.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PairReport {
    verdict: &'static str,
    #[serde(skip)]
    judged: Verdict,
    summary: String,
    next_steps: Vec<String>,
    do_not: Vec<&'static str>,
    remedies: Vec<RemedyShown>,
    #[serde(flatten)]
    report: Report,
    #[serde(skip_serializing_if = "Option::is_none")]
    etcd: Option<EtcdShown>,
    key_ids: Vec<KeyIdShown>,
    /// Absent if all are shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    key_ids_left_out: Option<LeftOut>,
    drift: Vec<Drift>,
    /// The members of the record that were not compared.
    not_compared: Vec<String>,
    limitations: Vec<&'static str>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct RemedyShown {
    code: &'static str,
    transit_version: u64,
    command: String,
    /// To be run when no object and no backup needs the version any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    revert: Option<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct EtcdShown {
    source: String,
    revision: i64,
    keys: u64,
    /// Of this key, under any provider name.
    objects: u64,
    /// Of those, under other provider names than the configured one.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    under_other_names: BTreeMap<String, u64>,
    /// Of those, not to be read with this OpenBao and this configuration.
    lost_objects: u64,
    /// Of those, under versions below `min_decryption_version`, which were not tried.
    untested_objects: u64,
    /// Of this provider.
    damaged_values: u64,
    /// Of other providers, which are no part of the verdict.
    damaged_values_of_others: u64,
}

const KEEP_ETCD: &str = "do not delete or overwrite the encrypted data in etcd, whatever it is";

/// A pair that is not to be used as it is has failed; one that was not judged has not.
fn exit(verdict: Verdict) -> Exit {
    match verdict {
        Verdict::Compatible => Exit::Success,
        Verdict::CompatibleAfter | Verdict::Incompatible => Exit::CheckFailed,
        Verdict::Inconclusive => Exit::Runtime,
    }
}

impl PairReport {
    /// The exit code of the command.
    #[must_use]
    pub fn exit(&self) -> Exit {
        self.report.exit()
    }

    /// The verdict on the pair.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        self.judged
    }

    /// The verdict in a sentence.
    #[must_use]
    pub fn summary(&self) -> &str {
        &self.summary
    }

    /// What to do.
    #[must_use]
    pub fn next_steps(&self) -> &[String] {
        &self.next_steps
    }

    /// What not to do.
    #[must_use]
    pub fn do_not(&self) -> &[&'static str] {
        &self.do_not
    }

    /// Puts what was found into words.
    #[must_use]
    pub fn new(facts: Facts<'_>, now: SystemTime) -> Self {
        let Facts { config, pair, .. } = facts;
        let mut report = Report::new("verify-backup", now);
        report.identify(&config.fingerprint());
        let unread = pair.inventory.unread.as_ref().map(Unread::check);
        for check in checks(facts).into_iter().chain(unread) {
            report.push(check);
        }
        let rows = Excerpt::of(&pair.rows, ROWS, |row| row.is_of_the_key());
        let shown = rows.shown.iter().map(|row| KeyIdShown::of(facts, row));
        let etcd = EtcdShown {
            source: pair.inventory.source.clone(),
            revision: pair.inventory.totals.revision,
            keys: pair.inventory.totals.keys,
            objects: pair.rows.iter().map(|row| row.finding.objects).sum(),
            under_other_names: pair.under_other_names.clone(),
            lost_objects: pair.rows.iter().map(lost).sum(),
            untested_objects: pair.rows.iter().map(untested).sum(),
            damaged_values: pair.damaged,
            damaged_values_of_others: pair.damaged_elsewhere,
        };
        let remedies = remedies(facts);
        let mut next_steps: Vec<String> = remedies
            .iter()
            .map(|remedy| format!("{}, then run verify-backup again", remedy.command))
            .collect();
        let damaged = (pair.damaged > 0).then(damage_advice);
        let advised = pair.rows.iter().filter_map(advice).chain(damaged);
        let (advised, mut do_not): (Vec<_>, Vec<_>) = advised.unzip();
        next_steps.extend(first_of_each(advised));
        next_steps.extend(recorded_backup(facts));
        next_steps.extend(open_question(facts));
        next_steps.extend(unread_keys(facts));
        if pair.verdict != Verdict::Compatible {
            do_not.push(KEEP_ETCD);
        }
        // The provider asks for another key where it may: here this one may be all there is.
        if matches!(pair.unanswered, Some(Unanswered::Profile(_))) {
            do_not.push("do not delete, rename or recreate the key: objects may need it");
        }
        do_not.sort_unstable();
        do_not.dedup();
        report.conclude(exit(pair.verdict));
        Self {
            verdict: pair.verdict.as_str(),
            judged: pair.verdict,
            summary: summary(facts, &etcd),
            next_steps,
            do_not,
            remedies,
            report,
            key_ids: shown.collect(),
            key_ids_left_out: LeftOut::of(&rows.left_out, |row| row.finding.objects),
            drift: facts.compared.drift.clone(),
            not_compared: facts.compared.not_compared.clone(),
            limitations: limitations(facts),
            etcd: Some(etcd),
        }
    }

    /// Where etcd gives no answer there is nothing to compare. A damaged snapshot is no half of any
    /// pair; one that cannot be read decides nothing.
    #[must_use]
    pub fn unread(config: &Config, error: &EtcdError, now: SystemTime) -> Self {
        let mut report = Report::new("verify-backup", now);
        report.identify(&config.fingerprint());
        let (id, title) = scan::READ;
        report.push(Check::fail(id, title, one_line(error)));
        for name in [OBJECTS, KEY, STATE, MAPPED, DEKS, DATA, DRIFT] {
            report.push(skipped(name));
        }
        let (verdict, next_steps) = match (error.is_damage(), error.next_step()) {
            (true, _) => (
                Verdict::Incompatible,
                vec!["copy the snapshot again and compare its hash, or take an earlier one".into()],
            ),
            (false, None) => (
                Verdict::Inconclusive,
                vec!["mend the cause and run verify-backup again".into()],
            ),
            (false, Some(step)) => (
                Verdict::Inconclusive,
                vec![step, "run verify-backup again".into()],
            ),
        };
        report.conclude(exit(verdict));
        Self {
            verdict: verdict.as_str(),
            judged: verdict,
            summary: "etcd gave no answer, so nothing was compared".to_owned(),
            next_steps,
            do_not: vec!["do not restore etcd from a snapshot that was not read to its end"],
            remedies: Vec::new(),
            report,
            etcd: None,
            key_ids: Vec::new(),
            key_ids_left_out: None,
            drift: Vec::new(),
            not_compared: Vec::new(),
            limitations: Vec::new(),
        }
    }
}

/// Objects that were neither proven nor found to be lost.
fn open(row: &Row) -> u64 {
    let finding = &row.finding;
    let objects = finding.objects.saturating_sub(lost(row));
    match &finding.origin {
        Origin::Known(_) | Origin::Gap(_) => objects,
        Origin::Live(_) if finding.seeds.untried > 0 => objects,
        Origin::Live(_) => finding.data.map_or(0, |data| data.untried.min(objects)),
    }
}

fn summary(facts: Facts<'_>, etcd: &EtcdShown) -> String {
    let provider = facts.config.scope.provider_name.as_str();
    let objects = etcd.objects;
    match facts.pair.verdict {
        Verdict::Compatible => format!(
            "all {objects} objects of provider {provider} can be read with this OpenBao and this \
             configuration"
        ),
        Verdict::CompatibleAfter => match etcd.untested_objects {
            0 => format!(
                "no object is lost: all {objects} of provider {provider} can be read with this \
                 OpenBao once the steps below are done"
            ),
            untested => format!(
                "{untested} of {objects} objects of provider {provider} need versions of the key \
                 below min_decryption_version, which are untested until the steps below are done{}",
                match objects.saturating_sub(untested) {
                    0 => String::new(),
                    others => format!("; the other {others} can be read"),
                }
            ),
        },
        Verdict::Incompatible => match (etcd.lost_objects, etcd.damaged_values) {
            (0, damaged) => format!(
                "{damaged} values of provider {provider} are damaged in etcd itself, and no key \
                 opens them; do not put this pair into service"
            ),
            (lost, damaged) => format!(
                "{lost} of {objects} objects of provider {provider} cannot be read with this \
                 OpenBao and this configuration{}; do not put this pair into service",
                match damaged {
                    0 => String::new(),
                    values => format!(", and {values} more are damaged in etcd itself"),
                }
            ),
        },
        Verdict::Inconclusive if objects == 0 => format!(
            "etcd holds no object of provider {provider}, so there is nothing to compare: is it \
             the right snapshot, and the right configuration?"
        ),
        Verdict::Inconclusive => {
            let unread = match facts.pair.inventory.has_open_keys() {
                true => ", and objects among the keys that were left unread are unknown",
                false => "",
            };
            format!(
                "not established for {} of {objects} objects of provider {provider}; none of them \
                 was found to be lost{unread}",
                facts.pair.rows.iter().map(open).sum::<u64>()
            )
        }
    }
}

fn unread_keys(facts: Facts<'_>) -> Option<String> {
    let unread = facts.pair.inventory.unread.as_ref()?;
    let (remedy, allow) = (unread.remedy(), unread.allow());
    (!unread.is_allowed()).then(|| format!("{remedy}; {allow}; then run verify-backup again"))
}

fn remedies(facts: Facts<'_>) -> Vec<RemedyShown> {
    let config = facts.config;
    let mut bao = "bao write".to_owned();
    if let Some(namespace) = &config.scope.openbao_namespace {
        bao.push_str(&format!(" -namespace={namespace}"));
    }
    let path = format!(
        "{}/keys/{}/config",
        config.key.mount_path, config.key.key_name
    );
    let command = |minimum: u64| format!("{bao} {path} min_decryption_version={minimum}");
    let revert = match facts.pair.lineage.live() {
        LiveKey::Listed(profile) => Some(command(profile.min_decryption())),
        LiveKey::Missing | LiveKey::Unknown => None,
    };
    let shown = facts
        .pair
        .remedies
        .iter()
        .filter_map(|remedy| match remedy {
            Remedy::LowerMinDecryption(version) => Some(RemedyShown {
                code: "lower_min_decryption_version",
                transit_version: version.get(),
                command: command(version.get()),
                // In a copy that was made for the trial it is lowered already.
                revert: revert
                    .clone()
                    .filter(|revert| *revert != command(version.get())),
            }),
            Remedy::RestoreVersions(versions) => {
                let numbers: Vec<_> = versions.iter().map(ToString::to_string).collect();
                Some(RemedyShown {
                    code: "restore_versions",
                    transit_version: versions.first()?.get(),
                    command: format!(
                        "bao-kms-provider restore-versions --config {} --versions {}",
                        shell(facts.config_path),
                        numbers.join(",")
                    ),
                    revert: None,
                })
            }
        });
    shown.collect()
}

/// The first few of these steps, each once.
fn first_of_each(steps: Vec<Cow<'static, str>>) -> Vec<String> {
    let mut seen = HashSet::new();
    let each: Vec<_> = steps.iter().filter(|step| seen.insert(*step)).collect();
    let mut first: Vec<_> = each.iter().map(ToString::to_string).collect();
    first.truncate(FEW_WORDS);
    let more = each.len().saturating_sub(FEW_WORDS);
    if more > 0 {
        first.push(format!(
            "{more} more such steps are not shown: take these, then run verify-backup again"
        ));
    }
    first
}

impl Render for PairReport {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "verify-backup: {}", self.verdict)?;
        writeln!(out, "{}", self.summary)?;
        for step in &self.next_steps {
            writeln!(out, "next: {step}")?;
        }
        for remedy in &self.remedies {
            if let Some(revert) = &remedy.revert {
                writeln!(
                    out,
                    "later: when no object and no retained backup needs version {}: {revert}",
                    remedy.transit_version
                )?;
            }
        }
        for not in &self.do_not {
            writeln!(out, "{}", DoNot(not))?;
        }
        self.details(out)
    }
}

impl PairReport {
    /// Writes how the verdict was established, without the verdict and its steps.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn details(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out)?;
        let key_ids = Excerpt::of(&self.key_ids, FEW_ROWS, |row| row.is_of_the_key());
        for key_id in &key_ids.shown {
            key_id.text(out)?;
        }
        let left_out = LeftOut::of(&key_ids.left_out, |row| row.objects);
        if let Some(more) = LeftOut::and(left_out, self.key_ids_left_out) {
            writeln!(
                out,
                "and {} more key_ids of {} objects",
                more.rows, more.objects
            )?;
        }
        writeln!(out)?;
        self.report.checks_text(out)?;
        for Drift {
            field,
            recorded,
            found,
        } in &self.drift
        {
            writeln!(out, "drift: {field}: recorded {recorded:?}, now {found:?}")?;
        }
        for limitation in &self.limitations {
            writeln!(out, "limitation: {limitation}")?;
        }
        Ok(())
    }
}
