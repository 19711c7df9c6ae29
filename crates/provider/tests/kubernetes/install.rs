//! From nothing to an encrypted Secret: the page about the installation, on a machine of its own.

use std::{
    env, fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
};

use openbao_lab::port::free_port;
use rustix::process::geteuid;
use testkit::{
    control_plane::{ControlPlane, Kind, WITHIN, kubeadm, kubectl},
    etcd, files,
    fresh_root::FreshRoot,
    openbao::{OpenBao, binary},
    runbook::{Done, Shell, Site, Walk},
    wait::wait_until,
};

use crate::node::program;

const MANIFEST: &str = "/etc/kubernetes/manifests/kube-apiserver.yaml";
const PACKAGE: &str = "bao-kms-provider_0.1.0_linux_amd64.deb";

/// The package of the program of this test run.
fn package() -> PathBuf {
    static PACKAGES: LazyLock<PathBuf> = LazyLock::new(packages);
    PACKAGES.join(PACKAGE)
}

fn packages() -> PathBuf {
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("install");
    let made = Command::new(env!("CARGO"))
        .args(["xtask", "dist", "--only", "packages", "--program"])
        .arg(program().get_program())
        .arg("--out")
        .arg(&out)
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."))
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    out
}

/// On a page, while the API server polls its file.
const RELOAD: &str = "the API server reloads its file";

/// systemd of the test: runs the command line of the unit as its user.
const SYSTEMCTL: &str = include_str!("install/systemctl.sh");

/// The client of a container runtime that has the image.
const CRICTL: &str = "\
#!/bin/sh
echo '\"registry.example/bao-kms-provider@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\"'
";

/// Runs the program as the manifest says, once there is one.
const KUBELET: &str = "\
until [ -e /etc/kubernetes/manifests/bao-kms-provider.yaml ]; do sleep 0.2; done
exec setsid setpriv --reuid=65532 --regid=65532 --groups=65533 --no-new-privs -- \
    bao-kms-provider serve --config=/etc/openbao-kms/config.yaml";

/// The configuration of a cluster that kubeadm makes.
const CLUSTER: &str = "\
apiVersion: kubeadm.k8s.io/v1beta4
kind: InitConfiguration
localAPIEndpoint: {advertiseAddress: 192.0.2.1, bindPort: 6443}
---
apiVersion: kubeadm.k8s.io/v1beta4
kind: ClusterConfiguration
kubernetesVersion: v1.36.3
";

/// A control-plane node of kubeadm, and the OpenBao of the installation.
struct Installation {
    node: FreshRoot,
    shell: Shell,
    control_plane: ControlPlane,
    /// Options that the manifest adds to those of the test's API server.
    options: Vec<String>,
}

impl Installation {
    async fn of(openbao: &OpenBao) -> Self {
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let workspace = workspace.canonicalize().unwrap();
        let node = FreshRoot::new(&[&env::temp_dir(), &workspace]);
        for (name, path) in [
            ("bao", binary().path().to_owned()),
            ("kubeadm", kubeadm()),
            ("kubectl", kubectl()),
            ("etcdctl", etcd::tool("etcdctl")),
        ] {
            let path = path.canonicalize().unwrap();
            let place = node.path("/usr/local/bin").join(name);
            fs::remove_file(&place).ok();
            symlink(path, place).unwrap();
        }
        files::replace(
            &node.path("/usr/local/bin/systemctl"),
            SYSTEMCTL.as_bytes(),
            0o755,
        );

        let mut control_plane = ControlPlane::new().await;
        control_plane.move_to(&node);
        files::replace(&node.path("/root/cluster.yaml"), CLUSTER.as_bytes(), 0o600);
        let made =
            node.run("kubeadm init phase control-plane apiserver --config /root/cluster.yaml");
        assert!(made.status.success(), "{made:?}");
        fs::copy(openbao.ca_file(), node.path("/root/openbao-ca.crt")).unwrap();

        let mut shell = node.shell();
        let address = openbao.endpoint().address.to_string();
        shell.name("https://openbao.example:8200", &address);
        shell.name("https://127.0.0.1:2379", control_plane.etcd().endpoint());
        // The defaults of the listeners may be in use on this machine.
        let [metrics, health] = [(); 2].map(|()| format!("127.0.0.1:{}", free_port().unwrap()));
        let listeners = format!(
            "--new-key --set server.metricsAddress={metrics} --set server.healthAddress={health}"
        );
        shell.name("--new-key", listeners);
        shell.name("127.0.0.1:8081", metrics);
        shell.name("127.0.0.1:8082", health);
        shell.set("BAO_ADDR", &address);
        shell.set("BAO_CACERT", openbao.ca_file());
        shell.set("BAO_TOKEN", openbao.secrets().root_token.expose());
        shell.set("ETCDCTL_ENDPOINTS", control_plane.etcd().endpoint());
        for (variable, file) in [
            ("ETCDCTL_CACERT", "ca.crt"),
            ("ETCDCTL_CERT", "client.crt"),
            ("ETCDCTL_KEY", "client.key"),
        ] {
            shell.set(variable, control_plane.etcd().file(file));
        }
        let kubeconfig = control_plane.kubeconfig();
        files::replace(
            &node.path("/etc/kubernetes/admin.conf"),
            kubeconfig.as_bytes(),
            0o600,
        );
        shell.set("KUBECONFIG", "/etc/kubernetes/admin.conf");
        Self {
            node,
            shell,
            control_plane,
            options: Vec::new(),
        }
    }
}

impl Installation {
    /// Waits until the API server writes such objects.
    async fn writes(&self, awaited: &str, such: impl Fn(&[u8]) -> bool) {
        wait_until(WITHIN, awaited, async || {
            let written = self
                .control_plane
                .write(Kind::Secret, "awaited", "written again");
            written.await.unwrap();
            such(&self.control_plane.stored(Kind::Secret, "awaited"))
        })
        .await;
    }
}

impl Site for Installation {
    fn shell(&self, _machine: &str) -> &Shell {
        &self.shell
    }

    async fn instead(&mut self, _machine: &str, words: &[String]) -> Option<Done> {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match words[..] {
            ["dpkg", "--install", PACKAGE] => {
                let command = format!("dpkg --install {}", package().display());
                Some(self.shell.run(&command, None).await)
            }
            _ => None,
        }
    }

    fn configure(&mut self, _sections: &str) {
        panic!("the page has no settings");
    }

    fn typed(&mut self, _command: &str) -> Option<String> {
        None
    }

    /// A kubelet runs the manifest as it is now.
    async fn settle(&mut self, _machine: &str, _command: &str) {
        let manifest = fs::read_to_string(self.node.path(MANIFEST)).unwrap();
        let options = manifest.lines().filter_map(|line| {
            let option = line.trim().strip_prefix("- ")?;
            option
                .starts_with("--encryption-provider")
                .then(|| option.to_owned())
        });
        let options: Vec<String> = options.collect();
        if options != self.options {
            self.control_plane.stop().await;
            self.options = options;
            let options: Vec<&str> = self.options.iter().map(String::as_str).collect();
            self.control_plane.start(&options).await;
        }
    }
}

#[tokio::test]
async fn five_commands_and_two_phases_encrypt_a_cluster() {
    if !geteuid().is_root() {
        // Users, packages and services of a node.
        return;
    }
    let openbao = OpenBao::start().await;
    let mut site = Installation::of(&openbao).await;
    site.control_plane.start(&[]).await;
    let kind = Kind::Secret;
    let before = site.control_plane.write(kind, "before", "plain of old");
    before.await.unwrap();

    let mut walk = Walk::of("install/README");
    walk.to_incident(&mut site, RELOAD).await;
    site.writes("ciphertext", |stored| {
        stored.starts_with(b"k8s:enc:kms:v2:openbao-east:")
    })
    .await;
    walk.to_end(&mut site).await;
    for page in ["install/openbao", "install/monitoring", "install/k3s-rke2"] {
        Walk::of(page).to_end(&mut site).await;
    }

    let mut walk = Walk::of("install/uninstall");
    walk.to_incident(&mut site, RELOAD).await;
    site.writes("plaintext", |stored| !stored.starts_with(b"k8s:enc:"))
        .await;
    walk.to_end(&mut site).await;
    let read = site.control_plane.read(kind, "before").await.unwrap();
    assert_eq!(read.as_deref(), Some("plain of old"));
    let state = "/var/lib/openbao-kms/state/key-registry.json";
    assert!(site.node.path(state).exists());
}

#[tokio::test]
async fn a_static_pod_serves_and_other_distributions_get_their_files() {
    if !geteuid().is_root() {
        return;
    }
    let openbao = OpenBao::start().await;
    let mut site = Installation::of(&openbao).await;
    let crictl = site.node.path("/usr/local/bin/crictl");
    files::replace(&crictl, CRICTL.as_bytes(), 0o755);
    let install = format!(
        "dpkg --install {} && ({KUBELET}) </dev/null >/var/log/pod.log 2>&1 &",
        package().display()
    );
    let installed = site.shell.run(&install, None).await;
    assert_eq!(installed.code, Some(0), "{}", installed.output);

    Walk::of("install/static-pod").to_end(&mut site).await;
    let probe = "bao-kms-provider probe --socket /run/openbao-kms/kms.sock";
    let probe = site.shell.run(probe, None).await;
    assert_eq!(probe.code, Some(0), "{}", probe.output);
    Walk::of("install/openshift").to_end(&mut site).await;
}

#[tokio::test]
async fn a_package_is_installed_upgraded_and_removed() {
    if !geteuid().is_root() {
        return;
    }
    let openbao = OpenBao::start().await;
    let mut site = Installation::of(&openbao).await;
    let packages = package();
    for file in fs::read_dir(packages.parent().unwrap()).unwrap() {
        let file = file.unwrap();
        let to = site.node.path("/root").join(file.file_name());
        fs::copy(file.path(), to).unwrap();
    }
    let mut walk = Walk::of("install/packages");
    walk.to_incident(&mut site, "the node is prepared").await;
    let prepare = "\
        bao-kms-provider init --cluster east --openbao-address https://openbao.example:8200 \
            --set auth.method=approle --new-key --out openbao-kms \
        && SECRET_ID=/root/secret-id ./openbao-kms/openbao-setup.sh \
        && bao-kms-provider node prepare openbao-kms --ca /root/openbao-ca.crt \
            --credential /root/secret-id --apply";
    let prepared = site.shell.run(prepare, None).await;
    assert_eq!(prepared.code, Some(0), "{}", prepared.output);
    walk.to_end(&mut site).await;
    assert!(!site.node.path("/usr/bin/bao-kms-provider").exists());
}
