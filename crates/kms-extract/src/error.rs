//! Failures that prevent an extraction as a whole.

use std::io;

use kms_cluster::api::{CallError, ConnectError};
use kms_node::advice::{Cause, Found, cluster, command, extract};
use kms_operator::recovery::{
    EtcdError, cause::of_unanswered, etcd_live::LiveError, verify_pair::Unanswered,
};

use crate::{diff::DiffError, local::LocalKeysError, output::OutputError, select::SelectError};

/// Failure that prevents an extraction as a whole.
#[derive(Debug, thiserror::Error)]
pub enum ExtractError {
    #[error(transparent)]
    Select(#[from] SelectError),
    #[error("no object in {0} fits the selection")]
    Nothing(String),
    #[error(transparent)]
    Output(#[from] OutputError),
    #[error("OpenBao did not decrypt the objects")]
    Unanswered(#[from] Unanswered),
    #[error("the objects of the provider need its configuration: --config")]
    NoConfig,
    #[error("{0} is not YAML: {1}")]
    NotYaml(String, String),
    #[error("the descriptors in this program are damaged")]
    Descriptors,
    #[error(transparent)]
    Keys(#[from] LocalKeysError),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Live(#[from] DiffError),
    #[error("cannot start the runtime")]
    Runtime(#[source] io::Error),
    #[error("cannot write to standard output")]
    Stream(#[from] io::Error),
}

impl ExtractError {
    /// Cause in the catalogue.
    #[must_use]
    pub fn cause(&self) -> Found {
        let cause = match self {
            Self::Select(SelectError::Etcd(EtcdError::Live(LiveError::NoRevision(_)))) => {
                &extract::REVISION_MISSING
            }
            Self::Select(SelectError::Etcd(error)) => return error.cause(),
            Self::Select(SelectError::TooLarge) => &extract::SELECTION_TOO_LARGE,
            Self::Select(SelectError::Revision { .. }) => &extract::REVISION_MISSING,
            Self::Nothing(_) => &extract::NOTHING_SELECTED,
            Self::Output(_) => &extract::DIRECTORY_UNUSABLE,
            Self::Unanswered(unanswered) => of_unanswered(unanswered),
            Self::NoConfig => &command::INVALID_USAGE,
            Self::Keys(_) => &extract::KEYS_UNUSABLE,
            Self::NotYaml(..) => &extract::OBJECT_NOT_YAML,
            Self::Connect(ConnectError::Unverified) => &cluster::UNVERIFIED,
            Self::Connect(_) => &extract::LIVE_KUBECONFIG_UNUSABLE,
            Self::Live(error) => of_call(&error.source),
            Self::Descriptors | Self::Runtime(_) | Self::Stream(_) => &command::ERROR,
        };
        (cause, Vec::new())
    }
}

/// A request for a live object without its answer.
fn of_call(error: &CallError) -> &'static Cause {
    match (error, error.refusal().map(|it| it.status)) {
        (CallError::Credentials, _) => &extract::LIVE_KUBECONFIG_UNUSABLE,
        (_, Some(401)) => &cluster::UNAUTHENTICATED,
        (_, Some(403)) => &extract::LIVE_FORBIDDEN,
        _ => &extract::LIVE_UNREAD,
    }
}
