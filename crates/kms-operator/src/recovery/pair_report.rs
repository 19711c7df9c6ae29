//! The result of `verify-backup`: the verdict, the causes with their steps, the finding of each
//! `key_id`, and the checks behind them.

mod causes;
mod checks;
mod key_ids;
mod limitations;
mod picture;

use std::{collections::BTreeMap, path::Path, time::SystemTime};

use causes::{cases, gravest, remedy_values};
use checks::{DATA, DEKS, DRIFT, KEY, MAPPED, OBJECTS, STATE, checks};
use key_ids::{KeyIdRow, lost, untested};
use kms_domain::{
    recovery::{
        pair::{Remedy, Verdict},
        record::BackupRecord,
        resolve::Resolution,
    },
    registry::document::Document,
};
use kms_node::{
    advice::{self, DataImpact, Site},
    config::Config,
    exit::Exit,
    report::{counted, one_line, outcome::Outcome, table::Table, utc},
};
use limitations::limitations;
use schemars::JsonSchema;
use serde::Serialize;

use super::{
    EtcdError,
    drift::{Comparison, Drift},
    scan,
    truncated::{FEW_ROWS, LeftOut, ROWS, Truncated},
    unread::Unread,
    verify_pair::{Depth, Pair, Row},
};

/// The result of a verification.
pub type PairReport = Outcome<VerifyBackup>;

/// Input of a report.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    pub config: &'a Config,
    /// The file of `config`, for commands.
    pub config_path: &'a Path,
    pub pair: &'a Pair,
    /// The requested depth.
    pub depth: Depth,
    /// The valid state of this node, or why there is none.
    pub state: Result<&'a Document, &'a str>,
    pub record: Option<&'a BackupRecord>,
    /// Changes since the record.
    pub compared: &'a Comparison,
    /// OpenBao is a copy, made from a snapshot just now.
    pub rehearsed: bool,
    pub line: Line<'a>,
}

/// The command line, for the next steps.
#[derive(Debug, Clone, Copy)]
pub struct Line<'a> {
    /// Its options for the source of etcd data.
    pub etcd: &'a str,
    /// The whole line, to be run again.
    pub again: &'a str,
}

/// The members of `verify-backup`.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VerifyBackup {
    #[serde(skip)]
    pub judged: Verdict,
    remedies: Vec<RemedyRow>,
    #[serde(skip_serializing_if = "Option::is_none")]
    etcd: Option<EtcdRow>,
    key_ids: Vec<KeyIdRow>,
    /// Absent if all are shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    key_ids_left_out: Option<LeftOut>,
    drift: Vec<Drift>,
    /// Members of the record that were not compared.
    not_compared: Vec<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct RemedyRow {
    code: &'static str,
    transit_version: u64,
    command: String,
    /// To be run when no object and no backup needs the version any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    revert: Option<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct EtcdRow {
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
    /// The first of them, if names were requested.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    damaged_keys: Vec<String>,
    /// Of other providers, which are no part of the verdict.
    damaged_values_of_others: u64,
}

/// A pair that is not to be used as it is has failed; one that was not judged has not.
fn exit(verdict: Verdict) -> Exit {
    match verdict {
        Verdict::Compatible => Exit::Success,
        Verdict::CompatibleAfter | Verdict::Incompatible => Exit::CheckFailed,
        Verdict::Inconclusive => Exit::Runtime,
    }
}

/// The report on a verified pair.
#[must_use]
pub fn outcome(facts: Facts<'_>, now: SystemTime) -> PairReport {
    let Facts { config, pair, .. } = facts;
    let site = Site::new(facts.config_path, Some(config)).with_etcd(facts.line.etcd);
    let cases = cases(facts);
    let etcd = EtcdRow::of(pair);
    let rows = Truncated::of(&pair.rows, ROWS, |row| row.is_of_the_key());
    let shown = rows.shown.iter().map(|row| KeyIdRow::of(facts, row));
    let members = VerifyBackup {
        judged: pair.verdict,
        remedies: pair
            .remedies
            .iter()
            .filter_map(|remedy| RemedyRow::of(facts, remedy, &site))
            .collect(),
        key_ids: shown.collect(),
        key_ids_left_out: LeftOut::of(&rows.left_out, |row| row.finding.objects),
        drift: facts.compared.drift.clone(),
        not_compared: facts.compared.not_compared.clone(),
        etcd: None,
    };

    let mut outcome = Outcome::new("verify-backup", now, members);
    outcome.identify(&config.fingerprint());
    outcome.conclude(
        pair.verdict.as_str(),
        exit(pair.verdict),
        headline(facts, &etcd),
    );
    let (impact, meaning) = data(facts, &etcd, gravest(&cases));
    outcome.set_data(impact, meaning);
    causes::add_advice(facts, &cases, &site, &mut outcome);

    let tables = causes::table(&cases).into_iter();
    let tables = tables.chain(etcd.tables()).chain(outcome.result.tables());
    let tables: Vec<_> = tables.chain(drift(facts)).collect();
    outcome.add_tables(tables);
    outcome.picture = picture::picture(facts, &outcome.result.key_ids);
    outcome.result.etcd = Some(etcd);
    let unread = pair.inventory.unread.as_ref().map(Unread::check);
    outcome.add_checks(checks(facts).into_iter().chain(unread));
    outcome.add_limitations(limitations(facts));
    outcome
}

/// The report after a failed reading of etcd. A damaged snapshot is no half of any pair; another
/// failure decides nothing.
#[must_use]
pub fn not_read(
    config: &Config,
    config_path: &Path,
    error: &EtcdError,
    line: Line<'_>,
    now: SystemTime,
) -> PairReport {
    let members = VerifyBackup {
        judged: match error.is_damage() {
            true => Verdict::Incompatible,
            false => Verdict::Inconclusive,
        },
        remedies: Vec::new(),
        etcd: None,
        key_ids: Vec::new(),
        key_ids_left_out: None,
        drift: Vec::new(),
        not_compared: Vec::new(),
    };
    let judged = members.judged;
    let mut outcome = Outcome::new("verify-backup", now, members);
    outcome.identify(&config.fingerprint());
    let site = Site::new(config_path, Some(config)).with_etcd(line.etcd);
    let advice = advice::advise(&error.cause(), &site);
    let headline = format!("nothing was compared: {}", advice.headline);
    outcome.conclude(judged.as_str(), exit(judged), headline);
    outcome.set_found(one_line(error));
    outcome.add_cause(&advice);
    outcome.add_steps(advice::evidence::AGAIN.advise(&site, &[("again", line.again)]));
    outcome.add_warnings([advice::KEEP_ETCD]);

    outcome.add_checks([scan::READ.fail(one_line(error)).code(advice.code)]);
    outcome.add_checks(
        [OBJECTS, KEY, STATE, MAPPED, DEKS, DATA, DRIFT]
            .map(|it| it.skip("an earlier check failed")),
    );
    outcome
}

/// Objects that were neither proven nor found to be lost.
fn open(row: &Row) -> u64 {
    let finding = &row.finding;
    let objects = finding.objects.saturating_sub(lost(row));
    match &finding.origin {
        Resolution::Known(_) | Resolution::Unresolved(_) => objects,
        Resolution::Live(_) if finding.seeds.untried > 0 => objects,
        Resolution::Live(_) => finding.data.map_or(0, |data| data.untried.min(objects)),
    }
}

fn headline(facts: Facts<'_>, etcd: &EtcdRow) -> String {
    let provider = format!("provider {}", facts.config.scope.provider_name);
    let objects = etcd.objects;
    let all = match objects {
        1 => format!("the only object of {provider}"),
        objects => format!("all {objects} objects of {provider}"),
    };
    let of_all = |part: u64| format!("{part} of {} of {provider}", counted(objects, "object"));
    match facts.pair.verdict {
        Verdict::Compatible => {
            format!("{all} can be read with this OpenBao and this configuration")
        }
        Verdict::CompatibleAfter => match etcd.untested_objects {
            0 => format!(
                "no object is lost: {all} can be read with this OpenBao after the steps below"
            ),
            untested => format!(
                "{} need versions of the key below min_decryption_version, which are untested until \
                 it is lowered{}",
                of_all(untested),
                the_rest(objects.saturating_sub(untested))
            ),
        },
        Verdict::Incompatible => {
            let damaged = counted(etcd.damaged_values, "value");
            let rest = objects
                .saturating_sub(etcd.lost_objects)
                .saturating_sub(facts.pair.rows.iter().map(open).sum());
            match (etcd.lost_objects, etcd.damaged_values) {
                (0, _) => format!(
                    "no key opens the damaged values of {provider} in etcd: {damaged}{}",
                    the_rest(rest)
                ),
                (lost, 0) => format!(
                    "{} cannot be read with this OpenBao and this configuration{}",
                    of_all(lost),
                    the_rest(rest)
                ),
                (lost, _) => format!(
                    "{} cannot be read with this OpenBao and this configuration, and besides, etcd has \
                     damaged values: {damaged}{}",
                    of_all(lost),
                    the_rest(rest)
                ),
            }
        }
        Verdict::Inconclusive if objects == 0 => format!(
            "etcd holds no object of {provider}, so there is nothing to compare: is it the right \
             snapshot, and the right configuration?"
        ),
        Verdict::Inconclusive => {
            let unread = match facts.pair.inventory.has_open_keys() {
                true => ", and objects among the unread keys are unknown",
                false => "",
            };
            format!(
                "not established for {}; none of them was found to be lost{unread}",
                of_all(facts.pair.rows.iter().map(open).sum())
            )
        }
    }
}

fn the_rest(readable: u64) -> String {
    match readable {
        0 => String::new(),
        1 => "; the other one can be read".to_owned(),
        others => format!("; the other {others} can be read"),
    }
}

fn data(
    facts: Facts<'_>,
    etcd: &EtcdRow,
    gravest: Option<(DataImpact, String)>,
) -> (DataImpact, String) {
    let objects = counted(etcd.objects, "object");
    let open: u64 = facts.pair.rows.iter().map(open).sum();
    match (facts.pair.verdict, gravest) {
        (Verdict::Compatible, _) => {
            let proven = match facts.depth {
                Depth::Dek => "every encrypted DEK",
                Depth::Data => "every object, and its DEK",
            };
            let meaning = format!("no data is lost: the key decrypts {proven}, of {objects}");
            (DataImpact::NoneLost, meaning)
        }
        (Verdict::CompatibleAfter, _) if etcd.untested_objects == 0 => (
            DataImpact::NoneLost,
            format!("no data is lost: the key decrypts every encrypted DEK, of {objects}"),
        ),
        (Verdict::Inconclusive, _) if etcd.objects > 0 => (
            DataImpact::Unknown,
            format!("unknown: {open} of {objects} were not tried, and none was found to be lost"),
        ),
        (_, Some((impact, meaning))) => (impact, meaning),
        (_, None) => (
            DataImpact::Unknown,
            "unknown: a check has no clear result".to_owned(),
        ),
    }
}

impl EtcdRow {
    fn of(pair: &Pair) -> Self {
        let inventory = &pair.inventory;
        Self {
            source: inventory.source.clone(),
            revision: inventory.totals.revision,
            keys: inventory.totals.keys,
            objects: pair.rows.iter().map(|row| row.finding.objects).sum(),
            under_other_names: pair.under_other_names.clone(),
            lost_objects: pair.rows.iter().map(lost).sum(),
            untested_objects: pair.rows.iter().map(untested).sum(),
            damaged_values: pair.damaged,
            damaged_keys: inventory.damaged_names(),
            damaged_values_of_others: pair.damaged_elsewhere,
        }
    }

    fn tables(&self) -> [Table; 3] {
        let etcd = Table::of("etcd", [self])
            .column("source", |it| &it.source)
            .column("revision", |it| it.revision)
            .column("keys", |it| it.keys)
            .column("objects", |it| it.objects)
            .column("lost", |it| it.lost_objects)
            .column("untested", |it| it.untested_objects)
            .column("damaged", |it| it.damaged_values);
        let names = Table::of("under other provider names", &self.under_other_names)
            .column("provider", |(name, _)| name)
            .column("objects", |(_, objects)| objects);
        let damaged = Table::of("damaged values", &self.damaged_keys).column("key", |key| key);
        [etcd.table(), names.table(), damaged.table()]
    }
}

impl RemedyRow {
    fn of(facts: Facts<'_>, remedy: &Remedy, site: &Site<'_>) -> Option<Self> {
        let values = remedy_values(facts, remedy);
        let command = |step: advice::Step| step.advise(site, &advice::texts(&values))?.command;
        Some(match remedy {
            Remedy::LowerMinDecryption(version) => Self {
                code: "lower_min_decryption_version",
                transit_version: version.get(),
                command: command(advice::versions::LOWER_MINIMUM)?,
                revert: command(advice::versions::RAISE_MINIMUM),
            },
            Remedy::RestoreVersions(versions) => Self {
                code: "restore_versions",
                transit_version: versions.first()?.get(),
                command: command(advice::state::RESTORE_VERSIONS)?,
                revert: None,
            },
        })
    }
}

impl VerifyBackup {
    fn tables(&self) -> [Table; 3] {
        let rows = Truncated::of(&self.key_ids, FEW_ROWS, |row| row.is_of_the_key());
        let mut table = KeyIdRow::table(&rows.shown);
        let left_out = LeftOut::of(&rows.left_out, |row| row.objects);
        let nouns = ("key_ids", "objects");
        LeftOut::note(&mut table, left_out, self.key_ids_left_out, nouns);
        let [resources, names] = KeyIdRow::tables_of_unreadable(&rows.shown);
        [table, resources, names]
    }
}

fn drift(facts: Facts<'_>) -> Option<Table> {
    let at = &facts.record?.note().recorded_at;
    let title = format!("changed since the record of {at}");
    let mut table = Table::new(title, ["in", "fact", "recorded", "now"]);
    for drift in &facts.compared.drift {
        let shown = |value: &str| match drift.field.ends_with("createdAtUnix") {
            true => value.parse().map_or_else(|_| value.to_owned(), utc),
            false => format!("{value:?}"),
        };
        let (recorded, found) = (shown(&drift.recorded), shown(&drift.found));
        let field = drift.field.trim_end_matches("Unix");
        table.row([drift.source.name(), field, &*recorded, &*found]);
    }
    Some(table)
}
