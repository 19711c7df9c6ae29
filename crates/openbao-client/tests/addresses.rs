//! Tests of the selection between several addresses, with servers of scripted roles.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use kms_domain::{
    aad::AssociatedData,
    ciphertext::TransitCiphertext,
    prepare::PreparedDecrypt,
    scope::{KeyName, MountPath, TransitKeyPath},
};
use openbao_client::{
    addresses::Role,
    client::{Client, ClientOptions},
    endpoint::{Endpoint, Failover, Roots},
    failure::FailureClass,
    request::{Operation, Request},
    token::Token,
    transit::Transit,
};
use serde_json::json;
use testkit::{
    fake::{FakeOpenBao, Reply, Rule},
    wait::wait_until,
};
use tokio::time::Instant;
use zeroize::Zeroizing;

const LONG: Duration = Duration::from_secs(20);
/// Below the 3 s of kube-apiserver, with a margin.
const DEADLINE: Duration = Duration::from_secs(2);

const ACTIVE: (u16, bool, bool) = (200, false, false);
const STANDBY: (u16, bool, bool) = (429, false, true);
const SEALED: (u16, bool, bool) = (503, true, false);

fn health((status, sealed, standby): (u16, bool, bool), cluster: &str) -> Rule {
    let mut body = json!({"initialized": true, "sealed": sealed, "standby": standby});
    if !sealed {
        body["cluster_id"] = json!(cluster);
    }
    rule("sys/health", Reply::Json(status, body.to_string()))
}

fn rule(path: &str, reply: Reply) -> Rule {
    Rule {
        path: path.to_owned(),
        holds: String::new(),
        percent: 100,
        reply,
    }
}

/// A server with this role. Other requests get the replies of its script.
async fn server(part: (u16, bool, bool), cluster: &str) -> FakeOpenBao {
    let fake = FakeOpenBao::start([]).await;
    fake.rules([health(part, cluster)]);
    fake
}

fn endpoint(servers: &[&FakeOpenBao]) -> (Endpoint, Vec<Failover>) {
    let pem: String = servers.iter().map(|server| server.ca_pem()).collect();
    let mut places = servers.iter().map(|server| server.endpoint());
    let mut first = places.next().unwrap();
    first.roots = Roots::from_pem(pem.as_bytes()).unwrap();
    let others = places.map(|place| Failover {
        address: place.address,
        server_name: place.server_name,
    });
    (first, others.collect())
}

type News = Arc<Mutex<Vec<(String, Role)>>>;

fn client(servers: &[&FakeOpenBao], max_age: Duration) -> (Client, News) {
    let (endpoint, failover) = endpoint(servers);
    let news = News::default();
    let told = Arc::clone(&news);
    let options = ClientOptions {
        failover,
        address_hook: Arc::new(move |address, role| {
            told.lock().unwrap().push((address.to_string(), role));
        }),
        max_age,
    };
    let client = Client::with(endpoint, Arc::new(|_| {}), options).unwrap();
    (client, news)
}

fn transit(client: &Client, deadline: Duration) -> Transit {
    let path = TransitKeyPath {
        mount_path: MountPath::parse("transit").unwrap(),
        key_name: KeyName::parse("key").unwrap(),
    };
    Transit::new(client.clone(), &path, deadline)
}

fn token() -> Token {
    Token::new(Zeroizing::new("s.token".to_owned()))
        .ok()
        .unwrap()
}

fn ask() -> Request<'static> {
    Request::get(Operation::TransitEncrypt, "transit/encrypt/key")
}

/// Requests without those to `sys/health`.
fn calls(server: &FakeOpenBao) -> usize {
    let seen = server.seen().into_iter();
    seen.filter(|seen| !seen.target.ends_with("sys/health"))
        .count()
}

fn roles(client: &Client) -> Vec<Role> {
    let addresses = client.view().addresses.into_iter();
    addresses.map(|address| address.role.unwrap()).collect()
}

#[tokio::test]
async fn a_single_address_is_not_asked_for_its_part() {
    let only = FakeOpenBao::start([Reply::ok("{}")]).await;
    let client = Client::new(only.endpoint(), Arc::new(|_| {})).unwrap();
    client.send(ask(), LONG).await.ok().unwrap();
    client.confirm_cluster();
    assert_eq!(only.seen().len(), 1);
    assert_eq!(client.view().addresses[0].role, None);
}

#[tokio::test]
async fn the_active_server_is_preferred_wherever_it_stands() {
    let standby = server(STANDBY, "ours").await;
    let active = server(ACTIVE, "ours").await;
    active.then([Reply::ok("{}"), Reply::ok("{}")]);
    let (client, news) = client(&[&standby, &active], LONG);
    for _ in 0..2 {
        client.send(ask(), LONG).await.ok().unwrap();
    }
    assert_eq!((calls(&standby), calls(&active)), (0, 2));
    let told = news.lock().unwrap().clone();
    assert_eq!(
        told,
        [(active.endpoint().address.to_string(), Role::Active)]
    );
    wait_until(LONG, "both parts", async || {
        roles(&client) == [Role::Standby, Role::Active]
    })
    .await;
}

#[tokio::test]
async fn a_call_outlives_every_failure_of_the_active_server() {
    for reply in [
        Reply::Hang,
        Reply::Stall("{".to_owned()),
        Reply::Cut("{".to_owned()),
        Reply::Close,
        Reply::Json(503, "{\"errors\":[\"Vault is sealed\"]}".to_owned()),
        Reply::Json(500, "{\"errors\":[\"no active node\"]}".to_owned()),
        Reply::Redirect(307, "https://elsewhere".to_owned()),
        Reply::Web(502, "<html>".to_owned()),
        Reply::Web(404, "<html>".to_owned()),
    ] {
        let said = format!("{reply:?}");
        let first = server(ACTIVE, "ours").await;
        let second = server(STANDBY, "ours").await;
        let (client, _) = client(&[&first, &second], LONG);
        first.then([Reply::ok("{}")]);
        client.send(ask(), LONG).await.ok().unwrap();

        first.rules([health(ACTIVE, "ours"), rule("encrypt/key", reply)]);
        second.then((0..3).map(|_| Reply::ok("{}")));
        client.send(ask(), DEADLINE).await.expect(&said);
        // A server is avoided just after a failure.
        let before = calls(&first);
        let begun = Instant::now();
        client.send(ask(), DEADLINE).await.expect(&said);
        assert!(begun.elapsed() < DEADLINE / 2, "{said}");
        assert_eq!(calls(&first), before, "{said}");
    }
}

#[tokio::test]
async fn servers_that_are_gone_or_sealed_are_passed_over() {
    let sealed = server(SEALED, "ours").await;
    let silent = FakeOpenBao::start([]).await;
    silent.rules([rule("sys/health", Reply::Hang)]);
    let active = server(ACTIVE, "ours").await;
    active.then([Reply::ok("{}")]);
    let (client, _) = client(&[&sealed, &silent, &active], LONG);
    let begun = Instant::now();
    client.send(ask(), DEADLINE).await.ok().unwrap();
    assert!(begun.elapsed() < DEADLINE / 2);
    assert_eq!((calls(&sealed), calls(&silent)), (0, 0));
}

#[tokio::test]
async fn a_new_active_server_is_found_and_used() {
    let first = server(ACTIVE, "ours").await;
    let second = server(STANDBY, "ours").await;
    first.then([Reply::ok("{}")]);
    let (client, news) = client(&[&first, &second], LONG);
    client.send(ask(), LONG).await.ok().unwrap();

    let sealed = || Reply::Json(503, "{\"errors\":[\"Vault is sealed\"]}".to_owned());
    first.rules([health(SEALED, "ours"), rule("encrypt/key", sealed())]);
    second.rules([health(STANDBY, "ours"), rule("encrypt/key", sealed())]);
    let failure = client.send(ask(), DEADLINE).await.err().unwrap();
    assert_eq!(failure.class(), FailureClass::Sealed);

    second.rules([health(ACTIVE, "ours"), rule("encrypt/key", Reply::ok("{}"))]);
    let begun = Instant::now();
    client.send(ask(), DEADLINE).await.ok().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(1));
    wait_until(LONG, "the news", async || news.lock().unwrap().len() == 2).await;
    assert_eq!(
        news.lock().unwrap()[1].0,
        second.endpoint().address.to_string()
    );
}

fn metadata(latest: u64) -> Reply {
    let keys = json!({"1": 1_700_000_000});
    Reply::ok(json!({"data": {
        "name": "key", "type": "aes256-gcm96", "latest_version": latest,
        "min_decryption_version": 1, "min_encryption_version": 0, "min_available_version": 0,
        "deletion_allowed": false, "exportable": false, "allow_plaintext_backup": false,
        "derived": false, "supports_encryption": true, "supports_decryption": true,
        "keys": keys,
    }}))
}

#[tokio::test]
async fn another_cluster_is_named_and_never_used_once_the_key_was_verified() {
    let ours = server(ACTIVE, "ours").await;
    let foreign = server(ACTIVE, "foreign").await;
    let (client, news) = client(&[&ours, &foreign], Duration::ZERO);
    let transit = transit(&client, DEADLINE);
    ours.then([metadata(1)]);
    transit.key_metadata(&token()).await.unwrap();
    wait_until(LONG, "the other one", async || {
        roles(&client)[1] != Role::Unknown
    })
    .await;
    transit.confirm_cluster();
    assert_eq!(roles(&client), [Role::Active, Role::WrongCluster]);
    let wrong = (foreign.endpoint().address.to_string(), Role::WrongCluster);
    assert_eq!(*news.lock().unwrap().last().unwrap(), wrong);

    // Even as the last server it is excluded.
    ours.rules([rule("", Reply::Close)]);
    foreign.then([Reply::ok("{}")]);
    client.send(ask(), DEADLINE).await.err().unwrap();
    assert_eq!(calls(&foreign), 0);

    // A changed server behind an address is detected before a request is sent to it.
    ours.rules([
        health(ACTIVE, "foreign"),
        rule("encrypt/key", Reply::ok("{}")),
    ]);
    let before = calls(&ours);
    client.send(ask(), DEADLINE).await.err().unwrap();
    assert_eq!(calls(&ours), before);
    ours.rules([health(ACTIVE, "ours"), rule("encrypt/key", Reply::ok("{}"))]);
    wait_until(LONG, "our server", async || {
        client.send(ask(), DEADLINE).await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn a_cluster_with_another_key_is_left_for_one_that_may_be_ours() {
    let foreign = server(ACTIVE, "foreign").await;
    let ours = server(ACTIVE, "ours").await;
    let (client, news) = client(&[&foreign, &ours], LONG);
    let transit = transit(&client, DEADLINE);
    foreign.then([metadata(1)]);
    transit.key_metadata(&token()).await.unwrap();
    wait_until(LONG, "the other one", async || {
        roles(&client)[1] == Role::Active
    })
    .await;
    // The registry has another creation time for the key.
    transit.refuse_cluster();
    assert_eq!(roles(&client), [Role::WrongCluster, Role::Active]);
    assert_eq!(news.lock().unwrap().last().unwrap().1, Role::WrongCluster);
    ours.then([metadata(1)]);
    transit.key_metadata(&token()).await.unwrap();
    // The last cluster is never excluded: its own failure is the better message.
    transit.refuse_cluster();
    assert_eq!(roles(&client), [Role::WrongCluster, Role::Active]);
}

#[tokio::test]
async fn a_foreign_server_does_not_keep_a_start_from_the_right_cluster() {
    let denied = || Reply::Json(403, json!({"errors": ["permission denied"]}).to_string());
    let foreign = server(ACTIVE, "foreign").await;
    foreign.rules([health(ACTIVE, "foreign"), rule("keys/key", denied())]);
    let standby = server(STANDBY, "ours").await;
    let ours = server(ACTIVE, "ours").await;
    ours.then([metadata(1), metadata(1)]);
    // With most addresses in our cluster the foreign one gets no request. With one address each, it
    // gets the first.
    for (servers, asked) in [
        (vec![&foreign, &standby, &ours], 0),
        (vec![&foreign, &ours], 1),
    ] {
        let (client, _) = client(&servers, LONG);
        let transit = transit(&client, DEADLINE);
        transit.key_metadata(&token()).await.unwrap();
        assert_eq!(calls(&foreign), asked);
        transit.confirm_cluster();
        assert_eq!(roles(&client)[0], Role::WrongCluster);
    }
}

#[tokio::test]
async fn a_standby_that_lags_is_not_believed() {
    let active = server(ACTIVE, "ours").await;
    let standby = server(STANDBY, "ours").await;
    let (client, _) = client(&[&active, &standby], LONG);
    let transit = transit(&client, DEADLINE);
    active.then([metadata(3)]);
    transit.key_metadata(&token()).await.unwrap();

    // Only the standby is left, and it lags behind the last rotation.
    active.rules([rule("", Reply::Close)]);
    standby.then([metadata(2), metadata(3)]);
    let failure = transit.key_metadata(&token()).await.unwrap_err();
    assert_eq!(failure.class(), FailureClass::Unavailable);
    assert!(
        failure.to_string().contains("behind the active server"),
        "{failure}"
    );
    let believed = transit.key_metadata(&token()).await.unwrap();
    assert_eq!(believed.latest_version, 3);
}

#[tokio::test]
async fn a_version_that_a_standby_does_not_know_is_asked_for_at_the_active_server() {
    let text = "invalid ciphertext: version is too new";
    let refused = Reply::Json(400, json!({"errors": [text]}).to_string());
    let results = json!({"data": {"batch_results": [{"plaintext": "eA=="}, {"error": text}]}});
    let answer = json!({"data": {
        "plaintext": "eA==",
        "batch_results": [{"plaintext": "eA=="}, {"plaintext": "eA=="}],
    }});
    let item = PreparedDecrypt {
        ciphertext: TransitCiphertext::parse(b"vault:v3:AAEC").unwrap(),
        associated_data: AssociatedData::status_probe(),
    };
    let items = vec![item.clone(); 2];
    for (single, reply) in [(true, refused), (false, Reply::ok(results))] {
        let standby = server(STANDBY, "ours").await;
        let other = server(STANDBY, "ours").await;
        let (client, _) = client(&[&standby, &other], LONG);
        let transit = transit(&client, DEADLINE);
        let decrypt = async || match single {
            true => {
                let data = &item.associated_data;
                let decrypted = transit.decrypt(&token(), &item.ciphertext, data).await;
                decrypted.map(drop).map_err(|failure| failure.class())
            }
            false => {
                let decrypted = transit.decrypt_batch(&token(), &items).await;
                let results = decrypted.map_err(|failure| failure.class())?;
                results.into_iter().try_for_each(|result| match result {
                    Ok(_) => Ok(()),
                    Err(failure) => Err(failure.class()),
                })
            }
        };
        // All other servers are standbys too: the response of a lagging replica is inconclusive.
        for server in [&standby, &other] {
            server.rules([health(STANDBY, "ours"), rule("decrypt/key", reply.clone())]);
        }
        assert_eq!(decrypt().await, Err(FailureClass::Unavailable));
        let both = (calls(&standby), calls(&other));
        assert_eq!(both, (1, 1));

        // The first has just failed and is avoided, but it is the active server.
        standby.rules([
            health(ACTIVE, "ours"),
            rule("decrypt/key", Reply::ok(answer.clone())),
        ]);
        wait_until(LONG, "the active server", async || {
            roles(&client)[0] == Role::Active || decrypt().await.is_ok()
        })
        .await;
        assert_eq!(decrypt().await, Ok(()));
        // The same response of the active server is conclusive.
        standby.rules([health(ACTIVE, "ours"), rule("decrypt/key", reply)]);
        wait_until(LONG, "an active server", async || {
            decrypt().await == Err(FailureClass::VersionTooNew)
        })
        .await;
    }
}
