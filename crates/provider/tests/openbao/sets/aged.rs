//! Backups of hours: pairs that a record and the times prove or refute, and a newest pair that is not that
//! of the newest files.
//!
//! No test waits hours. The versions of the key get their age by the backup and restore of Transit itself,
//! so OpenBao, the provider and all stored objects agree on it; the archive of the earlier OpenBao snapshot
//! gets its time in the headers of its files, which nothing hashes; the etcd snapshots have theirs in their
//! names.

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use jiff::{Timestamp, ToSpan as _};
use kms_domain::recovery::record::BackupRecord;
use openbao_lab::admin::transit::KeyConfig;
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::{
    etcd::Etcd,
    files,
    openbao::{OpenBao, binary, shared_openbao},
    stored::SourceType,
    tenant::KEY,
};

use super::{Directories, verdicts};
use crate::{
    attest::sha256,
    corpus::{OBJECT, sealer},
    forms::tar,
    node::{Finished, Node, TIMING},
    provider::Provider,
};

/// The key in its first and in its second version, as Transit backs it up, with ages in hours.
struct Versions {
    first: String,
    second: String,
}

impl Versions {
    /// Replaces the key of the node by its first version.
    async fn of(server: &OpenBao, node: &Node) -> Self {
        let admin = server.admin();
        let mount = &node.tenant.transit_mount;
        let settings = json!({"exportable": true, "allow_plaintext_backup": true});
        let config = format!("{mount}/keys/{KEY}/config");
        admin.write(&config, &settings).await.unwrap();
        let backup = async |hours: &[i64]| {
            let answer = admin.read(&format!("{mount}/backup/{KEY}")).await.unwrap();
            let data: Value = answer.data().unwrap();
            aged(data["backup"].as_str().unwrap(), hours)
        };
        let first = backup(&[5]).await;
        admin.rotate_key(mount, KEY).await.unwrap();
        let second = backup(&[5, 2]).await;
        restore(server, node, &first).await;
        Self { first, second }
    }
}

async fn restore(server: &OpenBao, node: &Node, backup: &str) {
    let path = format!("{}/restore/{KEY}", node.tenant.transit_mount);
    let body = json!({"backup": backup, "force": true});
    server.admin().write(&path, &body).await.unwrap();
}

/// A backup of a key with an age in hours for each of its versions.
fn aged(backup: &str, hours: &[i64]) -> String {
    let mut backup: Value = serde_json::from_slice(&STANDARD.decode(backup).unwrap()).unwrap();
    let policy = &mut backup["policy"];
    policy["exportable"] = json!(false);
    policy["allow_plaintext_backup"] = json!(false);
    for (index, hours) in hours.iter().enumerate() {
        let created = hours_ago(*hours);
        let number = index + 1;
        for key in ["/policy/keys", "/archived_keys/keys"] {
            let version = format!("{key}/{number}");
            let version = backup.pointer_mut(&version);
            let version = version.unwrap_or_else(|| panic!("no {key}/{number}"));
            version["time"] = json!(created.to_string());
            version["creation_time"] = json!(created.as_second());
        }
    }
    STANDARD.encode(backup.to_string())
}

fn hours_ago(hours: i64) -> Timestamp {
    let now = Timestamp::from_second(Timestamp::now().as_second()).unwrap();
    now.checked_sub(hours.hours()).unwrap()
}

/// Copies a raft snapshot with another time in its archive.
fn stamp(from: &Path, to: &Path, made: Timestamp) {
    let mut archive = tar::Archive::new(GzDecoder::new(File::open(from).unwrap()));
    let gzip = GzEncoder::new(File::create(to).unwrap(), Compression::default());
    let mut stamped = tar::Builder::new(gzip);
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut header = entry.header().clone();
        header.set_mtime(made.as_second().try_into().unwrap());
        header.set_cksum();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        stamped.append(&header, &content[..]).unwrap();
    }
    let _file = stamped.into_inner().unwrap().finish().unwrap();
}

/// Backups of five hours.
///
/// | Hours ago | Event |
/// |---:|---|
/// | 5 | version 1 of the key |
/// | 3 | set one: an object under version 1, and OpenBao |
/// | 2 | version 2 |
/// | 1 | set two: also an object under version 2, and OpenBao now |
struct History {
    node: Node,
    versions: Versions,
    provider: Provider,
    etcd: Etcd,
    directory: TempDir,
}

impl History {
    async fn new() -> Self {
        let server = shared_openbao().await;
        let node = Node::on(server, TIMING).await;
        let versions = Versions::of(server, &node).await;
        assert_ne!(versions.first, versions.second);
        let history = Self {
            provider: node.serve().await,
            node,
            versions,
            etcd: Etcd::start().await,
            directory: TempDir::new().unwrap(),
        };
        let path = |name: &str| history.path(name);

        history.put("one").await;
        history.etcd.save_snapshot(&path("one.db"));
        server.save_snapshot(&path("unstamped.snap")).await;
        stamp(&path("unstamped.snap"), &path("one.snap"), hours_ago(3));
        history.record("one", 180);

        restore(server, &history.node, &history.versions.second).await;
        history.provider.encrypt_under(2).await;
        history.put("two").await;
        history.etcd.save_snapshot(&path("two.db"));
        server.save_snapshot(&path("two.snap")).await;
        history.record("two", 0);
        server.write_unseal_key(&path("share"));
        history
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    async fn put(&self, name: &str) {
        let sealer = sealer(&self.node, &self.provider, SourceType::HkdfSeed).await;
        let key = format!("/registry/secrets/default/{name}");
        self.etcd.put(&key, &sealer.value(&key, OBJECT));
    }

    /// The record of an OpenBao snapshot, as written some minutes ago.
    fn record(&self, name: &str, minutes: i64) -> Finished {
        let (out, snapshot) = (
            self.path(&format!("{name}.json")),
            self.path(&format!("{name}.snap")),
        );
        let command = [
            "record-backup",
            "--out",
            out.to_str().unwrap(),
            "--openbao-snapshot",
            snapshot.to_str().unwrap(),
        ];
        let recorded = self.node.run(&command);
        assert_eq!(recorded.code, Some(0), "{recorded:?}");
        let record = BackupRecord::decode(&fs::read(&out).unwrap()).unwrap();
        let mut note = record.note().clone();
        note.recorded_at = minutes_ago(minutes).to_string();
        let record = BackupRecord::new(note).unwrap();
        files::replace(&out, record.encode().as_bytes(), 0o644);
        recorded
    }

    /// Empty directories for backups.
    fn directories(&self, name: &str) -> Directories {
        let root = self.path(name);
        files::directory(&root, 0o755);
        Directories::below(&root)
    }

    fn copy(&self, name: &str, to: &Path) {
        fs::copy(self.path(name), to).unwrap();
    }

    fn drill(&self, directories: &Directories) -> Value {
        let work = self.path("work");
        if !work.exists() {
            files::directory(&work, 0o700);
        }
        let mut drill = self
            .node
            .program(&["drill", "--output", "json", "--allow-network"]);
        drill.args(directories.options());
        drill.arg("--unseal-key-file").arg(self.path("share"));
        drill.arg("--work-dir").arg(work);
        drill.arg("--bao").arg(binary().path());
        let finished: Finished = drill.output().unwrap().into();
        serde_json::from_str(&finished.out).unwrap_or_else(|_| panic!("{finished:?}"))
    }
}

/// Names of an etcd snapshot, made some minutes ago, as the tools write them.
fn k3s(minutes: i64) -> String {
    format!("etcd-snapshot-cp-1-{}", minutes_ago(minutes).as_second())
}

fn rke2(minutes: i64) -> String {
    format!("on-demand-cp-1-{}.zip", minutes_ago(minutes).as_second())
}

fn druid(minutes: i64) -> String {
    let second = minutes_ago(minutes).as_second();
    format!("v2/Full-00000000-00000042-{second}.gz")
}

fn talos(minutes: i64) -> String {
    format!("homelab-{}.snap", minutes_ago(minutes))
}

fn minutes_ago(minutes: i64) -> Timestamp {
    let now = Timestamp::from_second(Timestamp::now().as_second()).unwrap();
    now.checked_sub(minutes.minutes()).unwrap()
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(content).unwrap();
    gzip.finish().unwrap()
}

fn zip(path: &Path, member: &str, content: &[u8]) {
    let mut zip = zip::ZipWriter::new(File::create(path).unwrap());
    let options = zip::write::SimpleFileOptions::default();
    zip.start_file(member, options).unwrap();
    zip.write_all(content).unwrap();
    zip.finish().unwrap();
}

#[tokio::test]
async fn pairs_match_or_not_by_records_and_times_alone() {
    let history = History::new().await;
    let directories = history.directories("all");
    let (etcd, openbao) = (&directories.etcd, &directories.openbao);
    // Set one by k3s and by etcd-druid, set two by RKE2 and by Talos.
    let names = [k3s(181), druid(180), rke2(61), talos(60)];
    history.copy("one.db", &etcd.join(&names[0]));
    files::directory(&etcd.join("v2"), 0o755);
    let packed = gzip(&fs::read(history.path("one.db")).unwrap());
    files::replace(&etcd.join(&names[1]), &packed, 0o600);
    let second = fs::read(history.path("two.db")).unwrap();
    zip(&etcd.join(&names[2]), "on-demand-cp-1", &second);
    history.copy("two.db", &etcd.join(&names[3]));
    for name in ["one.snap", "one.json", "two.snap", "two.json"] {
        history.copy(name, &openbao.join(name));
    }
    let sums = format!("{}  {}\n", sha256(history.path("one.db")), names[0]);
    files::replace(&etcd.join("SHA256SUMS"), sums.as_bytes(), 0o644);

    let report = directories.report(&history.node, &[]);
    let expected = |etcd: &str, openbao: &str, verdict: &str| {
        (etcd.to_owned(), openbao.to_owned(), verdict.to_owned())
    };
    assert_eq!(
        verdicts(&report),
        [
            expected(&names[0], "one.snap", "matching"),
            expected(&names[0], "two.snap", "matching"),
            expected(&names[1], "one.snap", "matching"),
            expected(&names[1], "two.snap", "matching"),
            expected(&names[2], "one.snap", "incompatible"),
            expected(&names[2], "two.snap", "matching"),
            expected(&names[3], "one.snap", "incompatible"),
            expected(&names[3], "two.snap", "matching"),
        ],
        "{report:#}"
    );
    assert_eq!(report["verdict"], "matching");
    assert_eq!(report["exitCode"], 0);
    assert_eq!(report["pairs"][4]["missingVersions"], json!([2]));
    assert_eq!(report["neededVersions"], json!([1, 2]));
    assert_eq!(report["needsAreKnown"], true, "{report:#}");
    let made = |index: usize| report["etcdSnapshots"][index]["madeAt"].clone();
    assert_eq!(report["oldestRestorable"], made(0));
    assert_eq!(report["newestRestorable"], made(3));
    for row in report["etcdSnapshots"].as_array().unwrap() {
        assert_eq!(row["madeBy"], "name", "{report:#}");
    }
    let left_out = report["leftOut"].as_array().unwrap();
    assert_eq!(left_out.len(), 1, "{report:#}");

    let page = history.path("page.html");
    let text = directories.run(&history.node, &["--html", page.to_str().unwrap()]);
    let oldest = made(0);
    let oldest = oldest.as_str().unwrap();
    let matches = format!("{} matches two.snap", names[3]);
    let restorable = format!("the oldest restorable point in time is {oldest}");
    text.assert_told(0, &["backups: matching\n", &matches, &restorable]);
    text.assert_told(0, &["versions that must not be trimmed", "1, 2"]);
    let page = fs::read_to_string(page).unwrap();
    for part in ["matching", "incompatible", oldest, &names[1]] {
        assert!(page.contains(part), "{part}: {page}");
    }

    // Files that are no part of a pair. Those with unknown needs keep every version.
    let velero = tar(&[
        ("metadata/version", b"1.1.0"),
        ("resources/secrets/namespaces/shop/db.json", b"{}"),
    ]);
    files::directory(&etcd.join("backups"), 0o755);
    files::directory(&etcd.join("backups/nightly"), 0o755);
    let velero_file = etcd.join("backups/nightly/nightly.tar.gz");
    files::replace(&velero_file, &gzip(&velero), 0o600);
    set_modified(&velero_file, 120);
    let changes = etcd.join(druid(30).replace("Full", "Incr"));
    files::replace(&changes, &gzip(b"events"), 0o600);
    let sealed = etcd.join(format!("{}.age", talos(90)));
    files::replace(&sealed, b"age-encryption.org/v1\n", 0o600);
    let report = directories.report(&history.node, &[]);
    assert_eq!(report["verdict"], "matching", "{report:#}");
    assert_eq!(report["needsAreKnown"], false);
    assert_eq!(report["leftOut"].as_array().unwrap().len(), 4);

    // A newer file that cannot be read is possibly the newest snapshot, or one that failed.
    let two = fs::read(history.path("two.db")).unwrap();
    for (name, content) in [
        (
            format!("{}.age", talos(20)),
            &b"age-encryption.org/v1\n"[..],
        ),
        (k3s(20), &two[..two.len() / 2]),
        (k3s(20), b""),
    ] {
        let newer = etcd.join(&name);
        files::replace(&newer, content, 0o600);
        let report = directories.report(&history.node, &[]);
        assert_eq!(report["cause"], "backups_newest_unknown", "{report:#}");
        assert_eq!(report["exitCode"], 5);
        let found = report["found"].as_str().unwrap();
        assert!(found.contains(&name), "{found}");
        // A drill takes the pair before it, or one with the damaged file.
        let drilled = history.drill(&directories).to_string();
        assert!(drilled.contains(&name), "{drilled}");
        fs::remove_file(newer).unwrap();
    }

    // Without the second OpenBao snapshot, nothing fits the newest etcd snapshot any more.
    fs::remove_file(openbao.join("two.snap")).unwrap();
    let report = directories.report(&history.node, &[]);
    assert_eq!(report["verdict"], "incompatible", "{report:#}");
    assert_eq!(report["cause"], "backups_incompatible");
    assert_eq!(report["exitCode"], 4);
    assert_eq!(report["newestRestorable"], made(1));
    // A record proves only the file with its hash.
    fs::copy(history.path("unstamped.snap"), openbao.join("one.snap")).unwrap();
    let report = directories.report(&history.node, &[]);
    assert_eq!(report["verdict"], "inconclusive", "{report:#}");
    assert_eq!(report["exitCode"], 5);
}

#[tokio::test]
async fn the_newest_pair_is_of_one_set_also_if_the_newest_files_are_not() {
    let history = History::new().await;
    let directories = history.directories("late");
    let (etcd, openbao) = (&directories.etcd, &directories.openbao);
    // The job that saves OpenBao has failed since set one.
    let older = k3s(181);
    history.copy("one.db", &etcd.join(&older));
    zip(
        &etcd.join(rke2(61)),
        "on-demand-cp-1",
        &fs::read(history.path("two.db")).unwrap(),
    );
    history.copy("one.snap", &openbao.join("one.snap"));

    let report = history.drill(&directories);
    assert_eq!(report["verdict"], "compatible", "{report:#}");
    let path = report["etcdSnapshot"]["path"].as_str().unwrap();
    assert!(path.ends_with(&older), "{path}");
    let has_later = |report: &Value| {
        let limitations = report["limitations"].to_string();
        limitations.contains("newer than the newest OpenBao snapshot")
    };
    assert!(has_later(&report), "{report:#}");
    let record = |directories: &Directories| {
        let out = directories.openbao.join("record.json");
        let out = out.to_str().unwrap();
        let command = ["record-backup", "--out", out, "--output", "json"];
        let done = history
            .node
            .run(&[&command[..], &directories.options()].concat());
        let report: Value = serde_json::from_str(&done.out).unwrap();
        (done.code, report)
    };
    let (code, recorded) = record(&directories);
    assert_eq!(code, Some(0), "{recorded:#}");
    assert!(has_later(&recorded), "{recorded:#}");
    let hash = |file: &str| sha256(history.path(file));
    assert_eq!(recorded["etcdSnapshot"]["sha256"], hash("one.db"));
    assert_eq!(recorded["openbaoSnapshot"]["sha256"], hash("one.snap"));

    // An OpenBao snapshot of the same second: its archive has whole seconds, a file has more.
    let same = history.directories("same");
    history.copy("one.db", &same.etcd.join(&older));
    stamp(
        &history.path("two.snap"),
        &same.openbao.join("same.snap"),
        minutes_ago(1),
    );
    history.copy("two.db", &same.etcd.join("same.db"));
    let archived = archived(&same, &history.node);
    let file = File::open(same.etcd.join("same.db")).unwrap();
    file.set_modified(archived + Duration::from_millis(500))
        .unwrap();
    let (code, recorded) = record(&same);
    assert_eq!(code, Some(0), "{recorded:#}");
    assert!(!has_later(&recorded), "{recorded:#}");
    assert_eq!(recorded["etcdSnapshot"]["sha256"], hash("two.db"));

    // With the snapshot of now, the newest files are a pair.
    history.copy("two.snap", &openbao.join("two.snap"));
    let report = history.drill(&directories);
    assert_eq!(report["verdict"], "compatible", "{report:#}");
    let path = report["etcdSnapshot"]["path"].as_str().unwrap();
    assert!(path.ends_with(".zip"), "{path}");
    assert!(!has_later(&report), "{report:#}");

    // Without any set, the newest of each are tried, and the drill names the loss.
    fs::remove_file(openbao.join("two.snap")).unwrap();
    fs::remove_file(etcd.join(&older)).unwrap();
    let report = history.drill(&directories);
    assert_eq!(report["verdict"], "incompatible", "{report:#}");
    assert_eq!(report["cause"], "openbao_rolled_back");
}

/// OpenBao is restored to a time before a trim: the record of a snapshot from after the trim lists
/// versions that are missing in it.
#[tokio::test]
async fn a_late_record_does_not_stand_for_versions_that_came_back_by_a_restore() {
    let history = History::new().await;
    let directories = history.directories("trimmed");
    let server = shared_openbao().await;
    let (admin, mount) = (server.admin(), &history.node.tenant.transit_mount);
    let limits = KeyConfig {
        min_decryption_version: Some(2),
        min_encryption_version: Some(2),
        ..KeyConfig::default()
    };
    admin.configure_key(mount, KEY, limits).await.unwrap();
    admin.trim_key(mount, KEY, 2).await.unwrap();
    let path = |name: &str| history.path(name);
    server.save_snapshot(&path("unstamped.snap")).await;
    stamp(&path("unstamped.snap"), &path("late.snap"), minutes_ago(90));
    restore(server, &history.node, &history.versions.second).await;
    let recorded = history.record("late", 0);
    assert!(recorded.out.contains("[warn] openbao.age"), "{recorded:?}");

    history.copy("one.db", &directories.etcd.join(k3s(95)));
    for name in ["late.snap", "late.json"] {
        history.copy(name, &directories.openbao.join(name));
    }
    let report = directories.report(&history.node, &[]);
    assert_eq!(report["verdict"], "inconclusive", "{report:#}");
    assert_eq!(report["pairs"][0]["openVersions"], json!([1]));
    let report = history.drill(&directories);
    assert_eq!(report["verdict"], "incompatible", "{report:#}");
}

/// The older etcd snapshot was copied later, without its time.
#[tokio::test]
async fn a_copy_with_a_later_time_is_not_taken_for_the_newest_etcd_snapshot() {
    let history = History::new().await;
    let directories = history.directories("copied");
    let (etcd, openbao) = (&directories.etcd, &directories.openbao);
    for (from, to, minutes) in [("two.db", "new.db", 20), ("one.db", "old.db", 10)] {
        history.copy(from, &etcd.join(to));
        set_modified(&etcd.join(to), minutes);
    }
    for name in ["one.snap", "one.json"] {
        history.copy(name, &openbao.join(name));
    }
    let report = directories.report(&history.node, &[]);
    assert_eq!(report["cause"], "backups_newest_unknown", "{report:#}");
    assert_eq!(report["verdict"], "inconclusive");
    let found = report["found"].as_str().unwrap();
    assert!(found.contains("new.db has revision 3"), "{found}");
    // Each of both matches this one.
    for name in ["two.snap", "two.json"] {
        history.copy(name, &openbao.join(name));
    }
    let report = directories.report(&history.node, &[]);
    assert_eq!(report["verdict"], "matching", "{report:#}");
    // With the right times the newest one is known.
    set_modified(&etcd.join("new.db"), 5);
    fs::remove_file(openbao.join("two.snap")).unwrap();
    let report = directories.report(&history.node, &[]);
    assert_eq!(report["verdict"], "incompatible", "{report:#}");
}

/// Time in the archive of the only OpenBao snapshot.
fn archived(directories: &Directories, node: &Node) -> SystemTime {
    let report = directories.report(node, &[]);
    let made = report["openbaoSnapshots"][0]["madeAt"].as_str().unwrap();
    let made: Timestamp = made.parse().unwrap();
    let second = made.as_second().try_into().unwrap();
    SystemTime::UNIX_EPOCH + Duration::from_secs(second)
}

fn set_modified(path: &Path, minutes: i64) {
    let second = minutes_ago(minutes).as_second().try_into().unwrap();
    let written = SystemTime::UNIX_EPOCH + Duration::from_secs(second);
    File::open(path).unwrap().set_modified(written).unwrap();
}
