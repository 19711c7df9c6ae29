//! Reads all keys of a running etcd in pages, at a single revision. The only RPC is Range; an
//! inconsistent response is an error.
//!
//! The reading is limited to a prefix if etcd's access control or the operator restricts it. Keys
//! outside the prefix are counted if permitted.

mod calls;
mod endpoint;
mod paging;
mod reading;

use std::{
    fmt, fs, io,
    num::NonZeroU32,
    path::{Path, PathBuf},
    sync::OnceLock,
    thread,
    time::Duration,
};

use etcd_snapshot::{file::OnProgress, revision::Object, value::Protection};
use kms_node::{
    advice::{Cause, snapshot},
    report::one_line,
};
use tokio::runtime;
use tonic::transport::{self, Certificate, ClientTlsConfig, Endpoint, Identity};
use zeroize::Zeroizing;

use super::{EtcdReading, inventory::Protected};
use calls::{Calls, Member, PAGE_TIMEOUT};
pub use endpoint::{EndpointProblem, EtcdEndpoint};
use reading::{NEWEST, Reading};

/// Members of one etcd cluster, with TLS credentials.
pub struct LiveEtcd {
    endpoints: Vec<EtcdEndpoint>,
    tls: ClientTlsConfig,
    bounds: Bounds,
    /// Limit of the objects a second.
    rate: Option<NonZeroU32>,
    /// Revision of the first reading. Later readings use it until it is compacted.
    pinned: OnceLock<i64>,
    /// Another revision is an error.
    fixed: bool,
}

/// Range of keys to read.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// Prefix of the keys that are always read; normalized by [`super::prefix::parse`].
    pub prefix: String,
    /// Read the prefix only. Otherwise this happens only if etcd denies access to other keys.
    pub prefix_only: bool,
    /// Prefixes with the operator's permission to stay unread.
    pub allowed: Vec<String>,
}

/// Paths of the TLS files.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// CA certificates for verifying etcd.
    pub authority: PathBuf,
    /// Client certificate and its key.
    pub client: Option<(PathBuf, PathBuf)>,
}

/// An object in etcd, without its content.
#[derive(Debug)]
pub struct Stored {
    /// By the prefix of the value alone.
    pub protected: Protected,
    /// Revision of its last write: the resourceVersion of the Kubernetes API.
    pub revision: i64,
    /// Whether it was never written again since its creation.
    pub is_original: bool,
}

/// Failure of a reading. Readings leave etcd unchanged.
#[derive(Debug, thiserror::Error)]
pub enum LiveError {
    /// CA certificates are required to verify the server.
    #[error("--cacert is required to verify etcd at {endpoint}")]
    NoAuthority { endpoint: EtcdEndpoint },
    #[error("cannot read {}", path.display())]
    File { path: PathBuf, source: io::Error },
    /// A file is no PEM certificate, or the key does not match.
    #[error("--cacert, --cert and --key do not make a TLS client")]
    Tls(#[source] transport::Error),
    /// The system is out of resources.
    #[error("cannot start the runtime")]
    Runtime(#[source] io::Error),
    #[error("cannot connect to etcd: {}", .failures.join("; "))]
    Connect {
        /// One reason per member.
        failures: Vec<String>,
    },
    /// A member returned an error, or the connection failed.
    #[error("etcd at {endpoint} gave no objects: {cause}")]
    Call {
        endpoint: EtcdEndpoint,
        /// Status message from the server, or error of the connection.
        cause: String,
    },
    /// Compaction removed the revision in each of `RESTARTS + 1` attempts.
    #[error("etcd removed the revision in use {RESTARTS} times")]
    Compacted,
    /// The requested revision is compacted, or not reached yet.
    #[error("etcd does not have revision {0}: it was compacted, or is of the future")]
    NoRevision(i64),
    /// The response violates the etcd API.
    #[error("the answer of etcd at {endpoint} is inconsistent: {broken}")]
    Answer {
        endpoint: EtcdEndpoint,
        /// Description of the violation.
        broken: &'static str,
    },
}

impl LiveError {
    /// Cause of the failure.
    #[must_use]
    pub fn cause(&self) -> &'static Cause {
        match self {
            Self::NoAuthority { .. } | Self::File { .. } | Self::Tls(_) => {
                &snapshot::ETCD_TLS_UNUSABLE
            }
            Self::Compacted
            | Self::NoRevision(_)
            | Self::Runtime(_)
            | Self::Connect { .. }
            | Self::Call { .. }
            | Self::Answer { .. } => &snapshot::ETCD_UNREACHABLE,
        }
    }
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes that a member may send before they are acknowledged. The default of HTTP/2 is 64 KiB a round
/// trip, which takes seconds for a page.
const WINDOW: u32 = 4 << 20;
/// Maximum number of restarts. The API server compacts every five minutes, so even a second one is
/// rare.
const RESTARTS: u32 = 5;

impl fmt::Debug for LiveEtcd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LiveEtcd")
            .field("endpoints", &self.endpoints)
            .field("bounds", &self.bounds)
            .finish_non_exhaustive()
    }
}

impl LiveEtcd {
    /// Reads the TLS files, without connecting.
    ///
    /// # Errors
    /// [`LiveError::NoAuthority`], [`LiveError::File`] or [`LiveError::Tls`].
    pub fn new(
        endpoints: Vec<EtcdEndpoint>,
        files: Option<&TlsFiles>,
        bounds: Bounds,
        rate: Option<NonZeroU32>,
    ) -> Result<Self, LiveError> {
        let needs_tls = endpoints.iter().find(|endpoint| endpoint.is_https());
        if let (Some(endpoint), None) = (needs_tls, files) {
            let endpoint = endpoint.clone();
            return Err(LiveError::NoAuthority { endpoint });
        }
        let mut tls = ClientTlsConfig::new();
        if let Some(files) = files {
            tls = tls.ca_certificate(Certificate::from_pem(read(&files.authority)?.as_slice()));
            if let Some((certificate, key)) = &files.client {
                // The TLS library copies the key and does not wipe its copies.
                let identity =
                    Identity::from_pem(read(certificate)?.as_slice(), read(key)?.as_slice());
                tls = tls.identity(identity);
            }
        }
        let live = Self {
            endpoints,
            tls,
            bounds,
            rate,
            pinned: OnceLock::new(),
            fixed: false,
        };
        // Reports invalid TLS files here instead of at the first connection.
        for endpoint in &live.endpoints {
            live.endpoint(endpoint).map_err(LiveError::Tls)?;
        }
        Ok(live)
    }

    /// Reads this etcd revision, and no other one.
    #[must_use]
    pub fn at(mut self, revision: i64) -> Self {
        self.pinned = OnceLock::from(revision);
        self.fixed = true;
        self
    }

    /// URLs of the members, for reports.
    #[must_use]
    pub fn name(&self) -> String {
        let names: Vec<String> = self.endpoints.iter().map(ToString::to_string).collect();
        let names = names.join(",");
        match self.bounds.prefix_only {
            true => format!("{names} below {}/", self.bounds.prefix),
            false => names,
        }
    }

    /// Passes every object within the bounds to `gather`, with an accumulator from `new`. Progress
    /// counts objects.
    ///
    /// # Errors
    /// [`LiveError`] before the last page.
    pub(super) fn read<A>(
        &self,
        on_progress: OnProgress<'_>,
        new: impl FnMut() -> A,
        gather: impl FnMut(&mut A, Object<'_>),
    ) -> Result<EtcdReading<A>, LiveError> {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(LiveError::Runtime)?;
        let member = match runtime.block_on(self.connect()) {
            Ok(member) => member,
            Err(error) => {
                // Avoids waiting for a hanging name lookup.
                runtime.shutdown_background();
                return Err(error);
            }
        };
        let read = thread::scope(|scope| {
            let reading = Reading {
                calls: Calls::start(scope, runtime, member, self.rate),
                bounds: &self.bounds,
                rate: self.rate,
                restarts: if self.fixed { 0 } else { RESTARTS },
                on_progress,
            };
            let pinned = self.pinned.get().copied().unwrap_or(NEWEST);
            reading.read_all(pinned, new, gather)
        });
        if let Ok(reading) = &read {
            self.pinned.get_or_init(|| reading.totals.revision);
        }
        read
    }

    /// The newest form of the object at `path` below the prefix; `None` without such an object.
    ///
    /// # Errors
    /// [`LiveError`], without an answer of a member.
    pub async fn stored(&self, path: &str) -> Result<Option<Stored>, LiveError> {
        let mut member = self.connect().await?;
        let key = format!("{}/{path}", self.bounds.prefix);
        let found = member.get(key.into()).await?;
        Ok(found.map(|found| Stored {
            protected: Protection::of(&found.value).into(),
            revision: found.mod_revision,
            is_original: found.version == 1,
        }))
    }

    /// Connects to the first available member.
    async fn connect(&self) -> Result<Member, LiveError> {
        let mut failures = Vec::new();
        for endpoint in &self.endpoints {
            let connected = match self.endpoint(endpoint) {
                Ok(transport) => transport.connect().await,
                Err(error) => Err(error),
            };
            match connected {
                Ok(channel) => return Ok(Member::new(endpoint.clone(), channel)),
                Err(error) => failures.push(format!("{endpoint}: {}", one_line(&error))),
            }
        }
        Err(LiveError::Connect { failures })
    }

    fn endpoint(&self, endpoint: &EtcdEndpoint) -> Result<Endpoint, transport::Error> {
        let transport = Endpoint::from(endpoint.0.clone())
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(PAGE_TIMEOUT)
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW);
        match endpoint.is_https() {
            true => transport.tls_config(self.tls.clone()),
            false => Ok(transport),
        }
    }
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, LiveError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Zeroizing::new(bytes)),
        Err(source) => Err(LiveError::File {
            path: path.to_owned(),
            source,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn https_needs_an_authority() {
        let endpoint = EtcdEndpoint::parse("https://127.0.0.1:1").unwrap();
        let bounds = Bounds {
            prefix: crate::recovery::prefix::DEFAULT.to_owned(),
            prefix_only: false,
            allowed: Vec::new(),
        };
        let refused = LiveEtcd::new(vec![endpoint], None, bounds, None);
        assert!(matches!(refused, Err(LiveError::NoAuthority { .. })));
    }
}
