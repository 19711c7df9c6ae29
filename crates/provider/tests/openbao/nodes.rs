//! Three nodes of one cluster: each follows a rotation in its own time, and at every moment each
//! reads what the others write.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use kms_node::kms_api::generated::{DecryptRequest, EncryptRequest};
use testkit::{tenant::Timing, wait::wait_until};
use tokio::{sync::Barrier, task::JoinSet};

use crate::{
    node::{Node, QUIET, TIMING},
    provider::{Provider, SOON, to_decrypt},
};

/// Promotes as soon as the rules allow it.
const FAST: Timing = Timing {
    probe_interval: Duration::from_millis(100),
    activation_delay: Duration::from_millis(100),
    stable_observations: 1,
    ..TIMING
};

/// Long behind the fast one.
const LATE: Timing = Timing {
    activation_delay: Duration::from_millis(2500),
    ..TIMING
};

/// Writers on each node, and as many readers.
const WORKERS: usize = 16;

async fn start(timings: [Timing; 3]) -> ([Node; 3], [Provider; 3]) {
    let [first, second, third] = timings;
    let first = Node::new(first).await;
    let nodes = [first.peer(second), first.peer(third)];
    let [second, third] = nodes;
    let providers = [
        first.serve().await,
        second.serve().await,
        third.serve().await,
    ];
    ([first, second, third], providers)
}

#[tokio::test]
async fn nodes_read_each_other_whoever_promotes_first() {
    // The last one observes nothing while the test runs, and learns only from what it is asked.
    let (nodes, providers) = start([FAST, LATE, QUIET]).await;
    let old = providers[0].status().await.key_id;
    let watches = providers.each_ref().map(Provider::watch_status);
    nodes[0].rotate().await;
    let mut stages = BTreeSet::new();
    let newest = loop {
        let mut key_ids = Vec::new();
        for writer in &providers {
            let encrypted = writer.encrypt(b"seed").await.unwrap();
            for reader in &providers {
                let decrypted = reader.decrypt(to_decrypt(&encrypted)).await.unwrap();
                assert_eq!(decrypted, "seed");
            }
            key_ids.push(encrypted.key_id);
        }
        let promoted = key_ids.iter().filter(|key_id| **key_id != old).count();
        stages.insert(promoted);
        if promoted == 2 {
            break key_ids.swap_remove(0);
        }
    };
    assert!(stages.contains(&1), "nobody was ahead: {stages:?}");
    let [fast, late, quiet] = watches;
    let both = [old.clone(), newest];
    assert_eq!(fast.key_ids().await, both);
    assert_eq!(late.key_ids().await, both);
    assert_eq!(quiet.key_ids().await, [old]);
    let active = |node: &Node| node.inspect()["activeTransitVersion"].as_u64().unwrap();
    assert_eq!(nodes.each_ref().map(active), [2, 2, 1]);
}

#[tokio::test]
async fn under_load_a_rotation_fails_no_call_and_changes_each_key_id_once() {
    let (nodes, providers) = start([TIMING; 3]).await;
    let old = providers[0].encrypt(b"seed").await.unwrap();
    let load = Load::new(to_decrypt(&old));
    let mut writers = JoinSet::new();
    let mut readers = JoinSet::new();
    for provider in &providers {
        for _ in 0..WORKERS {
            writers.spawn(load.clone().write(provider));
            readers.spawn(load.clone().read(provider));
        }
    }
    let watches = providers.each_ref().map(Provider::watch_status);
    load.started.wait().await;
    nodes[0].rotate().await;
    let mut new = String::new();
    for provider in &providers {
        new = provider.encrypt_under(2).await.key_id;
    }
    wait_until(SOON, "readers of what is new", async || {
        load.read.lock().unwrap().contains(&new)
    })
    .await;
    load.ending.store(true, Ordering::SeqCst);

    let both = [old.key_id, new];
    for key_ids in writers.join_all().await {
        assert_eq!(key_ids, both, "of one writer");
    }
    readers.join_all().await;
    assert_eq!(*load.read.lock().unwrap(), both.iter().cloned().collect());
    for watch in watches {
        assert_eq!(watch.key_ids().await, both);
    }
}

/// What writers have stored for readers, what those have read, and when to begin and to end.
#[derive(Clone)]
struct Load {
    stored: Arc<Mutex<Vec<DecryptRequest>>>,
    /// The key_ids under which something was read.
    read: Arc<Mutex<BTreeSet<String>>>,
    /// Every writer has written once.
    started: Arc<Barrier>,
    ending: Arc<AtomicBool>,
}

impl Load {
    fn new(first: DecryptRequest) -> Self {
        Self {
            stored: Arc::new(Mutex::new(vec![first; 64])),
            read: Arc::default(),
            started: Arc::new(Barrier::new(3 * WORKERS + 1)),
            ending: Arc::default(),
        }
    }

    /// The key_ids that one writer gets, without repetition.
    fn write(self, provider: &Provider) -> impl Future<Output = Vec<String>> + use<> {
        let mut client = provider.client();
        async move {
            let mut key_ids: Vec<String> = Vec::new();
            for place in 0.. {
                let last = self.ending.load(Ordering::SeqCst);
                let request = EncryptRequest {
                    plaintext: Bytes::from_static(b"seed"),
                    uid: "test".to_owned(),
                };
                let encrypted = client.encrypt(request).await.unwrap().into_inner();
                {
                    let mut stored = self.stored.lock().unwrap();
                    let place = place % stored.len();
                    stored[place] = to_decrypt(&encrypted);
                }
                if key_ids.last() != Some(&encrypted.key_id) {
                    key_ids.push(encrypted.key_id);
                }
                if place == 0 {
                    self.started.wait().await;
                }
                if last {
                    break;
                }
            }
            key_ids
        }
    }

    fn read(self, provider: &Provider) -> impl Future<Output = ()> + use<> {
        let mut client = provider.client();
        async move {
            for place in 0.. {
                let last = self.ending.load(Ordering::SeqCst);
                let request = {
                    let stored = self.stored.lock().unwrap();
                    stored[place % stored.len()].clone()
                };
                let key_id = request.key_id.clone();
                let decrypted = client.decrypt(request).await.unwrap().into_inner();
                assert_eq!(decrypted.plaintext, "seed");
                self.read.lock().unwrap().insert(key_id);
                if last {
                    break;
                }
            }
        }
    }
}
