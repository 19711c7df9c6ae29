//! Where the commands about recovery read etcd from.

use std::path::PathBuf;

use clap::Args;

use crate::recovery::{
    EtcdError, EtcdSource,
    etcd_live::{EtcdEndpoint, LiveEtcd, TlsFiles},
};

/// Exactly one source.
#[derive(Debug, Args)]
#[command(next_help_heading = "Etcd")]
pub(super) struct EtcdFlags {
    /// What `etcdctl snapshot save` wrote, or the member/snap/db of a stopped member; also as the
    /// only file of a gzip, zip, zstd or tar archive
    #[arg(
        long,
        value_name = "FILE",
        required_unless_present = "endpoints",
        conflicts_with = "endpoints"
    )]
    etcd_snapshot: Option<PathBuf>,
    #[command(flatten)]
    live: LiveFlags,
}

/// Any number of sources, so that every one of them counts.
#[derive(Debug, Args)]
#[command(next_help_heading = "Etcd")]
pub(super) struct EvidenceFlags {
    /// What `etcdctl snapshot save` wrote, or the member/snap/db of a stopped member; also as the
    /// only file of a gzip, zip, zstd or tar archive; repeatable
    #[arg(long, value_name = "FILE")]
    etcd_snapshot: Vec<PathBuf>,
    #[command(flatten)]
    live: LiveFlags,
}

/// A running etcd.
#[derive(Debug, Args)]
struct LiveFlags {
    /// URLs of a running etcd, separated by commas; the first that answers is read
    #[arg(
        long,
        value_name = "URLS",
        value_delimiter = ',',
        value_parser = EtcdEndpoint::parse
    )]
    endpoints: Vec<EtcdEndpoint>,
    /// CA certificates that vouch for the running etcd
    #[arg(long, value_name = "FILE", requires = "endpoints")]
    cacert: Option<PathBuf>,
    /// Certificate that the running etcd lets in
    #[arg(long, value_name = "FILE", requires_all = ["cacert", "key"])]
    cert: Option<PathBuf>,
    /// Private key of --cert
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// As given to kube-apiserver [default: /registry of a running etcd, all keys of a snapshot]
    #[arg(long, value_name = "PREFIX", value_parser = prefix)]
    etcd_prefix: Option<String>,
}

impl EtcdFlags {
    /// Opens the file, or reads the files for TLS.
    ///
    /// # Errors
    /// Those of [`EtcdSource::file`] and [`LiveEtcd::new`].
    pub(super) fn source(&self) -> Result<EtcdSource, EtcdError> {
        match &self.etcd_snapshot {
            Some(path) => EtcdSource::file(path),
            None => self.live.source(),
        }
    }

    /// The prefix that was asked for.
    pub(super) fn prefix(&self) -> Option<String> {
        self.live.etcd_prefix.clone()
    }
}

impl LiveFlags {
    fn source(&self) -> Result<EtcdSource, EtcdError> {
        let client = self.cert.clone().zip(self.key.clone());
        let files = self
            .cacert
            .clone()
            .map(|authority| TlsFiles { authority, client });
        let prefix = self.etcd_prefix.as_deref().unwrap_or("/registry");
        let live = LiveEtcd::new(self.endpoints.clone(), files.as_ref(), prefix.to_owned())?;
        Ok(EtcdSource::Live(live))
    }
}

impl EvidenceFlags {
    /// Opens every file, and reads the files for TLS if a running etcd is named.
    ///
    /// # Errors
    /// Those of [`EtcdSource::file`] and [`LiveEtcd::new`].
    pub(super) fn sources(&self) -> Result<Vec<EtcdSource>, EtcdError> {
        let files = self.etcd_snapshot.iter().map(|path| EtcdSource::file(path));
        let live = (!self.live.endpoints.is_empty()).then(|| self.live.source());
        files.chain(live).collect()
    }

    /// The prefix that was asked for.
    pub(super) fn prefix(&self) -> Option<String> {
        self.live.etcd_prefix.clone()
    }
}

/// With one slash before it and none at its end, whatever was typed, as kube-apiserver takes it.
pub(super) fn prefix(text: &str) -> Result<String, &'static str> {
    match text.trim_matches('/') {
        "" => Err("must name a prefix, such as /registry"),
        prefix => Ok(format!("/{prefix}")),
    }
}
