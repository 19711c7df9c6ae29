//! Errors of the inputs of recover-state.

use std::{io, path::PathBuf};

use kms_domain::{
    recovery::{rebuild::PlanOutdated, record::RecordError},
    registry::{checkpoint::CheckpointError, document::DocumentError},
    scope::TransitKeyPath,
    transit::ProfileRefused,
};
use kms_node::{auth::CallFailure, connection::ConnectionError, state::StateError};

use crate::recovery::{EtcdError, unread::Unread, verify_pair::Unanswered};

/// Failure before the evidence is assessed.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// State directory or files are unusable, or the provider is running.
    #[error(transparent)]
    State(StateError),
    /// Setting up the OpenBao client failed.
    #[error("OpenBao could not be asked")]
    Connection(#[from] ConnectionError),
    #[error("the key's metadata could not be read from OpenBao")]
    Metadata(#[source] CallFailure),
    /// OpenBao has no such key.
    #[error("there is no key {}/{} in this OpenBao", .0.mount_path, .0.key_name)]
    NoKey(TransitKeyPath),
    /// The key's properties do not permit its use.
    #[error("the key is not set up as the provider needs it")]
    Profile(#[from] ProfileRefused),
    #[error("the key was changed in OpenBao while the evidence was being read")]
    KeyMoved,
    /// Reading an etcd source failed.
    #[error("it was not read to its end")]
    Etcd {
        /// Path of the file, or URLs of the members.
        name: String,
        #[source]
        error: Box<EtcdError>,
    },
    /// Unread keys of a running etcd.
    #[error("{}", .unread.describe())]
    Unread {
        /// URLs of the members.
        name: String,
        unread: Unread,
    },
    /// Incomplete answers from OpenBao.
    #[error("OpenBao gave no complete answer about its objects")]
    Unanswered {
        /// Path of the file, or URLs of the members.
        name: String,
        #[source]
        unanswered: Box<Unanswered>,
    },
    /// Reading a record, a peer's state or its checkpoint failed.
    #[error("it cannot be read")]
    Unreadable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// Invalid or modified record, state or checkpoint.
    #[error("{}", .problem.sentence())]
    Invalid {
        path: PathBuf,
        #[source]
        problem: Box<FileProblem>,
    },
    /// This node's own state given as a peer's.
    #[error("it is this node's own state, not a peer's")]
    PeerIsOwn { path: PathBuf },
    #[error(transparent)]
    Outdated(PlanOutdated),
}

/// Violated rule of a file of the evidence.
#[derive(Debug, thiserror::Error)]
pub enum FileProblem {
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error(transparent)]
    PeerDocument(#[from] DocumentError),
    #[error(transparent)]
    PeerCheckpoint(#[from] CheckpointError),
}

impl FileProblem {
    /// Whether a newer release wrote the file.
    #[must_use]
    pub fn is_newer(&self) -> bool {
        matches!(
            self,
            Self::Record(RecordError::NewerRelease(_))
                | Self::PeerDocument(DocumentError::NewerRelease(_))
                | Self::PeerCheckpoint(CheckpointError::NewerRelease(_))
        )
    }

    fn sentence(&self) -> &'static str {
        match self {
            newer if newer.is_newer() => "this release cannot read it",
            Self::Record(_) => "it is no valid backup record",
            Self::PeerDocument(_) => "it is no valid state",
            Self::PeerCheckpoint(_) => "it is no valid checkpoint",
        }
    }
}

impl InputError {
    /// Name of the affected evidence.
    #[must_use]
    pub fn evidence(&self) -> Option<String> {
        match self {
            Self::Etcd { name, .. } | Self::Unread { name, .. } | Self::Unanswered { name, .. } => {
                Some(name.clone())
            }
            Self::Unreadable { path, .. }
            | Self::Invalid { path, .. }
            | Self::PeerIsOwn { path } => Some(path.display().to_string()),
            Self::State(_)
            | Self::Connection(_)
            | Self::Metadata(_)
            | Self::NoKey(_)
            | Self::Profile(_)
            | Self::KeyMoved
            | Self::Outdated(_) => None,
        }
    }

    /// Whether a retry with the same evidence may succeed.
    #[must_use]
    pub fn is_undecided(&self) -> bool {
        match self {
            Self::Etcd { error, .. } => !error.is_damage(),
            Self::Invalid { problem, .. } => problem.is_newer(),
            Self::Connection(_)
            | Self::Metadata(_)
            | Self::Unanswered { .. }
            | Self::KeyMoved
            | Self::Unread { .. }
            | Self::Unreadable { .. } => true,
            Self::State(_)
            | Self::NoKey(_)
            | Self::Profile(_)
            | Self::PeerIsOwn { .. }
            | Self::Outdated(_) => false,
        }
    }
}
