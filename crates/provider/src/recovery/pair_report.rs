//! What `verify-backup` tells: for people the verdict first, then version by version what is lost,
//! what to do and what not to do, then how it was established.

mod advice;
mod checks;

use std::{
    borrow::Cow,
    collections::BTreeMap,
    io::{self, Write},
    time::SystemTime,
};

use advice::{advice, limitations, open_question, recorded_backup};
use checks::{DATA, DEKS, DRIFT, KEY, MAPPED, OBJECTS, STATE, checks, skipped};
use kms_domain::{
    recovery::{
        origin::{Gap, LiveKey, Origin},
        pair::{Proof, Remedy, Verdict},
        record::BackupRecord,
    },
    registry::document::Document,
};
use schemars::JsonSchema;
use serde::Serialize;

use super::{
    EtcdError,
    drift::Drift,
    scan,
    verify_pair::{Depth, Pair, Row, SeedProblem},
};
use crate::{
    cli::exit::Exit,
    config::Config,
    report::{Check, Render, Report, one_line},
};

/// Everything that the report is made of.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// Whose names and key were compared.
    pub config: &'a Config,
    /// What was found.
    pub pair: &'a Pair,
    /// How far the proof was asked to go.
    pub depth: Depth,
    /// The state of this node, valid by itself, or why there is none.
    pub state: Result<&'a Document, &'a str>,
    /// The record that was given.
    pub record: Option<&'a BackupRecord>,
    /// What has changed since it was written.
    pub drift: &'a [Drift],
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
    drift: Vec<Drift>,
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
    /// Under this provider's name.
    objects: u64,
    /// Of those, not to be read with this OpenBao and this configuration.
    lost_objects: u64,
    damaged_values: u64,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct KeyIdShown {
    #[serde(skip_serializing_if = "Option::is_none")]
    transit_version: Option<u64>,
    key_id_hash: String,
    /// `live`, `known`, or the code of what is wrong.
    status: &'static str,
    message: String,
    objects: u64,
    lost_objects: u64,
    resources: BTreeMap<String, u64>,
    deks: Tried,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    dek_problems: BTreeMap<&'static str, u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Tried>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    unopened_resources: BTreeMap<String, u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unopened_names: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_step: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    do_not: Option<&'static str>,
}

#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
struct Tried {
    proven: u64,
    failed: u64,
    untried: u64,
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
        for check in checks(facts) {
            report.push(check);
        }
        let key_ids: Vec<_> = pair
            .rows
            .iter()
            .map(|row| KeyIdShown::of(facts, row))
            .collect();
        let etcd = EtcdShown {
            source: pair.inventory.source.clone(),
            revision: pair.inventory.totals.revision,
            keys: pair.inventory.totals.keys,
            objects: pair.rows.iter().map(|row| row.finding.objects).sum(),
            lost_objects: pair.rows.iter().map(lost).sum(),
            damaged_values: pair.inventory.damaged_values,
        };
        let remedies = remedies(facts);
        let mut next_steps: Vec<String> = remedies
            .iter()
            .map(|remedy| format!("{}, then run verify-backup again", remedy.command))
            .collect();
        for step in key_ids.iter().filter_map(|it| it.next_step.clone()) {
            if !next_steps.contains(&step) {
                next_steps.push(step);
            }
        }
        next_steps.extend(recorded_backup(facts));
        next_steps.extend(open_question(facts));
        let mut do_not: Vec<_> = key_ids.iter().filter_map(|it| it.do_not).collect();
        if pair.verdict != Verdict::Compatible {
            do_not.push(KEEP_ETCD);
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
            key_ids,
            drift: facts.drift.to_vec(),
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
        let (verdict, next_step) = match error.is_damage() {
            true => (
                Verdict::Incompatible,
                "copy the snapshot again and compare its hash, or take an earlier one",
            ),
            false => (
                Verdict::Inconclusive,
                "mend the cause and run verify-backup again",
            ),
        };
        report.conclude(exit(verdict));
        Self {
            verdict: verdict.as_str(),
            judged: verdict,
            summary: "etcd gave no answer, so nothing was compared".to_owned(),
            next_steps: vec![next_step.to_owned()],
            do_not: vec!["do not restore etcd from a snapshot that was not read to its end"],
            remedies: Vec::new(),
            report,
            etcd: None,
            key_ids: Vec::new(),
            drift: Vec::new(),
            limitations: Vec::new(),
        }
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
        Verdict::CompatibleAfter => format!(
            "no object is lost: all {objects} of provider {provider} can be read with this OpenBao \
             once the steps below are done"
        ),
        Verdict::Incompatible => {
            let lost = etcd.lost_objects;
            let damaged = match etcd.damaged_values {
                0 => String::new(),
                values => format!(", and {values} values are damaged in etcd itself"),
            };
            format!(
                "{lost} of {objects} objects of provider {provider} cannot be read with this \
                 OpenBao and this configuration{damaged}; do not put this pair into service"
            )
        }
        Verdict::Inconclusive if objects == 0 => format!(
            "etcd holds no object of provider {provider}, so there is nothing to compare: is it \
             the right snapshot, and the right configuration?"
        ),
        Verdict::Inconclusive => format!(
            "not established for {objects} objects of provider {provider}; nothing shows that any \
             of them is lost"
        ),
    }
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
    let shown = facts.pair.remedies.iter().map(|remedy| match remedy {
        Remedy::LowerMinDecryption(version) => RemedyShown {
            code: "lower_min_decryption_version",
            transit_version: version.get(),
            command: command(version.get()),
            revert: revert.clone(),
        },
    });
    shown.collect()
}

/// Objects that certainly cannot be read as things are.
fn lost(row: &Row) -> u64 {
    match &row.finding.origin {
        Origin::Gap(Gap::Hidden { .. } | Gap::Unknown { .. }) => 0,
        Origin::Gap(_) => row.finding.objects,
        Origin::Live(_) | Origin::Known(_) => {
            let unopened = row.finding.data.map_or(0, |data| data.failed);
            row.objects_of_failed_seeds.saturating_add(unopened)
        }
    }
}

impl KeyIdShown {
    fn of(facts: Facts<'_>, row: &Row) -> Self {
        let finding = &row.finding;
        let (status, message) = match &finding.origin {
            Origin::Live(_) => ("live", proven(row)),
            Origin::Known(key) => {
                let record = facts.record.map(BackupRecord::note);
                let noted = record.and_then(|note| note.versions.get(&key.version()));
                let source = match noted.filter(|noted| noted.key == *key) {
                    Some(noted) if noted.decryptable => {
                        "the record has it, and OpenBao could decrypt it when the record was made"
                    }
                    Some(_) => {
                        "the record has it, but OpenBao could not decrypt it even when the record \
                         was made"
                    }
                    None => "the state of this node has it",
                };
                (
                    "known",
                    format!("{source}; this OpenBao did not answer for it"),
                )
            }
            Origin::Gap(gap) => (gap.code(), one_line(gap)),
        };
        let (next_step, do_not) = advice(row).unzip();
        let problems = row.seed_problems.iter();
        Self {
            transit_version: row.version.map(|version| version.get()),
            key_id_hash: row.key_id_hash.clone(),
            status,
            message,
            objects: finding.objects,
            lost_objects: lost(row),
            resources: row.resources.clone(),
            deks: Tried::of(finding.seeds),
            dek_problems: problems
                .map(|(problem, &count)| (problem.code(), count))
                .collect(),
            data: finding.data.map(Tried::of),
            unopened_resources: row.unopened.clone(),
            unopened_names: row.unopened_names.clone(),
            next_step: next_step.map(Cow::into_owned),
            do_not,
        }
    }

    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let version = match self.transit_version {
            Some(version) => format!("version {version}"),
            None => "no version".to_owned(),
        };
        let resources: Vec<_> = self
            .resources
            .iter()
            .map(|(resource, objects)| format!("{resource} {objects}"))
            .collect();
        writeln!(
            out,
            "{version}: [{}] {} objects ({}), keyIdHash={}",
            self.status,
            self.objects,
            resources.join(", "),
            self.key_id_hash
        )?;
        writeln!(out, "    {}", self.message)?;
        if self.lost_objects > 0 {
            writeln!(out, "    lost: {} objects", self.lost_objects)?;
        }
        for (resource, objects) in &self.unopened_resources {
            writeln!(out, "    not opened: {resource} {objects}")?;
        }
        for name in &self.unopened_names {
            writeln!(out, "    not opened: {name}")?;
        }
        Ok(())
    }
}

fn proven(row: &Row) -> String {
    let seeds = row.finding.seeds;
    let all = seeds
        .proven
        .saturating_add(seeds.failed)
        .saturating_add(seeds.untried);
    let mut text = format!("{} of {all} encrypted DEKs decrypt", seeds.proven);
    for (problem, count) in &row.seed_problems {
        text.push_str(&format!("; {count} {}", problem.sentence()));
    }
    if seeds.untried > 0 {
        text.push_str(&format!("; {} were not tried", seeds.untried));
    }
    if let Some(data) = row.finding.data {
        let objects = row.finding.objects;
        text.push_str(&format!("; {} of {objects} objects open", data.proven));
        if data.failed > 0 {
            text.push_str(&format!(
                "; {} do not open with the DEK that they name: they were moved to another etcd \
                 key, or changed",
                data.failed
            ));
        }
    }
    text
}

impl Tried {
    fn of(proof: Proof) -> Self {
        Self {
            proven: proof.proven,
            failed: proof.failed,
            untried: proof.untried,
        }
    }
}

impl SeedProblem {
    fn code(self) -> &'static str {
        match self {
            Self::OtherCiphertext => "other_ciphertext",
            Self::NotDecrypted => "not_decrypted",
            Self::NoDek => "no_dek",
        }
    }

    fn sentence(self) -> &'static str {
        match self {
            Self::OtherCiphertext => {
                "are no ciphertext of that version: they were exchanged or damaged"
            }
            Self::NotDecrypted => {
                "are refused by OpenBao: the key was made anew in the same second, or they or \
                 their annotations were changed"
            }
            Self::NoDek => "decrypt to something that is no DEK",
        }
    }
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
            writeln!(
                out,
                "do not: {}",
                not.strip_prefix("do not ").unwrap_or(not)
            )?;
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
        for key_id in &self.key_ids {
            key_id.text(out)?;
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
