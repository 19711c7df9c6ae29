//! The result of `drill history`: the statements of a directory in order, their chain, and the time
//! between proven restores.

use std::{
    io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use jiff::Timestamp;
use kms_domain::digest::sha256_hex;
use kms_node::{
    advice::{
        Cause, Site,
        attestation::{
            CHAIN_BROKEN, HISTORY_EMPTY, HISTORY_GAP, HISTORY_UNVERIFIED, PUBLIC_KEY_UNUSABLE,
            UNREADABLE,
        },
    },
    exit::Exit,
    report::{
        CheckName, counted, one_line,
        outcome::Outcome,
        picture::{Column, Condition, Grid, Rating},
        table::Table,
        utc,
    },
};
use schemars::JsonSchema;
use serde::Serialize;

use super::{
    envelope::MAX_BYTES,
    public_key::PublicKey,
    statement::{Predicate, Statement, Subject},
    statements,
};
use crate::{drill::age::Hours, recovery::recover_state::read_file};

/// Files and limit of a history.
#[derive(Debug)]
pub struct Request {
    pub directory: PathBuf,
    /// PEM file with the public key.
    pub key: PathBuf,
    /// Longest allowed time between proven restores, and since the last one.
    pub max_age: Option<Duration>,
}

/// The members of `drill history`.
#[derive(Debug, Default, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct History {
    directory: PathBuf,
    /// SHA-256 of the public key in DER; absent if the key is unusable.
    #[serde(skip_serializing_if = "Option::is_none")]
    key_id: Option<String>,
    /// By file name, which begins with the time.
    statements: Vec<Row>,
    /// Times without a proven restore above `--max-age`.
    gaps: Vec<Gap>,
    /// RFC 3339; absent without a proven restore.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_success: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds_since_last_success: Option<u64>,
}

/// One file.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Row {
    file: String,
    sha256: String,
    chain: Link,
    /// Reason against the statement; absent for a verified one.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
    /// Content of a verified statement.
    #[serde(skip_serializing_if = "Option::is_none")]
    statement: Option<Predicate>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    subjects: Vec<Subject>,
    /// Ages of the snapshots at the time of the statement, as far as known.
    #[serde(skip_serializing_if = "Option::is_none")]
    etcd_age_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    openbao_age_seconds: Option<u64>,
}

/// Link of a statement to the file before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Link {
    /// The first file, which names no earlier one.
    First,
    /// The first file, which names an earlier one outside the directory.
    Continued,
    /// It has the digest of the file before it.
    Linked,
    /// It has another digest or none: a file was removed, changed or added.
    Broken,
    /// The statement was not verified.
    Unknown,
}

impl Link {
    fn as_str(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Continued => "continued",
            Self::Linked => "linked",
            Self::Broken => "broken",
            Self::Unknown => "unknown",
        }
    }
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
const GAPS: CheckName = CheckName("history.gaps", "Time between proven restores");

const NEWEST: &str = "Statements that were removed from the end of the chain leave no trace: compare the \
     last time with that of the timer.";
const OLDEST: &str = "The first statement names an earlier one that is not in the directory.";

/// Reads and judges the statements of a directory.
#[must_use]
pub fn history(request: &Request, site: &Site<'_>, now: SystemTime) -> Outcome<History> {
    let members = History {
        directory: request.directory.clone(),
        ..History::default()
    };
    let mut outcome = Outcome::new("drill history", now, members);
    let pem = read_file(&request.key, MAX_BYTES);
    let key = match pem.map(|pem| PublicKey::from_pem(&pem)) {
        Ok(Ok(key)) => key,
        Ok(Err(problem)) => {
            let found = format!("{}: {}", request.key.display(), one_line(&problem));
            return refused(outcome, &PUBLIC_KEY_UNUSABLE, found, site);
        }
        Err(error) => {
            let found = format!("{}: {error}", request.key.display());
            return refused(outcome, &UNREADABLE, found, site);
        }
    };
    let files = match read(&request.directory) {
        Ok(files) => files,
        Err(error) => {
            let found = format!("{}: {error}", request.directory.display());
            return refused(outcome, &UNREADABLE, found, site);
        }
    };

    let rows = rows(&files, &key);
    let second = now.duration_since(SystemTime::UNIX_EPOCH);
    let second = second.unwrap_or_default().as_secs();
    let proven: Vec<u64> = rows.iter().filter_map(Row::proven_at).collect();
    let gaps = gaps(&proven, second, request.max_age);
    outcome.result.key_id = Some(key.id().to_owned());
    outcome.result.last_success = proven.last().map(|last| utc(*last));
    outcome.result.seconds_since_last_success =
        proven.last().map(|last| second.saturating_sub(*last));
    outcome.add_checks([KEY.pass().message(key.id().to_owned())]);
    conclude(&mut outcome, &rows, &proven, &gaps, request, site);
    draw(&mut outcome, &rows);
    outcome.add_tables(tables(&rows, &gaps));
    let continued = rows.first().is_some_and(|row| row.chain == Link::Continued);
    outcome.add_limitations(continued.then_some(OLDEST));
    outcome.add_limitations([NEWEST]);
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

/// The worst finding decides: an unverified statement, then the chain, then gaps.
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
    let unverified = named(&|row| row.problem.is_some());
    let broken = named(&|row| row.chain == Link::Broken);
    let late = gaps.iter().map(|gap| {
        let hours = Hours(Duration::from_secs(gap.seconds));
        format!("{hours} from {} to {}", gap.from, gap.to)
    });
    let late: Vec<_> = late.collect();
    let mut worst: Option<(&Cause, String)> = None;
    for (name, cause, found, asked) in [
        (SIGNATURES, &HISTORY_UNVERIFIED, unverified, true),
        (CHAIN, &CHAIN_BROKEN, broken, true),
        (GAPS, &HISTORY_GAP, late, request.max_age.is_some()),
    ] {
        let check = match (asked, found.is_empty()) {
            (false, _) => name.skip("no --max-age was given"),
            (true, true) => name.pass(),
            (true, false) => {
                let found = found.join("; ");
                worst.get_or_insert((cause, found.clone()));
                name.fail(found).code(cause.code)
            }
        };
        outcome.add_checks([check]);
    }
    if proven.is_empty() && worst.is_none() {
        let found = format!(
            "{} in {}",
            counted(rows.len(), "statement"),
            request.directory.display()
        );
        worst = Some((&HISTORY_EMPTY, found));
    }
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

/// Name and content of each statement, by name.
fn read(directory: &Path) -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut files = Vec::new();
    for path in statements(directory)? {
        let name = path.file_name().unwrap_or_default().display().to_string();
        files.push((name, read_file(&path, MAX_BYTES)?));
    }
    Ok(files)
}

fn rows(files: &[(String, Vec<u8>)], key: &PublicKey) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for (file, bytes) in files {
        let opened = Statement::open(bytes, key);
        let before = rows.last().map(|row| row.sha256.clone());
        let mut row = Row {
            file: file.clone(),
            sha256: sha256_hex(bytes),
            chain: Link::Unknown,
            problem: None,
            statement: None,
            subjects: Vec::new(),
            etcd_age_seconds: None,
            openbao_age_seconds: None,
        };
        match opened {
            Err(problem) => row.problem = Some(one_line(&problem)),
            Ok(statement) => row.add(statement, before.as_deref()),
        }
        rows.push(row);
    }
    rows
}

impl Row {
    fn add(&mut self, statement: Statement, before: Option<&str>) {
        let predicate = statement.predicate;
        let previous = predicate.previous.as_ref().map(|it| &*it.sha256);
        self.chain = match (before, previous) {
            (None, None) => Link::First,
            (None, Some(_)) => Link::Continued,
            (Some(before), Some(previous)) if before == previous => Link::Linked,
            (Some(_), _) => Link::Broken,
        };
        let made = seconds(&predicate.time);
        let age = |store: &str| {
            let backup = predicate.backups.iter().find(|it| it.store == store)?;
            Some(made?.saturating_sub(seconds(&backup.made_at)?))
        };
        self.etcd_age_seconds = age("etcd");
        self.openbao_age_seconds = age("openbao");
        self.subjects = statement.subject;
        self.statement = Some(predicate);
    }

    /// Unix second of a proven restore.
    fn proven_at(&self) -> Option<u64> {
        let statement = self.statement.as_ref()?;
        let proven = statement.command == "drill" && statement.exit_code == 0;
        proven.then(|| seconds(&statement.time))?
    }
}

/// Unix second of an RFC 3339 time.
fn seconds(time: &str) -> Option<u64> {
    let time: Timestamp = time.parse().ok()?;
    u64::try_from(time.as_second()).ok()
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

fn tables(rows: &[Row], gaps: &[Gap]) -> [Table; 3] {
    let hours = |seconds: u64| Hours(Duration::from_secs(seconds)).to_string();
    let of = |row: &Row, text: fn(&Predicate) -> &String| row.statement.as_ref().map(text).cloned();
    let history = Table::of("statements", rows)
        .column("time", |row| of(row, |it| &it.time))
        .column("command", |row| of(row, |it| &it.command))
        .column("verdict", |row| of(row, |it| &it.verdict))
        .column("etcd age", |row| row.etcd_age_seconds.map(hours))
        .column("openbao age", |row| row.openbao_age_seconds.map(hours))
        .column("chain", |row| row.chain.as_str())
        .column("file", |row| &row.file);
    let unverified = rows.iter().filter(|row| row.problem.is_some());
    let unverified = Table::of("not verified", unverified)
        .column("file", |row| &row.file)
        .column("problem", |row| row.problem.as_ref());
    let gaps = Table::of("gaps", gaps)
        .column("from", |gap| &gap.from)
        .column("to", |gap| &gap.to)
        .column("time", |gap| hours(gap.seconds));
    [history.table(), unverified.table(), gaps.table()]
}
