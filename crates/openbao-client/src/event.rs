//! The event after a request, for metrics and logs.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use crate::{
    failure::FailureClass,
    request::{Operation, RequestId},
};

/// Outcome of one HTTP request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// A valid response.
    Ok,
    /// A failure of this class.
    Failed(FailureClass),
    /// The caller canceled the request.
    Canceled,
}

impl Outcome {
    /// The metric and log label.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed(class) => class.label(),
            Self::Canceled => "canceled",
        }
    }
}

/// One finished HTTP request, for metrics and logs. Contains no secrets and no texts of the server.
#[derive(Debug, Clone)]
pub struct RequestEvent {
    /// The operation.
    pub operation: Operation,
    /// The outcome.
    pub outcome: Outcome,
    /// Duration until the parsed response, including the wait for a turn and the connection setup.
    /// For a repetition it starts at the previous failure.
    pub duration: Duration,
    /// OpenBao's request ID, if it is valid.
    pub request_id: Option<RequestId>,
    /// `Date` of a successful response, in whole seconds of OpenBao's clock.
    pub date: Option<SystemTime>,
}

/// Called exactly once for every HTTP request, and separately for a repetition. Must return
/// quickly.
pub type RequestHook = Arc<dyn Fn(&RequestEvent) + Send + Sync>;
