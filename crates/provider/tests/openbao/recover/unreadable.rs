//! Objects that stay unreadable block a rebuild until an operator has accepted their exact number, and
//! what was promoted is never undercut, whatever is left of the evidence for it.

use std::fs;

use kms_domain::recovery::journal::Journal;
use openbao_lab::admin::transit::{KeyConfig, NewKey};
use serde_json::{Value, json};
use testkit::{
    etcd::Etcd,
    openbao::shared_openbao,
    stored::{Sealer, SourceType},
    tenant::KEY,
};

use super::fleet::{FAST, Fleet};
use crate::corpus::{OBJECT, sealer};

/// With another byte in its ciphertext.
fn damaged(sealer: &Sealer) -> Sealer {
    let mut damaged = sealer.clone();
    let place = damaged.encrypted_source.len() - 8;
    let byte = &mut damaged.encrypted_source[place];
    *byte = if *byte == b'A' { b'B' } else { b'A' };
    damaged
}

fn codes(refused: &[(String, String)]) -> Vec<&str> {
    refused.iter().map(|(code, _)| code.as_str()).collect()
}

/// The arguments of the first command of a next step that has the flag.
fn printed<'a>(text: &'a str, flag: &str) -> Vec<&'a str> {
    let commands = text.lines().filter_map(|it| it.strip_prefix("      "));
    let mut commands = commands.filter(|command| command.contains(flag));
    let command = commands.next().unwrap_or_else(|| panic!("{flag}: {text}"));
    command.split(' ').skip(1).collect()
}

#[tokio::test]
async fn unreadable_objects_are_given_up_by_their_exact_number() {
    let mut fleet = Fleet::new(1, 2).await;
    fleet.lose_state();
    let peer = fleet.providers.remove(0);
    let sound = sealer(&fleet.lost, &peer, SourceType::HkdfSeed).await;
    fleet.providers.push(peer);
    let put = |resource: &str, name: &str, sealer: &Sealer| {
        let key = format!("/registry/{resource}/default/{name}");
        fleet.etcd.put(&key, &sealer.value(&key, OBJECT));
    };
    let refused_dek = damaged(&sound);
    put("secrets", "first", &refused_dek);
    put("configmaps", "second", &refused_dek);
    put("secrets", "third", &sound);
    // Well formed, and not the key_id of the annotations.
    let (start, rest) = sound.key_id.split_at(10);
    let other = if rest.starts_with('A') { "B" } else { "A" };
    let foreign = Sealer {
        key_id: format!("{start}{other}{}", &rest[1..]),
        ..sound.clone()
    };
    put("secrets", "fourth", &foreign);

    // Damage of another provider is nothing to this one.
    let elsewhere = b"k8s:enc:kms:v2:lab-kms2:qqqqqqqqqqqqqqqqqqqq";
    fleet.etcd.put("/registry/secrets/f/x", elsewhere);

    let live = fleet.live();
    let (refused, text) = fleet.refused(&live);
    assert_eq!(
        codes(&refused),
        ["not_decrypted", "annotation_mismatch", "unreadable_objects"]
    );
    for said in [
        "3 objects stay unreadable",
        "not_decrypted        configmaps 1, secrets 1",
        "annotation_mismatch  secrets 1",
        "only if they are lost for good",
    ] {
        assert!(text.contains(said), "{said}: {text}");
    }
    assert!(!text.contains("default/first"), "{text}");
    let (_, named) = fleet.refused(&[&live[..], &["--show-names".to_owned()]].concat());
    for name in [
        "secrets/default/first",
        "configmaps/default/second",
        "default/fourth",
    ] {
        assert!(named.contains(name), "{name}: {named}");
    }
    assert!(!named.contains("default/third"), "{named}");

    // Another number is refused, with the command that has the right one in its place.
    let wrong = ["--accept-unreadable".to_owned(), "2".to_owned()];
    let (refused, text) = fleet.refused(&[&live[..], &wrong].concat());
    assert_eq!(codes(&refused).last(), Some(&"unreadable_objects"));
    assert!(text.contains("instead of the accepted 2"), "{text}");
    let sampled = ["--sample".to_owned(), "9".to_owned()];
    let usage =
        fleet
            .lost
            .run_printed(&["recover-state", "--sample", "1", "--accept-unreadable", "3"]);
    assert_eq!(usage.code, Some(2), "{}", usage.err);
    let (refused, _) = fleet.refused(&[&live[..], &sampled].concat());
    assert_eq!(codes(&refused).last(), Some(&"unreadable_objects"));

    let accepting = printed(&text, "--accept-unreadable");
    assert_eq!(accepting.last(), Some(&"3"), "{accepting:?}");
    let planned = fleet.lost.run_printed(&accepting);
    assert_eq!(planned.code, Some(0), "{}{}", planned.out, planned.err);
    assert!(
        planned
            .out
            .contains("3 objects stay unreadable, as accepted"),
        "{}",
        planned.out
    );
    assert!(!planned.out.contains("damaged"), "{}", planned.out);
    for check in ["[warn] key_ids.mapped", "[warn] deks.decrypt"] {
        assert!(planned.out.contains(check), "{check}: {}", planned.out);
    }
    let applied = printed(&planned.out, "--apply");
    let applied = fleet
        .lost
        .run_printed(&[&applied[..], &["--output", "json"]].concat());
    let applied: Value = serde_json::from_str(&applied.out).unwrap();
    assert_eq!(applied["verdict"], "applied", "{applied:#}");
    let counts = applied["unreadable"].as_array().unwrap().iter();
    let counts: u64 = counts.map(|it| it["objects"].as_u64().unwrap()).sum();
    assert_eq!(counts, 3);
    let journal = fs::read(applied["journal"].as_str().unwrap()).unwrap();
    let journal = Journal::decode(&journal).unwrap().limitations.concat();
    assert!(
        journal.contains("2 objects of version 2 stay unreadable (not_decrypted), as accepted"),
        "{journal}"
    );
    fleet.assert_recovered().await;

    // Once they are gone nothing is left to accept.
    for key in [
        "secrets/default/first",
        "configmaps/default/second",
        "secrets/default/fourth",
    ] {
        let _answer = fleet.etcd.ctl(&["del", &format!("/registry/{key}")]);
    }
    fleet.lose_state();
    let (refused, text) = fleet.refused(&[&live[..], &wrong].concat());
    assert_eq!(codes(&refused), ["acceptance_idle"]);
    let planned = fleet.lost.run_printed(&printed(&text, "recover-state"));
    assert_eq!(planned.code, Some(0), "{}{}", planned.out, planned.err);
}

#[tokio::test]
async fn a_promotion_that_only_a_deleted_object_shows_is_not_undercut() {
    let mut fleet = Fleet::new(1, 3).await;
    fleet.forget("of-3", 2);
    fleet.lose_state();
    let snapshot = fleet.snapshot("etcd.db").to_vec();
    let assumed = ["--assume-not-promoted".to_owned(), "3".to_owned()];
    let (refused, _) = fleet.refused(&[&snapshot[..], &assumed].concat());
    assert_eq!(codes(&refused), ["assumption_wrong"]);
    let plan = fleet.plan(&snapshot);
    assert_eq!(plan["state"]["activeTransitVersion"], 3);
    fleet.apply(&snapshot, &plan);
    fleet.assert_recovered().await;
    // A running etcd shows the newest revisions only.
    fleet.lose_state();
    let (refused, _) = fleet.refused(&fleet.live());
    assert_eq!(codes(&refused), ["undecided"]);
}

#[tokio::test]
async fn a_version_that_a_peer_has_removed_does_not_become_active_again() {
    let mut fleet = Fleet::new(1, 2).await;
    let old = fleet.snapshot("old.db").to_vec();
    fleet.lost.rotate().await;
    fleet.providers[0].encrypt_under(3).await;
    let stopped = fleet.providers.remove(0).stop().await;
    assert_eq!(stopped.code, Some(0), "{}", stopped.err);
    let hash = fleet.peers[0].inspect()["stateHash"]
        .as_str()
        .unwrap()
        .to_owned();
    let retire = ["retire-versions", "--before-version", "3", "--apply"];
    let retired = fleet.peers[0].run(&[&retire[..], &["--expected-state-hash", &hash]].concat());
    assert_eq!(retired.code, Some(0), "{}", retired.err);
    let peer = fleet.peer_state("peer.json").to_vec();
    fleet.lose_state();

    let assumed = ["--assume-not-promoted".to_owned(), "3".to_owned()];
    let alone = fleet.plan(&[&old[..], &assumed].concat());
    assert_eq!(alone["state"]["activeTransitVersion"], 2);
    let (refused, text) = fleet.refused(&[&old[..], &assumed, &peer].concat());
    assert_eq!(
        refused,
        [("assumption_wrong".to_owned(), "peer.json".to_owned())]
    );
    assert!(text.contains("version 3 was promoted"), "{text}");
    let plan = fleet.plan(&[&old[..], &peer].concat());
    assert_eq!(plan["state"]["activeTransitVersion"], 3);
}

#[tokio::test]
async fn a_checkpoint_of_a_rotated_key_beside_a_key_at_version_1_is_noted() {
    let mut fleet = Fleet::new(1, 3).await;
    let generation = fleet.lost.inspect()["stateGeneration"].as_u64().unwrap();
    assert!(generation >= 3, "{generation}");
    fs::remove_file(fleet.lost.state_file()).unwrap();
    let stopped = fleet.providers.remove(0).stop().await;
    assert_eq!(stopped.code, Some(0), "{}", stopped.err);
    let admin = shared_openbao().await.admin();
    let mount = fleet.lost.tenant.transit_mount.clone();
    let deletable = KeyConfig {
        deletion_allowed: Some(true),
        ..KeyConfig::default()
    };
    fleet.lost.configure_key(deletable).await;
    admin.delete_key(&mount, KEY).await.unwrap();
    admin
        .create_key(&mount, KEY, &NewKey::default())
        .await
        .unwrap();

    // A node that knows nothing of the old key begins anew, and vouches for the new one alone.
    let stranger = fleet.lost.peer(FAST);
    let provider = stranger.serve().await;
    let sealed = sealer(&stranger, &provider, SourceType::HkdfSeed).await;
    fleet.peers = vec![stranger];
    let peer = fleet.peer_state("peer.json").to_vec();
    let verified = fleet.lost.run(&["verify-key"]);
    let said = format!("generation {generation} needs rotations");
    assert!(verified.out.contains(&said), "{}", verified.out);
    let (refused, text) = fleet.refused(&peer);
    assert_eq!(codes(&refused), ["never_rotated"]);
    let said = format!("accepts generation {generation}, but the key is at version 1");
    assert!(text.contains(&said), "{text}");
    let (refused, _) = fleet.refused(&[&peer[..], &fleet.live()[..]].concat());
    assert!(
        codes(&refused).contains(&"newer_than_latest"),
        "{refused:?}"
    );

    fleet.etcd = Etcd::start().await;
    let key = "/registry/secrets/default/new";
    fleet.etcd.put(key, &sealed.value(key, OBJECT));
    let plan = fleet.plan(&[&peer[..], &fleet.live()[..]].concat());
    let said = format!("accepts generation {generation}, but the key was never rotated");
    assert!(plan["limitations"].to_string().contains(&said), "{plan:#}");
    assert_eq!(plan["unreadable"], json!([]));
    provider.stop().await;
    fleet.lose_state();
}

#[tokio::test]
async fn a_hidden_version_of_another_key_is_neither_called_readable_nor_given_up() {
    let mut fleet = Fleet::new(1, 2).await;
    let stopped = fleet.providers.remove(0).stop().await;
    assert_eq!(stopped.code, Some(0), "{}", stopped.err);
    fleet.lost.recreate_key().await;
    fleet.lost.rotate().await;
    fleet.lost.rotate().await;
    let minimum = |version| KeyConfig {
        min_decryption_version: Some(version),
        ..KeyConfig::default()
    };
    fleet.lost.configure_key(minimum(3)).await;
    fleet.lose_state();
    let live = fleet.live();
    let (refused, text) = fleet.refused(&live);
    assert_eq!(codes(&refused), ["hidden", "hidden"]);
    assert!(
        text.contains("so they are untested until it is lowered"),
        "{text}"
    );
    let accepting = ["--accept-unreadable".to_owned(), "2".to_owned()];
    let (refused, _) = fleet.refused(&[&live[..], &accepting].concat());
    assert_eq!(codes(&refused), ["hidden", "hidden", "acceptance_idle"]);
    fleet.lost.configure_key(minimum(1)).await;
    let (refused, _) = fleet.refused(&[&live[..], &accepting].concat());
    assert_eq!(
        codes(&refused),
        [
            "creation_time_mismatch",
            "creation_time_mismatch",
            "active_unproven"
        ]
    );
    let peer = fleet.peer_state("peer.json").to_vec();
    let (refused, _) = fleet.refused(&[&live[..], &peer, &accepting].concat());
    assert_eq!(
        refused[0],
        ("creation_time_mismatch".to_owned(), "peer.json".to_owned())
    );
}
