//! Rotations as one node lives through them: followed in time, refused when OpenBao lacks what
//! the node relies on, postponed when the newest version does not work yet.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use openbao_lab::admin::transit::{KeyConfig, NewKey};
use rustix::process::Signal;
use serde_json::{Value, json};
use testkit::{
    openbao::{OpenBao, shared_openbao},
    tenant::{KEY, Timing},
    wait::wait_until,
};

use crate::{
    node::{Node, TIMING},
    provider::{Provider, SOON, assert_decrypt_refused, to_decrypt},
};

/// Leaves time to look at a version that is pending.
const SLOW: Timing = Timing {
    activation_delay: Duration::from_millis(1500),
    ..TIMING
};

fn versions(of: &[(u64, &str)]) -> BTreeMap<u64, String> {
    of.iter()
        .map(|(version, state)| (*version, (*state).to_owned()))
        .collect()
}

fn at_least(version: u64) -> [KeyConfig; 2] {
    let encryption = KeyConfig {
        min_encryption_version: Some(version),
        ..KeyConfig::default()
    };
    let decryption = KeyConfig {
        min_decryption_version: Some(version),
        ..KeyConfig::default()
    };
    [encryption, decryption]
}

async fn wait_for_first_reason(provider: &Provider, reason: &str) {
    wait_until(SOON, reason, async || {
        provider.reasons().await.first().map(String::as_str) == Some(reason)
    })
    .await;
}

/// The `key_version` of every encryption that OpenBao was asked for.
async fn versions_asked_for(node: &Node) -> Vec<Value> {
    let log = fs::read_to_string(shared_openbao().await.audit_log()).unwrap();
    let path = format!("{}/encrypt/{KEY}", node.tenant.transit_mount);
    log.lines()
        .filter(|line| line.contains(&path))
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter(|entry| entry["type"] == "request")
        .map(|entry| entry["request"]["data"]["key_version"].clone())
        .collect()
}

#[tokio::test]
async fn a_rotation_is_followed_without_a_moment_of_refusal() {
    let node = Node::new(TIMING).await;
    let provider = node.serve().await;
    let old = provider.encrypt(b"old").await.unwrap();
    let watch = provider.watch_status();
    node.rotate().await;
    let new = provider.encrypt_under(2).await;
    let key_ids = [old.key_id.clone(), new.key_id.clone()];
    assert_eq!(watch.key_ids().await, key_ids);
    assert_eq!(provider.events("key.pending").count(), 1);
    let promoted: Vec<_> = provider.events("key.promoted").collect();
    assert_eq!(promoted.len(), 1);
    assert_eq!(promoted[0]["transit_key_version"], 2);
    assert_eq!(promoted[0]["previous_transit_key_version"], 1);
    assert_eq!(provider.metric("key_version").await, 2.0);
    assert_eq!(
        provider.metric(r#"rotation_state{state="active"}"#).await,
        1.0
    );
    provider.stop().await;

    assert_eq!(node.versions(), versions(&[(1, "retired"), (2, "active")]));
    // Seen, counted a second time, promoted.
    assert_eq!(node.inspect()["stateGeneration"], 4);
    let provider = node.serve().await;
    assert_eq!(provider.status().await.key_id, new.key_id);
    assert_eq!(provider.decrypt(to_decrypt(&old)).await.unwrap(), "old");
    assert_eq!(provider.decrypt(to_decrypt(&new)).await.unwrap(), "seed");
}

#[tokio::test]
async fn of_two_rotations_back_to_back_only_the_second_becomes_active() {
    let node = Node::new(SLOW).await;
    let provider = node.serve().await;
    let old = provider.encrypt(b"old").await.unwrap();
    let watch = provider.watch_status();
    node.rotate().await;
    node.rotate().await;
    let new = provider.encrypt_under(3).await;
    let key_ids = [old.key_id.clone(), new.key_id.clone()];
    assert_eq!(watch.key_ids().await, key_ids);
    let skipped = node.stored_by_peer(2, b"by a faster peer").await;
    let decrypted = provider.decrypt(skipped).await.unwrap();
    assert_eq!(decrypted, "by a faster peer");
    assert_eq!(provider.decrypt(to_decrypt(&old)).await.unwrap(), "old");
    let expected = versions(&[(1, "retired"), (2, "retired"), (3, "active")]);
    assert_eq!(node.versions(), expected);
}

#[tokio::test]
async fn five_rotations_while_stopped_are_one_change_of_the_key() {
    let node = Node::new(SLOW).await;
    let provider = node.serve().await;
    let old = provider.encrypt(b"old").await.unwrap();
    provider.stop().await;
    for _ in 0..5 {
        node.rotate().await;
    }
    let provider = node.serve().await;
    let watch = provider.watch_status();
    for version in 2..=6 {
        let stored = node.stored_by_peer(version, b"by a peer").await;
        assert_eq!(provider.decrypt(stored).await.unwrap(), "by a peer");
    }
    let new = provider.encrypt_under(6).await;
    let key_ids = [old.key_id.clone(), new.key_id];
    assert_eq!(watch.key_ids().await, key_ids);
    assert_eq!(provider.decrypt(to_decrypt(&old)).await.unwrap(), "old");
    let mut expected = versions(&[(6, "active")]);
    expected.extend((1..6).map(|version| (version, "retired".to_owned())));
    assert_eq!(node.versions(), expected);
}

#[tokio::test]
async fn a_restart_does_not_hurry_a_rotation() {
    let timing = Timing {
        probe_interval: Duration::from_secs(3600),
        max_staleness: Duration::from_secs(7200),
        activation_delay: Duration::from_millis(1),
        ..TIMING
    };
    let node = Node::new(timing).await;
    let provider = node.serve().await;
    let key_id = provider.status().await.key_id;
    provider.stop().await;
    node.rotate().await;
    for _ in 0..4 {
        let provider = node.serve().await;
        assert_eq!(provider.status().await.key_id, key_id);
        provider.stop().await;
    }
    assert_eq!(node.versions(), versions(&[(1, "active"), (2, "pending")]));
    assert_eq!(node.inspect()["stateGeneration"], 2);
}

#[tokio::test]
async fn a_minimum_for_encryption_raised_too_early_blocks_until_the_promotion() {
    let node = Node::new(SLOW).await;
    let provider = node.serve().await;
    let old = provider.encrypt(b"old").await.unwrap();
    node.rotate().await;
    let [encryption, _] = at_least(2);
    node.configure_key(encryption).await;
    provider.wait_for_reasons(&["encryption_blocked"]).await;
    provider.assert_encrypt_refused().await;
    assert_eq!(provider.decrypt(to_decrypt(&old)).await.unwrap(), "old");

    provider.wait_for_reasons(&[]).await;
    let new = provider.encrypt(b"new").await.unwrap();
    assert!(new.ciphertext.starts_with(b"vault:v2:"));
    assert_eq!(provider.status().await.key_id, new.key_id);
}

#[tokio::test]
async fn a_minimum_for_encryption_taken_back_ends_the_block_at_once() {
    let node = Node::new(Timing {
        activation_delay: Duration::from_secs(3600),
        ..TIMING
    })
    .await;
    let provider = node.serve().await;
    let key_id = provider.status().await.key_id;
    node.rotate().await;
    let [encryption, _] = at_least(2);
    node.configure_key(encryption).await;
    provider.wait_for_reasons(&["encryption_blocked"]).await;
    let [encryption, _] = at_least(0);
    node.configure_key(encryption).await;
    provider.wait_for_reasons(&[]).await;
    assert_eq!(provider.encrypt(b"seed").await.unwrap().key_id, key_id);
    assert_eq!(node.versions(), versions(&[(1, "active"), (2, "pending")]));
    // Whoever leaves the version out gets the newest one.
    let asked_for = versions_asked_for(&node).await;
    assert!(
        asked_for.iter().all(|version| version == 1),
        "{asked_for:?}"
    );
    assert!(asked_for.len() > 1, "probes ask too: {asked_for:?}");
}

#[tokio::test]
async fn a_version_hidden_or_trimmed_too_early_is_named_and_never_dropped() {
    let node = Node::new(TIMING).await;
    let provider = node.serve().await;
    let old = provider.encrypt(b"old").await.unwrap();
    node.rotate().await;
    let new = provider.encrypt_under(2).await;
    let [encryption, decryption] = at_least(2);
    node.configure_key(decryption).await;
    provider.wait_for_reasons(&["profile_invalid"]).await;
    provider.assert_encrypt_refused().await;
    assert!(provider.decrypt(to_decrypt(&old)).await.is_err());
    assert_eq!(provider.decrypt(to_decrypt(&new)).await.unwrap(), "seed");
    let [_, lowered] = at_least(1);
    node.configure_key(lowered).await;
    provider.wait_for_reasons(&[]).await;
    assert_eq!(provider.decrypt(to_decrypt(&old)).await.unwrap(), "old");

    node.configure_key(decryption).await;
    node.configure_key(encryption).await;
    let mount = &node.tenant.transit_mount;
    let admin = shared_openbao().await.admin();
    admin.trim_key(mount, KEY, 2).await.unwrap();
    provider.wait_for_reasons(&["profile_invalid"]).await;
    provider.assert_encrypt_refused().await;
    assert_eq!(provider.decrypt(to_decrypt(&new)).await.unwrap(), "seed");
    provider.stop().await;
    let refused = node.refused().await;
    refused.assert_refused(5, &["version 1 was trimmed", "no data was changed"]);
    assert_eq!(node.versions(), versions(&[(1, "retired"), (2, "active")]));
}

#[tokio::test]
async fn a_soft_deleted_key_is_unusable_until_it_is_restored() {
    let node = Node::new(TIMING).await;
    let provider = node.serve().await;
    node.rotate().await;
    let encrypted = provider.encrypt_under(2).await;
    let admin = shared_openbao().await.admin();
    let key = format!("{}/keys/{KEY}", node.tenant.transit_mount);
    admin.delete(&format!("{key}/soft-delete")).await.unwrap();
    wait_for_first_reason(&provider, "profile_invalid").await;
    provider.assert_encrypt_refused().await;
    let refused = provider.decrypt(to_decrypt(&encrypted)).await.unwrap_err();
    assert_decrypt_refused(&refused, "transit decrypt failed", "this proves no damage");

    let restored = format!("{key}/soft-delete-restore");
    admin.write(&restored, &json!({})).await.unwrap();
    wait_until(SOON, "a key that decrypts", async || {
        provider.decrypt(to_decrypt(&encrypted)).await.is_ok()
    })
    .await;
    provider.stop().await;
    let provider = node.serve().await;
    assert_eq!(provider.status().await.key_id, encrypted.key_id);
}

#[tokio::test]
async fn a_key_made_anew_after_a_rotation_is_a_rollback() {
    let node = Node::new(TIMING).await;
    let provider = node.serve().await;
    let old = provider.encrypt(b"old").await.unwrap();
    node.rotate().await;
    provider.encrypt_under(2).await;
    let mount = &node.tenant.transit_mount;
    node.configure_key(KeyConfig {
        deletion_allowed: Some(true),
        ..KeyConfig::default()
    })
    .await;
    let admin = shared_openbao().await.admin();
    admin.delete_key(mount, KEY).await.unwrap();
    let created = admin.create_key(mount, KEY, &NewKey::default()).await;
    created.unwrap();
    wait_for_first_reason(&provider, "version_rollback").await;
    provider.assert_encrypt_refused().await;
    assert!(provider.decrypt(to_decrypt(&old)).await.is_err());
    provider.stop().await;
    let refused = node.refused().await;
    let said = [
        "version 2 is active here",
        "restore a later backup of OpenBao",
    ];
    refused.assert_refused(5, &said);
    assert_eq!(node.versions(), versions(&[(1, "retired"), (2, "active")]));
}

#[tokio::test]
async fn openbao_taken_back_to_before_a_rotation_is_refused_until_it_has_the_rotation() {
    let server = OpenBao::start().await;
    let node = Node::on(&server, TIMING).await;
    let provider = node.serve().await;
    let old = provider.encrypt(b"old").await.unwrap();
    let [before, after] = ["before", "after"].map(|name| node.tenant.path().join(name));
    server.save_snapshot(&before).await;
    let mount = &node.tenant.transit_mount;
    let path = format!("{mount}/keys/{KEY}");
    let return_to = async |snapshot: &Path, latest: u64| {
        server.return_to_snapshot(snapshot).await;
        wait_until(SOON, "the older data", async || {
            let metadata = server.admin().read(&path).await.ok();
            let metadata: Option<Value> = metadata.and_then(|answer| answer.json().ok());
            metadata.is_some_and(|metadata| metadata["data"]["latest_version"] == latest)
        })
        .await;
    };
    server.admin().rotate_key(mount, KEY).await.unwrap();
    let new = provider.encrypt_under(2).await;
    server.save_snapshot(&after).await;

    // Held, so that it does not pause its probes for the time of the restore.
    provider.signal(Signal::STOP);
    return_to(&before, 1).await;
    provider.signal(Signal::CONT);
    wait_for_first_reason(&provider, "version_rollback").await;
    provider.assert_encrypt_refused().await;
    assert_eq!(provider.decrypt(to_decrypt(&old)).await.unwrap(), "old");
    assert!(provider.decrypt(to_decrypt(&new)).await.is_err());
    provider.stop().await;
    let refused = node.refused().await;
    let said = [
        "version 2 is active here",
        "restore a later backup of OpenBao",
    ];
    refused.assert_refused(5, &said);

    return_to(&after, 2).await;
    let provider = node.serve().await;
    assert_eq!(provider.status().await.key_id, new.key_id);
    assert_eq!(provider.decrypt(to_decrypt(&old)).await.unwrap(), "old");
    assert_eq!(provider.decrypt(to_decrypt(&new)).await.unwrap(), "seed");
}

#[tokio::test]
async fn a_promotion_waits_until_the_candidate_works() {
    let node = Node::new(TIMING).await;
    let provider = node.serve().await;
    let old = provider.encrypt(b"old").await.unwrap();
    let watch = provider.watch_status();
    node.grant(|policy| {
        let decrypt = format!("decrypt/{KEY}\" {{");
        let denied = r#"denied_parameters = { "ciphertext" = ["vault:v2:*"] }"#;
        assert!(policy.contains(&decrypt), "{policy}");
        policy.replace(&decrypt, &format!("{decrypt}\n  {denied}"))
    })
    .await;
    node.rotate().await;
    wait_until(SOON, "two postponed promotions", async || {
        provider.events("key.promotion_postponed").count() >= 2
    })
    .await;
    let postponed = provider.events("key.promotion_postponed").next().unwrap();
    assert_eq!(postponed["error_class"], "permission_denied");
    assert_eq!(node.versions(), versions(&[(1, "active"), (2, "pending")]));
    assert_eq!(provider.encrypt(b"x").await.unwrap().key_id, old.key_id);

    node.grant(|policy| policy).await;
    let new = provider.encrypt_under(2).await;
    assert_eq!(watch.key_ids().await, [old.key_id, new.key_id]);
}
