//! kube-apiserver: its EncryptionConfiguration, and the file that each distribution takes.

use std::{path::Path, time::Duration};

use super::{API_SERVER_DIRECTORY, File, yaml};
use crate::plan::Plan;

/// The order of the providers in an EncryptionConfiguration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Objects are written in the clear, and encrypted ones are readable.
    Readers,
    /// Objects are written encrypted, and those in the clear are readable.
    Writers,
}

/// The EncryptionConfiguration of an API server, for Secrets. Each call of it has a second more than a
/// request to OpenBao, so that it gets the cause of a failure, and at least 3 s.
#[must_use]
pub fn encryption_configuration(
    provider_name: &str,
    socket: &Path,
    request: Duration,
    phase: Phase,
) -> String {
    let whole = request.as_secs() + u64::from(request.subsec_nanos() > 0);
    let timeout = whole.saturating_add(1).max(3);
    let endpoint = yaml(&format!("unix://{}", socket.display()));
    let kms = format!(
        "      - kms:
          apiVersion: v2
          name: {}
          endpoint: {endpoint}
          timeout: {timeout}s
",
        yaml(provider_name)
    );
    let identity = "      - identity: {}\n";
    let providers = match phase {
        Phase::Readers => format!("{identity}{kms}"),
        Phase::Writers => format!("{kms}{identity}"),
    };
    format!(
        "apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
  - resources: [secrets]
    providers:
{providers}"
    )
}

pub(super) fn files(plan: &Plan) -> [File; 7] {
    let config = &plan.loaded.config;
    let name = config.scope.provider_name.as_str();
    let socket = &config.server.socket_path;
    let directory = socket.parent().unwrap_or(Path::new("/"));
    let directory = directory.display().to_string();
    let encryption = |phase| encryption_configuration(name, socket, config.openbao.timeout, phase);
    let file = |name, purpose, content| File {
        name,
        mode: 0o644,
        purpose,
        content,
    };
    [
        file(
            "encryption-config-readers.yaml",
            "first phase: every API server can read encrypted objects, and writes none",
            encryption(Phase::Readers),
        ),
        file(
            "encryption-config.yaml",
            "second phase: API servers write encrypted objects",
            encryption(Phase::Writers),
        ),
        file(
            "kubeadm-cluster-configuration.yaml",
            "part for the ClusterConfiguration of kubeadm, so that upgrades keep the settings",
            kubeadm(&directory),
        ),
        file(
            "kube-apiserver0+json.yaml",
            "patch for kubeadm's --patches, and for the manifest of a running API server",
            patch(&directory),
        ),
        file(
            "k3s-config.yaml",
            "for /etc/rancher/k3s/config.yaml.d on every server of k3s",
            rancher(None),
        ),
        file(
            "rke2-config.yaml",
            "for /etc/rancher/rke2/config.yaml.d on every server of RKE2",
            rancher(Some(&directory)),
        ),
        file(
            "openshift-apiserver.yaml",
            "the APIServer object of OpenShift, whose operator writes the EncryptionConfiguration",
            openshift(socket),
        ),
    ]
}

fn kubeadm(socket_directory: &str) -> String {
    let socket_directory = yaml(socket_directory);
    format!(
        r#"# Add to the ClusterConfiguration: kubectl -n kube-system edit configmap kubeadm-config
apiVersion: kubeadm.k8s.io/v1beta4
kind: ClusterConfiguration
apiServer:
  extraArgs:
    - name: encryption-provider-config
      value: {API_SERVER_DIRECTORY}/encryption-config.yaml
    - name: encryption-provider-config-automatic-reload
      value: "true"
  extraVolumes:
    - name: openbao-kms-config
      hostPath: {API_SERVER_DIRECTORY}
      mountPath: {API_SERVER_DIRECTORY}
      readOnly: true
      pathType: Directory
    - name: openbao-kms-socket
      hostPath: {socket_directory}
      mountPath: {socket_directory}
      pathType: Directory
"#
    )
}

fn patch(socket_directory: &str) -> String {
    let socket_directory = yaml(socket_directory);
    format!(
        r#"# For kubeadm: kubeadm upgrade apply --patches DIRECTORY. For a running API server:
# kubectl patch --local --type=json -f /etc/kubernetes/manifests/kube-apiserver.yaml \
#   --patch-file kube-apiserver0+json.yaml -o yaml
- op: add
  path: /spec/containers/0/command/-
  value: --encryption-provider-config={API_SERVER_DIRECTORY}/encryption-config.yaml
- op: add
  path: /spec/containers/0/command/-
  value: --encryption-provider-config-automatic-reload=true
- op: add
  path: /spec/containers/0/volumeMounts/-
  value: {{name: openbao-kms-config, mountPath: {API_SERVER_DIRECTORY}, readOnly: true}}
- op: add
  path: /spec/containers/0/volumeMounts/-
  value: {{name: openbao-kms-socket, mountPath: {socket_directory}}}
- op: add
  path: /spec/volumes/-
  value: {{name: openbao-kms-config, hostPath: {{path: {API_SERVER_DIRECTORY}, type: Directory}}}}
- op: add
  path: /spec/volumes/-
  value: {{name: openbao-kms-socket, hostPath: {{path: {socket_directory}, type: Directory}}}}
"#
    )
}

/// k3s runs the API server in its own process; RKE2 as a static pod with mounts of its own.
fn rancher(socket_directory: Option<&str>) -> String {
    let mount = socket_directory.map_or(String::new(), |directory| {
        format!(
            "kube-apiserver-extra-mount+:\n  - {}\n  - {}\n",
            yaml(&format!("{API_SERVER_DIRECTORY}:{API_SERVER_DIRECTORY}:ro")),
            yaml(&format!("{directory}:{directory}"))
        )
    });
    format!(
        "# Without secrets-encryption: that setting of the distribution writes a configuration of its own.
kube-apiserver-arg+:
  - encryption-provider-config={API_SERVER_DIRECTORY}/encryption-config.yaml
  - encryption-provider-config-automatic-reload=true
{mount}"
    )
}

fn openshift(socket: &Path) -> String {
    format!(
        "# OpenShift writes the EncryptionConfiguration itself, and expects the socket of the plugin at
# /var/run/kmsplugin/kms.sock; this installation has {}. The encryption type KMS is a
# technology preview with a feature gate: docs/install/openshift.md.
apiVersion: config.openshift.io/v1
kind: APIServer
metadata:
  name: cluster
spec:
  encryption:
    type: KMS
",
        socket.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_of_the_api_server_outlasts_a_request_to_openbao() {
        for (request, timeout) in [(100, 3), (2000, 3), (2001, 4), (10_000, 11)] {
            let request = Duration::from_millis(request);
            let socket = Path::new("/run/a.sock");
            let made = encryption_configuration("a", socket, request, Phase::Readers);
            let expected = format!("timeout: {timeout}s\n");
            assert!(made.contains(&expected), "{request:?}: {made}");
        }
    }
}
