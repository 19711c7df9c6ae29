//! The statements of a directory, each judged beside all others: its link in the chain, the ages of its
//! backups, and whether it proves a restore.

use std::{
    collections::BTreeMap,
    io,
    time::{Duration, SystemTime},
};

use jiff::Timestamp;
use kms_domain::digest::sha256_hex;
use kms_node::report::one_line;
use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    attestation::{
        public_key::PublicKey,
        statement::{Predicate, Role, Statement, Subject},
    },
    drill::age::{SKEW, Span},
};

/// Name and content of a file.
pub(super) type Entry = (String, io::Result<Vec<u8>>);

/// One file.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Row {
    pub(super) file: String,
    /// Absent if the file cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
    pub(super) chain: Link,
    /// Of a verified statement on a drill.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) proof: Option<Proof>,
    /// Reason against a proof that is outdated or of a wrong clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) not_counted: Option<String>,
    /// Reason against the statement; absent for a verified one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) problem: Option<String>,
    /// SHA-256 of the public key in DER that verified the signature.
    #[serde(skip_serializing_if = "Option::is_none")]
    key_id: Option<String>,
    /// Content of a verified statement.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) statement: Option<Predicate>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    subjects: Vec<Subject>,
    /// Ages of the snapshots at the time of the statement, as far as known: by their creation time, or by the
    /// first statement on the same file if that is earlier.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) etcd_age_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) openbao_age_seconds: Option<u64>,
}

/// Link of a statement to the file before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Link {
    /// The first file, which names no earlier one.
    First,
    /// The first file, which names an earlier one outside the directory.
    Continued,
    /// It has the digest of the file before it.
    Linked,
    /// It has another digest or none: a file was removed, changed or added.
    Broken,
    /// The statement was not verified, or the file before it cannot be read.
    Unknown,
}

/// What a drill proves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Proof {
    /// A restore of backups within `--max-age`.
    Proven,
    /// A restore of backups that are older than `--max-age` or of unknown age.
    Outdated,
    /// The time of the drill is wrong.
    Clock,
    /// The drill failed.
    Failed,
}

impl Link {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Continued => "continued",
            Self::Linked => "linked",
            Self::Broken => "broken",
            Self::Unknown => "unknown",
        }
    }
}

impl Proof {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Proven => "proven",
            Self::Outdated => "outdated",
            Self::Clock => "wrong clock",
            Self::Failed => "failed",
        }
    }
}

/// Rows in the order of the chain.
pub(super) fn rows(
    entries: Vec<Entry>,
    keys: &[PublicKey],
    max_age: Option<Duration>,
    now: SystemTime,
) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for entry in entries {
        let row = Row::of(entry, keys, rows.last());
        rows.push(row);
    }
    let most = max_age.map(|age| age.as_secs());
    judge_ages(&mut rows, most);
    judge_times(&mut rows, now);
    rows
}

impl Row {
    fn of((file, content): Entry, keys: &[PublicKey], before: Option<&Self>) -> Self {
        let mut row = Self {
            file,
            sha256: content.as_ref().ok().map(|bytes| sha256_hex(bytes)),
            chain: Link::Unknown,
            proof: None,
            not_counted: None,
            problem: None,
            key_id: None,
            statement: None,
            subjects: Vec::new(),
            etcd_age_seconds: None,
            openbao_age_seconds: None,
        };
        let opened = match content {
            Err(error) => Err(one_line(&error)),
            Ok(bytes) => Statement::open(&bytes, keys).map_err(|problem| one_line(&problem)),
        };
        match opened {
            Err(problem) => row.problem = Some(problem),
            Ok((statement, key_id)) => {
                row.key_id = Some(key_id);
                row.subjects = statement.subject;
                let previous = statement.predicate.previous.as_ref();
                let previous = previous.map(|it| &*it.sha256);
                row.chain = match (before.map(|it| it.sha256.as_deref()), previous) {
                    (None, None) => Link::First,
                    (None, Some(_)) => Link::Continued,
                    (Some(None), _) => Link::Unknown,
                    (Some(before), previous) if before == previous => Link::Linked,
                    (Some(_), _) => Link::Broken,
                };
                row.statement = Some(statement.predicate);
            }
        }
        row
    }

    /// Unix second of a verified statement.
    fn second(&self) -> Option<u64> {
        seconds(&self.statement.as_ref()?.time)
    }

    fn is_drill(&self) -> bool {
        let statement = self.statement.as_ref();
        statement.is_some_and(|it| it.command == "drill")
    }

    /// Unix second of a proven restore.
    pub(super) fn proven_at(&self) -> Option<u64> {
        let second = self.second();
        second.filter(|_| self.proof == Some(Proof::Proven))
    }
}

/// Unix second of an RFC 3339 time.
pub(super) fn seconds(time: &str) -> Option<u64> {
    let time: Timestamp = time.parse().ok()?;
    u64::try_from(time.as_second()).ok()
}

/// Sets the ages and judges the drills by them. A file that an earlier statement names existed then,
/// whatever time its later copy has.
fn judge_ages(rows: &mut [Row], most: Option<u64>) {
    // By digest: the earliest known second of the file, and the statement that shows it.
    let mut known: BTreeMap<String, (u64, String)> = BTreeMap::new();
    for row in rows {
        let Some((statement, second)) = row.statement.as_ref().zip(row.second()) else {
            continue;
        };
        let mut reasons = Vec::new();
        let mut age = |store: &str, role: Role, name: &str| {
            let backup = statement.backups.iter().find(|it| it.store == store);
            let made = backup.and_then(|it| seconds(&it.made_at));
            let made = made.filter(|made| *made <= second.saturating_add(SKEW.as_secs()));
            let mut since = made;
            let mut seen_in = None;
            for subject in row.subjects.iter().filter(|it| it.is(role)) {
                let here = (made.unwrap_or(second).min(second), row.file.clone());
                let first = known
                    .entry(subject.digest.sha256.clone())
                    .or_insert_with(|| here.clone());
                if first.0 < since.unwrap_or(second) {
                    since = since.map(|_| first.0);
                    seen_in = Some(first.1.clone());
                }
                if here.0 < first.0 {
                    *first = here;
                }
            }
            let age = since.map(|since| second.saturating_sub(since));
            match (age, most) {
                (_, None) => {}
                (None, Some(_)) => reasons.push(format!("{name} snapshot of unknown age")),
                (Some(age), Some(most)) if age > most => {
                    let span = Span(Duration::from_secs(age));
                    let seen = seen_in.map(|file| format!(", the file of {file} again"));
                    let seen = seen.unwrap_or_default();
                    reasons.push(format!("{name} snapshot {span} old{seen}"));
                }
                (Some(_), Some(_)) => {}
            }
            age
        };
        let etcd = age("etcd", Role::EtcdSnapshot, "etcd");
        let openbao = age("openbao", Role::OpenbaoSnapshot, "OpenBao");
        let proof = match (statement.exit_code, reasons.is_empty()) {
            (0, true) => Proof::Proven,
            (0, false) => Proof::Outdated,
            _ => Proof::Failed,
        };
        row.etcd_age_seconds = etcd;
        row.openbao_age_seconds = openbao;
        row.proof = row.is_drill().then_some(proof);
        if row.proof == Some(Proof::Outdated) {
            row.not_counted = Some(reasons.join(", "));
        }
    }
}

/// Finds drills later than now, or than a drill after them in the chain. Each ends with its statement, so
/// only a wrong clock explains it.
fn judge_times(rows: &mut [Row], now: SystemTime) {
    let now = now.duration_since(SystemTime::UNIX_EPOCH);
    let mut latest = (now.unwrap_or_default().as_secs(), "now".to_owned());
    for row in rows.iter_mut().rev().filter(|row| row.is_drill()) {
        let Some((statement, second)) = row.statement.as_ref().zip(row.second()) else {
            continue;
        };
        if second > latest.0.saturating_add(SKEW.as_secs()) {
            row.not_counted = Some(format!("{} is later than {}", statement.time, latest.1));
            row.proof = Some(Proof::Clock);
        } else if second < latest.0 {
            latest = (second, format!("{} in {}", statement.time, row.file));
        }
    }
}
