//! A control plane of one node whose objects the provider protects, and the count of the calls
//! that kube-apiserver made.

use serde_json::Value;
use testkit::control_plane::{ControlPlane, Kind, kms};

use crate::{
    node::{Node, TIMING},
    provider::Provider,
};

/// The provider's name, the same in its configuration and in that of the API server.
pub(crate) const NAME: &str = "kms-test";

/// A node with an API server that does not run yet.
pub(crate) struct Cluster {
    pub(crate) node: Node,
    pub(crate) control_plane: ControlPlane,
}

/// How often kube-apiserver called, as the provider counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Calls {
    pub(crate) status: u64,
    pub(crate) encrypt: u64,
    pub(crate) decrypt: u64,
}

impl Cluster {
    pub(crate) async fn new() -> Self {
        Self::of(Node::new(TIMING).await).await
    }

    pub(crate) async fn of(node: Node) -> Self {
        Self {
            node,
            control_plane: ControlPlane::new().await,
        }
    }

    /// This node's provider, for an `EncryptionConfiguration`.
    pub(crate) fn kms(&self) -> Value {
        kms(NAME, &self.node.sockets.socket())
    }

    /// The key_id of a version of the key, without asking the provider.
    pub(crate) async fn key_id_of(&self, version: u64) -> String {
        let derived = self.node.key_id_of(version).await;
        derived["keyId"].as_str().unwrap().to_owned()
    }

    /// Starts the provider, and an API server that writes through it.
    pub(crate) async fn encrypting() -> (Self, Provider) {
        Self::encrypting_on(Node::new(TIMING).await).await
    }

    pub(crate) async fn encrypting_on(node: Node) -> (Self, Provider) {
        let mut cluster = Self::of(node).await;
        let provider = cluster.node.serve().await;
        cluster.control_plane.encrypt_with(&[cluster.kms()]);
        cluster.control_plane.start(&[]).await;
        cluster.control_plane.define_custom_resource().await;
        (cluster, provider)
    }

    /// Writes one object of each kind.
    pub(crate) async fn write_each(&self, name: &str, text: &str) {
        for kind in Kind::ALL {
            self.control_plane.write(kind, name, text).await.unwrap();
        }
    }

    /// Asserts that one object of each kind holds this text.
    pub(crate) async fn assert_each(&self, name: &str, text: &str) {
        for kind in Kind::ALL {
            let read = self.control_plane.read(kind, name).await.unwrap();
            assert_eq!(read.as_deref(), Some(text), "{kind:?} {name}");
        }
    }

    /// Asserts that etcd holds the object as written through our provider under this key_id.
    pub(crate) fn assert_stored_under(&self, kind: Kind, name: &str, key_id: &str) {
        let stored = self.control_plane.stored(kind, name);
        let prefix = format!("k8s:enc:kms:v2:{NAME}:");
        assert!(stored.starts_with(prefix.as_bytes()), "{kind:?} {name}");
        for part in [key_id, "vault:v"] {
            assert!(contains(&stored, part.as_bytes()), "{part} in {kind:?}");
        }
    }

    /// Asserts that etcd holds one object of each kind as anybody can read it.
    pub(crate) fn assert_plaintext(&self, name: &str, text: &str) {
        for kind in Kind::ALL {
            let stored = self.control_plane.stored(kind, name);
            assert!(!stored.starts_with(b"k8s:enc:"), "{kind:?} {name}");
            assert!(contains(&stored, text.as_bytes()), "{kind:?} {name}");
        }
    }

    /// Restarts the API server with these providers.
    pub(crate) async fn restart_with(&mut self, providers: &[Value]) {
        self.control_plane.encrypt_with(providers);
        self.control_plane.stop().await;
        self.control_plane.start(&[]).await;
    }

    /// Prints the calls, for the table in `docs/kubernetes.md`.
    pub(crate) async fn print_calls(&self, test: &str, provider: &Provider) -> Calls {
        let calls = calls(provider).await;
        println!("{test}: {calls:?}");
        calls
    }
}

/// The calls so far.
pub(crate) async fn calls(provider: &Provider) -> Calls {
    let metrics = provider.metrics().await;
    let count = |method: &str| {
        let series = format!("openbao_kms_grpc_requests_total{{method=\"{method}\"");
        let of_method = metrics.lines().filter(|line| line.starts_with(&series));
        of_method
            .map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
            .sum()
    };
    Calls {
        status: count("status"),
        encrypt: count("encrypt"),
        decrypt: count("decrypt"),
    }
}

pub(crate) fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}
