//! The result of `drill history`: the statements of a directory in order, their chain, and the time
//! between proven restores.

mod rows;

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use kms_node::{
    advice::{
        Cause, Site,
        attestation::{
            CHAIN_BROKEN, HISTORY_CLOCK, HISTORY_EMPTY, HISTORY_GAP, HISTORY_MIXED,
            HISTORY_UNVERIFIED, PUBLIC_KEY_UNUSABLE, UNREADABLE,
        },
    },
    exit::Exit,
    report::{
        CheckName, CheckResult, counted, one_line,
        outcome::Outcome,
        picture::{Column, Condition, Grid, Rating},
        table::Table,
        utc,
    },
};
use schemars::JsonSchema;
use serde::Serialize;

use super::{
    directory::{self, list},
    envelope::MAX_BYTES,
    public_key::PublicKey,
    statement::Predicate,
};
use crate::{drill::age::Span, recovery::recover_state::read_file};
use rows::{Entry, Link, Proof, Row, rows, seconds};

/// Files and limit of a history.
#[derive(Debug)]
pub struct Request {
    pub directory: PathBuf,
    /// Files with the public keys of the signer, as of different times.
    pub keys: Vec<PathBuf>,
    /// Longest allowed time between proven restores, and since the last one; largest age of the backups at
    /// each of them.
    pub max_age: Option<Duration>,
}

/// The members of `drill history`.
#[derive(Debug, Default, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct History {
    directory: PathBuf,
    /// SHA-256 of each public key in DER; none if one is unusable.
    key_ids: Vec<String>,
    /// By file name, which begins with the time.
    statements: Vec<Row>,
    /// Other names with the end of a statement, which are no part of the chain.
    left_out: Vec<String>,
    /// Times without a proven restore above `--max-age`.
    gaps: Vec<Gap>,
    /// RFC 3339; absent without a proven restore.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_success: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds_since_last_success: Option<u64>,
}

/// Time without a proven restore.
#[derive(Debug, Serialize, JsonSchema)]
struct Gap {
    /// RFC 3339: the proven restore before.
    from: String,
    /// RFC 3339: the next one, or now.
    to: String,
    seconds: u64,
}

const KEY: CheckName = CheckName("history.key", "Public key");
const SIGNATURES: CheckName = CheckName("history.signatures", "Signatures of the statements");
const CHAIN: CheckName = CheckName("history.chain", "Chain of the statements");
const IDENTITY: CheckName = CheckName("history.identity", "Cluster and key of the statements");
const CLOCK: CheckName = CheckName("history.clock", "Times of the drills");
const PROVEN: CheckName = CheckName("history.proven", "Proven restores");
const GAPS: CheckName = CheckName("history.gaps", "Time between proven restores");

const NEWEST: &str = "Statements that were removed from the end of the chain leave no trace, unless a \
     later one was written before the removal: compare the last time with that of the timer.";
const OLDEST: &str = "The first statement names an earlier one that is not in the directory.";
const LEFT_OUT: &str =
    "Files with other names than those that --attest DIRECTORY gives are left out.";

/// Reads and judges the statements of a directory.
#[must_use]
pub fn history(request: &Request, site: &Site<'_>, now: SystemTime) -> Outcome<History> {
    let members = History {
        directory: request.directory.clone(),
        ..History::default()
    };
    let mut outcome = Outcome::new("drill history", now, members);
    let mut keys = Vec::new();
    for path in &request.keys {
        let refuse = |cause, error: &dyn std::error::Error| {
            (cause, format!("{}: {}", path.display(), one_line(error)))
        };
        let key = read_file(path, MAX_BYTES)
            .map_err(|error| refuse(&UNREADABLE, &error))
            .and_then(|key| {
                PublicKey::from_file(&key).map_err(|problem| refuse(&PUBLIC_KEY_UNUSABLE, &problem))
            });
        match key {
            Ok(key) => keys.push(key),
            Err((cause, found)) => return refused(outcome, cause, found, site),
        }
    }
    let (entries, left_out) = match read(&request.directory) {
        Ok(read) => read,
        Err(error) => {
            let found = format!("{}: {error}", request.directory.display());
            return refused(outcome, &UNREADABLE, found, site);
        }
    };

    let rows = rows(entries, &keys, request.max_age, now);
    let second = now.duration_since(SystemTime::UNIX_EPOCH);
    let second = second.unwrap_or_default().as_secs();
    let mut proven: Vec<u64> = rows.iter().filter_map(Row::proven_at).collect();
    proven.sort_unstable();
    let gaps = gaps(&proven, second, request.max_age);
    let ids: Vec<_> = keys.iter().map(|key| key.id().to_owned()).collect();
    outcome.add_checks([KEY.pass().message(ids.join(", "))]);
    outcome.result.key_ids = ids;
    outcome.result.last_success = proven.last().map(|last| utc(*last));
    outcome.result.seconds_since_last_success =
        proven.last().map(|last| second.saturating_sub(*last));
    conclude(&mut outcome, &rows, &proven, &gaps, request, site);
    draw(&mut outcome, &rows);
    outcome.add_tables(tables(&rows, &gaps, &left_out));
    let continued = rows.first().is_some_and(|row| row.chain == Link::Continued);
    outcome.add_limitations(continued.then_some(OLDEST));
    outcome.add_limitations((!left_out.is_empty()).then_some(LEFT_OUT));
    outcome.add_limitations([NEWEST]);
    outcome.result.left_out = left_out;
    outcome.result.statements = rows;
    outcome.result.gaps = gaps;
    outcome
}

fn refused(
    mut outcome: Outcome<History>,
    cause: &Cause,
    found: String,
    site: &Site<'_>,
) -> Outcome<History> {
    outcome.add_checks([KEY.fail(found.clone()).code(cause.code)]);
    outcome.conclude_with(&cause.advise(site, &[]));
    outcome.set_found(found);
    outcome
}

/// The first failed check decides.
fn conclude(
    outcome: &mut Outcome<History>,
    rows: &[Row],
    proven: &[u64],
    gaps: &[Gap],
    request: &Request,
    site: &Site<'_>,
) {
    let named = |wanted: &dyn Fn(&Row) -> bool| {
        let files = rows.iter().filter(|row| wanted(row));
        files.map(|row| row.file.clone()).collect::<Vec<_>>()
    };
    let not_counted = |proof: Proof| {
        let rows = rows.iter().filter(move |row| row.proof == Some(proof));
        rows.filter_map(|row| Some(format!("{}: {}", row.file, row.not_counted.as_ref()?)))
    };
    let identities = identities(rows);
    let several = identities.iter().filter(|_| identities.len() > 1);
    let mixed = several.map(|(identity, files)| {
        let (statements, first) = (counted(files.len(), "statement"), files.first());
        let first = first.copied().unwrap_or_default();
        format!("{} in {statements}, first {first}", identity[0])
    });
    let mixed = mixed.collect();
    let mut late: Vec<_> = gaps
        .iter()
        .map(|gap| {
            let span = Span(Duration::from_secs(gap.seconds));
            format!("{span} from {} to {}", gap.from, gap.to)
        })
        .collect();
    let mut none = Vec::new();
    if proven.is_empty() {
        let statements = counted(rows.len(), "statement");
        none.push(format!("{statements} in {}", request.directory.display()));
        none.extend(not_counted(Proof::Outdated));
    }
    if !late.is_empty() {
        late.extend(not_counted(Proof::Outdated));
    }

    let mut worst: Option<(&Cause, String)> = None;
    let mut check = |name: CheckName, cause: &'static Cause, found: Vec<String>| -> CheckResult {
        if found.is_empty() {
            return name.pass();
        }
        let found = found.join("; ");
        worst.get_or_insert((cause, found.clone()));
        name.fail(found).code(cause.code)
    };
    let unverified = named(&|row| row.problem.is_some());
    let broken = named(&|row| row.chain == Link::Broken);
    let clock = not_counted(Proof::Clock).collect();
    let checks = [
        check(SIGNATURES, &HISTORY_UNVERIFIED, unverified),
        check(CHAIN, &CHAIN_BROKEN, broken),
        check(IDENTITY, &HISTORY_MIXED, mixed),
        check(CLOCK, &HISTORY_CLOCK, clock),
        check(PROVEN, &HISTORY_EMPTY, none),
        match (request.max_age, proven) {
            (None, _) => GAPS.skip("no --max-age was given"),
            (Some(_), []) => GAPS.skip("no restore was proven"),
            (Some(_), _) => check(GAPS, &HISTORY_GAP, late),
        },
    ];
    outcome.add_checks(checks);
    outcome.add_tables((identities.len() > 1).then(|| identities_table(&identities)));
    match (worst, proven.last()) {
        (Some((cause, found)), _) => {
            outcome.conclude_with(&cause.advise(site, &[]));
            outcome.set_found(found);
        }
        (None, last) => {
            let last = last.map(|second| utc(*second)).unwrap_or_default();
            let headline = format!(
                "{} verified, {} of a proven restore, the last one at {last}",
                counted(rows.len(), "statement"),
                proven.len()
            );
            outcome.conclude("verified", Exit::Success, headline);
        }
    }
}

/// Fingerprints of the whole identity, the cluster and the key, with the files that have them.
type Identities<'r> = Vec<([&'r str; 3], Vec<&'r str>)>;

fn identities(rows: &[Row]) -> Identities<'_> {
    let mut files: BTreeMap<[&str; 3], Vec<&str>> = BTreeMap::new();
    for row in rows {
        if let Some(it) = &row.statement {
            let identity = [
                &*it.identity_fingerprint,
                &*it.cluster_fingerprint,
                &*it.key_fingerprint,
            ];
            files.entry(identity).or_default().push(&row.file);
        }
    }
    files.into_iter().collect()
}

fn identities_table(identities: &Identities<'_>) -> Table {
    // Enough to tell a few clusters apart; the whole fingerprints are in the JSON.
    let short = |text: &str| text.chars().take(13).collect::<String>();
    Table::of("clusters and keys", identities)
        .column("identity", |it| short(it.0[0]))
        .column("cluster", |it| short(it.0[1]))
        .column("key", |it| short(it.0[2]))
        .column("statements", |it| it.1.len())
        .column("first file", |it| it.1.first().copied())
        .table()
}

/// Name and content of each statement, by name, and the names that are left out.
fn read(directory: &Path) -> io::Result<(Vec<Entry>, Vec<String>)> {
    let listing = list(directory)?;
    let dated = listing.dated.into_iter().map(|name| {
        let content = directory::read(&directory.join(&name));
        (name, content)
    });
    let left_out = listing.left_out.iter().map(|it| it.display().to_string());
    Ok((dated.collect(), left_out.collect()))
}

/// Times above the limit between successes, and after the last one.
fn gaps(proven: &[u64], now: u64, max_age: Option<Duration>) -> Vec<Gap> {
    let Some(most) = max_age.map(|age| age.as_secs()) else {
        return Vec::new();
    };
    let ends = proven.iter().copied().skip(1).chain([now]);
    let spans = proven.iter().copied().zip(ends);
    let gaps = spans.filter(|(from, to)| to.saturating_sub(*from) > most);
    gaps.map(|(from, to)| Gap {
        from: utc(from),
        to: utc(to),
        seconds: to.saturating_sub(from),
    })
    .collect()
}

/// For the page: drills by month and verdict, and each statement as an event.
fn draw(outcome: &mut Outcome<History>, rows: &[Row]) {
    const PROVEN: Condition = Condition::new(Rating::Good, "successful");
    const OTHER: Condition = Condition::new(Rating::Bad, "failed");
    let mut grid = Grid::new("statements by month and verdict", "month");
    for statement in rows.iter().filter_map(|row| row.statement.as_ref()) {
        let month = statement.time.get(..7).unwrap_or_default();
        let verdict = format!("{}: {}", statement.command, statement.verdict);
        let condition = match statement.exit_code {
            0 => PROVEN,
            _ => OTHER,
        };
        if let Some(second) = seconds(&statement.time) {
            outcome.picture.add_event(second, verdict.clone());
        }
        grid.add(month, Column::Other(verdict), condition, 1);
    }
    outcome.picture.add_grid(grid);
}

fn tables(rows: &[Row], gaps: &[Gap], left_out: &[String]) -> [Table; 5] {
    let span = |seconds: u64| Span(Duration::from_secs(seconds)).to_string();
    let of = |row: &Row, text: fn(&Predicate) -> &String| row.statement.as_ref().map(text).cloned();
    let history = Table::of("statements", rows)
        .column("time", |row| of(row, |it| &it.time))
        .column("command", |row| of(row, |it| &it.command))
        .column("verdict", |row| of(row, |it| &it.verdict))
        .column("etcd age", |row| row.etcd_age_seconds.map(span))
        .column("openbao age", |row| row.openbao_age_seconds.map(span))
        .column("proof", |row| row.proof.map(Proof::as_str))
        .column("chain", |row| row.chain.as_str())
        .column("file", |row| &row.file);
    let unverified = rows.iter().filter(|row| row.problem.is_some());
    let unverified = Table::of("not verified", unverified)
        .column("file", |row| &row.file)
        .column("problem", |row| row.problem.as_ref());
    let not_counted = rows.iter().filter(|row| row.not_counted.is_some());
    let not_counted = Table::of("not counted", not_counted)
        .column("file", |row| &row.file)
        .column("reason", |row| row.not_counted.as_ref());
    let left_out = Table::of("left out", left_out).column("file", |name| name);
    let gaps = Table::of("gaps", gaps)
        .column("from", |gap| &gap.from)
        .column("to", |gap| &gap.to)
        .column("time", |gap| span(gap.seconds));
    [
        history.table(),
        unverified.table(),
        not_counted.table(),
        gaps.table(),
        left_out.table(),
    ]
}

#[cfg(test)]
mod tests;
