//! Evidence that does not suffice, or is of something else: each kind is refused and named.

use std::{fs, path::Path};

use openbao_lab::admin::transit::{KeyConfig, NewKey};
use serde_json::json;
use testkit::{
    files,
    openbao::shared_openbao,
    stored::{Sealer, SourceType},
    tenant::KEY,
};

use crate::{
    corpus::{OBJECT, sealer},
    node::Node,
};

use super::fleet::{FAST, Fleet, contents, copy_of, option, record_of};

fn told(code: &str, evidence: &str) -> (String, String) {
    (code.to_owned(), evidence.to_owned())
}

#[tokio::test]
async fn evidence_of_another_cluster_is_refused_and_named() {
    let fleet = Fleet::new(1, 2).await;
    fleet.lose_state();
    let other = Node::new(FAST).await;
    let provider = other.serve().await;
    other.rotate().await;
    provider.encrypt_under(2).await;
    let stranger = sealer(&other, &provider, SourceType::HkdfSeed).await;
    let key = "/registry/secrets/default/stranger";
    let etcd = testkit::etcd::Etcd::start().await;
    etcd.put(key, &stranger.value(key, OBJECT));
    let snapshot = fleet.file("foreign.db");
    etcd.save_snapshot(&snapshot);
    let foreign = [
        option("--etcd-snapshot", &snapshot),
        copy_of(&other, &fleet.file("foreign.json")),
        record_of(&other, &fleet.file("foreign-record.json")),
    ]
    .concat();
    let (refused, text) = fleet.refused(&foreign);
    assert_eq!(
        refused,
        [
            told("other_identity", "foreign.json"),
            told("other_identity", "foreign-record.json"),
            told("identity_mismatch", "foreign.db"),
        ]
    );
    for said in [
        "transit.keyIdScope.transitMountId",
        "transit.mountPath is",
        "do not edit the evidence, to make them fit",
    ] {
        assert!(text.contains(said), "{said}: {text}");
    }

    // Under another provider's name there is nothing to go by, whatever else is there.
    let unnamed = Sealer {
        provider: "another".to_owned(),
        ..stranger
    };
    etcd.put(key, &unnamed.value(key, OBJECT));
    let empty = fleet.file("empty.db");
    etcd.save_snapshot(&empty);
    let (refused, text) = fleet.refused(&option("--etcd-snapshot", &empty));
    assert_eq!(refused, [told("no_objects", "empty.db")]);
    assert!(
        text.contains("this etcd may be of another cluster"),
        "{text}"
    );
    let beside = [&fleet.live()[..], &option("--etcd-snapshot", &empty)].concat();
    let (refused, _) = fleet.refused(&beside);
    assert_eq!(refused, [told("no_objects", "empty.db")]);

    let (refused, text) = fleet.refused_by(&[]);
    assert_eq!(refused, [told("no_evidence", "")]);
    assert!(text.contains("do not recreate the key"), "{text}");
    provider.stop().await;
}

#[tokio::test]
async fn what_a_newer_release_wrote_is_replaced_only_on_request_and_kept() {
    let fleet = Fleet::new(1, 2).await;
    let evidence = fleet.peer_state("peer.json").to_vec();
    let text = fs::read_to_string(fleet.lost.state_file()).unwrap();
    let newer = text.replace("/v1alpha2", "/v9");
    let newer = newer.replacen('{', "{\"new\": {\"of\": 2}, ", 1);
    files::replace(&fleet.lost.state_file(), newer.as_bytes(), 0o640);
    let (refused, text) = fleet.refused(&evidence);
    assert_eq!(refused, [told("other_release", "")]);
    for said in [
        "written by a newer release (schema",
        "--replace-newer-release",
    ] {
        assert!(text.contains(said), "{said}: {text}");
    }
    let given_up = [&evidence[..], &["--replace-newer-release".to_owned()]].concat();
    let plan = fleet.plan(&given_up);
    fleet.apply(&given_up, &plan);
    let mut kept = contents(&fleet.lost.state_dir()).into_iter();
    assert!(kept.any(|(_, content)| content == newer.as_bytes()));
    fleet.assert_recovered().await;
}

#[tokio::test]
async fn tampered_halved_and_own_files_are_refused_and_named() {
    let fleet = Fleet::new(1, 2).await;
    let own = option("--peer-state", &fleet.lost.state_file());
    let (refused, _) = fleet.refused(&own);
    assert!(
        refused.contains(&told("peer_is_own", "key-registry.json")),
        "{refused:?}"
    );
    fleet.lose_state();

    let change = |path: &Path, from: &str, to: &str| {
        let text = fs::read_to_string(path).unwrap();
        assert!(text.contains(from), "{text}");
        files::replace(path, text.replace(from, to).as_bytes(), 0o640);
    };
    let record = fleet.record("record.json");
    change(
        Path::new(&record[1]),
        "\"latestVersion\": 2",
        "\"latestVersion\": 3",
    );
    let peer = fleet.peer_state("peer.json");
    change(Path::new(&peer[1]), "\"retired\"", "\"removed\"");
    let alone = fleet.peer_state("alone.json");
    fs::remove_file(fleet.file("alone.json.checkpoint")).unwrap();
    let behind = fleet.peer_state("behind.json");
    let checkpoint = fleet.file("behind.json.checkpoint");
    let text = fs::read_to_string(&checkpoint).unwrap();
    let generation = fleet.peers[0].inspect()["stateGeneration"]
        .as_u64()
        .unwrap();
    let text = text.replace(&generation.to_string(), &(generation + 5).to_string());
    files::replace(&checkpoint, text.as_bytes(), 0o640);
    let cut = fleet.file("cut.db");
    let [_, whole] = fleet.snapshot("whole.db");
    let whole = fs::read(whole).unwrap();
    files::replace(&cut, &whole[..whole.len() - 4096], 0o640);
    let newer = |file: &str| {
        let text = fs::read_to_string(file).unwrap();
        let text = text
            .replace("/v1alpha2\"", "/v9\"")
            .replace("/v1\"", "/v9\"");
        let text = text.replacen('{', "{\"new\": 1, ", 1);
        files::replace(Path::new(file), text.as_bytes(), 0o640);
    };
    let newer_record = fleet.record("newer-record.json");
    newer(&newer_record[1]);
    let newer_peer = fleet.peer_state("newer-peer.json");
    newer(&newer_peer[1]);
    let evidence = [&newer_record[..], &newer_peer[..]].concat();
    let evidence: Vec<_> = evidence.iter().map(String::as_str).collect();
    let alone_newer = fleet.recover(&evidence);
    assert_eq!(alone_newer.code, Some(5), "{}", alone_newer.out);
    let all = [
        record,
        newer_record,
        peer,
        newer_peer,
        alone,
        behind,
        option("--etcd-snapshot", &cut),
    ]
    .concat();
    let (refused, text) = fleet.refused(&all);
    assert_eq!(
        refused,
        [
            told("record_invalid", "record.json"),
            told("other_release", "newer-record.json"),
            told("peer_invalid", "peer.json"),
            told("other_release", "newer-peer.json"),
            told("etcd_unread", "cut.db"),
            told("peer_unanchored", "alone.json"),
            told("peer_no_pair", "behind.json"),
        ]
    );
    for said in [
        "the record was changed",
        "it is no valid state",
        "it was not read to its end",
    ] {
        assert!(text.contains(said), "{said}: {text}");
    }
    let plan = fleet.plan(&fleet.live());
    fleet.apply(&fleet.live(), &plan);
}

#[tokio::test]
async fn hidden_trimmed_and_recreated_versions_are_told_apart() {
    let mut fleet = Fleet::new(1, 3).await;
    fleet.lose_state();
    let peer = fleet.peer_state("peer.json").to_vec();
    let snapshot = fleet.snapshot("etcd.db").to_vec();
    let minimum = |version| KeyConfig {
        min_decryption_version: Some(version),
        ..KeyConfig::default()
    };
    fleet.lost.configure_key(minimum(2)).await;
    let (refused, text) = fleet.refused(&snapshot);
    assert_eq!(refused, [told("hidden", "etcd.db")]);
    assert!(text.contains(" min_decryption_version=1\n"), "{text}");
    let (refused, text) = fleet.refused(&peer);
    assert_eq!(refused, [told("unresolved", "peer.json")]);
    assert!(text.contains(" min_decryption_version=1\n"), "{text}");

    // With its last object gone it is carried as removed, or left out where nothing knows it.
    fleet.forget("of-1", 0);
    let both = [&peer[..], &fleet.live()[..]].concat();
    let plan = fleet.plan(&both);
    let states: Vec<_> = plan["versions"].as_array().unwrap().iter().collect();
    assert_eq!(states[2]["transitVersion"], 1);
    assert_eq!(states[2]["state"], "removed");
    let plan = fleet.plan(&fleet.live());
    assert_eq!(plan["versions"].as_array().unwrap().len(), 2);
    let limitations = plan["limitations"].to_string();
    assert!(
        limitations.contains("version 1: OpenBao does not decrypt"),
        "{limitations}"
    );

    let admin = shared_openbao().await.admin();
    let mount = fleet.lost.tenant.transit_mount.clone();
    let encryption = KeyConfig {
        min_encryption_version: Some(2),
        ..minimum(2)
    };
    fleet.lost.configure_key(encryption).await;
    admin.trim_key(&mount, KEY, 2).await.unwrap();
    let (refused, text) = fleet.refused(&snapshot);
    let accepted = told("unreadable_objects", "");
    assert_eq!(refused, [told("trimmed", "etcd.db"), accepted]);
    assert!(text.contains("from before version 1 was trimmed"), "{text}");
    // The hidden one was not offered; the trimmed one is no longer needed once it is accepted.
    let accept = ["--accept-unreadable".to_owned(), "1".to_owned()];
    let plan = fleet.plan(&[&snapshot[..], &accept].concat());
    assert_eq!(plan["unreadable"][0]["cause"], "trimmed");
    assert_eq!(plan["unreadable"][0]["transitVersion"], 1);
    let plan = fleet.plan(&both);
    let applied = fleet.apply(&both, &plan);
    assert_eq!(applied["versions"][2]["state"], "removed");
    // The peer, which still relies on the version, is unhealthy until it gives it up too.
    let stopped = fleet.providers.remove(0).stop().await;
    assert_eq!(stopped.code, Some(0), "{}", stopped.err);
    let hash = fleet.peers[0].inspect()["stateHash"]
        .as_str()
        .unwrap()
        .to_owned();
    let retire = ["retire-versions", "--before-version", "2", "--apply"];
    let retire = [&retire[..], &["--expected-state-hash", &hash]].concat();
    let retired = fleet.peers[0].run(&retire);
    assert_eq!(retired.code, Some(0), "{}", retired.err);
    fleet.providers.push(fleet.peers[0].serve().await);
    fleet.assert_recovered().await;
    // What the node knows now makes a later rotation no different.
    fleet.lost.rotate().await;
    let provider = fleet.lost.serve().await;
    provider.encrypt_under(4).await;
    fleet.providers[0].encrypt_under(4).await;
    provider.stop().await;
    fleet.assert_recovered().await;

    fleet.lose_state();
    let peer = fleet.peer_state("peer.json").to_vec();
    let record = fleet.record("record.json").to_vec();
    let live = fleet.live();
    let blocked = KeyConfig {
        deletion_allowed: Some(true),
        ..KeyConfig::default()
    };
    fleet.lost.configure_key(blocked).await;
    let (refused, text) = fleet.refused(&live);
    assert_eq!(refused, [told("key_profile", "")]);
    assert!(text.contains("deletion_allowed=false"), "{text}");
    admin.delete_key(&mount, KEY).await.unwrap();
    let (refused, _) = fleet.refused(&live);
    assert_eq!(refused, [told("no_key", "")]);
    let new = NewKey::default();
    admin.create_key(&mount, KEY, &new).await.unwrap();
    for _ in 0..3 {
        admin.rotate_key(&mount, KEY).await.unwrap();
    }
    let all = [&live[..], &peer[..], &record[..]].concat();
    let (refused, text) = fleet.refused(&all);
    for expected in [
        told("creation_time_mismatch", "peer.json"),
        told("creation_time_mismatch", "record.json"),
    ] {
        assert!(refused.contains(&expected), "{refused:?}");
    }
    assert!(refused.iter().any(|(code, name)| {
        code == "creation_time_mismatch" && name != "peer.json" && name != "record.json"
    }));
    assert!(text.contains("the live one at"), "{text}");
    fleet.lose_state();
}

#[tokio::test]
async fn a_sample_proves_less_and_says_so() {
    let mut fleet = Fleet::new(1, 2).await;
    fleet.lose_state();
    let peer = fleet.providers.remove(0);
    let mut last = None;
    for name in ["a", "b", "c"] {
        last = Some(fleet.store(&peer, name).await);
    }
    fleet.providers.push(peer);
    let sample = |number: &str| {
        let flags = ["--sample", number].map(str::to_owned);
        [&fleet.live()[..], &flags].concat()
    };
    let plan = fleet.plan(&sample("1"));
    let limitations = plan["limitations"].to_string();
    assert!(limitations.contains("at most 1 distinct"), "{limitations}");
    assert!(limitations.contains("and 3 were not"), "{limitations}");
    let plan = fleet.plan(&sample("9"));
    assert!(!plan["limitations"].to_string().contains("at most"));

    // One DEK that OpenBao refuses is enough against it.
    let mut damaged = last.unwrap();
    let last_byte = damaged.encrypted_source.len() - 8;
    let byte = &mut damaged.encrypted_source[last_byte];
    *byte = if *byte == b'A' { b'B' } else { b'A' };
    let key = "/registry/secrets/default/damaged";
    fleet.etcd.put(key, &damaged.value(key, OBJECT));
    let (refused, text) = fleet.refused(&fleet.live());
    assert_eq!(refused[0].0, "not_decrypted");
    assert!(
        text.contains("bao-kms-provider verify-backup --endpoints "),
        "{text}"
    );
}

#[tokio::test]
async fn a_state_of_another_configuration_is_an_error_of_the_configuration() {
    let mut fleet = Fleet::new(1, 2).await;
    let evidence = fleet.live();
    let evidence: Vec<&str> = evidence.iter().map(String::as_str).collect();
    fleet.lost.config["transit"]["keyIdScope"]["clusterId"] = json!("other");
    let refused = fleet.recover(&evidence);
    assert_eq!(refused.code, Some(3), "{}{}", refused.out, refused.err);
    let said = "transit.keyIdScope.clusterId is \"other\"";
    assert!(refused.out.contains(said), "{}", refused.out);
    fleet.lost.config["transit"]["keyIdScope"]["clusterId"] = json!("cluster-test");
    let unreachable = fleet.lost.config["openbao"]["address"].clone();
    fleet.lost.config["openbao"]["address"] = json!("https://127.0.0.1:1");
    let unknown = fleet.recover(&evidence);
    assert_eq!(unknown.code, Some(5), "{}{}", unknown.out, unknown.err);
    assert!(
        unknown.out.starts_with("recover-state: inconclusive\n"),
        "{}",
        unknown.out
    );
    fleet.lost.config["openbao"]["address"] = unreachable;
}
