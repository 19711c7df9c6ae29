//! The three servers of OpenBao: their loss, their snapshots and their return.

use std::{fs, path::Path};

use openbao_lab::admin::Admin;
use serde_json::Value;
use testkit::{openbao::OpenBao, tenant::KEY, wait::wait_until};

use super::{OPENBAO, Server, Site};
use crate::provider::SOON;

impl Site {
    pub(super) fn running(&self, number: usize) -> &OpenBao {
        match &self.openbao[number] {
            Server::Running(server) => server,
            Server::Stopped(_) | Server::Moving => panic!("{} is stopped", OPENBAO[number]),
        }
    }

    /// Servers of OpenBao that run.
    fn running_servers(&self) -> impl Iterator<Item = &OpenBao> {
        self.openbao.iter().filter_map(|server| match server {
            Server::Running(server) => Some(server),
            Server::Stopped(_) | Server::Moving => None,
        })
    }

    /// The active server of OpenBao, with a root token.
    pub(super) async fn admin(&self) -> Option<Admin<'_>> {
        for server in self.running_servers() {
            if server.is_active().await {
                return Some(server.admin());
            }
        }
        None
    }

    /// The unseal share and the root token of the OpenBao that was backed up.
    pub(crate) fn kept_secrets(&self) -> (String, String) {
        let secrets = self.running(0).secrets();
        let share = secrets.unseal_key.expose().to_owned();
        (share, secrets.root_token.expose().to_owned())
    }

    /// Saves a snapshot of OpenBao.
    pub(crate) async fn save_openbao(&self, file: &Path) {
        self.running(0).save_snapshot(file).await;
    }

    /// Adds a version to the key.
    pub(crate) async fn rotate_key(&self) {
        let mount = &self.tenant.transit_mount;
        wait_until(SOON, "a rotation", async || match self.admin().await {
            Some(admin) => admin.rotate_key(mount, KEY).await.is_ok(),
            None => false,
        })
        .await;
    }

    /// OpenBao loses all its disks.
    pub(crate) async fn lose_openbao(&mut self) {
        self.intact = false;
        for (number, name) in OPENBAO.into_iter().enumerate() {
            if let Server::Running(server) = self.take(number) {
                let stopped = server.kill();
                stopped.erase();
                self.openbao[number] = Server::Stopped(stopped);
            }
            let home = self.machine(name).path("/root");
            fs::remove_file(home.join(".vault-token")).unwrap();
        }
    }

    /// Notes that the next snapshot that is restored has the key as it is now.
    pub(crate) async fn note_key_in_snapshot(&mut self) {
        self.key_in_snapshot = self.key_versions().await;
        assert!(self.key_in_snapshot.is_some());
    }

    /// Takes OpenBao back to a snapshot of its own, with a key of one version.
    pub(crate) async fn take_openbao_back(&self, snapshot: &Path) {
        self.running(0).return_to_snapshot(snapshot).await;
        wait_until(SOON, "the older OpenBao", async || {
            let versions = self.key_versions().await;
            versions.is_some_and(|it| it.as_object().is_some_and(|it| it.len() == 1))
        })
        .await;
    }

    pub(super) async fn key_versions(&self) -> Option<Value> {
        let path = format!("{}/keys/{KEY}", self.tenant.transit_mount);
        let metadata = self.admin().await?.read(&path).await.ok()?;
        let metadata: Value = metadata.json().ok()?;
        Some(metadata["data"]["keys"].clone())
    }

    pub(super) fn take(&mut self, number: usize) -> Server {
        std::mem::replace(&mut self.openbao[number], Server::Moving)
    }

    pub(super) async fn start_openbao(&mut self, machine: &str) {
        let number = OPENBAO.iter().position(|name| *name == machine).unwrap();
        match self.take(number) {
            Server::Stopped(server) => {
                self.openbao[number] = Server::Running(server.start_sealed().await);
            }
            Server::Running(_) | Server::Moving => panic!("{machine} runs already"),
        }
    }

    /// A person looks at OpenBao until the server is sealed.
    pub(super) async fn wait_until_sealed(&self, machine: &str) {
        let number = OPENBAO.iter().position(|name| *name == machine).unwrap();
        wait_until(SOON, "a sealed OpenBao", async || {
            is_sealed(self.running(number)).await == Some(true)
        })
        .await;
    }

    /// A person looks at OpenBao until it serves with all unsealed servers, if these can be a
    /// majority.
    pub(super) async fn wait_for_members(&self, machine: &str) {
        let number = OPENBAO.iter().position(|name| *name == machine).unwrap();
        wait_until(SOON, "an unsealed OpenBao", async || {
            is_sealed(self.running(number)).await == Some(false)
        })
        .await;
        let mut unsealed = 0;
        for server in self.running_servers() {
            unsealed += usize::from(is_sealed(server).await == Some(false));
        }
        if self.intact && unsealed < 2 {
            return;
        }
        wait_until(SOON, "an active OpenBao", async || {
            self.admin().await.is_some()
        })
        .await;
        // A new OpenBao has another root token.
        if unsealed > 1 {
            wait_until(SOON, "voters", async || {
                self.voters().await.is_some_and(|voters| voters >= unsealed)
            })
            .await;
        }
    }

    async fn voters(&self) -> Option<usize> {
        let path = "sys/storage/raft/configuration";
        let members = self.admin().await?.read(path).await.ok()?;
        let members: Value = members.data().ok()?;
        let members = members["config"]["servers"].as_array()?.iter();
        Some(members.filter(|member| member["voter"] == true).count())
    }
}

async fn is_sealed(server: &OpenBao) -> Option<bool> {
    let status = server.admin().read("sys/seal-status").await.ok()?;
    let status: Value = status.json().ok()?;
    status["sealed"].as_bool()
}
