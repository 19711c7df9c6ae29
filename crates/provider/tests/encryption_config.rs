//! One corpus of `EncryptionConfiguration` files. The comments at the head of each file, after its
//! first line, are everything that must be found, in this order: status, code, and how the message
//! begins. The files in `bare` cannot have such comments.
//!
//! `kubernetes.jsonl` has Kubernetes' own answer for each file; the tests of a real kube-apiserver
//! compare it with the answers of its loader.

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

use kms_domain::scope::ProviderName;
use kms_node::{
    config::{Config, Environment, Flags, load},
    report::{
        CheckResult, Output,
        outcome::{Nothing, Outcome},
        text::Look,
    },
};
use kms_operator::diagnose::encryption_config::{ENCRYPTION_CONFIG, check, check_file};
use rustix::process::geteuid;
use serde::Deserialize;
use serde_json::{Value, json};
use testkit::files;

const CORPUS: &str = "tests/encryption_config";

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

/// Kubernetes' answer for one file.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    file: String,
    starts: bool,
    /// With its feature gate.
    starts_with_kms_v1: bool,
    /// With that gate and automatic reload.
    reloads_with_kms_v1: bool,
    #[serde(default)]
    resources: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    resources: Vec<String>,
    providers: Vec<Provider>,
}

#[derive(Deserialize)]
struct Provider {
    kind: String,
    kms: Option<Kms>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kms {
    name: String,
    api_version: String,
    socket: String,
}

fn answers() -> Vec<Answer> {
    let text = fs::read_to_string("tests/encryption_config/kubernetes.jsonl").unwrap();
    let answers = text.lines().map(|line| serde_json::from_str(line).unwrap());
    answers.collect()
}

#[test]
fn kubernetes_has_answered_for_every_file() {
    let answered: BTreeSet<_> = answers().into_iter().map(|answer| answer.file).collect();
    let relative = |path: PathBuf| {
        path.strip_prefix(CORPUS)
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned()
    };
    let files = ["good", "bad", "bare"].into_iter().flat_map(corpus);
    assert_eq!(answered, files.map(relative).collect());
    assert!(answered.len() >= 60, "{}", answered.len());
}

#[test]
fn a_file_is_refused_exactly_when_kubernetes_refuses_it() {
    for answer in answers() {
        let checks = values(&check_file(
            &Path::new(CORPUS).join(&answer.file),
            &config(),
        ));
        let has = |member: &str, start: &str| {
            let mut texts = checks
                .iter()
                .filter_map(|check| check.pointer(member)?.as_str());
            texts.any(|text| text.contains(start))
        };
        let starts = !has("/impact", "kube-apiserver does not start with this file");
        let (v1, repeated) = (
            has("/details/code", "kms_v1"),
            has("/impact", "kube-apiserver refuses a repeated name of v1"),
        );
        let Answer { file, .. } = &answer;
        assert_eq!(starts, answer.starts_with_kms_v1, "{file}: {checks:#?}");
        assert_eq!(starts && !v1, answer.starts, "{file}: {checks:#?}");
        assert_eq!(
            starts && !repeated,
            answer.reloads_with_kms_v1,
            "{file}: {checks:#?}"
        );
        if starts {
            let found = &checks[0]["details"]["writers"];
            assert_eq!(*found, writers(&answer.resources), "{file}");
        }
    }
}

/// Writers and readers of each resource, in the words of the report.
fn writers(entries: &[Entry]) -> Value {
    let shown = |name: &str, allowed: &str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || allowed.contains(c);
        !name.is_empty() && name.len() <= 40 && name.chars().all(plain)
    };
    let label = |provider: &Provider| match &provider.kms {
        Some(Kms { name, .. }) if shown(name, "_-.") => format!("kms {name:?}"),
        Some(_) => "kms (a name that is not shown)".to_owned(),
        None => provider.kind.clone(),
    };
    let mut rows: Vec<(String, Vec<String>)> = Vec::new();
    for entry in entries {
        let labels: Vec<_> = entry.providers.iter().map(label).collect();
        for resource in &entry.resources {
            let text = match resource.as_str() {
                text if !shown(text, "-.*/") => "(a name that is not shown)",
                "*." => "*.",
                text => text.strip_suffix('.').unwrap_or(text),
            };
            match rows.iter_mut().find(|(known, _)| known == text) {
                Some((_, known)) => known.extend(labels.clone()),
                None => rows.push((text.to_owned(), labels.clone())),
            }
        }
    }
    let row = |(resource, labels): &(String, Vec<String>)| json!({"resource": resource, "writer": labels[0], "readers": labels[1..]});
    rows.iter().map(row).collect()
}

/// With the socket that Kubernetes dials as `server.socketPath`, the file leads here; with another
/// one it does not.
#[test]
fn the_socket_is_the_one_that_kubernetes_dials() {
    let mut compared = 0;
    for answer in answers() {
        let path = Path::new(CORPUS).join(&answer.file);
        let providers = answer.resources.iter().flat_map(|entry| &entry.providers);
        let all: Vec<_> = providers
            .filter_map(|provider| provider.kms.as_ref())
            .collect();
        for kms in &all {
            if all.iter().filter(|other| other.name == kms.name).count() > 1 {
                continue;
            }
            let leads_here = |socket: &str| {
                let mut config = config();
                config.scope.provider_name = ProviderName::parse(&kms.name).unwrap();
                config.server.socket_path = PathBuf::from(socket);
                let found = found(&check_file(&path, &config));
                !found
                    .iter()
                    .any(|line| line.starts_with("fail provider_endpoint"))
            };
            let is_path = kms.socket.starts_with('/') && !kms.socket.ends_with('/');
            let Answer { file, .. } = &answer;
            assert_eq!(leads_here(&kms.socket), is_path, "{file}: {}", kms.socket);
            assert!(!leads_here(&format!("{}x", kms.socket)), "{file}");
            assert!(["v1", "v2"].contains(&kms.api_version.as_str()), "{file}");
            compared += 1;
        }
    }
    assert!(compared >= 60, "{compared}");
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
    let covers = "which key_ids, backups and recovery of this provider do not cover";
    let scope = "transit.keyIdScope.providerName stays as it is";
    assert!(text.contains(covers) && text.contains(scope), "{text}");
    let warnings = check_file(path, &config())[0].warnings().join("");
    assert!(warnings.contains("do not change transit.keyIdScope.providerName"));
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
        // The other files differ in what holds no key.
        if !text.contains("bWFya2Vy") {
            continue;
        }
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
                let mut outcome = Outcome::new("doctor", UNIX_EPOCH, Nothing {});
                for check in check(&lines.join("\n"), &config) {
                    assert!(!format!("{check:?}").contains("bWFya2Vy"), "{check:?}");
                    outcome.add_checks([check]);
                }
                let mut out = Vec::new();
                for output in [Output::Text, Output::Json] {
                    let look = Look::default();
                    output.write(&outcome, look, &mut out).unwrap();
                }
                let out = String::from_utf8(out).unwrap();
                for key in &keys {
                    // Any part that would be of use.
                    assert!(!out.contains(&key[..8]), "{path:?}: {changed:?}: {out}");
                }
                swept += 1;
            }
        }
    }
    assert!(swept > 3_000, "{swept}");
}

fn config() -> Config {
    let flags = Flags {
        config: Some(PathBuf::from("tests/config/good/minimal.yaml")),
        ..Flags::default()
    };
    load(&flags, &Environment::default()).unwrap().config
}

fn corpus(folder: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(Path::new(CORPUS).join(folder)).unwrap();
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(paths.len() > 10);
    paths
}

fn values(checks: &[CheckResult]) -> Vec<Value> {
    let value = |check| serde_json::to_value(check).unwrap();
    checks.iter().map(value).collect()
}

/// Status, code and message of each check.
fn found(checks: &[CheckResult]) -> Vec<String> {
    let line = |check: &Value| {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (status, code) = (text(&check["status"]), text(&check["details"]["code"]));
        format!("{} {code}", status).trim().to_owned() + ": " + &text(&check["message"])
    };
    values(checks).iter().map(line).collect()
}
