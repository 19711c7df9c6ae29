//! The committed document, and commits on a blocking thread. The document in memory was on disk
//! when it was committed.
//!
//! A hanging disk blocks one thread only: every wait here has a time limit, and until that thread
//! ends, further disk operations fail immediately.

use std::{sync::Arc, time::Duration};

use kms_domain::registry::{Registry, document::Document};
use kms_node::state::{CommitError, StateWriter, StorageFault, disk::Space};
use tokio::{sync::Mutex, task, time::timeout};

/// Time limit of a disk operation. A slower commit continues on its thread, and
/// [`StateCommitter::complete`] later adopts its document.
const PATIENCE: Duration = Duration::from_secs(5);

/// Committed state of this node; owned by the watcher.
pub struct StateCommitter {
    /// Locked while a thread works on it, even after the end of the wait for that thread.
    state: Arc<Mutex<StateWriter>>,
    document: Option<Document>,
    /// A commit has failed, or its outcome is unknown.
    unsettled: bool,
}

/// Why a document is not durable, or is of unknown durability.
#[derive(Debug, thiserror::Error)]
pub enum CommitterError {
    /// The commit failed, or the disk holds another state.
    #[error(
        "the registry state could not be saved; keys in use stay in use, and the next probe tries \
         to save it again"
    )]
    Commit(#[from] CommitError),
    /// The thread panicked or was canceled.
    #[error("the work on the registry state was interrupted")]
    Interrupted,
    /// The disk operation exceeded its time limit.
    #[error(
        "the disk below the registry state does not answer; keys in use stay in use, and the next \
         probe tries again"
    )]
    NoAnswer,
}

/// The disk at one time.
#[derive(Debug)]
pub struct Confirmed {
    /// Whether it holds the document in use.
    pub document: Result<(), CommitterError>,
    /// Its free space, and why the next save would fail on it; `None` if unknown.
    pub space: Option<(Space, Option<StorageFault>)>,
}

impl CommitterError {
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

impl StateCommitter {
    /// Starts with the document committed in `state`.
    #[must_use]
    pub fn new(state: StateWriter) -> Self {
        let document = state.committed().cloned();
        Self {
            state: Arc::new(Mutex::new(state)),
            document,
            unsettled: false,
        }
    }

    #[must_use]
    pub fn document(&self) -> Option<&Document> {
        self.document.as_ref()
    }

    #[must_use]
    pub fn registry(&self) -> Option<&Arc<Registry>> {
        self.document.as_ref().map(Document::registry)
    }

    /// Completes when all disk operations have ended. Await it before the process ends: the wait
    /// for a commit may be canceled, the commit itself may not.
    pub fn settled(&self) -> impl Future<Output = ()> + use<> {
        let state = Arc::clone(&self.state);
        async move { drop(state.lock().await) }
    }

    /// Makes `next` durable.
    ///
    /// # Errors
    /// [`CommitterError`]; the document in use stays, and [`StateCommitter::complete`] tries again.
    pub async fn commit(&mut self, next: Document) -> Result<(), CommitterError> {
        self.unsettled = true;
        let committed = self.work(move |state| state.commit(next).cloned()).await?;
        self.document = Some(committed);
        self.unsettled = false;
        Ok(())
    }

    /// Completes a failed commit, or adopts one that ended after its time limit; `false` if the
    /// document stays the same.
    ///
    /// # Errors
    /// [`CommitterError`]; the commit stays to be completed.
    pub async fn complete(&mut self) -> Result<bool, CommitterError> {
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

    /// Starts to compare the disk with the document in use, and to measure its free space; the
    /// future returns the results. Partial files of a failed commit count as foreign.
    pub fn confirm(&self) -> impl Future<Output = Confirmed> + use<> {
        let examined = self.work(|state| Ok((state.confirm(), state.space().ok())));
        async move {
            match examined.await {
                Ok((document, space)) => Confirmed {
                    document: document.map_err(CommitterError::from),
                    space,
                },
                Err(error) => Confirmed {
                    document: Err(error),
                    space: None,
                },
            }
        }
    }

    fn work<T, F>(&self, work: F) -> impl Future<Output = Result<T, CommitterError>> + use<T, F>
    where
        T: Send + 'static,
        F: FnOnce(&mut StateWriter) -> Result<T, CommitError> + Send + 'static,
    {
        // A held lock belongs to a thread blocked by the disk.
        let begun = Arc::clone(&self.state)
            .try_lock_owned()
            .map(|mut state| task::spawn_blocking(move || work(&mut state)));
        async move {
            let begun = begun.map_err(|_held| CommitterError::NoAnswer)?;
            match timeout(PATIENCE, begun).await {
                Ok(Ok(result)) => Ok(result?),
                Ok(Err(_panicked_or_cancelled)) => Err(CommitterError::Interrupted),
                Err(_elapsed) => Err(CommitterError::NoAnswer),
            }
        }
    }
}
