//! The result of `backups`: the matrix of snapshots, the oldest restorable point in time, and the versions
//! that must stay.

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime},
};

use kms_domain::{recovery::offer::Match, transit::TransitVersion};
use kms_node::{
    advice::{
        Cause, Site,
        evidence::{BACKUPS_INCOMPATIBLE, BACKUPS_UNPROVEN, NO_BACKUPS},
    },
    config::Config,
    exit::Exit,
    report::{
        CheckName, counted,
        outcome::Outcome,
        picture::{Column, Condition, Grid, Rating},
        rfc3339,
        table::Table,
    },
};
use schemars::JsonSchema;
use serde::Serialize;

use super::{
    Backups as Gathered, EtcdBackup, Judged, LeftOut, OpenbaoBackup, directory::BackupFile,
};

/// The members of `backups`.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Backups {
    /// From old to new.
    etcd_snapshots: Vec<EtcdRow>,
    /// From old to new.
    openbao_snapshots: Vec<OpenbaoRow>,
    pairs: Vec<PairRow>,
    left_out: Vec<LeftOutRow>,
    /// RFC 3339: creation time of the oldest etcd snapshot with a matching OpenBao snapshot.
    #[serde(skip_serializing_if = "Option::is_none")]
    oldest_restorable: Option<String>,
    /// The same of the newest one.
    #[serde(skip_serializing_if = "Option::is_none")]
    newest_restorable: Option<String>,
    /// Versions that the etcd snapshots need. They must not be trimmed.
    needed_versions: Vec<u64>,
    /// Whether all needed versions are known. Otherwise no version may be trimmed.
    needs_are_known: bool,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct EtcdRow {
    file: String,
    /// RFC 3339.
    made_at: String,
    made_by: &'static str,
    /// Of this key.
    objects: u64,
    needed_versions: Vec<u64>,
    /// Objects and damaged values whose version no record and no state names.
    unexplained: u64,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct OpenbaoRow {
    file: String,
    /// RFC 3339.
    made_at: String,
    made_by: &'static str,
    /// Whether a backup record has the hash of the file.
    has_record: bool,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct PairRow {
    etcd: String,
    openbao: String,
    /// `matching`, `incompatible` or `inconclusive`.
    verdict: &'static str,
    /// Versions that were created after the OpenBao snapshot.
    missing_versions: Vec<u64>,
    /// Versions that nothing proves to be in the OpenBao snapshot.
    open_versions: Vec<u64>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct LeftOutRow {
    file: String,
    reason: String,
}

const NEWEST: CheckName = CheckName("backups.newest", "Newest etcd snapshot with a match");
const NEEDS: CheckName = CheckName("backups.needs", "Versions that the etcd snapshots need");
const FILES: CheckName = CheckName("backups.files", "Files of the directories");

const NOT_TRIED: &str = "Nothing was decrypted: a match means that the record of the OpenBao snapshot lists \
     each needed version. Only drill proves that a pair restores.";
const TRIM_NOTHING: &str = "The needs of some files are unknown, so any version may be needed.";

/// The result for the backups of two directories.
#[must_use]
pub fn outcome(
    config: &Config,
    gathered: &Gathered,
    site: &Site<'_>,
    now: SystemTime,
) -> Outcome<Backups> {
    let pairs: Vec<Judged<'_>> = gathered.pairs().collect();
    let needed: BTreeSet<TransitVersion> = gathered
        .etcd
        .iter()
        .flat_map(|etcd| etcd.versions.iter().copied())
        .collect();
    let explained = gathered.etcd.iter().all(|etcd| etcd.unexplained == 0);
    let needs_are_known = explained && gathered.left_out.iter().all(|it| !it.is_suspect);
    let mut restorable = pairs.iter().filter(|pair| pair.verdict == Match::Matching);
    let oldest = restorable.clone().next().map(|pair| pair.etcd.file.made);
    let newest = restorable.next_back().map(|pair| pair.etcd.file.made);

    let members = Backups {
        etcd_snapshots: gathered.etcd.iter().map(EtcdRow::of).collect(),
        openbao_snapshots: gathered.openbao.iter().map(OpenbaoRow::of).collect(),
        pairs: pairs.iter().map(PairRow::of).collect(),
        left_out: gathered.left_out.iter().map(LeftOutRow::of).collect(),
        oldest_restorable: oldest.map(rfc3339),
        newest_restorable: newest.map(rfc3339),
        needed_versions: numbers(&needed),
        needs_are_known,
    };
    let mut outcome = Outcome::new("backups", now, members);
    outcome.identify(&config.fingerprint());
    conclude(&mut outcome, gathered, &pairs, site);
    outcome.add_checks([
        match needs_are_known {
            true => NEEDS.pass().message(joined(&needed)),
            false => NEEDS.warn("some objects or files are not explained by a record"),
        },
        match gathered.left_out.len() {
            0 => FILES.pass(),
            count => FILES.warn(format!("{} left out", counted(count, "file"))),
        },
    ]);
    outcome.add_tables(outcome.result.tables());
    draw(&mut outcome, gathered, &pairs);
    outcome.add_limitations([NOT_TRIED]);
    outcome.add_limitations((!needs_are_known).then_some(TRIM_NOTHING));
    outcome
}

/// The newest etcd snapshot decides: a restore would begin with it.
fn conclude(
    outcome: &mut Outcome<Backups>,
    gathered: &Gathered,
    pairs: &[Judged<'_>],
    site: &Site<'_>,
) {
    let newest = gathered.etcd.last();
    let of_newest = || {
        let newest = newest.map(|etcd| &etcd.file);
        pairs.iter().filter(move |it| Some(&it.etcd.file) == newest)
    };
    let best = of_newest()
        .rev()
        .find(|pair| pair.verdict == Match::Matching);
    if let Some(best) = best {
        let (etcd, openbao) = (&best.etcd.file.name, &best.openbao.file.name);
        let oldest = outcome.result.oldest_restorable.clone();
        let headline = format!(
            "the newest etcd snapshot {etcd} matches {openbao}; the oldest restorable point in time is {}",
            oldest.unwrap_or_default()
        );
        outcome.conclude(Match::Matching.as_str(), Exit::Success, headline);
        outcome.add_checks([NEWEST.pass().message(format!("{etcd} with {openbao}"))]);
        return;
    }
    let cause: &Cause = if of_newest().next().is_none() {
        &NO_BACKUPS
    } else if of_newest().all(|pair| pair.verdict == Match::Incompatible) {
        &BACKUPS_INCOMPATIBLE
    } else {
        &BACKUPS_UNPROVEN
    };
    let advice = cause.advise(site, &[]);
    let found = of_newest().next_back().map_or_else(
        || "the directories have no pair of snapshots".to_owned(),
        |pair| format!("{}: {}", pair.etcd.file.name, reason(pair)),
    );
    outcome.add_checks([NEWEST.fail(found.clone()).code(cause.code)]);
    outcome.conclude_with(&advice);
    let verdict = match cause.exit {
        Exit::CheckFailed => Match::Incompatible,
        _ => Match::Inconclusive,
    };
    outcome.conclude(verdict.as_str(), advice.exit, advice.headline);
    outcome.set_found(found);
}

/// Reason why a pair does not match.
fn reason(pair: &Judged<'_>) -> String {
    let openbao = &pair.openbao.file.name;
    if !pair.missing.is_empty() {
        let versions = joined(&pair.missing);
        format!("{openbao} is older than key version {versions}")
    } else if pair.etcd.unexplained > 0 {
        let objects = counted(pair.etcd.unexplained, "object");
        format!("no record and no state explains {objects}")
    } else if pair.etcd.needed.is_empty() {
        "it has no object of this key".to_owned()
    } else if pair.openbao.has_record() {
        let versions = joined(&pair.open);
        format!(
            "{openbao} is less than 5 minutes younger than key version {versions}, or its record lacks it"
        )
    } else {
        format!("no record has the hash of {openbao}")
    }
}

/// For the page: the matrix, with objects in its cells.
fn draw(outcome: &mut Outcome<Backups>, gathered: &Gathered, pairs: &[Judged<'_>]) {
    let mut grid = Grid::new("objects by etcd and OpenBao snapshot", "etcd snapshot");
    for pair in pairs {
        let rating = match pair.verdict {
            Match::Matching => Rating::Good,
            Match::Incompatible => Rating::Bad,
            Match::Inconclusive => Rating::Odd,
        };
        let condition = Condition::new(rating, pair.verdict.as_str());
        let column = Column::Other(pair.openbao.file.name.clone());
        grid.add(&pair.etcd.file.name, column, condition, pair.etcd.objects);
    }
    outcome.picture.add_grid(grid);
    let etcd = gathered.etcd.iter().map(|it| ("etcd", &it.file));
    let openbao = gathered.openbao.iter().map(|it| ("OpenBao", &it.file));
    for (store, file) in etcd.chain(openbao) {
        let second = file.made.duration_since(SystemTime::UNIX_EPOCH);
        let event = format!("{store} snapshot {} made", file.name);
        outcome
            .picture
            .add_event(second.unwrap_or(Duration::ZERO).as_secs(), event);
    }
    for etcd in &gathered.etcd {
        for version in &etcd.versions {
            outcome
                .picture
                .add_need(version.get(), etcd.file.name.clone());
        }
    }
}

fn numbers(versions: &BTreeSet<TransitVersion>) -> Vec<u64> {
    versions.iter().map(|version| version.get()).collect()
}

fn joined(versions: &BTreeSet<TransitVersion>) -> String {
    words(&numbers(versions)).join(", ")
}

fn words(versions: &[u64]) -> Vec<String> {
    versions.iter().map(ToString::to_string).collect()
}

fn made(file: &BackupFile) -> (String, String, &'static str) {
    (file.name.clone(), rfc3339(file.made), file.made_by.as_str())
}

impl EtcdRow {
    fn of(backup: &EtcdBackup) -> Self {
        let (file, made_at, made_by) = made(&backup.file);
        Self {
            file,
            made_at,
            made_by,
            objects: backup.objects,
            needed_versions: numbers(&backup.versions),
            unexplained: backup.unexplained,
        }
    }
}

impl OpenbaoRow {
    fn of(backup: &OpenbaoBackup) -> Self {
        let (file, made_at, made_by) = made(&backup.file);
        Self {
            file,
            made_at,
            made_by,
            has_record: backup.has_record(),
        }
    }
}

impl PairRow {
    fn of(pair: &Judged<'_>) -> Self {
        Self {
            etcd: pair.etcd.file.name.clone(),
            openbao: pair.openbao.file.name.clone(),
            verdict: pair.verdict.as_str(),
            missing_versions: numbers(&pair.missing),
            open_versions: numbers(&pair.open),
        }
    }
}

impl LeftOutRow {
    fn of(left_out: &LeftOut) -> Self {
        Self {
            file: left_out.file.clone(),
            reason: left_out.reason.clone(),
        }
    }
}

impl Backups {
    fn tables(&self) -> [Table; 5] {
        let mut facts = Table::new("restore", ["fact", "value"]);
        facts.facts("oldest restorable point in time", &self.oldest_restorable);
        facts.facts("newest restorable point in time", &self.newest_restorable);
        facts.facts(
            "versions that must not be trimmed",
            [match self.needs_are_known {
                true => words(&self.needed_versions).join(", "),
                false => "all, since some needs are unknown".to_owned(),
            }],
        );
        let etcd = Table::of("etcd snapshots", &self.etcd_snapshots)
            .column("file", |it| &it.file)
            .column("made", |it| &it.made_at)
            .column("time from", |it| it.made_by)
            .column("objects", |it| it.objects)
            .column("needs versions", |it| words(&it.needed_versions))
            .column("unexplained", |it| it.unexplained);
        let openbao = Table::of("OpenBao snapshots", &self.openbao_snapshots)
            .column("file", |it| &it.file)
            .column("made", |it| &it.made_at)
            .column("time from", |it| it.made_by)
            .column("record", |it| match it.has_record {
                true => "yes",
                false => "no",
            });
        let pairs = Table::of("pairs", &self.pairs)
            .column("etcd", |it| &it.etcd)
            .column("openbao", |it| &it.openbao)
            .column("verdict", |it| it.verdict)
            .column("missing versions", |it| words(&it.missing_versions))
            .column("open versions", |it| words(&it.open_versions));
        let left_out = Table::of("left out", &self.left_out)
            .column("file", |it| &it.file)
            .column("reason", |it| &it.reason);
        [
            facts,
            etcd.table(),
            openbao.table(),
            pairs.table(),
            left_out.table(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use std::{path::Path, sync::Arc};

    use kms_domain::{
        key::TransitKey,
        recovery::record::BackupRecord,
        transit::{CreatedAt, TransitVersion},
    };
    use kms_node::report::{Output, text::Look};
    use serde_json::{Value, json};

    use super::{super::directory::MadeBy, *};
    use crate::claims;

    const DAY: u64 = 86_400;
    const START: u64 = 1_700_000_000;

    /// The record with two versions, created in the first two seconds.
    fn record() -> BackupRecord {
        let vectors = include_str!("../../../../../conformance/vectors/backup_record.json");
        let vectors: Value = serde_json::from_str(vectors).unwrap();
        let record = vectors["records"][1]["record"].as_str().unwrap();
        BackupRecord::decode(record.as_bytes()).unwrap()
    }

    fn file(name: &str, day: u64) -> BackupFile {
        BackupFile {
            path: name.into(),
            name: name.to_owned(),
            made: SystemTime::UNIX_EPOCH + Duration::from_secs(START + day * DAY),
            made_by: MadeBy::Name,
        }
    }

    fn etcd(name: &str, day: u64, needed: &[Arc<TransitKey>]) -> EtcdBackup {
        EtcdBackup {
            file: file(name, day),
            objects: 3,
            needed: needed.to_vec(),
            versions: needed.iter().map(|key| key.version()).collect(),
            unexplained: 0,
        }
    }

    fn openbao(name: &str, day: u64, record: Option<usize>) -> OpenbaoBackup {
        OpenbaoBackup {
            file: file(name, day),
            created: CreatedAt::new(START + day * DAY),
            record,
        }
    }

    fn shown(gathered: &Gathered) -> (Value, String) {
        let config = claims::config();
        let site = Site::new(Path::new("config.yaml"), Some(&config));
        let outcome = outcome(&config, gathered, &site, SystemTime::UNIX_EPOCH);
        let mut text = Vec::new();
        let written = Output::Text.write(&outcome, Look::default(), &mut text);
        written.unwrap();
        let json = serde_json::to_value(&outcome).unwrap();
        (json, String::from_utf8(text).unwrap())
    }

    #[test]
    fn the_newest_etcd_snapshot_decides_and_the_oldest_match_is_the_reach_of_a_restore() {
        let record = record();
        let versions = record.note().versions.values();
        let keys: Vec<_> = versions.map(|it| Arc::clone(&it.key)).collect();
        let scope = Arc::clone(&record.note().scope);
        let third = TransitVersion::new(3).unwrap();
        let day_two = CreatedAt::new(START + 2 * DAY).unwrap();
        let third = Arc::new(TransitKey::new(scope, third, day_two));
        let mut gathered = Gathered {
            etcd: vec![etcd("first", 0, &keys[..1]), etcd("second", 1, &keys)],
            openbao: vec![openbao("a", 0, None), openbao("b", 1, Some(0))],
            records: vec![record],
            left_out: Vec::new(),
        };
        let (json, text) = shown(&gathered);
        assert_eq!(
            (&json["verdict"], &json["exitCode"]),
            (&json!("matching"), &json!(0))
        );
        assert_eq!(json["oldestRestorable"], "2023-11-14T22:13:20Z");
        assert_eq!(json["newestRestorable"], "2023-11-15T22:13:20Z");
        assert_eq!(json["neededVersions"], json!([1, 2]));
        assert_eq!(json["needsAreKnown"], true);
        let words = |json: &Value| {
            let pairs = json["pairs"].as_array().unwrap().iter();
            let words = pairs.map(|pair| pair["verdict"].as_str().unwrap().to_owned());
            words.collect::<Vec<_>>()
        };
        let by_record = ["inconclusive", "matching", "inconclusive", "matching"];
        assert_eq!(words(&json), by_record);
        assert!(text.contains("second matches b"), "{text}");
        assert!(!claims::denies_loss(&text), "{text}");

        // A rotation after both OpenBao snapshots.
        let needs = [keys.as_slice(), &[third]].concat();
        gathered.etcd.push(etcd("third", 3, &needs));
        let (json, _) = shown(&gathered);
        assert_eq!(json["verdict"], "incompatible");
        assert_eq!(
            (&json["cause"], &json["exitCode"]),
            (&json!("backups_incompatible"), &json!(4))
        );
        assert_eq!(json["pairs"][5]["missingVersions"], json!([3]));
        assert_eq!(json["newestRestorable"], "2023-11-15T22:13:20Z");

        // Without a record nothing is shown, and a suspect file leaves every need open.
        gathered.openbao[1].record = None;
        gathered.etcd.pop();
        gathered.left_out.push(LeftOut {
            file: "x.age".to_owned(),
            reason: "encrypted".to_owned(),
            is_suspect: true,
        });
        let (json, text) = shown(&gathered);
        assert_eq!(
            (&json["cause"], &json["exitCode"]),
            (&json!("backups_unproven"), &json!(5))
        );
        assert_eq!(json["oldestRestorable"], Value::Null);
        assert_eq!(json["needsAreKnown"], false);
        assert!(text.contains("all, since some needs are unknown"), "{text}");
    }
}
