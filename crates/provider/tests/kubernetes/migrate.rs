//! The pages about a change of providers: every object stays readable, and at the end only objects of
//! this provider are in etcd.

use std::{convert::Infallible, fs, future::pending, path::Path};

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
use testkit::{
    control_plane::{Kind, identity, kms},
    files,
    openbao::shared_openbao,
    runbook::{Walk, page::Page},
};
use tonic::{Request, Response, Status, async_trait};

use crate::{
    cluster::calls,
    machine::CONFIG,
    old_plugin::OldPlugin,
    rewrite::{local, of_cause},
    runbook::ControlPlaneNode,
};

const NAME: &str = "vault-kubernetes-kms";

#[tokio::test]
async fn the_page_about_local_keys_and_plaintext_runs() {
    let mut site = ControlPlaneNode::of(shared_openbao().await).await;
    let (aescbc, secretbox) = (local("aescbc"), local("secretbox"));
    site.start().await;
    site.control_plane.define_custom_resource().await;
    site.keep("of-identity").await;
    for (name, providers) in [
        ("of-secretbox", &[secretbox.clone(), identity()][..]),
        ("of-aescbc", &[aescbc, secretbox, identity()]),
    ] {
        site.control_plane.encrypt_with(providers);
        site.stop().await;
        site.start().await;
        site.keep(name).await;
    }

    let page = "migrate/aescbc-secretbox-identity";
    write_files(&site, page);
    Walk::of(page).to_end(&mut site).await;
    assert_only_ours(&site).await;
    let calls = calls(site.node.serving()).await;
    assert_eq!(
        calls.encrypt, 3,
        "one seed for each start with the provider"
    );
}

#[tokio::test]
async fn the_page_about_vault_kubernetes_kms_runs() {
    let mut site = ControlPlaneNode::of(shared_openbao().await).await;
    let plugin = OldPlugin::of(&site.tenant.transit_mount);
    let socket = site.node.path("/run/openbao-kms/plugin.sock");
    site.node
        .shell
        .name("/opt/kms/vaultkms.socket", socket.display());
    let serving = tokio::spawn({
        let (config, socket) = (config(&site), socket.clone());
        async move { serve(plugin, &socket, &config).await }
    });
    site.control_plane.encrypt_with(&[kms(NAME, &socket)]);
    site.start().await;
    site.control_plane.define_custom_resource().await;
    site.keep("of-the-plugin").await;
    for kind in Kind::ALL {
        let stored = site.control_plane.stored(kind, "of-the-plugin");
        let prefix = format!("k8s:enc:kms:v2:{NAME}:");
        assert!(stored.starts_with(prefix.as_bytes()), "{kind:?}");
    }

    let page = "migrate/vault-kubernetes-kms";
    write_files(&site, page);
    let mut walk = Walk::of(page);
    walk.to_incident(&mut site, "the plugin is stopped").await;
    serving.abort();
    // The page rewrites the same objects, after the printed commands.
    let name = "of-the-plugin";
    let stored = Kind::ALL.map(|kind| site.control_plane.stored(kind, name));
    follow(&site, "legacy_left").await;
    for (kind, stored) in Kind::ALL.into_iter().zip(&stored) {
        assert_ne!(site.control_plane.stored(kind, name), *stored, "{kind:?}");
        site.control_plane.etcd().put(&kind.etcd_key(name), stored);
    }
    walk.to_end(&mut site).await;
    assert_only_ours(&site).await;
    let decrypts = r#"legacy_decrypts_total{status="ok"}"#;
    assert!(site.node.serving().metric(decrypts).await >= 1.0);
}

/// Requires the cause in the result of `scan-etcd`, and runs its commands as printed.
async fn follow(site: &ControlPlaneNode, code: &str) {
    let report = scan(site).await;
    let cause = of_cause(&report, code).unwrap_or_else(|| panic!("{report:#}"));
    let steps = cause["nextSteps"].as_array().unwrap().iter();
    for command in steps.filter_map(|step| step["command"].as_str()) {
        let done = site.node.shell.run(command, None).await;
        assert_eq!(done.code, Some(0), "{command}: {}", done.output);
    }
}

async fn scan(site: &ControlPlaneNode) -> Value {
    let scan = "bao-kms-provider scan-etcd --endpoints https://127.0.0.1:2379 \
        --config /etc/openbao-kms/config.yaml --output json";
    let scan = site.node.shell.run(scan, None).await;
    serde_json::from_str(&scan.output).unwrap()
}

/// Writes each `EncryptionConfiguration` of the page, with keys, into the home of root.
fn write_files(site: &ControlPlaneNode, page: &str) {
    let page = Page::read(page);
    let blocks = page.text().split("```\n# encryption-config-").skip(1);
    let mut files = 0;
    for block in blocks {
        let (name, rest) = block.split_once('\n').unwrap();
        let (providers, _) = rest.split_once("```").unwrap();
        let secret = format!("secret: {}", STANDARD.encode([7; 32]));
        let providers = providers.replace("secret: ...", &secret);
        let resources = Kind::ALL.map(Kind::resource_name).join(", ");
        let text = format!(
            "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [{resources}]\n  {}\n",
            providers.trim_end().replace('\n', "\n  ")
        );
        let path = site.node.path(&format!("/root/encryption-config-{name}"));
        files::replace(&path, site.node.shell.as_here(&text).as_bytes(), 0o600);
        files += 1;
    }
    assert_eq!(files, 3);
}

/// Asserts that etcd holds the encrypted resources under this provider alone.
async fn assert_only_ours(site: &ControlPlaneNode) {
    let report = scan(site).await;
    let rows = report["resources"].as_array().unwrap().iter();
    let names = Kind::ALL.map(Kind::resource_name);
    let encrypted = rows.filter(|row| names.iter().any(|name| row["resource"] == *name));
    let encrypted: Vec<_> = encrypted.collect();
    assert_eq!(encrypted.len(), names.len(), "{report:#}");
    for row in encrypted {
        let found = [&row["protection"], &row["provider"]];
        assert_eq!(found, [&json!("kms-v2"), &json!("openbao-kms")], "{row}");
    }
}

/// The configuration of the node.
fn config(site: &ControlPlaneNode) -> Config {
    let sockets = site.node.path("/run/openbao-kms");
    let runtime = sockets.parent().unwrap().display().to_string();
    let environment = Environment {
        variables: [("XDG_RUNTIME_DIR".to_owned(), runtime)].into(),
        effective_uid: rustix::process::geteuid().as_raw(),
    };
    let text = fs::read_to_string(site.node.path(CONFIG)).unwrap();
    let loaded = parse(&text, "config".into(), &Flags::default(), &environment);
    loaded.unwrap().config
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
