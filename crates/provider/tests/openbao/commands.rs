//! The commands that need a running provider or a server of their own: `probe` and `dev`.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use openbao_lab::port::free_port;
use rustix::process::{Signal, geteuid};
use serde_json::{Value, json};
use testkit::{
    files::{self, SocketDir},
    openbao::{OpenBao, binary, shared_openbao},
    schema::assert_published,
    wait::wait_until,
};
use tokio::net::TcpStream;

use crate::{
    node::{Finished, Node, QUIET, TIMING, program},
    provider::{Provider, SOON},
};

fn probe(socket: &Path, options: &[&str]) -> Finished {
    let mut command = program();
    command.arg("probe").arg("--socket").arg(socket);
    command.args(options).output().unwrap().into()
}

/// The status of each check of a JSON report.
fn checks(report: &Finished) -> BTreeMap<String, String> {
    let report: Value = serde_json::from_str(&report.out).unwrap();
    assert_published(&report);
    let text = |check: &Value, member: &str| check[member].as_str().unwrap().to_owned();
    let checks = report["checks"].as_array().unwrap();
    checks
        .iter()
        .map(|check| (text(check, "id"), text(check, "status")))
        .collect()
}

/// Asserts that the probe failed at this check with this message, and tried nothing after it.
#[track_caller]
fn assert_failed_at(socket: &Path, options: &[&str], check: &str, said: &str) {
    let text = probe(socket, options);
    assert_eq!(text.code, Some(4), "{}", text.err);
    assert!(text.out.contains(said), "{said:?} is missing: {}", text.out);
    assert_eq!(text.err, "");

    let json = probe(socket, &[options, &["--output", "json"]].concat());
    assert_eq!(json.code, Some(4), "{}", json.err);
    let checks = checks(&json);
    assert_eq!(checks[check], "fail", "{checks:?}");
    let failed = checks.values().filter(|status| *status == "fail").count();
    assert_eq!(failed, 1, "{checks:?}");
    if check != "kms.decrypt" && check != "kms.key_id" {
        let tried = checks
            .get("kms.decrypt")
            .is_some_and(|status| status != "skip");
        assert!(!tried, "{checks:?}");
    }
}

#[tokio::test]
async fn a_probe_of_a_healthy_provider_passes_in_text_and_json() {
    let node = Node::new(QUIET).await;
    let provider = node.serve().await;
    let socket = node.sockets.socket();
    let key_id = provider.status().await.key_id;
    let text = probe(&socket, &["--expected-key-id", &key_id]);
    assert_eq!(text.code, Some(0), "{}", text.out);
    assert!(text.out.contains(&key_id), "{}", text.out);
    assert!(text.out.contains("89 bytes (vault:v1:...)"), "{}", text.out);

    let report = probe(&socket, &["--output", "json"]);
    assert_eq!(report.code, Some(0), "{}", report.out);
    let mut checks = checks(&report);
    // Root proves nothing about others, and an owner nothing about the group.
    let own = if geteuid().is_root() {
        ("client.identity", "warn")
    } else {
        ("socket.access_scope", "warn")
    };
    assert_eq!(checks.remove(own.0).as_deref(), Some(own.1));
    assert!(checks.len() >= 5, "{checks:?}");
    assert!(checks.values().all(|status| status == "pass"), "{checks:?}");
    let encrypted = r#"grpc_requests_total{method="encrypt",status="ok"}"#;
    assert_eq!(provider.metric(encrypted).await, 2.0);
}

#[tokio::test]
async fn a_probe_says_what_is_wrong_with_the_socket() {
    let node = Node::new(QUIET).await;
    let socket = node.sockets.socket();
    assert_failed_at(&socket, &[], "socket.path", "does not exist");
    files::replace(&socket, b"", 0o640);
    assert_failed_at(&socket, &[], "socket.path", "is not a socket");
    fs::remove_file(&socket).unwrap();

    let provider = node.serve().await;
    provider.signal(Signal::KILL);
    provider.ended().await;
    assert_failed_at(&socket, &[], "kms.status", "no process serves the socket");
}

#[tokio::test]
async fn a_probe_waits_for_a_provider_that_starts() {
    let node = Node::new(QUIET).await;
    let socket = node.sockets.socket();
    let late = probe(&socket, &["--wait", "300ms", "--interval", "100ms"]);
    assert_eq!(late.code, Some(4), "{}", late.err);
    assert!(late.out.contains("does not exist"), "{}", late.out);

    let mut command = program();
    command.arg("probe").arg("--socket").arg(&socket);
    command.args(["--wait", "1m", "--interval", "100ms", "--quiet"]);
    let waiting = command.stdout(Stdio::piped()).spawn().unwrap();
    let provider = node.serve().await;
    let waited = waiting.wait_with_output().unwrap();
    assert_eq!((waited.status.code(), &*waited.stdout), (Some(0), &b""[..]));
    provider.stop().await;
}

#[tokio::test]
async fn a_probe_fails_on_an_unhealthy_provider_and_on_another_key() {
    let node = Node::new(TIMING).await;
    let provider = node.serve().await;
    let socket = node.sockets.socket();
    let key_id = provider.status().await.key_id;
    let other = format!("obk2.{}", "A".repeat(43));
    let expect_other = ["--expected-key-id", &other];
    assert_failed_at(&socket, &expect_other, "kms.key_id", &key_id);
    let malformed = probe(&socket, &["--expected-key-id", "obk2.short"]);
    assert_eq!(malformed.code, Some(2), "{}", malformed.err);

    let path = format!("{}/config/keys", node.tenant.transit_mount);
    let admin = shared_openbao().await.admin();
    let body = json!({"disable_upsert": false});
    admin.write(&path, &body).await.unwrap();
    provider.wait_for_reasons(&["upsert_allowed"]).await;
    assert_failed_at(&socket, &[], "kms.status", "Status is not ok");
}

#[tokio::test]
async fn a_probe_that_runs_out_of_time_names_the_call_that_hangs() {
    let server = OpenBao::start().await;
    let node = Node::on(&server, QUIET).await;
    let provider = node.serve().await;
    let socket = node.sockets.socket();
    // Shorter than the provider itself waits for OpenBao.
    let limit = ["--timeout", "1500ms"];
    let said = "gRPC code DeadlineExceeded";

    let hung = server.hang();
    assert_failed_at(&socket, &limit, "kms.encrypt", said);
    drop(hung);
    let answered = probe(&socket, &[]);
    assert_eq!(answered.code, Some(0), "{}", answered.out);

    provider.signal(Signal::STOP);
    assert_failed_at(&socket, &limit, "kms.status", said);
}

/// A process that runs as long as this value, under a name that no other process has.
struct Bystander {
    child: Child,
    name: String,
}

impl Bystander {
    /// `identity` is user and group; only root can give another than its own.
    fn start(role: &str, identity: Option<(u32, u32)>) -> Self {
        let name = format!("bystander-{role}-{}", std::process::id());
        let mut command = Command::new("sleep");
        command.arg("600").arg0(&name).stdin(Stdio::null());
        if let Some((uid, gid)) = identity {
            command.uid(uid).gid(gid);
        }
        let child = command.spawn().unwrap();
        Self { child, name }
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[tokio::test]
async fn a_probe_as_another_process_shows_what_that_one_may_do() {
    const OTHER_USER: u32 = 65534;
    let node = Node::new(QUIET).await;
    let _provider = node.serve().await;
    let socket = node.sockets.socket();
    let missing = ["--as-process", "no-such-process"];
    let said = "no process named no-such-process";
    assert_failed_at(&socket, &missing, "client.identity", said);

    if !geteuid().is_root() {
        let own = Bystander::start("own", None);
        let options = ["--as-process", &own.name];
        let said = "run this command as root";
        assert_failed_at(&socket, &options, "client.identity", said);
        return;
    }
    let group = fs::metadata(&socket).unwrap().gid();
    let member = Bystander::start("member", Some((OTHER_USER, group)));
    let report = probe(&socket, &["--as-process", &member.name]);
    assert_eq!(report.code, Some(0), "{}", report.out);
    let identity = format!("uid={OTHER_USER} gid={group} groups=");
    assert!(report.out.contains(&identity), "{}", report.out);

    let stranger = Bystander::start("stranger", Some((OTHER_USER, OTHER_USER)));
    let options = ["--as-process", &stranger.name];
    let denied = format!("is denied to uid={OTHER_USER}");
    assert_failed_at(&socket, &options, "socket.path", &denied);

    let _twin = Bystander::start("member", Some((OTHER_USER, group)));
    let options = ["--as-process", &member.name];
    assert_failed_at(&socket, &options, "client.identity", "2 processes named");
}

/// `dev` with the tests' OpenBao, in a new directory below `parent`.
fn dev(sockets: &SocketDir, directory: &Path, options: &[&str]) -> Command {
    let mut command = program();
    sockets.set_environment(&mut command);
    command.arg("dev").args(options).arg("--dir").arg(directory);
    command.arg("--bao").arg(binary().path());
    command
}

/// A private directory, removed on drop, and the path of a lab below it.
fn place() -> (tempfile::TempDir, PathBuf) {
    let parent = tempfile::tempdir().unwrap();
    let lab = parent.path().join("lab");
    (parent, lab)
}

#[tokio::test]
async fn a_lab_makes_one_round_trip_and_leaves_nothing() {
    let (_parent, lab) = place();
    let sockets = SocketDir::new();
    let text: Finished = dev(&sockets, &lab, &["--once"]).output().unwrap().into();
    assert_eq!(text.code, Some(0), "{}", text.err);
    assert!(text.out.contains("vault:v1:..."), "{}", text.out);
    assert!(text.out.contains("stopped and removed"), "{}", text.out);
    assert!(!lab.exists());
}

#[tokio::test]
async fn a_lab_can_be_kept_to_look_at() {
    let (_parent, lab) = place();
    let sockets = SocketDir::new();
    let options = ["--once", "--keep", "--output", "json"];
    let kept: Finished = dev(&sockets, &lab, &options).output().unwrap().into();
    let summary = kept.json();
    assert_eq!(summary["command"], "dev");
    assert_eq!(summary["ciphertextPrefix"], "vault:v1:");
    assert_eq!(summary["kept"], lab.to_str().unwrap());
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&lab), 0o700);
    assert_eq!(mode(&lab.join("root-token")), 0o600);
    // The program's umask would take the group's and everybody's share.
    assert_eq!(mode(&lab.join("state")), 0o750);
    assert_eq!(mode(&lab.join("config.yaml")), 0o640);
    assert_eq!(mode(&lab.join("encryption-config.yaml")), 0o644);
    let state = lab.join("state/key-registry.json");
    let mut inspect = program();
    inspect.arg("inspect-state").arg(&state);
    let inspected: Finished = inspect.output().unwrap().into();
    assert_eq!(inspected.code, Some(0), "{}", inspected.err);

    let again: Finished = dev(&sockets, &lab, &["--once"]).output().unwrap().into();
    again.assert_refused(1, &["exists already and is left alone"]);
    assert!(state.exists());
}

#[tokio::test]
async fn a_lab_serves_until_it_is_interrupted_and_takes_everything_with_it() {
    let (parent, lab) = place();
    let sockets = SocketDir::new();
    let command = dev(&sockets, &lab, &["--output", "json"]);
    let mut provider = Provider::spawn(command, parent.path(), sockets.socket());
    wait_until(SOON, "the lab", async || {
        provider.assert_running();
        provider.out().ends_with("}\n")
    })
    .await;
    let made: Value = serde_json::from_str(&provider.out()).unwrap();
    assert_published(&made);
    let socket = PathBuf::from(made["socket"].as_str().unwrap());
    assert_eq!(made["directory"], lab.to_str().unwrap());
    let report = probe(&socket, &[]);
    assert_eq!(report.code, Some(0), "{}", report.out);
    let address = made["baoAddr"].as_str().unwrap();
    let address = address.trim_start_matches("https://").to_owned();
    TcpStream::connect(&address).await.unwrap();

    provider.signal(Signal::INT);
    let stopped = provider.ended().await;
    assert_eq!(stopped.code, Some(0), "{}", stopped.err);
    assert!(!lab.exists());
    assert!(!socket.parent().unwrap().exists());
    assert!(TcpStream::connect(&address).await.is_err(), "bao runs on");
}

#[tokio::test]
async fn a_lab_takes_the_flags_of_logging_and_listeners_and_refuses_a_configuration() {
    let (parent, lab) = place();
    let sockets = SocketDir::new();
    let address = format!("127.0.0.1:{}", free_port().unwrap());
    let flags = ["--log-level", "debug", "--health-address", &address];
    let flags = [&flags[..], &["--metrics-address", ""]].concat();
    let command = dev(&sockets, &lab, &flags);
    let mut provider = Provider::spawn(command, parent.path(), sockets.socket());
    wait_until(SOON, "the lab", async || {
        provider.assert_running();
        provider.log().contains(" serve.ready")
    })
    .await;
    TcpStream::connect(&address).await.unwrap();
    let log = provider.log();
    assert!(log.contains(" debug openbao.request "), "{log}");
    assert!(!log.contains("metrics.listening"), "{log}");
    provider.signal(Signal::INT);
    assert_eq!(provider.ended().await.code, Some(0));

    for (flags, code, said) in [
        (
            ["--config", "/etc/openbao-kms/config.yaml"],
            2,
            "--config has no effect",
        ),
        (["--log-level", "loud"], 3, "(from --log-level)"),
    ] {
        let refused: Finished = dev(&sockets, &lab, &flags).output().unwrap().into();
        assert_eq!(refused.code, Some(code), "{}", refused.err);
        assert!(refused.err.contains(said), "{}", refused.err);
        assert!(!lab.exists());
    }
}

#[test]
fn a_lab_is_refused_among_production_files_and_without_a_bao() {
    let sockets = SocketDir::new();
    for directory in ["/etc/openbao-kms-lab", "/var/lib/openbao-kms-lab"] {
        let refused = dev(&sockets, Path::new(directory), &["--once"]);
        let refused: Finished = { refused }.output().unwrap().into();
        refused.assert_refused(1, &[directory, "a place for real configuration"]);
        assert!(!Path::new(directory).exists());
    }
    let (parent, _) = place();
    for options in [&[][..], &["--bao", "/nonexistent/bao"]] {
        let mut command = program();
        command.args(["dev", "--once"]).args(options);
        let refused = command.current_dir(parent.path()).output().unwrap();
        let refused = Finished::from(refused);
        refused.assert_refused(1, &["cargo xtask tools", "BAO_BIN"]);
    }
}
