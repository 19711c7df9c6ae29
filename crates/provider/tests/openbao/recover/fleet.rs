//! Control-plane nodes of one cluster with an etcd, one of which loses its state.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use kms_node::kms_api::generated::DecryptRequest;
use serde_json::Value;
use tempfile::TempDir;
use testkit::{
    etcd::Etcd,
    files,
    stored::{Sealer, SourceType},
    tenant::Timing,
};

use crate::{
    corpus::{OBJECT, sealer},
    node::{Finished, Node, TIMING},
    provider::Provider,
    secrets::{files_below, spellings},
};

/// Promotes as soon as the rules allow it.
pub(super) const FAST: Timing = Timing {
    probe_interval: Duration::from_millis(100),
    activation_delay: Duration::from_millis(100),
    stable_observations: 1,
    ..TIMING
};

/// Nodes that serve, and one that is lost and does not.
pub(super) struct Fleet {
    pub(super) peers: Vec<Node>,
    pub(super) providers: Vec<Provider>,
    pub(super) lost: Node,
    pub(super) etcd: Etcd,
    pub(super) directory: TempDir,
    /// What the API servers hold, and what each was encrypted from.
    stored: Vec<(DecryptRequest, [u8; 32])>,
}

impl Fleet {
    /// Serves on `peers` nodes and the one to be lost, through all versions up to `versions`, with
    /// an object of each; then that one has stopped.
    pub(super) async fn new(peers: usize, versions: u64) -> Self {
        let lost = Node::new(FAST).await;
        let peers: Vec<Node> = (0..peers).map(|_| lost.peer(FAST)).collect();
        let mut providers = Vec::new();
        for node in &peers {
            providers.push(node.serve().await);
        }
        let last = lost.serve().await;
        let mut fleet = Self {
            peers,
            providers,
            lost,
            etcd: Etcd::start().await,
            directory: TempDir::new().unwrap(),
            stored: Vec::new(),
        };
        for version in 1..=versions {
            if version > 1 {
                fleet.lost.rotate().await;
            }
            last.encrypt_under(version).await;
            for provider in &fleet.providers {
                provider.encrypt_under(version).await;
            }
            fleet.store(&last, &format!("of-{version}")).await;
        }
        let stopped = last.stop().await;
        assert_eq!(stopped.code, Some(0), "{}", stopped.err);
        fleet
    }

    /// Stores a secret under a new seed of this provider's.
    pub(super) async fn store(&mut self, provider: &Provider, name: &str) -> Sealer {
        let sealer = sealer(&self.lost, provider, SourceType::HkdfSeed).await;
        let key = format!("/registry/secrets/default/{name}");
        self.etcd.put(&key, &sealer.value(&key, OBJECT));
        let annotations = sealer.annotations.iter();
        let request = DecryptRequest {
            ciphertext: Bytes::copy_from_slice(&sealer.encrypted_source),
            uid: "test".to_owned(),
            key_id: sealer.key_id.clone(),
            annotations: annotations
                .map(|(name, value)| (name.clone(), Bytes::copy_from_slice(value)))
                .collect(),
        };
        self.stored.push((request, sealer.source));
        sealer
    }

    pub(super) fn forget(&mut self, name: &str, index: usize) {
        let key = format!("/registry/secrets/default/{name}");
        let _answer = self.etcd.ctl(&["del", &key]);
        let _gone = self.stored.remove(index);
    }

    pub(super) fn lose_state(&self) {
        for file in [self.lost.state_file(), self.lost.checkpoint()] {
            if file.exists() {
                fs::remove_file(file).unwrap();
            }
        }
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(super) fn snapshot(&self, name: &str) -> [String; 2] {
        let file = self.file(name);
        self.etcd.save_snapshot(&file);
        option("--etcd-snapshot", &file)
    }

    /// The options that name the running etcd.
    pub(super) fn live(&self) -> Vec<String> {
        let file = |name| self.etcd.file(name).display().to_string();
        let endpoint = self.etcd.endpoint().to_owned();
        [
            ("--endpoints", endpoint),
            ("--cacert", file("ca.crt")),
            ("--cert", file("client.crt")),
            ("--key", file("client.key")),
        ]
        .map(|(option, value)| [option.to_owned(), value])
        .concat()
    }

    /// A copy of the first peer's pair.
    pub(super) fn peer_state(&self, name: &str) -> [String; 2] {
        copy_of(&self.peers[0], &self.file(name))
    }

    pub(super) fn record(&self, name: &str) -> [String; 2] {
        record_of(&self.peers[0], &self.file(name))
    }

    pub(super) fn recover(&self, options: &[&str]) -> Finished {
        self.lost.run(&[&["recover-state"], options].concat())
    }

    /// A plan, which must be one and change nothing.
    #[track_caller]
    pub(super) fn plan(&self, evidence: &[String]) -> Value {
        let before = contents(&self.lost.state_dir());
        let evidence: Vec<&str> = evidence.iter().map(String::as_str).collect();
        let text = self.recover(&evidence);
        let json = self.recover(&[&evidence[..], &["--output", "json"]].concat());
        assert_eq!(contents(&self.lost.state_dir()), before, "a plan wrote");
        assert_eq!(text.code, Some(0), "{}{}", text.out, text.err);
        assert!(
            text.out.starts_with("recover-state: planned\n"),
            "{}",
            text.out
        );
        let json = json.json();
        assert_eq!(json["schemaVersion"], "v1");
        assert_eq!(json["command"], "recover-state");
        assert_eq!(json["verdict"], "planned");
        let apply = format!(
            "--apply --expected-plan-hash {}",
            json["planHash"].as_str().unwrap()
        );
        assert!(text.out.contains(&apply), "{}", text.out);
        json
    }

    /// Applies a plan, which must succeed.
    #[track_caller]
    pub(super) fn apply(&self, evidence: &[String], plan: &Value) -> Value {
        let evidence: Vec<&str> = evidence.iter().map(String::as_str).collect();
        let hash = plan["planHash"].as_str().unwrap();
        let apply = ["--apply", "--expected-plan-hash", hash, "--output", "json"];
        let report = self.recover(&[&evidence[..], &apply].concat()).json();
        assert_eq!(report["verdict"], "applied", "{report:#}");
        assert_eq!(report["state"]["hash"], plan["state"]["hash"]);
        let inspected = self.lost.inspect();
        assert_eq!(inspected["stateHash"], plan["state"]["hash"]);
        assert_eq!(inspected["stateCheckpointStatus"], "current");
        report
    }

    /// What stands against a recovery from this evidence, by code and evidence, and all that was said
    /// to a person.
    #[track_caller]
    pub(super) fn refused(&self, evidence: &[String]) -> (Vec<(String, String)>, String) {
        let evidence: Vec<&str> = evidence.iter().map(String::as_str).collect();
        self.refused_by(&evidence)
    }

    #[track_caller]
    pub(super) fn refused_by(&self, options: &[&str]) -> (Vec<(String, String)>, String) {
        let before = contents(&self.lost.state_dir());
        let text = self.recover(options);
        let json = self.recover(&[options, &["--output", "json"]].concat());
        assert_eq!(contents(&self.lost.state_dir()), before, "a refusal wrote");
        assert_eq!(text.code, json.code);
        assert_eq!(text.code, Some(4), "{}{}", text.out, text.err);
        assert!(
            text.out.starts_with("recover-state: refused\n"),
            "{}",
            text.out
        );
        let json: Value = serde_json::from_str(&json.out).unwrap();
        testkit::schema::assert_published(&json);
        let refusals = json["refusals"].as_array().unwrap().iter();
        let told = refusals.map(|refusal| {
            for part in ["cause", "message", "impact"] {
                assert_ne!(refusal[part], "", "{refusal:#}");
            }
            for part in ["nextSteps", "warnings"] {
                assert_ne!(refusal[part], serde_json::json!([]), "{refusal:#}");
            }
            let code = refusal["code"].as_str().unwrap().to_owned();
            let evidence = refusal["evidence"].as_array().unwrap().iter();
            let evidence: Vec<_> = evidence
                .map(|name| {
                    let name = Path::new(name.as_str().unwrap());
                    name.file_name().unwrap().to_string_lossy().into_owned()
                })
                .collect();
            (code, evidence.join(" "))
        });
        (told.collect(), text.out)
    }

    /// The lost node serves as its peers do, and reads all that is stored.
    pub(super) async fn assert_recovered(&self) {
        let provider = self.lost.serve().await;
        let key_id = provider.status().await.key_id;
        for peer in &self.providers {
            assert_eq!(peer.status().await.key_id, key_id);
        }
        for (request, source) in &self.stored {
            let opened = provider.decrypt(request.clone()).await.unwrap();
            assert_eq!(opened, &source[..]);
        }
        let encrypted = provider.encrypt(b"seed").await.unwrap();
        assert_eq!(encrypted.key_id, key_id);
        let stopped = provider.stop().await;
        assert_eq!(stopped.code, Some(0), "{}", stopped.err);
    }

    /// No seed and no object is in what was written.
    pub(super) fn assert_no_secret(&self, outputs: &[String]) {
        let mut written = outputs.to_vec();
        files_below(&self.lost.state_dir(), &mut written);
        let sources = self.stored.iter().map(|(_, source)| &source[..]);
        for secret in sources.chain([OBJECT]) {
            for spelling in spellings(secret) {
                let found = written.iter().find(|text| text.contains(&spelling));
                assert_eq!(found, None, "a secret is in the output or in a file");
            }
        }
    }
}

pub(super) fn option(name: &str, file: &Path) -> [String; 2] {
    [name.to_owned(), file.display().to_string()]
}

pub(super) fn copy_of(node: &Node, to: &Path) -> [String; 2] {
    files::replace(to, &fs::read(node.state_file()).unwrap(), 0o640);
    let mut beside = to.as_os_str().to_owned();
    beside.push(".checkpoint");
    let checkpoint = fs::read(node.checkpoint()).unwrap();
    files::replace(Path::new(&beside), &checkpoint, 0o640);
    option("--peer-state", to)
}

pub(super) fn record_of(node: &Node, to: &Path) -> [String; 2] {
    let done = node.run(&["record-backup", "--out", to.to_str().unwrap()]);
    assert_eq!(done.code, Some(0), "{}{}", done.out, done.err);
    option("--record", to)
}

/// Every file of the state directory, but the lock, which a failed application creates.
pub(super) fn contents(directory: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(directory).unwrap().map(Result::unwrap);
    let mut contents: Vec<_> = entries
        .map(|entry| {
            let name = entry.file_name().into_string().unwrap();
            (name, fs::read(entry.path()).unwrap())
        })
        .filter(|(name, _)| !name.ends_with(".lock"))
        .collect();
    contents.sort();
    contents
}
