//! Pages that need a kube-apiserver, on one control-plane node; `migrate.rs` has further ones.

use std::{fs, path::Path};

use tempfile::TempDir;
use testkit::{
    control_plane::{ControlPlane, Kind, WITHIN, kms, kubectl},
    files,
    openbao::OpenBao,
    runbook::{Done, Shell, Site, Walk},
    tenant::Tenant,
    wait::wait_until,
};

use crate::{machine::Machine, node::TIMING};

const MANIFEST: &str = "/etc/kubernetes/manifests/kube-apiserver.yaml";

/// One control-plane node, and the machine of its OpenBao.
pub(crate) struct ControlPlaneNode {
    pub(crate) control_plane: ControlPlane,
    pub(crate) node: Machine,
    pub(crate) tenant: Tenant,
    running: bool,
    operator: Machine,
    /// An OpenBao of its own.
    openbao: Option<OpenBao>,
    /// Objects of each kind that stay readable.
    kept: Vec<&'static str>,
    _backup: TempDir,
}

/// Gives the files of an API server their names on the pages.
pub(crate) fn name_files(shell: &mut Shell, server: &ControlPlane) {
    for (page, here) in [
        ("/etc/kubernetes/pki/ca.crt", "ca.crt"),
        (
            "/etc/kubernetes/pki/apiserver-kubelet-client.crt",
            "admin.crt",
        ),
        (
            "/etc/kubernetes/pki/apiserver-kubelet-client.key",
            "admin.key",
        ),
        ("/etc/kubernetes/encryption-config.yaml", "encryption.yaml"),
        (
            "/var/log/containers/kube-apiserver-*.log",
            "kube-apiserver.log",
        ),
    ] {
        shell.name(page, server.file(here).display());
    }
}

impl ControlPlaneNode {
    /// The provider serves, and the API server does not run yet.
    pub(crate) async fn of(openbao: &OpenBao) -> Self {
        let backup = tempfile::tempdir().unwrap();
        let tenant = Tenant::new(openbao).await;
        let control_plane = ControlPlane::new().await;
        let mut operator = Machine::new(backup.path());
        operator.reach_openbao(openbao, &tenant);
        let token = openbao.secrets().root_token.expose();
        operator.shell.set("BAO_TOKEN", token);
        let mut node = Machine::new(backup.path());
        node.reach_openbao(openbao, &tenant);
        node.reach_etcd(control_plane.etcd());
        name_files(&mut node.shell, &control_plane);
        for address in ["https://10.0.0.11:6443", "https://127.0.0.1:6443"] {
            node.shell.name(address, control_plane.endpoint());
        }
        files::replace(&node.path(MANIFEST), b"kind: Pod\n", 0o600);
        let admin = node.path("/etc/kubernetes/admin.conf");
        let kubeconfig = control_plane.kubeconfig();
        files::replace(&admin, kubeconfig.as_bytes(), 0o600);
        node.set("KUBECONFIG", admin);
        node.install(&tenant, TIMING);
        let started = node.systemctl("start").await;
        assert_eq!(started.code, Some(0), "{}", node.journal());
        Self {
            control_plane,
            node,
            tenant,
            running: false,
            operator,
            openbao: None,
            kept: Vec::new(),
            _backup: backup,
        }
    }

    /// With an OpenBao of its own, and an API server that encrypts.
    async fn serving() -> Self {
        let openbao = OpenBao::start().await;
        let mut this = Self::of(&openbao).await;
        this.openbao = Some(openbao);
        let socket = this.node.path("/run/openbao-kms/kms.sock");
        let mut kms = kms("openbao-kms", &socket);
        kms["kms"]["timeout"] = "15s".into();
        this.control_plane.encrypt_with(&[kms]);
        this.start().await;
        this
    }

    pub(crate) async fn start(&mut self) {
        self.control_plane.start(&[]).await;
        self.running = true;
    }

    pub(crate) async fn stop(&mut self) {
        self.control_plane.stop().await;
        self.running = false;
    }

    /// Writes an object of each kind, which every command of a page must leave readable.
    pub(crate) async fn keep(&mut self, name: &'static str) {
        for kind in Kind::ALL {
            self.control_plane.write(kind, name, name).await.unwrap();
        }
        self.kept.push(name);
    }
}

impl Site for ControlPlaneNode {
    fn shell(&self, machine: &str) -> &Shell {
        match machine {
            "openbao" => &self.operator.shell,
            _ => &self.node.shell,
        }
    }

    async fn instead(&mut self, _machine: &str, words: &[String]) -> Option<Done> {
        match words {
            [systemctl, verb, unit] if systemctl == "systemctl" && unit == "bao-kms-provider" => {
                Some(self.node.systemctl(verb).await)
            }
            _ => None,
        }
    }

    fn configure(&mut self, sections: &str) {
        self.node.replace_sections(sections);
    }

    fn typed(&mut self, command: &str) -> Option<String> {
        let secrets = self.openbao.as_ref()?.secrets();
        let asks = command.starts_with("bao operator unseal");
        asks.then(|| secrets.unseal_key.expose().to_owned())
    }

    /// A kubelet runs what has a manifest; a person waits until OpenBao is active, and for the API
    /// server, which then reads every object.
    async fn settle(&mut self, _machine: &str, command: &str) {
        if let Some(openbao) = &mut self.openbao
            && command.starts_with("bao operator unseal")
        {
            openbao.unseal().await;
        }
        match (self.running, self.node.path(MANIFEST).exists()) {
            (true, false) => self.stop().await,
            (false, true) => self.start().await,
            _ => {}
        }
        for name in self.kept.iter().filter(|_| self.running) {
            for kind in Kind::ALL {
                let read = self.control_plane.read(kind, name).await.unwrap();
                assert_eq!(read.as_deref(), Some(*name), "{kind:?} after {command}");
            }
        }
    }
}

/// Runs the real kubectl.
fn add_kubectl(site: &ControlPlaneNode) {
    let script = format!("#!/bin/sh\nexec {} \"$@\"\n", kubectl().display());
    site.node.add_program("kubectl", &script);
}

#[tokio::test]
async fn the_page_about_the_rewrite_runs() {
    let mut site = ControlPlaneNode::serving().await;
    site.control_plane.define_custom_resource().await;
    let written = site.control_plane.write(Kind::Secret, "kept", "through it");
    written.await.unwrap();
    add_kubectl(&site);
    let admin = site.control_plane.kubeconfig();
    let limited = admin.replace("\"client-key\"", "\"as\":\"rewriter\",\"client-key\"");
    let path = site.node.path("/etc/kubernetes/rewriter.conf");
    files::replace(&path, limited.as_bytes(), 0o600);
    let etcd = site.control_plane.etcd().endpoint().to_owned();
    site.node.shell.name("127.0.0.1:2379", etcd);
    // A path of the API.
    site.node.shell.name("/metrics", "/metrics");
    Walk::of("operate/rewrite").to_end(&mut site).await;
}

#[tokio::test]
async fn an_api_server_that_cannot_start_is_mended_from_openbao_upwards() {
    let mut site = ControlPlaneNode::serving().await;
    let written = site.control_plane.write(Kind::Secret, "kept", "through it");
    written.await.unwrap();

    let mut walk = Walk::of("operate/disaster-recovery/api-server-cannot-start");
    let incident = "OpenBao is sealed, the provider is stopped, and the API server starts";
    walk.to_incident(&mut site, incident).await;
    site.control_plane.stop().await;
    site.node.systemctl("stop").await;
    site.openbao.as_mut().unwrap().seal().await;
    site.control_plane.spawn(&[]);
    wait_until(WITHIN, "word of the failure", async || {
        let answer = site.control_plane.get("/readyz?verbose").await;
        answer.is_some_and(|(_, said)| said.contains("[-]kms-providers failed"))
    })
    .await;
    walk.to_end(&mut site).await;
    let read = site.control_plane.read(Kind::Secret, "kept").await.unwrap();
    assert_eq!(read.as_deref(), Some("through it"));
}

#[tokio::test]
async fn one_object_comes_back_from_a_snapshot() {
    let mut site = ControlPlaneNode::serving().await;
    add_kubectl(&site);
    for kind in [Kind::Secret, Kind::ConfigMap] {
        let written = site.control_plane.write(kind, "shop", "as it was");
        written.await.unwrap();
    }
    let mut walk = Walk::of("operate/disaster-recovery/one-object");
    let incident = "a Secret is deleted, and a ConfigMap is overwritten";
    walk.to_incident(&mut site, incident).await;
    let secret = "/api/v1/namespaces/default/secrets/shop";
    let (status, _) = site
        .control_plane
        .send("DELETE", secret, &serde_json::json!({}))
        .await;
    assert!(status.is_success());
    let written = site.control_plane.write(Kind::ConfigMap, "shop", "worse");
    written.await.unwrap();
    walk.to_end(&mut site).await;
    for kind in [Kind::Secret, Kind::ConfigMap] {
        let read = site.control_plane.read(kind, "shop").await.unwrap();
        assert_eq!(read.as_deref(), Some("as it was"), "{kind:?}");
    }
}

#[tokio::test]
async fn objects_come_back_without_anything_in_service() {
    let mut site = ControlPlaneNode::serving().await;
    let written = site.control_plane.write(Kind::Secret, "shop", "as it was");
    written.await.unwrap();
    let backup = |name: &str| site.node.path(&format!("/backup/{name}"));
    site.control_plane.etcd().save_snapshot(&backup("etcd.db"));
    let openbao = site.openbao.as_ref().unwrap();
    openbao.save_snapshot(&backup("openbao.snap")).await;
    openbao.write_unseal_key(&site.node.path("/root/unseal-share"));
    fs::remove_file(site.node.path(MANIFEST)).unwrap();
    site.stop().await;
    site.node.systemctl("stop").await;
    site.openbao = None;

    let mut walk = Walk::of("operate/disaster-recovery/isolated");
    walk.to_end(&mut site).await;
    let token = walk.word("token");
    assert!(!Path::new(&token).exists(), "{token}");
}
