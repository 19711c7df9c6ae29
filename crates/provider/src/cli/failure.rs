//! Why a command ends without a result, and what the person at the terminal is told.

use std::{
    borrow::Cow,
    error::Error,
    io::{self, Write},
    path::PathBuf,
};

use kms_domain::recovery::record::RecordError;
use openbao_lab::binary::BaoNotFound;

use super::exit::Exit;
use crate::{
    benchmark::BenchmarkError,
    config::{LoadError, UnsupportedAuth},
    dev::LabError,
    diagnose::call_remedy,
    hardening::NotHardened,
    lifecycle::activation::ActivationError,
    nodes::NodesProblem,
    policy::UnsafePolicyPath,
    probe::ProbeError,
    recovery::{EtcdError, backup_record::BackupError, etcd_live::LiveError},
    retirement::RetirementError,
    serve::ServeError,
    state::{StateError, StatePathProblem, disk::DiskError, rebuild::RebuildError},
};

const OWN_USER: &str = "run as the provider's user, such as with sudo -u openbao-kms";

/// Every way in which a command can fail.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// No configuration.
    #[error(transparent)]
    Config(#[from] LoadError),
    /// A login that this build does not have.
    #[error(transparent)]
    UnsupportedAuth(#[from] UnsupportedAuth),
    /// The state was made under another configuration, or this one was changed.
    #[error(transparent)]
    OtherConfiguration(Box<StateError>),
    /// The daemon failed.
    #[error(transparent)]
    Serve(Box<ServeError>),
    /// The process is not as hardened as it has to be.
    #[error(transparent)]
    NotHardened(#[from] NotHardened),
    /// The sockets that systemd has passed cannot be used.
    #[error(transparent)]
    Activation(#[from] ActivationError),
    /// The registry state cannot be looked at.
    #[error(transparent)]
    State(Box<StateError>),
    /// Nothing was retired or restored, or it is not durable.
    #[error(transparent)]
    Retirement(Box<RetirementError>),
    /// The measurement did not come to its end.
    #[error(transparent)]
    Benchmark(Box<BenchmarkError>),
    /// There is nothing to note of a backup set.
    #[error(transparent)]
    Backup(Box<BackupError>),
    /// The rebuilt state is not in place.
    #[error(transparent)]
    Rebuild(Box<RebuildError>),
    /// The backup record could not be written.
    #[error("the backup record was not written")]
    RecordFile(#[source] DiskError),
    /// The report of a drill could not be written.
    #[error("the report of the drill was not written")]
    DrillReportFile(#[source] DiskError),
    /// The metrics of a drill could not be written.
    #[error("the metrics of the drill were not written, so that its alert may fire")]
    DrillMetricsFile(#[source] DiskError),
    /// The backup record cannot be read.
    #[error("cannot read the backup record {}", path.display())]
    RecordUnreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The backup record is not one, or was changed.
    #[error("the backup record {} {}; nothing was verified", path.display(), match problem {
        RecordError::NewerRelease(_) => "cannot be read by this release",
        _ => "cannot be believed",
    })]
    RecordInvalid {
        /// The file.
        path: PathBuf,
        /// The broken rule.
        #[source]
        problem: RecordError,
    },
    /// The lab could not be made, or not be taken down.
    #[error(transparent)]
    Lab(Box<LabError>),
    /// No OpenBao to make a lab with.
    #[error(transparent)]
    BaoNotFound(#[from] BaoNotFound),
    /// The lab's round trip failed.
    #[error("the lab's provider does not do its job")]
    LabProbe(#[source] ProbeError),
    /// The system has no resources to run it.
    #[error("cannot start the runtime")]
    Runtime(#[source] io::Error),
    /// The result could not be written.
    #[error("cannot write the output")]
    Output(#[from] io::Error),
    /// The argument cannot be a state file.
    #[error("{} cannot be a state file: it {problem}", path.display())]
    StateFile {
        /// The argument.
        path: PathBuf,
        /// The broken rule.
        problem: StatePathProblem,
    },
    /// There is nothing to compare.
    #[error(transparent)]
    Nodes(#[from] NodesProblem),
    /// There is nothing to read etcd with.
    #[error(transparent)]
    Etcd(Box<EtcdError>),
    /// The policy would say something else than meant.
    #[error(transparent)]
    Policy(#[from] UnsafePolicyPath),
    /// The pages could not be written.
    #[error("cannot write manual pages to {}", directory.display())]
    ManualPages {
        /// Where to.
        directory: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl From<LabError> for Failure {
    fn from(error: LabError) -> Self {
        Self::Lab(Box::new(error))
    }
}

impl From<BenchmarkError> for Failure {
    fn from(error: BenchmarkError) -> Self {
        Self::Benchmark(Box::new(error))
    }
}

impl From<EtcdError> for Failure {
    fn from(error: EtcdError) -> Self {
        Self::Etcd(Box::new(error))
    }
}

impl From<StateError> for Failure {
    fn from(error: StateError) -> Self {
        Self::State(Box::new(error))
    }
}

impl From<RetirementError> for Failure {
    fn from(error: RetirementError) -> Self {
        Self::Retirement(Box::new(error))
    }
}

impl From<RebuildError> for Failure {
    fn from(error: RebuildError) -> Self {
        Self::Rebuild(Box::new(error))
    }
}

impl From<BackupError> for Failure {
    fn from(error: BackupError) -> Self {
        match error {
            BackupError::State(other @ StateError::OtherConfiguration { .. }) => {
                Self::OtherConfiguration(Box::new(other))
            }
            error => Self::Backup(Box::new(error)),
        }
    }
}

impl From<ServeError> for Failure {
    fn from(error: ServeError) -> Self {
        match error {
            ServeError::State(other @ StateError::OtherConfiguration { .. }) => {
                Self::OtherConfiguration(Box::new(other))
            }
            error => Self::Serve(Box::new(error)),
        }
    }
}

impl Failure {
    /// The code of each failure.
    #[must_use]
    pub(super) fn exit(&self) -> Exit {
        match self {
            Self::Config(_) | Self::UnsupportedAuth(_) | Self::OtherConfiguration(_) => {
                Exit::Configuration
            }
            Self::Serve(_) | Self::NotHardened(_) | Self::Activation(_) => Exit::Runtime,
            Self::Etcd(error) => match &**error {
                EtcdError::Live(LiveError::NoAuthority { .. }) => Exit::Usage,
                _ => Exit::Runtime,
            },
            // A reader that has seen enough, such as `head`, is no failure.
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Success,
            Self::StateFile { .. } | Self::Nodes(_) => Exit::Usage,
            Self::Retirement(error) => match &**error {
                RetirementError::Evidence(_) => Exit::Runtime,
                _ => Exit::CheckFailed,
            },
            Self::State(_) | Self::Rebuild(_) | Self::Benchmark(_) | Self::LabProbe(_) => {
                Exit::CheckFailed
            }
            Self::Backup(error) => match &**error {
                BackupError::Connection(_)
                | BackupError::Metadata(_)
                | BackupError::Unanswered(_)
                | BackupError::Unreadable { .. } => Exit::Runtime,
                BackupError::OpenBao { problem, .. } if !problem.is_damage() => Exit::Runtime,
                BackupError::Etcd(error) if !error.is_damage() => Exit::Runtime,
                _ => Exit::CheckFailed,
            },
            Self::RecordUnreadable { .. } => Exit::Runtime,
            Self::RecordInvalid {
                problem: RecordError::NewerRelease(_),
                ..
            } => Exit::Runtime,
            Self::RecordInvalid { .. } => Exit::CheckFailed,
            Self::Output(_)
            | Self::RecordFile(_)
            | Self::DrillReportFile(_)
            | Self::DrillMetricsFile(_)
            | Self::Runtime(_)
            | Self::Lab(_)
            | Self::BaoNotFound(_)
            | Self::Policy(_)
            | Self::ManualPages { .. } => Exit::Unclassified,
        }
    }

    /// Writes the failure, its causes and the next step.
    ///
    /// # Errors
    /// Those of `err`.
    pub(super) fn write(&self, err: &mut dyn Write) -> io::Result<()> {
        if self.exit() == Exit::Success {
            return Ok(());
        }
        writeln!(err, "error: {self}")?;
        let mut cause = self.source();
        while let Some(error) = cause {
            writeln!(err, "  cause: {error}")?;
            cause = error.source();
        }
        if let Self::Config(LoadError::Invalid { problems, .. }) = self {
            for problem in problems {
                writeln!(err, "  - {problem}")?;
            }
        }
        match self.next_step() {
            Some(step) => writeln!(err, "  next: {step}"),
            None => Ok(()),
        }
    }

    fn next_step(&self) -> Option<Cow<'static, str>> {
        let etcd = match self {
            Self::Etcd(error) => error.next_step(),
            Self::Backup(error) => match &**error {
                BackupError::Etcd(error) => error.next_step(),
                _ => None,
            },
            Self::Retirement(error) => match &**error {
                RetirementError::Evidence(unread) => unread.cause.next_step(),
                _ => None,
            },
            _ => None,
        };
        match etcd {
            Some(step) => Some(step.into()),
            None => self.fixed_next_step().map(Cow::Borrowed),
        }
    }

    fn fixed_next_step(&self) -> Option<&'static str> {
        match self {
            Self::Config(LoadError::Unreadable { source, .. }) => match source.kind() {
                io::ErrorKind::NotFound => {
                    Some("name the file with --config or BAO_KMS_PROVIDER_CONFIG")
                }
                io::ErrorKind::PermissionDenied => {
                    Some("run as root or as the provider's user, such as with sudo -u openbao-kms")
                }
                _ => None,
            },
            Self::Config(LoadError::Malformed { .. }) => {
                Some("see docs/configuration.md for a complete example")
            }
            Self::Config(LoadError::Invalid { .. }) => {
                Some("correct every line above; the provider does not start before")
            }
            Self::Serve(error) => match &**error {
                ServeError::Bootstrap(failure) => call_remedy(failure.call()?),
                _ => None,
            },
            Self::Retirement(error) => match &**error {
                RetirementError::Metadata(failure) => call_remedy(failure),
                RetirementError::State(StateError::Unreadable(_)) => Some(OWN_USER),
                _ => None,
            },
            Self::Benchmark(error) => call_remedy(error.call()?),
            Self::Backup(error) => match &**error {
                BackupError::Metadata(failure) => call_remedy(failure),
                BackupError::State(StateError::Unreadable(_)) => Some(OWN_USER),
                BackupError::OpenBao { problem, .. } => Some(problem.next_step()),
                _ => None,
            },
            Self::RecordFile(DiskError::Exists { .. }) => {
                Some("name another file; records are never overwritten")
            }
            Self::DrillReportFile(DiskError::Exists { .. }) => {
                Some("name another file, or a directory, in which each drill makes one of its own")
            }
            Self::Etcd(error) => match &**error {
                EtcdError::Open { .. } => Some(
                    "name a snapshot that is there and may be read; nothing was looked at or changed",
                ),
                EtcdError::Live(LiveError::NoAuthority { .. }) => Some(
                    "name the CA that vouches for etcd, such as /etc/kubernetes/pki/etcd/ca.crt",
                ),
                EtcdError::Live(LiveError::File { .. } | LiveError::Tls(_)) => Some(
                    "give the files that clients of etcd use, readable for this user; nothing was \
                     looked at or changed",
                ),
                _ => None,
            },
            Self::RecordUnreadable { .. } => Some(
                "name a record that is there and may be read, or leave --record out; nothing was \
                 looked at or changed",
            ),
            Self::RecordInvalid {
                problem: RecordError::NewerRelease(_),
                ..
            } => Some("use the release that wrote it, or go on without --record; do not edit it"),
            Self::RecordInvalid { .. } => Some(
                "take the copy of another backup medium, or verify without --record; do not edit it",
            ),
            Self::State(error) => match &**error {
                StateError::Unreadable(_) => Some(OWN_USER),
                _ => None,
            },
            Self::UnsupportedAuth(_)
            | Self::OtherConfiguration(_)
            | Self::Rebuild(_)
            | Self::NotHardened(_)
            | Self::Lab(_)
            | Self::BaoNotFound(_)
            | Self::LabProbe(_)
            | Self::Runtime(_)
            | Self::Output(_)
            | Self::RecordFile(_)
            | Self::DrillReportFile(_)
            | Self::DrillMetricsFile(_)
            | Self::StateFile { .. }
            | Self::Nodes(_)
            | Self::Policy(_)
            | Self::Activation(_)
            | Self::ManualPages { .. } => None,
        }
    }
}
