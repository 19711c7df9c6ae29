//! Objects, and the checks that every part serves.

use testkit::{
    control_plane::{Kind, WITHIN},
    wait::wait_until,
};

use super::{
    super::super::{
        explained::ETCD_LEADER,
        sound::{Metrics, hash},
    },
    FIRST, NODES, Site,
};
use crate::provider::SOON;

impl Site {
    /// Writes a Secret through the first API server, which every command must leave readable.
    pub(crate) async fn store(&mut self, name: &'static str) {
        let written = self.servers[0].write(Kind::Secret, name, name);
        written.await.unwrap();
        self.kept.push(name);
        self.assert_readable("a write").await;
    }

    /// Rotates the key, and waits until all API servers have adopted the new version.
    pub(crate) async fn rotate(&self) {
        let before = self.key_id().await;
        self.rotate_key().await;
        wait_until(SOON, "a promotion", async || self.key_id().await != before).await;
        self.adopted().await;
    }

    /// Waits until all nodes serve one key_id, and every API server has adopted it.
    pub(crate) async fn adopted(&self) {
        let mut expected = String::new();
        wait_until(SOON, "one key_id", async || {
            expected = self.key_id().await;
            for name in NODES {
                let status = self.machine(name).serving().status().await;
                if status.healthz != "ok" || status.key_id != expected {
                    return false;
                }
            }
            true
        })
        .await;
        let expected = hash(&expected);
        for server in &self.servers {
            wait_until(WITHIN, "the key of the nodes", async || {
                // Its health check reads Status.
                let ready = server.get("/readyz?verbose").await;
                let healthy =
                    ready.is_some_and(|(_, checks)| checks.contains("[+]kms-providers ok"));
                let metrics = server.get("/metrics").await;
                let metrics = metrics.map(|(_, text)| Metrics(text));
                healthy && metrics.is_some_and(|it| it.newest_hash() == Some(expected.as_str()))
            })
            .await;
        }
    }

    async fn key_id(&self) -> String {
        self.machine(FIRST).serving().status().await.key_id
    }

    /// Waits until the providers that run refuse to encrypt.
    pub(crate) async fn wait_until_unhealthy(&self) {
        for name in NODES {
            let provider = self.machine(name).serving();
            wait_until(SOON, "an unhealthy Status", async || {
                provider.status().await.healthz != "ok"
            })
            .await;
        }
    }

    /// Asserts that all nodes use one key, that every API server has adopted it, and that each
    /// writes an object that all read.
    pub(crate) async fn assert_sound(&mut self) {
        self.adopted().await;
        for number in 0..3 {
            let name = ["through-1", "through-2", "through-3"][number];
            let written = self.servers[number].write(Kind::Secret, name, name);
            written.await.unwrap();
            if !self.kept.contains(&name) {
                self.kept.push(name);
            }
        }
        self.assert_readable("the page").await;
    }

    /// Asserts that every running API server reads every object.
    pub(super) async fn assert_readable(&self, after: &str) {
        for number in 0..3 {
            if !self.server_runs[number] || self.blocked[number] {
                continue;
            }
            for name in &self.kept {
                let mut read = None;
                wait_until(SOON, "a member of etcd", async || {
                    match self.servers[number].read(Kind::Secret, name).await {
                        Ok(text) => read = text,
                        // It was connected to a member that is gone.
                        Err(error) => {
                            let error = error.to_string();
                            let gone = ETCD_LEADER.iter().any(|known| error.contains(known));
                            assert!(gone, "{number} after {after}: {error}");
                            return false;
                        }
                    }
                    true
                })
                .await;
                assert_eq!(read.as_deref(), Some(*name), "{number} after {after}");
            }
        }
    }
}
