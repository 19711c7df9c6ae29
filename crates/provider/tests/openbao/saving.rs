//! A state that cannot be saved: the pair on disk stays in use, no newer version encrypts before it
//! is on disk, and the next probe saves it.

use std::{
    fs::{self, Permissions},
    io::ErrorKind,
    os::unix::fs::PermissionsExt as _,
    time::Duration,
};

use rustix::process::Signal;
use testkit::{files, tenant::Timing, wait::wait_until};

use crate::{
    node::{Node, TIMING},
    provider::{Provider, SOON, to_decrypt},
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
    /// The directory is elsewhere.
    Gone,
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
            Self::Gone => {
                let aside = node.state_dir().with_extension("aside");
                return rustix::fs::rename(node.state_dir(), aside).unwrap();
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
            Self::Gone => {
                let aside = node.state_dir().with_extension("aside");
                rustix::fs::rename(aside, node.state_dir()).map_err(Into::into)
            }
        }
        .unwrap();
    }
}

/// Waits until `/ready` shows this cause, and asserts that metric and log name it too.
async fn wait_for_fault(provider: &Provider, word: &str) {
    wait_until(SOON, word, async || {
        let ready = provider.health("/ready").await.1;
        ready["persistence_degraded"] == true && ready["persistence_error"] == word
    })
    .await;
    let series = format!(r#"persistence_error{{error="{word}"}}"#);
    assert_eq!(provider.metric(&series).await, 1.0);
    let degraded = provider.events("state.degraded").last().unwrap();
    assert_eq!(degraded["detail"], word);
    assert_eq!(provider.metric("state_checkpoint_current").await, 0.0);
}

#[tokio::test]
async fn a_version_that_cannot_be_saved_is_not_taken_up_until_it_can() {
    tokio::join!(
        take_up_despite(Obstacle::Document, "io", None),
        take_up_despite(Obstacle::Gone, "directory_gone", None),
        take_up_despite(Obstacle::Checkpoint, "io", Some("state_save_failed")),
        take_up_despite(
            Obstacle::Directory,
            "unsafe_files",
            Some("state_save_failed")
        ),
    );
}

/// Encrypt stops only if the files speak against the state in use, which is the `reason`.
async fn take_up_despite(obstacle: Obstacle, word: &str, reason: Option<&str>) {
    let node = Node::new(TIMING).await;
    let mut provider = node.serve().await;
    let old = provider.encrypt(b"old").await.unwrap();
    let by_peer = async |version| node.stored_by_peer(version, b"by a peer").await;
    node.rotate().await;
    provider.encrypt_under(2).await;
    obstacle.put(&node);
    node.rotate().await;
    let third = by_peer(3).await;
    wait_for_fault(&provider, word).await;
    match reason {
        Some(reason) => {
            provider.wait_for_reasons(&[reason]).await;
            provider.assert_encrypt_refused().await;
        }
        None => {
            assert_eq!(provider.reasons().await, [""; 0], "{obstacle:?}");
            provider.encrypt_under(2).await;
        }
    }
    assert_eq!(provider.decrypt(to_decrypt(&old)).await.unwrap(), "old");
    let read = provider.decrypt(third.clone()).await.unwrap();
    assert_eq!(read, "by a peer", "{obstacle:?}");
    assert_eq!(provider.events("key.pending").count(), 1, "{obstacle:?}");
    for probe in provider.events("status.probe") {
        if probe["reason"] == "state_save_failed" {
            assert_eq!(probe["detail"], word, "{obstacle:?}");
        }
    }

    obstacle.remove(&node);
    provider.wait_for_reasons(&[]).await;
    provider.encrypt_under(3).await;
    provider.wait_for_event("state.restored").await;
    assert_eq!(provider.metric("state_checkpoint_current").await, 1.0);
    assert_eq!(provider.events("key.pending").count(), 2, "{obstacle:?}");
    assert_eq!(provider.events("key.promoted").count(), 2, "{obstacle:?}");
    assert_eq!(provider.decrypt(to_decrypt(&old)).await.unwrap(), "old");
}

#[tokio::test]
async fn an_older_pair_put_in_place_is_noticed_named_and_not_overwritten() {
    let node = Node::new(TIMING).await;
    let mut provider = node.serve().await;
    let files = [node.state_file(), node.checkpoint()];
    let contents = || files.each_ref().map(|file| fs::read(file).unwrap());
    let put = |pair: &[Vec<u8>; 2]| {
        for (file, content) in files.iter().zip(pair) {
            files::replace(file, content, 0o640);
        }
    };
    let older = contents();
    node.rotate().await;
    let new = provider.encrypt_under(2).await;
    let newest = contents();

    put(&older);
    wait_for_fault(&provider, "foreign_state").await;
    assert_eq!(provider.reasons().await, [""; 0]);
    provider.encrypt_under(2).await;
    put(&newest);
    provider.wait_for_event("state.restored").await;

    // What is to be saved cannot be: nothing is written over a pair of unknown origin.
    put(&older);
    wait_for_fault(&provider, "foreign_state").await;
    node.rotate().await;
    provider.wait_for_reasons(&["state_save_failed"]).await;
    provider.assert_encrypt_refused().await;
    let decrypted = provider.decrypt(to_decrypt(&new)).await.unwrap();
    assert_eq!(decrypted, "seed");
    let third = node.stored_by_peer(3, b"by a peer").await;
    assert_eq!(provider.decrypt(third).await.unwrap(), "by a peer");
    assert_eq!(contents(), older);
    put(&newest);
    provider.wait_for_reasons(&[]).await;
    provider.encrypt_under(3).await;
}

#[tokio::test]
async fn a_promotion_that_cannot_be_saved_is_not_shown_until_it_is() {
    tokio::join!(
        promote_despite(Obstacle::Document, false),
        promote_despite(Obstacle::Gone, false),
        promote_despite(Obstacle::Checkpoint, true),
        promote_despite(Obstacle::Directory, true),
    );
}

async fn promote_despite(obstacle: Obstacle, stops: bool) {
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
    let failed = r#"transit_metadata_observation_total{status="state_save_failed"}"#;
    wait_until(SOON, "a promotion that is not saved", async || {
        provider.metric(failed).await > 1.0
    })
    .await;
    if stops {
        provider.wait_for_reasons(&["state_save_failed"]).await;
        provider.assert_encrypt_refused().await;
    } else {
        assert_eq!(provider.reasons().await, [""; 0], "{obstacle:?}");
        provider.encrypt_under(1).await;
    }
    assert_eq!(provider.metric("key_version").await, 1.0);
    assert_eq!(provider.events("key.promoted").count(), 0, "{obstacle:?}");
    assert_eq!(provider.decrypt(to_decrypt(&old)).await.unwrap(), "old");

    obstacle.remove(&node);
    provider.wait_for_reasons(&[]).await;
    let new = provider.encrypt_under(2).await;
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
