//! The Kubernetes API of a cluster: `--kubeconfig` and `--context`.

use std::path::PathBuf;

use clap::Args;
use http::Uri;
use kms_cluster::api::{Api, ConnectError};

#[derive(Debug, Args)]
#[command(next_help_heading = "Cluster")]
pub(super) struct ClusterFlags {
    /// Kubeconfig, or several joined by colons [env: KUBECONFIG] [default: ~/.kube/config, else
    /// /etc/kubernetes/admin.conf]
    #[arg(long, value_name = "FILE", value_delimiter = ':')]
    kubeconfig: Vec<PathBuf>,
    /// Context of the kubeconfig, in place of its current one
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
}

impl ClusterFlags {
    /// Connects to the API server of the kubeconfig, or to another one of its cluster.
    ///
    /// # Errors
    /// Those of [`Api::connect`].
    pub(super) async fn connect(&self, server: Option<&Uri>) -> Result<Api, ConnectError> {
        Api::connect(&self.kubeconfig, self.context.as_deref(), server).await
    }
}
