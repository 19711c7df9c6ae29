//! The commands on one large snapshot file: time per object and peak memory.

use std::{
    cell::Cell,
    fs::{self, File},
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    process::Command,
    str::FromStr,
};

use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use testkit::{etcd, files, openbao};

use crate::{
    Progress,
    backups::{Content, filled, peak, scan_etcd, succeed, timed, verify_backup},
    load::{count, median},
    provider_process::Provider,
    report::{Report, Row, Target::AtMost},
    stage::Stage,
};

/// Limit of the peak memory of a command, in MiB.
const MEMORY: f64 = 64.0;
/// End of the names of the rows about memory.
const MEMORY_ROW: &str = ".memory";

/// Number of DEK seeds.
const SEEDS: usize = 50;

/// Number of objects, and size of the plaintext of each in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    objects: usize,
    bytes: usize,
}

impl FromStr for Size {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let sides = text.split_once('x');
        let numbers = sides.and_then(|(objects, bytes)| {
            let (objects, bytes) = (objects.parse().ok()?, bytes.parse().ok()?);
            (objects > 0 && bytes > 3).then_some(Self { objects, bytes })
        });
        numbers.ok_or("Must be two numbers with an x between them")
    }
}

/// Reads a snapshot of new objects. The database of the stopped etcd with its hash at the end is what
/// `etcdctl snapshot save` writes, and takes the disk space once.
pub(crate) async fn read_new(
    stage: &Stage,
    provider: &Provider,
    size: Size,
    progress: &Progress,
    report: &mut Report,
) {
    progress.say("filling etcd");
    let content = Content::sized(size.objects, SEEDS, size.bytes);
    let etcd = filled(stage, provider.client(), &content)
        .await
        .stop()
        .await;
    let database = etcd.database();
    append_hash(&database);
    read(stage, &database, size.objects, 1, progress, report).await;
}

fn append_hash(database: &Path) {
    let mut file = File::options()
        .read(true)
        .append(true)
        .open(database)
        .unwrap();
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer).unwrap() {
            0 => break,
            read => hash.update(&buffer[..read]),
        }
    }
    file.write_all(&hash.finalize()).unwrap();
}

/// A line for each command beyond the limit of its memory.
pub(crate) fn exceeded(report: &Report) -> Vec<String> {
    let rows = report.rows().iter();
    let beyond =
        rows.filter(|row| row.name_and_unit().0.ends_with(MEMORY_ROW) && row.value() > MEMORY);
    let line = |row: &Row| {
        format!(
            "{}: {:.1} MiB, limit {MEMORY}",
            row.name_and_unit().0,
            row.value()
        )
    };
    beyond.map(line).collect()
}

/// A snapshot of etcd, and the other files of a backup set.
struct Set<'s> {
    stage: &'s Stage,
    etcd: &'s Path,
    directory: TempDir,
    /// Hash of the registry state.
    state: String,
    /// Number of records written so far.
    records: Cell<usize>,
}

/// Reads a snapshot of so many objects in turns with `etcdutl snapshot status` and each command.
pub(crate) async fn read(
    stage: &Stage,
    etcd: &Path,
    objects: usize,
    rounds: usize,
    progress: &Progress,
    report: &mut Report,
) {
    let set = Set::of(stage, etcd).await;
    let commands: [(&str, &dyn Fn() -> Command); 5] = [
        ("scan_etcd", &|| set.scan()),
        ("verify_backup", &|| set.verify()),
        ("record_backup", &|| set.record()),
        ("recover_state", &|| set.recover()),
        ("drill", &|| set.drill()),
    ];

    let mut statuses = Vec::new();
    let mut times: [Vec<f64>; 5] = Default::default();
    // The first round is a warm-up.
    for round in 0..=rounds {
        progress.say(&format!("snapshot of {objects} objects, round {round}"));
        let status = timed(|| drop(etcd::utl(&["snapshot", "status", set.etcd()])));
        if round > 0 {
            statuses.push(status);
        }
        for ((_, command), times) in commands.iter().zip(&mut times) {
            let time = timed(|| succeed(&mut command()));
            if round > 0 {
                times.push(time);
            }
            // Allows cancellation between commands.
            tokio::task::yield_now().await;
        }
    }

    let [scans, verifies, ..] = &times;
    let megabytes = bytes(etcd) / 1e6;
    report.push(Row::new(format!("file.{objects}.size"), megabytes, "MB"));
    for ((name, command), times) in commands.iter().zip(&times) {
        let row = |beside: &[f64]| {
            let each = |milliseconds: f64| milliseconds * 1e3 / count(objects);
            let ratios = times.iter().zip(beside).map(|(time, beside)| time / beside);
            let time = each(median(times.iter().copied()));
            let beside = each(median(beside.iter().copied()));
            let row = Row::new(format!("file.{objects}.{name}"), time, "us each");
            row.beside(beside, median(ratios))
        };
        report.push(match *name {
            "scan_etcd" => row(&statuses).target(AtMost(0.5)),
            "verify_backup" => row(scans).target(AtMost(2.0)),
            _ => row(verifies),
        });
        let peak = Row::new(
            format!("file.{objects}.{name}{MEMORY_ROW}"),
            peak(&mut command()),
            "MiB",
        );
        report.push(peak.target(AtMost(MEMORY)));
    }
}

fn bytes(path: &Path) -> f64 {
    // A file of gigabytes has more than 32 bits.
    let kibibytes = fs::metadata(path).unwrap().len() / 1024;
    f64::from(u32::try_from(kibibytes).unwrap()) * 1024.0
}

impl<'s> Set<'s> {
    async fn of(stage: &'s Stage, etcd: &'s Path) -> Self {
        let directory = TempDir::new().unwrap();
        stage
            .server
            .save_snapshot(&directory.path().join("openbao.snap"))
            .await;
        stage
            .server
            .write_unseal_key(&directory.path().join("share"));
        files::directory(&directory.path().join("work"), 0o700);
        let inspected = stage.command("inspect-state").arg("--output=json").output();
        let inspected: Value = serde_json::from_slice(&inspected.unwrap().stdout).unwrap();
        Self {
            stage,
            etcd,
            directory,
            state: inspected["stateHash"].as_str().unwrap().to_owned(),
            records: Cell::new(0),
        }
    }

    fn etcd(&self) -> &str {
        self.etcd.to_str().unwrap()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn scan(&self) -> Command {
        scan_etcd(self.stage, self.etcd())
    }

    fn verify(&self) -> Command {
        verify_backup(self.stage, self.etcd())
    }

    fn of_etcd(&self, name: &str) -> Command {
        let mut command = self.stage.command(name);
        command.args(["--output=json", "--etcd-snapshot", self.etcd()]);
        command
    }

    /// A record is never overwritten, so each run writes another one.
    fn record(&self) -> Command {
        let number = self.records.replace(self.records.get() + 1);
        let mut command = self.of_etcd("record-backup");
        command
            .arg("--openbao-snapshot")
            .arg(self.file("openbao.snap"));
        command
            .arg("--out")
            .arg(self.file(&format!("record-{number}.json")));
        command
    }

    /// The plan for the replacement of the valid state. It changes nothing.
    fn recover(&self) -> Command {
        let mut command = self.of_etcd("recover-state");
        command.args(["--replace", "--expected-state-hash", &self.state]);
        command
    }

    fn drill(&self) -> Command {
        let mut command = self.of_etcd("drill");
        for (option, name) in [
            ("--openbao-snapshot", "openbao.snap"),
            ("--unseal-key-file", "share"),
            ("--work-dir", "work"),
        ] {
            command.arg(option).arg(self.file(name));
        }
        command.arg("--bao").arg(openbao::binary().path());
        command
    }
}
