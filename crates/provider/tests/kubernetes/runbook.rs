//! The page of the runbook that needs a kube-apiserver: it starts while the provider is stopped and
//! OpenBao is sealed.

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
struct ControlPlaneNode {
    control_plane: ControlPlane,
    running: bool,
    node: Machine,
    openbao: OpenBao,
    operator: Machine,
}

impl ControlPlaneNode {
    async fn serving() -> Self {
        let backup = tempfile::tempdir().unwrap();
        let openbao = OpenBao::start().await;
        let tenant = Tenant::new(&openbao).await;
        let control_plane = ControlPlane::new().await;
        let mut operator = Machine::new(backup.path());
        operator.reach_openbao(&openbao, &tenant);
        let mut node = Machine::new(backup.path());
        node.reach_openbao(&openbao, &tenant);
        node.reach_etcd(control_plane.etcd());
        let config = "/etc/kubernetes/encryption-config.yaml";
        let log = "/var/log/containers/kube-apiserver-*.log";
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
            (config, "encryption.yaml"),
            (log, "kube-apiserver.log"),
        ] {
            node.shell.name(page, control_plane.file(here).display());
        }
        node.shell
            .name("https://127.0.0.1:6443", control_plane.endpoint());
        files::replace(&node.path(MANIFEST), b"kind: Pod\n", 0o600);
        node.install(&tenant, TIMING);
        let started = node.systemctl("start").await;
        assert_eq!(started.code, Some(0), "{}", node.journal());
        let socket = node.path("/run/openbao-kms/kms.sock");
        let mut kms = kms("openbao-kms", &socket);
        kms["kms"]["timeout"] = "15s".into();
        control_plane.encrypt_with(&[kms]);
        let mut this = Self {
            control_plane,
            running: true,
            node,
            openbao,
            operator,
        };
        this.control_plane.start(&[]).await;
        this
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
        let secrets = self.openbao.secrets();
        let asks = command.starts_with("bao operator unseal");
        asks.then(|| secrets.unseal_key.expose().to_owned())
    }

    /// A kubelet runs what has a manifest; a person waits until OpenBao is active, and for the API
    /// server.
    async fn settle(&mut self, command: &str) {
        if command.starts_with("bao operator unseal") {
            self.openbao.unseal().await;
        }
        let wanted = self.node.path(MANIFEST).exists();
        if self.running && !wanted {
            self.control_plane.stop().await;
        } else if wanted && !self.running {
            self.control_plane.start(&[]).await;
        }
        self.running = wanted;
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
    for (name, text) in [("admin", &admin), ("rewriter", &limited)] {
        let path = site.node.path(&format!("/etc/kubernetes/{name}.conf"));
        files::replace(&path, text.as_bytes(), 0o600);
    }
    let admin = site.node.path("/etc/kubernetes/admin.conf");
    site.node.set("KUBECONFIG", admin);
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
    site.openbao.seal().await;
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
