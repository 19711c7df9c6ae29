//! As many Secrets as a large cluster has, with as many seeds as its API servers have had starts.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::json;
use testkit::{
    control_plane::kms,
    openbao::OpenBao,
    relay::{Line, Relay},
    stored::{AesCbc, random},
};

use super::{Filled, Start, Template, seeds};
use crate::{
    cluster::NAME,
    node::{Node, QUIET},
};

const SECRETS: usize = 20_000;
/// Starts of each case.
const ROUNDS: usize = 3;
/// One way to a distant OpenBao, and the same back.
const ONE_WAY: Duration = Duration::from_millis(10);

#[tokio::test]
#[ignore = "long: many starts with 20,000 Secrets"]
async fn an_api_server_starts_with_twenty_thousand_secrets() {
    let openbao = OpenBao::start().await;
    let relay = Relay::to(&openbao.endpoint()).await;
    let mut node = Node::on(&openbao, QUIET).await;
    node.config["openbao"]["address"] = json!(relay.address);
    node.config["logging"]["level"] = json!("info");
    let provider = node.serve().await;
    let kms = kms(NAME, &node.sockets.socket());

    let template = Template::new().await;
    let plain = Filled::new(&template, None, SECRETS, |_, _, plaintext| plaintext).await;
    let key: [u8; 32] = random();
    let keys = json!([{"name": "key1", "secret": STANDARD.encode(key)}]);
    let aes_cbc = json!({"aescbc": {"keys": keys}});
    let cipher = AesCbc::new("key1", &key);
    let stored = |_, _: &str, plaintext: Vec<u8>| cipher.value(&plaintext);
    let aes_cbc = Filled::new(&template, Some(aes_cbc), SECRETS, stored).await;

    let mut clusters = vec![("no encryption", 0, plain), ("`aescbc`", 0, aes_cbc)];
    for (name, count) in [("40 seeds", 40_u64), ("2,000 seeds", 2_000)] {
        let seeds = seeds(&provider, count).await;
        let stored = |number: usize, key: &str, plaintext: Vec<u8>| {
            seeds[number % seeds.len()].value(key, &plaintext)
        };
        let filled = Filled::new(&template, Some(kms.clone()), SECRETS, stored).await;
        clusters.push((name, count, filled));
    }

    let mut cases: Vec<(String, Vec<Start>)> = Vec::new();
    for round in 0..ROUNDS {
        let mut case = 0;
        for (name, seeds, cluster) in &mut clusters {
            let lines = [
                ("", Line::Open),
                (", OpenBao 20 ms away", Line::Delayed(ONE_WAY)),
            ];
            for (distance, line) in lines.into_iter().take(1 + usize::from(*seeds > 0)) {
                relay.set(line);
                let start = cluster.start(&provider).await;
                // Each seed once, and the few of the API server's own earlier starts.
                let further = start.decrypts.checked_sub(*seeds);
                assert!(further.is_some_and(|it| it <= 10), "{further:?}");
                if round == 0 {
                    cases.push((format!("{name}{distance}"), Vec::new()));
                }
                let (name, starts) = &mut cases[case];
                println!("{}", Start::row(name, std::slice::from_ref(&start)));
                starts.push(start);
                case += 1;
            }
        }
    }
    for (name, starts) in &cases {
        println!("{}", Start::row(name, starts));
    }
}
