//! A real etcd with what a cluster's API server would have left in it, encrypted by a real provider.

use std::path::PathBuf;

use kms_node::kms_api::generated::EncryptResponse;
use tempfile::TempDir;
use testkit::{
    etcd::Etcd,
    stored::{Sealer, SourceType, random},
};

use crate::{node::Node, provider::Provider};

/// Every form of protection, two versions of the key, three seeds and one plain key, keys that were
/// updated and deleted.
pub(crate) struct Corpus {
    pub(crate) etcd: Etcd,
    pub(crate) directory: TempDir,
}

pub(crate) const OBJECT: &[u8] = b"k8s\0 the plaintext of an object";

impl Corpus {
    /// Fills an empty etcd; rotates the key once.
    pub(crate) async fn of(node: &Node, provider: &Provider) -> Self {
        let corpus = Self {
            etcd: Etcd::start().await,
            directory: TempDir::new().unwrap(),
        };
        let first = sealer(node, provider, SourceType::HkdfSeed).await;
        let restarted = sealer(node, provider, SourceType::HkdfSeed).await;
        let old = sealer(node, provider, SourceType::AesGcmKey).await;
        corpus.put(&first, "secrets/default/one");
        corpus.put(&first, "secrets/default/updated");
        corpus.put(&first, "secrets/default/deleted");
        corpus.put(&restarted, "secrets/default/two");
        corpus.put(&old, "configmaps/kube-system/old");
        node.rotate().await;
        provider.encrypt_under(2).await;
        let second = sealer(node, provider, SourceType::HkdfSeed).await;
        corpus.put(&second, "secrets/default/updated");
        corpus.put(&second, "example.org/widgets/default/one");
        let etcd = &corpus.etcd;
        let _answer = etcd.ctl(&["del", "/registry/secrets/default/deleted"]);

        let other = Sealer {
            provider: "another".to_owned(),
            ..second
        };
        corpus.put(&other, "secrets/default/other");
        for (key, value) in [
            ("secrets/default/plain", OBJECT),
            ("pods/default/plain", OBJECT),
            (
                "example.org/widgets/default/plain",
                b"{\"kind\":\"Widget\"}",
            ),
            ("secrets/default/cbc", b"k8s:enc:aescbc:v1:key1:xxxx"),
            ("secrets/default/v1", b"k8s:enc:kms:v1:older:xxxx"),
            ("secrets/default/unknown", b"k8s:enc:new:v1:key:xxxx"),
            ("masterleases/192.0.2.1", b"lease"),
        ] {
            etcd.put(&format!("/registry/{key}"), value);
        }
        corpus
    }

    pub(crate) fn put(&self, sealer: &Sealer, name: &str) {
        let key = format!("/registry/{name}");
        self.etcd.put(&key, &sealer.value(&key, OBJECT));
    }

    /// A snapshot by `etcdctl snapshot save`.
    pub(crate) fn snapshot(&self, name: &str) -> PathBuf {
        let file = self.directory.path().join(name);
        self.etcd.save_snapshot(&file);
        file
    }

    /// The options that name the running etcd.
    pub(crate) fn live(&self) -> [String; 8] {
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
        .try_into()
        .unwrap()
    }
}

/// As an API server that has just started: a new source, encrypted by the provider.
pub(crate) async fn sealer(node: &Node, provider: &Provider, source_type: SourceType) -> Sealer {
    let source = random();
    let EncryptResponse {
        ciphertext,
        key_id,
        annotations,
    } = provider.encrypt(&source).await.unwrap();
    let name = node.config["transit"]["keyIdScope"]["providerName"].as_str();
    let mut annotations: Vec<_> = annotations
        .into_iter()
        .map(|(name, value)| (name, value.to_vec()))
        .collect();
    annotations.sort();
    Sealer {
        provider: name.unwrap().to_owned(),
        source,
        source_type,
        encrypted_source: ciphertext.to_vec(),
        key_id,
        annotations,
    }
}
