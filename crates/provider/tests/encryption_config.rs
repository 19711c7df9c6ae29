//! One corpus of `EncryptionConfiguration` files. The comments at the head of each file, after its
//! first line, are everything that must be found, in this order: status, code, and how the message
//! begins.

#![expect(
    clippy::unwrap_used,
    reason = "functions that only tests call may fail like tests"
)]

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use provider::{
    config::{Config, Environment, Flags, load},
    diagnose::encryption_config::{ENCRYPTION_CONFIG, check, check_file},
    report::{Check, Output, Report},
};
use rustix::process::geteuid;
use serde_json::{Value, json};
use testkit::files;

#[test]
fn every_file_is_reported_in_full() {
    for (folder, must_fail) in [("good", false), ("bad", true)] {
        for path in corpus(folder) {
            let text = fs::read_to_string(&path).unwrap();
            let expected: Vec<&str> = text
                .lines()
                .skip(1)
                .map_while(|line| line.strip_prefix("# "))
                .collect();
            let found = found(&check_file(&path, &config()));
            assert_eq!(found.len(), expected.len(), "{path:?}: {found:#?}");
            for (found, expected) in found.iter().zip(&expected) {
                assert!(
                    found.starts_with(expected),
                    "{path:?}: {found:?} is not {expected:?}"
                );
            }
            let failed = expected.iter().any(|line| line.starts_with("fail "));
            assert_eq!(failed, must_fail, "{path:?}");
        }
    }
}

#[test]
fn every_finding_has_its_impact_and_its_remedy() {
    for path in corpus("good").into_iter().chain(corpus("bad")) {
        for check in values(&check_file(&path, &config())) {
            assert_eq!(check["id"], ENCRYPTION_CONFIG.id);
            if check["status"] != "pass" {
                for member in ["impact", "impactClass", "remediation"] {
                    assert!(
                        check[member].is_string(),
                        "{path:?} lacks {member}: {check}"
                    );
                }
            }
        }
    }
}

#[test]
fn the_first_check_tells_programs_who_encrypts_and_who_else_decrypts() {
    let path = Path::new("tests/encryption_config/good/migration-writes.yaml");
    let checks = values(&check_file(path, &config()));
    assert_eq!(
        checks[0]["details"]["writers"],
        json!([{
            "resource": "secrets",
            "writer": "kms \"kms-harbor-east\"",
            "readers": ["secretbox", "aesgcm", "identity"],
        }])
    );
    let path = Path::new("tests/encryption_config/good/split.yaml");
    let joined = &values(&check_file(path, &config()))[0]["details"]["writers"];
    assert_eq!(joined.as_array().unwrap().len(), 1);
    assert_eq!(joined[0]["readers"], json!(["identity"]));
}

#[test]
fn a_wrong_name_is_not_to_be_mended_by_changing_the_scope() {
    let path = Path::new("tests/encryption_config/bad/provider-name.yaml");
    let text = values(&check_file(path, &config()))[0].to_string();
    assert!(text.contains("would not be found"), "{text}");
    assert!(
        text.contains("Do not change transit.keyIdScope.providerName"),
        "{text}"
    );
    // What it says to do mends it.
    let mended = fs::read_to_string(path)
        .unwrap()
        .replace("kms-harbor-west", "kms-harbor-east");
    assert_eq!(
        found(&check(&mended, &config()))[0].split(':').next(),
        Some("pass")
    );
}

#[test]
fn what_cannot_be_read_says_why() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("encryption-config.yaml");
    let only = |path: &Path| match &found(&check_file(path, &config()))[..] {
        [only] => only.clone(),
        several => panic!("{several:#?}"),
    };
    assert!(only(&path).starts_with("fail missing: "));
    assert!(only(directory.path()).starts_with("fail unreadable: "));
    files::replace(&path, &[b'#'; 256 * 1024], 0o640);
    assert!(found(&check_file(&path, &config()))[0].starts_with("fail header: "));
    files::replace(&path, &[b'#'; 256 * 1024 + 1], 0o640);
    assert!(only(&path).starts_with("fail too_large: "));
    files::replace(&path, b"kind: \xff", 0o640);
    assert!(only(&path).starts_with("fail malformed: "));
    if !geteuid().is_root() {
        fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
        assert!(only(&path).starts_with("fail unreadable: access to "));
    }
}

/// Each line of each file is cut, repeated, moved and replaced by a key, so that keys turn up in
/// every place of the grammar.
#[test]
fn no_key_of_a_file_reaches_any_output() {
    const KEY: &str = "bWFya2Vy+bWFya2VyL2Zvci90aGUvc3dlZXAvMzJieXQ=";
    let config = config();
    let keys: BTreeSet<String> = corpus("good")
        .into_iter()
        .chain(corpus("bad"))
        .flat_map(|path| {
            let text = fs::read_to_string(path).unwrap();
            let words = text.split([' ', '\'', '"', '\n']).map(str::to_owned);
            words
                .filter(|word| word.starts_with("bWFya2Vy"))
                .collect::<Vec<_>>()
        })
        .chain([KEY.to_owned()])
        .collect();
    assert!(keys.len() >= 3, "{keys:?}");
    let mut swept = 0;
    for path in corpus("good").into_iter().chain(corpus("bad")) {
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        for (index, line) in lines.iter().enumerate() {
            let key_of = line.split_once(':').map_or(*line, |(key, _)| key);
            let changed = [
                String::new(),
                format!("{line}\n{line}"),
                format!(" {line}"),
                format!("{line}{KEY}"),
                format!("{line}: {KEY}"),
                format!("{key_of}: {KEY}"),
                format!("{key_of}: [{KEY}]"),
                format!("{key_of}: {{{KEY}: 1}}"),
                format!("{key_of}: !{KEY} 1"),
                format!("{key_of}: *{KEY}"),
                format!("{key_of}: &{KEY} 1"),
                format!("{key_of}: \"{KEY}"),
                format!("{KEY}: 1\n{line}"),
            ];
            for changed in changed {
                let mut lines = lines.clone();
                lines[index] = &changed;
                let mut report = Report::new("doctor", UNIX_EPOCH);
                for check in check(&lines.join("\n"), &config) {
                    assert!(!format!("{check:?}").contains("bWFya2Vy"), "{check:?}");
                    report.push(check);
                }
                let mut out = Vec::new();
                Output::Text.write(&report, &mut out).unwrap();
                Output::Json.write(&report, &mut out).unwrap();
                let out = String::from_utf8(out).unwrap();
                for key in &keys {
                    // Any part that would be of use.
                    assert!(!out.contains(&key[..8]), "{path:?}: {changed:?}: {out}");
                }
                swept += 1;
            }
        }
    }
    assert!(swept > 5_000, "{swept}");
}

fn config() -> Config {
    let flags = Flags {
        config: Some(PathBuf::from("tests/config/good/minimal.yaml")),
        ..Flags::default()
    };
    load(&flags, &Environment::default()).unwrap().config
}

fn corpus(folder: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(Path::new("tests/encryption_config").join(folder)).unwrap();
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(paths.len() > 10);
    paths
}

fn values(checks: &[Check]) -> Vec<Value> {
    let value = |check| serde_json::to_value(check).unwrap();
    checks.iter().map(value).collect()
}

/// Status, code and message of each check.
fn found(checks: &[Check]) -> Vec<String> {
    let line = |check: &Value| {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (status, code) = (text(&check["status"]), text(&check["details"]["code"]));
        format!("{} {code}", status).trim().to_owned() + ": " + &text(&check["message"])
    };
    values(checks).iter().map(line).collect()
}
