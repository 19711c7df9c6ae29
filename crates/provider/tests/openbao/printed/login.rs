//! The credentials of logins other than a JWT.

use std::fs;

use openbao_client::token::Token;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, date_time_ymd};
use serde_json::{Value, json};
use testkit::{files, openbao::shared_openbao, wait::wait_until};

use super::site::{Site, give};
use crate::{doctor::fault::SERVICE_USER, provider::SOON};

/// Puts a secret of the login in place.
fn put(site: &Site, secret: &str) {
    let file = site.node.tenant.path().join("secret");
    files::replace(&file, secret.as_bytes(), 0o640);
    give(&file);
}

fn log_in_by(site: &mut Site, method: &str, mut block: Value, file: &str) {
    block[file] = json!(site.node.tenant.path().join("secret"));
    site.configure("/auth", json!({"method": method, (method): block}));
}

async fn token(site: &Site, settings: Value) -> String {
    let mut body = json!({"policies": [site.node.tenant.policy, "default"], "no_parent": true});
    let members = body.as_object_mut().unwrap();
    members.extend(settings.as_object().unwrap().clone());
    let created = site.admin().await.write("auth/token/create", &body).await;
    let created: Value = created.unwrap().json().unwrap();
    created["auth"]["client_token"].as_str().unwrap().to_owned()
}

pub(super) async fn a_token_of_a_file_that_cannot_serve() {
    let mut site = Site::new().await;
    log_in_by(&mut site, "token", json!({}), "file");
    let policy = format!("-policy={}", site.node.tenant.policy);
    site.choose("-policy=POLICY", policy);
    let doctor = site.line("doctor");
    let root = token(&site, json!({"policies": ["root"], "ttl": "1h"})).await;
    let short = token(&site, json!({"renewable": false, "ttl": "2m"})).await;
    let good = token(&site, json!({"ttl": "1h"})).await;
    for (secret, code) in [
        ("s.unknownunknownunknownunkn", "token_file_rejected"),
        (&*root, "token_is_root"),
        (&*short, "token_ends"),
    ] {
        put(&site, secret);
        site.follows(&doctor, code).await;
        put(&site, &good);
        site.clears(&doctor, code).await;
    }
}

/// The wrapped answer to the request for this path.
async fn wrapped(site: &mut Site, line: &str) -> String {
    let done = site.shell(line).await;
    assert!(done.code == Some(0), "{}{}", done.out, done.err);
    let token = done.out.trim().to_owned();
    assert!(Token::new(token.clone().into()).is_ok(), "{token}");
    token
}

pub(super) async fn a_wrapped_secret_id_that_is_used_or_of_another_path() {
    let mut site = Site::new().await;
    let mount = format!("approle-of-{}", site.node.tenant.policy);
    let server = shared_openbao().await;
    let admin = server.admin();
    let method = json!({"type": "approle"});
    admin
        .write(&format!("sys/auth/{mount}"), &method)
        .await
        .unwrap();
    let role = json!({"token_policies": [site.node.tenant.policy], "token_ttl": "30m"});
    admin
        .write(&format!("auth/{mount}/role/kms"), &role)
        .await
        .unwrap();
    let id = admin.read(&format!("auth/{mount}/role/kms/role-id")).await;
    let id: Value = id.unwrap().json().unwrap();
    let block = json!({
        "mountPath": format!("auth/{mount}"),
        "roleId": id["data"]["role_id"],
        "wrapped": true,
    });
    log_in_by(&mut site, "approle", block, "secretIdFile");
    site.configure("/bootstrap/graceTimeout", "10ms");
    site.choose("role/ROLE/", "role/kms/");

    let serve = site.line_as(SERVICE_USER, SERVICE_USER, "serve");
    let options = "-wrap-ttl=5m -field=wrapping_token";
    let server = format!(
        "-address={} -ca-cert={}",
        server.endpoint().address,
        server.ca_file().display()
    );
    let used = wrapped(
        &mut site,
        &format!("bao write {server} {options} -f auth/{mount}/role/kms/secret-id"),
    )
    .await;
    let unwrapped = site.shell(&format!("bao unwrap {server} {used}")).await;
    assert_eq!(unwrapped.code, Some(0), "{}", unwrapped.err);
    put(&site, &used);
    site.follows(&serve, "secret_id_intercepted").await;

    let other = format!("bao read {server} {options} auth/{mount}/role/kms/role-id");
    let other = wrapped(&mut site, &other).await;
    put(&site, &other);
    site.follows(&serve, "secret_id_substituted").await;
    let new = format!("bao write {server} {options} -f auth/{mount}/role/kms/secret-id");
    let new = wrapped(&mut site, &new).await;
    put(&site, &new);
    site.serve().await;
}

pub(super) async fn a_certificate_that_cannot_log_in() {
    let mut site = Site::new().await;
    let mount = format!("cert-of-{}", site.node.tenant.policy);
    let admin = site.admin().await;
    let method = json!({"type": "cert"});
    admin
        .write(&format!("sys/auth/{mount}"), &method)
        .await
        .unwrap();

    let key = KeyPair::generate().unwrap();
    let certificate = |change: &dyn Fn(&mut CertificateParams)| {
        let mut params = CertificateParams::default();
        let subject = &mut params.distinguished_name;
        subject.push(DnType::CommonName, "node-1");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        params.self_signed(&key).unwrap().pem()
    };
    let good = certificate(&|_| {});
    let role = json!({
        "certificate": good,
        "allowed_common_names": ["node-1"],
        "token_policies": [site.node.tenant.policy],
        "token_ttl": "30m",
    });
    let path = format!("auth/{mount}/certs/kms");
    admin.write(&path, &role).await.unwrap();
    drop(admin);

    let file = |name: &str| site.node.tenant.path().join(name);
    let (chain, key_file) = (file("client.crt"), file("client.key"));
    files::replace(&key_file, key.serialize_pem().as_bytes(), 0o640);
    give(&key_file);
    let block = json!({
        "mountPath": format!("auth/{mount}"),
        "name": "kms",
        "source": "file",
        "certificateFile": chain,
        "keyFile": key_file,
    });
    site.configure("/auth", json!({"method": "cert", "cert": block}));
    let doctor = site.line("doctor");
    let expired = certificate(&|params| params.not_after = date_time_ymd(2020, 1, 1));
    let of_server = certificate(&|params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    });
    let other = certificate(&|params| {
        let subject = &mut params.distinguished_name;
        subject.push(DnType::CommonName, "node-2");
    });
    for (pem, code) in [
        (expired, "cert_expired"),
        (of_server, "cert_unsuitable"),
        (other, "login_certificate"),
    ] {
        files::replace(&chain, pem.as_bytes(), 0o644);
        site.follows(&doctor, code).await;
        files::replace(&chain, good.as_bytes(), 0o644);
        site.clears(&doctor, code).await;
    }
}

pub(super) async fn a_standby_identity_in_use() {
    let mut site = Site::new().await;
    let standby = token(&site, json!({"ttl": "1h"})).await;
    put(&site, &standby);
    let file = site.node.tenant.path().join("secret");
    site.configure("/auth/fallback", "token");
    site.configure("/auth/token", json!({"file": file}));
    fs::remove_file(site.node.tenant.jwt_file()).unwrap();
    site.write_jwt(&{
        let mut claims = site.node.tenant.claims();
        claims["exp"] = json!(1);
        claims
    });
    site.serve().await;
    let doctor = site.line("doctor");
    site.follows(&doctor, "fallback_in_use").await;
    site.write_jwt(&site.node.tenant.claims());
    wait_until(SOON, "the configured login", async || {
        let why = site.serving().health("/why").await.1;
        why["login"]["fallback"].is_null()
    })
    .await;
    site.clears(&doctor, "fallback_in_use").await;
}
