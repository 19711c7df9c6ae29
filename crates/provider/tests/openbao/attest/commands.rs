//! Statements of the other commands, and signatures by a Transit key.

use std::{fs, path::Path, process::Stdio};

use openbao_lab::admin::transit::NewKey;
use serde_json::{Value, json};
use testkit::{
    files,
    openbao::{OpenBao, shared_openbao},
    schema::assert_published,
};

use super::{Signing, Verified, envelope, sha256, words};
use crate::{
    corpus::Corpus,
    drill::{Backups, SET},
    node::{Finished, Node, TIMING, program},
};

/// A Transit mount for signing keys, which the role of the node may use.
struct Evidence {
    mount: String,
}

impl Evidence {
    async fn new(server: &OpenBao, node: &Node) -> Self {
        let mount = format!("{}-evidence", node.tenant.transit_mount);
        server.admin().mount_transit(&mount).await.unwrap();
        let rules = [
            (format!("{mount}/keys/*"), "read"),
            (format!("{mount}/sign/p256"), "update"),
            (format!("{mount}/sign/ed25519"), "update"),
        ];
        node.tenant.grant(server, &rules).await;
        Self { mount }
    }

    /// A key of this name and type; its public key becomes that of `signing`.
    async fn key(&self, server: &OpenBao, name: &str, kind: &'static str, signing: &Signing) {
        let new = NewKey {
            kind,
            ..NewKey::default()
        };
        let admin = server.admin();
        admin.create_key(&self.mount, name, &new).await.unwrap();
        let key = admin.read(&format!("{}/keys/{name}", self.mount)).await;
        let key: Value = key.unwrap().data().unwrap();
        // PEM, or Base64 for Ed25519.
        let public = key["keys"]["1"]["public_key"].as_str().unwrap();
        let path = signing.path("key.pub");
        files::replace(Path::new(&path), public.as_bytes(), 0o644);
    }

    fn attest(&self, verified: &Verified, signing: &Signing, name: &str) -> Finished {
        let (path, key) = (signing.path("statement"), format!("{}/{name}", self.mount));
        verified.run(&["--attest", &path, "--sign-transit", &key])
    }
}

#[tokio::test]
async fn a_key_in_openbao_signs_with_its_latest_version() {
    let server = shared_openbao().await;
    let verified = Verified::new().await;
    let evidence = Evidence::new(server, &verified.node).await;
    for (name, kind) in [("p256", "ecdsa-p256"), ("ed25519", "ed25519")] {
        let signing = Signing::p256();
        evidence.key(server, name, kind, &signing).await;
        let attested = evidence.attest(&verified, &signing, name);
        assert_eq!(attested.code, Some(0), "{attested:?}");
        let statement = signing.statement("statement");
        assert_eq!(statement["predicate"]["verdict"], "compatible");

        let admin = server.admin();
        admin.rotate_key(&evidence.mount, name).await.unwrap();
        fs::remove_file(signing.path("statement")).unwrap();
        let rotated = evidence.attest(&verified, &signing, name);
        assert_eq!(rotated.code, Some(0), "{rotated:?}");
        let invalid = "attestation_signature_invalid";
        signing.assert_refused("statement", &[], 4, invalid);
    }
}

#[tokio::test]
async fn a_drill_is_signed_by_the_openbao_in_service() {
    let server = shared_openbao().await;
    let backups = Backups::of(server).await;
    let evidence = Evidence::new(server, &backups.node).await;
    let signing = Signing::p256();
    evidence.key(server, "p256", "ecdsa-p256", &signing).await;
    let (path, key) = (
        signing.path("statement"),
        format!("{}/p256", evidence.mount),
    );
    let more = ["--attest", &path, "--sign-transit", &key];
    backups.drill(SET, &more, 0, "compatible").await;
    let statement = signing.statement("statement");
    assert_eq!(statement["predicate"]["command"], "drill");
    assert_eq!(statement["subject"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_key_in_openbao_that_cannot_sign_is_named() {
    let server = shared_openbao().await;
    let verified = Verified::new().await;
    let evidence = Evidence::new(server, &verified.node).await;
    let signing = Signing::p256();
    let admin = server.admin();
    for (name, kind) in [("symmetric", "aes256-gcm96"), ("p384", "ecdsa-p384")] {
        let new = NewKey {
            kind,
            ..NewKey::default()
        };
        admin.create_key(&evidence.mount, name, &new).await.unwrap();
        let refused = evidence.attest(&verified, &signing, name);
        refused.assert_refused(1, &[kind, "neither of EC P-256", "--sign-transit"]);
        assert_eq!(refused.out, "", "no work was done");
    }
    let derived = NewKey {
        kind: "ed25519",
        derived: true,
        ..NewKey::default()
    };
    let created = admin.create_key(&evidence.mount, "derived", &derived).await;
    created.unwrap();
    let refused = evidence.attest(&verified, &signing, "derived");
    refused.assert_refused(1, &["with derived=true each context has another one"]);
    let missing = evidence.attest(&verified, &signing, "missing");
    missing.assert_refused(5, &["did not sign", "evidence/missing", "--sign-transit"]);
    assert_eq!(missing.out, "", "no work was done");

    // The policy allows to read this key, and no signature. The result stays.
    evidence
        .key(server, "closed", "ecdsa-p256", &Signing::p256())
        .await;
    let closed = evidence.attest(&verified, &signing, "closed");
    closed.assert_refused(5, &["did not sign", "sign/KEY"]);
    assert!(
        closed.out.starts_with("verify-backup: compatible\n"),
        "{closed:?}"
    );
    assert!(!Path::new(&signing.path("statement")).exists());

    // A failed check without its statement stays one.
    let mut bytes = fs::read(&verified.snapshot).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    files::replace(&verified.snapshot, &bytes, 0o600);
    let damaged = evidence.attest(&verified, &signing, "closed");
    damaged.assert_refused(4, &["did not sign", "sign/KEY"]);
    assert!(damaged.out.contains("snapshot is damaged"), "{damaged:?}");
}

#[tokio::test]
async fn a_record_is_attested_with_both_snapshots() {
    let node = Node::new(TIMING).await;
    let provider = node.serve().await;
    let corpus = Corpus::of(&node, &provider).await;
    let etcd = corpus.snapshot("etcd.db").display().to_string();
    let signing = Signing::p256();
    let (openbao, record) = (signing.path("openbao.snap"), signing.path("record.json"));
    shared_openbao()
        .await
        .save_snapshot(Path::new(&openbao))
        .await;
    let options = signing.options("statement");
    let set = [
        "--etcd-snapshot",
        &etcd,
        "--openbao-snapshot",
        &openbao,
        "--out",
        &record,
    ];
    let finished = node.run(&[&["record-backup"], &set[..], &words(&options)].concat());
    assert_eq!(finished.code, Some(0), "{finished:?}");
    let statement = signing.statement("statement");
    let subject =
        |name: &str, path: &str| json!({"name": name, "digest": {"sha256": sha256(path)}});
    assert_eq!(
        statement["subject"],
        json!([
            subject("etcd-snapshot", &etcd),
            subject("openbao-snapshot", &openbao),
            subject("backup-record", &record),
        ])
    );
    assert_eq!(statement["predicate"]["verdict"], "recorded");
    let rows = statement["predicate"]["versions"].as_array().unwrap();
    let versions: Vec<_> = rows.iter().map(|row| &row["transitVersion"]).collect();
    assert_eq!(versions, [&json!(1), &json!(2)]);
    let both = ["--etcd-snapshot", &etcd, "--openbao-snapshot", &openbao];
    let verified = signing.verify("statement", &both);
    assert_eq!(verified.code, Some(0), "{verified:?}");

    // A set that cannot be recorded is attested too.
    let failed = signing.options("failed");
    let set = ["--etcd-snapshot", &openbao, "--out", &signing.path("none")];
    let finished = node.run(&[&["record-backup"], &set[..], &words(&failed)].concat());
    assert_ne!(finished.code, Some(0), "{finished:?}");
    let statement = signing.statement("failed");
    assert_eq!(
        statement["subject"],
        json!([subject("etcd-snapshot", &openbao)])
    );
    assert_eq!(statement["predicate"]["cause"], "not_a_snapshot");
}

#[tokio::test]
async fn a_retirement_is_attested_with_the_state_that_it_left() {
    let node = Node::new(TIMING).await;
    let provider = node.serve().await;
    let corpus = Corpus::of(&node, &provider).await;
    let etcd = corpus.snapshot("etcd.db").display().to_string();
    let signing = Signing::p256();
    provider.stop().await;
    let retire = |more: &[&str]| {
        let command = ["retire-versions", "--before-version", "2"];
        node.run(&[&command[..], more].concat())
    };
    let options = signing.options("needed");
    let needed = retire(&[&["--etcd-snapshot", &etcd], &words(&options)[..]].concat());
    assert_eq!(needed.code, Some(4), "{needed:?}");
    let statement = signing.statement("needed");
    assert_eq!(
        statement["predicate"]["versions"][0],
        json!({
            "transitVersion": 1, "objects": 3,
            "keyIdHash": statement["predicate"]["versions"][0]["keyIdHash"],
        })
    );
    assert_eq!(
        statement["subject"],
        json!([
            {"name": "etcd-snapshot", "digest": {"sha256": sha256(&etcd)}},
            {"name": "registry-state", "digest": {"sha256": sha256(node.state_file())}},
        ])
    );

    let plan = retire(&["--output", "json"]).json();
    let before = sha256(node.state_file());
    let options = signing.options("applied");
    let hash = plan["stateHash"].as_str().unwrap();
    let apply = ["--apply", "--expected-state-hash", hash];
    let applied = retire(&[&apply[..], &words(&options)].concat());
    assert_eq!(applied.code, Some(0), "{applied:?}");
    let statement = signing.statement("applied");
    let state = &statement["subject"][0]["digest"]["sha256"];
    assert_eq!(*state, sha256(node.state_file()));
    assert_ne!(*state, before);
    assert_eq!(
        envelope(Path::new(&signing.path("applied")))["payloadType"],
        "application/vnd.in-toto+json"
    );
}

#[tokio::test]
async fn a_directory_that_is_closed_to_the_writer_ends_the_command_before_a_change() {
    let node = Node::new(TIMING).await;
    let provider = node.serve().await;
    provider.stop().await;
    let signing = Signing::p256();
    let options = signing.options("missing/statement");
    let retire = ["retire-versions", "--before-version", "2"];
    let refused = node.run(&[&retire[..], &words(&options)].concat());
    refused.assert_refused(1, &["signed statement was not written", "missing"]);
    assert_eq!(refused.out, "", "no work was done");
}

#[tokio::test]
async fn a_change_whose_result_cannot_be_printed_is_attested() {
    let node = Node::new(TIMING).await;
    let provider = node.serve().await;
    let _corpus = Corpus::of(&node, &provider).await;
    provider.stop().await;
    let signing = Signing::p256();
    let retire = ["retire-versions", "--before-version", "2"];
    let plan = node.run(&[&retire[..], &["--output", "json"]].concat());
    let plan = plan.json();
    let before = sha256(node.state_file());
    let hash = plan["stateHash"].as_str().unwrap();
    let options = signing.options("applied");
    let apply = ["--apply", "--expected-state-hash", hash];
    let mut command = node.program(&[&retire[..], &apply, &words(&options)].concat());
    let full = fs::OpenOptions::new().write(true).open("/dev/full");
    let ended: Finished = command.stdout(full.unwrap()).output().unwrap().into();
    ended.assert_refused(1, &["cannot write the output"]);
    let statement = signing.statement("applied");
    let state = &statement["subject"][0]["digest"]["sha256"];
    assert_eq!(*state, sha256(node.state_file()));
    assert_ne!(*state, before);
}

#[tokio::test]
async fn concurrent_commands_write_one_chain_beside_other_statements() {
    let verified = Verified::new().await;
    let signing = Signing::p256();
    let chain = signing.path("chain");
    files::directory(Path::new(&chain), 0o755);
    let options = signing.options("chain");
    let alone = verified.run(&words(&signing.options("chain/backup.dsse.json")));
    assert_eq!(alone.code, Some(0), "{alone:?}");
    let verify = || {
        let snapshot = verified.snapshot.to_str().unwrap();
        let command = ["verify-backup", "--etcd-snapshot", snapshot];
        let command = [&command[..], &words(&options)].concat();
        let mut command = verified.node.program(&command);
        command.stdout(Stdio::null()).spawn().unwrap()
    };
    let running: Vec<_> = (0..6).map(|_| verify()).collect();
    for mut command in running {
        assert!(command.wait().unwrap().success());
    }
    let mut history = program();
    history
        .args(["drill", "history", &chain, "--output", "json", "--key"])
        .arg(signing.path("key.pub"));
    let history: Finished = history.output().unwrap().into();
    let report: Value = serde_json::from_str(&history.out).unwrap();
    assert_published(&report);
    // No drill, and nothing else is wrong.
    assert_eq!(report["cause"], "history_empty", "{report:#}");
    let rows = report["statements"].as_array().unwrap();
    let links: Vec<_> = rows
        .iter()
        .map(|it| it["chain"].as_str().unwrap())
        .collect();
    assert_eq!(links.join(" "), "first linked linked linked linked linked");
    assert_eq!(report["leftOut"], json!(["backup.dsse.json"]));
}
