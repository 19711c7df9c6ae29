//! The manifest of the static pod.

use std::path::{Path, PathBuf};

use kms_node::config::Listener;

use super::yaml;
use crate::plan::{Plan, credential_directories};

const CONFIG: &str = "/etc/openbao-kms/config.yaml";

pub(super) fn manifest(plan: &Plan, image: &str, socket_gid: u32) -> String {
    let config = &plan.loaded.config;
    let parent = |path: &Path| path.parent().unwrap_or(Path::new("/")).to_owned();
    let mut mounts: Vec<(String, PathBuf, bool, &str)> = vec![
        ("config".to_owned(), PathBuf::from(CONFIG), true, "File"),
        (
            "ca".to_owned(),
            parent(&config.openbao.ca_cert_file),
            true,
            "Directory",
        ),
    ];
    // Directories, so that a replaced file is seen.
    for (at, directory) in credential_directories(config).into_iter().enumerate() {
        let name = format!("credentials-{}", at + 1);
        mounts.push((name, directory, true, "Directory"));
    }
    let writable = [
        ("socket", parent(&config.server.socket_path)),
        ("state", config.state_path.directory().to_owned()),
    ];
    mounts.extend(writable.map(|(name, path)| (name.to_owned(), path, false, "Directory")));
    let text = |path: &Path| yaml(&path.display().to_string());
    let volume_mounts: String = mounts
        .iter()
        .map(|(name, path, read_only, _)| {
            format!(
                "        - {{name: {name}, mountPath: {}, readOnly: {read_only}}}\n",
                text(path)
            )
        })
        .collect();
    let volumes: String = mounts
        .iter()
        .map(|(name, path, _, kind)| {
            format!(
                "    - {{name: {name}, hostPath: {{path: {}, type: {kind}}}}}\n",
                text(path)
            )
        })
        .collect();
    let listeners = [
        ("metrics", &config.server.metrics),
        ("health", &config.server.health),
    ];
    let ports: String = listeners
        .iter()
        .filter_map(|(name, listener)| {
            let port = listener.as_ref()?.port();
            Some(format!(
                "        - {{name: {name}, containerPort: {port}}}\n"
            ))
        })
        .collect();
    let probes = config.server.health.as_ref().map_or(String::new(), probes);
    // Time for the first contact with OpenBao, in periods of 5 s.
    let grace = config.bootstrap.grace_timeout + config.auth.login_timeout * 2;
    let failures = (grace.as_secs() / 5 + 12).max(24);
    format!(
        r#"apiVersion: v1
kind: Pod
metadata:
  name: bao-kms-provider
  namespace: kube-system
  labels:
    app.kubernetes.io/name: bao-kms-provider
    app.kubernetes.io/component: kms-provider
spec:
  hostNetwork: true
  priorityClassName: system-node-critical
  automountServiceAccountToken: false
  # 15 s for running calls, and for the last write of the state.
  terminationGracePeriodSeconds: 25
  securityContext:
    runAsNonRoot: true
    runAsUser: 65532
    runAsGroup: 65532
    supplementalGroups: [{socket_gid}]
    seccompProfile:
      type: RuntimeDefault
  containers:
    - name: bao-kms-provider
      # Loaded on every node before kubelet starts, since a registry may need the API server.
      image: {image}
      imagePullPolicy: IfNotPresent
      args: [serve, --config={CONFIG}]
      ports:
{ports}{probes}      resources:
        requests: {{cpu: 50m, memory: 32Mi}}
        limits: {{memory: 256Mi}}
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities:
          drop: [ALL]
      volumeMounts:
{volume_mounts}  volumes:
{volumes}"#,
        image = yaml(image),
        probes = probes.replace("FAILURES", &failures.to_string()),
    )
}

fn probes(health: &Listener) -> String {
    let host = match health.bind_to().0 {
        "::" | "0.0.0.0" => "127.0.0.1",
        host => host,
    };
    let get = |path: &str| {
        format!(
            "httpGet: {{path: {path}, port: {}, host: {}}}",
            health.port(),
            yaml(host)
        )
    };
    format!(
        "      startupProbe: {{{live}, periodSeconds: 5, timeoutSeconds: 1, failureThreshold: FAILURES}}
      livenessProbe: {{{live}, initialDelaySeconds: 5, periodSeconds: 10}}
      readinessProbe: {{{ready}, initialDelaySeconds: 5, periodSeconds: 10}}
",
        live = get("/live"),
        ready = get("/ready"),
    )
}
