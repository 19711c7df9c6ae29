//! Outcomes of request calls, reported to the watcher between two probes. Lock-free, because it is
//! on the path of every call to OpenBao.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use openbao_client::{
    event::{Outcome, RequestEvent, RequestHook},
    request::Operation,
};
use tokio::sync::Notify;

/// The outcomes of calls that predict another result of the next probe.
#[derive(Debug, Default)]
pub struct CallOutcomes {
    /// The last relevant call failed to reach a working OpenBao.
    failing: AtomicBool,
    /// The watcher waits for the next success.
    awaited: AtomicBool,
    changed: Notify,
}

impl CallOutcomes {
    /// Wraps `hook` and reports every call to `self` first.
    #[must_use]
    pub fn observed(self: &Arc<Self>, hook: RequestHook) -> RequestHook {
        let calls = Arc::clone(self);
        Arc::new(move |event: &RequestEvent| {
            calls.observe(event.operation, event.outcome);
            hook(event);
        })
    }

    fn observe(&self, operation: Operation, outcome: Outcome) {
        let changed = match (operation, outcome) {
            // Calls of the probes, of address checks, and of commands.
            (
                Operation::TransitMetadataRead
                | Operation::TransitDisableUpsertRead
                | Operation::TransitSign
                | Operation::CapabilitiesSelf
                | Operation::TokenLookupSelf
                | Operation::SealStatus
                | Operation::Leader
                | Operation::Health
                | Operation::Admin,
                _,
            ) => return,
            (_, Outcome::Ok) => {
                self.failing.store(false, Ordering::Release);
                self.awaited.swap(false, Ordering::AcqRel)
            }
            (_, Outcome::Failed(class)) if class.is_outage() => {
                !self.failing.swap(true, Ordering::AcqRel)
            }
            (_, Outcome::Failed(_) | Outcome::Canceled) => return,
        };
        if changed {
            self.changed.notify_one();
        }
    }

    /// Whether calls fail because of an outage of OpenBao, without a later success.
    #[must_use]
    pub fn are_failing(&self) -> bool {
        self.failing.load(Ordering::Acquire)
    }

    /// Waits for the first failure after a success, or for an awaited success. Cancel-safe; has a
    /// single caller, the watcher.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Makes [`changed`](Self::changed) complete at the next success.
    pub fn await_success(&self) {
        self.awaited.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use openbao_client::failure::FailureClass;
    use std::future::{Future, poll_fn};
    use std::{pin::pin, task::Poll};

    use super::*;

    const DECRYPT: Operation = Operation::TransitBatchDecrypt;
    const LOST: Outcome = Outcome::Failed(FailureClass::Timeout);

    async fn has_changed(calls: &CallOutcomes) -> bool {
        let mut changed = pin!(calls.changed());
        poll_fn(|context| Poll::Ready(changed.as_mut().poll(context).is_ready())).await
    }

    #[tokio::test]
    async fn the_first_failure_and_an_awaited_success_are_changes() {
        let calls = CallOutcomes::default();
        calls.observe(DECRYPT, Outcome::Ok);
        assert!(!has_changed(&calls).await);
        calls.observe(Operation::Health, LOST);
        assert!(!calls.are_failing(), "one of several addresses may be down");
        calls.observe(DECRYPT, LOST);
        assert!(calls.are_failing() && has_changed(&calls).await);
        calls.observe(DECRYPT, LOST);
        assert!(!has_changed(&calls).await, "one change, however many fail");

        calls.await_success();
        for refused in [
            Outcome::Canceled,
            Outcome::Failed(FailureClass::PermissionDenied),
        ] {
            calls.observe(DECRYPT, refused);
            assert!(calls.are_failing() && !has_changed(&calls).await);
        }
        calls.observe(Operation::TransitMetadataRead, Outcome::Ok);
        assert!(calls.are_failing(), "probes are judged by the watcher");
        calls.observe(DECRYPT, Outcome::Ok);
        assert!(!calls.are_failing() && has_changed(&calls).await);
        calls.observe(DECRYPT, Outcome::Ok);
        assert!(!has_changed(&calls).await, "no longer awaited");
    }
}
