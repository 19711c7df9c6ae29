//! Why a command ends without a result, and what the person at the terminal is told.

use std::{
    error::Error,
    io::{self, Write},
    path::PathBuf,
};

use super::{exit::Exit, policy::UnsafePolicyPath};
use crate::{config::LoadError, state::StatePathProblem};

/// Every way in which a command can fail.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// No configuration.
    #[error(transparent)]
    Config(#[from] LoadError),
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

impl Failure {
    /// The code of each failure.
    #[must_use]
    pub(super) fn exit(&self) -> Exit {
        match self {
            Self::Config(_) => Exit::Configuration,
            // A reader that has seen enough, such as `head`, is no failure.
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Success,
            Self::StateFile { .. } => Exit::Usage,
            Self::Output(_) | Self::Policy(_) | Self::ManualPages { .. } => Exit::Unclassified,
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

    fn next_step(&self) -> Option<&'static str> {
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
            Self::Output(_)
            | Self::StateFile { .. }
            | Self::Policy(_)
            | Self::ManualPages { .. } => None,
        }
    }
}
