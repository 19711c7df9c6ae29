//! Why a command ends without a result, and what the person at the terminal is told.

use std::{
    error::Error,
    io::{self, Write},
    path::{Path, PathBuf},
    time::SystemTime,
};

use kms_daemon::{
    kms::socket::SocketError,
    lifecycle::activation::ActivationError,
    serve::ServeError,
    watcher::{BootstrapError, committer::CommitterError, metadata::MetadataError},
};
use kms_domain::{
    recovery::record::RecordError,
    registry::{RegistryConflict, retire::PlanRefused},
};
use kms_install::{plan::PlanError, policy::UnsafePolicyPath};
use kms_node::{
    advice::{
        Advice, Cause, Found, NEVER, Site, command, configuration, evidence,
        key::{self, found_profile, of_round_trip},
        node,
        openbao::{self, of_call, of_connection},
        restore,
        retirement::{lowest_hidden, lowest_of, of_plan, of_rotation},
        site::{quoted, shell},
        snapshot,
        state::{self, of_commit},
        texts, versions,
    },
    config::{LoadError, Problem, UnsupportedAuth},
    hardening::NotHardened,
    probe::ProbeError,
    report::{one_line, outcome::Outcome},
    state::{
        CommitError, LockError, StateError, StatePathProblem, disk::DiskError,
        rebuild::RebuildError,
    },
    transit_key::KeyReadError,
};
use kms_operator::{
    attestation::AttestationError,
    benchmark::BenchmarkError,
    diagnose::configuration::unloaded,
    nodes::NodesProblem,
    recovery::{
        EtcdError,
        backup_record::BackupError,
        backups::{Unreadable, newest::NoPair},
    },
    retirement::RetirementError,
};
use openbao_lab::binary::BaoNotFound;
use schemars::JsonSchema;
use serde::Serialize;

use super::{Exit, Line};
use super::{init::InitError, node::NodeError, rewrite::RewriteFailure};
use crate::dev::LabError;

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
    /// The daemon was started as another user than the owner of the state.
    #[error(
        "the state in {} belongs to {owner} (uid {uid}), and this process runs as uid {user}",
        directory.display()
    )]
    ForeignState {
        directory: PathBuf,
        /// As `sudo` takes it.
        owner: String,
        uid: u32,
        user: u32,
    },
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
    /// Two directories have no pair of snapshots.
    #[error("there is no pair of backups")]
    NoPair(#[from] NoPair),
    /// A directory with backups cannot be read.
    #[error(transparent)]
    Backups(#[from] Unreadable),
    /// There is nothing to note of a backup set.
    #[error(transparent)]
    Backup(Box<BackupError>),
    /// The rebuilt state is not in place.
    #[error(transparent)]
    Rebuild(Box<RebuildError>),
    /// The backup record could not be written.
    #[error("the backup record was not written")]
    RecordFile(#[source] DiskError),
    /// The converted configuration could not be written.
    #[error("the new configuration file was not written")]
    NewConfig(#[source] DiskError),
    /// The report of a drill could not be written.
    #[error("the report of the drill was not written")]
    DrillReportFile(#[source] DiskError),
    /// The HTML page could not be written.
    #[error("the HTML page was not written")]
    PageFile(#[source] DiskError),
    /// The result has no signed statement.
    #[error(transparent)]
    Attestation(Box<AttestationError>),
    /// The archive could not be written.
    #[error("the support bundle was not written")]
    BundleFile(#[source] DiskError),
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
        _ => "is invalid",
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
    /// The lab's provider failed.
    #[error(transparent)]
    LabServe(Box<ServeError>),
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
    /// The files of an installation were not made.
    #[error(transparent)]
    Init(Box<InitError>),
    /// A command of a node could not begin.
    #[error(transparent)]
    Node(Box<NodeError>),
    /// No object was rewritten.
    #[error(transparent)]
    Rewrite(Box<RewriteFailure>),
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

impl From<RewriteFailure> for Failure {
    fn from(error: RewriteFailure) -> Self {
        Self::Rewrite(Box::new(error))
    }
}

impl From<NodeError> for Failure {
    fn from(error: NodeError) -> Self {
        Self::Node(Box::new(error))
    }
}

impl From<InitError> for Failure {
    fn from(error: InitError) -> Self {
        Self::Init(Box::new(error))
    }
}

impl From<LabError> for Failure {
    fn from(error: LabError) -> Self {
        match error {
            // A value of a flag or of the environment.
            LabError::Config(error) => Self::Config(error),
            error => Self::Lab(Box::new(error)),
        }
    }
}

/// Large errors are boxed, so that every `Result` stays small.
macro_rules! boxed {
    ($($variant:ident($error:ident)),*) => {
        $(impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                Self::$variant(Box::new(error))
            }
        })*
    };
}

boxed!(
    Attestation(AttestationError),
    Benchmark(BenchmarkError),
    Etcd(EtcdError),
    State(StateError),
    Retirement(RetirementError),
    Rebuild(RebuildError)
);

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
            Self::Config(_)
            | Self::UnsupportedAuth(_)
            | Self::OtherConfiguration(_)
            | Self::ForeignState { .. } => Exit::Configuration,
            Self::Serve(_) | Self::NotHardened(_) | Self::Activation(_) => Exit::Runtime,
            Self::Etcd(error) if error.is_misuse() => Exit::Usage,
            Self::Etcd(_) => Exit::Runtime,
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
            Self::LabServe(_) => Exit::Runtime,
            Self::Backup(error) => error.exit(),
            Self::Attestation(error) => error.exit(),
            Self::Init(error) => error.exit(),
            Self::Node(error) => error.found().0.exit,
            Self::Rewrite(error) => error.found().0.exit,
            Self::RecordUnreadable { .. } | Self::Backups(_) | Self::NoPair(_) => Exit::Runtime,
            Self::RecordInvalid {
                problem: RecordError::NewerRelease(_),
                ..
            } => Exit::Runtime,
            Self::RecordInvalid { .. } => Exit::CheckFailed,
            Self::Output(_)
            | Self::RecordFile(_)
            | Self::NewConfig(_)
            | Self::DrillReportFile(_)
            | Self::DrillMetricsFile(_)
            | Self::PageFile(_)
            | Self::BundleFile(_)
            | Self::Runtime(_)
            | Self::Lab(_)
            | Self::BaoNotFound(_)
            | Self::Policy(_)
            | Self::ManualPages { .. } => Exit::Unclassified,
        }
    }

    /// The failure in the words of the catalogue, with the values of this installation.
    pub(super) fn advise(&self, site: &Site<'_>, line: &Line) -> Advice {
        let (cause, values) = self.cause();
        let typed = line.typed.as_str();
        let mut known = vec![("again", typed), ("whole", typed), ("plan", &line.planning)];
        known.extend(line.command.map(|command| ("command", command)));
        known.extend(texts(&values));
        let mut advice = cause.advise(site, &known);
        advice.exit = self.exit();
        advice.without_the_key();
        if matches!(self, Self::Serve(_) | Self::OtherConfiguration(_)) {
            let [keep_objects, ..] = NEVER;
            advice.warnings.push(keep_objects);
        }
        advice
    }

    /// The result in JSON.
    pub(super) fn outcome(
        &self,
        advice: &Advice,
        line: &Line,
        now: SystemTime,
    ) -> Outcome<Failed<'_>> {
        let mut outcome = Outcome::new(line.name(), now, Failed::of(self));
        outcome.conclude_with(advice);
        outcome.set_found(one_line(self));
        outcome
    }

    /// Writes the failure for a person: what failed and why, the effect on the data, the next steps
    /// and the warnings.
    ///
    /// # Errors
    /// Those of `err`.
    pub(super) fn write(&self, advice: &Advice, err: &mut dyn Write) -> io::Result<()> {
        match self {
            // Its own message is the same for every cause.
            Self::Serve(error)
                if matches!(**error, ServeError::State(_) | ServeError::Bootstrap(_)) =>
            {
                writeln!(err, "error: {self}: {}", advice.headline)?;
            }
            _ => writeln!(err, "error: {self}")?,
        }
        let mut cause = self.source();
        while let Some(error) = cause {
            writeln!(err, "  cause: {error}")?;
            cause = error.source();
        }
        for problem in Failed::of(self).problems.into_iter().flatten() {
            writeln!(err, "  - {problem}")?;
        }
        // A command that cannot begin says nothing of the data.
        if !matches!(self.exit(), Exit::Usage | Exit::Unclassified) {
            writeln!(err, "  data: {}", advice.data)?;
        }
        for step in &advice.steps {
            writeln!(err, "  next: {}", step.text)?;
            if let Some(command) = &step.command {
                writeln!(err, "        {command}")?;
            }
        }
        for warning in &advice.warnings {
            writeln!(err, "  {warning}")?;
        }
        Ok(())
    }

    /// The cause in the catalogue, with its values.
    fn cause(&self) -> Found {
        let cause = match self {
            Self::Config(error) => unloaded(error),
            Self::UnsupportedAuth(_) => &configuration::UNSUPPORTED_LOGIN,
            Self::ForeignState { owner, .. } => {
                return (&node::STATE_OF_OTHER_USER, vec![("owner", quoted(owner))]);
            }
            Self::OtherConfiguration(error) | Self::State(error) => return of_state(error),
            Self::Serve(error) => return of_serve(error),
            Self::NotHardened(_) => &node::HARDENING_REFUSED,
            Self::Activation(_) => &node::SOCKET_UNIT_INVALID,
            Self::Retirement(error) => return of_retirement(error),
            Self::Benchmark(error) => return of_benchmark(error),
            Self::Backup(error) => return BackupError::cause(error),
            Self::Attestation(error) => AttestationError::cause(error),
            Self::Rebuild(error) => match &**error {
                RebuildError::Changed { .. } => &restore::PLAN_OUTDATED,
                RebuildError::State(error) => return of_state(error),
                RebuildError::Journal { .. } => &state::JOURNAL_UNUSABLE,
                RebuildError::Disk(_) | RebuildError::NotReadBack { .. } => &state::NOT_SAVED,
            },
            Self::RecordFile(_)
            | Self::NewConfig(_)
            | Self::DrillReportFile(_)
            | Self::DrillMetricsFile(_)
            | Self::PageFile(_)
            | Self::BundleFile(_)
            | Self::ManualPages { .. } => &command::OUTPUT_NOT_WRITTEN,
            Self::RecordUnreadable { .. } | Self::Backups(_) => &snapshot::NOT_OPENED,
            Self::NoPair(error) => error.cause(),
            Self::RecordInvalid {
                problem: RecordError::NewerRelease(_),
                ..
            } => &evidence::NEWER_RELEASE,
            Self::RecordInvalid { .. } => &evidence::RECORD_INVALID,
            Self::Lab(_) | Self::LabServe(_) | Self::LabProbe(_) | Self::BaoNotFound(_) => {
                &command::LAB_FAILED
            }
            Self::StateFile { .. } | Self::Nodes(_) => &command::INVALID_USAGE,
            Self::Etcd(error) => return EtcdError::cause(error),
            Self::Policy(_) => &configuration::UNSAFE_POLICY_PATH,
            Self::Node(error) => return error.found(),
            Self::Rewrite(error) => return error.found(),
            Self::Init(error) => match error.exit() {
                Exit::Configuration => &configuration::VALUES_INVALID,
                Exit::Usage => &command::INVALID_USAGE,
                _ => &command::OUTPUT_NOT_WRITTEN,
            },
            Self::Runtime(_) | Self::Output(_) => &command::ERROR,
        };
        (cause, Vec::new())
    }
}

fn of_serve(error: &ServeError) -> Found {
    let cause = match error {
        ServeError::State(error) => return of_state(error),
        ServeError::UnsupportedAuth(_) => &configuration::UNSUPPORTED_LOGIN,
        ServeError::Group(_) => &node::SOCKET_GROUP_UNUSABLE,
        ServeError::Connection(error) => of_connection(error),
        ServeError::Bind(_) => &node::LISTENER_UNUSABLE,
        ServeError::Bootstrap(error) => match error {
            BootstrapError::Metadata(error) => return of_metadata(error),
            BootstrapError::Deep(error) => of_round_trip(error),
        },
        ServeError::Socket(error) => match error {
            SocketError::Activated { .. } => &node::SOCKET_UNIT_INVALID,
            SocketError::Directory { .. } | SocketError::UnsafeDirectory { .. } => {
                &node::SOCKET_DIRECTORY_UNUSABLE
            }
            SocketError::NotASocket { .. }
            | SocketError::InUse { .. }
            | SocketError::Undecided { .. }
            | SocketError::Bind { .. } => &node::SOCKET_NOT_OPENED,
        },
        ServeError::Ended(_) => &node::PART_ENDED,
    };
    (cause, Vec::new())
}

fn of_metadata(error: &MetadataError) -> Found {
    let cause = match error {
        MetadataError::Key(
            KeyReadError::UpsertRead { source, .. } | KeyReadError::Read { source, .. },
        ) => of_call(source),
        MetadataError::Key(KeyReadError::UpsertAllowed { .. }) => &key::UPSERT_ALLOWED,
        MetadataError::Key(KeyReadError::Profile(refused)) => return found_profile(refused),
        MetadataError::Rotation(refused) => {
            return with_lowest(of_rotation(refused), lowest_hidden(refused));
        }
        MetadataError::Bootstrap(_) => &state::LOST,
        MetadataError::Save(unsaved) | MetadataError::Deferred(unsaved) => match unsaved {
            CommitterError::Commit(error) => of_commit(error),
            CommitterError::Interrupted | CommitterError::NoAnswer => &state::NOT_SAVED,
        },
        MetadataError::CutOff => &openbao::UNREACHABLE,
        MetadataError::EncryptionBlocked { .. } => &versions::ENCRYPTION_BLOCKED,
    };
    (cause, Vec::new())
}

fn with_lowest(cause: &'static Cause, lowest: Option<String>) -> Found {
    let lowest = lowest.map(|version| ("lowest", version));
    (cause, lowest.into_iter().collect())
}

fn of_conflict(conflict: &RegistryConflict) -> Found {
    with_lowest(key::of_conflict(conflict), lowest_of(conflict))
}

fn of_state(error: &StateError) -> Found {
    let cause = match error {
        StateError::Lock(LockError::Locked { holder, .. }) => {
            let holder = holder.as_ref();
            let pid = holder.map(|holder| ("pid", holder.pid.to_string()));
            let foreign = holder.is_some_and(|holder| !holder.is_provider());
            let cause = match foreign {
                true => &node::STATE_LOCKED,
                false => &restore::PROVIDER_RUNNING,
            };
            return (cause, pid.into_iter().collect());
        }
        StateError::CheckpointWrite(problem) => state::of_disk(problem),
        error => state::of_error(error),
    };
    let path = match error {
        StateError::Unreadable(DiskError::Unsafe { path, .. }) => Some(("path", shell(path))),
        _ => None,
    };
    (cause, path.into_iter().collect())
}

fn of_benchmark(error: &BenchmarkError) -> Found {
    let cause = match error {
        BenchmarkError::Connection(error) => of_connection(error),
        BenchmarkError::Metadata(failure) => of_call(failure),
        BenchmarkError::Profile(refused) => return found_profile(refused),
        BenchmarkError::Socket(_) => &node::SOCKET_UNUSABLE,
        BenchmarkError::OpenBaoTrip { source, .. } => of_round_trip(source),
        BenchmarkError::SocketTrip { .. } => &node::UNHEALTHY,
        BenchmarkError::Runtime(_) => &command::ERROR,
    };
    (cause, Vec::new())
}

fn of_retirement(error: &RetirementError) -> Found {
    let cause = match error {
        RetirementError::State(error) => return of_state(error),
        RetirementError::NoState(_) => &state::LOST,
        RetirementError::Connection(error) => of_connection(error),
        RetirementError::Metadata(failure) => of_call(failure),
        RetirementError::Profile(refused) => return found_profile(refused),
        RetirementError::Evidence(unread) => return EtcdError::cause(&unread.cause),
        RetirementError::Refused(refused) => match refused {
            PlanRefused::Conflict(conflict) => return of_conflict(conflict),
            refused => of_plan(refused),
        },
        RetirementError::Outdated(_) => &restore::PLAN_OUTDATED,
        RetirementError::Commit(error) => match error {
            CommitError::Unfinished(_)
            | CommitError::NotTheNext(_)
            | CommitError::Foreign { .. } => &restore::PLAN_OUTDATED,
            error => of_commit(error),
        },
    };
    (cause, Vec::new())
}

/// The members of a failure.
#[derive(Debug, Default, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Failed<'a> {
    /// An invalid configuration file; absent for other failures, as are the next two.
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<&'a Path>,
    /// Always false.
    #[serde(skip_serializing_if = "Option::is_none")]
    valid: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    problems: Option<&'a [Problem]>,
}

impl<'a> Failed<'a> {
    fn of(failure: &'a Failure) -> Self {
        match failure {
            Failure::Config(LoadError::Invalid { path, problems }) => Self {
                path: Some(path),
                valid: Some(false),
                problems: Some(problems),
            },
            Failure::Init(error) => Self {
                path: None,
                valid: Some(false),
                problems: match &**error {
                    InitError::Plan(PlanError::Invalid(problems)) => Some(problems),
                    _ => None,
                },
            },
            _ => Self::default(),
        }
    }

    /// The result in JSON of a command line that the parser refuses.
    pub(super) fn usage(refused: &clap::Error, line: &Line, now: SystemTime) -> Outcome<Self> {
        let command = line.command.map(|command| ("command", command));
        let values: Vec<_> = command.into_iter().collect();
        let site = Site::new(Path::new(""), None);
        let mut outcome = Outcome::new(line.name(), now, Self::default());
        outcome.conclude_with(&command::INVALID_USAGE.advise(&site, &values));
        let text = refused.to_string();
        let message = text.split("\n\n").next().unwrap_or(&text);
        outcome.set_found(message.trim_start_matches("error: ").trim_end());
        outcome
    }
}
