//! The issuer of the JWTs is gone: the token runs on, then nothing logs in, until its keys are
//! pinned and a JWT is issued by hand, or until there is an emergency login.

use serde_json::json;
use testkit::{files, pki::jwk_of, runbook::Walk, tenant::ISSUER};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    task::JoinHandle,
};

use crate::{
    machine::JWT,
    node::TIMING,
    scene::{FIRST, Scene},
};

#[tokio::test]
async fn a_lost_issuer_is_outlived_and_replaced() {
    let mut scene = Scene::with_own_openbao(TIMING).await;
    let keys = KeySet::of(scene.tenant.public_key_pem()).await;
    let mount = scene.tenant.jwt_mount.clone();
    let config =
        json!({"jwks_url": keys.url, "bound_issuer": ISSUER, "jwt_validation_pubkeys": []});
    let path = format!("auth/{mount}/config");
    scene.admin().write(&path, &config).await.unwrap();
    scene.name_everywhere("kms-emergency", &format!("emergency-of-{mount}"));
    scene.serve(FIRST).await;
    scene.store(FIRST, "one").await;
    let public_key = scene.tenant.public_key_pem().as_bytes();
    files::replace(&scene.backup("issuer.pub"), public_key, 0o644);

    let mut walk = Walk::of("operate/disaster-recovery/issuer-loss");
    walk.to_incident(&mut scene, "no new JWTs are issued").await;
    keys.serving.abort();
    let mut expired = scene.tenant.claims();
    expired["exp"] = json!(expired["iat"].as_u64().unwrap() - 600);
    let jwt = scene.tenant.jwt(&expired);
    files::replace(&scene.machine(FIRST).path(JWT), jwt.as_bytes(), 0o640);
    walk.to_incident(&mut scene, "the token ends").await;
    scene.assert_readable(FIRST).await;
    let revoke = format!("sys/leases/revoke-prefix/auth/{mount}");
    let sync = json!({"sync": true});
    scene.admin().write(&revoke, &sync).await.unwrap();
    scene.wait_for_status(FIRST, "unhealthy").await;
    scene
        .assert_unreadable(FIRST, "transit authentication failed")
        .await;

    let restarted = "a JWT was issued by hand, and OpenBao was restarted";
    walk.to_incident(&mut scene, restarted).await;
    scene.restart_openbao().await;
    let jwt = scene.tenant.jwt(&scene.tenant.claims());
    let by_hand = scene.machine(FIRST).path("/root/identity.jwt");
    files::replace(&by_hand, jwt.as_bytes(), 0o600);
    walk.to_end(&mut scene).await;
    scene.assert_readable(FIRST).await;
}

/// An issuer's keys, for whoever asks over HTTP.
struct KeySet {
    url: String,
    serving: JoinHandle<()>,
}

impl KeySet {
    async fn of(public_key_pem: &str) -> Self {
        let mut key = jwk_of(public_key_pem);
        key["alg"] = json!("ES256");
        let keys = json!({"keys": [key]});
        let body = keys.to_string();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("http://{}/keys", listener.local_addr().unwrap());
        let serving = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 4096];
                let _asked = stream.read(&mut request).await.unwrap();
                let length = body.len();
                let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close";
                let answer = format!("{head}\r\nContent-Length: {length}\r\n\r\n{body}");
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        Self { url, serving }
    }
}
