//! Faults that a real OpenBao cannot produce on demand, over real TLS.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, UNIX_EPOCH},
};

use kms_domain::{
    aad::AssociatedData,
    ciphertext::TransitCiphertext,
    prepare::PreparedDecrypt,
    scope::{KeyName, MountPath, Namespace, TransitKeyPath},
    transit::TransitVersion,
};
use openbao_client::{
    client::{Answer, Client, ClientOptions},
    endpoint::{Address, Endpoint, ServerName},
    event::{Outcome, RequestEvent, RequestHook},
    failure::{Failure, FailureClass},
    leader::{Leader, leader},
    login::{
        Login, LoginFailure, LoginOutcome,
        jwt::{ClaimRules, JwtRole},
        jwt_file::JwtFile,
    },
    request::{Operation, Request},
    seal_status::seal_status,
    token::Token,
    transit::Transit,
    turns::{Purpose, TURNS},
};
use rustls::sign::CertifiedKey;
use testkit::{
    fake::{FakeOpenBao, Handshake, Reply, Rule},
    wait::wait_until,
};
use tokio::task::JoinSet;
use zeroize::Zeroizing;

const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(200);

type Events = Arc<Mutex<Vec<RequestEvent>>>;

fn recording() -> (RequestHook, Events) {
    let events = Events::default();
    let hook: RequestHook = {
        let events = events.clone();
        Arc::new(move |event| events.lock().unwrap().push(event.clone()))
    };
    (hook, events)
}

fn client(endpoint: Endpoint) -> Client {
    Client::new(endpoint, Arc::new(|_| {})).unwrap()
}

fn token() -> Token {
    Token::new(Zeroizing::new("s.token".to_owned()))
        .ok()
        .unwrap()
}

fn transit(fake: &FakeOpenBao) -> Transit {
    transit_of(client(fake.endpoint()))
}

fn transit_of(client: Client) -> Transit {
    let path = TransitKeyPath {
        mount_path: MountPath::parse("k8s/transit").unwrap(),
        key_name: KeyName::parse("etcd").unwrap(),
    };
    Transit::new(client, &path, LONG)
}

fn read() -> Request<'static> {
    Request::get(Operation::TransitEncrypt, "transit/encrypt/key")
}

async fn class_of(fake: &FakeOpenBao, deadline: Duration) -> FailureClass {
    let result = client(fake.endpoint()).send(read(), deadline).await;
    result.err().unwrap().class()
}

async fn failure_of(fake: &FakeOpenBao) -> Failure {
    let result: Result<Answer, _> = client(fake.endpoint()).send(read(), LONG).await;
    result.err().unwrap()
}

#[tokio::test]
async fn a_request_carries_token_namespace_and_mark() {
    let fake = FakeOpenBao::start([Reply::ok("{}")]).await;
    let mut endpoint = fake.endpoint();
    endpoint.namespace = Some(Namespace::parse("admin/täm").unwrap());
    let token = Token::new(Zeroizing::new("s.token".to_owned()))
        .ok()
        .unwrap();
    let request = Request::post(Operation::Admin, "sys/x <y>")
        .token(&token)
        .json(&serde_json::json!({"a": 1}));
    client(endpoint).send(request, LONG).await.ok().unwrap();

    let seen = fake.seen().remove(0);
    let header = |name: &str| seen.headers.get(name).map(|value| value.as_bytes());
    assert_eq!(seen.method, "POST");
    assert_eq!(seen.target, "/v1/sys/x%20%3Cy%3E");
    assert_eq!(header("x-vault-token"), Some(&b"s.token"[..]));
    assert_eq!(header("x-vault-namespace"), Some("admin/täm".as_bytes()));
    assert_eq!(header("x-vault-request"), Some(&b"true"[..]));
    assert_eq!(header("content-type"), Some(&b"application/json"[..]));
    assert_eq!(seen.body, "{\"a\":1}");
}

#[tokio::test]
async fn connections_are_kept_and_a_closed_one_is_replaced() {
    let fake = FakeOpenBao::start([
        Reply::ok("{}"),
        Reply::ok("{}"),
        Reply::Close,
        Reply::ok("{}"),
    ])
    .await;
    let client = client(fake.endpoint());
    for _ in 0..2 {
        client.send(read(), LONG).await.ok().unwrap();
    }
    assert_eq!(fake.connections(), 1);
    client.send(read(), LONG).await.ok().unwrap();
    assert_eq!(fake.connections(), 2);
    assert_eq!(fake.seen().len(), 4);
}

#[tokio::test]
async fn a_request_whose_connection_broke_unanswered_is_sent_once_more_and_told_twice() {
    for (operation, tries) in [
        (Operation::TransitEncrypt, 2),
        (Operation::TransitBatchDecrypt, 2),
        (Operation::TransitMetadataRead, 2),
        (Operation::JwtLogin, 2),
        // OpenBao may have executed it.
        (Operation::Admin, 1),
    ] {
        let fake = FakeOpenBao::start([Reply::Close, Reply::Close, Reply::ok("{}")]).await;
        let (hook, events) = recording();
        let client = Client::new(fake.endpoint(), hook).unwrap();
        let request = Request::get(operation, "transit/encrypt/key");
        let failure = client.send(request, LONG).await.err().unwrap();
        assert_eq!(failure.class(), FailureClass::ConnectionFailed, "{failure}");
        assert_eq!(fake.seen().len(), tries, "{operation}");
        // Each attempt has its own connection.
        assert_eq!(fake.connections(), tries);
        let told = events.lock().unwrap();
        let failed =
            |event: &RequestEvent| event.outcome == Outcome::Failed(FailureClass::ConnectionFailed);
        assert_eq!(told.len(), tries);
        assert!(told.iter().all(failed));
    }
    // After the response has begun, the request is not repeated.
    let fake = FakeOpenBao::start([Reply::Cut("{".to_owned()), Reply::ok("{}")]).await;
    client(fake.endpoint())
        .send(read(), LONG)
        .await
        .err()
        .unwrap();
    assert_eq!(fake.seen().len(), 1);
}

/// Count of idle connections.
fn idle(client: &Client) -> usize {
    let peers = client.view().addresses.remove(0).peers;
    peers.iter().map(|peer| peer.idle).sum()
}

#[tokio::test]
async fn a_connection_is_left_after_an_answer_that_is_not_a_verdict_of_openbao() {
    let errors = "{\"errors\":[\"text\"]}".to_owned();
    for (reply, left) in [
        (Reply::ok("{}"), false),
        (Reply::Json(400, errors.clone()), false),
        (Reply::Json(403, errors.clone()), false),
        (Reply::Json(429, errors.clone()), false),
        (Reply::Json(500, errors.clone()), true),
        (
            Reply::Json(503, "{\"errors\":[\"Vault is sealed\"]}".to_owned()),
            true,
        ),
        (Reply::Web(502, "<html>".to_owned()), true),
        (Reply::Web(403, "<html>".to_owned()), true),
        (Reply::Redirect(307, "/".to_owned()), true),
        (Reply::Filler(200, (256 << 10) + 1), true),
        (Reply::Cut("{".to_owned()), true),
        (Reply::Stall("{".to_owned()), true),
        (Reply::Hang, true),
    ] {
        let said = format!("{reply:?}");
        let fake = FakeOpenBao::start([Reply::ok("{}"), reply, Reply::ok("{}")]).await;
        let client = client(fake.endpoint());
        client.send(read(), LONG).await.ok().unwrap();
        client.send(read(), SHORT).await.ok();
        assert_eq!(idle(&client), usize::from(!left), "{said}");
        client.send(read(), LONG).await.ok().unwrap();
        assert_eq!(fake.connections(), 1 + usize::from(left), "{said}");
    }
}

#[tokio::test]
async fn a_batch_with_results_and_a_status_of_500_is_believed_and_its_connection_left() {
    let good = || results(500, &[serde_json::json!({"plaintext": "eA=="})]);
    let fake = FakeOpenBao::start([good(), good()]).await;
    let transit = transit(&fake);
    for _ in 0..2 {
        transit
            .decrypt_batch(&token(), &items(1))
            .await
            .ok()
            .unwrap();
    }
    assert_eq!(fake.connections(), 2);
}

#[tokio::test]
async fn a_request_that_is_given_up_takes_its_connection_along() {
    let fake = FakeOpenBao::start([Reply::ok("{}"), Reply::Hang, Reply::ok("{}")]).await;
    let client = client(fake.endpoint());
    client.send(read(), LONG).await.ok().unwrap();
    tokio::time::timeout(SHORT, client.send(read(), LONG))
        .await
        .err()
        .unwrap();
    client.send(read(), LONG).await.ok().unwrap();
    assert_eq!(fake.connections(), 2);
}

/// Sends `most` concurrent requests and returns the count of idle connections afterwards.
async fn crowd(fake: &FakeOpenBao, client: &Client, most: usize) -> usize {
    fake.then((0..most).map(|_| Reply::ok("{}")));
    let mut requests = JoinSet::new();
    for _ in 0..most {
        let client = client.clone();
        requests.spawn(async move { client.send(read(), LONG).await.is_ok() });
    }
    assert!(requests.join_all().await.into_iter().all(|ok| ok));
    idle(client)
}

#[tokio::test]
async fn one_request_without_an_answer_discards_every_free_connection_to_its_peer() {
    let given_up_late = Duration::from_millis(1200);
    for (deadline, patience, class) in [
        // Its deadline passes.
        (SHORT, LONG, Some(FailureClass::Timeout)),
        // The caller cancels after more than a second, like one with a slightly earlier deadline.
        (LONG, given_up_late, Some(FailureClass::Timeout)),
        // The caller cancels early: no failure of the peer.
        (LONG, SHORT, None),
    ] {
        let fake = FakeOpenBao::start([]).await;
        let client = client(fake.endpoint());
        let kept = crowd(&fake, &client, 16).await;
        assert!(kept > 1, "{kept}");
        fake.then([Reply::Hang]);
        let request = client.send(read(), deadline);
        tokio::time::timeout(patience, request).await.ok();
        let left = if class.is_some() { 0 } else { kept - 1 };
        assert_eq!(idle(&client), left);
        let peers = client.view().addresses.remove(0).peers;
        assert_eq!(peers[0].last_failure.map(|(class, _)| class), class);
        fake.then([Reply::ok("{}")]);
        client.send(read(), LONG).await.ok().unwrap();
    }
}

#[tokio::test]
async fn a_connection_ends_at_its_age_whether_free_or_in_use() {
    let fake = FakeOpenBao::start([Reply::ok("{}"), Reply::ok("{}")]).await;
    let options = ClientOptions {
        max_age: Duration::from_millis(300),
        ..ClientOptions::default()
    };
    let client = Client::with(fake.endpoint(), Arc::new(|_| {}), options).unwrap();
    client.send(read(), LONG).await.ok().unwrap();
    let peers = || client.view().addresses.remove(0).peers;
    wait_until(LONG, "the end of the connection", async || {
        peers().is_empty()
    })
    .await;
    client.send(read(), LONG).await.ok().unwrap();
    assert_eq!(fake.connections(), 2);
}

#[tokio::test]
async fn probes_and_logins_do_not_wait_for_calls() {
    let fake = FakeOpenBao::start([Reply::ok("{}"), Reply::ok("{}"), Reply::ok("{}")]).await;
    fake.rules([Rule {
        path: "encrypt/key".to_owned(),
        holds: String::new(),
        percent: 100,
        reply: Reply::Hang,
    }]);
    let client = client(fake.endpoint());
    let mut calls = JoinSet::new();
    for _ in 0..2 * TURNS {
        let client = client.clone();
        calls.spawn(async move { client.send(read(), LONG).await.is_ok() });
    }
    let waiting = || client.view().turns[0].in_use == TURNS;
    wait_until(LONG, "all turns", async || waiting()).await;
    let metadata = Request::get(Operation::TransitMetadataRead, "transit/keys/key");
    client.send(metadata, LONG).await.ok().unwrap();
    let login = Request::get(Operation::JwtLogin, "auth/jwt/login");
    client.send(login, LONG).await.ok().unwrap();
    // The deep probe uses the operations of a call.
    let deep = Request::get(Operation::TransitEncrypt, "transit/encrypt/other");
    let deep = client.send(deep.purpose(Purpose::Probe), LONG);
    deep.await.ok().unwrap();
    assert!(waiting());
}

#[tokio::test]
async fn replaced_roots_hold_for_the_next_request() {
    let fake = FakeOpenBao::start([Reply::ok("{}"), Reply::ok("{}")]).await;
    let other = FakeOpenBao::start([]).await;
    let client = client(fake.endpoint());
    client.send(read(), LONG).await.ok().unwrap();
    client.replace_roots(other.endpoint().roots).unwrap();
    let failure = client.send(read(), LONG).await.err().unwrap();
    assert_eq!(failure.class(), FailureClass::TlsFailed);
    client.replace_roots(fake.endpoint().roots).unwrap();
    client.send(read(), LONG).await.ok().unwrap();
    assert_eq!(fake.seen().len(), 2);
}

#[tokio::test]
async fn a_connection_in_use_is_left_when_the_roots_were_replaced_meanwhile() {
    let fake = FakeOpenBao::start([Reply::Hang]).await;
    let (hook, events) = recording();
    let client = Client::new(fake.endpoint(), hook).unwrap();
    let asking = tokio::spawn({
        let client = client.clone();
        async move {
            client
                .send(read(), SHORT * 2)
                .await
                .err()
                .map(|f| f.class())
        }
    });
    wait_until(LONG, "the request", async || !fake.seen().is_empty()).await;
    client.replace_roots(fake.endpoint().roots).unwrap();
    // The request keeps its connection.
    assert_eq!(asking.await.unwrap(), Some(FailureClass::Timeout));
    assert_eq!(idle(&client), 0);
    assert_eq!(events.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_crowd_of_requests_takes_turns_on_few_connections() {
    let crowd = 64;
    let fake = FakeOpenBao::start((0..5 * crowd).map(|_| Reply::ok("{}"))).await;
    let client = client(fake.endpoint());
    for _ in 0..5 {
        let mut requests = JoinSet::new();
        for _ in 0..crowd {
            let client = client.clone();
            requests.spawn(async move { client.send(read(), LONG).await.is_ok() });
        }
        assert!(requests.join_all().await.into_iter().all(|ok| ok));
    }
    assert!(fake.connections() <= TURNS, "{}", fake.connections());
}

#[tokio::test]
async fn a_redirect_is_never_followed() {
    for status in [301, 302, 303, 307, 308] {
        let fake = FakeOpenBao::start([]).await;
        let place = format!("{}/v1/elsewhere", fake.endpoint().address);
        fake.then([Reply::Redirect(status, place), Reply::ok("{}")]);
        let failure = failure_of(&fake).await;
        assert_eq!(failure.class(), FailureClass::Unavailable);
        assert_eq!(failure.http_status(), Some(status));
        assert_eq!(fake.seen().len(), 1);
    }
}

#[tokio::test]
async fn an_answer_may_be_as_large_as_its_limit_and_no_larger() {
    for (status, limit) in [(200, 256 << 10), (400, 64 << 10)] {
        let fake = FakeOpenBao::start([
            Reply::Filler(status, limit),
            Reply::Filler(status, limit + 1),
        ])
        .await;
        let client = client(fake.endpoint());
        let within = client.send(read(), LONG).await.map_err(|f| f.class());
        if status == 200 {
            assert!(within.is_ok());
        } else {
            assert_eq!(within.err(), Some(FailureClass::NotOpenBao));
        }
        let beyond = client.send(read(), LONG).await.err().unwrap();
        assert_eq!(beyond.class(), FailureClass::Unavailable);
        assert_eq!(beyond.http_status(), Some(status));
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_not_believed() {
    let fake = FakeOpenBao::start([Reply::Cut("{\"data\":{}}".to_owned())]).await;
    let class = class_of(&fake, LONG).await;
    assert!(
        matches!(
            class,
            FailureClass::Unavailable | FailureClass::ConnectionFailed
        ),
        "{class:?}"
    );
}

#[tokio::test]
async fn the_deadline_covers_every_stage() {
    for (handshake, script) in [
        (Handshake::Never, None),
        (Handshake::Good, Some(Reply::Hang)),
        (Handshake::Good, Some(Reply::Stall("{".to_owned()))),
    ] {
        let fake = FakeOpenBao::start_with(handshake, script).await;
        assert_eq!(class_of(&fake, SHORT).await, FailureClass::Timeout);
    }
}

#[tokio::test]
async fn rate_limits_have_their_own_class() {
    let fake = FakeOpenBao::start([Reply::Json(429, "{\"errors\":[]}".to_owned())]).await;
    assert_eq!(class_of(&fake, LONG).await, FailureClass::RateLimited);
}

/// Bodies of proxies, ingresses and web servers, none of OpenBao.
const FOREIGN: [&str; 12] = [
    "<html>Vault is sealed, encryption key not found</html>",
    "404 page not found\n",
    "{\"message\":\"no Route matched with those values\"}",
    "",
    "[]",
    "null",
    "{}",
    "{\"errors\":\"permission denied\"}",
    "{\"errors\":null}",
    "{\"errors\":[{\"code\":\"encryption key not found\"}]}",
    "[null,[\"encryption key not found\"],null,null]",
    "{\"errors\":[\"message authentication failed\"]",
];

#[tokio::test]
async fn a_status_without_the_body_of_openbao_says_nothing_about_key_token_or_policy() {
    let fake = FakeOpenBao::start([]).await;
    let transit = transit(&fake);
    let directory = tempfile::tempdir().unwrap();
    let login = jwt_file(&fake, directory.path());
    let token = token();
    let data = AssociatedData::status_probe();
    let ciphertext = TransitCiphertext::parse(b"vault:v1:AAEC").unwrap();
    for status in [200, 204, 400, 401, 403, 404, 405, 429, 472, 500, 502, 503] {
        let expected = match status {
            500.. => FailureClass::Unavailable,
            _ => FailureClass::NotOpenBao,
        };
        // Each request has its own connection, so only some pairs are tried.
        let bodies = if [200, 403, 503].contains(&status) {
            &FOREIGN[..]
        } else {
            &FOREIGN[..1]
        };
        for body in bodies {
            // A 204 has no body.
            let body = if status == 204 { "" } else { *body };
            fake.then((0..7).map(|_| Reply::Web(status, body.to_owned())));
            let LoginFailure::OpenBao(refused) =
                login.log_in(UNIX_EPOCH, LONG).await.err().unwrap()
            else {
                panic!("{status} {body}");
            };
            assert_eq!(LoginOutcome::of_class(refused.class()), LoginOutcome::Error);
            let failures = [
                transit.key_metadata(&token).await.err(),
                transit.upsert_disabled(&token).await.err(),
                transit.decrypt(&token, &ciphertext, &data).await.err(),
                transit.decrypt_batch(&token, &items(2)).await.err(),
                seal_status(&client(fake.endpoint()), LONG).await.err(),
                login.renew(&token, LONG, LONG).await.err(),
                Some(refused),
            ];
            for failure in failures {
                let failure = failure.unwrap();
                assert_eq!(failure.class(), expected, "{status} {body}: {failure}");
                assert!(!failure.rejects_token());
                let said = "the response is not from OpenBao: text/html from nginx/1.27.1 (HTTP ";
                assert!(failure.to_string().contains(said), "{failure}");
            }
        }
    }
}

#[tokio::test]
async fn a_server_without_a_cluster_does_the_work_itself() {
    let fake = FakeOpenBao::start([Reply::ok("{\"ha_enabled\":false}")]).await;
    let leader = leader(&client(fake.endpoint()), LONG).await;
    assert_eq!(leader.unwrap(), Leader::Itself);
}

#[tokio::test]
async fn only_the_configured_roots_and_name_are_trusted() {
    let fake = FakeOpenBao::start([]).await;
    let other = FakeOpenBao::start([]).await;
    let mut wrong_roots = fake.endpoint();
    wrong_roots.roots = other.endpoint().roots;
    let mut wrong_name = fake.endpoint();
    wrong_name.server_name = ServerName::parse("other.test").unwrap();
    let expired = FakeOpenBao::start_with(Handshake::Expired, []).await;
    for (endpoint, detail) in [
        (wrong_roots, "not signed by the configured CA"),
        (wrong_name, "is for another name"),
        (expired.endpoint(), "has expired"),
    ] {
        let failure = client(endpoint).send(read(), LONG).await.err().unwrap();
        assert_eq!(failure.class(), FailureClass::TlsFailed);
        assert!(failure.to_string().contains(detail), "{failure}");
    }
    assert!(fake.seen().is_empty() && expired.seen().is_empty());
}

#[tokio::test]
async fn a_closed_port_and_an_unknown_name_are_told_apart() {
    let fake = FakeOpenBao::start([]).await;
    let mut unknown = fake.endpoint();
    unknown.address = Address::parse("https://name.invalid:8200").unwrap();
    let failure = client(unknown).send(read(), LONG).await.err().unwrap();
    assert_eq!(failure.class(), FailureClass::DnsFailed);

    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("https://{}", closed.local_addr().unwrap());
    drop(closed);
    let mut refused = fake.endpoint();
    refused.address = Address::parse(&address).unwrap();
    let failure = client(refused).send(read(), LONG).await.err().unwrap();
    assert_eq!(failure.class(), FailureClass::ConnectionFailed);
    assert!(failure.to_string().ends_with(": refused"), "{failure}");
}

#[tokio::test]
async fn the_hook_sees_each_request_once() {
    let fake = FakeOpenBao::start([
        Reply::ok("{\"request_id\":\"good-1\"}"),
        Reply::ok("{\"request_id\":\"bad id\"}"),
        Reply::Json(
            503,
            "{\"request_id\":\"bad-2\",\"errors\":[\"Vault is sealed\"]}".to_owned(),
        ),
        Reply::Hang,
        Reply::Hang,
    ])
    .await;
    let (hook, events) = recording();
    let client = Client::new(fake.endpoint(), hook).unwrap();
    for _ in 0..3 {
        client.send(read(), LONG).await.ok();
    }
    client.send(read(), SHORT).await.err().unwrap();
    // A canceled request.
    tokio::time::timeout(SHORT, client.send(read(), LONG))
        .await
        .err()
        .unwrap();

    let events = events.lock().unwrap();
    let told: Vec<_> = events
        .iter()
        .map(|event| {
            let id = event.request_id.as_ref().map(|id| id.as_str());
            (event.outcome, id)
        })
        .collect();
    assert_eq!(
        told,
        [
            (Outcome::Ok, Some("good-1")),
            (Outcome::Ok, None),
            (Outcome::Failed(FailureClass::Sealed), Some("bad-2")),
            (Outcome::Failed(FailureClass::Timeout), None),
            (Outcome::Canceled, None),
        ]
    );
    assert!(events[3].duration >= SHORT);
}

#[tokio::test]
async fn an_encryption_names_version_and_associated_data() {
    let fake = FakeOpenBao::start([
        Reply::ok("{\"data\":{\"ciphertext\":\"vault:v3:AAEC\",\"key_version\":3}}"),
        Reply::ok("{\"data\":{\"ciphertext\":\"vault:v3:AAEC\"}}"),
    ])
    .await;
    let transit = transit(&fake);
    let version = TransitVersion::new(3).unwrap();
    for said in [Some(version), None] {
        let data = AssociatedData::status_probe();
        let encrypted = transit
            .encrypt(&token(), version, b"secret", &data)
            .await
            .unwrap();
        assert_eq!(encrypted.ciphertext.as_str(), "vault:v3:AAEC");
        assert_eq!(encrypted.key_version, said);
    }
    let seen = fake.seen().remove(0);
    let body: serde_json::Value = serde_json::from_str(&seen.body).unwrap();
    assert_eq!(seen.target, "/v1/k8s/transit/encrypt/etcd");
    assert_eq!(body["plaintext"], "c2VjcmV0");
    assert_eq!(body["key_version"], 3);
    assert!(!body["associated_data"].as_str().unwrap().is_empty());
}

#[tokio::test]
async fn a_success_of_another_shape_is_an_invalid_answer() {
    for body in [
        "{\"data\":{}}",
        "{\"data\":{\"ciphertext\":\"AAEC\",\"plaintext\":\"A\"}}",
        "{\"data\":{\"ciphertext\":\"vault:v0:AAEC\",\"plaintext\":\"\\u0041\"}}",
        "{\"data\":{\"ciphertext\":1,\"plaintext\":1}}",
    ] {
        let fake = FakeOpenBao::start([Reply::ok(body), Reply::ok(body)]).await;
        let transit = transit(&fake);
        let data = AssociatedData::status_probe();
        let version = TransitVersion::FIRST;
        let encrypted = transit.encrypt(&token(), version, b"x", &data).await;
        assert_eq!(
            encrypted.unwrap_err().class(),
            FailureClass::InvalidAnswer,
            "{body}"
        );
        let ciphertext = TransitCiphertext::parse(b"vault:v1:AAEC").unwrap();
        let decrypted = transit.decrypt(&token(), &ciphertext, &data).await;
        let failure = decrypted.err().unwrap();
        assert_eq!(failure.class(), FailureClass::InvalidAnswer, "{body}");
    }
}

/// A private file with a JWT that expires 1000 s after the epoch.
fn jwt_file(fake: &FakeOpenBao, directory: &Path) -> JwtFile {
    let path = jwt_path(directory);
    let mut file = std::fs::File::create(&path).unwrap();
    std::io::Write::write_all(&mut file, b"e30.eyJleHAiOjEwMDB9.c2ln\n").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
    let rules = ClaimRules {
        expected_issuer: None,
        expected_audience: Vec::new(),
        expected_subject: None,
        clock_skew_leeway: Duration::ZERO,
        min_remaining: Duration::from_secs(60),
    };
    let role = JwtRole {
        client: client(fake.endpoint()),
        mount_path: MountPath::parse("auth/k8s-jwt").unwrap(),
        role: KeyName::parse("provider").unwrap(),
    };
    JwtFile::new(role, path, rules)
}

fn jwt_path(directory: &Path) -> PathBuf {
    directory.join("jwt")
}

#[tokio::test]
async fn a_login_sends_role_and_jwt_and_no_token() {
    let fake = FakeOpenBao::start([Reply::ok(
        "{\"auth\":{\"client_token\":\"s.new\",\"lease_duration\":1800,\"renewable\":true}}",
    )])
    .await;
    let directory = tempfile::tempdir().unwrap();
    let login = jwt_file(&fake, directory.path());
    let grant = login.log_in(UNIX_EPOCH, LONG).await.ok().unwrap();
    assert_eq!(grant.token.expose(), "s.new");
    assert_eq!(grant.lease.duration, Duration::from_secs(1800));
    assert!(grant.lease.renewable);
    let expires = UNIX_EPOCH + Duration::from_secs(1000);
    assert_eq!(grant.credential_expires, Some(expires));

    let seen = fake.seen().remove(0);
    assert_eq!(seen.target, "/v1/auth/k8s-jwt/login");
    assert!(!seen.headers.contains_key("x-vault-token"));
    let body = "{\"role\":\"provider\",\"jwt\":\"e30.eyJleHAiOjEwMDB9.c2ln\"}";
    assert_eq!(seen.body, body);
}

#[tokio::test]
async fn openbao_is_not_asked_with_a_jwt_that_cannot_work() {
    let fake = FakeOpenBao::start([]).await;
    let directory = tempfile::tempdir().unwrap();
    let login = jwt_file(&fake, directory.path());
    let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
    for (now, outcome) in [
        (940, LoginOutcome::JwtNearExpiry),
        (1000, LoginOutcome::JwtExpired),
    ] {
        let failure = login.log_in(at(now), LONG).await.err().unwrap();
        assert_eq!(failure.outcome(), outcome);
    }
    std::fs::remove_file(jwt_path(directory.path())).unwrap();
    let failure = login.log_in(at(0), LONG).await.err().unwrap();
    assert_eq!(failure.outcome(), LoginOutcome::JwtInvalid);
    assert!(fake.seen().is_empty());
}

#[tokio::test]
async fn a_login_without_a_usable_token_is_an_invalid_answer() {
    for body in [
        "{\"auth\":{\"client_token\":\"\",\"lease_duration\":1}}",
        "{\"auth\":{\"client_token\":\"a b\",\"lease_duration\":1}}",
        "{\"auth\":{\"client_token\":\"s.x\",\"lease_duration\":-1}}",
    ] {
        let fake = FakeOpenBao::start([Reply::ok(body)]).await;
        let directory = tempfile::tempdir().unwrap();
        let login = jwt_file(&fake, directory.path());
        match login.log_in(UNIX_EPOCH, LONG).await {
            Err(LoginFailure::OpenBao(failure)) => {
                assert_eq!(failure.class(), FailureClass::InvalidAnswer, "{body}");
            }
            _ => panic!("{body}"),
        }
    }
}

#[tokio::test]
async fn a_renewal_asks_in_whole_seconds_and_may_keep_the_token() {
    let fake = FakeOpenBao::start([
        Reply::ok("{\"auth\":{\"client_token\":\"s.token\",\"lease_duration\":60}}"),
        Reply::ok("{\"auth\":{\"client_token\":\"\",\"lease_duration\":60}}"),
        Reply::ok("{\"auth\":{\"lease_duration\":60}}"),
    ])
    .await;
    let directory = tempfile::tempdir().unwrap();
    let login = jwt_file(&fake, directory.path());
    for (increment, token_sent) in [(59_001, true), (60_000, false), (60_000, false)] {
        let increment = Duration::from_millis(increment);
        let renewal = login.renew(&token(), increment, LONG).await.ok().unwrap();
        assert_eq!(renewal.token.is_some(), token_sent);
        assert_eq!(renewal.lease.duration, Duration::from_secs(60));
    }
    for seen in fake.seen() {
        assert_eq!(seen.target, "/v1/auth/token/renew-self");
        assert_eq!(seen.headers["x-vault-token"], "s.token");
        assert_eq!(seen.body, "{\"increment\":\"60s\"}");
    }
}

fn items(count: usize) -> Vec<PreparedDecrypt> {
    let item = PreparedDecrypt {
        ciphertext: TransitCiphertext::parse(b"vault:v1:AAECAwQFBgcICQoLDA0ODw==").unwrap(),
        associated_data: AssociatedData::status_probe(),
    };
    vec![item; count]
}

/// Response of OpenBao to a batch with these results.
fn results(status: u16, results: &[serde_json::Value]) -> Reply {
    let body = serde_json::json!({"data": {"batch_results": results}});
    Reply::Json(status, body.to_string())
}

#[tokio::test]
async fn a_batch_answer_that_does_not_fit_the_items_is_not_believed() {
    let good = serde_json::json!({"plaintext": "eA=="});
    let not_base64 = serde_json::json!({"plaintext": "%"});
    let neither = serde_json::json!({"reference": ""});
    for (reply, expected) in [
        (
            results(200, std::slice::from_ref(&good)),
            FailureClass::InvalidAnswer,
        ),
        (
            results(400, &vec![good.clone(); 3]),
            FailureClass::InvalidAnswer,
        ),
        (Reply::ok("{\"data\":{}}"), FailureClass::InvalidAnswer),
        (
            Reply::Json(503, "{\"errors\":[\"Vault is sealed\"]}".to_owned()),
            FailureClass::Sealed,
        ),
        (Reply::Filler(200, (4 << 20) + 1), FailureClass::Unavailable),
        (Reply::Filler(400, (4 << 20) + 1), FailureClass::Unavailable),
    ] {
        let fake = FakeOpenBao::start([reply]).await;
        let failure = transit(&fake).decrypt_batch(&token(), &items(2)).await;
        assert_eq!(failure.err().unwrap().class(), expected);
        assert_eq!(fake.seen().len(), 1);
    }
    let cut = Reply::Cut("{\"data\":{\"batch_results\":[{\"plaintext\":\"eA==\"}".to_owned());
    let fake = FakeOpenBao::start([cut]).await;
    assert!(
        transit(&fake)
            .decrypt_batch(&token(), &items(2))
            .await
            .is_err()
    );

    let fake = FakeOpenBao::start([results(200, &[not_base64, neither, good])]).await;
    let results = transit(&fake).decrypt_batch(&token(), &items(3)).await;
    let classes = results.ok().unwrap().into_iter();
    let classes: Vec<_> = classes.map(|r| r.err().map(|f| f.class())).collect();
    let invalid = Some(FailureClass::InvalidAnswer);
    assert_eq!(classes, [invalid, invalid, None]);
}

#[tokio::test]
async fn an_item_without_a_known_text_has_the_class_of_the_batch() {
    let known = serde_json::json!({"error": "cipher: message authentication failed"});
    let other = serde_json::json!({"error": "of \"an\" unknown kind"});
    for (status, class) in [
        (200, FailureClass::InvalidRequest),
        (400, FailureClass::InvalidRequest),
        (500, FailureClass::Unavailable),
    ] {
        let fake = FakeOpenBao::start([results(status, &[known.clone(), other.clone()])]).await;
        let (hook, events) = recording();
        let client = Client::new(fake.endpoint(), hook).unwrap();
        let transit = transit_of(client);
        let results = transit
            .decrypt_batch(&token(), &items(2))
            .await
            .ok()
            .unwrap();
        let classes: Vec<_> = results
            .into_iter()
            .map(|r| r.err().unwrap().class())
            .collect();
        assert_eq!(classes, [FailureClass::DecryptFailed, class]);
        // The request itself succeeded.
        let event = events.lock().unwrap().remove(0);
        assert_eq!(event.operation.label(), "transit_batch_decrypt");
        assert_eq!(event.outcome, Outcome::Ok);
    }
}

#[tokio::test]
async fn a_batch_that_openbao_will_not_read_is_halved_until_one_item_is_refused() {
    let refused = || Reply::Json(400, "{\"errors\":[\"refused JSON input\"]}".to_owned());
    let good = |count| results(200, &vec![serde_json::json!({"plaintext": "eA=="}); count]);
    // A proxy with a limit on the request size.
    let too_large = Reply::Web(413, "<html>".to_owned());
    let fake =
        FakeOpenBao::start([too_large, refused(), good(1), refused(), good(1), good(1)]).await;
    let results = transit(&fake).decrypt_batch(&token(), &items(4)).await;
    let classes = results.ok().unwrap().into_iter();
    let classes: Vec<_> = classes.map(|r| r.err().map(|f| f.class())).collect();
    assert_eq!(
        classes,
        [None, Some(FailureClass::InvalidRequest), None, None]
    );
    let sizes = fake.seen().into_iter();
    let sizes: Vec<_> = sizes
        .map(|seen| seen.body.matches("vault:").count())
        .collect();
    assert_eq!(sizes, [4, 2, 1, 1, 1, 1]);
}

#[tokio::test]
async fn a_refusal_of_many_is_the_answer_to_none_of_them() {
    for (text, class) in [
        (
            "cipher: message authentication failed",
            FailureClass::DecryptFailed,
        ),
        ("invalid ciphertext length", FailureClass::DecryptFailed),
        (
            "invalid ciphertext: version is too new",
            FailureClass::VersionTooNew,
        ),
        (
            "disallowed by policy (too old)",
            FailureClass::VersionTooOld,
        ),
        ("of an unknown kind", FailureClass::InvalidRequest),
    ] {
        let refused = || Reply::Json(400, serde_json::json!({"errors": [text]}).to_string());
        let good = |count| results(200, &vec![serde_json::json!({"plaintext": "eA=="}); count]);
        // The second item of four is rejected.
        let script = [refused(), refused(), good(1), refused(), good(1), good(1)];
        let fake = FakeOpenBao::start(script).await;
        let results = transit(&fake).decrypt_batch(&token(), &items(4)).await;
        let classes = results.ok().unwrap().into_iter();
        let classes: Vec<_> = classes.map(|r| r.err().map(|f| f.class())).collect();
        assert_eq!(classes, [None, Some(class), None, None], "{text}");
    }
    // Without the key every item has the same failure.
    let no_key = "{\"errors\":[\"encryption key not found\"]}".to_owned();
    let fake = FakeOpenBao::start([Reply::Json(400, no_key)]).await;
    let failed = transit(&fake).decrypt_batch(&token(), &items(4)).await;
    assert_eq!(failed.err().unwrap().class(), FailureClass::KeyMissing);
    assert_eq!(fake.seen().len(), 1);
}

/// OpenBao, or a proxy before it, logs the name in a presented certificate.
#[tokio::test]
async fn only_certificate_logins_and_renewals_present_the_client_certificate() {
    let accepted = [(); 2].map(|()| Reply::Json(200, "{}".to_owned()));
    let fake = FakeOpenBao::start_with(Handshake::ClientCertificate, accepted).await;
    let client = client(fake.endpoint());
    let (certificate, key) = fake.client_certificate();
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let key = CertifiedKey::from_der(vec![certificate], key, &provider).unwrap();
    client.present(key).unwrap();

    // The fake refuses a connection without a certificate.
    for (operation, presents) in [
        (Operation::CertLogin, true),
        (Operation::TokenRenewSelf, true),
        (Operation::JwtLogin, false),
        (Operation::TransitEncrypt, false),
        (Operation::TransitDecrypt, false),
        (Operation::TransitMetadataRead, false),
        (Operation::Health, false),
    ] {
        let sent = client.send(Request::post(operation, "any"), LONG).await;
        assert_eq!(sent.is_ok(), presents, "{operation}");
    }
    assert_eq!(fake.seen().len(), 2);
}
