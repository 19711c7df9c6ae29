//! Prometheus: how to scrape a node, and the alerts.

use super::{File, indented, yaml};
use crate::plan::{Model, Plan};

const RULES: &str = include_str!("../../../../packaging/prometheus/bao-kms-provider.rules.yaml");

pub(super) fn files(plan: &Plan) -> Vec<File> {
    let Some(metrics) = &plan.loaded.config.server.metrics else {
        return Vec::new();
    };
    let file = |name, purpose, content| File {
        name,
        mode: 0o644,
        purpose,
        content,
    };
    let cluster = yaml(plan.loaded.config.scope.cluster_id.as_str());
    let (host, port) = metrics.bind_to();
    let mut files = vec![file(
        "prometheus-scrape.yaml",
        "scrape configuration for an agent of Prometheus on each node",
        format!(
            "# The listener is {host}:{port}: a Prometheus elsewhere needs an agent on the node, or\n\
             # server.metricsAddress on an address that only Prometheus can reach.\n\
             scrape_configs:\n  - job_name: bao-kms-provider\n    static_configs:\n      \
             - targets: [\"127.0.0.1:{port}\"]\n        labels: {{cluster: {cluster}}}\n"
        ),
    )];
    if let Model::StaticPod { .. } = plan.model {
        files.push(file(
            "podmonitor.yaml",
            "PodMonitor of the Prometheus operator for the static pods",
            format!(
                r#"# The pods listen on {host}:{port}: PodMonitor needs server.metricsAddress on an address of the node.
apiVersion: monitoring.coreos.com/v1
kind: PodMonitor
metadata:
  name: bao-kms-provider
  namespace: kube-system
spec:
  selector:
    matchLabels:
      app.kubernetes.io/name: bao-kms-provider
  podMetricsEndpoints:
    - port: metrics
      path: /metrics
"#
            ),
        ));
    }
    files.push(file(
        "prometheus-rule.yaml",
        "PrometheusRule of the Prometheus operator: the alerts",
        format!(
            "apiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\nmetadata:\n  \
             name: bao-kms-provider\n  namespace: kube-system\nspec:\n{}",
            indented(RULES, 2)
        ),
    ));
    files
}
