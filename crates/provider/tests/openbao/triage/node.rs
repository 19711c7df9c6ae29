//! Faults of the node: configuration, user, files, credential, state, provider.

use std::{
    fs::{self, Permissions},
    os::unix::{fs::PermissionsExt as _, net::UnixListener, process::CommandExt as _},
    path::Path,
    process::{Child, Command, Stdio},
};

use rustix::process::{Signal, geteuid};
use serde_json::{Value, json};
use testkit::{files, wait::wait_until};

use super::case::{said, triage};
use crate::{
    node::{Finished, Node, QUIET, TIMING, program},
    provider::{Provider, SOON},
    upkeep::stopped_at,
};

#[tokio::test]
async fn a_node_that_serves_is_healthy() {
    let node = Node::new(QUIET).await;
    let _provider = node.serve().await;
    let said = triage(&node, &[], "healthy");
    assert_eq!(said.json["exitCode"], 0);
    assert_eq!(said.json["data"]["impact"], "none_lost");
    assert_eq!(said.json["warnings"], json!([]));
    assert_eq!(said.status("kms.round_trip"), "pass");
    assert!(said.text.contains("limitation: No etcd data was tried"));
    said.next("--encryption-config");
}

#[tokio::test]
async fn a_configuration_that_is_lost_is_put_back_with_its_names() {
    let node = Node::new(QUIET).await;
    let lost = node.state_dir().with_file_name("lost.yaml");
    let run = |options: &[&str]| -> Finished {
        let mut triage = program();
        triage.args(["triage", "--config"]).arg(&lost).args(options);
        triage.output().unwrap().into()
    };
    let path = lost.display().to_string();
    said(&run(&[]), &run(&["--output", "json"]), "config_lost")
        .means("none_lost", 3, "config.load")
        .next(&format!("restore {path}"))
        .next("keyLineageId")
        .next(&format!("triage --config {path}"));
    files::replace(&lost, b"server: [", 0o640);
    said(&run(&[]), &run(&["--output", "json"]), "config_invalid")
        .means("none_lost", 3, "config.load")
        .found("is not one YAML document");
}

#[tokio::test]
async fn a_configuration_that_is_not_valid_is_corrected() {
    let mut node = Node::new(QUIET).await;
    node.config["openbao"]["address"] = json!("http://127.0.0.1:8200");
    triage(&node, &[], "config_invalid")
        .means("none_lost", 3, "config.validate")
        .found("openbao.address")
        .next("bao-kms-provider config --config");
}

/// Each of them, since any one makes other key_ids and other associated data.
#[tokio::test]
async fn a_configuration_with_other_names_is_changed_back() {
    let (mut node, _) = stopped_at(1).await;
    let right = node.config.clone();
    for setting in [
        "/transit/keyIdScope/providerName",
        "/transit/keyIdScope/clusterId",
        "/openbao/instanceId",
        "/transit/keyIdScope/transitMountId",
        "/transit/keyIdScope/keyLineageId",
        "/transit/keyName",
        "/transit/mountPath",
    ] {
        *node.config.pointer_mut(setting).unwrap() = json!("other");
        let name = setting.trim_start_matches('/').replace('/', ".");
        triage(&node, &[], "identity_changed")
            .means("at_risk", 3, "config.identity")
            .found(&name)
            .next("back to the old names")
            .warns_first("delete the state, and do not edit the evidence");
        node.config = right.clone();
    }
    triage(&node, &[], "not_running");
}

#[tokio::test]
async fn a_user_that_may_not_look_is_told_so() {
    let (node, _) = stopped_at(1).await;
    let config = node.write_config();
    let run = |options: &[&str]| -> Finished {
        let mut triage = program();
        node.sockets.set_environment(&mut triage);
        triage
            .args(["triage", "--config"])
            .arg(&config)
            .args(options);
        if geteuid().is_root() {
            triage.uid(65534).gid(65534);
        }
        triage.output().unwrap().into()
    };
    let set_mode = |path: &Path, mode| {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    };
    if geteuid().is_root() {
        // Everything on the way is open but the configuration, then all but the state.
        set_mode(config.parent().unwrap(), 0o755);
    } else {
        set_mode(&config, 0o000);
    }
    said(&run(&[]), &run(&["--output", "json"]), "not_permitted")
        .means("unknown", 5, "config.load")
        .next("sudo bao-kms-provider triage --config");
    if geteuid().is_root() {
        set_mode(&config, 0o644);
        said(&run(&[]), &run(&["--output", "json"]), "not_permitted")
            .means("unknown", 5, "process.identity")
            .found("has no access to")
            .next("sudo bao-kms-provider triage --config");
    }
    set_mode(&config, 0o640);
}

/// As on a real node, where the state belongs to the provider's user and evidence to root.
#[tokio::test]
async fn root_and_the_provider_s_user_see_the_same() {
    if !geteuid().is_root() {
        return;
    }
    let (mut node, _) = stopped_at(1).await;
    node.config["server"]["socketGroup"] = json!("65534");
    let config = node.write_config();
    let directory = config.parent().unwrap();
    for owned in [directory, node.tenant.path(), node.sockets.path()] {
        let mut chown = Command::new("chown");
        let done = chown.args(["-R", "65534:65534"]).arg(owned).status();
        assert!(done.unwrap().success());
    }
    let run = |user: u32, options: &[&str]| -> Finished {
        let mut triage = program();
        node.sockets.set_environment(&mut triage);
        triage
            .args(["triage", "--config"])
            .arg(&config)
            .args(options);
        triage.uid(user).gid(user).output().unwrap().into()
    };
    for user in [0, 65534] {
        let json = run(user, &["--output", "json"]);
        let found = said(&run(user, &[]), &json, "not_running");
        assert_eq!(found.status("process.identity"), "pass", "{}", found.text);
        assert_eq!(found.status("kms.status_encrypt"), "pass");
    }
    // What only root may open is opened before root becomes the provider's user.
    let evidence = tempfile::NamedTempFile::new().unwrap();
    let options = ["--etcd-snapshot", evidence.path().to_str().unwrap()];
    let json = run(0, &[&options[..], &["--output", "json"]].concat());
    said(&run(0, &options), &json, "evidence_unusable").means("unknown", 5, "etcd.decrypt");
    run(65534, &options).assert_refused(5, &["cannot open the etcd snapshot"]);
}

#[tokio::test]
async fn a_file_that_others_may_write_is_mended() {
    let (node, _) = stopped_at(1).await;
    let state = node.state_dir();
    fs::set_permissions(&state, Permissions::from_mode(0o770)).unwrap();
    triage(&node, &[], "node_misconfigured")
        .means("none_lost", 3, "config.files")
        .next(&format!("chmod 0750 {}", state.display()));
    fs::set_permissions(&state, Permissions::from_mode(0o750)).unwrap();
    triage(&node, &[], "not_running");
}

#[tokio::test]
async fn a_jwt_that_is_missing_or_expired_is_issued_anew() {
    let node = Node::new(QUIET).await;
    let _provider = node.serve().await;
    let tenant = &node.tenant;
    let file = tenant.jwt_file();
    fs::remove_file(&file).unwrap();
    let emergency = format!(
        "emergency issuer with the same claims at {}",
        file.display()
    );
    triage(&node, &[], "jwt_unusable")
        .means("none_lost", 3, "config.files")
        .next(&emergency);
    let mut claims = tenant.claims();
    claims["exp"] = json!(claims["iat"].as_u64().unwrap() - 600);
    claims["iat"] = json!(claims["exp"].as_u64().unwrap() - 600);
    tenant.write_jwt(&claims);
    let said = triage(&node, &[], "jwt_unusable");
    said.means("none_lost", 4, "jwt.local")
        .found("it expired")
        .next("have a new JWT issued")
        .next(&emergency);
    // It goes on with the token that it has.
    assert_eq!(said.status("provider.socket"), "pass");
    assert!(
        said.text
            .contains("continues to serve until its token expires")
    );
    tenant.write_jwt(&tenant.claims());
    triage(&node, &[], "healthy");
}

/// Ended when dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[tokio::test]
async fn a_process_that_has_locked_the_state_is_ended_and_its_file_kept() {
    let (node, _) = stopped_at(1).await;
    let lock = node.state_dir().join("key-registry.json.lock");
    let mut command = Command::new("flock");
    command.args(["--no-fork", "--exclusive"]).arg(&lock);
    command.args(["sleep", "600"]).stdin(Stdio::null());
    let holder = Process(command.spawn().unwrap());
    wait_until(SOON, "the lock", async || {
        let locks = fs::read_to_string("/proc/locks").unwrap();
        let comm = fs::read_to_string(format!("/proc/{}/comm", holder.0.id()));
        locks.contains(&format!(" {} ", holder.0.id())) && comm.unwrap() == "sleep\n"
    })
    .await;
    triage(&node, &[], "state_locked")
        .means("none_lost", 4, "state.lock")
        .next(&format!("kill {}", holder.0.id()))
        .warns_first("delete the lock file");
}

fn pair(node: &Node) -> [Vec<u8>; 2] {
    [node.state_file(), node.checkpoint()].map(|path| fs::read(path).unwrap())
}

fn restore(node: &Node, [state, checkpoint]: &[Vec<u8>; 2]) {
    files::replace(&node.state_file(), state, 0o640);
    files::replace(&node.checkpoint(), checkpoint, 0o640);
}

/// A node at version 2 whose provider is stopped, and its files as they were at version 1.
async fn rotated() -> (Node, [Vec<u8>; 2]) {
    let node = Node::new(TIMING).await;
    let provider = node.serve().await;
    let older = pair(&node);
    node.rotate().await;
    wait_until(SOON, "the promotion", async || {
        provider.events("key.promoted").count() == 1
    })
    .await;
    provider.stop().await;
    (node, older)
}

#[tokio::test]
async fn a_state_that_is_gone_after_a_rotation_is_restored_or_recovered() {
    let (node, _) = rotated().await;
    let newest = pair(&node);
    fs::remove_file(node.state_file()).unwrap();
    let state = node.state_file().display().to_string();
    let said = triage(&node, &[], "state_lost");
    // The checkpoint is there, and nothing shows that the key is the original one.
    said.means("unknown", 4, "registry.state")
        .found("there is no state document")
        .next(&format!("put {state} and {state}.checkpoint back together"))
        .next("recover-state --etcd-snapshot FILE --config")
        .warns_first("restart a serving provider");
    fs::remove_file(node.checkpoint()).unwrap();
    let said = triage(&node, &[], "state_lost");
    said.means("unknown", 4, "registry.state")
        .found("rotated to version 2")
        .next("recover-state");
    assert!(
        said.text
            .contains("limitation: Without state, record and etcd data")
    );
    restore(&node, &newest);
    triage(&node, &[], "not_running");
}

#[tokio::test]
async fn a_state_that_vanishes_under_its_provider_is_lost_though_it_serves() {
    let node = Node::new(QUIET).await;
    let _provider = node.serve().await;
    let files = pair(&node);
    fs::remove_file(node.state_file()).unwrap();
    fs::remove_file(node.checkpoint()).unwrap();
    triage(&node, &[], "state_lost")
        .means("unknown", 4, "registry.state")
        .found("still serves from memory")
        .warns_first("restart a serving provider");
    restore(&node, &files);
    triage(&node, &[], "healthy");
}

#[tokio::test]
async fn a_state_that_is_older_damaged_or_unanchored_is_not_believed() {
    let (node, older) = rotated().await;
    let newest = pair(&node);
    files::replace(&node.state_file(), &older[0], 0o640);
    triage(&node, &[], "state_rolled_back")
        .means("at_risk", 4, "registry.state")
        .found("an older document was put in place")
        .next("put ")
        .next("recover-state")
        .warns_first("--accept-missing-checkpoint");
    files::replace(&node.state_file(), b"{}", 0o640);
    triage(&node, &[], "state_corrupt")
        .means("unknown", 4, "registry.state")
        .next("recover-state");
    let newer = String::from_utf8(newest[0].clone()).unwrap();
    let newer = newer
        .replace("/v1alpha2", "/v9")
        .replacen('{', "{\"new\": 1, ", 1);
    files::replace(&node.state_file(), newer.as_bytes(), 0o640);
    triage(&node, &[], "state_other_release")
        .means("none_lost", 4, "registry.state")
        .found("written by a newer release")
        .next("use the newer release")
        .warns_first("do not edit, delete or rebuild");
    restore(&node, &newest);
    fs::remove_file(node.checkpoint()).unwrap();
    triage(&node, &[], "checkpoint_lost")
        .means("none_lost", 4, "registry.state")
        .next("inspect-state")
        .warns_first("--accept-missing-checkpoint");
    restore(&node, &newest);
    triage(&node, &[], "not_running");
}

#[tokio::test]
async fn a_state_that_was_exchanged_under_its_provider_is_put_back_before_a_restart() {
    let (node, older) = rotated().await;
    let newest = pair(&node);
    let _provider = node.serve().await;
    restore(&node, &older);
    triage(&node, &[], "state_replaced")
        .means("at_risk", 4, "kms.status")
        .next("put the files of the running provider back")
        .warns_first("restart a serving provider");
    restore(&node, &newest);
    triage(&node, &[], "healthy");
}

#[tokio::test]
async fn a_provider_that_does_not_run_is_started() {
    let (node, _) = stopped_at(1).await;
    let said = triage(&node, &[], "not_running");
    said.means("none_lost", 4, "provider.running")
        .next("systemctl start bao-kms-provider")
        .next("journalctl");
    assert_eq!(said.status("provider.process"), "warn");
    // Killed, it leaves its socket behind.
    let provider = node.serve().await;
    provider.signal(Signal::KILL);
    provider.ended().await;
    triage(&node, &[], "not_running")
        .means("none_lost", 4, "provider.running")
        .found("ended without a clean stop");
}

#[tokio::test]
async fn a_socket_that_was_removed_is_missed() {
    let node = Node::new(QUIET).await;
    let provider = Frozen(node.serve().await);
    // It would bind the socket again.
    provider.0.signal(Signal::STOP);
    let socket = node.sockets.socket();
    fs::remove_file(&socket).unwrap();
    let said = triage(&node, &[], "socket_unusable");
    said.means("none_lost", 4, "kms.status")
        .found(&format!("there is no socket {}", socket.display()))
        .next("systemctl restart bao-kms-provider");
    assert_eq!(said.status("provider.process"), "pass");
    assert_eq!(said.status("provider.socket"), "warn");
    let doctor = node.run(&["doctor", "--output", "json"]);
    doctor.assert_told(4, &["there is no socket", r#""cause": "socket_unusable""#]);
}

#[tokio::test]
async fn a_provider_that_does_not_run_is_told_from_its_socket_unit() {
    let (node, _) = stopped_at(1).await;
    let socket = node.sockets.socket();
    let _kept_by_systemd = UnixListener::bind(&socket).unwrap();
    fs::set_permissions(&socket, Permissions::from_mode(0o660)).unwrap();
    triage(&node, &[], "not_running")
        .means("none_lost", 4, "kms.status")
        .found("systemd's socket unit may keep the socket")
        .next("systemctl start bao-kms-provider");
}

/// Stopped by a signal and continued when dropped, so that it can end.
struct Frozen(Provider);

impl Drop for Frozen {
    fn drop(&mut self) {
        self.0.signal(Signal::CONT);
    }
}

#[tokio::test]
async fn a_provider_that_hangs_is_restarted() {
    let node = Node::new(QUIET).await;
    let provider = Frozen(node.serve().await);
    provider.0.signal(Signal::STOP);
    // It waits for answers, so it is run but once.
    let json = node.run(&["triage", "--output", "json"]);
    assert_eq!(json.code, Some(4), "{}", json.err);
    let report: Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!(report["verdict"], "provider_unhealthy");
    assert_eq!(report["data"]["impact"], "none_lost");
    assert_eq!(report["stoppedAt"], "kms.status");
    let steps = report["nextSteps"].to_string();
    assert!(steps.contains("systemctl restart"), "{steps}");
}

/// kube-apiserver's file is found by its manifest, and is evaluated once the provider serves.
#[tokio::test]
async fn a_kube_apiserver_that_calls_another_provider_is_found() {
    let node = Node::new(QUIET).await;
    let _provider = node.serve().await;
    let root = tempfile::TempDir::new().unwrap();
    let below_root = |path: &str, content: &Value| {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        files::replace(&path, content.to_string().as_bytes(), 0o644);
    };
    below_root(
        "etc/kubernetes/manifests/kube-apiserver.yaml",
        &json!({"spec": {
            "containers": [{
                "command": ["kube-apiserver", "--encryption-provider-config=/enc/config.yaml"],
                "volumeMounts": [{"name": "enc", "mountPath": "/enc"}],
            }],
            "volumes": [{"name": "enc", "hostPath": {"path": "/etc/kubernetes/enc"}}],
        }}),
    );
    let encryption_config = |name: &Value, socket: &str| {
        let kms = json!({
            "apiVersion": "v2", "name": name, "endpoint": format!("unix://{socket}"),
            "timeout": "11s",
        });
        let file = json!({
            "apiVersion": "apiserver.config.k8s.io/v1", "kind": "EncryptionConfiguration",
            "resources": [{"resources": ["secrets"], "providers": [{"kms": kms}]}],
        });
        below_root("etc/kubernetes/enc/config.yaml", &file);
    };
    let options = ["--node-root", root.path().to_str().unwrap()];
    let name = node.config["transit"]["keyIdScope"]["providerName"].clone();
    let socket = node.config["server"]["socketPath"].as_str().unwrap();

    encryption_config(&json!("renamed"), socket);
    triage(&node, &options, "provider_name")
        .means("at_risk", 4, "kubernetes.encryption_config")
        .found("etc/kubernetes/enc/config.yaml (/etc/kubernetes/manifests/kube-apiserver.yaml)")
        .found("has the name \"renamed\"")
        .next("triage --config");
    encryption_config(&name, "/run/other/kms.sock");
    triage(&node, &options, "provider_endpoint")
        .means("at_risk", 4, "kubernetes.encryption_config")
        .found("leads to another socket than server.socketPath")
        .next(&format!(" --node-root {}", root.path().display()));
    encryption_config(&name, socket);
    let said = triage(&node, &options, "healthy");
    assert!(
        !said.text.contains("restart kube-apiserver"),
        "{}",
        said.text
    );
    assert!(["pass", "warn"].contains(&said.status("kubernetes.encryption_config")));

    encryption_config(&json!("renamed"), socket);
    let file = root.path().join("etc/kubernetes/enc/config.yaml");
    let given = ["--encryption-config", file.to_str().unwrap()];
    triage(&node, &given, "provider_name").found("has the name \"renamed\"");
}
