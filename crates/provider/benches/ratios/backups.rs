//! The commands that read etcd snapshots, beside the program that every operator has for them.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
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

/// What is read, and how often.
pub(crate) struct Extent {
    objects: usize,
    seeds: usize,
    rounds: usize,
}

impl Extent {
    pub(crate) const QUICK: Self = Self {
        objects: 20_000,
        seeds: 10,
        rounds: 5,
    };
    pub(crate) const FULL: Self = Self {
        objects: 100_000,
        seeds: 50,
        rounds: 11,
    };
}

/// Short, so that what counts is the number of objects and not their bytes.
const OBJECT: &[u8] = b"k8s\0 the plaintext of an object";

/// One snapshot, read in turns by `etcdutl snapshot status`, `scan-etcd` and `verify-backup`.
pub(crate) async fn read(
    stage: &Stage,
    provider: &Provider,
    extent: &Extent,
    progress: &Progress,
    report: &mut Report,
) {
    let directory = TempDir::new().unwrap();
    progress.say("filling etcd");
    let snapshot = snapshot(stage, provider.client(), extent, directory.path()).await;
    let file = snapshot.to_str().unwrap();
    let scan = ["scan-etcd", "--output=json", "--etcd-snapshot", file];
    let verify = [
        "verify-backup",
        "--depth=data",
        "--output=json",
        "--etcd-snapshot",
        file,
    ];
    let (mut statuses, mut scans, mut verifies) = (Vec::new(), Vec::new(), Vec::new());
    // The first round warms up.
    for round in 0..=extent.rounds {
        progress.say(&format!("backups, round {round}"));
        let status = timed(|| drop(etcd::utl(&["snapshot", "status", file])));
        // Without the configuration it asks nobody, as `etcdutl` does not.
        let scan = timed(|| succeed(stage.plain_command().args(scan)));
        let verify = timed(|| succeed(stage.command(verify[0]).args(&verify[1..])));
        if round > 0 {
            statuses.push(status);
            scans.push(scan);
            verifies.push(verify);
        }
        // Whoever wants this to end is heard here.
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

/// What `etcdctl snapshot save` makes of an etcd with so many Secrets. Etcd is gone then.
async fn snapshot(stage: &Stage, client: KmsClient, extent: &Extent, directory: &Path) -> PathBuf {
    let mut sealers = Vec::new();
    for _ in 0..extent.seeds {
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
    let objects = (0..extent.objects).map(|number| {
        let key = format!("/registry/secrets/default/{number:06}");
        let value = sealers[number % sealers.len()].value(&key, OBJECT);
        (key, value)
    });
    bulk::put(&etcd, objects).await;
    let file = directory.join("etcd.db");
    etcd.save_snapshot(&file);
    file
}

/// In milliseconds.
fn timed(run: impl FnOnce()) -> f64 {
    let begin = Instant::now();
    run();
    begin.elapsed().as_secs_f64() * 1e3
}

fn succeed(command: &mut Command) {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}
