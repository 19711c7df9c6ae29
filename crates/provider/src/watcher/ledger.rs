//! The committed document, and commits on a thread that may block. What is in memory here is what
//! is on disk.

use std::sync::Arc;

use kms_domain::registry::{Registry, document::Document, rotation::Change};
use tokio::{sync::Mutex, task};

use crate::state::{CommitError, StateWriter};

/// The state of this node; owned by the watcher alone.
pub struct Ledger {
    /// Locked for as long as a thread works on it, even if nobody waits for that any more.
    state: Arc<Mutex<StateWriter>>,
    document: Option<Document>,
    /// What a commit that has not been completed would change; `None` is the first document.
    attempted: Option<Option<Change>>,
}

/// Why a document is not durable.
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
}

impl Ledger {
    /// What the writer found on disk.
    #[must_use]
    pub fn new(state: StateWriter) -> Self {
        let document = state.committed().cloned();
        Self {
            state: Arc::new(Mutex::new(state)),
            document,
            attempted: None,
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
    pub async fn commit(
        &mut self,
        next: Document,
        change: Option<Change>,
    ) -> Result<(), LedgerError> {
        self.attempted = Some(change);
        let committed = self
            .with_state(move |state| state.commit(next).cloned())
            .await?;
        self.document = Some(committed);
        self.attempted = None;
        Ok(())
    }

    /// Completes a commit that failed before; `false` if there is none.
    ///
    /// # Errors
    /// [`LedgerError`]; it stays to be completed.
    pub async fn complete(&mut self) -> Result<bool, LedgerError> {
        let completed = self
            .with_state(|state| Ok(state.complete()?.cloned()))
            .await?;
        self.attempted = None;
        let is_new = completed.is_some();
        if is_new {
            self.document = completed;
        }
        Ok(is_new)
    }

    /// Whether all that a failed commit loses is a count, and the disk still holds the document in
    /// use: then nothing but time is at stake.
    pub async fn lost_only_a_count(&self) -> bool {
        self.attempted == Some(Some(Change::Counted))
            && self.with_state(|state| state.confirm()).await.is_ok()
    }

    async fn with_state<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut StateWriter) -> Result<T, CommitError> + Send + 'static,
    ) -> Result<T, LedgerError> {
        let mut state = Arc::clone(&self.state).lock_owned().await;
        let blocking = task::spawn_blocking(move || work(&mut state));
        match blocking.await {
            Ok(result) => Ok(result?),
            Err(_panicked_or_cancelled) => Err(LedgerError::Interrupted),
        }
    }
}
