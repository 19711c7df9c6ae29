//! `support-bundle` on a node of the package: complete on a healthy one, and with the missing parts
//! named on one that is down; without secrets on both.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Read as _,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
};

use flate2::read::GzDecoder;
use kms_domain::digest::sha256_hex;
use serde_json::Value;
use testkit::{files, openbao::shared_openbao};

use super::{site::Site, state::rotated};
use crate::secrets::{holds_token, spellings};

const REPORTS: [&str; 10] = [
    "triage.txt",
    "triage.json",
    "doctor.txt",
    "doctor.json",
    "config.txt",
    "config.json",
    "inspect-state.txt",
    "inspect-state.json",
    "version.txt",
    "version.json",
];

struct Bundle {
    /// Names in their order.
    names: Vec<String>,
    texts: BTreeMap<String, String>,
    result: Value,
}

impl Bundle {
    /// Runs the command for this file, and reads the archive.
    async fn make(site: &mut Site, name: &str) -> Self {
        let path = site.file(name);
        let line = site.line(&format!("support-bundle {} -o json", path.display()));
        let done = site.shell(&line).await;
        assert_eq!(done.code, Some(0), "{}{}", done.out, done.err);
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o7777,
            0o600
        );
        let bundle = Self::read(&path, done.json());
        bundle.assert_manifest();
        bundle
    }

    fn read(path: &Path, result: Value) -> Self {
        let mut archive = tar::Archive::new(GzDecoder::new(File::open(path).unwrap()));
        let directory = path.file_name().unwrap().to_str().unwrap();
        let directory = directory.strip_suffix(".tar.gz").unwrap();
        let (mut names, mut texts) = (Vec::new(), BTreeMap::new());
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            assert_eq!(entry.header().mode().unwrap(), 0o600);
            let name = entry
                .path()
                .unwrap()
                .strip_prefix(directory)
                .unwrap()
                .to_owned();
            let name = name.to_str().unwrap().to_owned();
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            names.push(name.clone());
            texts.insert(name, text);
        }
        Self {
            names,
            texts,
            result,
        }
    }

    fn json(&self, name: &str) -> Value {
        serde_json::from_str(&self.texts[name]).unwrap()
    }

    /// The manifest is the result, and has the hash of every other file.
    fn assert_manifest(&self) {
        assert_eq!(self.names[0], "manifest.json");
        let manifest = self.json("manifest.json");
        assert_eq!(manifest, self.result);
        let parts = manifest["parts"].as_array().unwrap();
        let listed: Vec<_> = parts
            .iter()
            .map(|part| part["name"].as_str().unwrap())
            .collect();
        assert_eq!(listed, self.names[1..]);
        for part in parts {
            let text = &self.texts[part["name"].as_str().unwrap()];
            assert_eq!(part["sha256"], sha256_hex(text.as_bytes()), "{part}");
        }
        assert_eq!(listed[..REPORTS.len()], REPORTS);
    }

    fn missing(&self) -> Vec<&str> {
        let missing = self.result["missing"].as_array().unwrap();
        missing
            .iter()
            .map(|part| part["name"].as_str().unwrap())
            .collect()
    }

    fn assert_free_of(&self, secrets: &[Vec<u8>]) {
        for (name, text) in &self.texts {
            for secret in secrets {
                for form in spellings(secret) {
                    assert!(!text.contains(&form), "{form} is in {name}");
                }
            }
            assert!(!holds_token(text), "{name}: {text}");
        }
    }
}

/// The JWT of the node, each part of it, the token of OpenBao's administrator, and a plaintext.
async fn secrets(site: &Site) -> Vec<Vec<u8>> {
    let jwt = fs::read(site.node.tenant.jwt_file()).unwrap();
    let root = &shared_openbao().await.secrets().root_token;
    let mut secrets: Vec<_> = jwt
        .split(|byte| *byte == b'.')
        .map(<[u8]>::to_vec)
        .collect();
    secrets.extend([root.expose().into(), PLAINTEXT.into()]);
    secrets
}

const PLAINTEXT: &[u8] = b"MARKER-plaintext-0123456789abcdef";

#[tokio::test]
async fn a_healthy_node_has_every_part_and_no_secret() {
    let (mut site, _) = rotated().await;
    site.serve().await;
    let encrypted = site.serving().encrypt(PLAINTEXT).await.unwrap();
    let mut secrets = secrets(&site).await;
    secrets.push(encrypted.ciphertext.to_vec());
    // Lines of another program.
    let jwt = fs::read_to_string(site.node.tenant.jwt_file()).unwrap();
    let root = &shared_openbao().await.secrets().root_token;
    let ciphertext = String::from_utf8_lossy(&encrypted.ciphertext).into_owned();
    let mut journal = site.journal();
    journal.push_str(&format!(
        "jwt={jwt} token: {} {ciphertext}\n",
        root.expose()
    ));
    fs::remove_file(site.file("journal")).unwrap();
    files::replace(&site.file("journal"), journal.as_bytes(), 0o600);

    let bundle = Bundle::make(&mut site, "healthy.tar.gz").await;
    bundle.assert_free_of(&secrets);
    assert_eq!(bundle.result["verdict"], "complete", "{:#}", bundle.result);
    let lines = bundle.texts.values().flat_map(|text| text.lines());
    let redacted: Vec<_> = lines.filter(|line| line.contains("[redacted]")).collect();
    assert_eq!(bundle.result["redactedWords"], 3, "{redacted:#?}");
    let others = [
        "files.txt",
        "ready.json",
        "live.json",
        "why.json",
        "metrics.txt",
        "log.txt",
    ];
    assert_eq!(bundle.names[REPORTS.len() + 1..], others);
    assert_eq!(bundle.json("triage.json")["verdict"], "healthy");
    assert_eq!(bundle.json("doctor.json")["verdict"], "passed");
    assert_eq!(bundle.json("inspect-state.json")["activeTransitVersion"], 2);
    assert_eq!(bundle.json("why.json")["reasons"], serde_json::json!([]));
    assert!(bundle.texts["metrics.txt"].contains("openbao_kms_"));
    assert!(
        bundle.texts["log.txt"].contains("serve.ready"),
        "{}",
        bundle.texts["log.txt"]
    );
    assert!(bundle.texts["log.txt"].contains("jwt=[redacted] token: [redacted] [redacted]"));
    let socket = site.node.sockets.socket();
    assert!(bundle.texts["files.txt"].contains(socket.to_str().unwrap()));
    assert!(bundle.texts["files.txt"].contains("2750"));

    let path = site.file("healthy.tar.gz");
    let before = fs::read(&path).unwrap();
    let line = site.line(&format!("support-bundle {}", path.display()));
    let again = site.shell(&line).await;
    assert_eq!(again.code, Some(1), "{}", again.err);
    assert!(again.err.contains("exists already"), "{}", again.err);
    assert_eq!(fs::read(&path).unwrap(), before);
    assert_eq!(
        fs::metadata(&path).unwrap().uid(),
        rustix::process::geteuid().as_raw()
    );
}

#[tokio::test]
async fn a_node_that_is_down_has_the_reports_and_names_the_rest() {
    let (mut site, _) = rotated().await;
    site.configure("/openbao/address", "https://127.0.0.1:1");
    let secrets = secrets(&site).await;
    let bundle = Bundle::make(&mut site, "down.tar.gz").await;
    bundle.assert_free_of(&secrets);
    assert_eq!(
        bundle.result["verdict"], "incomplete",
        "{:#}",
        bundle.result
    );
    assert_eq!(
        bundle.missing(),
        ["ready.json", "live.json", "why.json", "metrics.txt"]
    );
    assert_eq!(bundle.json("triage.json")["cause"], "openbao_unreachable");
    assert_eq!(bundle.json("doctor.json")["cause"], "openbao_unreachable");
    assert_eq!(bundle.names.last().unwrap(), "log.txt");

    let config = site.node.state_dir().with_file_name("config.yaml");
    fs::remove_file(&config).unwrap();
    files::replace(&site.file("log"), b"one line\n", 0o600);
    let (path, log) = (site.file("missing.tar.gz"), site.file("log"));
    let options = format!("{} --log {} -o json", path.display(), log.display());
    let line = site.line(&format!("support-bundle {options}"));
    let done = site.shell(&line).await;
    assert_eq!(done.code, Some(0), "{}{}", done.out, done.err);
    let bundle = Bundle::read(&path, done.json());
    bundle.assert_manifest();
    let expected = [
        "config",
        "inspect-state",
        "files.txt",
        "ready.json",
        "live.json",
        "why.json",
        "metrics.txt",
    ];
    assert_eq!(bundle.missing(), expected);
    assert_eq!(bundle.json("triage.json")["cause"], "config_lost");
    assert_eq!(bundle.texts["log.txt"], "one line\n");
}
