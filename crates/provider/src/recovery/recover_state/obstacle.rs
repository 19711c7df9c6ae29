//! What keeps evidence from being weighed, with the same four sentences as a refusal of the evidence.

use std::{io, path::PathBuf};

use kms_domain::{
    recovery::{rebuild::PlanOutdated, record::RecordError},
    registry::{anchor::CheckpointError, document::DocumentError},
    scope::TransitKeyPath,
    transit::ProfileRefused,
};

use crate::{
    auth::CallFailure,
    connection::ConnectionError,
    recovery::{EtcdError, backup_record::BackupError, unread::Unread, verify_pair::Unanswered},
    state::{LockError, StateError},
};

/// Why there is no plan, before any evidence is judged.
#[derive(Debug, thiserror::Error)]
pub enum Obstacle {
    /// The state directory or its files cannot be used, or the provider runs.
    #[error(transparent)]
    State(StateError),
    /// OpenBao cannot be asked.
    #[error("OpenBao could not be asked")]
    Connection(#[from] ConnectionError),
    /// OpenBao did not tell what the key has.
    #[error("the key's metadata could not be read from OpenBao")]
    Metadata(#[source] CallFailure),
    /// OpenBao answers, and has no such key.
    #[error("there is no key {}/{} in this OpenBao", .0.mount_path, .0.key_name)]
    NoKey(TransitKeyPath),
    /// The key must not be used.
    #[error("the key is not set up as the provider needs it")]
    Profile(#[from] ProfileRefused),
    /// The key changed while it was being looked at.
    #[error("the key was changed in OpenBao while the evidence was being read")]
    KeyMoved,
    /// An etcd source gives no answer.
    #[error("it was not read to its end")]
    Etcd {
        /// The file or the servers.
        name: String,
        /// Why.
        #[source]
        error: Box<EtcdError>,
    },
    /// A running etcd has keys that were not read.
    #[error("{}", .unread.describe())]
    Unread {
        /// The servers.
        name: String,
        /// The keys.
        unread: Unread,
    },
    /// OpenBao did not try every DEK.
    #[error("OpenBao did not answer for what it holds")]
    Unanswered {
        /// The file or the servers.
        name: String,
        /// Why.
        #[source]
        unanswered: Box<Unanswered>,
    },
    /// The file could not be hashed.
    #[error("its hash could not be taken")]
    Unhashed {
        /// The file.
        name: String,
        /// Why.
        #[source]
        error: Box<BackupError>,
    },
    /// A record, a peer's state or its checkpoint cannot be read.
    #[error("it cannot be read")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A backup record that is none, or was changed.
    #[error("{}", match problem {
        RecordError::NewerRelease(_) => NEWER,
        _ => "it is no backup record that can be believed",
    })]
    Record {
        /// The file.
        path: PathBuf,
        /// The broken rule.
        #[source]
        problem: RecordError,
    },
    /// A peer's state that is none, or was changed.
    #[error("{}", match problem {
        DocumentError::NewerRelease(_) => NEWER,
        _ => "it is no state that can be believed",
    })]
    PeerDocument {
        /// The file.
        path: PathBuf,
        /// The broken rule.
        #[source]
        problem: DocumentError,
    },
    /// A peer's checkpoint that is none.
    #[error("{}", match problem {
        CheckpointError::NewerRelease(_) => NEWER,
        _ => "it is no checkpoint that can be believed",
    })]
    PeerCheckpoint {
        /// The file.
        path: PathBuf,
        /// The broken rule.
        #[source]
        problem: CheckpointError,
    },
    /// This node's own state named as a peer's.
    #[error("it is this node's own state, not a peer's")]
    PeerIsOwn {
        /// The file.
        path: PathBuf,
    },
    /// The plan has changed since the review.
    #[error(transparent)]
    Outdated(PlanOutdated),
}

const NEWER: &str = "this release cannot read it";

impl Obstacle {
    /// Whether a newer release wrote evidence that was given.
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

    /// The stable word for reports.
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

    /// The evidence that it is about.
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

    /// Whether a second attempt may succeed with the same evidence.
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

    /// What follows.
    #[must_use]
    pub fn consequence(&self) -> &'static str {
        match self {
            Self::State(StateError::Lock(LockError::Locked { .. })) => {
                "a state that is in use must not be exchanged; nothing was changed"
            }
            Self::State(StateError::OtherRelease { .. }) => {
                "it may tell of keys that a state rebuilt by this release would not know; nothing was \
                 changed"
            }
            Self::State(_) => "a state there would not be used, or could be exchanged by others",
            Self::Connection(_) | Self::Metadata(_) | Self::Unanswered { .. } | Self::KeyMoved => {
                "nothing shows that the key decrypts what is stored"
            }
            Self::NoKey(_) => "nothing that is stored can be decrypted with it",
            Self::Profile(_) => "no provider would serve with this key",
            Self::Etcd { .. }
            | Self::Unhashed { .. }
            | Self::Unread { .. }
            | Self::Unreadable { .. } => "what it would show is unknown",
            newer if newer.is_newer_evidence() => "what it would show is unknown",
            Self::Record { .. } | Self::PeerDocument { .. } | Self::PeerCheckpoint { .. } => {
                "it was changed or damaged, so nothing that it says is taken for true"
            }
            Self::PeerIsOwn { .. } => "what is in question cannot vouch for itself",
            Self::Outdated(_) => "nothing was changed",
        }
    }

    /// What to do now.
    #[must_use]
    pub fn next_step(&self) -> String {
        match self {
            Self::Etcd { error, .. } => error.next_step(),
            _ => None,
        }
        .unwrap_or_else(|| self.fixed_next_step().to_owned())
    }

    fn fixed_next_step(&self) -> &'static str {
        match self {
            Self::State(StateError::Lock(LockError::Locked { .. })) => {
                "stop the provider of this node and run the same command again"
            }
            Self::State(StateError::NoDirectory { .. }) => {
                "create it with mode 0750, owned by the user that runs the provider"
            }
            Self::State(StateError::OtherRelease { .. }) => {
                "use the release that wrote it; only to give up what it knew, add \
                 --replace-newer-release"
            }
            Self::State(_) => {
                "run as the provider's user, and mend the modes and owners that are named"
            }
            Self::Connection(_) | Self::Metadata(_) | Self::Unanswered { .. } => {
                "run verify-key, mend what it names, and try again"
            }
            Self::KeyMoved => "make a new plan when nobody changes the key",
            Self::NoKey(_) => {
                "point the configuration at the OpenBao that has the key, or restore its storage"
            }
            Self::Profile(_) => "correct in OpenBao what is named",
            Self::Etcd { .. } | Self::Unhashed { .. } => {
                "copy the snapshot again and compare its hash, or take another"
            }
            Self::Unread { unread, .. } if unread.keys.is_some() => {
                "leave out --etcd-prefix-only, or name the prefixes with --allow-unread-prefixes if \
                 none of their objects is encrypted with this key"
            }
            Self::Unread { .. } => {
                "read as an etcd user that may read every key (--cert, --key), or read a snapshot; \
                 or name the other prefixes with --allow-unread-prefixes if none of their objects \
                 is encrypted with this key"
            }
            Self::Unreadable { .. } => "name a file that is there and may be read",
            newer if newer.is_newer_evidence() => {
                "use the release that wrote it, or give other evidence"
            }
            Self::Record { .. } => "take the copy of another backup medium",
            Self::PeerDocument { .. } | Self::PeerCheckpoint { .. } => {
                "copy state and checkpoint again, from a peer that serves"
            }
            Self::PeerIsOwn { .. } => {
                "name a peer's copy; what is left of this node's own state is always looked at"
            }
            Self::Outdated(_) => "make a new plan, review it, and give its hash",
        }
    }

    /// What would make it worse.
    #[must_use]
    pub fn do_not(&self) -> &'static str {
        match self {
            Self::State(_) => "do not delete the lock file, the state or the checkpoint",
            Self::NoKey(_) | Self::Profile(_) => "do not recreate the key",
            Self::Connection(_) | Self::Metadata(_) | Self::Unanswered { .. } | Self::KeyMoved => {
                "do not rotate the key meanwhile"
            }
            Self::Unread { .. } => "do not leave a version out on the strength of a part of etcd",
            Self::Etcd { .. }
            | Self::Unhashed { .. }
            | Self::Unreadable { .. }
            | Self::Record { .. }
            | Self::PeerDocument { .. }
            | Self::PeerCheckpoint { .. } => "do not edit it to be accepted",
            Self::PeerIsOwn { .. } => "do not copy it elsewhere to pass it off as a peer's",
            Self::Outdated(_) => "do not apply with a hash that you have not reviewed",
        }
    }
}
