//! The result of `backups`: the matrix of snapshots, the oldest restorable point in time, and the versions
//! that must stay.

mod rows;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime},
};

use kms_domain::{recovery::offer::Match, transit::TransitVersion};
use kms_node::{
    advice::{
        Cause, Site,
        evidence::{
            BACKUPS_INCOMPATIBLE, BACKUPS_NEWEST_UNKNOWN, BACKUPS_UNPROVEN, NO_BACKUPS, UNVERIFIED,
        },
    },
    config::Config,
    exit::Exit,
    report::{
        CheckName, CheckResult, counted,
        outcome::Outcome,
        picture::{Column, Condition, Grid, Rating},
        rfc3339,
    },
};

use super::{Backups as Gathered, EtcdBackup, Judged};
use crate::recovery::truncated::{ROWS, few};
pub use rows::Backups;
use rows::{EtcdRow, LeftOutRow, OpenbaoRow, PairRow, joined, numbers};

const NEWEST: CheckName = CheckName("backups.newest", "Newest etcd snapshot with a match");
const NEEDS: CheckName = CheckName("backups.needs", "Versions that the etcd snapshots need");
const ORDER: CheckName = CheckName(
    "backups.order",
    "Order of the etcd snapshots by time and revision",
);
const INTEGRITY: CheckName = CheckName("backups.integrity", "Integrity of the etcd snapshots");
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
    let mut hidden = gathered.left_out.iter().filter(|it| it.hides_needs());
    let needs_are_known = explained && hidden.next().is_none() && !needed.is_empty();
    let mut restorable = pairs.iter().filter(|pair| pair.verdict == Match::Matching);
    let oldest = restorable.clone().next().map(|pair| pair.etcd.file.made);
    let newest = restorable.next_back().map(|pair| pair.etcd.file.made);

    let mut members = Backups {
        etcd_snapshots: gathered.etcd.iter().map(EtcdRow::of).collect(),
        openbao_snapshots: gathered.openbao.iter().map(OpenbaoRow::of).collect(),
        pairs: PairRow::all(gathered, &pairs),
        left_out: gathered.left_out.iter().map(LeftOutRow::of).collect(),
        rows_left_out: BTreeMap::new(),
        oldest_restorable: oldest.map(rfc3339),
        newest_restorable: newest.map(rfc3339),
        needed_versions: numbers(&needed),
        needs_are_known,
    };
    members.truncate(ROWS);
    let mut outcome = Outcome::new("backups", now, members);
    outcome.identify(&config.fingerprint());
    conclude(&mut outcome, gathered, &pairs, site);
    outcome.add_checks([
        order(gathered),
        integrity(gathered, site),
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

/// The newest etcd snapshot decides: a restore would begin with it. Where several may be the newest, all
/// must agree.
fn conclude(
    outcome: &mut Outcome<Backups>,
    gathered: &Gathered,
    pairs: &[Judged<'_>],
    site: &Site<'_>,
) {
    let newest: Vec<_> = gathered.newest().collect();
    let of = |etcd: &EtcdBackup| {
        let etcd: *const EtcdBackup = etcd;
        pairs.iter().filter(move |it| std::ptr::eq(it.etcd, etcd))
    };
    let matches = newest
        .iter()
        .filter_map(|etcd| of(etcd).rfind(|it| it.verdict == Match::Matching));
    let matches: Vec<_> = matches.collect();
    let unread: Vec<_> = gathered.unread_etcd().collect();
    if let Some(best) = matches.last()
        && matches.len() == newest.len()
        && unread.is_empty()
    {
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
    let last = newest.iter().rev().find_map(|etcd| of(etcd).next_back());
    let is_incompatible = newest
        .iter()
        .all(|etcd| of(etcd).all(|it| it.verdict == Match::Incompatible));
    let (cause, found): (&Cause, _) = match (last, gathered.unread_openbao().next()) {
        (None, _) => (
            &NO_BACKUPS,
            "the directories have no pair of snapshots".to_owned(),
        ),
        (Some(last), _) if !unread.is_empty() => {
            let read = &last.etcd.file.name;
            let unread = unread
                .iter()
                .map(|it| format!("{} ({})", it.file, it.reason));
            let unread = few(&unread.collect::<Vec<_>>(), 0);
            (
                &BACKUPS_NEWEST_UNKNOWN,
                format!("later than {read}, and not read: {unread}"),
            )
        }
        (Some(_), None) if is_incompatible => {
            (&BACKUPS_INCOMPATIBLE, last.map(reason).unwrap_or_default())
        }
        (Some(_), _) if !matches.is_empty() => (&BACKUPS_NEWEST_UNKNOWN, in_doubt(&newest)),
        (Some(_), Some(unread)) if is_incompatible => (
            &BACKUPS_UNPROVEN,
            format!("{} was not read: {}", unread.file, unread.reason),
        ),
        (Some(last), _) => {
            let name = &last.etcd.file.name;
            (&BACKUPS_UNPROVEN, format!("{name}: {}", reason(last)))
        }
    };
    let advice = cause.advise(site, &[]);
    outcome.add_checks([NEWEST.fail(found.clone()).code(cause.code)]);
    outcome.conclude_with(&advice);
    let verdict = match cause.exit {
        Exit::CheckFailed => Match::Incompatible,
        _ => Match::Inconclusive,
    };
    outcome.conclude(verdict.as_str(), advice.exit, advice.headline);
    outcome.set_found(found);
}

/// Snapshots of which each has a later time, and the next one a higher revision, or the reverse.
fn in_doubt(newest: &[&EtcdBackup]) -> String {
    let each = newest.iter().map(|it| {
        let (name, made) = (&it.file.name, rfc3339(it.file.made));
        format!("{name} has revision {} and time {made}", it.revision)
    });
    few(&each.collect::<Vec<_>>(), 0)
}

fn order(gathered: &Gathered) -> CheckResult {
    let newest: Vec<_> = gathered.newest().collect();
    let revisions: BTreeSet<_> = newest.iter().map(|it| it.revision).collect();
    match revisions.len() {
        0 => ORDER.skip("no etcd snapshot was read"),
        1 => ORDER.pass(),
        _ => ORDER.warn(in_doubt(&newest)).impact(
            "a file was copied without its time, or etcd was restored from an earlier snapshot",
        ),
    }
}

fn integrity(gathered: &Gathered, site: &Site<'_>) -> CheckResult {
    let doubted = gathered.etcd.iter().filter_map(|it| {
        let doubt = it.trust.doubt()?;
        Some(format!("{}: {doubt}", it.file.name))
    });
    let doubted: Vec<_> = doubted.collect();
    match (doubted.is_empty(), gathered.etcd.is_empty()) {
        (_, true) => INTEGRITY.skip("no etcd snapshot was read"),
        (true, _) => INTEGRITY.pass(),
        (false, _) => INTEGRITY
            .warn(few(&doubted, 0))
            .because(UNVERIFIED.advise(site, &[])),
    }
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
            "{openbao} is less than 5 minutes younger than key version {versions}, or its record lacks it or \
             is over an hour younger"
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

    use etcd_snapshot::file::Integrity;

    use super::{
        super::{
            Doubt, LeftOut, OpenbaoBackup, Store,
            directory::{BackupFile, MadeBy},
        },
        *,
    };
    use crate::{claims, recovery::Trust};

    const DAY: u64 = 86_400;
    const START: u64 = 1_700_000_000;

    /// A record of this day with two versions, created in the first two seconds.
    fn record(day: u64) -> BackupRecord {
        let vectors = include_str!("../../../../../conformance/vectors/backup_record.json");
        let vectors: Value = serde_json::from_str(vectors).unwrap();
        let record = vectors["records"][1]["record"].as_str().unwrap();
        let record = BackupRecord::decode(record.as_bytes()).unwrap();
        let mut note = record.note().clone();
        note.recorded_at = rfc3339(file("", day).made);
        BackupRecord::new(note).unwrap()
    }

    /// One etcd snapshot under version 1, which matches the OpenBao snapshot of the same day.
    fn one_set() -> (Gathered, Vec<Arc<TransitKey>>) {
        let record = record(1);
        let versions = record.note().versions.values();
        let keys: Vec<_> = versions.map(|it| Arc::clone(&it.key)).collect();
        let gathered = Gathered {
            etcd: vec![etcd("first", 1, &keys[..1])],
            openbao: vec![openbao("a", 1, Some(0))],
            records: vec![record],
            left_out: Vec::new(),
        };
        (gathered, keys)
    }

    fn later_key(record: &BackupRecord, day: u64) -> Arc<TransitKey> {
        let scope = Arc::clone(&record.note().scope);
        let created = CreatedAt::new(START + day * DAY).unwrap();
        let version = TransitVersion::new(3).unwrap();
        Arc::new(TransitKey::new(scope, version, created))
    }

    #[test]
    fn the_newest_snapshot_is_unknown_if_a_later_file_is_unread_or_revisions_contradict_the_times()
    {
        let verdict = |gathered: &Gathered| {
            let (json, _) = shown(gathered);
            let text = |name: &str| json[name].as_str().unwrap_or_default().to_owned();
            (text("verdict"), text("cause"))
        };
        let expected = |verdict: &str, cause: &str| (verdict.to_owned(), cause.to_owned());
        let unknown = expected("inconclusive", "backups_newest_unknown");
        let matching = expected("matching", "");
        for (store, day, doubt, known) in [
            (Store::Etcd, 2, Doubt::Snapshot, false),
            (Store::Etcd, 2, Doubt::Failed, false),
            (Store::Etcd, 2, Doubt::Changes, true),
            (Store::Etcd, 2, Doubt::None, true),
            (Store::Etcd, 1, Doubt::Snapshot, true),
            (Store::Openbao, 2, Doubt::Snapshot, true),
        ] {
            let (mut gathered, _) = one_set();
            gathered.left_out.push(left_out(store, day, doubt));
            let expected = if known { &matching } else { &unknown };
            assert_eq!(&verdict(&gathered), expected, "{store:?} {day} {doubt:?}");
        }

        // A copy with a later time has a smaller revision, as has an etcd that was restored.
        let (mut gathered, keys) = one_set();
        let later = later_key(&gathered.records[0], 3);
        gathered.etcd[0].revision = 9;
        gathered.etcd.push(etcd("restored", 2, &keys[..1]));
        let (json, text) = shown(&gathered);
        assert_eq!(json["verdict"], "matching");
        assert!(text.contains("[warn] backups.order"), "{text}");
        gathered.etcd[0].needed.push(later);
        assert_eq!(verdict(&gathered), unknown);
        gathered.etcd[1].needed = gathered.etcd[0].needed.clone();
        let incompatible = expected("incompatible", "backups_incompatible");
        assert_eq!(verdict(&gathered), incompatible);
        // Another OpenBao snapshot possibly has the version.
        let unread = left_out(Store::Openbao, 2, Doubt::Snapshot);
        gathered.left_out.push(unread);
        let unproven = expected("inconclusive", "backups_unproven");
        assert_eq!(verdict(&gathered), unproven);
    }

    #[test]
    fn needs_are_unknown_without_any_and_a_file_without_a_hash_is_named() {
        let (mut gathered, _) = one_set();
        gathered.etcd[0].trust = Trust::File {
            integrity: Integrity::NoHash,
            damaged_meta: None,
        };
        let (json, text) = shown(&gathered);
        assert_eq!(json["needsAreKnown"], true);
        assert_eq!(json["etcdSnapshots"][0]["integrity"], "no-hash");
        assert!(text.contains("[warn] backups.integrity"), "{text}");
        gathered.etcd.clear();
        let (json, text) = shown(&gathered);
        assert_eq!(json["cause"], "no_backups");
        assert_eq!(json["needsAreKnown"], false);
        assert!(text.contains("all, since some needs are unknown"), "{text}");
    }

    #[test]
    fn few_rows_are_shown_first_the_best_pair_of_each_newest_etcd_snapshot() {
        let (mut gathered, keys) = one_set();
        let days = 1..=300;
        let named = days
            .clone()
            .map(|day| etcd(&format!("e{day}"), day, &keys[..1]));
        gathered.etcd = named.collect();
        let others = days.map(|day| openbao(&format!("o{day}"), day, None));
        gathered.openbao.extend(others);
        let (json, text) = shown(&gathered);
        let pairs = json["pairs"].as_array().unwrap();
        assert_eq!(pairs.len(), 1_000);
        let matching = pairs.iter().filter(|it| it["verdict"] == "matching");
        assert_eq!(matching.count(), 300);
        assert_eq!(json["rowsLeftOut"], json!({"pairs": 300 * 301 - 1_000}));
        let more = format!("and {} more rows", 300 * 301 - 100);
        assert!(text.contains(&more), "{text}");
        assert!(text.contains("and 200 more rows"), "{text}");
        assert!(text.lines().count() < 500);
        let line = |etcd: &str| {
            let mut lines = text.lines();
            lines.any(|line| line.contains(&format!("{etcd} ")) && line.contains("matching"))
        };
        assert!(line("e300") && line("e201") && !line("e200"), "{text}");
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
            revision: i64::try_from(day).unwrap(),
            trust: Trust::File {
                integrity: Integrity::Verified,
                damaged_meta: None,
            },
        }
    }

    fn openbao(name: &str, day: u64, record: Option<usize>) -> OpenbaoBackup {
        OpenbaoBackup {
            file: file(name, day),
            created: CreatedAt::new(START + day * DAY),
            record,
        }
    }

    fn left_out(store: Store, day: u64, doubt: Doubt) -> LeftOut {
        LeftOut {
            store: Some(store),
            file: "x".to_owned(),
            reason: "unread".to_owned(),
            made: Some(file("x", day).made),
            doubt,
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
        let record = record(1);
        let versions = record.note().versions.values();
        let keys: Vec<_> = versions.map(|it| Arc::clone(&it.key)).collect();
        let third = later_key(&record, 2);
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
        gathered
            .left_out
            .push(left_out(Store::Etcd, 0, Doubt::Snapshot));
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
