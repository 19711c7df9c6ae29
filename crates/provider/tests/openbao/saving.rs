//! A state that cannot be saved: what is in use stays in use, nothing newer is shown before it is
//! on disk, and the next probe saves it.

use std::{
    fs::{self, Permissions},
    io::ErrorKind,
    os::unix::fs::PermissionsExt as _,
    time::Duration,
};

use rustix::process::Signal;
use testkit::{tenant::Timing, wait::wait_until};

use crate::{
    node::{Node, TIMING},
    provider::{SOON, assert_decrypt_refused, to_decrypt},
};

/// Something in the way of a write. It stops root too, whom no file mode stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Obstacle {
    /// The document cannot be written; what is on disk stays.
    Document,
    /// The document is written, its checkpoint cannot be.
    Checkpoint,
    /// Nothing is read or written in a directory that others may write.
    Directory,
}

impl Obstacle {
    fn put(self, node: &Node) {
        let temporary = match self {
            Self::Document => ".key-registry.json.tmp",
            Self::Checkpoint => ".key-registry.json.checkpoint.tmp",
            Self::Directory => {
                let shared = Permissions::from_mode(0o770);
                return fs::set_permissions(node.state_dir(), shared).unwrap();
            }
        };
        // A running provider may have a file of that name for a moment.
        while let Err(error) = fs::create_dir(node.state_dir().join(temporary)) {
            assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        }
    }

    fn remove(self, node: &Node) {
        match self {
            Self::Document => fs::remove_dir(node.state_dir().join(".key-registry.json.tmp")),
            Self::Checkpoint => {
                fs::remove_dir(node.state_dir().join(".key-registry.json.checkpoint.tmp"))
            }
            Self::Directory => fs::set_permissions(node.state_dir(), Permissions::from_mode(0o750)),
        }
        .unwrap();
    }
}

#[tokio::test]
async fn a_version_that_cannot_be_saved_is_not_taken_up_until_it_can() {
    tokio::join!(
        take_up_despite(Obstacle::Document),
        take_up_despite(Obstacle::Checkpoint),
        take_up_despite(Obstacle::Directory),
    );
}

async fn take_up_despite(obstacle: Obstacle) {
    let node = Node::new(TIMING).await;
    let mut provider = node.serve().await;
    let old = provider.encrypt(b"old").await.unwrap();
    obstacle.put(&node);
    node.rotate().await;
    provider.wait_for_reasons(&["state_save_failed"]).await;
    assert_eq!(provider.metric("state_checkpoint_current").await, 0.0);
    provider.assert_encrypt_refused().await;
    assert_eq!(provider.decrypt(to_decrypt(&old)).await.unwrap(), "old");
    assert_eq!(provider.events("key.pending").count(), 0, "{obstacle:?}");
    let stored = node.stored_by_peer(2, b"by a peer").await;
    let refused = provider.decrypt(stored).await.unwrap_err();
    let said = "new key versions could not be saved on this node; no data is lost";
    assert_decrypt_refused(&refused, "key metadata refresh failed", said);

    obstacle.remove(&node);
    provider.wait_for_reasons(&[]).await;
    provider.encrypt_under(2).await;
    provider.wait_for_event("key.promoted").await;
    assert_eq!(provider.metric("state_checkpoint_current").await, 1.0);
    assert_eq!(provider.events("key.pending").count(), 1, "{obstacle:?}");
    assert_eq!(provider.decrypt(to_decrypt(&old)).await.unwrap(), "old");
}

#[tokio::test]
async fn a_promotion_that_cannot_be_saved_is_not_shown_until_it_is() {
    tokio::join!(
        promote_despite(Obstacle::Document),
        promote_despite(Obstacle::Checkpoint),
        promote_despite(Obstacle::Directory),
    );
}

async fn promote_despite(obstacle: Obstacle) {
    let node = Node::new(Timing {
        stable_observations: 1,
        activation_delay: Duration::from_millis(1500),
        ..TIMING
    })
    .await;
    let mut provider = node.serve().await;
    let old = provider.encrypt(b"old").await.unwrap();
    node.rotate().await;
    provider.wait_for_event("key.pending").await;
    obstacle.put(&node);
    provider.wait_for_reasons(&["state_save_failed"]).await;
    provider.assert_encrypt_refused().await;
    assert_eq!(provider.metric("key_version").await, 1.0);
    assert_eq!(provider.events("key.promoted").count(), 0, "{obstacle:?}");
    assert_eq!(provider.decrypt(to_decrypt(&old)).await.unwrap(), "old");

    obstacle.remove(&node);
    provider.wait_for_reasons(&[]).await;
    let new = provider.encrypt(b"new").await.unwrap();
    assert!(new.ciphertext.starts_with(b"vault:v2:"));
    assert_eq!(provider.events("key.promoted").count(), 1, "{obstacle:?}");
    assert_eq!(provider.status().await.key_id, new.key_id);
}

#[tokio::test]
async fn a_count_that_cannot_be_saved_stops_nothing_while_the_disk_holds_what_is_in_use() {
    let node = Node::new(Timing {
        stable_observations: 10_000,
        ..TIMING
    })
    .await;
    let mut provider = node.serve().await;
    let old = provider.encrypt(b"old").await.unwrap();
    node.rotate().await;
    provider.wait_for_event("key.pending").await;
    let watch = provider.watch_status();
    let degraded = "rotation_persistence_degraded";
    let saved = async |counting: u64| {
        wait_until(SOON, "the next count", async || {
            node.inspect()["stateGeneration"].as_u64().unwrap() > counting
        })
        .await;
    };

    Obstacle::Document.put(&node);
    wait_until(SOON, "the warning", async || {
        provider.health("/ready").await.1["persistence_degraded"] == true
    })
    .await;
    let generation = node.inspect()["stateGeneration"].as_u64().unwrap();
    assert_eq!(provider.reasons().await, [""; 0]);
    assert_eq!(provider.metric(degraded).await, 1.0);
    let mut probes = provider.events("status.probe");
    assert!(probes.any(|probe| probe["reason"] == "state_save_failed"));
    provider.encrypt(b"seed").await.unwrap();
    Obstacle::Document.remove(&node);
    saved(generation).await;
    wait_until(SOON, "the end of the warning", async || {
        provider.metric(degraded).await == 0.0
    })
    .await;
    assert_eq!(watch.key_ids().await, [old.key_id]);

    // A document without its checkpoint is no longer what is in use.
    Obstacle::Checkpoint.put(&node);
    provider.wait_for_reasons(&["state_save_failed"]).await;
    Obstacle::Checkpoint.remove(&node);
    provider.wait_for_reasons(&[]).await;
}

#[tokio::test]
async fn a_half_saved_version_is_completed_by_the_next_start() {
    let node = Node::new(TIMING).await;
    let provider = node.serve().await;
    let old = provider.encrypt(b"old").await.unwrap();
    Obstacle::Checkpoint.put(&node);
    node.rotate().await;
    provider.wait_for_reasons(&["state_save_failed"]).await;
    provider.signal(Signal::KILL);
    provider.ended().await;
    assert_eq!(node.inspect()["stateCheckpointStatus"], "behind");
    let refused = node.refused().await;
    refused.assert_refused(5, &["the checkpoint could not be brought up to date"]);

    Obstacle::Checkpoint.remove(&node);
    let provider = node.serve().await;
    let rewritten = provider.events("state.checkpoint_rewritten").next();
    assert_eq!(rewritten.unwrap()["reason"], "behind");
    provider.encrypt_under(2).await;
    assert_eq!(provider.decrypt(to_decrypt(&old)).await.unwrap(), "old");
}
