//! Reloads `openbao.caCertFile` at run time, because a provider may run longer than its CA is
//! valid.
//!
//! The file is checked every few seconds, and immediately after a handshake with an untrusted
//! certificate. An unusable file changes nothing: the present roots stay in use. The file is read
//! as a single value, so a client certificate can be added.

use std::{
    fs::{self, File},
    future::Future,
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use kms_domain::digest::TextHash;
use openbao_client::{
    client::{Client, ClientOptions, ClientProblem},
    endpoint::{Endpoint, Roots, RootsProblem},
    event::{Outcome, RequestEvent, RequestHook},
    failure::FailureClass,
};
use tokio::{
    sync::{Notify, oneshot, watch},
    time::{Instant, sleep, timeout},
};

use crate::telemetry::metrics::Metrics;

/// Interval between checks of the file.
const INTERVAL: Duration = Duration::from_secs(5);
/// Minimum interval between checks after failed handshakes.
const PAUSE: Duration = Duration::from_millis(200);
/// A slower read is reported and still awaited, because only one runs at a time.
const PATIENCE: Duration = Duration::from_secs(10);
/// Far above the size of any bundle.
const MAX_BYTES: u64 = 1 << 20;

/// A client with roots reloaded from the file.
pub struct Followed<F> {
    pub client: Client,
    /// Reader of the present trust.
    pub trust: TrustReader,
    /// The task that reloads the roots; must run as long as the client is used.
    pub following: F,
}

/// Reads the present trust without waiting. Cheap to clone.
#[derive(Debug, Clone)]
pub struct TrustReader(watch::Receiver<TrustView>);

/// The roots in use, and the result of the last check of their file.
#[derive(Debug, Clone, Default)]
pub struct TrustView {
    /// Hash of the text in use; `None` before the first usable file.
    pub bundle: Option<TextHash>,
    /// Time of the last replacement of the roots in this process.
    pub replaced: Option<Instant>,
    /// Why the present file is not in use, and since when.
    pub refused: Option<(&'static str, Instant)>,
}

impl TrustReader {
    #[must_use]
    pub fn view(&self) -> TrustView {
        self.0.borrow().clone()
    }
}

/// Creates a client for this endpoint and its failover addresses, with roots reloaded from `path`.
///
/// # Errors
/// As for [`Client::with`].
pub fn followed(
    endpoint: Endpoint,
    options: ClientOptions,
    path: PathBuf,
    hook: RequestHook,
    metrics: Arc<Metrics>,
) -> Result<Followed<impl Future<Output = ()> + Send + 'static>, ClientProblem> {
    let distrusted = Arc::new(Notify::new());
    let roots = endpoint.roots.clone();
    let client = Client::with(endpoint, noticing(hook, Arc::clone(&distrusted)), options)?;
    let (publish, view) = watch::channel(TrustView::default());
    let follower = Follower {
        path,
        client: client.clone(),
        roots,
        seen: None,
        publish,
        metrics,
    };
    Ok(Followed {
        client,
        trust: TrustReader(view),
        following: follower.run(distrusted),
    })
}

fn noticing(hook: RequestHook, distrusted: Arc<Notify>) -> RequestHook {
    Arc::new(move |event: &RequestEvent| {
        if event.outcome == Outcome::Failed(FailureClass::TlsFailed) {
            distrusted.notify_one();
        }
        hook(event);
    })
}

struct Follower {
    path: PathBuf,
    client: Client,
    roots: Roots,
    /// The last evaluated file.
    seen: Option<Mark>,
    publish: watch::Sender<TrustView>,
    metrics: Arc<Metrics>,
}

/// Identifies a version of the file without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mark {
    device: u64,
    inode: u64,
    modified: (i64, i64),
    size: u64,
}

impl Mark {
    fn of(metadata: &fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            size: metadata.size(),
        }
    }
}

impl Follower {
    async fn run(mut self, distrusted: Arc<Notify>) {
        loop {
            self.look().await;
            sleep(PAUSE).await;
            // Two writes within the timestamp resolution leave the same mark.
            if timeout(INTERVAL, distrusted.notified()).await.is_ok() {
                self.seen = None;
            }
        }
    }

    async fn look(&mut self) {
        let (answer, mut answered) = oneshot::channel();
        let (path, seen) = (self.path.clone(), self.seen);

        // A separate thread: if a dead mount blocks it, the runtime can still end.
        let started = thread::Builder::new()
            .name("ca-bundle".to_owned())
            .spawn(move || answer.send(read(&path, seen)));
        if started.is_err() {
            return self.refuse("no_thread");
        }

        let looked = match timeout(PATIENCE, &mut answered).await {
            Ok(looked) => looked,
            Err(_) => {
                self.refuse("no_answer");
                answered.await
            }
        };

        match looked {
            Ok(Ok(None)) => {}
            Ok(Ok(Some((mark, pem)))) => {
                self.seen = Some(mark);
                self.judge(&pem);
            }
            Ok(Err(failure)) => {
                self.seen = None;
                self.refuse(reason(&failure));
            }
            Err(_) => self.refuse("unreadable"),
        }
    }

    fn judge(&mut self, pem: &[u8]) {
        let roots = match Roots::from_pem(pem) {
            Ok(roots) => roots,
            Err(RootsProblem::NotPem) => return self.refuse("not_pem"),
            Err(RootsProblem::NoCertificate) => return self.refuse("no_certificate"),
            Err(RootsProblem::Unusable { .. }) => return self.refuse("certificate_unusable"),
        };
        let other = roots != self.roots;

        if other && self.client.replace_roots(roots.clone()).is_err() {
            return self.refuse("certificate_unusable");
        }
        if other {
            let certificates = roots.len();
            tracing::info!(certificates, "openbao.trust_replaced");
            self.metrics.trust_reload("ok");
        }

        self.roots = roots;
        self.publish.send_modify(|view| {
            view.bundle = Some(TextHash::of(&String::from_utf8_lossy(pem)));
            view.refused = None;
            if other {
                view.replaced = Some(Instant::now());
            }
        });
    }

    /// Logged once for each new reason.
    fn refuse(&self, reason: &'static str) {
        let known = self.publish.borrow().refused.map(|(reason, _)| reason);
        if known != Some(reason) {
            tracing::warn!(reason, "openbao.trust_kept");
            self.metrics.trust_reload(reason);
            let refused = Some((reason, Instant::now()));
            self.publish.send_modify(|view| view.refused = refused);
        }
    }
}

/// Reads the file; `None` if its mark is still `seen`.
fn read(path: &Path, seen: Option<Mark>) -> io::Result<Option<(Mark, Vec<u8>)>> {
    let mut pem = Vec::new();
    // Checks the path first: opening a FIFO would block.
    let metadata = fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    if seen == Some(Mark::of(&metadata)) {
        return Ok(None);
    }
    let file = File::open(path)?;
    let mark = Mark::of(&file.metadata()?);
    file.take(MAX_BYTES).read_to_end(&mut pem)?;
    Ok(Some((mark, pem)))
}

fn reason(failure: &io::Error) -> &'static str {
    match failure.kind() {
        io::ErrorKind::NotFound => "missing",
        io::ErrorKind::PermissionDenied => "permission_denied",
        _ => "unreadable",
    }
}
