use std::time::UNIX_EPOCH;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use kms_domain::digest::sha256_hex;
use kms_node::state::disk;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::attestation::{
    directory::dated,
    envelope::{self, Envelope},
    statement::PREDICATE_TYPE,
};

const DAY: u64 = 86_400;
const WEEKLY: Option<Duration> = Some(Duration::from_secs(8 * DAY));

/// A directory of statements by one key.
struct Chain {
    directory: TempDir,
    pair: Ed25519KeyPair,
    previous: Option<String>,
}

/// One drill; times in Unix seconds.
#[derive(Clone, Copy)]
struct Drill {
    at: u64,
    exit_code: u8,
    made: Option<u64>,
    etcd: &'static str,
    cluster: &'static str,
}

/// A proven restore of a backup of the hour before, unlike all others.
fn drill(at: u64) -> Drill {
    Drill {
        at,
        exit_code: 0,
        made: Some(at - 3600),
        etcd: "",
        cluster: "clu1.one",
    }
}

impl Chain {
    fn new() -> Self {
        Self {
            directory: TempDir::new().unwrap(),
            pair: Ed25519KeyPair::generate().unwrap(),
            previous: None,
        }
    }

    fn of(drills: &[Drill]) -> Self {
        let mut chain = Self::new();
        for drill in drills {
            chain.add(*drill, drill.at);
        }
        chain
    }

    /// Adds a statement under a name with the time `named`; returns the name.
    fn add(&mut self, drill: Drill, named: u64) -> String {
        let file = match drill.etcd {
            "" => format!("etcd-{named}"),
            name => name.to_owned(),
        };
        let backup = |store| {
            drill
                .made
                .map(|at| json!({"store": store, "madeAt": utc(at)}))
        };
        let backups: Vec<_> = ["etcd", "openbao"].into_iter().filter_map(backup).collect();
        let subject = |name: &str, file: &str| json!({"name": name, "digest": {"sha256": sha256_hex(file.as_bytes())}});
        let mut statement = json!({
            "_type": "https://in-toto.io/Statement/v1",
            "subject": [
                subject("etcd-snapshot", &file),
                subject("openbao-snapshot", &format!("openbao-{named}")),
            ],
            "predicateType": PREDICATE_TYPE,
            "predicate": {
                "command": "drill", "verdict": "any", "exitCode": drill.exit_code,
                "time": utc(drill.at),
                "tool": {"name": "x", "version": "v1", "commit": "unknown"},
                "identityFingerprint": "cfg1.one", "clusterFingerprint": drill.cluster,
                "keyFingerprint": "key1.one", "versions": [], "backups": backups,
            },
        });
        if let Some(sha256) = &self.previous {
            statement["predicate"]["previous"] = json!({"sha256": sha256});
        }
        let payload = statement.to_string().into_bytes();
        let signature = self.pair.sign(&envelope::encoded(&payload));
        let key = PublicKey::ed25519(self.pair.public_key().as_ref()).unwrap();
        let signature = signature.as_ref().to_vec();
        let bytes = Envelope::signed(payload, key.id(), signature).encode();
        let at = Timestamp::from_second(i64::try_from(named).unwrap()).unwrap();
        let name = dated("drill", at);
        disk::create_new(&self.directory.path().join(&name), bytes.as_bytes()).unwrap();
        self.previous = Some(sha256_hex(bytes.as_bytes()));
        name
    }

    /// The public key in a file of its own.
    fn key(&self) -> PathBuf {
        let key = STANDARD.encode(self.pair.public_key());
        let path = self.directory.path().join(sha256_hex(key.as_bytes()));
        disk::replace_public(&path, key.as_bytes()).unwrap();
        path
    }

    fn read_with(
        &self,
        keys: Vec<PathBuf>,
        max_age: Option<Duration>,
        now: u64,
    ) -> (Value, String) {
        let request = Request {
            directory: self.directory.path().to_owned(),
            keys,
            max_age,
        };
        let site = Site::new(Path::new("config.yaml"), None);
        let outcome = history(&request, &site, UNIX_EPOCH + Duration::from_secs(now));
        let mut text = Vec::new();
        outcome.text(Default::default(), &mut text).unwrap();
        let report = serde_json::to_value(&outcome).unwrap();
        (report, String::from_utf8(text).unwrap())
    }

    fn read(&self, max_age: Option<Duration>, now: u64) -> Value {
        self.read_with(vec![self.key()], max_age, now).0
    }
}

fn proofs(report: &Value) -> Vec<&str> {
    let rows = report["statements"].as_array().unwrap();
    rows.iter()
        .filter_map(|row| row["proof"].as_str())
        .collect()
}

fn status<'r>(report: &'r Value, check: &str) -> &'r str {
    let checks = report["checks"].as_array().unwrap();
    let check = checks.iter().find(|it| it["id"] == check).unwrap();
    check["status"].as_str().unwrap()
}

#[track_caller]
fn assert_cause(report: &Value, cause: &str, found: &str) {
    assert_eq!(
        (&report["cause"], &report["exitCode"]),
        (&json!(cause), &json!(4)),
        "{report:#}"
    );
    assert!(
        report["found"].as_str().unwrap().contains(found),
        "{report:#}"
    );
}

#[test]
fn weekly_drills_of_new_backups_are_a_verified_history() {
    let chain = Chain::of(&[drill(10 * DAY), drill(17 * DAY), drill(24 * DAY)]);
    let report = chain.read(WEEKLY, 31 * DAY);
    assert_eq!(report["verdict"], "verified", "{report:#}");
    assert_eq!(proofs(&report), ["proven"; 3]);
    assert_eq!(report["statements"][2]["etcdAgeSeconds"], 3600);
    // A second above the limit is visibly above it.
    let report = chain.read(WEEKLY, 32 * DAY + 1);
    assert_cause(&report, "history_gap", "192h1s from 1970-01-25T00:00:00Z");
}

#[test]
fn a_drill_with_a_clock_that_was_ahead_hides_no_gap() {
    let ahead = drill(400 * DAY);
    let mut chain = Chain::of(&[drill(10 * DAY), ahead]);
    let report = chain.read(WEEKLY, 40 * DAY);
    assert_cause(
        &report,
        "history_clock",
        "1971-02-05T00:00:00Z is later than now",
    );
    assert_eq!(proofs(&report), ["proven", "clock"]);
    assert_eq!(report["lastSuccess"], "1970-01-11T00:00:00Z");
    assert_eq!(status(&report, "history.gaps"), "fail");

    // Its time comes, and yet a drill after it has an earlier one.
    chain.add(drill(17 * DAY), 400 * DAY + 1);
    let report = chain.read(WEEKLY, 401 * DAY);
    assert_cause(
        &report,
        "history_clock",
        "is later than 1970-01-18T00:00:00Z in 1971",
    );
    assert_eq!(report["lastSuccess"], "1970-01-18T00:00:00Z");

    let skewed = Chain::of(&[drill(10 * DAY + 200)]);
    assert_eq!(skewed.read(WEEKLY, 10 * DAY)["verdict"], "verified");
}

#[test]
fn statements_of_another_cluster_are_no_history_of_this_one() {
    let other = Drill {
        cluster: "clu1.other-fingerprint",
        ..drill(17 * DAY)
    };
    let chain = Chain::of(&[drill(10 * DAY), other]);
    let (report, text) = chain.read_with(vec![chain.key()], WEEKLY, 18 * DAY);
    assert_cause(
        &report,
        "history_mixed",
        "cfg1.one in 1 statement, first 19700118",
    );
    assert!(
        text.contains("clu1.one ") && text.contains("clu1.other-fi "),
        "{text}"
    );
}

#[test]
fn a_proven_restore_of_an_old_backup_counts_only_without_a_limit() {
    let old = Drill {
        made: Some(DAY),
        ..drill(17 * DAY)
    };
    let unknown = Drill {
        made: None,
        ..drill(24 * DAY)
    };
    let future = Drill {
        made: Some(60 * DAY),
        ..drill(31 * DAY)
    };
    let chain = Chain::of(&[drill(10 * DAY), old, unknown, future]);
    let report = chain.read(WEEKLY, 32 * DAY);
    assert_eq!(
        proofs(&report),
        ["proven", "outdated", "outdated", "outdated"]
    );
    assert_cause(
        &report,
        "history_gap",
        "etcd snapshot 384h old, OpenBao snapshot 384h old",
    );
    assert_eq!(
        report["statements"][3]["notCounted"],
        "etcd snapshot of unknown age, OpenBao snapshot of unknown age"
    );
    let report = chain.read(None, 32 * DAY);
    assert_eq!(report["verdict"], "verified", "{report:#}");
    assert_eq!(proofs(&report), ["proven"; 4]);
}

#[test]
fn one_backup_that_is_copied_each_week_grows_old() {
    let same = |at| Drill {
        etcd: "the same",
        ..drill(at)
    };
    // A second drill on one day is no fault.
    let drills = [10 * DAY, 10 * DAY + 60, 17 * DAY, 24 * DAY];
    let chain = Chain::of(&drills.map(same));
    let report = chain.read(WEEKLY, 25 * DAY);
    assert_eq!(proofs(&report), ["proven", "proven", "proven", "outdated"]);
    assert_eq!(report["statements"][3]["etcdAgeSeconds"], 14 * DAY + 3600);
    let reason = report["statements"][3]["notCounted"].as_str().unwrap();
    let first = "etcd snapshot 337h old, the file of 19700111T000000.000Z-drill.dsse.json again";
    assert_eq!(reason, first);
    assert_eq!(
        report["verdict"], "verified",
        "the last proof is young enough"
    );
    assert_cause(&chain.read(WEEKLY, 26 * DAY), "history_gap", first);
}

#[test]
fn a_directory_without_a_proven_restore_passes_no_check_of_gaps() {
    let failed = Drill {
        exit_code: 4,
        ..drill(10 * DAY)
    };
    let chain = Chain::of(&[failed]);
    let report = chain.read(WEEKLY, 11 * DAY);
    assert_cause(&report, "history_empty", "1 statement in ");
    assert_eq!(proofs(&report), ["failed"]);
    assert_eq!(status(&report, "history.proven"), "fail");
    assert_eq!(status(&report, "history.gaps"), "skip");
    assert_cause(
        &Chain::new().read(None, DAY),
        "history_empty",
        "0 statements",
    );
}

#[test]
fn other_names_are_left_out_and_an_unreadable_statement_is_named() {
    let mut chain = Chain::of(&[drill(10 * DAY)]);
    let path = chain.directory.path().to_owned();
    let pipe = |name: &str| {
        mknodat(CWD, path.join(name), FileType::Fifo, Mode::RUSR, 0).unwrap();
    };
    pipe("backup.dsse.json");
    disk::create_new(&path.join("\u{1b}[2J.dsse.json"), b"x").unwrap();
    let (report, text) = chain.read_with(vec![chain.key()], WEEKLY, 11 * DAY);
    assert_eq!(report["verdict"], "verified", "{report:#}");
    assert_eq!(
        report["leftOut"],
        json!(["\u{1b}[2J.dsse.json", "backup.dsse.json"])
    );
    assert!(
        text.contains("\\u{1b}[2J.dsse.json") && !text.contains('\u{1b}'),
        "{text}"
    );

    pipe("19700112T000000.000Z-drill.dsse.json");
    chain.add(drill(12 * DAY), 12 * DAY);
    let report = chain.read(WEEKLY, 13 * DAY);
    assert_cause(
        &report,
        "history_unverified",
        "19700112T000000.000Z-drill.dsse.json",
    );
    let row = &report["statements"][1];
    assert_eq!(
        (&row["problem"], &row["sha256"]),
        (&json!("it is not a regular file"), &Value::Null)
    );
    assert_eq!(report["statements"][2]["chain"], "unknown");
}

#[test]
fn statements_before_and_after_a_change_of_the_signing_key_are_one_history() {
    let mut chain = Chain::of(&[drill(10 * DAY)]);
    let old = chain.key();
    chain.pair = Ed25519KeyPair::generate().unwrap();
    chain.add(drill(17 * DAY), 17 * DAY);
    let (report, _) = chain.read_with(vec![old, chain.key()], WEEKLY, 18 * DAY);
    assert_eq!(report["verdict"], "verified", "{report:#}");
    let id = |at: usize| &report["statements"][at]["keyId"];
    assert_eq!(report["keyIds"], json!([id(0), id(1)]));
    assert_cause(
        &chain.read(WEEKLY, 18 * DAY),
        "history_unverified",
        "19700111",
    );
}
