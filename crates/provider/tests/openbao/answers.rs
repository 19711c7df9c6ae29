//! A proxy answers in OpenBao's place: no status of its own is taken for OpenBao's word on the key,
//! the token or the data. `openbao-client/tests/faults.rs` has the table of statuses and bodies.

use std::fs;

use bytes::Bytes;
use serde_json::Value;
use tempfile::TempDir;
use testkit::{
    etcd::Etcd, fake::Reply, schema::assert_published, stored::SourceType, wait::wait_until,
};
use tonic::Code;

use crate::{
    corpus::{OBJECT, sealer},
    node::{Finished, IMPATIENT, Node, QUIET, TIMING},
    provider::{SOON, assert_decrypt_refused, to_decrypt},
    proxy::Proxy,
    triage::case::triage,
};

const LOGIN: &str = "/login";
const METADATA: &str = "/keys/etcd";
const MOUNT: &str = "/config/keys";
const ENCRYPT: &str = "/encrypt/etcd";
const DECRYPT: &str = "/decrypt/etcd";

const NOT_OPENBAO: &str = "the response is not from OpenBao: text/html from nginx/1.27.1";

/// As an ingress without a route, a gateway, a filter and a captive portal answer.
fn foreign() -> [Reply; 6] {
    let web = |status, body: &str| Reply::Web(status, body.to_owned());
    [
        web(404, "404 page not found\n"),
        web(404, "{\"message\":\"no Route matched with those values\"}"),
        web(400, "<html>encryption key not found</html>"),
        web(403, ""),
        web(200, "<html>Welcome</html>"),
        web(403, "{\"errors\":\"permission denied\"}"),
    ]
}

#[tokio::test]
async fn triage_says_that_the_response_is_not_from_openbao_and_nothing_of_the_data() {
    let mut node = Node::new(QUIET).await;
    let proxy = Proxy::of(&mut node).await;
    let [no_page, no_route, bad, empty, portal, other_errors] = foreign();
    for (path, reply, stopped_at) in [
        ("", no_page.clone(), "openbao.auth"),
        ("", portal.clone(), "openbao.reachable"),
        (LOGIN, bad.clone(), "openbao.auth"),
        (LOGIN, empty.clone(), "openbao.auth"),
        (METADATA, no_page, "transit.metadata"),
        (METADATA, no_route.clone(), "transit.metadata"),
        (METADATA, other_errors, "transit.metadata"),
        (METADATA, portal, "transit.metadata"),
        (MOUNT, no_route, "transit.disable_upsert"),
        (DECRYPT, bad, "transit.probe"),
        (ENCRYPT, empty, "transit.probe"),
    ] {
        proxy.answers(path, reply);
        let said = triage(&node, &[], "not_openbao");
        said.means("unknown", 5, stopped_at)
            .found(NOT_OPENBAO)
            .next("openbao.address")
            .next("/v1/sys/seal-status")
            .warns_first("do not restore OpenBao");
        assert!(said.text.contains("\nthe response is not from OpenBao\n"));
        let next = said.json["nextSteps"].to_string();
        assert!(!next.contains("restore"), "{next}");
    }
    // A gateway that reaches no OpenBao says no more than a closed port.
    proxy.answers(METADATA, Reply::Web(502, "<html>sealed".to_owned()));
    triage(&node, &[], "openbao_unreachable")
        .means("none_lost", 4, "transit.metadata")
        .found(NOT_OPENBAO);
    proxy.passes();
    triage(&node, &[], "not_running");
}

#[tokio::test]
async fn doctor_and_verify_key_name_the_proxy_and_not_a_loss() {
    let mut node = Node::new(QUIET).await;
    let proxy = Proxy::of(&mut node).await;
    let [no_page, no_route, _, empty, ..] = foreign();
    for (path, reply, id) in [
        (LOGIN, empty, "openbao.auth"),
        (METADATA, no_page, "transit.metadata"),
        (MOUNT, no_route, "transit.disable_upsert"),
    ] {
        proxy.answers(path, reply);
        for command in ["doctor", "verify-key"] {
            let done = node.run(&[command, "--output", "json"]);
            let report = report(&done);
            assert_eq!(report["firstFailure"], id, "{report:#}");
            let checks = report["checks"].as_array().unwrap();
            let found = checks.iter().find(|check| check["id"] == id).unwrap();
            assert_eq!(found["details"]["code"], "not_openbao", "{found:#}");
            assert_ne!(found["impactClass"], "data_recovery", "{found:#}");
            let message = found["message"].as_str().unwrap();
            assert!(message.contains(NOT_OPENBAO), "{message}");
            let remedy = found["remediation"].as_str().unwrap();
            assert!(remedy.contains("load balancer that answered"), "{remedy}");
        }
    }
}

/// Fits its schema, whatever the exit code.
#[track_caller]
fn report(done: &Finished) -> Value {
    let report = serde_json::from_str(&done.out).unwrap_or_else(|_| panic!("{done:?}"));
    assert_published(&report);
    report
}

#[tokio::test]
async fn no_recovery_command_takes_another_word_than_openbaos_for_a_loss() {
    let mut node = Node::new(TIMING).await;
    let proxy = Proxy::of(&mut node).await;
    let provider = node.serve().await;
    let etcd = Etcd::start().await;
    for name in ["one", "two", "three"] {
        let sealer = sealer(&node, &provider, SourceType::HkdfSeed).await;
        let key = format!("/registry/secrets/default/{name}");
        etcd.put(&key, &sealer.value(&key, OBJECT));
    }
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("etcd.db");
    etcd.save_snapshot(&file);
    let evidence = [
        "--etcd-snapshot",
        file.to_str().unwrap(),
        "--output",
        "json",
    ];
    let verify = [&["verify-backup"], &evidence[..]].concat();
    let recover = [&["recover-state"], &evidence[..]].concat();
    let stopped = provider.stop().await;
    assert_eq!(stopped.code, Some(0), "{}", stopped.err);
    let state = [node.state_file(), node.checkpoint()].map(|it| (fs::read(&it).unwrap(), it));

    let [no_page, no_route, bad, empty, portal, _] = foreign();
    // OpenBao's own refusal of a request is the answer to none of its items.
    let own = |text: &str| Reply::Json(400, serde_json::json!({"errors": [text]}).to_string());
    for (path, reply, verdict) in [
        (LOGIN, empty, "not_openbao"),
        (METADATA, no_page, "not_openbao"),
        (METADATA, portal, "not_openbao"),
        (DECRYPT, no_route, "not_openbao"),
        (DECRYPT, bad, "not_openbao"),
        (DECRYPT, own("missing client token"), "inconclusive"),
        (DECRYPT, own(""), "inconclusive"),
    ] {
        proxy.answers(path, reply);
        let done = node.run(&verify);
        assert_eq!(done.code, Some(5), "{}{}", done.out, done.err);
        let pair = report(&done);
        assert_eq!(pair["verdict"], "inconclusive", "{pair:#}");
        let rows = pair["keyIds"].as_array().unwrap();
        for row in rows {
            assert_eq!(row["deks"]["failed"], 0, "{row:#}");
            assert_eq!(row["deks"]["proven"], 0, "{row:#}");
        }
        let summary = pair["headline"].as_str().unwrap();
        assert!(
            summary.contains("none of them was found to be lost"),
            "{summary}"
        );
        let next = pair["nextSteps"].to_string();
        assert!(!next.contains("restore"), "{next}");

        for (_, file) in &state {
            fs::remove_file(file).unwrap();
        }
        let done = node.run(&recover);
        assert_eq!(done.code, Some(5), "{}{}", done.out, done.err);
        let plan = report(&done);
        let refusals = plan["refusals"].as_array().unwrap();
        assert!(!refusals.is_empty(), "{plan:#}");
        for refusal in refusals {
            assert_eq!(refusal["code"], "openbao", "{plan:#}");
        }
        for (content, file) in &state {
            testkit::files::replace(file, content, 0o640);
        }

        let done = triage(&node, &evidence[..2], verdict);
        assert_eq!(done.json["data"]["impact"], "unknown", "{}", done.text);
        assert_eq!(done.json["exitCode"], 5);
    }

    let record = directory.path().join("record.json");
    let record = ["record-backup", "--out", record.to_str().unwrap()];
    proxy.answers(METADATA, Reply::Web(404, String::new()));
    node.run(&record).assert_told(
        5,
        &[
            "record-backup: not_openbao\n",
            "or correct the route of the proxy",
        ],
    );
    node.run(&["retire-versions", "--before-version", "2"])
        .assert_refused(
            4,
            &["the response is not from OpenBao", "in OpenBao's place"],
        );
    proxy.passes();
    assert_eq!(node.run(&verify).code, Some(0));
}

#[tokio::test]
async fn a_start_waits_until_it_is_openbao_that_answers() {
    let mut node = Node::new(TIMING).await;
    let proxy = Proxy::of(&mut node).await;
    for (path, reply) in [LOGIN, METADATA, MOUNT, ENCRYPT].into_iter().zip(foreign()) {
        proxy.answers(path, reply);
        let mut provider = node.spawn();
        let failed = || {
            let mut probes = provider.events("status.probe");
            probes.any(|probe| probe["error_class"] == "not_openbao")
        };
        wait_until(SOON, "a probe that meets the proxy", async || failed()).await;
        proxy.passes();
        provider.ready().await;
        let stopped = provider.stop().await;
        assert_eq!(stopped.code, Some(0), "{}", stopped.err);
    }

    let mut hurried = node.peer(IMPATIENT);
    hurried.config["openbao"] = node.config["openbao"].clone();
    for (path, reply) in [METADATA, LOGIN].into_iter().zip(foreign()) {
        proxy.answers(path, reply);
        let ended = hurried.refused().await;
        ended.assert_refused(
            5,
            &[NOT_OPENBAO, "no data was changed", "point openbao.address"],
        );
        let advised = ended.err.replace("do not restore OpenBao", "");
        assert!(!advised.contains("restore OpenBao"), "{}", ended.err);
    }
}

#[tokio::test]
async fn a_call_that_a_proxy_answers_is_unavailable_and_the_token_stays_in_use() {
    let mut node = Node::new(QUIET).await;
    let proxy = Proxy::of(&mut node).await;
    let provider = node.serve().await;
    let encrypted = provider.encrypt(b"seed").await.unwrap();
    let logins = proxy.seen(LOGIN).len();
    for reply in foreign() {
        proxy.answers(DECRYPT, reply.clone());
        let refused = provider.decrypt(to_decrypt(&encrypted)).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unavailable, "{reply:?}");
        let said = "the response is not from OpenBao; no data is lost";
        assert_decrypt_refused(&refused, "transit unavailable", said);
        proxy.answers(ENCRYPT, reply);
        let refused = provider.encrypt(b"seed").await.err().unwrap();
        assert_eq!(refused.code(), Code::Unavailable);
        assert_eq!(refused.message(), "transit unavailable");
        proxy.passes();
        let decrypted = provider.decrypt(to_decrypt(&encrypted)).await;
        assert_eq!(decrypted.unwrap(), &b"seed"[..]);
    }
    assert_eq!(proxy.seen(LOGIN).len(), logins, "a login for nothing");
    let classes = provider
        .events("kms.request")
        .filter_map(|event| event["error_class"].as_str().map(str::to_owned));
    assert!(
        classes
            .collect::<Vec<_>>()
            .iter()
            .all(|it| it == "not_openbao")
    );
}

/// A request that is refused as a whole is no answer to the calls that it carried.
#[tokio::test]
async fn a_batch_that_is_refused_for_one_ciphertext_fails_that_call_alone() {
    let mut node = Node::new(QUIET).await;
    let proxy = Proxy::of(&mut node).await;
    let provider = node.serve().await;
    let mut requests = Vec::new();
    for number in 0..16_u8 {
        let encrypted = provider.encrypt(&[number + 1]).await.unwrap();
        requests.push(to_decrypt(&encrypted));
    }
    let bad = 9;
    let ciphertext = std::str::from_utf8(&requests[bad].ciphertext).unwrap();
    for text in ["cipher: message authentication failed", "refused"] {
        let refusal = Reply::Json(400, serde_json::json!({"errors": [text]}).to_string());
        proxy.answers_what_holds(DECRYPT, ciphertext, refusal);
        let calls = provider.decrypt_each_at_once(&requests);
        for (number, call) in calls.into_iter().enumerate() {
            let answer = call.await.unwrap();
            if number == bad {
                assert_eq!(answer.unwrap_err().code(), Code::InvalidArgument);
            } else {
                let plaintext = [u8::try_from(number).unwrap() + 1];
                assert_eq!(answer.unwrap(), Bytes::copy_from_slice(&plaintext));
            }
        }
    }
    let asked = proxy.seen(DECRYPT).into_iter();
    let batches = asked.filter(|seen| seen.body.matches("vault:").count() > 1);
    assert!(batches.count() > 0, "nothing gathered");
}

/// Each costs the calls that meet it, and nothing afterwards.
#[tokio::test]
async fn after_any_failed_answer_the_next_good_one_is_used() {
    let mut node = Node::new(QUIET).await;
    let proxy = Proxy::of(&mut node).await;
    node.config["openbao"]["timeout"] = serde_json::json!("1s");
    let provider = node.serve().await;
    let encrypted = provider.encrypt(b"seed").await.unwrap();
    let own = |status, text: &str| {
        let errors = serde_json::json!({"errors": [text]});
        Reply::Json(status, errors.to_string())
    };
    let begun = r#"{"data":{"#.to_owned();
    for (reply, code, said) in [
        (
            own(429, "request path rate limit quota exceeded"),
            Code::ResourceExhausted,
            "transit rate limited",
        ),
        (
            Reply::Redirect(307, "https://127.0.0.1:1/v1/elsewhere".to_owned()),
            Code::Unavailable,
            "transit unavailable",
        ),
        (
            own(500, "internal error"),
            Code::Unavailable,
            "transit unavailable",
        ),
        (
            own(503, "OpenBao is sealed"),
            Code::Unavailable,
            "transit unavailable",
        ),
        (
            Reply::Filler(200, 4 << 20),
            Code::Unavailable,
            "transit unavailable",
        ),
        (
            Reply::Cut(begun.clone()),
            Code::Unavailable,
            "transit unavailable",
        ),
        (Reply::Close, Code::Unavailable, "transit unavailable"),
        (
            Reply::Stall(begun),
            Code::DeadlineExceeded,
            "request timed out",
        ),
        (Reply::Hang, Code::DeadlineExceeded, "request timed out"),
    ] {
        // While Status is healthy: it follows what the calls find.
        proxy.answers(ENCRYPT, reply.clone());
        let refused = provider.encrypt(b"seed").await.err().unwrap();
        assert_eq!(refused.code(), code, "{reply:?}: {refused:?}");
        proxy.answers(DECRYPT, reply.clone());
        let refused = provider.decrypt(to_decrypt(&encrypted)).await.unwrap_err();
        assert_eq!(refused.code(), code, "{reply:?}: {refused:?}");
        assert_decrypt_refused(&refused, said, "no data is lost");
        proxy.passes();
        let decrypted = provider.decrypt(to_decrypt(&encrypted)).await;
        assert_eq!(decrypted.unwrap(), &b"seed"[..], "{reply:?}");
        provider.wait_for_reasons(&[]).await;
        wait_until(SOON, "encryption", async || {
            provider.encrypt(b"seed").await.is_ok()
        })
        .await;
    }
}
