//! Views of the control-plane nodes from their metrics, their sockets or copies of their state
//! files. Read-only; the only call to a node is Status.

use std::{
    fmt, fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use kms_domain::{
    digest::TextHash,
    recovery::nodes::{NodeView, Pending, StateView},
    registry::{
        RecordState,
        checkpoint::CheckpointStatus,
        document::{Document, Generation},
    },
};
use kms_node::{
    node_files::socket_mark,
    plain_http::{self, GetError, HttpUrl},
    probe::{KmsClient, ProbeError},
    state::{self, StateError, StatePath, Stored},
};
use tokio::task::JoinSet;

pub mod exposition;
pub mod report;

use exposition::NotMetrics;

/// Media type of the metrics.
const ACCEPT: &str = "application/openmetrics-text; version=1.0.0";

/// Name of a node in reports: letters, digits, `.`, `-` and `_`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeName(String);

/// A node with its only source.
#[derive(Debug, Clone)]
pub struct Node {
    pub name: NodeName,
    pub source: Source,
}

/// Source of a view.
#[derive(Debug, Clone)]
pub enum Source {
    /// The metrics of a running provider.
    Metrics(HttpUrl),
    /// The KMS socket of a running provider.
    Socket(PathBuf),
    /// A state file with its checkpoint.
    State(StatePath),
}

/// Successful view of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// Basis of the comparison.
    pub view: NodeView,
    /// Generation of its state. Each node has its own sequence.
    pub generation: Option<u64>,
    /// Status of the checkpoint relative to the state.
    pub checkpoint: Option<&'static str>,
    /// Time of the first observation of the pending version, in Unix seconds.
    pub pending_since: Option<u64>,
    /// Configured minimum time from that observation to the promotion.
    pub expected_wait: Option<Duration>,
    /// Readiness reasons.
    pub reasons: Vec<String>,
    pub provider_version: Option<String>,
    /// Reason for rejecting its state.
    pub refused: Option<String>,
    /// Whether the source distinguishes this node from all others.
    pub told_apart: bool,
}

/// Failure of a view.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    /// Reading the metrics failed.
    #[error(transparent)]
    Scrape(#[from] GetError),
    /// Metrics of another program, or damaged ones.
    #[error(transparent)]
    Metrics(#[from] NotMetrics),
    /// The Status call failed.
    #[error(transparent)]
    Socket(#[from] ProbeError),
    /// The state file is unreadable.
    #[error(transparent)]
    State(Box<StateError>),
    /// The task ended without a result.
    #[error("looking at the node was interrupted")]
    Interrupted,
}

/// Invalid set of nodes for a comparison.
#[derive(Debug, thiserror::Error)]
pub enum NodesProblem {
    #[error("at least two nodes are compared; name each with --metrics, --socket or --state")]
    TooFew,
    /// Two nodes have the same name.
    #[error(
        "two nodes are named {0}; a node is given once, with one of --metrics, --socket, --state"
    )]
    SameName(NodeName),
}

/// Requires at least two nodes, with distinct names.
///
/// # Errors
/// [`NodesProblem`].
pub fn require_comparable(nodes: &[Node]) -> Result<(), NodesProblem> {
    let mut rest = nodes;
    while let Some((node, others)) = rest.split_first() {
        if others.iter().any(|other| other.name == node.name) {
            return Err(NodesProblem::SameName(node.name.clone()));
        }
        rest = others;
    }
    match nodes.len() {
        0 | 1 => Err(NodesProblem::TooFew),
        _ => Ok(()),
    }
}

impl NodeName {
    /// Parses a name that is safe to print.
    ///
    /// # Errors
    /// Other characters, or a length outside 1 to 63.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        if (1..=63).contains(&text.len()) && text.chars().all(allowed) {
            Ok(Self(text.to_owned()))
        } else {
            Err("the name before '=' must be 1 to 63 letters, digits, '.', '-' or '_'")
        }
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Source {
    /// Code in reports.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Metrics(_) => "metrics",
            Self::Socket(_) => "socket",
            Self::State(_) => "state",
        }
    }

    async fn look(self, limit: Duration) -> Result<Seen, LookError> {
        match self {
            Self::Metrics(url) => {
                let text = plain_http::get(&url, ACCEPT, limit).await?;
                let mut seen = exposition::read(&text)?;
                seen.view.marks.push(url.mark());
                Ok(seen)
            }
            Self::Socket(socket) => {
                let mut seen = Self::ask(&socket, limit).await?;
                seen.view.marks.extend(socket_mark(&socket));
                seen.told_apart = !seen.view.marks.is_empty();
                Ok(seen)
            }
            Self::State(path) => {
                let found = fs::metadata(path.document()).ok();
                let mark =
                    |it: fs::Metadata| TextHash::of(&format!("file {} {}", it.dev(), it.ino()));
                let mut seen = Self::read(&path)?;
                seen.view.marks.extend(found.map(mark));
                seen.told_apart = true;
                Ok(seen)
            }
        }
    }

    async fn ask(socket: &Path, limit: Duration) -> Result<Seen, LookError> {
        match KmsClient::new(socket, limit)?.healthy(None).await {
            Ok(healthy) => Ok(Seen {
                view: NodeView {
                    active: Some(healthy.key_id.hash()),
                    ready: Some(true),
                    ..NodeView::default()
                },
                ..Seen::default()
            }),
            // An unhealthy Status has neither a key nor a reason.
            Err(ProbeError::Unhealthy) => Ok(Seen {
                view: NodeView {
                    ready: Some(false),
                    ..NodeView::default()
                },
                ..Seen::default()
            }),
            Err(error) => Err(error.into()),
        }
    }

    fn read(path: &StatePath) -> Result<Seen, LookError> {
        match state::inspect(path) {
            Ok(stored) => Ok(Seen::of_state(&stored)),
            Err(error @ StateError::Unreadable(_)) => Err(LookError::State(Box::new(error))),
            Err(error) => Ok(Seen {
                view: NodeView {
                    state: StateView::Refused,
                    ..NodeView::default()
                },
                refused: Some(error.finding()),
                ..Seen::default()
            }),
        }
    }
}

/// Views all nodes concurrently, to keep the views comparable. Keeps the order of `nodes`.
pub async fn look(nodes: &[Node], limit: Duration) -> Vec<Result<Seen, LookError>> {
    let mut looks = JoinSet::new();
    for (index, node) in nodes.iter().enumerate() {
        let source = node.source.clone();
        looks.spawn(async move { (index, source.look(limit).await) });
    }
    let mut seen: Vec<_> = nodes.iter().map(|_| Err(LookError::Interrupted)).collect();
    while let Some(looked) = looks.join_next().await {
        if let Ok((index, looked)) = looked
            && let Some(place) = seen.get_mut(index)
        {
            *place = looked;
        }
    }
    seen
}

impl Seen {
    fn of_state(stored: &Stored) -> Self {
        let unanchored = CheckpointStatus::Missing {
            first_generation: false,
        };
        let refused = (stored.anchor == unanchored).then(|| {
            "the checkpoint is missing, so nothing shows that this state is the newest".to_owned()
        });
        let state = match (&stored.document, &refused) {
            (None, _) => StateView::Absent,
            (Some(_), Some(_)) => StateView::Refused,
            (Some(_), None) => StateView::Usable,
        };
        let document = stored.document.as_ref();
        let view = document.map(of_document).unwrap_or_default();
        Self {
            view: NodeView { state, ..view },
            generation: document.map(Document::generation).map(Generation::get),
            checkpoint: Some(stored.checkpoint_status()),
            pending_since: document
                .and_then(|it| it.registry().pending())
                .and_then(|pending| pending.bookkeeping.observed_at())
                .map(|since| since.get()),
            refused,
            ..Self::default()
        }
    }
}

fn of_document(document: &Document) -> NodeView {
    let registry = document.registry();
    let active = registry.active();
    let known = registry.records().iter().map(|record| {
        let hash: TextHash = record.key.id_hash().clone();
        (hash, record.key.version())
    });
    let removed = registry.records().iter();
    let removed = removed.filter(|record| record.state == RecordState::Removed);
    NodeView {
        fingerprint: document.fingerprint().cloned(),
        active: Some(active.id_hash().clone()),
        active_version: Some(active.version()),
        pending: match registry.pending() {
            Some(pending) => Pending::Version(pending.key.version()),
            None => Pending::No,
        },
        readable: Some(registry.readable()),
        known: known.collect(),
        reads: registry.retained().map(|it| it.key.version()).collect(),
        removed: removed.map(|it| it.key.version()).collect(),
        ..NodeView::default()
    }
}
