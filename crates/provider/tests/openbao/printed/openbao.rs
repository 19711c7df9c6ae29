//! Faults of OpenBao, its certificate, the login and the policy.

use std::{
    fs,
    net::{TcpListener, TcpStream},
    process::{Command, Stdio},
};

use openbao_lab::{admin::login::JwtRole, jwt::JwtIssuer, port::free_port};
use serde_json::{Value, json};
use testkit::{
    fake::{FakeOpenBao, Handshake, SERVER_NAME},
    files,
    openbao::shared_openbao,
    pki::Authority,
    tenant::{AUDIENCE, ISSUER, ROLE, SUBJECT},
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

/// Changes settings of the role.
async fn write_role(site: &Site, settings: Value) {
    let path = format!("auth/{}/role/{ROLE}", site.node.tenant.jwt_mount);
    let mut role = json!({"role_type": "jwt"});
    let own = role.as_object_mut().unwrap();
    own.extend(settings.as_object().unwrap().clone());
    site.admin().await.write(&path, &role).await.unwrap();
}

pub(super) async fn a_role_that_refuses_the_jwt() {
    let mut site = Site::new().await;
    site.serve().await;
    site.stop().await;
    let (triage, plan) = (site.line("triage"), site.line("rotation-plan"));
    for (setting, right) in [
        ("bound_audiences=AUDIENCE", AUDIENCE),
        ("bound_subject=SUBJECT", SUBJECT),
        ("token_bound_cidrs=CIDR", "127.0.0.0/8"),
    ] {
        let (name, _) = setting.split_once('=').unwrap();
        site.choose(setting, format!("{name}={right}"));
    }
    for (fault, code) in [
        (json!({"bound_audiences": ["other"]}), "login_audience"),
        (json!({"bound_subject": "other"}), "login_subject"),
        (
            json!({"token_bound_cidrs": ["10.9.9.0/24"]}),
            "login_address_excluded",
        ),
    ] {
        write_role(&site, fault).await;
        site.fixes(&triage, code).await;
    }
    for (line, fault, right, code) in [
        (
            &triage,
            json!({"user_claim": "nobody"}),
            json!({"user_claim": "sub"}),
            "login_role_unsuitable",
        ),
        // A number is no name of a user.
        (
            &triage,
            json!({"user_claim": "exp"}),
            json!({"user_claim": "sub"}),
            "login_refused",
        ),
        (
            &triage,
            json!({"bound_claims": {"group": "nodes"}}),
            json!({"bound_claims": {}}),
            "login_claims",
        ),
        // This command does not look for the login method.
        (
            &plan,
            json!({"token_bound_cidrs": ["10.9.9.0/24"]}),
            json!({"token_bound_cidrs": []}),
            "login_denied",
        ),
    ] {
        write_role(&site, fault).await;
        site.follows(line, code).await;
        write_role(&site, right).await;
        site.clears(line, code).await;
    }

    let (mount, policy) = (
        site.node.tenant.jwt_mount.clone(),
        site.node.tenant.policy.clone(),
    );
    let role = JwtRole {
        audience: AUDIENCE,
        subject: SUBJECT,
        policy: &policy,
    };
    let admin = shared_openbao().await.admin();
    admin.write_jwt_role(&mount, "other", role).await.unwrap();
    let path = format!("auth/{mount}/role/{ROLE}");
    admin.delete(&path).await.unwrap();
    site.follows(&triage, "login_role_missing").await;
    admin.write_jwt_role(&mount, ROLE, role).await.unwrap();
    site.clears(&triage, "login_role_missing").await;
}

pub(super) async fn a_login_method_that_refuses_the_jwt() {
    let mut site = Site::new().await;
    let triage = site.line("triage");
    let admin = shared_openbao().await.admin();
    let mount = site.node.tenant.jwt_mount.clone();
    let key = site.node.tenant.public_key_pem().to_owned();
    let other = JwtIssuer::generate().unwrap();
    let config =
        |issuer: &str, key: &str| json!({"bound_issuer": issuer, "jwt_validation_pubkeys": [key]});
    let path = format!("auth/{mount}/config");
    for (fault, code) in [
        (config("https://other.test", &key), "login_issuer"),
        (config(ISSUER, other.public_key_pem()), "login_signature"),
    ] {
        admin.write(&path, &fault).await.unwrap();
        site.follows(&triage, code).await;
        admin.write(&path, &config(ISSUER, &key)).await.unwrap();
        site.clears(&triage, code).await;
    }

    let empty = json!({"type": "jwt"});
    let path = format!("sys/auth/{mount}-empty");
    admin.write(&path, &empty).await.unwrap();
    site.configure("/auth/jwt/mountPath", format!("auth/{mount}-empty"));
    files::replace(&site.file("issuer.pem"), key.as_bytes(), 0o600);
    site.choose("=ISSUER", format!("={ISSUER}"));
    site.choose("=@FILE", "=@issuer.pem");
    site.fixes(&triage, "login_unconfigured").await;

    site.configure("/auth/jwt/mountPath", "auth/nothing");
    site.follows(&triage, "login_mount_missing").await;
    site.configure("/auth/jwt/mountPath", format!("auth/{mount}"));
    site.clears(&triage, "login_mount_missing").await;
}

pub(super) async fn a_namespace_without_the_login_method() {
    let mut site = Site::new().await;
    let triage = site.line("triage");
    let right = site.node.config["openbao"].clone();
    let admin = shared_openbao().await.admin();
    let namespace = format!("of-{}", site.node.tenant.jwt_mount);
    let path = format!("sys/namespaces/{namespace}");
    admin.write(&path, &json!({})).await.unwrap();
    for (namespace, code) in [
        (&*namespace, "login_mount_elsewhere"),
        ("nowhere", "login_namespace_missing"),
    ] {
        site.configure("/openbao/namespace", namespace);
        site.follows(&triage, code).await;
        site.configure("/openbao", right.clone());
        site.clears(&triage, code).await;
    }
    admin.delete(&path).await.unwrap();
}

/// The node permits a greater difference of the clocks than OpenBao.
pub(super) async fn a_jwt_that_is_not_valid_yet_at_openbao() {
    let mut site = Site::new().await;
    site.configure("/auth/jwt/clockSkewLeeway", "20m");
    let mut claims = site.node.tenant.claims();
    claims["nbf"] = json!(claims["iat"].as_u64().unwrap() + 600);
    site.write_jwt(&claims);
    let triage = site.line("triage");
    site.follows(&triage, "login_clock").await;
    site.write_jwt(&site.node.tenant.claims());
    site.clears(&triage, "login_clock").await;
}

pub(super) async fn limits_of_the_role() {
    let mut site = Site::new().await;
    let limits = json!({
        "token_no_default_policy": false,
        "token_num_uses": 40,
        "token_bound_cidrs": ["127.0.0.0/8"],
    });
    write_role(&site, limits).await;
    let doctor = site.line("doctor");
    site.fixes(&doctor, "token_uses_limited").await;
    site.follows(&doctor, "token_addresses_limited").await;
    write_role(&site, json!({"token_bound_cidrs": []})).await;
    site.clears(&doctor, "token_addresses_limited").await;
}

pub(super) async fn certificates_that_are_not_for_a_server() {
    let mut site = Site::new().await;
    let triage = site.line("triage");
    let ca = site.node.tenant.ca_file();
    let (right, trusted) = (site.node.config["openbao"].clone(), fs::read(&ca).unwrap());
    for (handshake, code) in [
        (Handshake::SelfSignedCa, "ca_as_server_certificate"),
        (Handshake::ForClients, "certificate_not_for_servers"),
    ] {
        let fake = FakeOpenBao::start_with(handshake, []).await;
        files::replace(&ca, fake.ca_pem().as_bytes(), 0o644);
        site.configure("/openbao/address", fake.endpoint().address.to_string());
        site.configure("/openbao/tlsServerName", SERVER_NAME);
        site.follows(&triage, code).await;
        files::replace(&ca, &trusted, 0o644);
        site.configure("/openbao", right.clone());
        site.clears(&triage, code).await;
    }
}

pub(super) async fn a_bundle_without_a_line_feed() {
    let mut site = Site::new().await;
    let other = FakeOpenBao::start([]).await;
    let ca = site.node.tenant.ca_file();
    let own = fs::read(&ca).unwrap();
    let glued = [other.ca_pem().trim_end().as_bytes(), &own].concat();
    files::replace(&ca, &glued, 0o644);
    let doctor = site.line("doctor");
    site.fixes(&doctor, "ca_bundle_glued").await;
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
