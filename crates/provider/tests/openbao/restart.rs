//! The end of a provider and the start of the next one, signals, and a socket file that is gone.

use std::{
    env,
    error::Error,
    ffi::OsStr,
    fs::{self, File, Permissions},
    io::{self, Write as _},
    mem,
    os::{
        fd::BorrowedFd,
        unix::{
            fs::{PermissionsExt as _, chown},
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use kms_daemon::{
    lifecycle::{self, Hangup},
    serve::serve_on,
    telemetry::log,
};
use kms_node::{
    config::{self, Environment, Flags},
    kms_api::generated::{
        DecryptRequest, EncryptRequest, StatusRequest,
        key_management_service_client::KeyManagementServiceClient,
    },
    state::{
        MissingCheckpoint,
        disk::{Disk, SystemDisk},
    },
};
use openbao_lab::port::free_port;
use rustix::process::{Signal, geteuid};
use serde_json::{Value, json};
use testkit::{files, wait::wait_until};
use tonic::{Status, transport::Endpoint};

use crate::{
    node::{IMPATIENT, Node, QUIET, TIMING},
    provider::{SOON, to_decrypt},
};

/// What a stop may take with calls under way.
const DRAIN: Duration = Duration::from_secs(15);
/// Told to this program when it serves in place of the real one: where to look for the file with
/// which its disk begins to hang.
const HANG: &str = "KMS_TEST_DISK_HANGS";
const CONFIG: &str = "KMS_TEST_CONFIG_OF_HANGING";
/// Told to it when it is to panic at its start.
const PANICS: &str = "KMS_TEST_PANICS";

#[tokio::test]
async fn silent_connections_do_not_delay_a_stop() {
    let node = Node::new(QUIET).await;
    let provider = node.serve().await;
    let mut used = provider.client();
    used.status(StatusRequest {}).await.unwrap();
    let greeting = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let silent = [&[][..], &greeting[..7], greeting].map(|first| {
        let mut stream = UnixStream::connect(node.sockets.socket()).unwrap();
        stream.write_all(first).unwrap();
        stream
    });
    wait_until(SOON, "all connections", async || {
        provider.metric("socket_connections").await == 4.0
    })
    .await;
    let asked = Instant::now();
    let stopped = provider.stop().await;
    assert_eq!(stopped.code, Some(0), "{}", stopped.err);
    assert!(asked.elapsed() < DRAIN, "{:?}", asked.elapsed());
    drop(silent);
}

/// Writes and reads until it is told to stop, on connections of which each makes some calls. Repeats
/// what a client of gRPC repeats by itself.
pub(crate) async fn call_on_and_on(
    socket: PathBuf,
    stop: Arc<AtomicBool>,
    calls: Arc<AtomicU64>,
) -> Result<(), Status> {
    let mut first = None;
    while !stop.load(Ordering::Relaxed) {
        match some_calls(&socket, &mut first, &calls).await {
            Err(status) if is_unprocessed(&status) => {}
            ended => ended?,
        }
    }
    Ok(())
}

async fn some_calls(
    socket: &Path,
    first: &mut Option<DecryptRequest>,
    calls: &AtomicU64,
) -> Result<(), Status> {
    let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display())).unwrap();
    let mut client = KeyManagementServiceClient::new(endpoint.connect_lazy());
    for _ in 0..20 {
        client.status(StatusRequest {}).await?;
        let written = EncryptRequest {
            plaintext: Bytes::from_static(b"seed"),
            uid: "test".to_owned(),
        };
        let encrypted = client.encrypt(written).await?.into_inner();
        let first = first.get_or_insert_with(|| to_decrypt(&encrypted));
        for request in [first.clone(), to_decrypt(&encrypted)] {
            let read = client.decrypt(request).await?.into_inner();
            assert_eq!(read.plaintext, "seed");
        }
        calls.fetch_add(4, Ordering::Relaxed);
    }
    Ok(())
}

/// Whether the call was not sent, or the server's GOAWAY names it as one that it has not begun: HTTP/2
/// lets every client send such a call again, and that of kube-apiserver does.
fn is_unprocessed(status: &Status) -> bool {
    let mut source: Option<&dyn Error> = Some(status);
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            return error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR);
        }
        if let Some(error) = error.downcast_ref::<hyper::Error>()
            && error.is_canceled()
        {
            return true;
        }
        source = error.source();
    }
    false
}

/// As systemd does with a socket unit.
pub(crate) fn listen(path: &Path) -> UnixListener {
    let listener = UnixListener::bind(path).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o660)).unwrap();
    listener
}

#[tokio::test]
async fn with_a_socket_of_systemd_a_restart_refuses_no_connection_and_fails_no_call() {
    let node = Node::new(QUIET).await;
    let socket = node.sockets.socket();
    let listener = listen(&socket);
    let mut provider = node.spawn_activated(&listener);
    provider.ready().await;
    let stop = Arc::new(AtomicBool::new(false));
    let calls = Arc::new(AtomicU64::new(0));
    let callers: Vec<_> = (0..16)
        .map(|_| {
            let (stop, calls) = (Arc::clone(&stop), Arc::clone(&calls));
            tokio::spawn(call_on_and_on(socket.clone(), stop, calls))
        })
        .collect();
    for _ in 0..3 {
        let before = calls.load(Ordering::Relaxed);
        wait_until(SOON, "calls", async || {
            calls.load(Ordering::Relaxed) > before + 100
        })
        .await;
        let stopped = provider.stop().await;
        assert_eq!(stopped.code, Some(0), "{}", stopped.err);
        assert!(socket.exists(), "the socket is systemd's");
        provider = node.spawn_activated(&listener);
        provider.ready().await;
    }
    let before = calls.load(Ordering::Relaxed);
    wait_until(SOON, "calls after the last restart", async || {
        calls.load(Ordering::Relaxed) > before + 100
    })
    .await;
    stop.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.await.unwrap().unwrap();
    }
    assert_eq!(provider.events("socket.stale_removed").count(), 0);
}

#[tokio::test]
async fn a_passed_socket_of_another_mode_or_path_is_refused() {
    let node = Node::new(QUIET).await;
    let socket = node.sockets.socket();
    let listener = listen(&socket);
    fs::set_permissions(&socket, Permissions::from_mode(0o666)).unwrap();
    let refused = node.spawn_activated(&listener).ended().await;
    let said = "SocketMode= must be 0660, found 0666";
    refused.assert_refused(5, &[said, "systemctl daemon-reload"]);
    let other = listen(&node.sockets.path().join("other.sock"));
    let refused = node.spawn_activated(&other).ended().await;
    refused.assert_refused(5, &["ListenStream= is", "other.sock"]);
    assert!(socket.exists());
}

/// A report of `doctor` or `triage`: exit code, cause and the first step.
fn report(node: &Node, command: &str) -> (Option<i32>, Value) {
    let done = node.run(&[command, "--output", "json"]);
    (done.code, serde_json::from_str(&done.out).unwrap())
}

#[tokio::test]
async fn a_changed_mode_or_group_is_named_by_the_provider_and_with_one_exit_code_by_both_tools() {
    let mut node = Node::new(QUIET).await;
    node.config["server"]["healthAddress"] = json!(format!("127.0.0.1:{}", free_port().unwrap()));
    let mut provider = node.serve().await;
    let (socket, directory) = (node.sockets.socket(), node.sockets.path().to_owned());
    let gid = rustix::process::getegid().as_raw();
    let chmod = |path: &Path, mode| {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    };
    let other_group = || chown(&socket, None, Some(gid + 1)).unwrap();
    type Change<'a> = &'a dyn Fn();
    let cases: [(&str, Change<'_>, i32, &str, String); 4] = [
        (
            "mode",
            &|| chmod(&socket, 0o600),
            4,
            "socket_drifted",
            format!("chmod 0660 {}", socket.display()),
        ),
        (
            "group",
            &other_group,
            4,
            "socket_drifted",
            format!("chgrp {gid} {}", socket.display()),
        ),
        (
            "directory",
            &|| chmod(&directory, 0o700),
            4,
            "socket_drifted",
            format!("chmod 2750 {}", directory.display()),
        ),
        (
            "unsafe_directory",
            &|| chmod(&directory, 0o2777),
            3,
            "node_misconfigured",
            format!("chmod 2750 {}", directory.display()),
        ),
    ];
    for (word, change, exit, cause, fix) in cases {
        if word == "group" && !geteuid().is_root() {
            continue;
        }
        change();
        let series = format!(r#"socket_fault{{reason="{word}"}}"#);
        wait_until(SOON, word, async || provider.metric(&series).await == 1.0).await;
        assert_eq!(provider.reasons().await, [""; 0]);
        for command in ["doctor", "triage"] {
            let (code, report) = report(&node, command);
            assert_eq!(code, Some(exit), "{command}: {report:#}");
            assert_eq!(report["cause"], cause, "{command}: {report:#}");
            let steps = report["nextSteps"].to_string();
            assert!(steps.contains(&fix), "{command}: {fix}: {steps}");
        }
        chmod(&directory, 0o750);
        chmod(&socket, 0o660);
        chown(&socket, None, Some(gid)).unwrap();
        wait_until(SOON, "the end of the drift", async || {
            provider.metric(&series).await == 0.0
        })
        .await;
    }
    provider.wait_for_event("socket.restored").await;
    let drifted = provider.events("socket.drifted").next().unwrap();
    assert_eq!(drifted["reason"], "mode");

    // Another file, which the provider leaves alone.
    fs::remove_file(&socket).unwrap();
    drop(File::create(&socket).unwrap());
    wait_until(SOON, "a lost socket", async || {
        provider.reasons().await == ["socket_lost"]
    })
    .await;
    for command in ["doctor", "triage"] {
        let (code, report) = report(&node, command);
        assert_eq!(code, Some(3), "{command}: {report:#}");
        assert_eq!(report["cause"], "node_misconfigured", "{report:#}");
    }
}

#[tokio::test]
async fn a_second_instance_names_the_running_process() {
    let mut node = Node::new(QUIET).await;
    let provider = node.serve().await;
    let running = format!("process {} (bao-kms-provide)", provider.pid());
    let inspect = format!("ps -fp {}", provider.pid());
    let refused = node.refused().await;
    let said = format!("is locked by {running}");
    refused.assert_refused(5, &[&said, "nothing was changed", &inspect]);
    let triage = node.run(&["triage", "--output", "json"]);
    assert!(triage.out.contains(&running), "{}", triage.out);

    // With a state of its own, at the same socket.
    let mut peer = node.peer(QUIET);
    mem::swap(&mut node.sockets, &mut peer.sockets);
    peer.config["server"]["socketPath"] = node.config["server"]["socketPath"].clone();
    let refused = peer.refused().await;
    refused.assert_refused(5, &[&format!("{running} serves")]);
    mem::swap(&mut node.sockets, &mut peer.sockets);
    peer.config["server"]["socketPath"] = json!(peer.sockets.socket());
}

/// Runs `serve` with the variable of systemd for a standard error that is this file.
async fn refused_under_systemd(node: &Node, stream: &str) -> String {
    let program = node.program(&["serve"]);
    let mut command = Command::new("/bin/sh");
    command
        .args([
            "-c",
            r#"JOURNAL_STREAM=$(stat -Lc %d:%i "$1"); export JOURNAL_STREAM; shift; exec "$@""#,
        ])
        .args(["sh", stream])
        .arg(program.get_program())
        .args(program.get_args())
        .env_clear()
        .envs(
            program
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        );
    node.spawn_as(command).ended().await.err
}

#[tokio::test]
async fn each_line_to_the_journal_has_its_priority() {
    let mut node = Node::new(IMPATIENT).await;
    node.config["openbao"]["address"] = json!("https://127.0.0.1:1");
    let own = "/proc/self/fd/2";
    let log = refused_under_systemd(&node, own).await;
    for (start, said) in [
        ("<6>{", "serve.start"),
        ("<4>{", "status.probe"),
        ("<3>{", "serve.shutdown"),
        ("<3>error: ", "the provider does not start"),
        ("<3>  next: ", ""),
    ] {
        let found = log
            .lines()
            .any(|line| line.starts_with(start) && line.contains(said));
        assert!(found, "{start} {said}: {log}");
    }
    for line in log.lines() {
        let priority = line.strip_prefix('<').and_then(|line| line.split_once('>'));
        assert!(
            matches!(priority, Some(("3" | "4" | "6" | "7", _))),
            "{line}"
        );
    }
    // A terminal of somebody who has the variable from a service.
    let log = refused_under_systemd(&node, "/proc/self/exe").await;
    assert!(!log.contains('<'), "{log}");
    // Before the log begins.
    node.config["openbao"]["address"] = json!("http://127.0.0.1:1");
    let log = refused_under_systemd(&node, own).await;
    assert!(log.lines().all(|line| line.starts_with("<3>")), "{log}");
}

#[tokio::test]
async fn every_event_has_its_operation_and_a_request_its_key() {
    let node = Node::new(QUIET).await;
    let provider = node.serve().await;
    let status = provider.status().await;
    let encrypted = provider.encrypt(b"seed").await.unwrap();
    provider.decrypt(to_decrypt(&encrypted)).await.unwrap();
    let active = node.inspect();
    let hash = &active["records"][0]["keyIdHash"];
    for operation in ["kms.status", "kms.encrypt", "kms.decrypt"] {
        let mut events = provider.events("kms.request");
        let event = events
            .find(|event| event["operation"] == operation)
            .unwrap();
        assert_eq!(event["transit_key_version"], 1, "{event}");
        assert_eq!(&event["key_id_hash"], hash, "{event}");
        let healthz = (operation == "kms.status").then_some("ok");
        assert_eq!(event["healthz"].as_str(), healthz, "{event}");
    }
    assert_eq!(status.healthz, "ok");
    for line in provider.log().lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        let operation = event["operation"].as_str();
        let own = event["message"].as_str().unwrap();
        assert!(operation == Some(own) || own == "kms.request", "{event}");
    }
    for (alias, path) in [
        ("/livez", "/live"),
        ("/healthz", "/live"),
        ("/readyz", "/ready"),
    ] {
        let (status, body) = provider.health(alias).await;
        let (as_before, expected) = provider.health(path).await;
        assert_eq!((status, &body["status"]), (as_before, &expected["status"]));
    }
}

#[tokio::test]
async fn a_hangup_is_ignored() {
    let node = Node::new(QUIET).await;
    let mut provider = node.serve().await;
    provider.signal(Signal::HUP);
    provider.wait_for_event("serve.signal_ignored").await;
    assert_eq!(provider.status().await.healthz, "ok");
}

#[tokio::test]
async fn a_socket_file_that_is_gone_or_replaced_is_bound_again() {
    let node = Node::new(QUIET).await;
    let mut provider = node.serve().await;
    let mut kept = provider.client();
    kept.status(StatusRequest {}).await.unwrap();
    let socket = node.sockets.socket();

    fs::remove_file(&socket).unwrap();
    provider.wait_for_event("socket.rebound").await;
    assert_eq!(provider.status().await.healthz, "ok");
    assert_eq!(provider.metric("socket_restarts_total").await, 1.0);

    let of_somebody = node.sockets.path().join("file");
    files::replace(&of_somebody, b"of value to somebody", 0o640);
    rustix::fs::rename(&of_somebody, &socket).unwrap();
    provider.wait_for_event("socket.rebind_failed").await;
    let failed = provider.events("socket.rebind_failed").next().unwrap();
    assert_eq!(failed["reason"], "not_a_socket");
    assert_eq!(provider.reasons().await, ["socket_lost"]);
    assert_eq!(provider.health("/ready").await.1["healthz"], "ok");
    let series = r#"socket_fault{reason="not_a_socket"}"#;
    assert_eq!(provider.metric(series).await, 1.0);
    assert_eq!(provider.metric("ready").await, 0.0);
    let status = kept.status(StatusRequest {}).await.unwrap().into_inner();
    assert_eq!(status.healthz, "ok", "connected clients are served");
    assert_eq!(fs::read(&socket).unwrap(), b"of value to somebody");
    fs::remove_file(&socket).unwrap();
    wait_until(SOON, "another socket", async || {
        provider.events("socket.rebound").count() == 2
    })
    .await;
    assert_eq!(provider.status().await.healthz, "ok");
    kept.status(StatusRequest {}).await.unwrap();
    assert_eq!(provider.events("socket.rebind_failed").count(), 1);
    assert_eq!(provider.events("socket.restored").count(), 1);
    assert_eq!(provider.reasons().await, [""; 0]);
    assert_eq!(provider.stop().await.code, Some(0));
    assert!(!socket.exists());
}

#[tokio::test]
async fn a_disk_that_hangs_does_not_hold_up_a_stop() {
    if let Some(hang) = env::var_os(HANG) {
        return serve_on_hanging_disk(hang.into()).await;
    }
    let node = Node::new(TIMING).await;
    let directory = tempfile::TempDir::new().unwrap();
    let hang = directory.path().join("hang");
    let mut provider = node.spawn_as(on_hanging_disk(&node, &hang));
    provider.ready().await;
    File::create(&hang).unwrap();
    node.rotate().await;
    wait_until(SOON, "a commit that hangs", async || {
        hang.with_extension("hangs").exists()
    })
    .await;
    assert_eq!(provider.status().await.healthz, "ok");
    provider.signal(Signal::TERM);
    let ended = provider.ended().await;
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    assert!(ended.err.contains("state.unfinished"), "{}", ended.err);
}

#[tokio::test]
async fn a_panic_of_the_serving_thread_is_an_error_with_its_name() {
    let node = Node::new(QUIET).await;
    let mut command = on_hanging_disk(&node, &node.sockets.path().join("never"));
    command.env(PANICS, "1");
    let ended = node.spawn_as(command).ended().await;
    assert_eq!(ended.code, Some(7), "{}", ended.err);
    assert!(ended.err.contains("process.panicked"), "{}", ended.err);
    assert!(!ended.err.contains("on purpose"), "{}", ended.err);
    assert!(!node.sockets.socket().exists());
}

/// This program as a provider whose disk hangs once there is a file `hang`.
fn on_hanging_disk(node: &Node, hang: &Path) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command.env_clear();
    node.sockets.set_environment(&mut command);
    command
        .args([
            "--exact",
            "restart::a_disk_that_hangs_does_not_hold_up_a_stop",
        ])
        .arg("--nocapture")
        .env(HANG, hang)
        .env(CONFIG, node.write_config());
    command
}

/// What the command `serve` does, on a disk that begins to hang.
#[expect(
    clippy::disallowed_methods,
    reason = "as the end of the program, which does not wait for its threads"
)]
async fn serve_on_hanging_disk(hang: PathBuf) {
    let flags = Flags {
        config: env::var_os(CONFIG).map(Into::into),
        ..Flags::default()
    };
    let loaded = config::load(&flags, &Environment::of_process()).unwrap();
    log::start(loaded.config.logging.level, loaded.config.logging.format);
    log::write_lines().unwrap();
    lifecycle::prepare();
    let stop = lifecycle::stop_signal(Hangup::IsIgnored).unwrap();
    let stop = async {
        stop.await;
    };
    let disk = Box::new(HangingDisk(hang));
    let missing = MissingCheckpoint::Refuse;
    let panics = env::var_os(PANICS).is_some();
    let ready = || assert!(!panics, "on purpose");
    let ended = serve_on(disk, &loaded.config, missing, None, ready, stop).await;
    log::flush();
    // The exit code stands for the part that has ended.
    let part = ended.err().and_then(|error| error.part());
    std::process::exit(match part {
        None => 0,
        Some("serving thread") => 7,
        Some(_) => 8,
    });
}

/// The disk of the machine, until a file shows up.
struct HangingDisk(PathBuf);

impl HangingDisk {
    fn pass(&self) {
        while self.0.exists() {
            File::create(self.0.with_extension("hangs")).unwrap();
            thread::park();
        }
    }
}

impl Disk for HangingDisk {
    fn write(&mut self, file: &File, bytes: &[u8]) -> io::Result<()> {
        self.pass();
        SystemDisk.write(file, bytes)
    }

    fn sync(&mut self, file: BorrowedFd<'_>) -> io::Result<()> {
        self.pass();
        SystemDisk.sync(file)
    }

    fn rename(&mut self, directory: BorrowedFd<'_>, from: &OsStr, to: &OsStr) -> io::Result<()> {
        self.pass();
        SystemDisk.rename(directory, from, to)
    }
}
