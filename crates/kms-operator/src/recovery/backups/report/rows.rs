//! Members of `backups`, as JSON and as tables.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
};

use kms_domain::transit::TransitVersion;
use kms_node::report::{rfc3339, table::Table};
use schemars::JsonSchema;
use serde::Serialize;

use super::super::{
    Backups as Gathered, Doubt, EtcdBackup, Judged, LeftOut, OpenbaoBackup, Store,
    directory::BackupFile,
};
use crate::recovery::truncated::{FEW_ROWS, Truncated};

/// Names of the lists in [`Backups::rows_left_out`].
const ETCD: &str = "etcdSnapshots";
const OPENBAO: &str = "openbaoSnapshots";
const PAIRS: &str = "pairs";
const LEFT_OUT: &str = "leftOut";

/// The members of `backups`.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Backups {
    /// From old to new.
    pub(super) etcd_snapshots: Vec<EtcdRow>,
    /// From old to new.
    pub(super) openbao_snapshots: Vec<OpenbaoRow>,
    /// For each etcd snapshot at least the best pair.
    pub(super) pairs: Vec<PairRow>,
    pub(super) left_out: Vec<LeftOutRow>,
    /// Rows beyond the limits of these lists, by list. The verdict counts them.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) rows_left_out: BTreeMap<&'static str, usize>,
    /// RFC 3339: creation time of the oldest etcd snapshot with a matching OpenBao snapshot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) oldest_restorable: Option<String>,
    /// The same of the newest one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) newest_restorable: Option<String>,
    /// Versions that the etcd snapshots need. They must not be trimmed.
    pub(super) needed_versions: Vec<u64>,
    /// Whether all needed versions are known. Otherwise no version may be trimmed.
    pub(super) needs_are_known: bool,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct EtcdRow {
    file: String,
    /// RFC 3339.
    made_at: String,
    made_by: &'static str,
    /// Of this key.
    objects: u64,
    needed_versions: Vec<u64>,
    /// Objects and damaged values whose version no record and no state names.
    unexplained: u64,
    /// Of etcd.
    revision: i64,
    /// `verified`, or `no-hash` for a file without a SHA-256 at its end.
    integrity: &'static str,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct OpenbaoRow {
    file: String,
    /// RFC 3339.
    made_at: String,
    made_by: &'static str,
    /// Whether a backup record has the hash of the file.
    has_record: bool,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct PairRow {
    etcd: String,
    openbao: String,
    /// `matching`, `incompatible` or `inconclusive`.
    verdict: &'static str,
    /// Versions that were created after the OpenBao snapshot.
    missing_versions: Vec<u64>,
    /// Versions that nothing proves to be in the OpenBao snapshot.
    open_versions: Vec<u64>,
    /// Rank of the best pair of an etcd snapshot, from 0 for the newest etcd snapshot.
    #[serde(skip)]
    best_rank: Option<usize>,
}

#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct LeftOutRow {
    /// `etcd` or `openbao`; absent for a record outside both.
    #[serde(skip_serializing_if = "Option::is_none")]
    directory: Option<&'static str>,
    file: String,
    reason: String,
    #[serde(skip)]
    is_suspect: bool,
}

pub(super) fn numbers(versions: &BTreeSet<TransitVersion>) -> Vec<u64> {
    versions.iter().map(|version| version.get()).collect()
}

pub(super) fn joined(versions: &BTreeSet<TransitVersion>) -> String {
    words(&numbers(versions)).join(", ")
}

fn words(versions: &[u64]) -> Vec<String> {
    versions.iter().map(ToString::to_string).collect()
}

fn made(file: &BackupFile) -> (String, String, &'static str) {
    (file.name.clone(), rfc3339(file.made), file.made_by.as_str())
}

impl EtcdRow {
    pub(super) fn of(backup: &EtcdBackup) -> Self {
        let (file, made_at, made_by) = made(&backup.file);
        Self {
            file,
            made_at,
            made_by,
            objects: backup.objects,
            needed_versions: numbers(&backup.versions),
            unexplained: backup.unexplained,
            revision: backup.revision,
            integrity: backup.trust.as_str(),
        }
    }
}

impl OpenbaoRow {
    pub(super) fn of(backup: &OpenbaoBackup) -> Self {
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
    /// Every pair. The best one of an etcd snapshot is the last of the best verdict.
    pub(super) fn all(gathered: &Gathered, pairs: &[Judged<'_>]) -> Vec<Self> {
        let mut rows: Vec<_> = pairs.iter().map(Self::of).collect();
        let of_one = gathered.openbao.len().max(1);
        for (rank, rows) in rows.chunks_mut(of_one).rev().enumerate() {
            let quality = |row: &&mut Self| match row.verdict {
                "matching" => 2,
                "inconclusive" => 1,
                _ => 0,
            };
            if let Some(best) = rows.iter_mut().max_by_key(quality) {
                best.best_rank = Some(rank);
            }
        }
        rows
    }

    pub(super) fn of(pair: &Judged<'_>) -> Self {
        Self {
            etcd: pair.etcd.file.name.clone(),
            openbao: pair.openbao.file.name.clone(),
            verdict: pair.verdict.as_str(),
            missing_versions: numbers(&pair.missing),
            open_versions: numbers(&pair.open),
            best_rank: None,
        }
    }

    /// Whether the pair belongs to a list of at most `most`.
    fn matters(&self, most: usize) -> bool {
        self.best_rank.is_some_and(|rank| rank < most)
    }
}

impl LeftOutRow {
    pub(super) fn of(left_out: &LeftOut) -> Self {
        Self {
            directory: left_out.store.map(Store::as_str),
            file: left_out.file.clone(),
            reason: left_out.reason.clone(),
            is_suspect: left_out.doubt != Doubt::None,
        }
    }
}

/// The last rows, of the newest files.
fn last<T>(rows: Vec<T>, most: usize) -> Truncated<T> {
    let older = rows.len().saturating_sub(most);
    let mut rows = rows.into_iter();
    let left_out = rows.by_ref().take(older).collect();
    Truncated {
        shown: rows.collect(),
        left_out,
    }
}

impl Backups {
    /// Limits each list to `most` rows.
    pub(super) fn truncate(&mut self, most: usize) {
        fn keep<T>(
            rows: &mut Vec<T>,
            name: &'static str,
            counts: &mut BTreeMap<&'static str, usize>,
            limit: impl FnOnce(Vec<T>) -> Truncated<T>,
        ) {
            let Truncated { shown, left_out } = limit(mem::take(rows));
            *rows = shown;
            if !left_out.is_empty() {
                counts.insert(name, left_out.len());
            }
        }
        let counts = &mut self.rows_left_out;
        keep(&mut self.etcd_snapshots, ETCD, counts, |it| last(it, most));
        keep(&mut self.openbao_snapshots, OPENBAO, counts, |it| {
            last(it, most)
        });
        keep(&mut self.pairs, PAIRS, counts, |it| {
            Truncated::of(it, most, |row| row.matters(most))
        });
        keep(&mut self.left_out, LEFT_OUT, counts, |it| {
            Truncated::of(it, most, |row| row.is_suspect)
        });
    }

    pub(super) fn tables(&self) -> [Table; 5] {
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
        let etcd = last(self.etcd_snapshots.iter().collect(), FEW_ROWS);
        let etcd_table = Table::of("etcd snapshots", etcd.shown)
            .column("file", |it| &it.file)
            .column("made", |it| &it.made_at)
            .column("time from", |it| it.made_by)
            .column("revision", |it| it.revision)
            .column("integrity", |it| it.integrity)
            .column("objects", |it| it.objects)
            .column("needs versions", |it| words(&it.needed_versions))
            .column("unexplained", |it| it.unexplained);
        let openbao = last(self.openbao_snapshots.iter().collect(), FEW_ROWS);
        let openbao_table = Table::of("OpenBao snapshots", openbao.shown)
            .column("file", |it| &it.file)
            .column("made", |it| &it.made_at)
            .column("time from", |it| it.made_by)
            .column("record", |it| match it.has_record {
                true => "yes",
                false => "no",
            });
        let pairs = Truncated::of(&self.pairs, FEW_ROWS, |row| row.matters(FEW_ROWS));
        let pairs_table = Table::of("pairs", pairs.shown)
            .column("etcd", |it| &it.etcd)
            .column("openbao", |it| &it.openbao)
            .column("verdict", |it| it.verdict)
            .column("missing versions", |it| words(&it.missing_versions))
            .column("open versions", |it| words(&it.open_versions));
        let left_out = Truncated::of(&self.left_out, FEW_ROWS, |row| row.is_suspect);
        let left_out_table = Table::of("left out", left_out.shown)
            .column("directory", |it| it.directory)
            .column("file", |it| &it.file)
            .column("reason", |it| &it.reason);
        let more = |mut table: Table, list, left_out: usize| {
            let unlisted = self.rows_left_out.get(list).copied().unwrap_or_default();
            match left_out.saturating_add(unlisted) {
                0 => {}
                more => table.left_out(format!("and {more} more rows")),
            }
            table
        };
        [
            facts,
            more(etcd_table.table(), ETCD, etcd.left_out.len()),
            more(openbao_table.table(), OPENBAO, openbao.left_out.len()),
            more(pairs_table.table(), PAIRS, pairs.left_out.len()),
            more(left_out_table.table(), LEFT_OUT, left_out.left_out.len()),
        ]
    }
}
