//! The return of a cluster: from a snapshot after the loss of all disks, or from its disks after a
//! loss of power.

use std::{path::Path, time::Duration};

use super::{OpenBao, StoppedOpenBao, checked};
use crate::wait::wait_until;

impl StoppedOpenBao {
    /// Starts the server with an empty disk and restores a snapshot of its cluster. It is then the
    /// only member.
    ///
    /// # Panics
    /// When the server fails to start or rejects the snapshot.
    pub async fn start_from_snapshot(self, snapshot: &Path) -> OpenBao {
        self.erase();
        let openbao = self.start_sealed().await;
        let temporary = checked(openbao.server.initialize().await);
        checked(openbao.server.unseal(&temporary.unseal_key).await);

        let token = &temporary.root_token;
        checked(openbao.server.restore_snapshot(token, snapshot).await);
        let key = &openbao.secrets.unseal_key;
        checked(openbao.server.unseal(key).await);
        openbao
    }

    /// Starts the server with an empty disk as a new member of the cluster of `leader`.
    ///
    /// # Panics
    /// When the server fails to start or to join.
    pub async fn join_again(self, leader: &OpenBao) -> OpenBao {
        self.erase();
        let openbao = self.start_sealed().await;
        let key = &openbao.secrets.unseal_key;
        checked(openbao.server.join(&leader.server, key).await);
        openbao
    }

    /// Starts all members of a cluster with their disks, unseals them and waits until one of them
    /// is active. One member alone has no majority, so each is unsealed before the wait.
    ///
    /// # Panics
    /// When a member fails to start.
    pub async fn start_members(stopped: Vec<Self>) -> Vec<OpenBao> {
        let mut members = Vec::new();
        for member in stopped {
            let member = member.start_sealed().await;
            member.enter_unseal_key().await;
            members.push(member);
        }
        wait_until(Duration::from_secs(60), "a leader", async || {
            for member in &members {
                if member.is_active().await {
                    return true;
                }
            }
            false
        })
        .await;
        members
    }
}
