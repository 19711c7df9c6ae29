//! Follows `openbao.caCertFile`: a provider that runs for years outlives the CA it was started with.
//!
//! The file is looked at every few seconds, and at once after a handshake that found no trust. A file
//! that cannot be used changes nothing: the roots in use stay. What is read this way is one value,
//! so a client certificate can join it.

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
    failure::FailureClass,
    request::{Outcome, RequestEvent, RequestHook},
};
use tokio::{
    sync::{Notify, oneshot, watch},
    time::{Instant, sleep, timeout},
};

use crate::telemetry::metrics::Metrics;

/// Between two looks at the file.
const INTERVAL: Duration = Duration::from_secs(5);
/// Between looks that failed handshakes ask for.
const PAUSE: Duration = Duration::from_millis(200);
/// A look that takes longer is reported, and waited for: it is the only one at a time.
const PATIENCE: Duration = Duration::from_secs(10);
/// Far above any bundle.
const MAX_BYTES: u64 = 1 << 20;

/// A client whose roots follow the file.
pub struct Followed<F> {
    /// The client.
    pub client: Client,
    /// What is trusted at the moment.
    pub trust: TrustReader,
    /// Must run for as long as the client is used.
    pub following: F,
}

/// What is trusted at the moment. Cheap to clone; reading does not wait.
#[derive(Debug, Clone)]
pub struct TrustReader(watch::Receiver<TrustView>);

/// The roots in use, and the last look at their file.
#[derive(Debug, Clone, Default)]
pub struct TrustView {
    /// Hash of the text in use; `None` before the first look that found a usable file.
    pub bundle: Option<TextHash>,
    /// When the roots were last replaced in this process.
    pub replaced: Option<Instant>,
    /// Why the file at its path is not in use, and since when.
    pub refused: Option<(&'static str, Instant)>,
}

impl TrustReader {
    /// The present state.
    #[must_use]
    pub fn view(&self) -> TrustView {
        self.0.borrow().clone()
    }
}

/// A client for this endpoint and its further addresses, whose roots follow `path`.
///
/// # Errors
/// As of [`Client::with`].
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
    /// The file that was judged last.
    seen: Option<Mark>,
    publish: watch::Sender<TrustView>,
    metrics: Arc<Metrics>,
}

/// Tells one file from another without reading it.
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
            // A file written twice within the grain of its times has one mark.
            if timeout(INTERVAL, distrusted.notified()).await.is_ok() {
                self.seen = None;
            }
        }
    }

    async fn look(&mut self) {
        let (answer, mut answered) = oneshot::channel();
        let (path, seen) = (self.path.clone(), self.seen);
        // A thread of its own: one that a dead mount holds must not keep the runtime from ending.
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

    /// Said once for each reason.
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

/// The file, unless it is the one seen before.
fn read(path: &Path, seen: Option<Mark>) -> io::Result<Option<(Mark, Vec<u8>)>> {
    let mut pem = Vec::new();
    // By name first: a pipe in its place would hold up the opening.
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
