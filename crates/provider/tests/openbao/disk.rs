//! The state on a real file system that is full or read-only, in a mount namespace of its own: the
//! tests run as root and as an ordinary user. And on a disk that hangs, which only a test can make.

use std::{
    env,
    ffi::OsStr,
    fs::{self, File},
    io::{self, BufRead as _, BufReader, Write as _},
    os::fd::BorrowedFd,
    path::PathBuf,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread,
    time::Duration,
};

use kms_node::state::disk::{Disk, SystemDisk};
use rustix::process::{getegid, geteuid};
use serde_json::Value;
use testkit::{schema::assert_published, wait::wait_until};

use crate::{
    crash::{CONFIG, serve_with},
    node::{Finished, Node, TIMING},
    provider::{Provider, SOON, to_decrypt},
};

/// A shell that may mount, in a namespace with a small tmpfs in place of a node's state directory.
/// The namespace ends with it and the provider.
struct Mounts {
    shell: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
    state: String,
}

impl Mounts {
    fn over_state_of(node: &Node) -> Self {
        let mut unshare = Command::new("unshare");
        unshare.arg("--mount");
        if !geteuid().is_root() {
            unshare.args(["--user", "--map-root-user"]);
        }
        let mut shell = unshare
            .arg("sh")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut mounts = Self {
            orders: shell.stdin.take().unwrap(),
            answers: BufReader::new(shell.stdout.take().unwrap()),
            shell,
            state: node.state_dir().to_str().unwrap().to_owned(),
        };
        mounts.run("mount -t tmpfs -o size=64k,nr_inodes=32,mode=0750 none STATE");
        mounts
    }

    /// Runs a command of the shell, in which STATE is the state directory.
    fn run(&mut self, command: &str) {
        let command = command.replace("STATE", &self.state);
        writeln!(self.orders, "{command}; echo ended $?").unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        assert_eq!(answer, "ended 0\n", "{command}");
    }

    /// Leaves no byte of the state's file system free.
    fn fill(&mut self) {
        self.run("cat /dev/zero 2> /dev/null > STATE/filled || true");
    }

    /// Starts this node's provider in the namespace, as the user of the tests.
    fn spawn(&self, node: &Node) -> Provider {
        node.spawn_as(self.program(node, &["serve"]))
    }

    /// Asserts that `doctor` and `triage` find this cause, with its figures and one exit code.
    fn assert_found(&self, node: &Node, cause: &str, figures: &str) {
        for command in ["doctor", "triage"] {
            let mut program = self.program(node, &[command, "--output", "json"]);
            let done = Finished::from(program.output().unwrap());
            assert_eq!(done.code, Some(4), "{}{}", done.out, done.err);
            let report: Value = serde_json::from_str(&done.out).unwrap();
            assert_published(&report);
            assert_eq!(report["cause"], cause, "{report:#}");
            let checks = report["checks"].as_array().unwrap().iter();
            let mut found = checks.filter(|check| check["id"] == "state.disk");
            let message = found.next().unwrap()["message"].as_str().unwrap();
            assert!(message.contains(figures), "{message}");
        }
    }

    fn program(&self, node: &Node, arguments: &[&str]) -> Command {
        let serve = node.program(arguments);
        let mut command = Command::new("nsenter");
        command.env_clear();
        for (name, value) in serve.get_envs() {
            command.env(name, value.unwrap());
        }
        let target = self.shell.id().to_string();
        command.args(["--target", &target, "--mount"]);
        if !geteuid().is_root() {
            let [user, group] = [geteuid().as_raw(), getegid().as_raw()];
            command.args(["--user", "--preserve-credentials", "unshare", "--user"]);
            command.arg(format!("--map-user={user}"));
            command.arg(format!("--map-group={group}"));
        }
        command.arg(serve.get_program()).args(serve.get_args());
        command
    }
}

impl Drop for Mounts {
    fn drop(&mut self) {
        self.shell.kill().ok();
        self.shell.wait().ok();
    }
}

async fn wait_for_fault(provider: &Provider, word: &str) {
    wait_until(SOON, word, async || {
        provider.health("/ready").await.1["persistence_error"] == word
    })
    .await;
    assert_eq!(provider.reasons().await, [""; 0]);
    let series = format!(r#"persistence_error{{error="{word}"}}"#);
    assert_eq!(provider.metric(&series).await, 1.0);
}

#[tokio::test]
async fn a_full_disk_delays_a_rotation_and_stops_neither_calls_nor_a_start() {
    let node = Node::new(TIMING).await;
    let mut mounts = Mounts::over_state_of(&node);
    let mut provider = mounts.spawn(&node);
    provider.ready().await;
    let old = provider.encrypt(b"old").await.unwrap();
    mounts.fill();
    // Nothing waits to be saved yet.
    wait_for_fault(&provider, "no_space").await;
    assert_eq!(provider.metric("state_free_bytes").await, 0.0);
    assert!(provider.metric("state_free_inodes").await > 0.0);
    assert_eq!(provider.health("/why").await.1["state"]["free_bytes"], 0);
    mounts.assert_found(&node, "state_disk_full", "0 bytes and 2");
    node.rotate().await;
    let by_peer = node.stored_by_peer(2, b"by a peer").await;

    for restarted in [false, true] {
        if restarted {
            let stopped = provider.stop().await;
            assert_eq!(stopped.code, Some(0), "{}", stopped.err);
            provider = mounts.spawn(&node);
            provider.ready().await;
            wait_for_fault(&provider, "no_space").await;
        }
        provider.encrypt_under(1).await;
        assert_eq!(provider.decrypt(to_decrypt(&old)).await.unwrap(), "old");
        let decrypted = provider.decrypt(by_peer.clone()).await.unwrap();
        assert_eq!(decrypted, "by a peer");
    }
    mounts.assert_found(&node, "state_disk_full", "0 bytes and 2");
    mounts.run("rm STATE/filled");
    provider.encrypt_under(2).await;
    provider.wait_for_event("state.restored").await;
    assert_eq!(
        provider.health("/ready").await.1["persistence_error"],
        Value::Null
    );
}

#[tokio::test]
async fn a_start_on_a_read_only_disk_serves_with_the_pair_that_is_there() {
    let node = Node::new(TIMING).await;
    let mut mounts = Mounts::over_state_of(&node);
    let mut provider = mounts.spawn(&node);
    provider.ready().await;
    let old = provider.encrypt(b"old").await.unwrap();
    provider.stop().await;
    mounts.run("mount -o remount,bind,ro STATE");

    let mut provider = mounts.spawn(&node);
    provider.ready().await;
    provider.encrypt_under(1).await;
    assert_eq!(provider.decrypt(to_decrypt(&old)).await.unwrap(), "old");
    // Nothing waits to be saved yet.
    wait_for_fault(&provider, "read_only").await;
    mounts.assert_found(&node, "state_disk_read_only", "mounted read-only");
    let second = mounts.spawn(&node).ended().await;
    second.assert_refused(5, &["is locked", "nothing was changed"]);

    node.rotate().await;
    provider.encrypt_under(1).await;
    let by_peer = node.stored_by_peer(2, b"by a peer").await;
    assert_eq!(provider.decrypt(by_peer).await.unwrap(), "by a peer");
    mounts.run("mount -o remount,bind,rw STATE");
    provider.encrypt_under(2).await;
    provider.wait_for_event("state.restored").await;
}

#[tokio::test]
async fn a_disk_without_inodes_is_named_by_every_command_and_by_a_start_that_fails() {
    let node = Node::new(TIMING).await;
    let mut mounts = Mounts::over_state_of(&node);
    mounts.run("i=0; while touch STATE/f$i 2> /dev/null; do i=$((i+1)); done");
    let refused = mounts.spawn(&node).ended().await;
    refused.assert_refused(
        5,
        &[
            "the file system of the state is full",
            "and 0 inodes free",
            "df -i",
        ],
    );
    mounts.assert_found(&node, "state_disk_full", "and 0 inodes free");

    // The lock is there, and the first state is not.
    mounts.run("rm STATE/f0");
    mounts.fill();
    let refused = mounts.spawn(&node).ended().await;
    refused.assert_refused(
        5,
        &["the file system of the state is full", "0 inodes free"],
    );
    mounts.run("rm STATE/f*");
    let mut provider = mounts.spawn(&node);
    provider.ready().await;
    provider.encrypt_under(1).await;
}

#[tokio::test]
async fn a_read_only_disk_without_a_state_is_refused() {
    let node = Node::new(TIMING).await;
    let mut mounts = Mounts::over_state_of(&node);
    mounts.run("mount -o remount,bind,ro STATE");
    let refused = mounts.spawn(&node).ended().await;
    refused.assert_refused(5, &["the state cannot be locked", "Read-only file system"]);
}

/// Told to the program whose disk hangs: the file that makes it hang.
const BRAKE: &str = "KMS_TEST_BRAKE";

/// The disk of the machine, which syncs nothing while a file exists.
struct HangingDisk {
    brake: PathBuf,
}

impl Disk for HangingDisk {
    fn write(&mut self, file: &File, bytes: &[u8]) -> io::Result<()> {
        SystemDisk.write(file, bytes)
    }

    fn sync(&mut self, file: BorrowedFd<'_>) -> io::Result<()> {
        while self.brake.exists() {
            thread::sleep(Duration::from_millis(10));
        }
        SystemDisk.sync(file)
    }

    fn rename(&mut self, directory: BorrowedFd<'_>, from: &OsStr, to: &OsStr) -> io::Result<()> {
        SystemDisk.rename(directory, from, to)
    }
}

#[tokio::test]
async fn a_disk_that_hangs_stops_neither_calls_nor_probes() {
    if let Some(brake) = env::var_os(BRAKE) {
        let brake = brake.into();
        return serve_with(Box::new(HangingDisk { brake })).await;
    }
    let node = Node::new(TIMING).await;
    let brake = node.state_dir().with_file_name("brake");
    let mut command = Command::new(env::current_exe().unwrap());
    command.env_clear();
    node.sockets.set_environment(&mut command);
    command
        .args([
            "--exact",
            "disk::a_disk_that_hangs_stops_neither_calls_nor_probes",
        ])
        .arg("--nocapture")
        .env(BRAKE, &brake)
        .env(CONFIG, node.write_config());
    let mut provider = node.spawn_as(command);
    provider.ready().await;
    let old = provider.encrypt(b"old").await.unwrap();

    File::create(&brake).unwrap();
    node.rotate().await;
    wait_for_fault(&provider, "no_answer").await;
    let by_peer = node.stored_by_peer(2, b"by a peer").await;
    provider.encrypt_under(1).await;
    assert_eq!(provider.decrypt(to_decrypt(&old)).await.unwrap(), "old");
    assert_eq!(provider.decrypt(by_peer).await.unwrap(), "by a peer");
    let unsaved = r#"transit_metadata_observation_total{status="state_save_failed"}"#;
    let before = provider.metric(unsaved).await;
    wait_until(SOON, "further probes", async || {
        provider.metric(unsaved).await > before + 1.0
    })
    .await;

    fs::remove_file(&brake).unwrap();
    provider.encrypt_under(2).await;
    provider.wait_for_event("state.restored").await;
}
