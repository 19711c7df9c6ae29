//! The committed document, and commits on a thread that may block. What is in memory here is what
//! is on disk, or was when it was committed.
//!
//! A disk that hangs holds one thread and nothing else: every wait here is bounded, and while that
//! thread lasts, further work on the state is refused at once.

use std::{sync::Arc, time::Duration};

use kms_domain::registry::{Registry, document::Document};
use tokio::{sync::Mutex, task, time::timeout};

use crate::state::{CommitError, StateWriter, StorageFault};

/// How long the watcher waits for the disk. A commit that takes longer is not lost: the thread sees
/// it to its end, and [`Ledger::complete`] takes the document up.
const PATIENCE: Duration = Duration::from_secs(5);

/// The state of this node; owned by the watcher alone.
pub struct Ledger {
    /// Locked for as long as a thread works on it, even if nobody waits for that any more.
    state: Arc<Mutex<StateWriter>>,
    document: Option<Document>,
    /// A commit has failed, or nobody saw its end.
    unsettled: bool,
}

/// Why a document is not durable, or not known to be.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The disk refused, or holds something foreign.
    #[error(
        "the registry state could not be saved; keys in use stay in use, and the next probe tries \
         to save it again"
    )]
    Commit(#[from] CommitError),
    /// The thread that works on the state ended early.
    #[error("the work on the registry state was interrupted")]
    Interrupted,
    /// The disk hangs.
    #[error(
        "the disk below the registry state does not answer; keys in use stay in use, and the next \
         probe tries again"
    )]
    NoAnswer,
}

impl LedgerError {
    /// The bounded cause, for log, `/ready` and metrics.
    #[must_use]
    pub fn fault(&self) -> StorageFault {
        match self {
            Self::Commit(error) => error.fault(),
            Self::Interrupted => StorageFault::Io,
            Self::NoAnswer => StorageFault::NoAnswer,
        }
    }
}

impl Ledger {
    /// What the writer found on disk.
    #[must_use]
    pub fn new(state: StateWriter) -> Self {
        let document = state.committed().cloned();
        Self {
            state: Arc::new(Mutex::new(state)),
            document,
            unsettled: false,
        }
    }

    /// The committed document.
    #[must_use]
    pub fn document(&self) -> Option<&Document> {
        self.document.as_ref()
    }

    /// The committed registry.
    #[must_use]
    pub fn registry(&self) -> Option<&Arc<Registry>> {
        self.document.as_ref().map(Document::registry)
    }

    /// Completes when no thread works on the state, to be awaited before the process ends: who
    /// waits for a commit may be stopped, but not the commit itself.
    pub fn settled(&self) -> impl Future<Output = ()> + use<> {
        let state = Arc::clone(&self.state);
        async move { drop(state.lock().await) }
    }

    /// Makes `next` durable.
    ///
    /// # Errors
    /// [`LedgerError`]; the document in use stays, and [`Ledger::complete`] tries again.
    pub async fn commit(&mut self, next: Document) -> Result<(), LedgerError> {
        self.unsettled = true;
        let committed = self.work(move |state| state.commit(next).cloned()).await?;
        self.document = Some(committed);
        self.unsettled = false;
        Ok(())
    }

    /// Completes a commit that failed before, or takes up one that nobody waited for; `false` if
    /// the document stays the same.
    ///
    /// # Errors
    /// [`LedgerError`]; it stays to be completed.
    pub async fn complete(&mut self) -> Result<bool, LedgerError> {
        if !self.unsettled {
            return Ok(false);
        }
        let committed = self
            .work(|state| {
                state.complete()?;
                Ok(state.committed().cloned())
            })
            .await?;
        self.unsettled = false;
        let is_new = committed != self.document;
        self.document = committed;
        Ok(is_new)
    }

    /// Begins to compare the disk with the document in use; the result is that of the future. A
    /// part that a failed commit has left counts as foreign.
    pub fn confirm(&self) -> impl Future<Output = Result<(), LedgerError>> + use<> {
        self.work(|state| state.confirm())
    }

    fn work<T, F>(&self, work: F) -> impl Future<Output = Result<T, LedgerError>> + use<T, F>
    where
        T: Send + 'static,
        F: FnOnce(&mut StateWriter) -> Result<T, CommitError> + Send + 'static,
    {
        // Whoever holds it is a thread that the disk keeps from ending.
        let begun = Arc::clone(&self.state)
            .try_lock_owned()
            .map(|mut state| task::spawn_blocking(move || work(&mut state)));
        async move {
            let begun = begun.map_err(|_held| LedgerError::NoAnswer)?;
            match timeout(PATIENCE, begun).await {
                Ok(Ok(result)) => Ok(result?),
                Ok(Err(_panicked_or_cancelled)) => Err(LedgerError::Interrupted),
                Err(_elapsed) => Err(LedgerError::NoAnswer),
            }
        }
    }
}
