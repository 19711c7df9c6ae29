//! Commands for etcd snapshots, compared with etcd's own program.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;
use testkit::{
    etcd::{self, Etcd},
    stored::{Sealer, SourceType},
};

use crate::{
    Progress, bulk,
    figures::{PLAINTEXT, encrypted},
    load::median,
    provider_process::{KmsClient, Provider},
    report::{Report, Row, Target::AtMost},
    stage::Stage,
};

/// Size of the snapshots, and number of rounds.
pub(crate) struct Extent {
    objects: usize,
    seeds: usize,
    rounds: usize,
    /// Number of keys in the snapshots of the memory measurement.
    keys: usize,
}

impl Extent {
    /// Same number of objects as in a full run: with fewer, the start of a process would dominate.
    pub(crate) const QUICK: Self = Self {
        objects: 100_000,
        seeds: 50,
        rounds: 5,
        keys: 5_000,
    };
    pub(crate) const FULL: Self = Self {
        objects: 100_000,
        seeds: 50,
        rounds: 11,
        keys: 50_000,
    };
}

/// Content of an etcd.
pub(crate) struct Content {
    keys: usize,
    seeds: usize,
    /// Number per key.
    revisions: usize,
    /// Size of an object's plaintext.
    bytes: usize,
}

impl Content {
    /// Short objects, so that the number of objects dominates rather than their size.
    pub(crate) fn short(keys: usize, seeds: usize) -> Self {
        Self {
            keys,
            seeds,
            revisions: 1,
            bytes: 31,
        }
    }

    /// Objects of this size.
    pub(crate) fn sized(keys: usize, seeds: usize, bytes: usize) -> Self {
        Self {
            bytes,
            ..Self::short(keys, seeds)
        }
    }
}

/// Reads a snapshot in turns with `etcdutl snapshot status`, `scan-etcd` and `verify-backup`.
pub(crate) async fn read(
    stage: &Stage,
    provider: &Provider,
    extent: &Extent,
    progress: &Progress,
    report: &mut Report,
) {
    let directory = TempDir::new().unwrap();
    progress.say("filling etcd");
    let content = Content::short(extent.objects, extent.seeds);
    let snapshot = snapshot(stage, provider.client(), &content, directory.path()).await;
    let file = snapshot.to_str().unwrap();

    let (mut statuses, mut scans, mut verifies) = (Vec::new(), Vec::new(), Vec::new());
    // The first round is a warm-up.
    for round in 0..=extent.rounds {
        progress.say(&format!("backups, round {round}"));
        let status = timed(|| drop(etcd::utl(&["snapshot", "status", file])));
        let scan = timed(|| succeed(&mut scan_etcd(stage, file)));
        let verify = timed(|| succeed(&mut verify_backup(stage, file)));
        if round > 0 {
            statuses.push(status);
            scans.push(scan);
            verifies.push(verify);
        }
        // Allows cancellation between rounds.
        tokio::task::yield_now().await;
    }

    let row = |name, times: &[f64], beside: &[f64]| {
        let ratios = times.iter().zip(beside).map(|(time, beside)| time / beside);
        let beside = median(beside.iter().copied());
        Row::new(name, median(times.iter().copied()), "ms").beside(beside, median(ratios))
    };
    report.push(row("scan_etcd", &scans, &statuses).target(AtMost(0.7)));
    report.push(row("verify_backup.data", &verifies, &scans).target(AtMost(3.0)));
}

/// Without the configuration, so it makes no requests, like `etcdutl`.
pub(crate) fn scan_etcd(stage: &Stage, file: &str) -> Command {
    let mut command = stage.plain_command();
    command.args(["scan-etcd", "--output=json", "--etcd-snapshot", file]);
    command
}

pub(crate) fn verify_backup(stage: &Stage, file: &str) -> Command {
    let mut command = stage.command("verify-backup");
    command.args(["--depth=data", "--output=json", "--etcd-snapshot", file]);
    command
}

/// Peak memory of the commands: for a snapshot of small objects, for the same keys with twenty
/// times as many bytes, and for ten times as many keys.
pub(crate) async fn memory(
    stage: &Stage,
    provider: &Provider,
    extent: &Extent,
    progress: &Progress,
    report: &mut Report,
) {
    let small = Content::short(extent.keys, extent.seeds);
    let large = Content {
        revisions: 2,
        bytes: 10_000,
        ..Content::short(extent.keys, extent.seeds)
    };
    let many = Content::short(extent.keys * 10, extent.seeds);

    let (mut scans, mut verifies) = (Vec::new(), Vec::new());
    for content in [&small, &large, &many] {
        progress.say("filling etcd for the memory of the commands");
        let directory = TempDir::new().unwrap();
        let snapshot = snapshot(stage, provider.client(), content, directory.path()).await;
        let file = snapshot.to_str().unwrap();
        progress.say("memory of the commands");
        scans.push(peak(&mut scan_etcd(stage, file)));
        verifies.push(peak(&mut verify_backup(stage, file)));
        tokio::task::yield_now().await;
    }

    for (command, peaks) in [("scan_etcd", scans), ("verify_backup.data", verifies)] {
        let [small, large, many] = peaks[..] else {
            return;
        };
        let row = Row::new(format!("{command}.memory"), large, "MiB");
        report.push(row.beside(small, large / small).target(AtMost(1.1)));
        let more = f64::from(u32::try_from(extent.keys * 9).unwrap());
        let each = (many - small) * 1024.0 * 1024.0 / more;
        report.push(Row::new(
            format!("{command}.memory_of_a_key"),
            each,
            "bytes",
        ));
    }
}

/// Peak resident memory of a command, in MiB.
pub(crate) fn peak(command: &mut Command) -> f64 {
    let mut child = command.stdout(Stdio::null()).spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut most = 0.0_f64;
    let ended = loop {
        // The line is missing after the end of the process.
        let status = fs::read_to_string(&status).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        if let Some(line) = line {
            let kib: f64 = line.trim().trim_end_matches(" kB").parse().unwrap();
            most = most.max(kib / 1024.0);
        }
        if let Some(ended) = child.try_wait().unwrap() {
            break ended;
        }
        thread::sleep(Duration::from_micros(200));
    };
    assert!(ended.success());
    most
}

/// Snapshot from `etcdctl snapshot save` of an etcd with these Secrets. Etcd is stopped afterwards.
async fn snapshot(
    stage: &Stage,
    client: KmsClient,
    content: &Content,
    directory: &Path,
) -> PathBuf {
    let etcd = filled(stage, client, content).await;
    let file = directory.join("etcd.db");
    etcd.save_snapshot(&file);
    file
}

/// An etcd with these Secrets.
pub(crate) async fn filled(stage: &Stage, client: KmsClient, content: &Content) -> Etcd {
    let mut sealers = Vec::new();
    for _ in 0..content.seeds {
        let answer = encrypted(client.clone()).await;
        let annotations = answer.annotations.into_iter();
        let mut annotations: Vec<_> = annotations
            .map(|(name, value)| (name, value.to_vec()))
            .collect();
        annotations.sort();
        sealers.push(Sealer {
            provider: stage.provider_name.clone(),
            source: PLAINTEXT,
            source_type: SourceType::HkdfSeed,
            encrypted_source: answer.ciphertext.to_vec(),
            key_id: answer.key_id,
            annotations,
        });
    }

    let etcd = Etcd::start().await;
    let mut plaintext = b"k8s\0 the plaintext of an object".to_vec();
    plaintext.resize(content.bytes, b'.');
    for _ in 0..content.revisions {
        let objects = (0..content.keys).map(|number| {
            let key = format!("/registry/secrets/default/{number:06}");
            let value = sealers[number % sealers.len()].value(&key, &plaintext);
            (key, value)
        });
        bulk::put(&etcd, objects).await;
    }
    etcd
}

/// Duration in milliseconds.
pub(crate) fn timed(run: impl FnOnce()) -> f64 {
    let begin = Instant::now();
    run();
    begin.elapsed().as_secs_f64() * 1e3
}

pub(crate) fn succeed(command: &mut Command) {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}
