//! What `verify-backup` tells: for people the verdict first, then version by version what is lost,
//! what to do and what not to do, then how it was established.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    io::{self, Write},
    time::SystemTime,
};

use etcd_snapshot::file::Integrity;
use jiff::Timestamp;
use kms_domain::{
    fingerprint::require_identity,
    recovery::{
        origin::{Gap, LiveKey, Origin},
        pair::{Proof, Remedy, Verdict},
        record::BackupRecord,
    },
    registry::document::Document,
    transit::CreatedAt,
};
use schemars::JsonSchema;
use serde::Serialize;

use super::{
    EtcdError, Trust,
    drift::Drift,
    scan,
    verify_pair::{Depth, Pair, Row, SeedProblem, Unanswered},
};
use crate::{
    cli::exit::Exit,
    config::Config,
    diagnose::call_remedy,
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
}

/// The result of `verify-backup`.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PairReport {
    verdict: &'static str,
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
    limitations: Vec<String>,
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

/// Which OpenBao backup it is that another key or version must come from.
fn recorded_backup(facts: Facts<'_>) -> Option<String> {
    let needs_another_key = |row: &Row| {
        matches!(
            row.finding.origin,
            Origin::Gap(
                Gap::NewerThanLatest { .. }
                    | Gap::Trimmed { .. }
                    | Gap::OtherCreation { .. }
                    | Gap::NoKey { .. }
            )
        )
    };
    let note = facts.record?.note();
    let openbao = note.openbao.as_ref()?;
    let sha256 = openbao.sha256_hex();
    let at = &note.recorded_at;
    facts.pair.rows.iter().any(needs_another_key).then(|| {
        format!("the OpenBao snapshot of the recorded set, of {at}, has the SHA-256 {sha256}")
    })
}

/// What a verdict of `inconclusive` waits for.
fn open_question(facts: Facts<'_>) -> Option<String> {
    let step = match facts.pair.unanswered.as_ref()? {
        Unanswered::Metadata(failure) | Unanswered::Decrypt(failure) => call_remedy(failure),
        Unanswered::Profile(_) => Some("correct in OpenBao what the check openbao.key names"),
        Unanswered::Connection(_) | Unanswered::Item(_) => None,
    };
    let step = step.unwrap_or("mend what the check openbao.key names");
    Some(format!("{step}, then run verify-backup again"))
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

/// What to do, and what not to do, about a row that is not as it should be.
fn advice(row: &Row) -> Option<(Cow<'static, str>, &'static str)> {
    let seeds = row.finding.seeds;
    let gap = match &row.finding.origin {
        Origin::Gap(gap) => gap,
        Origin::Known(_) => return None,
        Origin::Live(_) if seeds.failed > 0 && seeds.proven == 0 => {
            return Some((ORIGINAL_KEY.into(), NO_RECREATED_KEY));
        }
        Origin::Live(_) => {
            let unopened = row.finding.data.is_some_and(|data| data.failed > 0);
            let wrong = seeds.failed > 0 || unopened;
            return wrong.then_some((EARLIER_ETCD.into(), NO_AAD_BYPASS));
        }
    };
    let (next, not) = match gap {
        Gap::KeyId(_) | Gap::Annotations(_) | Gap::Foreign(_) => (EARLIER_ETCD, NO_AAD_BYPASS),
        Gap::OtherScope { .. } => (
            "put back the names under which this was encrypted (from configuration management or \
             a backup record), or verify with the configuration of the cluster that it belongs to",
            "do not change names to make an error go away",
        ),
        Gap::NewerThanLatest {
            version, recorded, ..
        } => {
            let since = recorded.map_or_else(String::new, |second| {
                format!(", which was made at {}", time_of(second))
            });
            let next = format!(
                "restore an OpenBao backup that has version {version}{since}, or an etcd snapshot \
                 from before that rotation"
            );
            return Some((next.into(), NO_ROTATION));
        }
        Gap::Trimmed { .. } => (
            "restore an OpenBao backup from before the key was trimmed, or an etcd snapshot in \
             which nothing needs the trimmed versions",
            "do not trim any further",
        ),
        Gap::OtherCreation { .. } => (ORIGINAL_KEY, NO_RECREATED_KEY),
        Gap::NoKey { .. } => (
            "compare transit.mountPath and transit.keyName with what was configured; if they are \
             right, restore an OpenBao backup that has the key",
            "do not create a key of that name: it decrypts nothing of the old one",
        ),
        // The one has a remedy, the other waits for OpenBao.
        Gap::Hidden { .. } | Gap::Unknown { .. } => return None,
    };
    Some((next.into(), not))
}

fn time_of(second: CreatedAt) -> String {
    i64::try_from(second.get())
        .ok()
        .and_then(|second| Timestamp::from_second(second).ok())
        .map_or_else(|| format!("second {second}"), |time| time.to_string())
}

const NO_ROTATION: &str = "do not rotate the key to reach the missing number: a new version of the \
     same number decrypts nothing of the old one";
const ORIGINAL_KEY: &str = "restore the OpenBao backup that has the original key; if it has, \
     compare providerName, clusterId and openbao.instanceId with a backup record (--record), since \
     only a record can tell those apart";
const NO_RECREATED_KEY: &str =
    "do not accept a key that was made anew under the same name, and do not rotate or trim it";
const EARLIER_ETCD: &str = "restore an etcd snapshot from before these objects were damaged, or \
     make them anew from their source once the rest is in service";
const NO_AAD_BYPASS: &str =
    "do not edit values or annotations in etcd: they are bound to key and place, and never open";

fn limitations(facts: Facts<'_>) -> Vec<String> {
    let Facts { pair, .. } = facts;
    let mut all = Vec::new();
    let mut add = |applies: bool, text: &str| all.extend(applies.then(|| text.to_owned()));
    add(
        facts.depth == Depth::Dek,
        "No object was opened: an object that was moved or changed in etcd goes unnoticed. Give \
         --depth data to open every one.",
    );
    add(
        matches!(
            pair.inventory.trust,
            Trust::File {
                integrity: Integrity::NoHash,
                ..
            }
        ),
        "The etcd file carries no hash, so damage that leaves its structure whole goes unnoticed.",
    );
    add(
        pair.rows.iter().any(|row| {
            matches!(
                row.finding.origin,
                Origin::Gap(Gap::Hidden { known: false, .. })
            )
        }),
        "OpenBao does not list hidden versions, so whether they are the ones that are needed shows \
         only after min_decryption_version was lowered: verify again then.",
    );
    add(
        pair.unanswered.is_some() && facts.record.is_some(),
        "The record shows which versions existed when it was made. It cannot show that this \
         OpenBao has their key material, nor that it is the same.",
    );
    add(
        pair.unanswered.is_some() && facts.record.is_none(),
        "Without OpenBao and without a record nothing but the state of this node tells versions \
         apart. A record (--record) shows which versions existed when the backup was made.",
    );
    add(
        facts
            .record
            .is_some_and(|record| record.note().openbao.is_some()),
        "Whether this OpenBao was restored from the snapshot in the record cannot be seen from \
         its answers.",
    );
    add(
        matches!(pair.inventory.trust, Trust::Live { .. }),
        "etcd is running: the verdict holds for the revision that was read, not for what is written \
         after it.",
    );
    add(
        pair.appeared > 0,
        "etcd changed between its two readings: objects under key_ids that are new since the first were not \
         judged.",
    );
    add(
        true,
        "Only objects of this provider were judged; what is stored in plain or by other providers \
         does not depend on this OpenBao. scan-etcd lists it.",
    );
    all
}

/// Identifier and title of a check. Stable.
type Name = (&'static str, &'static str);

const OBJECTS: Name = (
    "etcd.objects",
    "etcd holds objects of this provider, none damaged",
);
const KEY: Name = ("openbao.key", "OpenBao answers for the key");
const STATE: Name = ("registry.state", "The state of this node is evidence");
const MAPPED: Name = ("key_ids.mapped", "Every key_id is a version of the key");
const DEKS: Name = ("deks.decrypt", "Every encrypted DEK decrypts");
const DATA: Name = ("data.open", "Every object opens with its DEK");
const DRIFT: Name = ("record.drift", "Nothing has changed since the record");

fn checks(facts: Facts<'_>) -> [Check; 8] {
    [
        scan::integrity(facts.pair.inventory.trust),
        objects_check(facts),
        key_check(facts.pair),
        state_check(facts),
        mapped_check(facts.pair),
        proof_check(DEKS, facts.pair, |row| Some(row.finding.seeds)),
        match facts.depth {
            Depth::Dek => Check::skip(DATA.0, DATA.1, "give --depth data"),
            Depth::Data => proof_check(DATA, facts.pair, |row| row.finding.data),
        },
        drift_check(facts),
    ]
}

/// How many names of other providers are shown.
const FEW: usize = 5;

fn objects_check(facts: Facts<'_>) -> Check {
    let (id, title) = OBJECTS;
    let inventory = &facts.pair.inventory;
    let ours: u64 = facts.pair.rows.iter().map(|row| row.finding.objects).sum();
    let keys = inventory.totals.keys;
    let provider = facts.config.scope.provider_name.as_str();
    if inventory.damaged_values > 0 {
        let damaged = inventory.damaged_values;
        Check::fail(id, title, format!("{damaged} KMS v2 values are damaged"))
            .impact("the API server refuses them, and with them every list of their resource")
            .remediation("run scan-etcd, which names them; restore an earlier etcd snapshot")
    } else if ours == 0 {
        let others: BTreeSet<_> = inventory.groups.iter().map(|it| &*it.provider).collect();
        let others: Vec<_> = others.into_iter().take(FEW).collect();
        let others = match others.is_empty() {
            true => "none".to_owned(),
            false => others.join(", "),
        };
        let message = format!(
            "none of {keys} keys is of provider {provider}; KMS v2 providers there: {others}"
        );
        Check::warn(id, title, message).remediation(
            "compare with transit.keyIdScope.providerName, or take the snapshot of this cluster",
        )
    } else {
        Check::pass(id, title).message(format!("{ours} of {keys} keys"))
    }
}

fn key_check(pair: &Pair) -> Check {
    let (id, title) = KEY;
    match (&pair.unanswered, pair.lineage.live()) {
        (Some(unanswered), _) => Check::fail(id, title, one_line(unanswered)),
        (None, LiveKey::Listed(profile)) => Check::pass(id, title).message(format!(
            "latest version {}, min_available_version {}, min_decryption_version {}",
            profile.latest(),
            profile.min_available(),
            profile.min_decryption()
        )),
        (None, LiveKey::Missing | LiveKey::Unknown) => {
            Check::fail(id, title, "OpenBao answers, and has no such key")
        }
    }
}

fn state_check(facts: Facts<'_>) -> Check {
    let (id, title) = STATE;
    let config = facts.config;
    match facts.state {
        Err(cause) => Check::skip(id, title, cause),
        Ok(document) => match require_identity(document, &config.scope, &config.key) {
            Ok(()) => Check::pass(id, title),
            Err(other) => Check::warn(id, title, other.to_string()).remediation(
                "if this node's state is the right one, change the configuration back",
            ),
        },
    }
}

fn mapped_check(pair: &Pair) -> Check {
    let (id, title) = MAPPED;
    let objects = |of: fn(&Origin) -> bool| -> u64 {
        let rows = pair.rows.iter().filter(|row| of(&row.finding.origin));
        rows.map(|row| row.finding.objects).sum()
    };
    let open = objects(|it| matches!(it, Origin::Known(_) | Origin::Gap(Gap::Unknown { .. })));
    let live = objects(|it| matches!(it, Origin::Live(_)));
    let gaps = objects(|it| matches!(it, Origin::Gap(_)));
    if pair.rows.is_empty() {
        Check::skip(id, title, "there are none")
    } else if open > 0 {
        Check::skip(id, title, "OpenBao did not tell which versions the key has")
    } else if gaps > 0 {
        Check::fail(
            id,
            title,
            format!("{gaps} objects need what the key does not give"),
        )
    } else {
        let key_ids = pair.rows.len();
        Check::pass(id, title).message(format!("{key_ids} key_ids of {live} objects"))
    }
}

/// The answer for a check whose prerequisite failed.
fn skipped((id, title): Name) -> Check {
    Check::skip(id, title, "an earlier check failed")
}

fn proof_check((id, title): Name, pair: &Pair, of: fn(&Row) -> Option<Proof>) -> Check {
    let mut sum = Proof::default();
    for proof in pair.rows.iter().filter_map(of) {
        sum.proven = sum.proven.saturating_add(proof.proven);
        sum.failed = sum.failed.saturating_add(proof.failed);
        sum.untried = sum.untried.saturating_add(proof.untried);
    }
    let Proof {
        proven,
        failed,
        untried,
    } = sum;
    let counts = format!("{proven} do, {failed} do not, {untried} were not tried");
    if failed > 0 {
        Check::fail(id, title, counts)
    } else if proven == 0 || untried > 0 {
        Check::skip(id, title, counts)
    } else {
        Check::pass(id, title).message(format!("{proven} of {proven}"))
    }
}

fn drift_check(facts: Facts<'_>) -> Check {
    let (id, title) = DRIFT;
    match (facts.record, facts.drift) {
        (None, _) => Check::skip(id, title, "no --record was given"),
        (Some(record), []) => {
            Check::pass(id, title).message(format!("made at {}", record.note().recorded_at))
        }
        (Some(record), drift) => {
            let fields: Vec<_> = drift.iter().map(|it| it.field.as_str()).collect();
            let at = &record.note().recorded_at;
            let message = format!("since {at} these have: {}", fields.join(", "));
            Check::warn(id, title, message)
        }
    }
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
