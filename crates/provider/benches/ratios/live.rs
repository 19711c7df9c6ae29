//! `verify-backup` on a running etcd, compared with saving and reading a snapshot.

use std::process::Command;

use tempfile::TempDir;
use testkit::etcd::Etcd;

use crate::{
    Progress,
    backups::{Content, filled, succeed, timed, verify_backup},
    large,
    load::median,
    provider_process::Provider,
    report::{Report, Row, Target::AtMost},
    stage::Stage,
};

/// Number of objects, and number of rounds.
pub(crate) struct Extent {
    few: usize,
    many: usize,
    rounds: usize,
    /// Rounds of all commands on a snapshot of the larger number; 0 to skip them.
    file_rounds: usize,
}

impl Extent {
    pub(crate) const QUICK: Self = Self {
        few: 30_000,
        many: 100_000,
        rounds: 3,
        file_rounds: 0,
    };
    pub(crate) const FULL: Self = Self {
        few: 300_000,
        many: 1_000_000,
        rounds: 5,
        file_rounds: 5,
    };
}

const SEEDS: usize = 50;

/// Reads few objects in turns with a snapshot of them, then many.
pub(crate) async fn read(
    stage: &Stage,
    provider: &Provider,
    extent: &Extent,
    progress: &Progress,
    report: &mut Report,
) {
    let mut medians = Vec::new();
    for objects in [extent.few, extent.many] {
        progress.say(&format!("filling etcd with {objects} objects"));
        let content = Content::short(objects, SEEDS);
        let etcd = filled(stage, provider.client(), &content).await;
        let (mut snapshots, mut lives) = (Vec::new(), Vec::new());
        // The first round is a warm-up.
        for round in 0..=extent.rounds {
            progress.say(&format!("running etcd, {objects} objects, round {round}"));
            let directory = TempDir::new().unwrap();
            let file = directory.path().join("etcd.db");
            let snapshot = timed(|| {
                etcd.save_snapshot(&file);
                succeed(&mut verify_backup(stage, file.to_str().unwrap()));
            });
            let live = timed(|| succeed(&mut verify_running(stage, &etcd)));
            if round > 0 {
                snapshots.push(snapshot);
                lives.push(live);
            }
            // Allows cancellation between rounds.
            tokio::task::yield_now().await;
        }

        let ratios = lives.iter().zip(&snapshots).map(|(live, file)| live / file);
        let (ratio, live) = (median(ratios), median(lives.iter().copied()));
        let row = Row::new(format!("verify_backup.live.{objects}"), live, "ms");
        let row = row.beside(median(snapshots), ratio);
        report.push(row.target(AtMost(1.5)));
        medians.push(live);

        if objects == extent.many && extent.file_rounds > 0 {
            let directory = TempDir::new().unwrap();
            let file = directory.path().join("etcd.db");
            etcd.save_snapshot(&file);
            drop(etcd);
            large::read(stage, &file, objects, extent.file_rounds, progress, report).await;
        }
    }

    let [few, many] = medians[..] else {
        return;
    };
    let row = Row::new("verify_backup.live.growth", many, "ms");
    report.push(row.beside(few, many / few).target(AtMost(3.5)));
}

fn verify_running(stage: &Stage, etcd: &Etcd) -> Command {
    let mut command = stage.command("verify-backup");
    command.args(["--depth=data", "--output=json", "--endpoints"]);
    command.arg(etcd.endpoint());
    for (option, name) in [
        ("--cacert", "ca.crt"),
        ("--cert", "client.crt"),
        ("--key", "client.key"),
    ] {
        command.arg(option).arg(etcd.file(name));
    }
    command
}
