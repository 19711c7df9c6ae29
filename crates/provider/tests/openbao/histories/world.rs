//! One cluster: a key of its own in OpenBao, what its API servers have stored in etcd, one node's state,
//! and the backups that were made.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use kms_domain::{
    annotations::PluginVersion,
    key::{KeyScope, TransitKey},
    prepare::preview,
    scope::{
        ClusterId, IdentityScope, KeyLineageId, OpenBaoInstanceId, ProviderName, TransitMountId,
    },
    transit::{CreatedAt, TransitVersion},
};
use openbao_lab::admin::{
    Admin,
    transit::{KeyConfig, NewKey},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::{
    etcd::Etcd,
    files,
    openbao::OpenBao,
    stored::{Sealer, SourceType, random},
    tenant::{KEY, Timing},
    wait::wait_until,
};
use tokio::time::{Instant, sleep};

use super::scenario::{Action, Damage};
use crate::{
    bulk,
    corpus::OBJECT,
    node::{Finished, Node, TIMING},
    provider::SOON,
};

/// Promotes as soon as the rules allow it, and soon gives up a start.
const FAST: Timing = Timing {
    probe_interval: Duration::from_millis(100),
    activation_delay: Duration::from_millis(100),
    stable_observations: 1,
    grace_timeout: Duration::from_secs(3),
    ..TIMING
};
/// A provider that does not promote in this time has a reason.
const PROMOTED_WITHIN: Duration = Duration::from_secs(10);

const RESOURCES: [&str; 4] = [
    "secrets/default",
    "configmaps/kube-system",
    "example.org/widgets/default",
    "clusterwide",
];
/// Of the configuration, and of an EncryptionConfiguration alone.
const NAMES: [&str; 2] = ["kms-test", "kms-test-events"];

/// Values by etcd key.
pub(super) type Stored = BTreeMap<String, Entry>;

/// One value in etcd.
#[derive(Debug, Clone)]
pub(super) enum Entry {
    /// Encrypted by a plugin with this key.
    Object(Object),
    /// No plugin's, under the configured provider's name.
    Garbage,
    /// Of another provider.
    Foreign,
}

#[derive(Debug, Clone)]
pub(super) struct Object {
    pub(super) sealer: Sealer,
    pub(super) version: u64,
    /// The associated data of the encrypted DEK, of its writer.
    pub(super) aad: String,
    pub(super) damage: Option<Damage>,
}

/// What OpenBao says of the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KeyFacts {
    pub(super) created: BTreeMap<u64, u64>,
    pub(super) latest: u64,
    pub(super) min_available: u64,
    pub(super) min_decryption: u64,
    min_encryption: u64,
}

pub(super) struct EtcdBackup {
    pub(super) file: PathBuf,
    pub(super) stored: Stored,
}

pub(super) struct OpenBaoBackup {
    pub(super) file: PathBuf,
    marker: String,
}

pub(super) struct World<'s> {
    pub(super) openbao: &'s OpenBao,
    etcd: &'s Etcd,
    pub(super) node: Node,
    pub(super) directory: TempDir,
    scope: Arc<KeyScope>,
    pub(super) stored: Stored,
    /// The version that was written under last.
    pub(super) active: u64,
    /// By name; each API server keeps its DEK.
    deks: HashMap<usize, Object>,
    compacted: u64,
    pub(super) etcd_backups: Vec<EtcdBackup>,
    pub(super) openbao_backups: Vec<OpenBaoBackup>,
    /// Copies of the state, each with its checkpoint beside it.
    pub(super) states: Vec<PathBuf>,
    pub(super) records: Vec<PathBuf>,
    files: u64,
}

impl<'s> World<'s> {
    pub(super) async fn new(openbao: &'s OpenBao, etcd: &'s Etcd) -> Self {
        let _deleted = etcd.ctl(&["del", "", "--from-key"]);
        let node = Node::on(openbao, FAST).await;
        Self {
            scope: Arc::new(KeyScope::new(scope(&node.config))),
            openbao,
            etcd,
            node,
            directory: TempDir::new().unwrap(),
            stored: Stored::new(),
            active: 1,
            deks: HashMap::new(),
            compacted: 0,
            etcd_backups: Vec::new(),
            openbao_backups: Vec::new(),
            states: Vec::new(),
            records: Vec::new(),
            files: 0,
        }
    }

    pub(super) async fn act(&mut self, action: &Action) {
        match *action {
            Action::Write {
                second_name,
                resource,
                fresh_dek,
                latest,
                objects,
            } => {
                self.write(
                    usize::from(second_name),
                    resource,
                    fresh_dek,
                    latest,
                    objects,
                )
                .await;
            }
            Action::WriteForeign => {
                let sealer = Sealer {
                    provider: "another".to_owned(),
                    source: random(),
                    source_type: SourceType::HkdfSeed,
                    encrypted_source: random::<64>().to_vec(),
                    key_id: "a-key-of-another-plugin".to_owned(),
                    annotations: vec![("version.example.org".to_owned(), b"1".to_vec())],
                };
                let key = self.new_key(0);
                self.etcd.put(&key, &sealer.value(&key, OBJECT));
                self.stored.insert(key, Entry::Foreign);
            }
            Action::Delete(index) => {
                if let Some(key) = nth(self.stored.keys(), index).cloned() {
                    let _deleted = self.etcd.ctl(&["del", &key]);
                    self.stored.remove(&key);
                }
            }
            Action::Rotate => self.rotate().await,
            Action::Serve => self.serve().await,
            Action::Raise(minimum) => {
                let facts = self.key().await.unwrap();
                let minimum = minimum.clamp(facts.min_decryption, facts.latest);
                self.limit(minimum).await;
            }
            Action::RaiseEncryption(minimum) => {
                let facts = self.key().await.unwrap();
                let lowest = facts.min_encryption.max(facts.min_decryption);
                let limits = KeyConfig {
                    min_encryption_version: Some(minimum.clamp(lowest, facts.latest)),
                    ..KeyConfig::default()
                };
                let admin = self.admin();
                admin
                    .configure_key(self.mount(), KEY, limits)
                    .await
                    .unwrap();
            }
            Action::LowerAll => self.lower_all().await,
            Action::Trim(minimum) => self.trim(minimum).await,
            Action::Recreate { rotations, minimum } => self.recreate(rotations, minimum).await,
            Action::Retire(before) => self.retire(before),
            Action::ForgetState => self.forget_state(),
            Action::Compact => self.compact(),
            Action::Damage(damage, index) => self.damage(damage, index),
            Action::SaveEtcd => self.save_etcd(),
            Action::SaveOpenBao => self.save_openbao().await,
            Action::SaveState => {
                let (state, checkpoint) = (self.node.state_file(), self.node.checkpoint());
                if state.exists() && checkpoint.exists() {
                    let copy = self.new_file("state.json");
                    copy_file(&state, &copy);
                    copy_file(&checkpoint, &beside(&copy));
                    self.states.push(copy);
                }
            }
            Action::Record { with_etcd } => {
                let file = self.new_file("record.json");
                let mut command = vec!["record-backup", "--out", file.to_str().unwrap()];
                if with_etcd {
                    self.save_etcd();
                    let snapshot = self.etcd_backups.last().unwrap().file.to_str();
                    command.extend(["--etcd-snapshot", snapshot.unwrap()]);
                }
                let _code = self.node.run(&command);
                if file.exists() {
                    self.records.push(file);
                }
            }
        }
    }

    /// What OpenBao says of the key, if there is one.
    pub(super) async fn key(&self) -> Option<KeyFacts> {
        let metadata = self.admin().read(&self.key_path()).await.ok()?;
        let metadata: Value = metadata.json().unwrap();
        let data = &metadata["data"];
        let number = |name: &str| data[name].as_u64().unwrap();
        let keys = data["keys"].as_object().unwrap().iter();
        Some(KeyFacts {
            created: keys
                .map(|(version, second)| (version.parse().unwrap(), second.as_u64().unwrap()))
                .collect(),
            latest: number("latest_version"),
            min_available: number("min_available_version").max(1),
            min_decryption: number("min_decryption_version"),
            min_encryption: number("min_encryption_version"),
        })
    }

    pub(super) fn admin(&self) -> Admin<'s> {
        self.openbao.admin()
    }

    pub(super) fn mount(&self) -> &str {
        &self.node.tenant.transit_mount
    }

    /// An argument that names this file.
    pub(super) fn new_file(&mut self, name: &str) -> PathBuf {
        self.files += 1;
        self.directory.path().join(format!("{}-{name}", self.files))
    }

    pub(super) fn save_etcd(&mut self) {
        let file = self.new_file("etcd.db");
        self.etcd.save_snapshot(&file);
        self.etcd_backups.push(EtcdBackup {
            file,
            stored: self.stored.clone(),
        });
    }

    pub(super) async fn save_openbao(&mut self) {
        let marker = self.mark().await;
        let file = self.new_file("openbao.snap");
        self.openbao.save_snapshot(&file).await;
        self.openbao_backups.push(OpenBaoBackup { file, marker });
    }

    /// Takes OpenBao back. Its answers are those of the snapshot once it shows the marker again.
    pub(super) async fn restore_openbao(&self, backup: &OpenBaoBackup) {
        let now = self.mark().await;
        assert_ne!(now, backup.marker);
        self.openbao.return_to_snapshot(&backup.file).await;
        wait_until(SOON, "the OpenBao of the snapshot", async || {
            self.marker().await.as_ref() == Some(&backup.marker)
        })
        .await;
    }

    pub(super) async fn delete_key(&self) {
        let deletable = KeyConfig {
            deletion_allowed: Some(true),
            ..KeyConfig::default()
        };
        let admin = self.admin();
        admin
            .configure_key(self.mount(), KEY, deletable)
            .await
            .unwrap();
        admin.delete_key(self.mount(), KEY).await.unwrap();
    }

    /// Every version that OpenBao has decrypts from now on.
    pub(super) async fn lower_all(&self) {
        if let Some(facts) = self.key().await {
            self.limit(facts.min_available).await;
        }
    }

    pub(super) fn forget_state(&self) {
        for file in [self.node.state_file(), self.node.checkpoint()] {
            if file.exists() {
                fs::remove_file(file).unwrap();
            }
        }
    }

    /// Serves until the latest version is promoted. A provider that does not start leaves all as it is.
    async fn serve(&self) {
        let mut provider = self.node.spawn();
        if !provider.ready_or_ended().await {
            return;
        }
        let latest = self.key().await.map_or(1, |facts| facts.latest);
        let prefix = format!("vault:v{latest}:");
        let give_up = Instant::now() + PROMOTED_WITHIN;
        while Instant::now() < give_up {
            let encrypted = provider.encrypt(b"seed").await;
            if encrypted.is_ok_and(|it| it.ciphertext.starts_with(prefix.as_bytes())) {
                break;
            }
            sleep(Duration::from_millis(50)).await;
        }
        let _stopped = provider.stop().await;
    }

    async fn write(
        &mut self,
        name: usize,
        resource: usize,
        fresh: bool,
        latest: bool,
        objects: usize,
    ) {
        let facts = self.key().await.unwrap();
        let lowest = facts.min_decryption.max(facts.min_encryption);
        self.active = match latest {
            true => facts.latest,
            false => self.active.clamp(lowest, facts.latest),
        };
        let kept = self
            .deks
            .get(&name)
            .filter(|dek| !fresh && dek.version == self.active);
        let object = match kept {
            Some(dek) => dek.clone(),
            None => {
                self.encrypt(name, self.active, facts.created[&self.active])
                    .await
            }
        };
        self.deks.insert(name, object.clone());
        let keys: Vec<_> = (0..objects).map(|_| self.new_key(resource)).collect();
        let values = keys
            .iter()
            .map(|key| (key.clone(), object.sealer.value(key, OBJECT)));
        bulk::put(self.etcd, values).await;
        let entries = keys
            .into_iter()
            .map(|key| (key, Entry::Object(object.clone())));
        self.stored.extend(entries);
    }

    /// As a plugin that has promoted this version encrypts a new DEK.
    async fn encrypt(&self, name: usize, version: u64, created: u64) -> Object {
        let preview = self.preview(version, created);
        let source = random::<32>();
        let body = json!({
            "plaintext": STANDARD.encode(source),
            "associated_data": STANDARD.encode(&preview.1),
            "key_version": version,
        });
        let path = format!("{}/encrypt/{KEY}", self.mount());
        let answer: Value = self
            .admin()
            .write(&path, &body)
            .await
            .unwrap()
            .json()
            .unwrap();
        let ciphertext = answer["data"]["ciphertext"].as_str().unwrap();
        let sealer = Sealer {
            provider: NAMES[name].to_owned(),
            source,
            source_type: match self.files % 2 {
                0 => SourceType::HkdfSeed,
                _ => SourceType::AesGcmKey,
            },
            encrypted_source: ciphertext.into(),
            key_id: self.derived(version, created).id().to_string(),
            annotations: preview.0,
        };
        Object {
            sealer,
            version,
            aad: preview.1,
            damage: None,
        }
    }

    fn derived(&self, version: u64, created: u64) -> TransitKey {
        TransitKey::new(
            Arc::clone(&self.scope),
            TransitVersion::new(version).unwrap(),
            CreatedAt::new(created).unwrap(),
        )
    }

    /// The annotations and the associated data of a version.
    fn preview(&self, version: u64, created: u64) -> (Vec<(String, Vec<u8>)>, String) {
        let plugin = PluginVersion::new("v0.0.0").unwrap();
        let preview = preview(&self.derived(version, created), &plugin);
        let entries = preview.annotations.entries().into_iter();
        let annotations = entries.map(|(name, value)| (name.to_owned(), value.into_bytes()));
        (annotations.collect(), preview.associated_data)
    }

    async fn rotate(&self) {
        self.admin().rotate_key(self.mount(), KEY).await.unwrap();
    }

    async fn limit(&self, min_decryption: u64) {
        // After a trim OpenBao wants a minimum for encryption too, which is never the lower one.
        let min_encryption = self.key().await.unwrap().min_encryption;
        let follows = min_encryption > 0 && min_encryption < min_decryption;
        let limits = KeyConfig {
            min_decryption_version: Some(min_decryption),
            min_encryption_version: follows.then_some(min_decryption),
            ..KeyConfig::default()
        };
        let admin = self.admin();
        admin
            .configure_key(self.mount(), KEY, limits)
            .await
            .unwrap();
    }

    async fn trim(&self, minimum: u64) {
        let facts = self.key().await.unwrap();
        let minimum = minimum.clamp(facts.min_available, facts.latest);
        let limits = KeyConfig {
            min_decryption_version: Some(minimum.max(facts.min_decryption)),
            min_encryption_version: Some(minimum.max(facts.min_decryption)),
            ..KeyConfig::default()
        };
        let admin = self.admin();
        admin
            .configure_key(self.mount(), KEY, limits)
            .await
            .unwrap();
        admin.trim_key(self.mount(), KEY, minimum).await.unwrap();
    }

    async fn recreate(&mut self, rotations: u64, minimum: u64) {
        self.delete_key().await;
        let admin = self.admin();
        let created = admin
            .create_key(self.mount(), KEY, &NewKey::default())
            .await;
        created.unwrap();
        for _ in 0..rotations {
            self.rotate().await;
        }
        self.limit(minimum.min(rotations + 1)).await;
        self.active = 1;
        self.deks.clear();
    }

    fn retire(&self, before: u64) {
        let before = before.to_string();
        let of = [
            "retire-versions",
            "--before-version",
            &before,
            "--output",
            "json",
        ];
        let plan = self.node.run(&of);
        let Ok(plan) = serde_json::from_str::<Value>(&plan.out) else {
            return;
        };
        if let Some(hash) = plan["stateHash"].as_str() {
            let apply = ["--apply", "--expected-state-hash", hash];
            let _applied: Finished = self.node.run(&[&of[..], &apply].concat());
        }
    }

    fn compact(&mut self) {
        let answer = self.etcd.ctl(&["get", "none", "--write-out=json"]);
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        let revision = answer["header"]["revision"].as_u64().unwrap();
        if revision > self.compacted {
            self.compacted = revision;
            let _done = self.etcd.ctl(&["compact", &revision.to_string()]);
        }
    }

    fn damage(&mut self, damage: Damage, index: usize) {
        match damage {
            Damage::Garbage => self.put_garbage(NAMES[0], Entry::Garbage),
            Damage::ForeignGarbage => self.put_garbage("lab-kms2", Entry::Foreign),
            Damage::Dek | Damage::DekOfAnother | Damage::Annotations | Damage::Moved => {
                self.damage_object(damage, index);
            }
        }
    }

    fn put_garbage(&mut self, name: &str, entry: Entry) {
        let key = self.new_key(0);
        let value = format!("k8s:enc:kms:v2:{name}:qqqqqqqqqqqqqqqqqqqq");
        self.etcd.put(&key, value.as_bytes());
        self.stored.insert(key, entry);
    }

    fn damage_object(&mut self, damage: Damage, index: usize) {
        let sound = |(key, entry): (&String, &Entry)| match entry {
            Entry::Object(object) if object.damage.is_none() => Some((key.clone(), object.clone())),
            _ => None,
        };
        let all: Vec<_> = self.stored.iter().filter_map(sound).collect();
        let Some((key, mut object)) = nth(all.iter(), index).cloned() else {
            return;
        };
        let mut target = key.clone();
        match damage {
            Damage::Dek => {
                let at = object.sealer.encrypted_source.len() - 10;
                let byte = &mut object.sealer.encrypted_source[at];
                *byte = if *byte == b'A' { b'B' } else { b'A' };
            }
            Damage::DekOfAnother => {
                let other = all
                    .iter()
                    .find(|(_, it)| it.sealer.source != object.sealer.source);
                let Some((_, other)) = other else { return };
                let Object { sealer, .. } = other;
                object.sealer.encrypted_source = sealer.encrypted_source.clone();
            }
            Damage::Annotations => {
                object.sealer.annotations = self.preview(object.version + 1, 1).0;
            }
            Damage::Moved => target = self.new_key(1),
            Damage::Garbage | Damage::ForeignGarbage => {}
        }
        self.etcd.put(&target, &object.sealer.value(&key, OBJECT));
        object.damage = Some(damage);
        self.stored.insert(target, Entry::Object(object));
    }

    fn new_key(&mut self, resource: usize) -> String {
        self.files += 1;
        format!("/registry/{}/object-{}", RESOURCES[resource], self.files)
    }

    /// Changes what [`Self::marker`] reads.
    async fn mark(&self) -> String {
        static NUMBER: AtomicU64 = AtomicU64::new(1);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let marker = format!("path \"marker/{number}\" {{ capabilities = [\"read\"] }}");
        self.admin().write_policy(MARKER, &marker).await.unwrap();
        marker
    }

    async fn marker(&self) -> Option<String> {
        let path = format!("sys/policies/acl/{MARKER}");
        let answer: Value = self.admin().read(&path).await.ok()?.json().ok()?;
        Some(answer["data"]["policy"].as_str()?.to_owned())
    }

    fn key_path(&self) -> String {
        format!("{}/keys/{KEY}", self.mount())
    }
}

impl Drop for World<'_> {
    /// A node requires its state to be valid at its end.
    fn drop(&mut self) {
        self.forget_state();
    }
}

/// A policy that nobody has.
const MARKER: &str = "histories";

/// Taken modulo how many there are.
pub(super) fn nth<T>(all: impl ExactSizeIterator<Item = T>, index: usize) -> Option<T> {
    let mut all = all;
    let at = index.checked_rem(all.len())?;
    all.nth(at)
}

pub(super) fn beside(state: &Path) -> PathBuf {
    let mut name = state.as_os_str().to_owned();
    name.push(".checkpoint");
    name.into()
}

pub(super) fn copy_file(from: &Path, to: &Path) {
    files::replace(to, &fs::read(from).unwrap(), 0o640);
}

fn scope(config: &Value) -> IdentityScope {
    let names = &config["transit"]["keyIdScope"];
    let name = |name: &str| names[name].as_str().unwrap().to_owned();
    let instance = config["openbao"]["instanceId"].as_str().unwrap();
    IdentityScope {
        provider_name: ProviderName::parse(&name("providerName")).unwrap(),
        cluster_id: ClusterId::parse(&name("clusterId")).unwrap(),
        openbao_instance_id: OpenBaoInstanceId::parse(instance).unwrap(),
        openbao_namespace: None,
        transit_mount_id: TransitMountId::parse(&name("transitMountId")).unwrap(),
        key_lineage_id: KeyLineageId::parse(&name("keyLineageId")).unwrap(),
    }
}
