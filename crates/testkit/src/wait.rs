//! Waiting for a condition instead of sleeping.

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// Returns once the condition holds.
///
/// # Panics
/// When the condition is still false after `within`; `awaited` completes the message "gave up
/// waiting for".
pub async fn wait_until(within: Duration, awaited: &str, mut condition: impl AsyncFnMut() -> bool) {
    let give_up = Instant::now() + within;
    while !condition().await {
        assert!(
            Instant::now() < give_up,
            "gave up waiting for {awaited} after {within:?}"
        );
        sleep(Duration::from_millis(10)).await;
    }
}
