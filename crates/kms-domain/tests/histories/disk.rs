//! The two state files as bytes, and a commit with a possible interruption at every step.

use std::cell::Cell;

use kms_domain::registry::{
    checkpoint::{Checkpoint, CheckpointStatus, Rollback},
    document::Document,
};

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Disk {
    pub(crate) state: Option<Vec<u8>>,
    pub(crate) checkpoint: Option<Vec<u8>>,
}

/// The step at which a commit is interrupted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    BeforeState,
    BeforeCheckpoint,
    /// Both files are replaced, but the last sync may be missing.
    AfterCheckpoint,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// The commit reports an error.
    Fails(Cut),
    /// The process ends during the commit.
    Crashes(Cut),
}

/// A fault, consumed by the first affected commit.
pub(crate) struct NextFault(Cell<Fault>);

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Commit {
    Done,
    Failed,
    Crashed,
}

impl Disk {
    pub(crate) fn commit(&mut self, next: &Document, fault: &NextFault) -> Commit {
        let (cut, outcome) = match fault.0.replace(Fault::None) {
            Fault::None => (Cut::AfterCheckpoint, Commit::Done),
            Fault::Fails(cut) => (cut, Commit::Failed),
            Fault::Crashes(cut) => (cut, Commit::Crashed),
        };
        if cut != Cut::BeforeState {
            self.state = Some(next.encode().into_bytes());
        }
        if cut == Cut::AfterCheckpoint {
            self.checkpoint = Some(Checkpoint::of(next).encode().into_bytes());
        }
        outcome
    }

    pub(crate) fn document(&self) -> Option<Document> {
        let bytes = self.state.as_deref()?;
        Some(Document::decode(bytes).expect("only written by rules"))
    }

    pub(crate) fn accepted(&self) -> Option<Checkpoint> {
        let bytes = self.checkpoint.as_deref()?;
        Some(Checkpoint::decode(bytes).expect("only written by rules"))
    }

    pub(crate) fn anchor(&self) -> Result<CheckpointStatus, Rollback> {
        CheckpointStatus::of(self.document().as_ref(), self.accepted().as_ref())
    }
}

impl NextFault {
    pub(crate) fn new(fault: Fault) -> Self {
        Self(Cell::new(fault))
    }
}
