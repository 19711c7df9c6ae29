//! JWT-SVIDs of a real SPIRE, whose trust bundle OpenBao reads.

use std::{fs, os::unix::fs::PermissionsExt as _};

use serde_json::{Value, json};
use testkit::{
    runbook::Walk,
    spire::Spire,
    tenant::{AUDIENCE, ROLE, Timing},
    wait::wait_until,
};
use tonic::Code;

use super::{
    issuer::{
        assert_clean, logins, refused_with, renews_and_logs_in_again, said, trust, wait_for_count,
        write_role,
    },
    pages::serving,
    revoke_tokens,
};
use crate::{
    node::{IMPATIENT, Node, QUIET, TIMING},
    provider::{Provider, SOON, assert_decrypt_refused, to_decrypt},
    scene::OPENBAO,
};

/// Path of the node's SPIFFE ID.
const WORKLOAD: &str = "openbao-kms";

/// The metric of the alert on a JWT.
const LIFE: &str = "openbao_kms_jwt_ttl_seconds ";

/// A node whose login takes JWT-SVIDs of the agent.
async fn node_of(spire: &Spire, timing: Timing) -> Node {
    let mut node = Node::new(timing).await;
    let mount = format!("auth/{}", node.tenant.jwt_mount);
    trust(&node, spire.issuer(), &spire.bundle_url(), &spire.ca_file()).await;
    write_role(&node, &spire.id(WORKLOAD), "30m", "1h").await;
    node.config["auth"]["jwt"] = json!({
        "source": "spiffe",
        "mountPath": mount,
        "role": ROLE,
        "expectedIssuer": spire.issuer(),
        "expectedAudience": [AUDIENCE],
        "expectedSubject": spire.id(WORKLOAD),
        "spiffe": {"workloadAPISocket": spire.workload_api()},
    });
    node
}

async fn wait_for_detail(provider: &Provider, detail: &str) {
    wait_until(SOON, detail, async || {
        let failed = provider.events("auth.login").last();
        failed.is_some_and(|failed| failed["detail"] == detail)
    })
    .await;
}

#[tokio::test]
async fn a_workload_logs_in_renews_and_follows_its_entry_and_the_keys() {
    let mut spire = Spire::start().await;
    let id = spire.id(WORKLOAD);
    spire.register(&id).await;
    let mut node = node_of(&spire, TIMING).await;
    write_role(&node, &spire.id(WORKLOAD), "6s", "9s").await;
    node.config["auth"]["loginBeforeTokenExpiry"] = json!("3s");
    let provider = node.serve().await;
    let encrypted = to_decrypt(&provider.encrypt(b"seed").await.unwrap());

    // Renewed, and logged in again at the maximum TTL.
    renews_and_logs_in_again(&provider).await;

    // The server signs with another key; a new agent has no SVID of the old one.
    spire.rotate_key().await;
    spire.kill_agent();
    spire.start_agent().await;
    let before = provider.metric(&logins("ok")).await;
    wait_for_count(&provider, &logins("ok"), before + 1.0).await;
    provider.decrypt(encrypted.clone()).await.unwrap();

    // Its entry is removed, then there is one of another ID.
    wait_until(SOON, "no life of an SVID while it is usable", async || {
        !provider.metrics().await.contains(LIFE)
    })
    .await;
    spire.deregister();
    wait_until(SOON, "a life of 0 of the SVID", async || {
        let metrics = provider.metrics().await;
        metrics.contains(LIFE) && provider.metric("jwt_ttl_seconds").await == 0.0
    })
    .await;
    wait_for_detail(&provider, "no_identity").await;
    let sentence =
        "the SPIFFE agent of this node refuses the provider its identity; no data is lost";
    wait_until(SOON, sentence, async || {
        let refused = provider.decrypt(encrypted.clone()).await.err();
        refused.is_some_and(|refused| refused.message().contains(sentence))
    })
    .await;
    spire.register(&spire.id("other")).await;
    wait_for_detail(&provider, "other_identity").await;
    spire.deregister();
    spire.register(&id).await;
    wait_until(SOON, "a login of the restored entry", async || {
        provider.decrypt(encrypted.clone()).await.is_ok()
    })
    .await;

    assert_clean(&said(&node, provider).await, &[]);
}

#[tokio::test]
async fn without_its_agent_a_node_serves_until_its_token_ends() {
    let mut spire = Spire::start().await;
    spire.register(&spire.id(WORKLOAD)).await;
    let mut node = node_of(&spire, QUIET).await;
    node.config["auth"]["loginTimeout"] = json!("2s");
    let provider = node.serve().await;
    let encrypted = to_decrypt(&provider.encrypt(b"seed").await.unwrap());

    spire.kill_agent();
    provider.decrypt(encrypted.clone()).await.unwrap();
    assert_eq!(provider.metric(&logins("spiffe_request")).await, 0.0);

    revoke_tokens(&node).await;
    let advice = "the SPIFFE agent of this node issues no identity now; no data is lost; restore the \
                  agent or its connection to its server";
    let refused = provider.decrypt(encrypted.clone()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    assert_decrypt_refused(&refused, "transit authentication failed", advice);
    wait_for_detail(&provider, "socket_refused").await;
    let doctor = node.run(&["doctor"]);
    for part in [
        "no process listens on it",
        "spire-agent healthcheck -socketPath",
    ] {
        assert!(doctor.out.contains(part), "{}", doctor.out);
    }

    spire.start_agent().await;
    wait_until(SOON, "a login by the restored agent", async || {
        provider.decrypt(encrypted.clone()).await.is_ok()
    })
    .await;
    provider.stop().await;
}

#[tokio::test]
async fn a_workload_that_cannot_get_a_usable_svid_is_told_why() {
    let spire = Spire::start().await;
    let mut node = node_of(&spire, IMPATIENT).await;
    refused_with(&node, "spiffe_no_identity", &[]).await;
    spire.register(&spire.id(WORKLOAD)).await;
    let provider = node.serve().await;
    provider.stop().await;

    let directory = node.tenant.path().to_owned();
    let absent = format!("unix://{}", directory.join("absent.sock").display());
    let good = node.config.clone();
    let changes: [(&[&str], Value, &str); 7] = [
        (
            &["expectedSubject"],
            json!(spire.id("other")),
            "spiffe_other_identity",
        ),
        // Of another trust domain.
        (
            &["expectedSubject"],
            json!("spiffe://other.test/kms"),
            "spiffe_other_identity",
        ),
        // The agent issues for any audience; the role does not accept it.
        (&["expectedAudience"], json!(["other"]), "role_audience"),
        (
            &["expectedIssuer"],
            json!("https://other.test"),
            "spiffe_svid_claims",
        ),
        (&["minRemainingTtl"], json!("1h"), "spiffe_svid_dates"),
        (
            &["spiffe", "workloadAPISocket"],
            json!(absent),
            "spiffe_agent_unreachable",
        ),
        (
            &["spiffe", "workloadAPISocket"],
            json!(spire.server_api()),
            "spiffe_response_unusable",
        ),
    ];
    for (path, value, code) in changes {
        node.config = good.clone();
        let mut setting = &mut node.config["auth"]["jwt"];
        for key in path {
            setting = &mut setting[*key];
        }
        *setting = value;
        refused_with(&node, code, &[]).await;
    }
    node.config = good;

    // Root passes every directory.
    if rustix::process::geteuid().is_root() {
        return;
    }
    let uri = spire.workload_api();
    let socket = uri.strip_prefix("unix://").unwrap();
    fs::set_permissions(socket, fs::Permissions::from_mode(0o000)).unwrap();
    refused_with(&node, "spiffe_socket_denied", &[]).await;
}

/// The page about this login.
#[tokio::test]
async fn an_svid() {
    let spire = Spire::start().await;
    let mut scene = serving().await;
    scene.add_machine("spire");
    let user = format!("unix:uid:{}", rustix::process::getuid().as_raw());
    let id = spire.id(WORKLOAD);
    for (page, here) in [
        ("unix:uid:990", &*user),
        ("spiffe://example.com/openbao-kms/east", &*id),
        (
            "spiffe://example.com/spire/agent/x509pop/node-1",
            spire.agent_id(),
        ),
        ("https://spire.example.com:8443", &*spire.bundle_url()),
        ("https://spire.example.com", spire.issuer()),
        ("unix:///run/spire/agent/api.sock", &*spire.workload_api()),
    ] {
        scene.name_everywhere(page, here);
    }
    scene
        .machine("spire")
        .add_program("spire-server", &spire.server_command());
    let ca = scene.machine(OPENBAO).path("/root/bundle-ca.pem");
    fs::copy(spire.ca_file(), ca).unwrap();

    let mut walk = Walk::of("operate/login/spiffe");
    walk.to_incident(&mut scene, "the agent has the entry")
        .await;
    spire.wait_for_entry(&id).await;
    walk.to_end(&mut scene).await;
}
