//! Reads all keys of a running etcd in pages, at a single revision. The only RPC is Range; an
//! inconsistent response is an error.
//!
//! The reading is limited to a prefix if etcd's access control or the operator restricts it. Keys
//! outside the prefix are counted if permitted.

use std::{
    collections::BTreeMap,
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
use kms_node::{
    advice::{Cause, snapshot},
    report::one_line,
};
use tokio::{runtime, time::timeout};
use tonic::{
    Code, Request, Status,
    client::Grpc,
    transport::{self, Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};
use tonic_prost::ProstCodec;
use zeroize::Zeroizing;

use super::{
    EtcdReading, Trust,
    inventory::name,
    prefix::{self, is_below},
    unread::Unread,
};

/// Members of one etcd cluster, with TLS credentials.
pub struct LiveEtcd {
    endpoints: Vec<EtcdEndpoint>,
    tls: ClientTlsConfig,
    bounds: Bounds,
    /// Revision of the first reading. Later readings use it until it is compacted.
    pinned: OnceLock<i64>,
}

/// Range of keys to read.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// Prefix of the keys that are always read; normalized by [`prefix::parse`].
    pub prefix: String,
    /// Read the prefix only. Otherwise this happens only if etcd denies access to other keys.
    pub prefix_only: bool,
    /// Prefixes with the operator's permission to stay unread.
    pub allowed: Vec<String>,
}

/// Client URL of a member: `https://HOST[:PORT]`, the same as `HOST:PORT`, or `http://` on loopback.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdEndpoint(Uri);

/// Error in a client URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EndpointProblem {
    /// Unsupported scheme, missing host, or a path, query or user.
    #[error("must be https://HOST:PORT, or HOST:PORT")]
    Form,
    /// Data from etcd would cross the network unencrypted.
    #[error("must begin with https://; http:// is allowed to a loopback address only")]
    Plaintext,
}

/// Paths of the TLS files.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// CA certificates for verifying etcd.
    pub authority: PathBuf,
    /// Client certificate and its key.
    pub client: Option<(PathBuf, PathBuf)>,
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
            | Self::Runtime(_)
            | Self::Connect { .. }
            | Self::Call { .. }
            | Self::Answer { .. } => &snapshot::ETCD_UNREACHABLE,
        }
    }
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Time limit of one page.
const PAGE_TIMEOUT: Duration = Duration::from_secs(30);

/// Revision number in a request for the newest revision.
const NEWEST: i64 = 0;
/// Maximum number of objects per page.
const PAGE: i64 = 500;
/// Maximum size of a page in bytes. A larger page is requested again with half of its objects.
const PAGE_BYTES: usize = 64 << 20;
/// Maximum number of restarts. The API server compacts every five minutes, so even a second one is
/// rare.
const RESTARTS: u32 = 5;
/// Maximum number of characters printed from a server's message.
const MESSAGE: usize = 300;
/// Maximum number of unread prefixes listed. Each one takes two requests.
const LISTED: usize = 100;
const RANGE: PathAndQuery = PathAndQuery::from_static("/etcdserverpb.KV/Range");

impl EtcdEndpoint {
    /// Parses a URL, or `HOST:PORT` as etcdctl takes it.
    ///
    /// # Errors
    /// The violated rule.
    pub fn parse(text: &str) -> Result<Self, EndpointProblem> {
        let bare = !text.contains("://");
        let uri: Uri = match bare {
            true => format!("https://{text}").parse(),
            false => text.parse(),
        }
        .map_err(|_| EndpointProblem::Form)?;
        if bare && uri.port().is_none() {
            return Err(EndpointProblem::Form);
        }
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
            pinned: OnceLock::new(),
        };
        // Reports invalid TLS files here instead of at the first connection.
        for endpoint in &live.endpoints {
            live.endpoint(endpoint).map_err(LiveError::Tls)?;
        }
        Ok(live)
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
        let read = runtime.block_on(async {
            let mut reader = self.connect().await?;
            let pinned = self.pinned.get().copied().unwrap_or(NEWEST);
            reader
                .read_all(&self.bounds, pinned, on_progress, new, gather)
                .await
        });
        if let Ok(reading) = &read {
            self.pinned.get_or_init(|| reading.totals.revision);
        }
        // Avoids waiting for a hanging name lookup.
        runtime.shutdown_background();
        read
    }

    /// Connects to the first available member.
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

/// Connection to a member.
struct Reader {
    endpoint: EtcdEndpoint,
    grpc: Grpc<Channel>,
}

/// Failure of one page.
enum NoPage {
    /// Compaction removed the revision.
    Compacted,
    /// The page is larger than [`PAGE_BYTES`].
    TooLarge,
    /// Access to this range is denied.
    Denied(LiveError),
    Other(LiveError),
}

impl Reader {
    async fn read_all<A>(
        &mut self,
        bounds: &Bounds,
        mut revision: i64,
        on_progress: OnProgress<'_>,
        mut new: impl FnMut() -> A,
        mut gather: impl FnMut(&mut A, Object<'_>),
    ) -> Result<EtcdReading<A>, LiveError> {
        for restarts in 0..=RESTARTS {
            let mut gathered = new();
            let mut each = |object: Object<'_>| gather(&mut gathered, object);
            let read = self.read_within(bounds, revision, on_progress, &mut each);
            match read.await {
                Ok((totals, unread)) => {
                    return Ok(EtcdReading {
                        gathered,
                        totals,
                        trust: Trust::Live { restarts },
                        unread,
                    });
                }
                Err(NoPage::Compacted) => revision = NEWEST,
                Err(NoPage::TooLarge) => {
                    return Err(self.answer("one object has more bytes than etcd can store"));
                }
                Err(NoPage::Denied(error) | NoPage::Other(error)) => return Err(error),
            }
        }
        Err(LiveError::Compacted)
    }

    /// Counts all keys, which also tests read access to them. Then reads the keys within the bounds
    /// at the same revision.
    async fn read_within(
        &mut self,
        bounds: &Bounds,
        revision: i64,
        on_progress: OnProgress<'_>,
        gather: &mut dyn FnMut(Object<'_>),
    ) -> Result<(Totals, Option<Unread>), NoPage> {
        let (revision, all) = match self.count(&Keys::all(), revision).await {
            Ok((keys, revision)) => (revision, Some(keys)),
            Err(NoPage::Denied(_)) => (revision, None),
            Err(error) => return Err(error),
        };

        if all.is_some() && !bounds.prefix_only {
            let read = self.read_once(Keys::all(), revision, on_progress, gather);
            return Ok((read.await?, None));
        }
        let below = Keys::below(bounds.prefix.as_bytes());
        let totals = self.read_once(below, revision, on_progress, gather).await?;

        let outside = all.map(|all| all.saturating_sub(totals.keys));
        if outside == Some(0) {
            return Ok((totals, None));
        }
        let prefixes = match outside {
            Some(_) => self.prefixes(&bounds.prefix, totals.revision).await?,
            None => BTreeMap::new(),
        };

        let unread = Unread {
            below: bounds.prefix.clone(),
            keys: outside,
            prefixes,
            allowed: bounds.allowed.clone(),
        };
        Ok((totals, Some(unread)))
    }

    /// Number of keys per prefix outside `known`, for the first [`LISTED`] prefixes.
    async fn prefixes(
        &mut self,
        known: &str,
        revision: i64,
    ) -> Result<BTreeMap<String, u64>, NoPage> {
        let mut found: BTreeMap<String, u64> = BTreeMap::new();
        let mut rest = Keys::all();
        // One more iteration, because `known` may take one.
        for _ in 0..=LISTED {
            let request = RangeRequest {
                limit: 1,
                keys_only: true,
                ..rest.request(revision)
            };
            let page = self.page(request).await?;
            let Some(KeyValue { key, .. }) = page.kvs.first() else {
                break;
            };
            if !rest.contain(key) {
                return Err(NoPage::Other(self.answer(OUT_OF_ORDER)));
            }

            if is_below(key, known) {
                rest.start = Keys::below(known.as_bytes()).end;
                continue;
            }

            let prefix = prefix::of_key(key, known);
            let (keys, next) = if prefix.len() == key.len() {
                (1, after(key))
            } else {
                let below = Keys::below(prefix);
                let (keys, _) = self.count(&below, revision).await?;
                (keys, below.end)
            };
            let sum = found.entry(name(prefix)).or_default();
            *sum = sum.saturating_add(keys);
            rest.start = next;
        }
        Ok(found)
    }

    /// Number of keys at a revision, and the revision itself, which resolves [`NEWEST`].
    async fn count(&mut self, keys: &Keys, revision: i64) -> Result<(u64, i64), NoPage> {
        let request = RangeRequest {
            count_only: true,
            ..keys.request(revision)
        };
        let page = self.page(request).await?;
        let revision = match revision {
            NEWEST => page.header.map_or(0, |header| header.revision),
            pinned => pinned,
        };
        match u64::try_from(page.count) {
            Ok(count) if revision > 0 => Ok((count, revision)),
            _ => Err(NoPage::Other(self.answer("it has no revision or no count"))),
        }
    }

    async fn read_once(
        &mut self,
        mut keys: Keys,
        mut revision: i64,
        on_progress: OnProgress<'_>,
        gather: &mut dyn FnMut(Object<'_>),
    ) -> Result<Totals, NoPage> {
        let (mut limit, mut all, mut done) = (PAGE, None, 0);
        loop {
            let request = RangeRequest {
                limit,
                ..keys.request(revision)
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

            // Later pages count only the remaining keys.
            let total = *all.get_or_insert_with(|| u64::try_from(page.count).unwrap_or(0));
            for object in &page.kvs {
                if !keys.contain(&object.key) {
                    return broken(OUT_OF_ORDER);
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
                keys.start = after(&object.key);
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
        let failed = |cause| LiveError::Call { endpoint, cause };
        if let Err(error) = self.grpc.ready().await {
            return Err(NoPage::Other(failed(one_line(&error))));
        }
        let codec = ProstCodec::default();
        let asked = self.grpc.unary(Request::new(request), RANGE, codec);
        // The timeout of the channel covers the response headers only.
        let Ok(answer) = timeout(PAGE_TIMEOUT, asked).await else {
            let cause = format!("a page did not come within {PAGE_TIMEOUT:?}");
            return Err(NoPage::Other(failed(cause)));
        };
        match answer {
            Ok(answer) => Ok(answer.into_inner()),
            // Two errors share this code: compaction, from etcd, and page size, from this client.
            Err(status) if status.code() == Code::OutOfRange => {
                match status.message().contains("has been compacted") {
                    true => Err(NoPage::Compacted),
                    false => Err(NoPage::TooLarge),
                }
            }
            Err(status) if status.code() == Code::PermissionDenied => {
                Err(NoPage::Denied(failed(said(&status))))
            }
            Err(status) => Err(NoPage::Other(failed(said(&status)))),
        }
    }

    fn answer(&self, broken: &'static str) -> LiveError {
        LiveError::Answer {
            endpoint: self.endpoint.clone(),
            broken,
        }
    }
}

const OUT_OF_ORDER: &str = "its keys are out of order or not those that were asked for";

/// Half-open range of keys: `start` included, `end` excluded.
struct Keys {
    start: Bytes,
    /// A single zero byte means no end, as in the etcd API.
    end: Bytes,
}

/// In the etcd API, the first key as `start`, and no end as `end`.
const NUL: Bytes = Bytes::from_static(&[0]);

impl Keys {
    fn all() -> Self {
        Self {
            start: NUL,
            end: NUL,
        }
    }

    /// Keys of the API server with this prefix. `0` is the byte after `/`, so `/registry-2` and
    /// `/registry2` are outside `/registry`.
    fn below(prefix: &[u8]) -> Self {
        Self {
            start: [prefix, b"/"].concat().into(),
            end: [prefix, b"0"].concat().into(),
        }
    }

    fn contain(&self, key: &[u8]) -> bool {
        self.start <= *key && (self.end == NUL || self.end > *key)
    }

    fn request(&self, revision: i64) -> RangeRequest {
        RangeRequest {
            key: self.start.clone(),
            range_end: self.end.clone(),
            revision,
            ..RangeRequest::default()
        }
    }
}

/// Successor of a key in byte order.
fn after(key: &[u8]) -> Bytes {
    [key, &[0]].concat().into()
}

/// Message from the server, or error of the connection.
fn said(status: &Status) -> String {
    let cause = status
        .source()
        .map_or_else(String::new, |source| format!(" ({})", one_line(source)));
    let message: String = status.message().chars().take(MESSAGE).collect();
    format!("{}{cause}", message.escape_debug())
}

/// `etcdserverpb.RangeRequest`, fields in use only. The defaults of the others select a
/// linearizable read in key order.
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
    #[prost(bool, tag = "8")]
    keys_only: bool,
    #[prost(bool, tag = "9")]
    count_only: bool,
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

/// `etcdserverpb.ResponseHeader`, fields in use only.
#[derive(Clone, Copy, PartialEq, prost::Message)]
struct ResponseHeader {
    #[prost(int64, tag = "3")]
    revision: i64,
}

/// `mvccpb.KeyValue`, fields in use only.
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
            ("10.0.0.1", EndpointProblem::Form),
            ("[::1]", EndpointProblem::Form),
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
        let bounds = Bounds {
            prefix: prefix::DEFAULT.to_owned(),
            prefix_only: false,
            allowed: Vec::new(),
        };
        let refused = LiveEtcd::new(vec![endpoint], None, bounds);
        assert!(matches!(refused, Err(LiveError::NoAuthority { .. })));
    }
}
