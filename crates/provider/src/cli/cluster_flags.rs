//! The Kubernetes API of a cluster: `--kubeconfig`, `--context` and `--server`.

use std::path::PathBuf;

use clap::Args;
use http::Uri;
use kms_cluster::{
    api::{Api, ConnectError},
    servers,
};

use super::rewrite::RewriteFailure;

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
    /// Own address of an API server, such as https://10.0.0.11:6443; repeatable [default: those of the
    /// service kubernetes]
    #[arg(long, value_name = "URL")]
    server: Vec<Uri>,
}

impl ClusterFlags {
    /// Connects to the API server of the kubeconfig, or to another one of its cluster.
    ///
    /// # Errors
    /// Those of [`Api::connect`].
    pub(super) async fn connect(&self, server: Option<&Uri>) -> Result<Api, ConnectError> {
        Api::connect(&self.kubeconfig, self.context.as_deref(), server).await
    }

    /// Connects to every API server by its own address; `api` finds them unless they are named.
    ///
    /// # Errors
    /// The addresses are unknown, or those of [`Api::connect`].
    pub(super) async fn connect_each(&self, api: &Api) -> Result<Vec<Api>, RewriteFailure> {
        let servers: Vec<String> = match self.server.as_slice() {
            [] => servers::addresses(api).await?,
            given => given.iter().map(ToString::to_string).collect(),
        };
        let mut apis = Vec::new();
        for server in servers {
            apis.push(self.connect(server.parse().ok().as_ref()).await?);
        }
        Ok(apis)
    }
}
