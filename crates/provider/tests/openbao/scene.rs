//! What a page of the runbook is carried out on: an OpenBao, an etcd with encrypted objects, and
//! control-plane machines.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use kms_node::kms_api::generated::DecryptRequest;
use openbao_lab::admin::Admin;
use serde_json::Value;
use tempfile::TempDir;
use testkit::{
    etcd::{Etcd, StoppedEtcd},
    files,
    openbao::{OpenBao, StoppedOpenBao, shared_openbao},
    runbook::{Answers, Done, Shell, Site},
    stored::{Sealer, SourceType, random},
    tenant::{KEY, Tenant, Timing},
    wait::wait_until,
};

use crate::{
    machine::Machine,
    provider::{Provider, SOON, to_decrypt},
    secrets::spellings,
};

/// What the objects hold; nobody may ever see it.
const OBJECT: &[u8] = b"k8s\0 the plaintext of an object";

/// The manifests that let a kubelet run etcd and the API server.
const ETCD_MANIFEST: &str = "/etc/kubernetes/manifests/etcd.yaml";
const API_SERVER_MANIFEST: &str = "/etc/kubernetes/manifests/kube-apiserver.yaml";

/// The machine that a page does not name.
pub(crate) const FIRST: &str = "";

/// The machine that OpenBao runs on.
pub(crate) const OPENBAO: &str = "openbao";

/// The machines, of which the first one has no name on the page.
pub(crate) struct Scene {
    machines: BTreeMap<String, Machine>,
    pub(crate) tenant: Arc<Tenant>,
    openbao: Server,
    etcd: Store,
    backup: TempDir,
    /// For commands that ask, by the beginning of the command.
    answers: Answers,
    /// Everything that was ever encrypted.
    seeds: Vec<(DecryptRequest, [u8; 32])>,
    /// The versions of the key, with their times, in the snapshot that OpenBao is taken back to.
    key_in_snapshot: Option<Value>,
    timing: Timing,
    /// Ports of the first machine that lead to the metrics of another.
    tunnels: Vec<(String, String)>,
}

enum Server {
    /// Of all tests: may not be stopped or restored.
    Shared(&'static OpenBao),
    Own(OpenBao),
    Stopped(StoppedOpenBao),
    Moving,
}

enum Store {
    Running(Etcd),
    Stopped(StoppedEtcd),
    Moving,
}

impl Scene {
    /// On an OpenBao that this page may destroy.
    pub(crate) async fn with_own_openbao(timing: Timing) -> Self {
        let server = OpenBao::start().await;
        let tenant = Tenant::new(&server).await;
        Self::of(Server::Own(server), tenant, timing).await
    }

    /// On the OpenBao that all tests share.
    pub(crate) async fn new(timing: Timing) -> Self {
        let server = shared_openbao().await;
        let tenant = Tenant::new(server).await;
        Self::of(Server::Shared(server), tenant, timing).await
    }

    async fn of(openbao: Server, tenant: Tenant, timing: Timing) -> Self {
        let mut scene = Self {
            machines: BTreeMap::new(),
            tenant: Arc::new(tenant),
            openbao,
            etcd: Store::Running(Etcd::start().await),
            backup: TempDir::new().unwrap(),
            answers: Answers::default(),
            seeds: Vec::new(),
            key_in_snapshot: None,
            timing,
            tunnels: Vec::new(),
        };
        scene.add_machine(FIRST);
        scene.add_machine(OPENBAO);
        scene.log_in();
        let first = scene.machine(FIRST);
        for manifest in [ETCD_MANIFEST, API_SERVER_MANIFEST] {
            files::replace(&first.path(manifest), b"kind: Pod\n", 0o600);
        }
        scene
    }

    /// Adds a machine that has never served.
    pub(crate) fn add_machine(&mut self, name: &str) {
        let mut machine = Machine::new(self.backup.path());
        machine.reach_etcd(self.etcd());
        machine.reach_openbao(self.openbao(), &self.tenant);
        self.machines.insert(name.to_owned(), machine);
    }

    /// Starts the first provider on this machine.
    pub(crate) async fn serve(&mut self, name: &str) {
        let (tenant, timing) = (Arc::clone(&self.tenant), self.timing);
        let machine = self.machine_mut(name);
        machine.install(&tenant, timing);
        let started = machine.systemctl("start").await;
        assert_eq!(started.code, Some(0), "{}", machine.journal());
    }

    /// The machine loses its disk, and etcd's with it where it runs. New files wait to be fetched.
    pub(crate) async fn lose_disk(&mut self, name: &str) {
        let (tenant, timing) = (Arc::clone(&self.tenant), self.timing);
        let machine = self.machine_mut(name);
        machine.lose_disk().await;
        machine.provide_files(&tenant, &machine.config(&tenant, timing));
        self.follow_manifests().await;
        if let Store::Stopped(etcd) = &self.etcd {
            fs::remove_dir_all(etcd.data_dir()).unwrap();
        }
    }

    pub(crate) fn machine(&self, name: &str) -> &Machine {
        &self.machines[name]
    }

    pub(crate) fn machine_mut(&mut self, name: &str) -> &mut Machine {
        self.machines.get_mut(name).unwrap()
    }

    pub(crate) fn etcd(&self) -> &Etcd {
        match &self.etcd {
            Store::Running(etcd) => etcd,
            Store::Stopped(_) | Store::Moving => panic!("etcd is stopped"),
        }
    }

    pub(crate) fn openbao(&self) -> &OpenBao {
        match &self.openbao {
            Server::Shared(server) => server,
            Server::Own(server) => server,
            Server::Stopped(_) | Server::Moving => panic!("OpenBao is stopped"),
        }
    }

    pub(crate) fn admin(&self) -> Admin<'_> {
        self.openbao().admin()
    }

    /// Gives the operator of OpenBao a token.
    fn log_in(&self) {
        let token = self.openbao().secrets().root_token.expose();
        let home = self.machine(OPENBAO).path("/root");
        files::replace(&home.join(".vault-token"), token.as_bytes(), 0o600);
    }

    /// Somebody will type this when a command that begins so asks for it.
    pub(crate) fn will_type(&mut self, command: &'static str, answer: impl Into<String>) {
        self.answers.add(command, answer);
    }

    /// The unseal share and the root token of the OpenBao that was backed up.
    pub(crate) fn kept_secrets(&self) -> (String, String) {
        let secrets = self.openbao().secrets();
        let share = secrets.unseal_key.expose().to_owned();
        (share, secrets.root_token.expose().to_owned())
    }

    /// Where a file of the backups is.
    pub(crate) fn backup(&self, name: &str) -> PathBuf {
        self.backup.path().join(name)
    }

    /// Writes the record that belongs to a backup set.
    pub(crate) async fn record(&self, machine: &str, name: &str) {
        let shell = &self.machine(machine).shell;
        let command = format!("bao-kms-provider record-backup --out /backup/{name}");
        let done = shell.run(&command, None).await;
        assert_eq!(done.code, Some(0), "{}", done.output);
    }

    /// Stores a Secret under a new seed, as an API server of this machine that has just started.
    pub(crate) async fn store(&mut self, machine: &str, name: &str) {
        let seed: [u8; 32] = random();
        let encrypted = self
            .machine(machine)
            .serving()
            .encrypt(&seed)
            .await
            .unwrap();
        let mut annotations: Vec<_> = encrypted
            .annotations
            .iter()
            .map(|(name, value)| (name.clone(), value.to_vec()))
            .collect();
        annotations.sort();
        let sealer = Sealer {
            provider: "openbao-kms".to_owned(),
            source: seed,
            source_type: SourceType::HkdfSeed,
            encrypted_source: encrypted.ciphertext.to_vec(),
            key_id: encrypted.key_id.clone(),
            annotations,
        };
        let key = format!("/registry/secrets/default/{name}");
        self.etcd().put(&key, &sealer.value(&key, OBJECT));
        self.seeds.push((to_decrypt(&encrypted), seed));
    }

    /// Whether etcd has the Secret.
    pub(crate) fn stores(&self, name: &str) -> bool {
        let key = format!("/registry/secrets/default/{name}");
        self.etcd().get(&key).is_some()
    }

    /// Rotates the key and waits until every provider encrypts with the new version.
    pub(crate) async fn rotate(&self) {
        let mount = &self.tenant.transit_mount;
        self.admin().rotate_key(mount, KEY).await.unwrap();
        let version = self.latest_version().await.unwrap();
        for machine in self.machines.values() {
            if let Some(provider) = &machine.provider {
                provider.encrypt_under(version).await;
            }
        }
    }

    /// Asserts that the provider of this machine decrypts everything that was ever encrypted.
    pub(crate) async fn assert_readable(&self, machine: &str) {
        for (request, seed) in &self.seeds {
            let read = read(self.machine(machine).serving(), request).await;
            assert_eq!(read.as_deref(), Ok(&seed[..]));
        }
    }

    /// Asserts that no spelling of anything that was ever encrypted is in this text.
    pub(crate) fn assert_shows_no_seed(&self, text: &str) {
        for (_, seed) in &self.seeds {
            for spelling in spellings(seed) {
                assert!(!text.contains(&spelling), "a seed is in the log");
            }
        }
    }

    /// The ciphertext of the last seed.
    pub(crate) fn last_ciphertext(&self) -> String {
        let (request, _) = self.seeds.last().unwrap();
        String::from_utf8(request.ciphertext.to_vec()).unwrap()
    }

    /// Asserts that the provider of this machine does not decrypt what was encrypted last, and what
    /// it says begins so.
    pub(crate) async fn assert_unreadable(&self, machine: &str, said: &str) {
        let (request, _) = self.seeds.last().unwrap();
        let refused = read(self.machine(machine).serving(), request).await;
        let refused = refused.unwrap_err();
        assert!(refused.starts_with(said), "{refused}");
    }

    /// Waits until Status says this.
    pub(crate) async fn wait_for_status(&self, machine: &str, healthz: &str) {
        let provider = self.machine(machine).serving();
        wait_until(SOON, healthz, async || {
            provider.status().await.healthz == healthz
        })
        .await;
    }

    /// Lets `page` mean `here` on every machine.
    pub(crate) fn name_everywhere(&mut self, page: &str, here: &str) {
        for machine in self.machines.values_mut() {
            machine.shell.name(page, here);
        }
    }

    pub(crate) async fn stop_openbao(&mut self) {
        if let Server::Own(server) = std::mem::replace(&mut self.openbao, Server::Moving) {
            self.openbao = Server::Stopped(server.stop().await);
        } else {
            panic!("this OpenBao is not ours to stop, or does not run");
        }
    }

    async fn start_openbao(&mut self) {
        if let Server::Stopped(server) = std::mem::replace(&mut self.openbao, Server::Moving) {
            self.openbao = Server::Own(server.start_sealed().await);
        } else {
            panic!("OpenBao runs already");
        }
    }

    /// OpenBao forgets what it has in memory alone.
    pub(crate) async fn restart_openbao(&mut self) {
        self.stop_openbao().await;
        self.start_openbao().await;
        if let Server::Own(server) = &mut self.openbao {
            server.unseal().await;
        }
    }

    /// OpenBao loses its disk.
    pub(crate) async fn lose_openbao(&mut self) {
        self.stop_openbao().await;
        if let Server::Stopped(server) = &self.openbao {
            server.erase();
        }
        let home = self.machine(OPENBAO).path("/root");
        fs::remove_file(home.join(".vault-token")).ok();
    }

    /// A kubelet runs what has a manifest.
    async fn follow_manifests(&mut self) {
        let wanted = self.machine(FIRST).path(ETCD_MANIFEST).exists();
        self.etcd = match std::mem::replace(&mut self.etcd, Store::Moving) {
            Store::Running(etcd) if !wanted => Store::Stopped(etcd.stop().await),
            Store::Stopped(stopped) if wanted => Store::Running(stopped.start().await),
            same => same,
        };
    }

    /// A provider of the tests listens elsewhere after each start, unlike a tunnel's end.
    fn follow_tunnels(&mut self) {
        for (port, name) in &self.tunnels {
            let here = self.machines[name].metrics();
            let page = format!("http://127.0.0.1:{port}");
            let first = self.machines.get_mut(FIRST).unwrap();
            first.shell.name(&page, here);
        }
    }

    /// A person looks at OpenBao until it is sealed, or is not.
    async fn wait_until_sealed(&self, sealed: bool) {
        wait_until(SOON, "the other OpenBao", async || {
            if !sealed {
                // Only the active server answers with a good status.
                return self.admin().read("sys/health").await.is_ok();
            }
            let status = self.admin().read("sys/seal-status").await;
            let status = status.ok().and_then(|status| status.json().ok());
            status.is_some_and(|status: Value| status["sealed"] == true)
        })
        .await;
    }

    /// Notes that the next snapshot that is restored has the key as it is now.
    pub(crate) async fn note_key_in_snapshot(&mut self) {
        self.key_in_snapshot = self.key_versions().await;
        assert!(self.key_in_snapshot.is_some());
    }

    /// Takes OpenBao back to a snapshot of its own, with a key of one version.
    pub(crate) async fn take_openbao_back(&self, snapshot: &Path) {
        self.openbao().return_to_snapshot(snapshot).await;
        wait_until(SOON, "the older OpenBao", async || {
            self.latest_version().await == Some(1)
        })
        .await;
    }

    async fn wait_for_key_of_snapshot(&self) {
        wait_until(SOON, "the key of the snapshot", async || {
            self.key_versions().await == self.key_in_snapshot
        })
        .await;
    }

    async fn latest_version(&self) -> Option<u64> {
        Some(u64::try_from(self.key_versions().await?.as_object()?.len()).unwrap())
    }

    /// `None` when there is no key.
    async fn key_versions(&self) -> Option<Value> {
        let path = format!("{}/keys/{KEY}", self.tenant.transit_mount);
        let metadata: Value = self.admin().read(&path).await.ok()?.json().ok()?;
        Some(metadata["data"]["keys"].clone())
    }
}

impl Site for Scene {
    fn shell(&self, machine: &str) -> &Shell {
        &self.machine(machine).shell
    }

    async fn instead(&mut self, machine: &str, words: &[String]) -> Option<Done> {
        self.follow_tunnels();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match words[..] {
            ["ssh", "-fNL", tunnel, peer] => {
                let port = tunnel.strip_suffix(":127.0.0.1:8081").unwrap();
                self.tunnels.push((port.to_owned(), peer.to_owned()));
                Some(Done::silently())
            }
            ["systemctl", verb, "bao-kms-provider"] => {
                Some(self.machine_mut(machine).systemctl(verb).await)
            }
            // The test has made the token.
            ["softhsm2-util", "--init-token", ..] => Some(Done::silently()),
            ["systemctl", "start", "openbao"] => {
                self.start_openbao().await;
                Some(Done::silently())
            }
            ["systemctl", "stop", "openbao"] => {
                self.stop_openbao().await;
                Some(Done::silently())
            }
            [
                "journalctl",
                "-u",
                "bao-kms-provider",
                "-o",
                "cat",
                "-n",
                lines,
            ] => Some(self.machine(machine).journalctl(lines)),
            ["scp", from, to] => {
                let (peer, from) = from.split_once(':').unwrap();
                let peer = self.machine(peer);
                Some(self.machine(machine).scp(peer, from, to))
            }
            _ => None,
        }
    }

    fn configure(&mut self, sections: &str) {
        self.machine(FIRST).replace_sections(sections);
    }

    fn typed(&mut self, command: &str) -> Option<String> {
        self.answers.take(command)
    }

    async fn settle(&mut self, _machine: &str, command: &str) {
        self.follow_manifests().await;
        if command.contains("raft snapshot restore -force") {
            self.wait_until_sealed(true).await;
        } else if command.contains("raft snapshot restore") {
            self.wait_for_key_of_snapshot().await;
        } else if command.starts_with("bao operator unseal") {
            self.wait_until_sealed(false).await;
        }
    }
}

async fn read(provider: &Provider, request: &DecryptRequest) -> Result<Vec<u8>, String> {
    match provider.decrypt(request.clone()).await {
        Ok(plaintext) => Ok(plaintext.to_vec()),
        Err(status) => Err(status.message().to_owned()),
    }
}
