//! Commits by the single writer: the document first, its checkpoint second, each synced. The caller
//! may publish the document only afterwards.
//!
//! The order matters: a lone newer document is repairable, while a lone newer checkpoint looks like
//! a rolled-back state.
//!
//! Implements the write order and the recovery of `docs/format/state-document.md`.

use std::io;

use kms_domain::{
    confirmed::Confirmed,
    registry::{
        checkpoint::{Checkpoint, CheckpointStatus},
        document::{Document, Generation},
        retire::Plan,
    },
};

use super::{
    Pair, StateError, StatePath, StorageFault,
    disk::{Directory, Disk, DiskError, Space},
    lock::Lock,
};

/// The single writer of the state; dropping it releases the lock.
pub struct StateWriter {
    path: StatePath,
    directory: Directory,
    #[expect(dead_code, reason = "held until the writer is dropped")]
    lock: Lock,
    disk: Box<dyn Disk>,
    found: CheckpointStatus,
    committed: Option<Document>,
    attempted: Option<Document>,
}

/// Why a commit failed. The committed document is the previous one.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// An earlier commit must be completed first, because parts of it may be on disk.
    #[error("an earlier commit of generation {0} is not complete yet")]
    Unfinished(Generation),
    /// The document does not follow the committed one. Nothing was written.
    #[error("generation {0} does not follow the committed state; nothing was written")]
    NotTheNext(Generation),
    /// The files could not be read back. Nothing was written.
    #[error("the state on disk could not be examined before the commit; nothing was written")]
    Examine(#[source] StateError),
    /// Another process changed the files despite the lock. Nothing was written.
    #[error(
        "{} or its checkpoint was changed by something else while this process held the lock; \
         nothing was written, and no newer key will be used. Restart the provider, so that it \
         judges what is there now; do not delete either file",
        path.document().display()
    )]
    Foreign { path: StatePath },
    /// The disk failed. The commit stays attempted: [`StateWriter::complete`] finishes it.
    #[error("generation {generation} could not be stored; the state in use stays as it was")]
    Store {
        /// Generation of the attempted document.
        generation: Generation,
        #[source]
        problem: DiskError,
    },
}

impl CommitError {
    /// The bounded cause, for log, `/ready` and metrics.
    #[must_use]
    pub fn fault(&self) -> StorageFault {
        match self {
            Self::Unfinished(_) | Self::NotTheNext(_) => StorageFault::Io,
            Self::Examine(problem) => problem.fault(),
            Self::Foreign { .. } => StorageFault::ForeignState,
            Self::Store { problem, .. } => problem.fault(),
        }
    }
}

impl StateWriter {
    pub(super) fn new(
        path: StatePath,
        directory: Directory,
        lock: Lock,
        disk: Box<dyn Disk>,
        found: CheckpointStatus,
        committed: Option<Document>,
    ) -> Self {
        Self {
            path,
            directory,
            lock,
            disk,
            found,
            committed,
            attempted: None,
        }
    }

    /// Relation of the files at the start, before this writer updated the checkpoint.
    #[must_use]
    pub fn found(&self) -> CheckpointStatus {
        self.found
    }

    /// The durable document with a current checkpoint; `None` before the first commit.
    #[must_use]
    pub fn committed(&self) -> Option<&Document> {
        self.committed.as_ref()
    }

    /// Makes `next` durable and returns it as the committed document, ready for publication.
    ///
    /// # Errors
    /// [`CommitError`]. After [`CommitError::Store`], [`CommitError::Examine`] and
    /// [`CommitError::Foreign`], `next` stays attempted.
    pub fn commit(&mut self, next: Document) -> Result<&Document, CommitError> {
        if let Some(attempted) = &self.attempted {
            return Err(CommitError::Unfinished(attempted.generation()));
        }
        let accepted = self.committed.as_ref().map(Checkpoint::of);
        match CheckpointStatus::of(Some(&next), accepted.as_ref()) {
            Ok(
                CheckpointStatus::Behind
                | CheckpointStatus::Missing {
                    first_generation: true,
                },
            ) => self.store(next),
            _ => Err(CommitError::NotTheNext(next.generation())),
        }
    }

    /// Makes the result of a confirmed plan durable; a plan without changes writes nothing.
    ///
    /// # Errors
    /// As [`StateWriter::commit`]: [`CommitError::NotTheNext`] if the plan was made for another
    /// state than the committed one.
    pub fn carry_out(&mut self, plan: Confirmed<Plan>) -> Result<(), CommitError> {
        match plan.into_next() {
            Some(next) => self.commit(next).map(drop),
            None => Ok(()),
        }
    }

    /// Completes a failed commit by writing all of it again; `None` if there is no such commit.
    ///
    /// # Errors
    /// [`CommitError`]; the commit stays attempted.
    pub fn complete(&mut self) -> Result<Option<&Document>, CommitError> {
        match self.attempted.take() {
            Some(attempted) => self.store(attempted).map(Some),
            None => Ok(None),
        }
    }

    /// Read-only check: the disk must hold exactly the committed document and its checkpoint.
    ///
    /// # Errors
    /// [`CommitError::Foreign`], also for the partial files of a failed commit, or
    /// [`CommitError::Examine`].
    pub fn confirm(&self) -> Result<(), CommitError> {
        let expected = pair(self.committed.as_ref(), self.committed.as_ref());
        if self.read()? == expected {
            Ok(())
        } else {
            Err(self.foreign())
        }
    }

    /// Free space of the disk, and why the next save would fail on it.
    ///
    /// # Errors
    /// The space is unknown.
    pub fn space(&self) -> io::Result<(Space, Option<StorageFault>)> {
        let document = self.committed.as_ref().map(Document::encode);
        let space = self.directory.space()?;
        Ok((space, space.fault(document.map_or(0, |it| it.len()))))
    }

    fn store(&mut self, next: Document) -> Result<&Document, CommitError> {
        let outcome = self.try_store(&next);
        if let Err(error) = outcome {
            self.attempted = Some(next);
            return Err(error);
        }
        Ok(self.committed.insert(next))
    }

    /// The disk may hold the committed pair, or the partial result of an earlier attempt at `next`.
    /// Any other content comes from another process and must not be overwritten.
    fn try_store(&mut self, next: &Document) -> Result<(), CommitError> {
        let committed = self.committed.as_ref();
        let ours = [
            pair(committed, committed),
            pair(Some(next), committed),
            pair(Some(next), Some(next)),
        ];
        if !ours.contains(&self.read()?) {
            return Err(self.foreign());
        }

        let checkpoint = Checkpoint::of(next);
        let files = [
            (self.path.document_name().to_owned(), next.encode()),
            (self.path.checkpoint_name(), checkpoint.encode()),
        ];
        for (name, text) in files {
            self.directory
                .replace(&mut *self.disk, &name, text.as_bytes())
                .map_err(|problem| CommitError::Store {
                    generation: next.generation(),
                    problem,
                })?;
        }
        Ok(())
    }

    fn read(&self) -> Result<Pair, CommitError> {
        self.directory
            .require_in_place()
            .map_err(StateError::Unreadable)
            .and_then(|()| Pair::read(&self.directory, &self.path, Document::decode))
            .map_err(CommitError::Examine)
    }

    fn foreign(&self) -> CommitError {
        CommitError::Foreign {
            path: self.path.clone(),
        }
    }
}

/// A document, with the checkpoint of `anchored`.
fn pair(document: Option<&Document>, anchored: Option<&Document>) -> Pair {
    Pair {
        document: document.cloned(),
        checkpoint: anchored.map(Checkpoint::of),
    }
}
