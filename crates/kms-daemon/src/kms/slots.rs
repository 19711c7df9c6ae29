//! Bound on the calls of one method, and the queue before it.

use tokio::sync::{Semaphore, SemaphorePermit};

use super::fault::Fault;

/// Waiting calls for each running one. A burst then takes longer instead of failing; kube-apiserver
/// reports a refused Encrypt as an error of the write.
const QUEUE: usize = 2;

/// Calls of one method. Calls beyond the limit wait in order of arrival; their deadline is that of
/// the caller.
pub(super) struct Slots {
    /// Running and waiting calls.
    admitted: Semaphore,
    running: Semaphore,
}

/// The place of one running call, free again when it is dropped.
pub(super) struct Slot<'a> {
    _running: SemaphorePermit<'a>,
    _admitted: SemaphorePermit<'a>,
}

impl Slots {
    /// For at most `limit` running calls.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            admitted: Semaphore::new(limit * (1 + QUEUE)),
            running: Semaphore::new(limit),
        }
    }

    /// Waits for a slot.
    ///
    /// # Errors
    ///
    /// [`Fault::Concurrency`] at once if the queue is full.
    pub(super) async fn enter(&self) -> Result<Slot<'_>, Fault> {
        let admitted = self.admitted.try_acquire();
        let admitted = admitted.map_err(|_| Fault::Concurrency)?;
        let running = self.running.acquire().await;
        Ok(Slot {
            _running: running.map_err(|_| Fault::Stopping)?,
            _admitted: admitted,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{
        pin::{Pin, pin},
        task::{Context, Poll, Waker},
    };

    use super::*;

    fn poll<F: Future>(future: &mut Pin<&mut F>) -> Poll<F::Output> {
        future
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn calls_beyond_the_limit_wait_in_order_and_those_beyond_the_queue_fail() {
        let slots = Slots::new(1);
        let mut calls: Vec<_> = (0..4).map(|_| Box::pin(slots.enter())).collect();
        let [first, second, third, fourth] = &mut calls[..] else {
            unreachable!()
        };
        let Poll::Ready(Ok(running)) = poll(&mut first.as_mut()) else {
            unreachable!("the first call waits")
        };
        assert!(poll(&mut second.as_mut()).is_pending());
        assert!(poll(&mut third.as_mut()).is_pending());
        let refused = poll(&mut pin!(slots.enter())).map(Result::err);
        assert_eq!(refused, Poll::Ready(Some(Fault::Concurrency)));

        drop(running);
        assert!(poll(&mut third.as_mut()).is_pending());
        let Poll::Ready(Ok(running)) = poll(&mut second.as_mut()) else {
            unreachable!("a slot is free")
        };
        assert!(
            poll(&mut fourth.as_mut()).is_pending(),
            "the queue has one place"
        );
        drop(running);
        assert!(matches!(poll(&mut third.as_mut()), Poll::Ready(Ok(_))));
    }
}
