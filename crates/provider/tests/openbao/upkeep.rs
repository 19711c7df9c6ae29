//! The commands for the upkeep of a key: those that look at the key and at the state of a node, and
//! the two that retire and restore versions, as a person or a script sees them.

mod evidence;
mod retirement;
mod rewriting;
mod rotation;
mod verify_key;

use std::{collections::BTreeMap, path::Path};

use kms_node::kms_api::generated::EncryptResponse;
use serde_json::Value;
use testkit::{schema::assert_published, stored::SourceType, wait::wait_until};

use crate::{
    corpus::{Corpus, sealer},
    node::{Finished, Node, TIMING},
    provider::{Provider, SOON},
};

/// A node that was stopped after it had followed the key to this version, and what it encrypted
/// under each version before.
pub(crate) async fn stopped_at(version: u64) -> (Node, Vec<EncryptResponse>) {
    let node = Node::new(TIMING).await;
    let provider = node.serve().await;
    let mut encrypted = Vec::new();
    for _ in 1..version {
        encrypted.push(provider.encrypt(b"seed").await.unwrap());
        node.rotate().await;
        wait_until(SOON, "the promotion", async || {
            provider.events("key.promoted").count() == encrypted.len()
        })
        .await;
    }
    let stopped = provider.stop().await;
    assert_eq!(stopped.code, Some(0), "{}", stopped.err);
    (node, encrypted)
}

fn files(node: &Node) -> [Vec<u8>; 2] {
    [node.state_file(), node.checkpoint()].map(|path| std::fs::read(path).unwrap())
}

/// Runs `command` while the state file is away, as after a restore of the checkpoint alone.
fn without_state(node: &Node, command: &[&str]) -> Finished {
    let state = std::fs::read(node.state_file()).unwrap();
    std::fs::remove_file(node.state_file()).unwrap();
    let finished = node.run(command);
    assert!(!node.state_file().exists());
    testkit::files::replace(&node.state_file(), &state, 0o640);
    finished
}

/// The options for these snapshots.
fn snapshots<'a>(files: &[&'a Path]) -> Vec<&'a str> {
    let options = files.iter();
    options
        .flat_map(|file| ["--etcd-snapshot", file.to_str().unwrap()])
        .collect()
}

/// What a rewriting of all objects of a [`Corpus`] does, as kube-apiserver would after a restart.
async fn rewrite(node: &Node, provider: &Provider, corpus: &Corpus) {
    let newest = sealer(node, provider, SourceType::HkdfSeed).await;
    for name in [
        "secrets/default/one",
        "secrets/default/two",
        "configmaps/kube-system/old",
    ] {
        corpus.put(&newest, name);
    }
}

/// A check of a report.
fn check<'a>(report: &'a Value, id: &str) -> &'a Value {
    let checks = report["checks"].as_array().unwrap();
    checks.iter().find(|check| check["id"] == id).unwrap()
}

/// A transcript in which what differs from run to run in the place of etcd is replaced.
fn shown(node: &Node, corpus: &Corpus, finished: &Finished) -> String {
    transcript(node, finished)
        .replace(corpus.directory.path().to_str().unwrap(), "<backups>")
        .replace(corpus.etcd.endpoint(), "<etcd>")
}

fn json_of(finished: &Finished) -> Value {
    let result = serde_json::from_str(&finished.out).unwrap();
    assert_published(&result);
    result
}

/// Everything a terminal would show, and the exit code. What differs from run to run is replaced,
/// equal hashes by equal numbers; the width of a column depends on the length of its paths, so two
/// spaces stand between columns.
pub(crate) fn transcript(node: &Node, finished: &Finished) -> String {
    let Finished { code, out, err } = finished;
    let code = code.unwrap();
    let setting = |name: &str| node.config["openbao"][name].as_str().unwrap().to_owned();
    let shown = format!("exit code {code}\n--- stdout\n{out}--- stderr\n{err}")
        .replace(&setting("address"), "<openbao>")
        .replace(&setting("caCertFile"), "<ca>")
        .replace(node.tenant.path().to_str().unwrap(), "<tenant>")
        .replace(
            node.state_dir().parent().unwrap().to_str().unwrap(),
            "<directory>",
        )
        .replace(&node.tenant.transit_mount, "<mount>")
        .replace(&format!("auth/{}", node.tenant.jwt_mount), "<login>");
    let numbered = number_hashes(&shown);
    let lines = numbered.lines().map(|line| {
        let varying = [
            "\"time\": ",
            "pendingPromotesAfter\": ",
            "pendingPromotesAfter ",
            " observations, expected at ",
            // The places of certificates in commands.
            " --cacert ",
            // Warnings about the places and times of a test.
            "state.path (line",
        ];
        let cut = varying
            .iter()
            .find_map(|from| Some((line.find(from)?, from)));
        match cut {
            Some((at, from)) => format!("{}<varies>\n", &line[..at + from.len()]),
            None => format!("{}\n", narrow(line)),
        }
    });
    lines.collect()
}

fn narrow(line: &str) -> String {
    let words = line.trim_start();
    let mut narrowed = line[..line.len() - words.len()].to_owned();
    let mut spaces = 0;
    for character in words.chars() {
        spaces = if character == ' ' { spaces + 1 } else { 0 };
        if spaces <= 2 {
            narrowed.push(character);
        }
    }
    narrowed
}

/// A hash is 43 characters of base64url, whatever stands before its dot.
fn number_hashes(text: &str) -> String {
    let part_of_hash = |c: char| c.is_ascii_alphanumeric() || "_-".contains(c);
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    let mut numbered = String::new();
    for piece in text.split_inclusive(|c| !part_of_hash(c)) {
        let word = piece.trim_end_matches(|c| !part_of_hash(c));
        if word.len() == 43 {
            let next = seen.len() + 1;
            let number = seen.entry(word).or_insert(next);
            numbered.push_str(&format!("<hash {number}>{}", &piece[word.len()..]));
        } else {
            numbered.push_str(piece);
        }
    }
    numbered
}
