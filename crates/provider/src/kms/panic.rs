//! A panic in one request must not end the daemon that an API server depends on.

use std::{
    any::Any,
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    task::Poll,
};

/// What kind of value a handler panicked with. The value itself may hold anything, so it is
/// dropped unseen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PanicKind(&'static str);

impl PanicKind {
    /// `str`, `string` or `other`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.0
    }
}

/// Runs `work` to its end, or to its panic.
///
/// What `work` borrows must stay sound after a panic: handlers share only atomics and immutable
/// views.
///
/// # Errors
/// The kind of the panic.
pub async fn caught<T>(work: impl Future<Output = T>) -> Result<T, PanicKind> {
    let mut work = pin!(work);
    poll_fn(
        |cx| match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(cx))) {
            Ok(Poll::Ready(value)) => Poll::Ready(Ok(value)),
            Ok(Poll::Pending) => Poll::Pending,
            Err(payload) => Poll::Ready(Err(kind(&*payload))),
        },
    )
    .await
}

fn kind(payload: &(dyn Any + Send)) -> PanicKind {
    if payload.is::<&'static str>() {
        PanicKind("str")
    } else if payload.is::<String>() {
        PanicKind("string")
    } else {
        PanicKind("other")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_becomes_an_error_and_a_value_passes() {
        let panicked = caught(async { panic!("one {}", std::process::id()) }).await;
        assert_eq!(panicked, Err(PanicKind("string")));
        let panicked = caught(async {
            tokio::task::yield_now().await;
            std::panic::panic_any(7);
        });
        assert_eq!(panicked.await, Err(PanicKind("other")));
        assert_eq!(caught(async { 7 }).await, Ok(7));
    }
}
