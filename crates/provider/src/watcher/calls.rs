//! What the calls of requests tell the watcher about OpenBao between two probes. Lock-free, since
//! every call to OpenBao passes here.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use openbao_client::request::{Operation, Outcome, RequestEvent, RequestHook};
use tokio::sync::Notify;

/// The outcomes of calls, as far as they change what a probe would find.
#[derive(Debug, Default)]
pub struct CallOutcomes {
    /// The last call that counts did not reach a working OpenBao.
    failing: AtomicBool,
    /// The watcher wants to hear of the next success.
    awaited: AtomicBool,
    changed: Notify,
}

impl CallOutcomes {
    /// A hook that tells `self` of every call before `hook`.
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
            // Those of the probes and looks themselves, and of commands.
            (
                Operation::TransitMetadataRead
                | Operation::TransitDisableUpsertRead
                | Operation::CapabilitiesSelf
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

    /// Whether calls fail for want of a working OpenBao, without a success since.
    #[must_use]
    pub fn are_failing(&self) -> bool {
        self.failing.load(Ordering::Acquire)
    }

    /// Waits for the first failure after a success, or for a success that is awaited. Cancel-safe;
    /// only the watcher waits.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Makes the next success a change.
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
