//! The pages about the login methods, carried out on a node that logged in with a JWT before.

use std::{fs, path::Path, process::Command};

use openbao_lab::port::free_port;
use testkit::{
    files,
    runbook::Walk,
    softhsm::{PIN, SoftToken, module},
    wait::wait_until,
};

use crate::{
    machine::CONFIG,
    node::TIMING,
    provider::SOON,
    scene::{FIRST, OPENBAO, Scene},
};

pub(super) async fn serving() -> Scene {
    let mut scene = Scene::new(TIMING).await;
    scene.serve(FIRST).await;
    scene
}

#[tokio::test]
async fn a_secret_id_plain_and_wrapped() {
    let mut scene = serving().await;
    Walk::of("operate/login/approle").to_end(&mut scene).await;
}

#[tokio::test]
async fn a_password() {
    let mut scene = serving().await;
    Walk::of("operate/login/userpass").to_end(&mut scene).await;
}

#[tokio::test]
async fn a_token() {
    let mut scene = serving().await;
    Walk::of("operate/login/token").to_end(&mut scene).await;
}

#[tokio::test]
async fn the_drill_of_the_standby() {
    let mut scene = serving().await;
    // Commands find the view of the running provider at a port that they know.
    let config = scene.machine(FIRST).path(CONFIG);
    let known = format!("healthAddress: \"127.0.0.1:{}\"", free_port().unwrap());
    let text = fs::read_to_string(&config).unwrap();
    let text = text.replace("healthAddress: \"127.0.0.1:0\"", &known);
    files::replace(&config, text.as_bytes(), 0o640);
    let mut token = Walk::of("operate/login/token");
    token.to_end(&mut scene).await;

    let mut walk = Walk::of("operate/login/fallback");
    walk.to_incident(&mut scene, "the configured login succeeds")
        .await;
    wait_until(SOON, "the end of the standby", async || {
        let provider = scene.machine(FIRST).serving();
        provider.events("auth.fallback_ended").next().is_some()
    })
    .await;
    walk.to_end(&mut scene).await;
}

#[tokio::test]
async fn a_certificate() {
    let mut scene = serving().await;
    let openbao = scene.machine(OPENBAO).path("/root");
    make_authority(&openbao);

    let mut walk = Walk::of("operate/login/cert");
    walk.to_incident(&mut scene, "the authority of the nodes signs client.csr")
        .await;
    let node = scene.machine(FIRST).path("/root");
    certify(&openbao, &node, &[]);
    walk.to_end(&mut scene).await;
}

#[tokio::test]
async fn a_key_on_a_token() {
    let mut scene = serving().await;
    with_token(&mut scene).await;
}

/// The runbook's page, on a node with this login.
#[tokio::test]
async fn a_lost_token_is_bridged_by_an_emergency_identity() {
    let mut scene = serving().await;
    let token = with_token(&mut scene).await;
    let mut walk = Walk::of("operate/disaster-recovery/credential-loss");
    walk.to_incident(&mut scene, "the PKCS#11 token is out of its reader")
        .await;
    token.remove();
    let incident = "the token is back, and its key has a certificate of a new authority";
    walk.to_incident(&mut scene, incident).await;
    token.put_back();
    let openbao = scene.machine(OPENBAO).path("/root");
    make_authority(&openbao);
    let node = scene.machine(FIRST).path("/root");
    certify(&openbao, &node, &["-force_pubkey", "kms-node.pub"]);
    walk.to_end(&mut scene).await;
}

/// Carries out the page about the set-up of a token.
async fn with_token(scene: &mut Scene) -> SoftToken {
    let openbao = scene.machine(OPENBAO).path("/root");
    make_authority(&openbao);
    enable_cert(scene).await;
    let token = SoftToken::new();
    let node = scene.machine_mut(FIRST);
    node.set("SOFTHSM2_CONF", token.configuration());
    node.shell
        .name("/usr/lib/softhsm/libsofthsm2.so", module().display());
    // It asks at the controlling terminal, which a test has not.
    let asked = format!("#!/bin/sh\nexec /usr/bin/pkcs11-tool \"$@\" --pin {PIN}\n");
    node.add_program("pkcs11-tool", &asked);
    let node = scene.machine(FIRST).path("/root");
    files::replace(&node.join("pin"), PIN.as_bytes(), 0o640);

    let mut walk = Walk::of("operate/login/pkcs11");
    let incident = "the authority of the nodes certifies kms-node.pub.der";
    walk.to_incident(scene, incident).await;
    // The request has a key of its own, which the certificate replaces by that of the token.
    openssl(
        &node,
        &[
            "req",
            "-new",
            "-newkey",
            "rsa:2048",
            "-noenc",
            "-subj",
            "/CN=cp-1.example",
            "-keyout",
            "other.key",
            "-out",
            "client.csr",
        ],
    );
    openssl(
        &node,
        &[
            "pkey",
            "-pubin",
            "-inform",
            "DER",
            "-in",
            "kms-node.pub.der",
            "-out",
            "kms-node.pub",
        ],
    );
    certify(&openbao, &node, &["-force_pubkey", "kms-node.pub"]);
    walk.to_end(scene).await;
    token
}

/// As on the page about certificates.
async fn enable_cert(scene: &Scene) {
    let operator = &scene.machine(OPENBAO).shell;
    for command in [
        "bao auth enable -path=kms-cert cert",
        "bao write auth/kms-cert/certs/kms-node certificate=@/root/node-ca.crt allowed_common_names=cp-1.example \
         token_policies=kms-policy token_no_default_policy=true token_ttl=10m token_max_ttl=30m",
    ] {
        let done = operator.run(command, None).await;
        assert_eq!(done.code, Some(0), "{}", done.output);
    }
}

fn make_authority(directory: &Path) {
    let authority = [
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-noenc",
        "-days",
        "30",
        "-subj",
        "/CN=node CA",
        "-keyout",
        "node-ca.key",
        "-out",
        "node-ca.crt",
    ];
    openssl(directory, &authority);
}

/// Turns `client.csr` of the node into `client.crt`.
fn certify(authority: &Path, node: &Path, more: &[&str]) {
    files::replace(
        &node.join("usage"),
        b"extendedKeyUsage = clientAuth\n",
        0o644,
    );
    let (ca, key) = (authority.join("node-ca.crt"), authority.join("node-ca.key"));
    let mut arguments = vec![
        "x509",
        "-req",
        "-in",
        "client.csr",
        "-days",
        "10",
        "-extfile",
        "usage",
        "-out",
        "client.crt",
        "-CA",
        ca.to_str().unwrap(),
        "-CAkey",
        key.to_str().unwrap(),
    ];
    arguments.extend(more);
    openssl(node, &arguments);
}

fn openssl(directory: &Path, arguments: &[&str]) {
    let done = Command::new("openssl")
        .args(arguments)
        .current_dir(directory)
        .output()
        .unwrap();
    assert!(done.status.success(), "{done:?}");
}
