//! `backups` and the newest pair of two directories, on real snapshots of both stores.

mod aged;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use jiff::Timestamp;
use serde_json::{Value, json};
use testkit::{
    files,
    openbao::{OpenBao, shared_openbao},
    schema::assert_published,
    stored::SourceType,
};

use crate::{
    corpus::{Corpus, OBJECT, sealer},
    drill::{Backups, SET},
    node::{Finished, Node, TIMING},
};

/// Two directories beside the snapshots of a set.
struct Directories {
    etcd: PathBuf,
    openbao: PathBuf,
}

impl Directories {
    fn below(root: &Path) -> Self {
        let directories = Self {
            etcd: root.join("etcd"),
            openbao: root.join("openbao"),
        };
        files::directory(&directories.etcd, 0o755);
        files::directory(&directories.openbao, 0o755);
        directories
    }

    fn options(&self) -> [&str; 4] {
        let (etcd, openbao) = (self.etcd.to_str().unwrap(), self.openbao.to_str().unwrap());
        ["--etcd-dir", etcd, "--openbao-dir", openbao]
    }

    fn run(&self, node: &Node, more: &[&str]) -> Finished {
        node.run(&[&["backups"], &self.options()[..], more].concat())
    }

    /// The report, whatever its exit code.
    fn report(&self, node: &Node, more: &[&str]) -> Value {
        let finished = self.run(node, &[&["--output", "json"], more].concat());
        let report: Value = serde_json::from_str(&finished.out).unwrap();
        assert_published(&report);
        report
    }
}

fn verdicts(report: &Value) -> Vec<(String, String, String)> {
    let text = |row: &Value, name: &str| row[name].as_str().unwrap().to_owned();
    let pairs = report["pairs"].as_array().unwrap().iter();
    let pairs = pairs.map(|row| {
        (
            text(row, "etcd"),
            text(row, "openbao"),
            text(row, "verdict"),
        )
    });
    pairs.collect()
}

fn drill(backups: &Backups, directories: &Directories) -> Command {
    let node = &backups.node;
    let mut drill = node.program(&["drill", "--output", "json", "--allow-network"]);
    drill.args(directories.options());
    drill.arg("--unseal-key-file").arg(backups.path(SET[2]));
    drill.arg("--work-dir").arg(backups.work());
    drill.arg("--bao").arg(testkit::openbao::binary().path());
    drill
}

#[tokio::test]
async fn a_pair_matches_by_the_record_of_its_openbao_snapshot_alone() {
    let server = OpenBao::start().await;
    let backups = Backups::of(&server).await;
    let node = &backups.node;
    let root = backups.path("sets");
    files::directory(&root, 0o755);
    let directories = Directories::below(&root);
    let none = directories.report(node, &[]);
    assert_eq!(none["cause"], "no_backups");
    assert_eq!(none["exitCode"], 5);
    assert_eq!(
        none["needsAreKnown"], false,
        "an unmounted disk needs nothing"
    );
    // A drill of them has the report and the metrics of a drill of a missing file.
    let metrics = backups.path("none.prom");
    let mut command = drill(&backups, &directories);
    command.arg("--metrics-file").arg(&metrics);
    let finished: Finished = command.output().unwrap().into();
    let report: Value = serde_json::from_str(&finished.out).unwrap();
    assert_published(&report);
    assert_eq!(finished.code, Some(5), "{finished:?}");
    assert_eq!(report["verdict"], "inconclusive", "{report:#}");
    assert_eq!(report["cause"], "no_backups");
    let metrics = fs::read_to_string(metrics).unwrap();
    assert!(metrics.contains("verdict=\"inconclusive\"} 1"), "{metrics}");

    // Named like a snapshot of k3s, and like a notice beside it.
    let name = format!("etcd-snapshot-node1-{}", Timestamp::now().as_second());
    fs::copy(backups.path("etcd.db"), directories.etcd.join(&name)).unwrap();
    let at = |name: &str| directories.openbao.join(name);
    fs::copy(backups.path("openbao.snap"), at("b.snap")).unwrap();
    fs::copy(backups.path("older.snap"), at("a.snap")).unwrap();
    files::replace(&at("notice.txt"), b"snapshots of the cluster", 0o644);
    let report = directories.report(node, &[]);
    assert_eq!(report["verdict"], "inconclusive", "{report:#}");
    assert_eq!(report["cause"], "backups_unproven");
    assert_eq!(report["neededVersions"], json!([1, 2]));
    assert_eq!(report["etcdSnapshots"][0]["madeBy"], "name");
    assert_eq!(report["openbaoSnapshots"][0]["madeBy"], "archive");
    assert_eq!(report["leftOut"][0]["file"], "notice.txt");
    assert!(
        verdicts(&report)
            .iter()
            .all(|(_, _, verdict)| verdict == "inconclusive"),
        "{report:#}"
    );

    // The record has the hash, but the key is younger than five minutes: the order stays open.
    let recorded = node.run(&[
        "record-backup",
        "--out",
        at("record.json").to_str().unwrap(),
        "--etcd-snapshot",
        backups.path("etcd.db").to_str().unwrap(),
        "--openbao-snapshot",
        backups.path("openbao.snap").to_str().unwrap(),
    ]);
    assert_eq!(recorded.code, Some(0), "{recorded:?}");
    let report = directories.report(node, &[]);
    assert_eq!(report["openbaoSnapshots"][1]["hasRecord"], true);
    assert_eq!(report["etcdSnapshots"][0]["madeBy"], "name");
    assert_eq!(report["pairs"][1]["openVersions"], json!([1, 2]));
    assert_eq!(report["verdict"], "inconclusive", "{report:#}");
    let page = root.join("page.html");
    let finished = directories.run(node, &["--html", page.to_str().unwrap()]);
    assert_eq!(finished.code, Some(5), "{finished:?}");
    let page = fs::read_to_string(page).unwrap();
    assert!(page.contains("3 inconclusive"), "{page}");

    // A drill of the newest pair proves it.
    let finished = drill(&backups, &directories).output().unwrap();
    let finished: Finished = finished.into();
    let report: Value = serde_json::from_str(&finished.out).unwrap();
    assert_eq!(report["verdict"], "compatible", "{report:#}");
    let path = report["openbaoSnapshot"]["path"].as_str().unwrap();
    assert!(path.ends_with("openbao/b.snap"), "{path}");
}

#[tokio::test]
async fn unknown_needs_keep_every_version_and_the_newest_pair_is_recorded() {
    let server = shared_openbao().await;
    let node = Node::new(TIMING).await;
    let provider = node.serve().await;
    let corpus = Corpus::of(&node, &provider).await;
    let root = corpus.directory.path();
    let directories = Directories::below(root);
    let first = corpus.snapshot("etcd/first.db");
    server
        .save_snapshot(&directories.openbao.join("a.snap"))
        .await;
    let record = root.join("record.json");
    let recorded = node.run(
        &[
            &["record-backup", "--out", record.to_str().unwrap()],
            &directories.options()[..],
            &["--output", "json"],
        ]
        .concat(),
    );
    let recorded = recorded.json();
    assert!(recorded["etcdSnapshot"]["sha256"].is_string());
    assert!(recorded["openbaoSnapshot"]["sha256"].is_string());

    let mut bytes = fs::read(&first).unwrap();
    bytes.truncate(bytes.len() / 2);
    files::replace(&directories.etcd.join("cut.db"), &bytes, 0o600);
    files::replace(&directories.etcd.join("x.db.age"), b"sealed", 0o600);
    let report = directories.report(&node, &[]);
    assert_eq!(report["needsAreKnown"], false);
    let left_out = report["leftOut"].as_array().unwrap();
    assert_eq!(left_out.len(), 2, "{report:#}");
    let text = directories.run(&node, &[]).out;
    assert!(text.contains("all, since some needs are unknown"), "{text}");

    // An object of a version that no record and no state names.
    node.rotate().await;
    provider.encrypt_under(3).await;
    let later = sealer(&node, &provider, SourceType::HkdfSeed).await;
    let key = "/registry/secrets/default/later";
    corpus.etcd.put(key, &later.value(key, OBJECT));
    let stopped = provider.stop().await;
    assert_eq!(stopped.code, Some(0));
    fs::remove_file(node.state_file()).unwrap();
    fs::remove_file(node.checkpoint()).unwrap();
    let _second = corpus.snapshot("etcd/second.db");
    let record = ["--record", record.to_str().unwrap()];
    let report = directories.report(&node, &record);
    let rows = report["etcdSnapshots"].as_array().unwrap();
    let last = rows.last().unwrap();
    assert_eq!(last["unexplained"], 1, "{report:#}");
    assert_eq!(last["neededVersions"], json!([1, 2, 3]));
    assert_eq!(report["verdict"], "inconclusive");
}
