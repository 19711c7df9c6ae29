//! Faults of files, users, processes and the socket.

use std::{
    fs::{self, File, Permissions},
    os::unix::{
        fs::{PermissionsExt as _, chown, symlink},
        net::UnixListener,
    },
    path::Path,
    process::{Child, Command, Stdio},
};

use rustix::process::{Signal, geteuid};
use serde_json::json;
use testkit::{
    fake::FakeOpenBao,
    files,
    openbao::shared_openbao,
    relay::{Line, Relay},
    wait::wait_until,
};

use super::site::{Site, give};
use crate::{doctor::fault::SERVICE_USER, provider::SOON};

/// A user without files and groups.
const STRANGER: u32 = 64999;

pub(super) fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// Ended when dropped.
pub(super) struct Process(pub(super) Child);

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

pub(super) async fn a_configuration_that_is_missing() {
    let mut site = Site::new().await;
    let (config, away) = (site.write_config(), site.file("away"));
    let triage = site.line("triage");
    // Without a terminal it names the values that it would ask for.
    site.tolerate("bao-kms-provider init", 3);
    site.rename(&config, &away).await;
    let steps = site.finds(&triage, "config_lost").await;
    site.rename(&away, &config).await;
    site.carries_out(&steps).await;
    site.clears(&triage, "config_lost").await;
}

pub(super) async fn a_configuration_with_an_invalid_setting() {
    let mut site = Site::new().await;
    let right = site.node.config["openbao"]["address"].clone();
    site.configure("/openbao/address", "http://127.0.0.1:8200");
    site.tolerate("bao-kms-provider config", 3);
    for line in ["triage", "doctor"] {
        let line = site.line(line);
        site.follows(&line, "config_invalid").await;
    }
    site.configure("/openbao/address", right);
    for line in ["triage", "doctor"] {
        let line = site.line(line);
        site.clears(&line, "config_invalid").await;
    }
}

pub(super) async fn a_directory_that_others_can_write() {
    let mut site = Site::new().await;
    let triage = site.line("triage");
    for (path, mode) in [
        (site.node.state_dir(), 0o770),
        (site.node.tenant.ca_file(), 0o666),
        (site.node.tenant.jwt_file(), 0o666),
    ] {
        set_mode(&path, mode);
        site.fixes(&triage, "node_misconfigured").await;
    }
}

pub(super) async fn a_process_that_holds_the_lock() {
    let mut site = Site::new().await;
    site.serve().await;
    site.stop().await;
    let lock = site.node.state_dir().join("key-registry.json.lock");
    let mut command = Command::new("flock");
    command.args(["--no-fork", "--exclusive"]).arg(&lock);
    command.args(["sleep", "600"]).stdin(Stdio::null());
    let mut holder = Process(command.spawn().unwrap());
    wait_until(SOON, "the lock", async || {
        let comm = fs::read_to_string(format!("/proc/{}/comm", holder.0.id()));
        comm.unwrap() == "sleep\n"
    })
    .await;
    let triage = site.line("triage");
    site.follows(&triage, "state_locked").await;
    holder.0.wait().unwrap();
    site.clears(&triage, "state_locked").await;
}

pub(super) async fn a_provider_that_is_stopped() {
    let mut site = Site::new().await;
    site.serve().await;
    site.stop().await;
    let triage = site.line("triage");
    site.fixes(&triage, "not_running").await;
    site.stop().await;
    let doctor = site.line("doctor");
    site.clears(&doctor, "not_running").await;
}

pub(super) async fn a_provider_that_hangs() {
    let mut site = Site::new().await;
    site.serve().await;
    site.tolerate("curl", 28);
    site.serving().signal(Signal::STOP);
    let probe = format!(
        "probe --timeout 1s --socket {}",
        site.node.sockets.socket().display()
    );
    let probe = site.line(&probe);
    site.fixes(&probe, "provider_unhealthy").await;
    site.serving().signal(Signal::STOP);
    let triage = site.line("triage");
    site.fixes(&triage, "provider_unhealthy").await;
}

pub(super) async fn a_socket_that_is_gone() {
    let mut site = Site::new().await;
    site.serve().await;
    site.tolerate("curl", 28);
    // It would bind the socket again.
    site.serving().signal(Signal::STOP);
    fs::remove_file(site.node.sockets.socket()).unwrap();
    let triage = site.line("triage");
    site.fixes(&triage, "socket_unusable").await;
}

pub(super) async fn a_user_without_the_permissions_of_the_provider() {
    if !geteuid().is_root() {
        return;
    }
    let mut site = Site::new().await;
    for command in ["triage", "doctor"] {
        let line = site.line_as(STRANGER, STRANGER, command);
        let steps = site.finds(&line, "not_permitted").await;
        site.carries_out(&steps).await;
        let sudo = format!("sudo {}", site.line(command));
        site.clears(&sudo, "not_permitted").await;
    }
    // A member of the provider's group can read everything.
    let line = site.line_as(STRANGER, SERVICE_USER, "doctor");
    site.follows(&line, "not_permitted").await;
    let sudo = format!("sudo {}", site.line("doctor"));
    site.clears(&sudo, "not_permitted").await;
}

pub(super) async fn files_that_the_provider_cannot_read() {
    if !geteuid().is_root() {
        return;
    }
    let mut site = Site::new().await;
    let doctor = site.line("doctor");
    set_mode(&site.node.tenant.ca_file(), 0o600);
    chown(site.node.tenant.jwt_file(), Some(0), Some(0)).unwrap();
    site.fixes(&doctor, "node_misconfigured").await;
}

pub(super) async fn a_start_as_root() {
    if !geteuid().is_root() {
        return;
    }
    let mut site = Site::new().await;
    let serve = site.line("serve");
    // It finds the state in use by the service.
    site.tolerate("sudo -u nobody bao-kms-provider serve", 5);
    let steps = site.finds(&serve, "state_of_other_user").await;
    assert_eq!(steps.len(), 2);
    assert!(!site.node.state_file().exists());
    site.carries_out(&steps).await;
    let triage = site.line("triage");
    site.clears(&triage, "state_of_other_user").await;
    // The service has its own files still.
    site.stop().await;
    site.serve().await;
}

pub(super) async fn a_jwt_with_other_claims() {
    let mut site = Site::new().await;
    let mut claims = site.node.tenant.claims();
    claims["sub"] = json!("other");
    site.write_jwt(&claims);
    let doctor = site.line("doctor");
    site.follows(&doctor, "jwt_claims").await;
    site.write_jwt(&site.node.tenant.claims());
    site.clears(&doctor, "jwt_claims").await;
}

pub(super) async fn a_provider_that_cannot_log_in() {
    let mut site = Site::new().await;
    site.serve().await;
    fs::remove_file(site.node.tenant.jwt_file()).unwrap();
    let path = format!(
        "sys/leases/revoke-prefix/auth/{}",
        site.node.tenant.jwt_mount
    );
    site.admin().await.write(&path, &json!({})).await.unwrap();
    wait_until(SOON, "a failed login", async || {
        let why = site.serving().health("/why").await.1;
        why["login"]["last_failure"]["detail"].is_string()
    })
    .await;
    let doctor = site.line("doctor");
    let steps = site.finds(&doctor, "provider_disconnected").await;
    site.write_jwt(&site.node.tenant.claims());
    site.carries_out(&steps).await;
    site.clears(&doctor, "provider_disconnected").await;
}

pub(super) async fn a_provider_whose_probes_fail() {
    let mut site = Site::new().await;
    let relay = Relay::to(&shared_openbao().await.endpoint()).await;
    let direct = site.node.config["openbao"]["address"].clone();
    site.configure("/openbao/address", relay.address.as_str());
    site.serve().await;
    relay.set(Line::Cut);
    wait_until(SOON, "a failed probe", async || {
        let why = site.serving().health("/why").await.1;
        why["metadata_probe"]["passed"] == false
            && why["openbao"][0]["peers"][0]["last_failure"]["class"] == "connection_failed"
    })
    .await;
    // The commands have a connection of their own, which works.
    site.configure("/openbao/address", direct);
    let doctor = site.line("doctor");
    site.fixes(&doctor, "provider_disconnected").await;
}

pub(super) async fn a_bundle_that_the_provider_has_not_loaded() {
    let mut site = Site::new().await;
    site.serve().await;
    wait_until(SOON, "a look at the bundle", async || {
        let why = site.serving().health("/why").await.1;
        why["files"][0]["hash_in_use"].is_string()
    })
    .await;
    let mut bundle = fs::read(site.node.tenant.ca_file()).unwrap();
    let other = FakeOpenBao::start([]).await;
    bundle.extend(other.ca_pem().as_bytes());
    files::replace(&site.node.tenant.ca_file(), &bundle, 0o644);
    let doctor = site.line("doctor");
    site.fixes(&doctor, "ca_bundle_outdated").await;
}

fn probe_of(site: &Site, options: &str) -> String {
    let socket = site.node.sockets.socket();
    format!("probe --socket {} {options}", socket.display())
}

pub(super) async fn a_probe_that_proves_too_little() {
    let mut site = Site::new().await;
    site.serve().await;
    // No other test on this machine has a process of this name.
    let name = format!("kas-{}", std::process::id());
    site.choose("kube-apiserver", name.clone());
    let as_process = probe_of(&site, &format!("--as-process {name}"));
    let as_process = site.line(&as_process);
    // No such process runs.
    site.tolerate("pgrep", 1);
    let steps = site.finds(&as_process, "process_unknown").await;
    let (look, repeat) = steps.split_at(1);
    site.carries_out(look).await;
    let file = site.file(&name);
    symlink("/bin/sleep", &file).unwrap();
    let mut command = Command::new(&file);
    command.arg("600").stdin(Stdio::null());
    let _process = Process(command.spawn().unwrap());
    wait_until(SOON, "the process", async || {
        let comm = Command::new("pgrep").arg(&name).output().unwrap();
        comm.status.success()
    })
    .await;
    site.carries_out(repeat).await;
    // Taking on the identity of another process needs root.
    if !geteuid().is_root() {
        return;
    }
    site.clears(&as_process, "process_unknown").await;
    let probe = probe_of(&site, "");
    let as_root = site.line(&probe);
    site.follows(&as_root, "probe_unproven").await;
    let as_owner = site.line_as(SERVICE_USER, SERVICE_USER, &probe);
    site.follows(&as_owner, "probe_unproven").await;
    site.clears(&as_process, "probe_unproven").await;
    site.clears(&as_process, "probe_unproven").await;
}

pub(super) async fn a_socket_without_access() {
    if !geteuid().is_root() {
        return;
    }
    let mut site = Site::new().await;
    site.serve().await;
    let probe = probe_of(&site, "");
    let denied = site.line_as(STRANGER, STRANGER, &probe);
    site.follows(&denied, "socket_denied").await;
    // In the group of the socket.
    let member = site.line_as(STRANGER, SERVICE_USER, &probe);
    site.clears(&member, "socket_denied").await;
}

pub(super) async fn a_key_id_that_was_not_expected() {
    let mut site = Site::new().await;
    site.serve().await;
    let other = format!("obk2.{}", "A".repeat(43));
    let probe = probe_of(&site, &format!("--expected-key-id {other}"));
    let probe = site.line(&probe);
    site.follows(&probe, "key_id_unexpected").await;
    let active = site.serving().status().await.key_id;
    let probe = probe_of(&site, &format!("--expected-key-id {active}"));
    let probe = site.line(&probe);
    site.clears(&probe, "key_id_unexpected").await;
}

pub(super) async fn a_provider_without_openbao() {
    let mut site = Site::new().await;
    let relay = Relay::to(&shared_openbao().await.endpoint()).await;
    site.configure("/openbao/address", relay.address.as_str());
    site.configure("/openbao/timeout", "1s");
    // Status stays healthy.
    site.configure(
        "/status",
        json!({"probeInterval": "1h", "statusMaxStaleness": "2h"}),
    );
    site.serve().await;
    relay.set(Line::Cut);
    let probe = probe_of(&site, "");
    let probe = site.line(&probe);
    wait_until(SOON, "a call without OpenBao", async || {
        site.serving().encrypt(b"seed").await.is_err()
    })
    .await;
    site.follows(&probe, "provider_unavailable").await;
    relay.set(Line::Open);
    wait_until(SOON, "OpenBao", async || {
        site.serving().encrypt(b"seed").await.is_ok()
    })
    .await;
    site.clears(&probe, "provider_unavailable").await;
}

pub(super) async fn a_listener_whose_port_is_taken() {
    let mut site = Site::new().await;
    let right = site.node.config["server"]["metricsAddress"].clone();
    let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = taken.local_addr().unwrap().to_string();
    site.configure("/server/metricsAddress", address);
    let serve = site.line_as(SERVICE_USER, SERVICE_USER, "serve");
    site.follows(&serve, "listener_unusable").await;
    site.configure("/server/metricsAddress", right);
    site.serve().await;
}

pub(super) async fn a_socket_of_another_process() {
    let mut site = Site::new().await;
    let socket = site.node.sockets.socket();
    let other = UnixListener::bind(&socket).unwrap();
    give(&socket);
    let serve = site.line_as(SERVICE_USER, SERVICE_USER, "serve");
    let steps = site.finds(&serve, "socket_not_opened").await;
    let (look, restart) = steps.split_at(steps.len() - 1);
    site.carries_out(look).await;
    drop(other);
    site.carries_out(restart).await;
    site.serving().status().await;
}

pub(super) async fn a_second_socket_of_another_process() {
    let mut site = Site::new().await;
    site.node.config["legacy"] = json!({"vaultKubernetesKms": {"providerName": "old-plugin"}});
    let second = site.node.sockets.path().join("vault-kubernetes-kms.sock");
    let other = UnixListener::bind(&second).unwrap();
    give(&second);
    site.serve().await;
    let triage = site.line("triage");
    site.follows(&triage, "legacy_socket_unusable").await;
    drop(other);
    let provider = site.service.as_mut().unwrap();
    provider.wait_for_event("socket.restored").await;
    site.clears(&triage, "legacy_socket_unusable").await;
}

pub(super) async fn a_socket_unit_with_another_file() {
    let mut site = Site::new().await;
    File::create(site.file("not-a-socket")).unwrap();
    let serve = site.line_as(SERVICE_USER, SERVICE_USER, "serve");
    let serve = format!("LISTEN_FDS=1 sh -c 'LISTEN_PID=$$ exec {serve}' 3<not-a-socket");
    site.follows(&serve, "socket_unit_invalid").await;
    site.serving().status().await;
}

pub(super) async fn a_command_line_with_an_unknown_option() {
    let mut site = Site::new().await;
    let line = site.line("triage --nonsense");
    let json = site.shell(&format!("{line} --output json")).await;
    let text = site.shell(&line).await;
    let report: serde_json::Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!(report["cause"], "invalid_usage");
    let command = report["nextSteps"][0]["command"].as_str().unwrap();
    // The parser's own words.
    assert!(text.err.contains("try '--help'"), "{}", text.err);
    let help = site.shell(command).await;
    assert_eq!(help.code, Some(0), "{}", help.err);
}
