//! Errors of the inputs of recover-state.

use std::{io, path::PathBuf};

use kms_domain::{
    recovery::{rebuild::PlanOutdated, record::RecordError},
    registry::{checkpoint::CheckpointError, document::DocumentError},
    scope::TransitKeyPath,
    transit::ProfileRefused,
};
use kms_node::{
    auth::CallFailure,
    connection::ConnectionError,
    state::{LockError, StateError},
};

use crate::recovery::{
    EtcdError, backup_record::BackupError, unread::Unread, verify_pair::Unanswered,
};

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
    #[error("OpenBao did not answer for what it holds")]
    Unanswered {
        /// Path of the file, or URLs of the members.
        name: String,
        #[source]
        unanswered: Box<Unanswered>,
    },
    #[error("its hash could not be taken")]
    Unhashed {
        /// Path of the file.
        name: String,
        #[source]
        error: Box<BackupError>,
    },
    /// Reading a record, a peer's state or its checkpoint failed.
    #[error("it cannot be read")]
    Unreadable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// Invalid or modified backup record.
    #[error("{}", match problem {
        RecordError::NewerRelease(_) => NEWER,
        _ => "it is no backup record that can be believed",
    })]
    Record {
        path: PathBuf,
        #[source]
        problem: RecordError,
    },
    /// Invalid or modified state of a peer.
    #[error("{}", match problem {
        DocumentError::NewerRelease(_) => NEWER,
        _ => "it is no state that can be believed",
    })]
    PeerDocument {
        path: PathBuf,
        #[source]
        problem: DocumentError,
    },
    /// Invalid checkpoint of a peer.
    #[error("{}", match problem {
        CheckpointError::NewerRelease(_) => NEWER,
        _ => "it is no checkpoint that can be believed",
    })]
    PeerCheckpoint {
        path: PathBuf,
        #[source]
        problem: CheckpointError,
    },
    /// This node's own state given as a peer's.
    #[error("it is this node's own state, not a peer's")]
    PeerIsOwn { path: PathBuf },
    #[error(transparent)]
    Outdated(PlanOutdated),
}

const NEWER: &str = "this release cannot read it";

impl InputError {
    /// Whether a newer release wrote the given evidence.
    fn is_newer_evidence(&self) -> bool {
        matches!(
            self,
            Self::Record {
                problem: RecordError::NewerRelease(_),
                ..
            } | Self::PeerDocument {
                problem: DocumentError::NewerRelease(_),
                ..
            } | Self::PeerCheckpoint {
                problem: CheckpointError::NewerRelease(_),
                ..
            }
        )
    }

    /// Stable code in reports.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            newer if newer.is_newer_evidence() => "other_release",
            Self::State(StateError::Lock(LockError::Locked { .. })) => "provider_running",
            Self::State(StateError::NoDirectory { .. }) => "no_directory",
            Self::State(StateError::OtherRelease { .. }) => "other_release",
            Self::State(_) => "state_unusable",
            Self::Connection(_) | Self::Metadata(_) | Self::Unanswered { .. } => "openbao",
            Self::NoKey(_) => "no_key",
            Self::Profile(_) => "key_profile",
            Self::KeyMoved => "key_moved",
            Self::Etcd { .. } | Self::Unhashed { .. } => "etcd_unread",
            Self::Unread { .. } => "keys_unread",
            Self::Unreadable { .. } => "unreadable",
            Self::Record { .. } => "record_invalid",
            Self::PeerDocument { .. } | Self::PeerCheckpoint { .. } => "peer_invalid",
            Self::PeerIsOwn { .. } => "peer_is_own",
            Self::Outdated(_) => "plan_outdated",
        }
    }

    /// Name of the affected evidence.
    #[must_use]
    pub fn evidence(&self) -> Option<String> {
        match self {
            Self::Etcd { name, .. }
            | Self::Unread { name, .. }
            | Self::Unanswered { name, .. }
            | Self::Unhashed { name, .. } => Some(name.clone()),
            Self::Unreadable { path, .. }
            | Self::Record { path, .. }
            | Self::PeerDocument { path, .. }
            | Self::PeerCheckpoint { path, .. }
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
            newer if newer.is_newer_evidence() => true,
            Self::Connection(_)
            | Self::Metadata(_)
            | Self::Unanswered { .. }
            | Self::KeyMoved
            | Self::Unhashed { .. }
            | Self::Unread { .. }
            | Self::Unreadable { .. } => true,
            Self::Etcd { error, .. } => !error.is_damage(),
            Self::State(_)
            | Self::NoKey(_)
            | Self::Profile(_)
            | Self::Record { .. }
            | Self::PeerDocument { .. }
            | Self::PeerCheckpoint { .. }
            | Self::PeerIsOwn { .. }
            | Self::Outdated(_) => false,
        }
    }
}
