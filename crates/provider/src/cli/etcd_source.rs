//! Sources of etcd data for the recovery commands.

use std::{num::NonZeroU32, path::PathBuf};

use clap::Args;
use kms_node::advice::site::{quoted, shell};
use kms_operator::recovery::{
    EtcdError, EtcdSource,
    etcd_live::{Bounds, EtcdEndpoint, LiveError, LiveEtcd, TlsFiles},
    evidence::EvidenceSources,
    prefix,
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
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Etcd")]
pub(super) struct EvidenceFlags {
    /// What `etcdctl snapshot save` wrote, or the member/snap/db of a stopped member; also as the
    /// only file of a gzip, zip, zstd or tar archive; repeatable
    #[arg(long, value_name = "FILE")]
    etcd_snapshot: Vec<PathBuf>,
    #[command(flatten)]
    live: LiveFlags,
    #[command(flatten)]
    unread: UnreadFlags,
}

/// A running etcd.
#[derive(Debug, Default, Args)]
struct LiveFlags {
    /// URLs of a running etcd, or HOST:PORT, separated by commas; the first that answers is read [env:
    /// ETCDCTL_ENDPOINTS]
    #[arg(
        long,
        value_name = "URLS",
        value_delimiter = ',',
        value_parser = EtcdEndpoint::parse
    )]
    endpoints: Vec<EtcdEndpoint>,
    /// CA certificates that verify the running etcd [env: ETCDCTL_CACERT] [default: the three files of
    /// kubeadm, where they exist]
    #[arg(long, value_name = "FILE", requires = "endpoints")]
    cacert: Option<PathBuf>,
    /// Client certificate for the running etcd [env: ETCDCTL_CERT]
    #[arg(long, value_name = "FILE", requires_all = ["cacert", "key"])]
    cert: Option<PathBuf>,
    /// Private key of --cert [env: ETCDCTL_KEY]
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// As given to kube-apiserver, to tell its objects from those of other API servers; all are read
    #[arg(long, value_name = "PREFIX", value_parser = prefix::parse)]
    etcd_prefix: Option<String>,
    /// Leave keys of the running etcd outside --etcd-prefix (default /registry) unread
    #[arg(long, requires = "endpoints")]
    etcd_prefix_only: bool,
    /// Objects a second to read from the running etcd, if it needs time for others [default: one
    /// page of 4 to 8 MiB after another]
    #[arg(long, value_name = "N", requires = "endpoints")]
    etcd_rate: Option<NonZeroU32>,
}

/// Keys that may stay unread.
#[derive(Debug, Default, Args)]
pub(super) struct UnreadFlags {
    /// Assert that no object below these prefixes is encrypted with this key, where keys of the
    /// running etcd are left unread
    #[arg(
        long,
        value_name = "PREFIX,...",
        value_delimiter = ',',
        value_parser = prefix::parse,
        requires = "endpoints"
    )]
    allow_unread_prefixes: Vec<String>,
}

impl EtcdFlags {
    /// Opens the file, or reads the files for TLS.
    ///
    /// # Errors
    /// Those of [`EtcdSource::file`] and [`LiveEtcd::new`].
    pub(super) fn source(&self, unread: Option<&UnreadFlags>) -> Result<EtcdSource, EtcdError> {
        match &self.etcd_snapshot {
            Some(path) => EtcdSource::file(path),
            None => Ok(EtcdSource::Live(self.live.etcd(unread)?)),
        }
    }

    /// Whether the source is a file.
    pub(super) fn is_file(&self) -> bool {
        self.etcd_snapshot.is_some()
    }

    /// Value of `--etcd-prefix`.
    pub(super) fn prefix(&self) -> Option<String> {
        self.live.etcd_prefix.clone()
    }

    /// The options that name the source, as a shell takes them.
    pub(super) fn options(&self) -> String {
        let mut options = match &self.etcd_snapshot {
            Some(path) => format!("--etcd-snapshot {}", shell(path)),
            None => self.live.options(),
        };
        if let Some(prefix) = &self.live.etcd_prefix {
            options.push_str(&format!(" --etcd-prefix {}", quoted(prefix)));
        }
        options
    }
}

impl LiveFlags {
    fn etcd(&self, unread: Option<&UnreadFlags>) -> Result<LiveEtcd, LiveError> {
        let client = self.cert.clone().zip(self.key.clone());
        let files = self
            .cacert
            .clone()
            .map(|authority| TlsFiles { authority, client });
        let allowed = unread.map(|unread| unread.allow_unread_prefixes.clone());
        let bounds = Bounds {
            prefix: self
                .etcd_prefix
                .clone()
                .unwrap_or(prefix::DEFAULT.to_owned()),
            prefix_only: self.etcd_prefix_only,
            allowed: allowed.unwrap_or_default(),
        };
        LiveEtcd::new(
            self.endpoints.clone(),
            files.as_ref(),
            bounds,
            self.etcd_rate,
        )
    }

    fn options(&self) -> String {
        let urls: Vec<_> = self.endpoints.iter().map(ToString::to_string).collect();
        let mut options = format!("--endpoints {}", quoted(&urls.join(",")));
        for (name, file) in [
            ("cacert", &self.cacert),
            ("cert", &self.cert),
            ("key", &self.key),
        ] {
            if let Some(file) = file {
                options.push_str(&format!(" --{name} {}", shell(file)));
            }
        }
        if let Some(rate) = self.etcd_rate {
            options.push_str(&format!(" --etcd-rate {rate}"));
        }
        options
    }
}

impl EvidenceFlags {
    /// Whether one of the sources is a file.
    pub(super) fn has_file(&self) -> bool {
        !self.etcd_snapshot.is_empty()
    }

    /// Opens every file, and reads the TLS files for a running etcd.
    ///
    /// # Errors
    /// Those of [`EtcdSource::file`] and [`LiveEtcd::new`].
    pub(super) fn sources(&self) -> Result<Vec<EtcdSource>, EtcdError> {
        let files = self.etcd_snapshot.iter().map(|path| EtcdSource::file(path));
        let live = self.live().map(|live| live.map(EtcdSource::Live));
        files.chain(live.transpose()).collect()
    }

    /// The running etcd alone.
    ///
    /// # Errors
    /// Those of [`LiveEtcd::new`].
    pub(super) fn live(&self) -> Result<Option<LiveEtcd>, EtcdError> {
        match self.live.endpoints.is_empty() {
            true => Ok(None),
            false => Ok(Some(self.live.etcd(Some(&self.unread))?)),
        }
    }

    /// Value of `--etcd-prefix`.
    pub(super) fn prefix(&self) -> Option<String> {
        self.live.etcd_prefix.clone()
    }

    /// All options as given, for the same command again.
    pub(super) fn again(&self) -> String {
        let live = &self.live;
        let mut options = String::new();
        for file in &self.etcd_snapshot {
            options.push_str(&format!(" --etcd-snapshot {}", shell(file)));
        }
        if !live.endpoints.is_empty() {
            options.push_str(&format!(" {}", live.options()));
        }
        if let Some(prefix) = &live.etcd_prefix {
            options.push_str(&format!(" --etcd-prefix {}", quoted(prefix)));
        }
        if live.etcd_prefix_only {
            options.push_str(" --etcd-prefix-only");
        }
        let unread = &self.unread.allow_unread_prefixes;
        if !unread.is_empty() {
            let unread = quoted(&unread.join(","));
            options.push_str(&format!(" --allow-unread-prefixes {unread}"));
        }
        options
    }

    /// The sources as evidence; `None` without one.
    ///
    /// # Errors
    /// Those of [`Self::sources`].
    pub(super) fn evidence(&self) -> Result<Option<EvidenceSources>, EtcdError> {
        Ok(EvidenceSources::new(self.sources()?, self.prefix()))
    }

    /// The options that name one of the [sources](Self::sources), as a shell takes them.
    pub(super) fn options(&self, source: &EtcdSource) -> String {
        let live = &self.live;
        let mut options = match source {
            EtcdSource::File(_) => format!("--etcd-snapshot {}", quoted(&source.name())),
            EtcdSource::Live(_) => live.options(),
        };
        if let Some(prefix) = &live.etcd_prefix {
            options.push_str(&format!(" --etcd-prefix {}", quoted(prefix)));
        }
        options
    }
}
