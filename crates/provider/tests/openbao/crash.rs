//! A provider that is killed within a commit, at each of its steps, and the next start.
//!
//! Who dies is this test program, run once more as a provider: it serves as the real one does, on
//! a disk that kills the process at a given moment. Whoever comes next is the real program.

use std::{
    env,
    ffi::OsStr,
    fs::{self, File},
    future::pending,
    io,
    os::fd::BorrowedFd,
    process::Command,
    time::Duration,
};

use kms_daemon::{lifecycle, serve::serve_on, telemetry::log};
use kms_node::{
    config::{self, Environment, Flags},
    state::{
        MissingCheckpoint,
        disk::{Disk, SystemDisk},
    },
};
use rustix::process::{Signal, getpid, kill_process};
use testkit::{tenant::Timing, wait::wait_until};

use crate::{
    node::{Node, TIMING},
    provider::{Provider, SOON, to_decrypt},
};

/// Told to the program that is to die.
const FATAL_MOMENT: &str = "KMS_TEST_FATAL_MOMENT";
pub(crate) const CONFIG: &str = "KMS_TEST_CONFIG";

/// Takes up and promotes a version at once.
const EAGER: Timing = Timing {
    probe_interval: Duration::from_millis(100),
    activation_delay: Duration::from_millis(100),
    stable_observations: 1,
    ..TIMING
};

/// What a crash leaves on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    Old,
    NewDocument,
    New,
}

/// The moments of a commit that differ on disk. A commit writes, syncs and renames a file and
/// syncs the directory, once for the document and once for the checkpoint; each call has a moment
/// in its midst (2 n) and one after it (2 n + 1).
const MOMENTS: [(u32, Left); 10] = [
    (0, Left::Old),
    (1, Left::Old),
    (3, Left::Old),
    (5, Left::NewDocument),
    (7, Left::NewDocument),
    (8, Left::NewDocument),
    (9, Left::NewDocument),
    (11, Left::NewDocument),
    (13, Left::New),
    (15, Left::New),
];

#[tokio::test]
async fn a_kill_within_the_first_commit_is_survived() {
    if let Some(moment) = env::var_os(FATAL_MOMENT) {
        let moment = moment.to_str().unwrap().parse().unwrap();
        let disk = FatalDisk {
            moment: 0,
            fatal: moment,
        };
        return serve_with(Box::new(disk)).await;
    }
    let origin = Node::new(EAGER).await;
    for (moment, left) in MOMENTS {
        let node = origin.peer(EAGER);
        killed_at(moment, &node).await;
        assert_eq!(node.state_file().exists(), left != Left::Old, "{moment}");
        assert_eq!(node.checkpoint().exists(), left == Left::New, "{moment}");
        if left != Left::Old {
            let status = &node.inspect()["stateCheckpointStatus"];
            let expected = if left == Left::New {
                "current"
            } else {
                "missing"
            };
            assert_eq!(status, expected, "{moment}");
        }

        let provider = node.serve().await;
        assert_rewritten(&provider, left, "missing");
        let encrypted = provider.encrypt(b"seed").await.unwrap();
        let decrypted = provider.decrypt(to_decrypt(&encrypted)).await.unwrap();
        assert_eq!(decrypted, "seed");
        assert_eq!(node.inspect()["stateGeneration"], 1, "{moment}");
    }
}

#[tokio::test]
async fn a_kill_while_a_new_version_is_saved_is_survived() {
    let origin = Node::new(EAGER).await;
    let provider = origin.serve().await;
    let old = provider.encrypt(b"old").await.unwrap();
    provider.stop().await;
    origin.rotate().await;
    for (moment, left) in MOMENTS {
        let node = killed_with_the_state_of(&origin, moment).await;
        let (generation, known) = if left == Left::Old { (1, 1) } else { (2, 2) };
        assert_eq!(node.inspect()["stateGeneration"], generation, "{moment}");
        assert_eq!(node.versions().len(), known, "{moment}");
        assert_eq!(node.inspect()["activeTransitVersion"], 1, "{moment}");

        let provider = node.serve().await;
        assert_rewritten(&provider, left, "behind");
        assert_eq!(provider.decrypt(to_decrypt(&old)).await.unwrap(), "old");
        provider.encrypt_under(2).await;
        assert_eq!(node.inspect()["stateCheckpointStatus"], "current");
    }
}

#[tokio::test]
async fn a_kill_within_a_promotion_is_survived() {
    let patient = Timing {
        activation_delay: Duration::from_secs(3600),
        ..EAGER
    };
    let origin = Node::new(patient).await;
    let provider = origin.serve().await;
    let old = provider.encrypt(b"old").await.unwrap();
    origin.rotate().await;
    wait_until(SOON, "a stable version", async || {
        origin.inspect()["stateGeneration"] == 2
    })
    .await;
    provider.stop().await;
    let by_peer = origin.stored_by_peer(2, b"by a peer").await;
    for (moment, left) in MOMENTS {
        let node = killed_with_the_state_of(&origin, moment).await;
        let (generation, active) = if left == Left::Old { (2, 1) } else { (3, 2) };
        assert_eq!(node.inspect()["stateGeneration"], generation, "{moment}");
        assert_eq!(node.inspect()["activeTransitVersion"], active, "{moment}");

        let provider = node.serve().await;
        assert_rewritten(&provider, left, "behind");
        assert_eq!(provider.decrypt(to_decrypt(&old)).await.unwrap(), "old");
        let decrypted = provider.decrypt(by_peer.clone()).await.unwrap();
        assert_eq!(decrypted, "by a peer");
        let new = provider.encrypt_under(2).await;
        assert_eq!(new.key_id, by_peer.key_id);
        assert_eq!(provider.status().await.key_id, new.key_id);
    }
}

/// Another node with this state, killed at `moment` of its first commit.
async fn killed_with_the_state_of(origin: &Node, moment: u32) -> Node {
    let node = origin.peer(EAGER);
    fs::copy(origin.state_file(), node.state_file()).unwrap();
    fs::copy(origin.checkpoint(), node.checkpoint()).unwrap();
    killed_at(moment, &node).await;
    node
}

/// Serves until the first commit and dies in it, before anything of it is shown.
async fn killed_at(moment: u32, node: &Node) {
    let mut command = Command::new(env::current_exe().unwrap());
    command.env_clear();
    node.sockets.set_environment(&mut command);
    command
        .args([
            "--exact",
            "crash::a_kill_within_the_first_commit_is_survived",
        ])
        .arg("--nocapture")
        .env(FATAL_MOMENT, moment.to_string())
        .env(CONFIG, node.write_config());
    let killed = node.spawn_as(command).ended().await;
    assert_eq!(killed.code, None, "{moment}: {}", killed.err);
    for shown in ["key.pending", "key.promoted", "panicked"] {
        assert!(!killed.err.contains(shown), "{moment}: {}", killed.err);
    }
}

#[track_caller]
fn assert_rewritten(provider: &Provider, left: Left, reason: &str) {
    let rewritten: Vec<_> = provider
        .events("state.checkpoint_rewritten")
        .map(|event| event["reason"].clone())
        .collect();
    let expected: &[&str] = match left {
        Left::NewDocument => &[reason],
        Left::Old | Left::New => &[],
    };
    assert_eq!(rewritten, expected);
}

/// What the command `serve` does with the configuration in [`CONFIG`], on this disk.
pub(crate) async fn serve_with(disk: Box<dyn Disk>) {
    let flags = Flags {
        config: env::var_os(CONFIG).map(Into::into),
        ..Flags::default()
    };
    let config = config::load(&flags, &Environment::of_process())
        .unwrap()
        .config;
    log::start(config.logging.level, config.logging.format);
    log::write_lines().unwrap();
    lifecycle::prepare();
    serve_on(
        disk,
        &config,
        MissingCheckpoint::Refuse,
        None,
        || {},
        pending(),
    )
    .await
    .unwrap();
}

/// The disk of the machine, until a moment of its use.
struct FatalDisk {
    moment: u32,
    fatal: u32,
}

impl FatalDisk {
    fn pass(&mut self) -> io::Result<()> {
        if self.moment == self.fatal {
            kill_process(getpid(), Signal::KILL)?;
        }
        self.moment += 1;
        Ok(())
    }
}

impl Disk for FatalDisk {
    fn write(&mut self, file: &File, bytes: &[u8]) -> io::Result<()> {
        let (half, rest) = bytes.split_at(bytes.len() / 2);
        SystemDisk.write(file, half)?;
        self.pass()?;
        SystemDisk.write(file, rest)?;
        self.pass()
    }

    fn sync(&mut self, file: BorrowedFd<'_>) -> io::Result<()> {
        self.pass()?;
        SystemDisk.sync(file)?;
        self.pass()
    }

    fn rename(&mut self, directory: BorrowedFd<'_>, from: &OsStr, to: &OsStr) -> io::Result<()> {
        self.pass()?;
        SystemDisk.rename(directory, from, to)?;
        self.pass()
    }
}
