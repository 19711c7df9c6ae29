//! Faults of OpenBao, its certificate, the login and the policy.

use std::{
    fs,
    net::{TcpListener, TcpStream},
    process::{Command, Stdio},
};

use openbao_lab::{admin::login::JwtRole, port::free_port};
use serde_json::json;
use testkit::{
    fake::FakeOpenBao,
    files,
    openbao::shared_openbao,
    pki::Authority,
    tenant::{ROLE, SUBJECT},
    wait::wait_until,
};

use super::{node::Process, site::Site};
use crate::provider::SOON;

pub(super) async fn a_server_that_is_not_there() {
    let mut site = Site::new().await;
    let right = site.node.config["openbao"]["address"].clone();
    let closed = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = format!("https://{}", closed.local_addr().unwrap());
    drop(closed);
    site.configure("/openbao/address", address);
    // Of a server that does not answer.
    site.tolerate("bao status", 1);
    let triage = site.line("triage");
    site.follows(&triage, "openbao_unreachable").await;
    site.configure("/openbao/address", right);
    site.clears(&triage, "openbao_unreachable").await;
}

pub(super) async fn another_software_at_the_address() {
    let mut site = Site::new().await;
    let right = site.node.config["openbao"].clone();
    let authority = Authority::new(site.home.path());
    authority.server("web");
    let port = free_port().unwrap().to_string();
    let mut server = Command::new("openssl");
    server.args([
        "s_server", "-quiet", "-www", "-cert", "web.crt", "-key", "web.key",
    ]);
    server
        .args(["-accept", &port])
        .current_dir(site.home.path());
    let server = server.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
    let _server = Process(server.unwrap());
    wait_until(SOON, "the web server", async || {
        TcpStream::connect(format!("127.0.0.1:{port}")).is_ok()
    })
    .await;
    let ca = fs::read(site.file("ca.crt")).unwrap();
    files::replace(&site.node.tenant.ca_file(), &ca, 0o644);
    site.configure("/openbao/address", format!("https://127.0.0.1:{port}"));
    // Another name of its certificate.
    site.configure("/openbao/tlsServerName", "localhost");
    let triage = site.line("triage");
    site.follows(&triage, "not_openbao").await;
    site.configure("/openbao", right);
    let ca = fs::read(shared_openbao().await.ca_file()).unwrap();
    files::replace(&site.node.tenant.ca_file(), &ca, 0o644);
    site.clears(&triage, "not_openbao").await;
}

pub(super) async fn a_certificate_of_another_authority() {
    let mut site = Site::new().await;
    let other = FakeOpenBao::start([]).await;
    let ca = site.node.tenant.ca_file();
    let right = fs::read(&ca).unwrap();
    files::replace(&ca, other.ca_pem().as_bytes(), 0o644);
    let triage = site.line("triage");
    site.follows(&triage, "openbao_untrusted").await;
    files::replace(&ca, &right, 0o644);
    site.clears(&triage, "openbao_untrusted").await;
}

pub(super) async fn a_server_that_is_sealed() {
    let mut site = Site::alone().await;
    site.server.as_mut().unwrap().seal().await;
    for line in ["triage", "doctor"] {
        let line = site.line(line);
        site.finds(&line, "openbao_sealed").await;
    }
    let triage = site.line("triage");
    site.fixes(&triage, "openbao_sealed").await;
}

pub(super) async fn a_role_for_another_audience() {
    let mut site = Site::new().await;
    let (mount, policy) = (
        site.node.tenant.jwt_mount.clone(),
        site.node.tenant.policy.clone(),
    );
    let role = |audience| JwtRole {
        audience,
        subject: SUBJECT,
        policy: &policy,
    };
    let admin = shared_openbao().await.admin();
    let written = admin.write_jwt_role(&mount, ROLE, role("other")).await;
    written.unwrap();
    let triage = site.line("triage");
    site.follows(&triage, "login_refused").await;
    let written = admin.write_jwt_role(&mount, ROLE, role("kms")).await;
    written.unwrap();
    site.clears(&triage, "login_refused").await;
}

/// Grants what `policy openbao` prints, after a change.
async fn grant(site: &mut Site, change: impl FnOnce(String) -> String) {
    let line = site.line("policy openbao");
    let printed = site.shell(&line).await;
    assert_eq!(printed.code, Some(0), "{}", printed.err);
    let policy = site.node.tenant.policy.clone();
    let admin = site.admin().await;
    let written = admin.write_policy(&policy, &change(printed.out)).await;
    written.unwrap();
}

pub(super) async fn a_policy_that_grants_too_little_or_too_much() {
    let mut site = Site::new().await;
    let policy = site.node.tenant.policy.clone();
    site.choose(" NAME ", format!(" {policy} "));
    let doctor = site.line("doctor");
    for (path, code) in [
        ("/encrypt/etcd", "policy_insufficient"),
        ("/config/keys", "mount_settings_denied"),
        ("auth/token/renew-self", "policy_insufficient"),
    ] {
        let without = |policy: String| policy.replace(&format!("{path}\""), "/nothing\"");
        grant(&mut site, without).await;
        site.fixes(&doctor, code).await;
    }
    let mount = site.mount();
    let more = format!("path \"{mount}/keys/etcd\" {{ capabilities = [\"delete\"] }}\n");
    grant(&mut site, |policy| policy + &more).await;
    site.fixes(&doctor, "policy_excessive").await;
}

pub(super) async fn a_limit_of_the_rate() {
    let mut site = Site::new().await;
    let mount = site.node.tenant.jwt_mount.clone();
    let quota = format!("sys/quotas/rate-limit/{mount}");
    let body = json!({"path": format!("auth/{mount}"), "rate": 0.000_1, "burst": 1});
    site.admin().await.write(&quota, &body).await.unwrap();
    let triage = site.line("triage");
    // The first login of the limit.
    site.shell(&triage).await;
    site.follows(&triage, "openbao_rate_limited").await;
    site.admin().await.delete(&quota).await.unwrap();
    site.clears(&triage, "openbao_rate_limited").await;
}

pub(super) async fn a_lease_that_is_too_short() {
    let mut site = Site::new().await;
    let path = format!("auth/{}/role/{ROLE}", site.node.tenant.jwt_mount);
    let short = json!({"role_type": "jwt", "token_ttl": "30s", "token_max_ttl": "30s"});
    site.admin().await.write(&path, &short).await.unwrap();
    let doctor = site.line("doctor");
    site.fixes(&doctor, "lease_too_short").await;
}
