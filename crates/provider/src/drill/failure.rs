//! Why a drill did not come to its end, whether that speaks against the backups, and what helps.

use std::{borrow::Cow, io, path::PathBuf};

use openbao_client::credential_file::CredentialFileProblem;
use openbao_lab::{
    binary::BaoNotFound,
    server::{restore::RestoreError, snapshot::SnapshotError},
};

use crate::recovery::{EtcdError, backup_record::BackupError, raft_snapshot::RaftSnapshotError};

/// Why a rehearsal did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum DrillError {
    /// The copy could act on other systems.
    #[error(
        "nothing keeps the restored copy from other systems, and it would act on them with \
         production's credentials: revoke leases that have ended, rotate passwords that are due"
    )]
    NotIsolated,
    /// The copy could not be talked to.
    #[error("this network namespace has no loopback, over which the copy would be asked")]
    NoLoopback,
    /// There is no OpenBao to restore into.
    #[error(transparent)]
    BaoNotFound(#[from] BaoNotFound),
    /// The private directory.
    #[error("cannot make a private directory in {}", path.display())]
    WorkDir {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Something of an earlier drill is there for good.
    #[error("cannot remove what an earlier drill has left in {}", path.display())]
    Leftovers {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The OpenBao snapshot could not be copied to the private directory.
    #[error("cannot read the OpenBao snapshot {} into the private directory", path.display())]
    Snapshot {
        /// The snapshot.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The OpenBao snapshot is none, or its hashes are wrong.
    #[error("the OpenBao snapshot {} cannot be restored", path.display())]
    NotRestorable {
        /// The snapshot.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        problem: RaftSnapshotError,
    },
    /// The etcd snapshot could not be opened.
    #[error(transparent)]
    Etcd(#[from] EtcdError),
    /// The etcd snapshot could not be read.
    #[error(transparent)]
    Hash(Box<BackupError>),
    /// A file with an unseal share or a seal's key.
    #[error("the file {} cannot be used as an unseal key", path.display())]
    Share {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        problem: ShareProblem,
    },
    /// There is no copy.
    #[error(transparent)]
    Restore(Box<RestoreError>),
    /// A signal came.
    #[error("the drill was {0} before its end")]
    Interrupted(&'static str),
    /// A defect.
    #[error("a part of the drill ended without a result")]
    Lost,
}

/// Why a file holds no unseal share.
#[derive(Debug, thiserror::Error)]
pub enum ShareProblem {
    /// The file's own rules.
    #[error(transparent)]
    File(#[from] CredentialFileProblem),
    /// Not one share.
    #[error("it must hold one share of 16 to 33 bytes, in Base64 or hexadecimal, and nothing else")]
    NotAShare,
}

impl From<RestoreError> for DrillError {
    fn from(error: RestoreError) -> Self {
        Self::Restore(Box::new(error))
    }
}

impl From<BackupError> for DrillError {
    fn from(error: BackupError) -> Self {
        Self::Hash(Box::new(error))
    }
}

impl DrillError {
    /// Whether the backup set is at fault: it cannot be restored with these shares.
    #[must_use]
    pub fn condemns(&self) -> bool {
        let error = match self {
            Self::Restore(error) => error,
            Self::NotRestorable { problem, .. } => return problem.is_damage(),
            _ => return false,
        };
        match &**error {
            // Only what OpenBao answered is about the snapshot.
            RestoreError::Snapshot(SnapshotError::Failed { said, .. }) => {
                said.contains("Code: ") && !said.contains("no space left on device")
            }
            RestoreError::WrongShares => true,
            // Too few shares, or a seal that is not rehearsed here: nothing was tried.
            RestoreError::MoreShares { .. }
            | RestoreError::OtherSeal { .. }
            | RestoreError::Server(_)
            | RestoreError::Snapshot(_)
            | RestoreError::Call(_)
            | RestoreError::Answer { .. } => false,
        }
    }

    /// What helps, where the message does not say it.
    #[must_use]
    pub fn next_step(&self) -> Option<Cow<'static, str>> {
        match self {
            Self::Etcd(error) if error.next_step().is_some() => error.next_step().map(Cow::Owned),
            error => error.fixed_next_step().map(Cow::Borrowed),
        }
    }

    fn fixed_next_step(&self) -> Option<&'static str> {
        match self {
            Self::NotIsolated => Some(
                "run it with packaging/systemd/bao-kms-drill.service or in another way without a \
                 network, or on Linux 6.7 with Landlock; --allow-network only if no engine in \
                 this OpenBao holds credentials of other systems",
            ),
            Self::NoLoopback => Some("bring it up there: ip link set lo up"),
            Self::Restore(error) => Some(restore_step(error)),
            Self::NotRestorable { problem, .. } => Some(problem.next_step()),
            Self::WorkDir { .. } | Self::Snapshot { .. } => {
                Some("look at the path, its permissions, and the space below --work-dir")
            }
            Self::Leftovers { .. } => Some("remove it by hand"),
            Self::Etcd(_) | Self::Hash(_) => Some("look at the path and its permissions"),
            Self::BaoNotFound(_) | Self::Share { .. } | Self::Interrupted(_) | Self::Lost => None,
        }
    }
}

fn restore_step(error: &RestoreError) -> &'static str {
    match error {
        RestoreError::WrongShares => {
            "take the shares that belonged to this OpenBao when the snapshot was made; if it \
             unseals itself, those are its recovery keys, and its seal's key must fit too"
        }
        RestoreError::OtherSeal { .. } => {
            "give its key with --static-seal-key-file if it unseals itself with seal \"static\"; \
             other seals, such as cloud services and HSMs, cannot be reached from a drill"
        }
        RestoreError::MoreShares { .. } => {
            "give more shares, each in a file of its own with --unseal-key-file"
        }
        RestoreError::Snapshot(SnapshotError::Failed { .. }) => {
            "copy the snapshot again and compare its hash, or take an earlier one; keep the \
             damaged one until another is proven"
        }
        RestoreError::Server(_)
        | RestoreError::Snapshot(_)
        | RestoreError::Call(_)
        | RestoreError::Answer { .. } => {
            "take the OpenBao program of the version that the snapshot is from"
        }
    }
}
