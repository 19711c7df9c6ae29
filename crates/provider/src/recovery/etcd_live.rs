//! Reads a running etcd: every object below a prefix, of one revision, in pages. It only ever asks
//! for a range, and an answer that does not hold together is an error.

use std::{
    error::Error as _,
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::OnceLock,
    time::Duration,
};

use bytes::Bytes;
use etcd_snapshot::{
    file::{OnProgress, Progress},
    revision::{Object, Totals},
};
use http::{Uri, uri::PathAndQuery};
use tokio::{runtime, time::timeout};
use tonic::{
    Code, Request, Status,
    client::Grpc,
    transport::{self, Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};
use tonic_prost::ProstCodec;
use zeroize::Zeroizing;

use super::{EtcdReading, Trust};
use crate::report::one_line;

/// Members of one etcd and how to get in.
pub struct LiveEtcd {
    endpoints: Vec<EtcdEndpoint>,
    tls: ClientTlsConfig,
    prefix: String,
    /// The revision of the first reading. A later one shows the same, unless it was compacted.
    pinned: OnceLock<i64>,
}

/// The URL of a member: `https://HOST[:PORT]`, or `http://` on loopback.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdEndpoint(Uri);

/// Why a text is no URL of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EndpointProblem {
    /// No URL with a host and without a path.
    #[error("must be https://HOST:PORT")]
    Form,
    /// What etcd holds would cross the network readable.
    #[error("must begin with https://; http:// is allowed to a loopback address only")]
    Plaintext,
}

/// The files that TLS needs.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// The certificates that vouch for etcd.
    pub authority: PathBuf,
    /// The certificate that etcd lets in, and its key.
    pub client: Option<(PathBuf, PathBuf)>,
}

/// Why a running etcd gave no answer. Nothing was changed in it.
#[derive(Debug, thiserror::Error)]
pub enum LiveError {
    /// There is nothing to know the server by.
    #[error("--cacert is missing: without it nothing tells that {endpoint} is your etcd")]
    NoAuthority {
        /// The member.
        endpoint: EtcdEndpoint,
    },
    /// A file could not be read.
    #[error("cannot read {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The files are no certificates, or the key does not fit.
    #[error("--cacert, --cert and --key do not make a TLS client")]
    Tls(#[source] transport::Error),
    /// The system has no resources to run it.
    #[error("cannot start the runtime")]
    Runtime(#[source] io::Error),
    /// No member could be connected to.
    #[error("cannot connect to etcd: {}", .failures.join("; "))]
    Connect {
        /// For each member, why.
        failures: Vec<String>,
    },
    /// A member refused or failed.
    #[error("etcd at {endpoint} gave no objects: {cause}")]
    Call {
        /// The member.
        endpoint: EtcdEndpoint,
        /// What it said.
        cause: String,
    },
    /// Compaction was faster, again and again.
    #[error(
        "etcd removed the revision that was being read {RESTARTS} times; read a snapshot instead: \
         etcdctl snapshot save FILE"
    )]
    Compacted,
    /// The answer breaks etcd's own rules.
    #[error("the answer of etcd at {endpoint} does not hold together: {broken}")]
    Answer {
        /// The member.
        endpoint: EtcdEndpoint,
        /// The broken rule.
        broken: &'static str,
    },
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Of one page.
const PAGE_TIMEOUT: Duration = Duration::from_secs(30);

/// The revision that stands for the newest one.
const NEWEST: i64 = 0;
/// Objects of one page.
const PAGE: i64 = 500;
/// Bytes of one page. Fewer objects are asked for when it has more.
const PAGE_BYTES: usize = 64 << 20;
/// The API server compacts every five minutes, so a second restart is rare already.
const RESTARTS: u32 = 5;
/// Characters of a server's message that are shown.
const MESSAGE: usize = 300;
const RANGE: PathAndQuery = PathAndQuery::from_static("/etcdserverpb.KV/Range");

impl EtcdEndpoint {
    /// Parses a URL.
    ///
    /// # Errors
    /// The rule that it breaks.
    pub fn parse(text: &str) -> Result<Self, EndpointProblem> {
        let uri: Uri = text.parse().map_err(|_| EndpointProblem::Form)?;
        let authority = uri.authority().ok_or(EndpointProblem::Form)?;
        let plain = uri.path().is_empty() || uri.path() == "/";
        if !plain || uri.query().is_some() || authority.as_str().contains('@') {
            return Err(EndpointProblem::Form);
        }
        let host = authority.host();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let loopback = host
            .parse()
            .is_ok_and(|ip: std::net::IpAddr| ip.is_loopback());
        match uri.scheme_str() {
            Some("https") => Ok(Self(uri)),
            Some("http") if loopback || host == "localhost" => Ok(Self(uri)),
            Some("http") => Err(EndpointProblem::Plaintext),
            _ => Err(EndpointProblem::Form),
        }
    }

    fn is_https(&self) -> bool {
        self.0.scheme_str() == Some("https")
    }
}

impl fmt::Display for EtcdEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.to_string().trim_end_matches('/'))
    }
}

impl fmt::Debug for LiveEtcd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LiveEtcd")
            .field("endpoints", &self.endpoints)
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

impl LiveEtcd {
    /// Takes `prefix` without a slash at its end and reads the files of TLS. Connects to nothing.
    ///
    /// # Errors
    /// [`LiveError::NoAuthority`], [`LiveError::File`] or [`LiveError::Tls`].
    pub fn new(
        endpoints: Vec<EtcdEndpoint>,
        files: Option<&TlsFiles>,
        prefix: String,
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
                // TLS makes copies of the key that it does not wipe.
                let identity =
                    Identity::from_pem(read(certificate)?.as_slice(), read(key)?.as_slice());
                tls = tls.identity(identity);
            }
        }
        let live = Self {
            endpoints,
            tls,
            prefix,
            pinned: OnceLock::new(),
        };
        // Whether the files are any good shows now rather than with the first connection.
        for endpoint in &live.endpoints {
            live.endpoint(endpoint).map_err(LiveError::Tls)?;
        }
        Ok(live)
    }

    /// The members, for reports.
    #[must_use]
    pub fn name(&self) -> String {
        let names: Vec<String> = self.endpoints.iter().map(ToString::to_string).collect();
        format!("{} below {}/", names.join(","), self.prefix)
    }

    /// Lets `gather` put every object into what `new` makes; progress counts objects.
    ///
    /// # Errors
    /// Whatever keeps the reading from its end.
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
        let read = runtime.block_on(async {
            let mut reader = self.connect().await?;
            let pinned = self.pinned.get().copied().unwrap_or(NEWEST);
            reader
                .read_all(&self.prefix, pinned, on_progress, new, gather)
                .await
        });
        if let Ok(reading) = &read {
            self.pinned.get_or_init(|| reading.totals.revision);
        }
        // A name lookup that hangs must not hold up the end.
        runtime.shutdown_background();
        read
    }

    /// The first member that lets itself be connected to.
    async fn connect(&self) -> Result<Reader, LiveError> {
        let mut failures = Vec::new();
        for endpoint in &self.endpoints {
            let connected = match self.endpoint(endpoint) {
                Ok(transport) => transport.connect().await,
                Err(error) => Err(error),
            };
            match connected {
                Ok(channel) => {
                    return Ok(Reader {
                        endpoint: endpoint.clone(),
                        grpc: Grpc::new(channel).max_decoding_message_size(PAGE_BYTES),
                    });
                }
                Err(error) => failures.push(format!("{endpoint}: {}", one_line(&error))),
            }
        }
        Err(LiveError::Connect { failures })
    }

    fn endpoint(&self, endpoint: &EtcdEndpoint) -> Result<Endpoint, transport::Error> {
        let transport = Endpoint::from(endpoint.0.clone())
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(PAGE_TIMEOUT);
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

/// One connection.
struct Reader {
    endpoint: EtcdEndpoint,
    grpc: Grpc<Channel>,
}

/// Why one page did not come.
enum NoPage {
    /// The revision is gone.
    Compacted,
    /// The page has more than [`PAGE_BYTES`].
    TooLarge,
    Other(LiveError),
}

impl Reader {
    async fn read_all<A>(
        &mut self,
        prefix: &str,
        mut revision: i64,
        on_progress: OnProgress<'_>,
        mut new: impl FnMut() -> A,
        mut gather: impl FnMut(&mut A, Object<'_>),
    ) -> Result<EtcdReading<A>, LiveError> {
        for restarts in 0..=RESTARTS {
            let mut gathered = new();
            let mut each = |object: Object<'_>| gather(&mut gathered, object);
            let read = self.read_once(prefix, revision, on_progress, &mut each);
            match read.await {
                Ok(totals) => {
                    return Ok(EtcdReading {
                        gathered,
                        totals,
                        trust: Trust::Live { restarts },
                    });
                }
                Err(NoPage::Compacted) => revision = NEWEST,
                Err(NoPage::TooLarge) => {
                    return Err(self.answer("one object has more bytes than etcd can store"));
                }
                Err(NoPage::Other(error)) => return Err(error),
            }
        }
        Err(LiveError::Compacted)
    }

    async fn read_once(
        &mut self,
        prefix: &str,
        mut revision: i64,
        on_progress: OnProgress<'_>,
        gather: &mut dyn FnMut(Object<'_>),
    ) -> Result<Totals, NoPage> {
        let end = Bytes::from(format!("{prefix}0"));
        let mut next = Bytes::from(format!("{prefix}/"));
        let (mut limit, mut all, mut done) = (PAGE, None, 0);
        loop {
            let request = RangeRequest {
                key: next.clone(),
                range_end: end.clone(),
                limit,
                revision,
            };
            let page = match self.page(request).await {
                Err(NoPage::TooLarge) if limit > 1 => {
                    limit /= 2;
                    continue;
                }
                page => page?,
            };
            let broken = |broken| Err(NoPage::Other(self.answer(broken)));
            if revision == NEWEST {
                revision = page.header.map_or(0, |header| header.revision);
                if revision <= 0 {
                    return broken("it has no revision");
                }
            }
            // Of the first page: the later ones count what is left.
            let total = *all.get_or_insert_with(|| u64::try_from(page.count).unwrap_or(0));
            for object in &page.kvs {
                if object.key < next || object.key >= end {
                    return broken("its keys are out of order or not those that were asked for");
                }
                if object.mod_revision <= 0 || object.mod_revision > revision {
                    return broken("an object is of another revision");
                }
                gather(Object {
                    key: &object.key,
                    value: &object.value,
                    revision: object.mod_revision,
                    superseded: false,
                });
                // The least key after this one.
                next = [&object.key[..], &[0]].concat().into();
                done += 1;
            }
            on_progress(Progress { done, total });
            if !page.more {
                if done != total {
                    return broken("it has not as many objects as it says");
                }
                return Ok(Totals {
                    revision,
                    compacted: None,
                    keys: total,
                    superseded: 0,
                });
            }
            if page.kvs.is_empty() {
                return broken("there shall be more, and nothing comes");
            }
        }
    }

    async fn page(&mut self, request: RangeRequest) -> Result<RangeResponse, NoPage> {
        let endpoint = self.endpoint.clone();
        let other = |cause| NoPage::Other(LiveError::Call { endpoint, cause });
        if let Err(error) = self.grpc.ready().await {
            return Err(other(one_line(&error)));
        }
        let codec = ProstCodec::default();
        let asked = self.grpc.unary(Request::new(request), RANGE, codec);
        // The connection's own limit ends with the headers of the answer.
        let Ok(answer) = timeout(PAGE_TIMEOUT, asked).await else {
            return Err(other(format!(
                "a page did not come within {PAGE_TIMEOUT:?}"
            )));
        };
        match answer {
            Ok(answer) => Ok(answer.into_inner()),
            // Both refusals have this code: one comes from etcd, the other from this client.
            Err(status) if status.code() == Code::OutOfRange => {
                match status.message().contains("has been compacted") {
                    true => Err(NoPage::Compacted),
                    false => Err(NoPage::TooLarge),
                }
            }
            Err(status) => Err(other(said(&status))),
        }
    }

    fn answer(&self, broken: &'static str) -> LiveError {
        LiveError::Answer {
            endpoint: self.endpoint.clone(),
            broken,
        }
    }
}

/// What the other side said, or what became of the connection.
fn said(status: &Status) -> String {
    let cause = status
        .source()
        .map_or_else(String::new, |source| format!(" ({})", one_line(source)));
    let message: String = status.message().chars().take(MESSAGE).collect();
    format!("{}{cause}", message.escape_debug())
}

/// `etcdserverpb.RangeRequest`, as far as it is used. The rest being absent, the answer is the one
/// that a majority of members agrees on, in the order of the keys.
#[derive(Clone, PartialEq, prost::Message)]
struct RangeRequest {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    range_end: Bytes,
    #[prost(int64, tag = "3")]
    limit: i64,
    #[prost(int64, tag = "4")]
    revision: i64,
}

/// `etcdserverpb.RangeResponse`.
#[derive(Clone, PartialEq, prost::Message)]
struct RangeResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<ResponseHeader>,
    #[prost(message, repeated, tag = "2")]
    kvs: Vec<KeyValue>,
    #[prost(bool, tag = "3")]
    more: bool,
    #[prost(int64, tag = "4")]
    count: i64,
}

/// `etcdserverpb.ResponseHeader`, as far as it is used.
#[derive(Clone, Copy, PartialEq, prost::Message)]
struct ResponseHeader {
    #[prost(int64, tag = "3")]
    revision: i64,
}

/// `mvccpb.KeyValue`, as far as it is used.
#[derive(Clone, PartialEq, prost::Message)]
struct KeyValue {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(int64, tag = "3")]
    mod_revision: i64,
    #[prost(bytes = "bytes", tag = "5")]
    value: Bytes,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_https_or_on_loopback() {
        for good in [
            "https://10.0.0.1:2379",
            "https://etcd.example/",
            "http://127.0.0.1:2379",
            "http://[::1]:2379",
            "http://localhost:2379",
        ] {
            assert!(EtcdEndpoint::parse(good).is_ok(), "{good}");
        }
        for (bad, problem) in [
            ("http://10.0.0.1:2379", EndpointProblem::Plaintext),
            ("http://localhost.example", EndpointProblem::Plaintext),
            ("10.0.0.1:2379", EndpointProblem::Form),
            ("unix:///run/etcd", EndpointProblem::Form),
            ("https://root@etcd:2379", EndpointProblem::Form),
            ("https://etcd:2379/v3", EndpointProblem::Form),
            ("https://etcd:2379?a=b", EndpointProblem::Form),
            ("", EndpointProblem::Form),
        ] {
            assert_eq!(EtcdEndpoint::parse(bad), Err(problem), "{bad}");
        }
    }

    #[test]
    fn https_needs_an_authority() {
        let endpoint = EtcdEndpoint::parse("https://127.0.0.1:1").unwrap();
        let refused = LiveEtcd::new(vec![endpoint], None, "/registry".to_owned());
        assert!(matches!(refused, Err(LiveError::NoAuthority { .. })));
    }
}
