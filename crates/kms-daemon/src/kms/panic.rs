//! Isolates panics: a panic in one request must not end the daemon.

use std::{
    any::Any,
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::Poll,
};

/// Type of a handler's panic value. The value itself may hold secrets, so it is dropped unread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PanicKind(&'static str);

impl PanicKind {
    /// `str`, `string` or `other`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.0
    }
}

/// Runs `work` and catches its panic. The caller pins it: a future that is moved into another one
/// takes its size there twice.
///
/// Data borrowed by `work` must stay consistent after a panic: handlers share only atomics and
/// immutable views.
///
/// # Errors
/// The kind of the panic.
pub async fn caught<T>(mut work: impl Future<Output = T> + Unpin) -> Result<T, PanicKind> {
    poll_fn(
        |cx| match catch_unwind(AssertUnwindSafe(|| Pin::new(&mut work).poll(cx))) {
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
    use std::pin::pin;

    use super::*;

    #[tokio::test]
    async fn a_panic_becomes_an_error_and_a_value_passes() {
        let panicked = caught(Box::pin(async { panic!("one {}", std::process::id()) })).await;
        assert_eq!(panicked, Err(PanicKind("string")));
        let panicked = caught(Box::pin(async {
            tokio::task::yield_now().await;
            std::panic::panic_any(7);
        }));
        assert_eq!(panicked.await, Err(PanicKind("other")));
        assert_eq!(caught(pin!(async { 7 })).await, Ok(7));
    }
}
