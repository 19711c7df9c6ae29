//! The way from vault-kubernetes-kms: its objects stay readable, and at the end none is left.

use std::{convert::Infallible, future::pending, path::Path};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use kms_daemon::{
    kms::{
        clients::Clients,
        fault::Fault,
        server::{Server, Service},
        socket::{Socket, SocketSettings},
    },
    telemetry::metrics::Metrics,
};
use kms_node::{
    build_info::BuildInfo,
    config::{Config, Environment, Flags, parse},
    kms_api::{
        Method,
        generated::{
            DecryptRequest, DecryptResponse, EncryptRequest, EncryptResponse, StatusRequest,
            StatusResponse, key_management_service_server::KeyManagementService,
        },
    },
};
use serde_json::{Value, json};
use testkit::control_plane::{Kind, kms};
use tonic::{Request, Response, Status, async_trait};

use crate::{cluster::Cluster, old_plugin::OldPlugin, rewrite::Operator};

const NAME: &str = "vault-kubernetes-kms";

/// The rows of `scan-etcd` that count objects of the plugin, and its check.
fn left(cluster: &Cluster) -> (u64, Value) {
    let etcd = cluster.control_plane.etcd();
    let file = |name: &str| etcd.file(name).display().to_string();
    let scan = cluster.node.run(&[
        "scan-etcd",
        "--endpoints",
        etcd.endpoint(),
        "--cacert",
        &file("ca.crt"),
        "--cert",
        &file("client.crt"),
        "--key",
        &file("client.key"),
        "--output",
        "json",
    ]);
    let report: Value = serde_json::from_str(&scan.out).unwrap();
    let rows = report["resources"].as_array().unwrap().iter();
    let objects = rows
        .filter(|row| row["protection"] == "legacy")
        .map(|row| row["objects"].as_u64().unwrap())
        .sum();
    let mut checks = report["checks"].as_array().unwrap().iter();
    let check = checks.find(|check| check["id"] == "etcd.legacy").unwrap();
    (objects, check["status"].clone())
}

#[tokio::test]
async fn a_cluster_of_vault_kubernetes_kms_moves_object_by_object() {
    let mut cluster = Cluster::new().await;
    let directory = cluster.node.sockets.path().to_owned();
    let plugin = OldPlugin::of(&cluster.node.tenant.transit_mount);
    let text = cluster.node.config.to_string();
    let environment = Environment {
        variables: [(
            "XDG_RUNTIME_DIR".to_owned(),
            directory.parent().unwrap().display().to_string(),
        )]
        .into(),
        effective_uid: rustix::process::geteuid().as_raw(),
    };
    let loaded = parse(&text, "config".into(), &Flags::default(), &environment).unwrap();
    let plugin_socket = directory.join("plugin.sock");
    let serving = tokio::spawn({
        let socket = plugin_socket.clone();
        async move { serve(plugin, &socket, &loaded.config).await }
    });

    // The cluster as it was: vault-kubernetes-kms alone.
    cluster
        .control_plane
        .encrypt_with(&[kms(NAME, &plugin_socket)]);
    cluster.control_plane.start(&[]).await;
    cluster.control_plane.define_custom_resource().await;
    cluster.write_each("old", "of the plugin").await;
    for kind in Kind::ALL {
        let stored = cluster.control_plane.stored(kind, "old");
        assert!(
            stored.starts_with(format!("k8s:enc:kms:v2:{NAME}:").as_bytes()),
            "{kind:?}"
        );
    }

    // Readers: this provider is listed, the plugin still encrypts.
    cluster.node.config["legacy"] = json!({"vaultKubernetesKms": {"providerName": NAME}});
    let provider = cluster.node.serve().await;
    let readers = [kms(NAME, &plugin_socket), cluster.kms()];
    cluster.restart_with(&readers).await;
    cluster.assert_each("old", "of the plugin").await;

    // Writers: this provider encrypts, its reader takes the place of the plugin, which ends.
    serving.abort();
    let reader = directory.join("vault-kubernetes-kms.sock");
    let writers = [cluster.kms(), kms(NAME, &reader)];
    cluster.restart_with(&writers).await;
    cluster.assert_each("old", "of the plugin").await;
    cluster.write_each("new", "of this provider").await;
    let key_id = cluster.key_id_of(1).await;
    for kind in Kind::ALL {
        cluster.assert_stored_under(kind, "new", &key_id);
    }
    let (objects, status) = left(&cluster);
    assert!(objects >= 3, "{objects}");
    assert_eq!(status, "warn");

    let operator = Operator::of(&cluster);
    let live = operator.proof();
    let live: Vec<&str> = live.iter().map(String::as_str).collect();
    operator.fixes(&[&["scan-etcd"][..], &live].concat(), "legacy_left");
    for kind in Kind::ALL {
        cluster.assert_stored_under(kind, "old", &key_id);
    }
    assert_eq!(left(&cluster), (0, json!("pass")));
    let decrypts = r#"legacy_decrypts_total{status="ok"}"#;
    assert!(provider.metric(decrypts).await >= 1.0);

    // The reader has served its time.
    let own = cluster.kms();
    cluster.restart_with(&[own]).await;
    cluster.assert_each("old", "of the plugin").await;
    cluster.assert_each("new", "of this provider").await;
}

/// Serves the plugin at a socket until it is dropped.
async fn serve(plugin: OldPlugin, socket: &Path, config: &Config) -> Infallible {
    let settings = SocketSettings {
        path: socket.to_owned(),
        mode: config.server.socket_mode.bits(),
        gid: config.server.socket_group.gid().unwrap(),
    };
    let limits = config.server.limits;
    let metrics = Metrics::new(&BuildInfo::CURRENT, config);
    let server = Server {
        kms: plugin,
        clients: Clients::new(16, limits),
        limits,
        metrics: &metrics,
    };
    server
        .run(Socket::bind(&settings).await.unwrap(), pending())
        .await;
    unreachable!("nothing stops it")
}

impl Service for OldPlugin {
    const LISTENER: &str = "plugin";

    fn refuse(&self, method: Method, fault: Fault) -> Status {
        fault.status(method)
    }
}

#[async_trait]
impl KeyManagementService for OldPlugin {
    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        Ok(Response::new(StatusResponse {
            version: "v2".to_owned(),
            healthz: "ok".to_owned(),
            key_id: self.key_id().await,
        }))
    }

    async fn encrypt(
        &self,
        request: Request<EncryptRequest>,
    ) -> Result<Response<EncryptResponse>, Status> {
        let stored = Self::encrypt(self, &request.get_ref().plaintext).await;
        Ok(Response::new(EncryptResponse {
            ciphertext: stored.ciphertext,
            key_id: stored.key_id,
            annotations: stored.annotations,
        }))
    }

    async fn decrypt(
        &self,
        request: Request<DecryptRequest>,
    ) -> Result<Response<DecryptResponse>, Status> {
        let text = str::from_utf8(&request.get_ref().ciphertext).unwrap();
        let decrypted = self.transit("decrypt", &json!({"ciphertext": text})).await;
        let plaintext = decrypted["plaintext"].as_str().unwrap();
        Ok(Response::new(DecryptResponse {
            plaintext: STANDARD.decode(plaintext).unwrap().into(),
        }))
    }
}
