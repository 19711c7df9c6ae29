//! Background parts of the daemon: the end or panic of each is reported.

use std::future::pending;

use tokio::task::JoinSet;

use crate::kms::panic::caught;

/// A part of the daemon ended unexpectedly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the {part} {}, so the provider stopped: kube-apiserver cannot read or write encrypted objects \
     through this node; no data is lost",
    if *.panicked { "panicked" } else { "ended unexpectedly" }
)]
pub struct PartEnded {
    /// Its name, from a bounded set.
    pub part: &'static str,
    /// Whether it panicked; the log has the location.
    pub panicked: bool,
}

/// Tasks that run as long as the daemon. Dropping it ends them.
#[derive(Debug, Default)]
pub struct Supervisor(JoinSet<PartEnded>);

impl Supervisor {
    /// Runs a part.
    pub fn spawn(&mut self, part: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        self.0.spawn(watch(part, work));
    }

    /// Completes when the first part has ended.
    pub async fn part_ended(&mut self) -> PartEnded {
        loop {
            match self.0.join_next().await {
                Some(Ok(ended)) => return ended,
                // Unreachable: parts are never aborted, and their panics are caught.
                Some(Err(_)) => {}
                None => return pending().await,
            }
        }
    }
}

/// Runs a part until its end or panic, in the current task.
pub async fn watch(part: &'static str, work: impl Future<Output = ()>) -> PartEnded {
    let panicked = caught(Box::pin(work)).await.is_err();
    PartEnded { part, panicked }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_part_that_ends_or_panics_is_named() {
        let mut parts = Supervisor::default();
        parts.spawn("healthy part", pending());
        parts.spawn("broken part", async {
            tokio::task::yield_now().await;
            panic!("one {}", std::process::id());
        });
        let ended = parts.part_ended().await;
        assert_eq!((ended.part, ended.panicked), ("broken part", true));
        assert!(
            ended
                .to_string()
                .starts_with("the broken part panicked, so")
        );
        parts.spawn("short part", async {});
        let ended = parts.part_ended().await;
        assert_eq!((ended.part, ended.panicked), ("short part", false));
    }
}
