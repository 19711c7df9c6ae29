//! Faults of the node: configuration, files, user, group, lock, state, socket.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Child, Command, Stdio},
};

use rustix::process::Signal;
use serde_json::json;
use testkit::{files, wait::wait_until};

use super::fault::Patient;
use crate::provider::SOON;

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

#[tokio::test]
async fn a_configuration_that_is_not_yaml() {
    let patient = Patient::new().await;
    let garbage = |path: &Path| files::replace(path, b"server: [", 0o640);
    patient.shows_after(garbage, 3, "config.load", "is not one YAML document");
    // The next run writes it anew.
    patient.is_well();
}

#[tokio::test]
async fn values_that_are_not_allowed_are_findings_one_by_one() {
    let mut patient = Patient::new().await;
    let good = patient.node.config.clone();
    patient.configure("/openbao/address", "http://127.0.0.1:8200");
    patient.configure("/status/probeInterval", "soon");
    let said = "must begin with https://";
    let found = patient.shows(3, "config.validate", said);
    found.says("bao-kms-provider config --config");
    let report = patient.node.run(&["doctor"]);
    for path in ["openbao.address", "status.probeInterval"] {
        let finding = format!("[fail] config.validate: Settings - {path} (line");
        assert!(report.out.contains(&finding), "{}", report.out);
    }
    patient.node.config = good;
    patient.is_well();
}

#[tokio::test]
async fn a_configuration_that_others_may_read() {
    let patient = Patient::new().await;
    let open = |path: &Path| chmod(path, 0o644);
    let found = patient.shows_after(open, 3, "config.files", "has mode 0644");
    found.says("chmod 0640").carried_out_cures(&patient).await;
}

#[tokio::test]
async fn a_jwt_that_others_may_read() {
    let patient = Patient::new().await;
    chmod(&patient.node.tenant.jwt_file(), 0o644);
    let found = patient.shows(3, "config.files", "auth.jwt.jwtFile");
    found.carried_out_cures(&patient).await;
}

#[tokio::test]
async fn a_jwt_that_nobody_has_written() {
    let patient = Patient::new().await;
    let tenant = &patient.node.tenant;
    fs::remove_file(tenant.jwt_file()).unwrap();
    let found = patient.shows(3, "config.files", "auth.jwt.jwtFile");
    found.says("start the software for the renewal");
    tenant.write_jwt(&tenant.claims());
    patient.is_well();
}

#[tokio::test]
async fn a_jwt_that_the_provider_may_not_read() {
    let mut patient = Patient::new().await;
    patient.give_to_service_user();
    chmod(&patient.node.tenant.jwt_file(), 0o200);
    let found = patient.shows(4, "process.identity", "node.jwt");
    found.carried_out_cures(&patient).await;
}

#[tokio::test]
async fn a_socket_directory_that_others_may_write() {
    let patient = Patient::new().await;
    chmod(patient.node.sockets.path(), 0o777);
    let found = patient.shows(3, "config.files", "server.socketPath");
    found.carried_out_cures(&patient).await;
}

#[tokio::test]
async fn a_state_directory_that_others_may_write() {
    let patient = Patient::stopped_at(1).await;
    chmod(&patient.node.state_dir(), 0o770);
    let found = patient.shows(3, "config.files", "state.path");
    found.carried_out_cures(&patient).await;
}

#[tokio::test]
async fn a_state_that_others_may_write() {
    let patient = Patient::stopped_at(1).await;
    chmod(&patient.node.state_file(), 0o666);
    let found = patient.shows(4, "registry.state", "has mode 0666");
    found.carried_out_cures(&patient).await;
}

/// Runs `doctor` with a file that names this provider and this socket.
fn with_encryption_config(patient: &mut Patient, name: &str, socket: &Path) {
    let kms = json!({"apiVersion": "v2", "name": name, "timeout": "15s",
        "endpoint": format!("unix://{}", socket.display())});
    let file = patient.node.tenant.path().join("encryption.yaml");
    let text = json!({
        "apiVersion": "apiserver.config.k8s.io/v1",
        "kind": "EncryptionConfiguration",
        "resources": [{"resources": ["secrets"], "providers": [{"kms": kms}]}],
    });
    files::replace(&file, text.to_string().as_bytes(), 0o600);
    patient.encryption_config = Some(file);
}

#[tokio::test]
async fn an_encryption_configuration_with_another_provider_name_or_socket() {
    const ID: &str = "kubernetes.encryption_config";
    let mut patient = Patient::new().await;
    let socket = patient.node.sockets.socket();
    with_encryption_config(&mut patient, "kms-renamed", &socket);
    let found = patient.shows(4, ID, "has the name \"kms-renamed\"");
    found
        .says("write name: kms-test in this file")
        .warns("do not change transit.keyIdScope.providerName");
    with_encryption_config(
        &mut patient,
        "kms-test",
        &socket.with_file_name("other.sock"),
    );
    let found = patient.shows(4, ID, "leads to another socket");
    found.says(&format!("write endpoint: unix://{}", socket.display()));
    with_encryption_config(&mut patient, "kms-test", &socket);
    patient.is_well();
}

#[tokio::test]
async fn a_ca_bundle_without_a_certificate() {
    let patient = Patient::new().await;
    let file = patient.node.tenant.ca_file();
    let good = fs::read(&file).unwrap();
    files::replace(&file, b"nothing", 0o644);
    let found = patient.shows(3, "config.files", "openbao.caCertFile");
    found.says("back, or correct openbao.caCertFile");
    files::replace(&file, &good, 0o644);
    patient.is_well();
}

#[tokio::test]
async fn a_socket_group_that_does_not_exist() {
    let mut patient = Patient::new().await;
    let good = patient.node.config["server"]["socketGroup"].clone();
    patient.configure("/server/socketGroup", "no-such-group");
    let found = patient.shows(4, "socket.group", "no group \"no-such-group\"");
    found.says("correct server.socketGroup");
    patient.configure("/server/socketGroup", good);
    patient.is_well();
}

#[tokio::test]
async fn a_socket_group_that_the_provider_is_not_in() {
    let mut patient = Patient::new().await;
    patient.give_to_service_user();
    let good = patient.node.config["server"]["socketGroup"].clone();
    patient.configure("/server/socketGroup", "3999999");
    let found = patient.shows(4, "socket.group", "is not in group 3999999");
    found.says("add the user to the group");
    patient.configure("/server/socketGroup", good);
    patient.is_well();
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
async fn another_process_that_has_locked_the_state() {
    let patient = Patient::stopped_at(1).await;
    let lock = patient.node.state_dir().join("key-registry.json.lock");
    let mut command = Command::new("flock");
    command.args(["--no-fork", "--exclusive"]).arg(&lock);
    command.args(["sleep", "600"]).stdin(Stdio::null());
    let mut holder = Process(command.spawn().unwrap());
    wait_until(SOON, "the lock", async || {
        let locks = fs::read_to_string("/proc/locks").unwrap();
        let comm = fs::read_to_string(format!("/proc/{}/comm", holder.0.id()));
        locks.contains(&format!(" {} ", holder.0.id())) && comm.unwrap() == "sleep\n"
    })
    .await;
    let said = format!("is locked by process {} (sleep)", holder.0.id());
    let found = patient.shows(4, "state.lock", &said);
    found.carry_out(&patient).await;
    // The end of a child shows only to its parent.
    holder.0.wait().unwrap();
    patient.is_well();
}

#[tokio::test]
async fn a_socket_that_nobody_serves() {
    let patient = Patient::new().await;
    let provider = patient.node.serve().await;
    patient.is_well();
    provider.signal(Signal::KILL);
    provider.ended().await;
    let found = patient.shows(4, "kms.status", "ended without a clean stop");
    found.says("systemctl start bao-kms-provider");
    let _provider = patient.node.serve().await;
    patient.is_well();
}

/// The bytes of state and checkpoint.
fn pair(patient: &Patient) -> [Vec<u8>; 2] {
    [patient.node.state_file(), patient.node.checkpoint()].map(|path| fs::read(path).unwrap())
}

fn restore(patient: &Patient, [state, checkpoint]: &[Vec<u8>; 2]) {
    files::replace(&patient.node.state_file(), state, 0o640);
    files::replace(&patient.node.checkpoint(), checkpoint, 0o640);
}

/// Both files of a node at version 1, and the node after it has gone on to version 2.
async fn rotated() -> (Patient, [Vec<u8>; 2]) {
    let patient = Patient::of(crate::node::Node::new(crate::node::TIMING).await);
    let provider = patient.node.serve().await;
    let older = pair(&patient);
    patient.node.rotate().await;
    wait_until(SOON, "the promotion", async || {
        provider.events("key.promoted").count() == 1
    })
    .await;
    provider.stop().await;
    (patient, older)
}

#[tokio::test]
async fn a_state_that_was_rolled_back_or_is_gone() {
    let (patient, older) = rotated().await;
    let newest = pair(&patient);
    for (seed, said) in [
        (Some(&older[0][..]), "generation"),
        (Some(b"{}"), "is not"),
        (None, "there is no state document"),
    ] {
        match seed {
            Some(bytes) => files::replace(&patient.node.state_file(), bytes, 0o640),
            None => fs::remove_file(patient.node.state_file()).unwrap(),
        }
        let found = patient.shows(4, "registry.state", said);
        found.says("recover-state --etcd-snapshot FILE");
        restore(&patient, &newest);
        patient.is_well();
    }
}

#[tokio::test]
async fn a_checkpoint_that_is_missing() {
    let (patient, _) = rotated().await;
    fs::remove_file(patient.node.checkpoint()).unwrap();
    let found = patient.shows(4, "registry.state", "the checkpoint is missing");
    found.says("serve --accept-missing-checkpoint");
    let mut provider = patient.node.spawn_with(&["--accept-missing-checkpoint"]);
    provider.ready().await;
    patient.is_well();
}

#[tokio::test]
async fn a_pair_that_is_missing_after_a_rotation() {
    let (patient, _) = rotated().await;
    let newest = pair(&patient);
    fs::remove_file(patient.node.state_file()).unwrap();
    fs::remove_file(patient.node.checkpoint()).unwrap();
    let found = patient.shows(4, "registry.state", "rotated to version 2");
    found.says("recover-state --etcd-snapshot FILE");
    restore(&patient, &newest);
    patient.is_well();
}

#[tokio::test]
async fn a_state_of_another_cluster() {
    let mut patient = Patient::stopped_at(1).await;
    patient.configure("/transit/keyIdScope/clusterId", "other");
    let found = patient.shows(4, "registry.state", "transit.keyIdScope.clusterId");
    found
        .says("change these settings")
        .warns("do not delete the state, and do not edit the evidence");
    patient.configure("/transit/keyIdScope/clusterId", "cluster-test");
    patient.is_well();
}

#[tokio::test]
async fn a_state_that_was_exchanged_under_a_running_provider() {
    let (patient, older) = rotated().await;
    let newest = pair(&patient);
    let _provider = patient.node.serve().await;
    restore(&patient, &older);
    let found = patient.shows(4, "kms.status", "but its state on disk says");
    found
        .says("put the files of the running provider back")
        .warns("do not restart a serving provider");
    restore(&patient, &newest);
    patient.is_well();
}
