//! The three control-plane nodes: their losses, and the kubelets that run what has a manifest.

use std::fs;

use serde_json::json;
use testkit::{
    control_plane::{ControlPlane, Kind, WITHIN},
    etcd::Join,
    files,
    wait::wait_until,
};

use super::{API_SERVER_MANIFEST, ETCD_MANIFEST, FIRST, NEW_CLUSTER, NODES, Server, Site};
use crate::{
    machine::{CHECKPOINT, STATE},
    provider::SOON,
};

impl Site {
    /// Puts state and manifests of a node into the backups.
    pub(crate) fn back_up_node(&self, name: &str) {
        fs::create_dir(self.backup(name)).unwrap();
        for path in [STATE, CHECKPOINT, ETCD_MANIFEST, API_SERVER_MANIFEST] {
            let from = self.machine(name).path(path);
            let to = self.backup(name).join(from.file_name().unwrap());
            fs::copy(from, to).unwrap();
        }
    }

    /// Records the key beside the backups.
    pub(crate) async fn record(&self, name: &str) {
        let command = format!("bao-kms-provider record-backup --out /backup/{name}");
        let done = self.machine(FIRST).shell.run(&command, None).await;
        assert_eq!(done.code, Some(0), "{}", done.output);
    }

    /// A node loses its disk, with its member of etcd. New files wait to be fetched.
    pub(crate) async fn lose_node(&mut self, name: &str) {
        let number = NODES.iter().position(|node| *node == name).unwrap();
        self.servers[number].kill();
        self.server_runs[number] = false;
        self.etcd().kill_member(number);
        self.etcd().erase_member(number);
        self.etcd_runs[number] = false;
        self.machine_mut(name).lose_disk().await;
        let machine = self.machine(name);
        machine.provide_files(&self.tenant, &self.config(machine));
    }

    /// A node loses the state of its provider.
    pub(crate) async fn lose_state(&mut self, name: &str) {
        let machine = self.machine_mut(name);
        machine.systemctl("stop").await;
        for path in [STATE, CHECKPOINT] {
            fs::remove_file(machine.path(path)).unwrap();
        }
    }

    /// State and checkpoint of a node.
    pub(crate) fn state_of(&self, name: &str) -> [(&'static str, Vec<u8>); 2] {
        [STATE, CHECKPOINT].map(|path| (path, fs::read(self.machine(name).path(path)).unwrap()))
    }

    /// A node starts with an earlier state, and does not follow the key for a while.
    pub(crate) async fn return_state(&mut self, name: &str, state: &[(&str, Vec<u8>)]) {
        let mut config = self.config(self.machine(name));
        config["rotation"]["activationDelay"] = json!("1h");
        let machine = self.machine_mut(name);
        machine.systemctl("stop").await;
        for (path, content) in state {
            files::replace(&machine.path(path), content, 0o640);
        }
        machine.configure(&config);
        machine.systemctl("start").await;
        let provider = machine.provider.as_mut().unwrap();
        provider.wait_for_event("key.pending").await;
    }

    /// Asserts that the other API servers read and write while a node is down with its member of
    /// etcd.
    pub(crate) async fn assert_others_go_on_without(&mut self, name: &str) {
        let down = NODES.iter().position(|node| *node == name).unwrap();
        self.servers[down].kill();
        self.etcd().kill_member(down);
        for number in (0..3).filter(|number| *number != down) {
            for written in &self.kept {
                // The first request may meet the lost member.
                wait_until(SOON, "a write without a node", async || {
                    let write = self.servers[number].write(Kind::Secret, written, written);
                    write.await.is_ok()
                })
                .await;
            }
        }
        // The kubelet starts both again.
        self.etcd().start_member(down).await;
        self.server_runs[down] = false;
    }

    /// etcd loses all its disks.
    pub(crate) fn lose_etcd(&mut self) {
        self.etcd().kill_all();
        for number in 0..3 {
            self.etcd().erase_member(number);
        }
        // The kubelets restart them in vain until their manifests are gone.
        self.servers.iter_mut().for_each(ControlPlane::kill);
        self.blocked = [true; 3];
    }

    /// All servers of OpenBao are restarted and stay sealed, and the first node starts without
    /// them: its provider is stopped.
    pub(crate) async fn start_node_without_openbao(&mut self) {
        self.servers[0].stop().await;
        self.blocked[0] = true;
        self.machine_mut(FIRST).systemctl("stop").await;
        for number in 0..3 {
            if let Server::Running(server) = self.take(number) {
                let sealed = server.kill().start_sealed().await;
                self.openbao[number] = Server::Running(sealed);
            }
        }
        self.servers[0].spawn(&[]);
        wait_until(WITHIN, "word of the failure", async || {
            let answer = self.servers[0].get("/readyz?verbose").await;
            answer.is_some_and(|(_, said)| said.contains("[-]kms-providers failed"))
        })
        .await;
    }

    /// The kubelet of every node runs what has a manifest.
    pub(super) async fn follow_manifests(&mut self) {
        for (number, name) in NODES.into_iter().enumerate() {
            let machine = self.machine(name);
            let etcd = fs::read_to_string(machine.path(ETCD_MANIFEST)).ok();
            let server = machine.path(API_SERVER_MANIFEST).exists();
            if self.server_runs[number] && !server {
                match self.etcd_runs.iter().filter(|runs| **runs).count() {
                    0 | 1 => self.servers[number].kill(),
                    _ => self.servers[number].stop().await,
                }
                self.server_runs[number] = false;
            }
            match (self.etcd_runs[number], etcd) {
                (true, None) => {
                    self.etcd().stop_member(number).await;
                    self.etcd_runs[number] = false;
                }
                (false, Some(manifest)) if self.etcd().data_dir_of(number).exists() => {
                    let join = match manifest.contains(NEW_CLUSTER) {
                        true => Join::New,
                        false => Join::Existing,
                    };
                    self.etcd().spawn_member(number, join);
                    self.etcd_runs[number] = true;
                }
                (true, Some(_)) | (false, _) => {}
            }
        }
        if self.etcd_runs.iter().filter(|runs| **runs).count() < 2 {
            return;
        }
        for number in 0..3 {
            if self.etcd_runs[number] {
                self.etcd().member_healthy(number).await;
            }
        }
        for (number, name) in NODES.into_iter().enumerate() {
            let machine = self.machine(name);
            // It would wait for its provider.
            let starts = machine.provider.is_some() && machine.path(API_SERVER_MANIFEST).exists();
            if !self.server_runs[number] && starts {
                self.servers[number].ready_after_restarts().await;
                self.server_runs[number] = true;
                self.blocked[number] = false;
            }
        }
    }
}
