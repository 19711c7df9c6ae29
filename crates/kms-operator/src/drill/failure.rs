//! Failures of a drill, their meaning for the backups, and their causes.

use std::{io, path::PathBuf};

use kms_node::{
    advice::{Cause, Found, drill, snapshot},
    report::one_line,
    state::disk::DiskError,
};
use openbao_client::credential_file::CredentialFileProblem;
use openbao_lab::{
    binary::BaoNotFound,
    server::{restore::RestoreError, snapshot::SnapshotError},
};

use crate::recovery::{EtcdError, backups::newest::NoPair, raft_snapshot::RaftSnapshotError};

/// Errors of the system on writing to a full disk, in lower case.
const FULL: [&str; 2] = ["no space left on device", "disk quota exceeded"];

/// Failure of a drill.
#[derive(Debug, thiserror::Error)]
pub enum DrillError {
    /// The copy could act on other systems.
    #[error(
        "nothing keeps the restored copy from other systems; with the credentials of production it \
         would revoke ended leases there, and rotate due passwords"
    )]
    NotIsolated,
    /// The copy would be unreachable.
    #[error("this network namespace has no loopback interface")]
    NoLoopback,
    #[error(transparent)]
    BaoNotFound(#[from] BaoNotFound),
    /// Creating the private directory failed.
    #[error("cannot make a private directory in {}", path.display())]
    WorkDir {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// Removing a directory of an earlier drill failed.
    #[error("cannot remove the directory of an earlier drill in {}", path.display())]
    Leftovers {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The directories have no pair of snapshots.
    #[error(transparent)]
    NoPair(#[from] NoPair),
    #[error("cannot read the OpenBao snapshot {} into the private directory", path.display())]
    Snapshot {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The OpenBao snapshot is invalid, or its hashes differ.
    #[error("the OpenBao snapshot {} cannot be restored", path.display())]
    NotRestorable {
        path: PathBuf,
        #[source]
        problem: RaftSnapshotError,
    },
    /// Opening or unpacking the etcd snapshot failed.
    #[error(transparent)]
    Etcd(#[from] EtcdError),
    /// A file contains an invalid unseal share or seal key.
    #[error("the file {} cannot be used as an unseal key", path.display())]
    Share {
        path: PathBuf,
        #[source]
        problem: ShareProblem,
    },
    /// Restoring OpenBao failed.
    #[error(transparent)]
    Restore(Box<RestoreError>),
    /// The token for the kept copy was not written.
    #[error("cannot keep the restored copy")]
    Keep(#[from] DiskError),
    /// Interrupted by a signal.
    #[error("the drill was {0}")]
    Interrupted(&'static str),
    /// A worker thread panicked.
    #[error("a part of the drill ended without a result")]
    Lost,
}

/// Defect of a file with an unseal share.
#[derive(Debug, thiserror::Error)]
pub enum ShareProblem {
    /// Violated rule for credential files.
    #[error(transparent)]
    File(#[from] CredentialFileProblem),
    /// Content other than a single share.
    #[error("it must hold one share of 32 or 33 bytes, in Base64 or hexadecimal, and nothing else")]
    NotAShare,
}

impl From<RestoreError> for DrillError {
    fn from(error: RestoreError) -> Self {
        Self::Restore(Box::new(error))
    }
}

impl DrillError {
    /// Whether the failure proves that the OpenBao snapshot cannot be restored. Only its own hashes do:
    /// shares may be those of another OpenBao, and a restore may fail by the disk or by the program.
    #[must_use]
    pub fn condemns(&self) -> bool {
        matches!(self, Self::NotRestorable { problem, .. } if problem.is_damage())
    }

    /// Cause of the failure.
    #[must_use]
    pub fn cause(&self) -> Found {
        let cause = match self {
            Self::Etcd(error) => return error.cause(),
            Self::NotRestorable { problem, .. } => problem.cause(),
            Self::Restore(error) => restore_cause(error),
            Self::NoPair(error) => error.cause(),
            Self::NotIsolated => &drill::NOT_ISOLATED,
            Self::NoLoopback => &drill::NO_LOOPBACK,
            Self::BaoNotFound(_) => &drill::COPY_FAILED,
            Self::WorkDir { .. } | Self::Snapshot { .. } | Self::Keep(_) => {
                &drill::DIRECTORY_UNUSABLE
            }
            Self::Leftovers { .. } => &drill::LEFTOVERS,
            Self::Share { .. } => &drill::SHARE_UNUSABLE,
            Self::Interrupted(_) | Self::Lost => &drill::INTERRUPTED,
        };
        (cause, Vec::new())
    }
}

fn restore_cause(error: &RestoreError) -> &'static Cause {
    let told = one_line(error).to_ascii_lowercase();
    match error {
        // Of OpenBao, in its response or log, or of this process.
        _ if FULL.iter().any(|full| told.contains(full)) => &drill::DIRECTORY_UNUSABLE,
        RestoreError::WrongShares => &drill::SHARES_WRONG,
        RestoreError::OtherSeal { .. } => &drill::OTHER_SEAL,
        RestoreError::MoreShares { .. } => &drill::SHARE_UNUSABLE,
        RestoreError::Snapshot(SnapshotError::Failed { .. }) => &snapshot::OPENBAO_DAMAGED,
        RestoreError::Server(_)
        | RestoreError::Snapshot(_)
        | RestoreError::Call(_)
        | RestoreError::Answer { .. } => &drill::COPY_FAILED,
    }
}
