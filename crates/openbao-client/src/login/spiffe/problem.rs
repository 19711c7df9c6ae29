//! Why the agent gave no usable JWT-SVID.

use std::{error::Error, io};

use tonic::{Code, Status};

use crate::login::{LoginOutcome, jwt::JwtProblem};

/// Error of a request to the Workload API. Contains no path, SPIFFE ID or text of the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SpiffeProblem {
    /// There is no connection to the socket.
    #[error("the socket of the SPIFFE agent cannot be used")]
    Socket(#[source] SocketProblem),
    /// The time limit passed.
    #[error("the SPIFFE agent did not answer within the time limit")]
    Timeout,
    /// The agent has no identity for this process.
    #[error("the SPIFFE agent has no identity for this process")]
    NoIdentity,
    /// The agent has other identities for this process.
    #[error("the SPIFFE agent has another identity for this process than auth.jwt.expectedSubject")]
    OtherIdentity,
    /// The agent refuses the audience or the SPIFFE ID.
    #[error("the SPIFFE agent refuses the request for this audience and SPIFFE ID")]
    Refused,
    /// The agent answers with an error, such as without its server.
    #[error("the SPIFFE agent cannot issue a JWT-SVID now")]
    Unavailable,
    /// The response is unusable.
    #[error("the response of the SPIFFE agent cannot be used")]
    Response(#[source] ResponseProblem),
    /// The JWT-SVID cannot be used for a login.
    #[error("the JWT-SVID cannot be used")]
    Svid(#[source] JwtProblem),
}

impl SpiffeProblem {
    /// Error code for logs and reports.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Socket(problem) => problem.code(),
            Self::Timeout => "timeout",
            Self::NoIdentity => "no_identity",
            Self::OtherIdentity => "other_identity",
            Self::Refused => "request_refused",
            Self::Unavailable => "agent_unavailable",
            Self::Response(problem) => problem.code(),
            Self::Svid(problem) => problem.code(),
        }
    }

    /// Whether the agent answered, and the same request will probably fail again.
    #[must_use]
    pub fn is_refusal(self) -> bool {
        match self {
            Self::Socket(_) | Self::Timeout | Self::Unavailable => false,
            Self::NoIdentity
            | Self::OtherIdentity
            | Self::Refused
            | Self::Response(_)
            | Self::Svid(_) => true,
        }
    }

    pub(crate) fn outcome(self) -> LoginOutcome {
        match self {
            Self::Socket(_) | Self::Timeout => LoginOutcome::SpiffeRequest,
            Self::NoIdentity | Self::OtherIdentity | Self::Refused => LoginOutcome::SpiffeRejected,
            Self::Unavailable => LoginOutcome::SpiffeUnavailable,
            Self::Response(_) => LoginOutcome::SpiffeResponse,
            Self::Svid(problem) => LoginOutcome::of_jwt(problem),
        }
    }

    /// Classifies a failed call by its code. The texts of agents differ.
    pub(super) fn of(status: &Status) -> Self {
        // A status with a source is of the connection, not of the agent.
        if status.source().is_some() {
            return Self::Response(ResponseProblem::Broken);
        }
        match status.code() {
            Code::PermissionDenied => Self::NoIdentity,
            Code::InvalidArgument => Self::Refused,
            Code::Unimplemented => Self::Response(ResponseProblem::Unimplemented),
            Code::OutOfRange => Self::Response(ResponseProblem::TooLarge),
            _ => Self::Unavailable,
        }
    }
}

/// Failure of the connection to the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SocketProblem {
    /// There is no file.
    #[error("it does not exist")]
    Missing,
    /// The user of this process has no access.
    #[error("the user of this process has no access to it")]
    Denied,
    /// No process listens.
    #[error("no process listens on it")]
    Refused,
    /// Any other error of the system.
    #[error("the connection failed")]
    Failed,
}

impl SocketProblem {
    /// Classifies a connection error by the error of the system in its chain of causes.
    pub(super) fn of(error: &(dyn Error + 'static)) -> Self {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(error) = error.downcast_ref::<io::Error>() {
                return match error.kind() {
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Self::Missing,
                    io::ErrorKind::PermissionDenied => Self::Denied,
                    io::ErrorKind::ConnectionRefused => Self::Refused,
                    _ => Self::Failed,
                };
            }
            next = error.source();
        }
        Self::Failed
    }

    fn code(self) -> &'static str {
        match self {
            Self::Missing => "socket_missing",
            Self::Denied => "socket_denied",
            Self::Refused => "socket_refused",
            Self::Failed => "socket_failed",
        }
    }
}

/// The response differs from the specification of the Workload API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ResponseProblem {
    /// The connection broke, or the peer speaks another protocol.
    #[error("it broke off, or is not gRPC")]
    Broken,
    /// The peer has no Workload API.
    #[error("the peer has no Workload API")]
    Unimplemented,
    /// It exceeds 1 MiB.
    #[error("it is larger than 1 MiB")]
    TooLarge,
    /// It has no SVID.
    #[error("it has no JWT-SVID")]
    Empty,
}

impl ResponseProblem {
    fn code(self) -> &'static str {
        match self {
            Self::Broken => "broken_answer",
            Self::Unimplemented => "no_workload_api",
            Self::TooLarge => "too_large",
            Self::Empty => "no_svid",
        }
    }
}
