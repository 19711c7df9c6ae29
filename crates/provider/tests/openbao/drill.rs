//! `drill` on real backups of both stores: what it proves, what it refuses, and that nothing of it is
//! left and nothing in service noticed it.

use std::{
    collections::BTreeMap,
    fs,
    io::{ErrorKind, Write as _},
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use rustix::process::{Signal, geteuid};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use testkit::{
    etcd::Etcd,
    files,
    openbao::{OpenBao, binary, shared_openbao},
    schema::assert_published,
    stored::SourceType,
    tenant::KEY,
    wait::wait_until,
};

use crate::{
    attest::{Signing, sha256},
    corpus::{OBJECT, sealer},
    node::{Finished, Node, TIMING},
    provider::{Provider, SOON},
    secrets::{files_below, holds_token, spellings},
};

/// A backup set, and where its drills work.
pub(crate) struct Backups {
    pub(crate) node: Node,
    directory: TempDir,
    /// What was encrypted, and the unseal key; must be nowhere.
    secrets: Vec<Vec<u8>>,
}

impl Backups {
    /// Two objects under version 1 of the key, one under version 2; of OpenBao also a snapshot from
    /// before the rotation.
    pub(crate) async fn of(server: &OpenBao) -> Self {
        let node = Node::on(server, TIMING).await;
        let provider = node.serve().await;
        let etcd = Etcd::start().await;
        let directory = TempDir::new().unwrap();
        let path = |name: &str| directory.path().join(name);
        let mut secrets = vec![OBJECT.to_vec()];
        for (name, version) in [("one", 1), ("two", 1), ("three", 2)] {
            if version == 2 {
                server.save_snapshot(&path("older.snap")).await;
                let mount = &node.tenant.transit_mount;
                server.admin().rotate_key(mount, KEY).await.unwrap();
                provider.encrypt_under(2).await;
            }
            let sealer = sealer(&node, &provider, SourceType::HkdfSeed).await;
            let key = format!("/registry/secrets/default/{name}");
            etcd.put(&key, &sealer.value(&key, OBJECT));
            secrets.push(sealer.source.to_vec());
        }
        etcd.save_snapshot(&path("etcd.db"));
        server.save_snapshot(&path("openbao.snap")).await;
        server.write_unseal_key(&path("share"));
        let backups = Self {
            node,
            secrets,
            directory,
        };
        let share = fs::read(backups.path("share")).unwrap();
        Self {
            secrets: [backups.secrets.clone(), vec![share]].concat(),
            ..backups
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A drill with these files of the set and a directory of its own.
    fn start(&self, set: [&str; 3], more: &[&str]) -> Drill<'_> {
        self.start_in(self.work(), set, more)
    }

    /// An empty directory for one drill.
    pub(crate) fn work(&self) -> PathBuf {
        static NUMBER: AtomicU64 = AtomicU64::new(1);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let work = self.path(&format!("work-{number}"));
        files::directory(&work, 0o700);
        work
    }

    fn start_in(&self, work: PathBuf, set: [&str; 3], more: &[&str]) -> Drill<'_> {
        let command = self.command(&work, set, more);
        Drill {
            backups: self,
            running: Provider::spawn(command, self.directory.path(), PathBuf::new()),
            work,
        }
    }

    fn command(&self, work: &Path, [etcd, openbao, share]: [&str; 3], more: &[&str]) -> Command {
        let mut command = self.node.program(&["drill", "--output", "json"]);
        // A relative path, as in the directory of the backups.
        command.current_dir(self.directory.path());
        for (option, path) in [
            ("--etcd-snapshot", PathBuf::from(etcd)),
            ("--openbao-snapshot", self.path(openbao)),
            ("--unseal-key-file", self.path(share)),
            ("--metrics-file", self.path("drill.prom")),
            ("--work-dir", work.to_owned()),
        ] {
            command.arg(option).arg(path);
        }
        if !more.contains(&"--bao") {
            command.arg("--bao").arg(binary().path());
        }
        command.args(more);
        command
    }

    /// A drill to its end: the report, which must have this exit code and verdict.
    pub(crate) async fn drill(
        &self,
        set: [&str; 3],
        more: &[&str],
        code: i32,
        verdict: &str,
    ) -> Value {
        self.start(set, more).ended(code, verdict).await
    }

    /// A copy of a file of the set with one byte in its middle changed.
    fn damage(&self, name: &str) {
        let mut bytes = fs::read(self.path(name)).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        files::replace(&self.path(&format!("damaged-{name}")), &bytes, 0o600);
    }

    fn metrics(&self) -> BTreeMap<String, String> {
        let text = fs::read_to_string(self.path("drill.prom")).unwrap();
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        let samples = samples.map(|line| {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let name = series.strip_prefix("openbao_kms_drill_").unwrap();
            let (name, labels) = name.split_once('{').unwrap();
            let verdict = labels.split_once("verdict=").map_or("", |(_, it)| it);
            let verdict = verdict.trim_matches(['"', '}']);
            (format!("{name}{verdict}"), value.to_owned())
        });
        samples.collect()
    }

    /// No secret is in what was said or written.
    #[track_caller]
    fn assert_secret(&self, said: &[&str]) {
        let mut written: Vec<String> = said.iter().map(|&text| text.to_owned()).collect();
        for name in ["drill.prom", "reports", "page.html"] {
            let path = self.path(name);
            if path.is_dir() {
                files_below(&path, &mut written);
            } else if path.exists() {
                written.push(fs::read_to_string(path).unwrap());
            }
        }
        for spelling in self.secrets.iter().flat_map(|secret| spellings(secret)) {
            let found = written.iter().find(|text| text.contains(&spelling));
            assert_eq!(found, None, "a secret is in the output or in a file");
        }
        assert!(written.iter().all(|text| !holds_token(text)));
    }
}

/// A drill under way.
struct Drill<'a> {
    backups: &'a Backups,
    running: Provider,
    work: PathBuf,
}

impl Drill<'_> {
    /// Waits for its end, after which nothing of it may be left.
    async fn ended(self, code: i32, verdict: &str) -> Value {
        let Finished {
            code: ended,
            out,
            err,
        } = self.running.ended().await;
        assert_eq!(ended, Some(code), "{out}{err}");
        assert_eq!(left(&self.work), Vec::<String>::new());
        self.backups.assert_secret(&[&out, &err]);
        let report: Value = serde_json::from_str(&out).unwrap();
        assert_published(&report);
        assert_eq!(report["verdict"], verdict, "{report:#}");
        let metrics = self.backups.metrics();
        assert_eq!(metrics[&format!("last_verdict{verdict}")], "1");
        report
    }

    /// Waits until a file of the private OpenBao holds the text.
    async fn reaches(&self, file: &str, text: &str) {
        wait_until(SOON, file, async || {
            let directories = fs::read_dir(&self.work).unwrap();
            let mut files = directories.map(|it| it.unwrap().path().join("openbao").join(file));
            files.any(|file| {
                fs::read(file).is_ok_and(|it| String::from_utf8_lossy(&it).contains(text))
            })
        })
        .await;
    }
}

/// Until the end of its time, other commands use the copy as printed.
#[tokio::test]
async fn a_kept_copy_serves_other_commands_until_its_end() {
    let backups = Backups::of(shared_openbao().await).await;
    let set = ["etcd.db", "openbao.snap", "share"];
    for (keep, is_stopped) in [("10m", true), ("20s", false)] {
        let drill = backups.start(set, &["--keep", keep]);
        let mut way = String::new();
        wait_until(SOON, "the kept copy", async || {
            way = drill.running.log();
            way.contains("is kept until")
        })
        .await;
        assert!(
            way.contains("drill: compatible: OpenBao came back"),
            "{way}"
        );
        let option = |name: &str| {
            let mut words = way.split_whitespace().skip_while(|word| *word != name);
            words.nth(1).unwrap().to_owned()
        };
        let mode = fs::metadata(option("--token-file")).unwrap().permissions();
        assert_eq!(mode.mode() & 0o777, 0o600);
        let mut command = vec!["verify-backup".to_owned(), "--depth=data".to_owned()];
        for name in [
            "--etcd-snapshot",
            "--openbao-address",
            "--openbao-cacert",
            "--token-file",
        ] {
            command.extend([name.to_owned(), option(name)]);
        }
        let command: Vec<&str> = command.iter().map(String::as_str).collect();
        let verified = backups.node.run(&command);
        assert_eq!(verified.code, Some(0), "{}{}", verified.out, verified.err);
        if is_stopped {
            drill.running.signal(Signal::INT);
        }
        drill.ended(0, "compatible").await;
    }
}

/// Files in the directory, and processes that name it.
fn left(work: &Path) -> Vec<String> {
    let files = fs::read_dir(work).unwrap();
    let files = files.map(|it| it.unwrap().path().display().to_string());
    files.chain(processes(work)).collect()
}

/// The command lines of processes that name the directory.
fn processes(directory: &Path) -> Vec<String> {
    let directory = directory.to_str().unwrap();
    let found = fs::read_dir("/proc").unwrap();
    let lines = found.filter_map(|entry| fs::read(entry.unwrap().path().join("cmdline")).ok());
    let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    lines.filter(|line| line.contains(directory)).collect()
}

fn check(report: &Value, id: &str) -> Value {
    let checks = report["checks"].as_array().unwrap().iter();
    let mut checks = checks.filter(|check| check["id"] == id);
    let check = checks.next().unwrap_or_else(|| panic!("{report:#}"));
    check.clone()
}

pub(crate) const SET: [&str; 3] = ["etcd.db", "openbao.snap", "share"];

#[tokio::test]
async fn backups_that_belong_together_are_proven_and_nothing_in_service_notices() {
    let server = OpenBao::start().await;
    let backups = Backups::of(&server).await;
    let path = |name: &str| backups.path(name).display().to_string();
    let recorded = backups.node.run(&[
        "record-backup",
        "--out",
        &path("record.json"),
        "--etcd-snapshot",
        &path("etcd.db"),
        "--openbao-snapshot",
        &path("openbao.snap"),
    ]);
    assert_eq!(recorded.code, Some(0), "{}", recorded.err);
    let address = server.endpoint().address.to_string();
    let audit_log = server.audit_log();
    let _stopped = server.stop().await;
    let live = TcpListener::bind(address.trim_start_matches("https://")).unwrap();
    live.set_nonblocking(true).unwrap();
    let audited = || {
        let facts = fs::metadata(&audit_log).unwrap();
        (facts.len(), facts.modified().unwrap())
    };
    let before = audited();

    files::directory(&backups.path("reports"), 0o755);
    let (record, reports) = (path("record.json"), path("reports"));
    let page = path("page.html");
    let more = ["--record", &record, "--report", &reports, "--html", &page];
    let report = backups.drill(SET, &more, 0, "compatible").await;
    assert_eq!(
        report["proven"],
        json!({"objects": 3, "deks": 3, "transitVersions": [1, 2]})
    );
    for id in ["drill.isolation", "drill.removed", "openbao.record"] {
        assert_eq!(check(&report, id)["status"], "pass", "{report:#}");
    }
    let silenced = check(&report, "openbao.shares")["message"].clone();
    assert_eq!(silenced, "its 1 audit devices were removed from the copy");
    assert_eq!(report["verification"]["verdict"], "compatible");
    let hash = Sha256::digest(fs::read(backups.path("openbao.snap")).unwrap());
    let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(report["openbaoSnapshot"]["sha256"], hash);
    assert_eq!(live.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    assert_eq!(audited(), before);

    let page = fs::read_to_string(page).unwrap();
    for shown in [
        "<h1>drill: compatible</h1>",
        "<td><span class=\"good\">2 readable</span></td><td><span class=\"good\">1 readable</span></td>",
        "etcd snapshot made",
        "openbao snapshot made",
        "backup recorded",
    ] {
        assert!(page.contains(shown), "{shown} in {page}");
    }

    let written = fs::read_dir(&reports).unwrap().next().unwrap().unwrap();
    let mode = written.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o640);
    let kept: Value = serde_json::from_slice(&fs::read(written.path()).unwrap()).unwrap();
    assert_eq!(kept, report);
    let proven = backups.metrics();
    assert_eq!(proven["proven_objects"], "3");
    assert_eq!(proven["proven_versions"], "2");
    let success = &proven["last_success_timestamp_seconds"];
    assert_eq!(success, &proven["last_run_timestamp_seconds"]);

    let before = ["etcd.db", "older.snap", "share"];
    let report = backups
        .drill(before, &["--record", &record], 4, "incompatible")
        .await;
    assert_eq!(check(&report, "openbao.record")["status"], "warn");
    let rows = report["verification"]["keyIds"].as_array().unwrap();
    assert_eq!(rows[1]["status"], "newer_than_latest");
    assert_eq!(rows[1]["lostObjects"], 1);
    let summary = report["headline"].as_str().unwrap();
    assert!(summary.contains("1 of 3 objects"), "{summary}");
    assert_eq!(report["cause"], "openbao_rolled_back");
    let after = backups.metrics();
    assert_eq!(&after["last_success_timestamp_seconds"], success);
    assert_eq!(after["proven_objects"], "3");
    assert_eq!(after["last_verdictcompatible"], "0");
}

#[tokio::test]
async fn what_does_not_come_back_is_told_from_what_could_not_be_tried() {
    let server = shared_openbao().await;
    let backups = Backups::of(server).await;
    for name in ["etcd.db", "openbao.snap"] {
        backups.damage(name);
    }
    files::replace(
        &backups.path("other"),
        STANDARD.encode([7; 32]).as_bytes(),
        0o600,
    );
    files::replace(&backups.path("open"), b"c2hhcmU=", 0o644);
    files::replace(&backups.path("empty"), b"\n", 0o600);
    let short = STANDARD.encode([7; 20]);
    files::replace(&backups.path("short"), short.as_bytes(), 0o600);
    files::replace(
        &backups.path("unpadded"),
        b"c2hhcmUgdGhhdCBpcyBsb25n\nbm93",
        0o600,
    );
    files::replace(&backups.path("page.snap"), b"<html>502</html>", 0o600);
    files::replace(&backups.path("etcd.xz"), b"\xfd7zXZ\0\0\x04", 0o600);

    let tried = |set, code, verdict| backups.drill(set, &[], code, verdict);
    let (share, openbao, etcd) = tokio::join!(
        tried(["etcd.db", "openbao.snap", "other"], 5, "inconclusive"),
        tried(
            ["etcd.db", "damaged-openbao.snap", "share"],
            4,
            "not-restorable"
        ),
        tried(
            ["damaged-etcd.db", "openbao.snap", "share"],
            4,
            "incompatible"
        ),
    );
    assert_eq!(check(&share, "openbao.restore")["status"], "pass");
    assert_eq!(share["cause"], "unseal_shares_wrong");
    assert_eq!(share["data"]["impact"], "unknown", "{share:#}");
    let said = check(&share, "openbao.shares")["message"].clone();
    assert!(
        said.as_str()
            .unwrap()
            .contains("do not match this snapshot"),
        "{said}"
    );
    // Its hashes tell before anything is started.
    let said = check(&openbao, "drill.inputs")["message"].clone();
    assert!(said.as_str().unwrap().contains("is damaged"), "{said}");
    assert_eq!(check(&openbao, "openbao.restore")["status"], "skip");
    assert_eq!(check(&etcd, "openbao.start")["status"], "pass");
    assert_eq!(check(&etcd, "pair.verified")["status"], "fail");

    for (set, more, said) in [
        (["none", "openbao.snap", "share"], &[][..], "none"),
        (["etcd.db", "none", "share"], &[], "none"),
        (["etcd.db", "openbao.snap", "none"], &[], "does not exist"),
        (["etcd.db", "openbao.snap", "open"], &[], "has mode 0644"),
        (["etcd.db", "openbao.snap", "empty"], &[], "one share"),
        (["etcd.db", "openbao.snap", "short"], &[], "one share"),
        (["etcd.db", "openbao.snap", "unpadded"], &[], "one share"),
        (
            ["etcd.db", "page.snap", "share"],
            &[],
            "an HTML or XML page",
        ),
        (
            ["etcd.db", "etcd.db", "share"],
            &[],
            "such as an etcd snapshot",
        ),
        (["etcd.xz", "openbao.snap", "share"], &[], "an xz archive"),
        (SET, &["--bao", "/nonexistent/bao"], "/nonexistent/bao"),
    ] {
        let report = backups.drill(set, more, 5, "inconclusive").await;
        let inputs = check(&report, "drill.inputs");
        let message = inputs["message"].as_str().unwrap();
        assert!(message.contains(said), "{message}");
        assert_eq!(check(&report, "openbao.restore")["status"], "skip");
    }
    assert!(
        !backups
            .metrics()
            .contains_key("last_success_timestamp_seconds")
    );
}

/// OpenBao installs a snapshot after its response, and seals itself also when that fails.
#[tokio::test]
async fn a_full_disk_is_no_evidence_against_a_backup() {
    let server = OpenBao::start().await;
    // The response, then the installation after it, and on small disks also the log of OpenBao.
    full_disks(&server, &["190k", "220k", "250k"]).await;
    let filler = STANDARD.encode(vec![7; 192 * 1024]);
    for number in 0..40 {
        let path = format!("cubbyhole/{number}");
        let body = json!({"data": filler});
        server.admin().write(&path, &body).await.unwrap();
    }
    full_disks(&server, &["18m", "24m"]).await;
}

/// Drills of one set, each with a disk of this size.
async fn full_disks(server: &OpenBao, sizes: &[&str]) {
    let backups = Backups::of(server).await;
    for size in sizes {
        let work = backups.work();
        let drill = backups.command(&work, SET, &[]);
        let mut unshare = Command::new("unshare");
        unshare.arg("--mount").env_clear();
        unshare.current_dir(backups.path("."));
        let script = "mount -t tmpfs -o size=$0,mode=0700 none \"$1\" && shift && exec \"$@\"";
        if geteuid().is_root() {
            unshare.args(["sh", "-c", script, size]).arg(&work);
        } else {
            // Root for the mount alone.
            unshare.args(["--user", "--map-root-user", "sh", "-c", script, size]);
            let user = geteuid().as_raw().to_string();
            unshare
                .arg(&work)
                .args(["unshare", "--user", "--map-user", &user]);
        }
        unshare.arg(drill.get_program()).args(drill.get_args());
        let environment = drill.get_envs();
        unshare.envs(environment.filter_map(|(name, value)| Some((name, value?))));
        let finished: Finished = unshare.output().unwrap().into();
        assert_eq!(finished.code, Some(5), "{size}: {finished:?}");
        let report: Value = serde_json::from_str(&finished.out).unwrap();
        assert_eq!(report["verdict"], "inconclusive", "{size}: {report:#}");
        let cause = &report["cause"];
        assert_eq!(cause, "drill_directory_unusable", "{size}: {report:#}");
    }
}

/// OpenBao accepts it by its hashes, and fails on the data.
#[tokio::test]
async fn a_snapshot_that_openbao_fails_to_install_is_no_matter_of_the_shares() {
    let server = shared_openbao().await;
    let backups = Backups::of(server).await;
    let script = "mkdir parts && tar -xzf openbao.snap -C parts && cd parts && \
                  truncate -s $(($(stat -c %s state.bin) / 2)) state.bin && \
                  sha256sum meta.json state.bin > SHA256SUMS && \
                  tar -czf ../cut.snap meta.json state.bin SHA256SUMS SHA256SUMS.sealed";
    let mut shell = Command::new("sh");
    let cut = shell.args(["-c", script]).current_dir(backups.path("."));
    assert!(cut.status().unwrap().success());
    let set = ["etcd.db", "cut.snap", "share"];
    let report = backups.drill(set, &[], 5, "inconclusive").await;
    assert_eq!(report["cause"], "openbao_snapshot_damaged", "{report:#}");
    let found = report["found"].as_str().unwrap();
    assert!(found.contains("error while restoring"), "{found}");
}

#[tokio::test]
async fn backups_that_are_too_old_are_proven_and_reported() {
    let server = shared_openbao().await;
    let backups = Backups::of(server).await;
    let path = |name: &str| backups.path(name).display().to_string();
    let recorded = backups.node.run(&[
        "record-backup",
        "--out",
        &path("record.json"),
        "--etcd-snapshot",
        &path("etcd.db"),
    ]);
    assert_eq!(recorded.code, Some(0), "{}", recorded.err);
    let three_days = Duration::from_secs(3 * 86_400);
    for name in ["etcd.db", "openbao.snap"] {
        let file = fs::File::open(backups.path(name)).unwrap();
        let made = file.metadata().unwrap().modified().unwrap();
        file.set_modified(made - three_days).unwrap();
    }

    let old = backups
        .drill(SET, &["--max-age", "26h"], 4, "outdated")
        .await;
    assert_eq!(old["etcdSnapshot"]["ageSource"], "modification-time");
    let age = old["etcdSnapshot"]["ageSeconds"].as_u64().unwrap();
    assert!(age >= three_days.as_secs(), "{age}");
    // The archive itself tells when OpenBao wrote it.
    assert_eq!(old["openbaoSnapshot"]["ageSource"], "archive");
    let check_of_age = check(&old, "drill.age");
    assert_eq!(check_of_age["status"], "fail");
    let message = check_of_age["message"].as_str().unwrap();
    assert!(message.contains("etcd snapshot 72h"), "{message}");
    assert!(!message.contains("OpenBao"), "{message}");
    assert_eq!(old["verification"]["verdict"], "compatible");
    let metrics = backups.metrics();
    assert!(metrics.contains_key("backup_timestamp_seconds"));
    assert!(!metrics.contains_key("last_success_timestamp_seconds"));

    let record = path("record.json");
    let more = ["--max-age", "26h", "--record", &record];
    let young = backups.drill(SET, &more, 0, "compatible").await;
    assert_eq!(young["etcdSnapshot"]["ageSource"], "record");
    assert_eq!(check(&young, "drill.age")["status"], "pass");
    let unasked = backups.drill(SET, &[], 0, "compatible").await;

    // Copied today, as k3s named it three days ago.
    let then = Timestamp::now().as_second() - 3 * 86_400;
    let named = format!("etcd-snapshot-n1-{then}");
    fs::copy(backups.path("etcd.db"), backups.path(&named)).unwrap();
    let set = [&*named, "openbao.snap", "share"];
    let more = ["--max-age", "26h"];
    let copied = backups.drill(set, &more, 4, "outdated").await;
    assert_eq!(copied["etcdSnapshot"]["ageSource"], "name");
    assert_eq!(check(&unasked, "drill.age")["status"], "skip");

    let file = fs::File::open(backups.path("etcd.db")).unwrap();
    let made = file.metadata().unwrap().modified().unwrap();
    file.set_modified(made + 5 * three_days).unwrap();
    let future = backups
        .drill(SET, &["--max-age", "26h"], 4, "outdated")
        .await;
    assert_eq!(future["etcdSnapshot"]["ageSeconds"], Value::Null);
    let message = check(&future, "drill.age")["message"].to_string();
    assert!(message.contains("has the future time"), "{message}");
}

#[tokio::test]
async fn a_drill_without_snapshots_cannot_be_stated_and_stays_inconclusive() {
    let server = shared_openbao().await;
    let backups = Backups::of(server).await;
    let signing = Signing::p256();
    let options = signing.options("statement");
    let options: Vec<_> = options.iter().map(String::as_str).collect();
    let drill = backups.start(["none.db", "none.snap", "share"], &options);
    let ended = drill.running.ended().await;
    assert_eq!(ended.code, Some(5), "{ended:?}");
    assert!(ended.err.contains("no file was read"), "{ended:?}");
    let report: Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!(report["verdict"], "inconclusive");

    for option in ["--report", "--attest"] {
        let more = [option, "/none/file", "--sign-key", options[3]];
        let more = if option == "--attest" {
            &more[..]
        } else {
            &more[..2]
        };
        let refused = backups.start(SET, more).running.ended().await;
        refused.assert_refused(1, &["/none", "No such file"]);
        // The failure alone is a document.
        let report: Value = serde_json::from_str(&refused.out).unwrap();
        assert_eq!(report["cause"], "output_not_written", "no work was done");
    }
}

#[tokio::test]
async fn a_snapshot_that_is_overwritten_during_a_drill_is_not_proven() {
    let server = shared_openbao().await;
    let backups = Backups::of(server).await;
    let signing = Signing::p256();
    let options = signing.options("statement");
    let options: Vec<_> = options.iter().map(String::as_str).collect();
    let etcd = fs::read(backups.path("etcd.db")).unwrap();
    let hash = sha256(backups.path("etcd.db"));

    // As `cp` of another backup over it: the drill has its hash, and reads it only after the restore.
    let drill = backups.start(SET, &options);
    drill.reaches("server.hcl", "").await;
    let mut file = fs::File::options()
        .write(true)
        .truncate(true)
        .open(backups.path("etcd.db"))
        .unwrap();
    file.write_all(&etcd).unwrap();
    let report = drill.ended(5, "inconclusive").await;
    assert_eq!(report["cause"], "snapshot_unreadable", "{report:#}");
    let found = report["found"].as_str().unwrap();
    assert!(found.contains("written to while it was read"), "{found}");
    let statement = signing.statement("statement");
    assert_eq!(statement["predicate"]["verdict"], "inconclusive");
    assert_eq!(statement["subject"][0]["digest"]["sha256"], hash);

    // A backup job that replaces the name leaves the open file as it is.
    let drill = backups.start(SET, &[]);
    drill.reaches("server.hcl", "").await;
    files::replace(&backups.path("etcd.db"), &etcd, 0o600);
    drill.ended(0, "compatible").await;
}

#[tokio::test]
async fn nothing_is_left_of_a_drill_that_is_killed_or_interrupted_at_any_moment() {
    let server = shared_openbao().await;
    let backups = Backups::of(server).await;
    let killed = async |file: &'static str, text: &'static str| {
        let drill = backups.start(SET, &[]);
        drill.reaches(file, text).await;
        drill.running.signal(Signal::KILL);
        let Finished { code, out, err } = drill.running.ended().await;
        assert_eq!((code, &*out, &*err), (None, "", ""), "at {text}");
        wait_until(SOON, "the removal", async || left(&drill.work).is_empty()).await;
    };
    tokio::join!(
        killed("server.hcl", ""),
        killed("server.log", "OpenBao server started"),
        killed("snapshot.log", ""),
    );
    tokio::join!(
        killed("server.log", "Recovery Mode: true"),
        killed("server.log", "root generation finished"),
    );
    for (signal, word) in [(Signal::INT, "interrupted"), (Signal::TERM, "terminated")] {
        let drill = backups.start(SET, &[]);
        drill.reaches("server.log", "OpenBao server started").await;
        drill.running.signal(signal);
        let report = drill.ended(5, "inconclusive").await;
        let found = report["found"].as_str().unwrap();
        assert!(found.contains(word), "{found}");
    }

    // What a machine that lost power leaves, and what another drill still uses.
    let work = backups.work();
    let dead = work.join("bao-kms-drill-dead");
    files::directory(&dead, 0o700);
    files::replace(&dead.join("openbao.snap"), b"left", 0o600);
    let drill = backups.start_in(work, SET, &[]);
    let report = drill.ended(0, "compatible").await;
    let leftovers = check(&report, "drill.leftovers");
    assert_eq!(leftovers["status"], "warn");
    let message = leftovers["message"].as_str().unwrap();
    assert!(message.contains("bao-kms-drill-dead"), "{message}");
}
