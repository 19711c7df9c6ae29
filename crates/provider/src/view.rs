//! What the probes know, published whole: readers always see one consistent [`View`].
//!
//! No version encrypts before it is on disk: whoever publishes a registry has committed it first.
//! Versions that the disk does not take are published for decryption alone.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use kms_domain::{
    health::{DeepOutcome, Freshness, Health, MetadataOutcome, Reason, assess},
    key_id::KeyId,
    registry::{Lookup, Registry},
};
use tokio::{sync::watch, time::Instant};

use crate::{clock::Clock, state::StorageFault};

/// An immutable state of affairs.
#[derive(Debug, Clone)]
pub struct View {
    /// The committed registry; `None` before there is any state.
    pub registry: Option<Arc<Registry>>,
    /// What the last metadata probe found.
    pub metadata: MetadataOutcome,
    /// What the last deep probe of the active key found.
    pub deep: DeepOutcome,
    /// The error class of the last metadata probe, if it failed.
    pub metadata_class: Option<&'static str>,
    /// The error class of the last deep probe, if it failed.
    pub deep_class: Option<&'static str>,
    /// The committed registry with the newer versions of the key that the disk does not take. For
    /// decryption alone: nothing is encrypted under a version that is not on disk.
    pub unsaved: Option<Arc<Registry>>,
    /// The disk does not take a change of the state, or does not hold the state in use.
    pub persistence: Option<PersistenceDegraded>,
    /// Three metadata probes in a row have failed.
    pub metadata_breaker_open: bool,
    /// Three deep probes in a row have failed.
    pub deep_breaker_open: bool,
    /// The last metadata probe that failed; kept after a success.
    pub metadata_failure: Option<ProbeFailure>,
    /// The last deep probe that failed; kept after a success.
    pub deep_failure: Option<ProbeFailure>,
    /// When the last metadata probe finished.
    observed: Option<Arc<Observed>>,
}

/// What keeps the state from being saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PersistenceDegraded {
    /// The bounded cause.
    pub fault: StorageFault,
    /// When this cause was first seen, by the wall clock.
    pub since: SystemTime,
}

/// A probe that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProbeFailure {
    /// By the wall clock.
    pub at: SystemTime,
    /// The reason on `/ready`.
    pub reason: Reason,
    /// The error class: of the call that failed, or the reason's word.
    pub class: &'static str,
}

/// The end of a metadata probe, by both clocks.
#[derive(Debug)]
struct Observed {
    elapsed_from: Instant,
    wall: SystemTime,
    /// The greatest age ever read, in microseconds: a clock step must not make a view younger.
    oldest_read: AtomicU64,
}

impl View {
    /// Before the first probe: what was loaded from disk decrypts, nothing else is permitted.
    #[must_use]
    pub fn loaded(registry: Option<Arc<Registry>>) -> Self {
        Self {
            registry,
            metadata: MetadataOutcome::Unverified,
            deep: DeepOutcome::Pending,
            metadata_class: None,
            deep_class: None,
            unsaved: None,
            persistence: None,
            metadata_breaker_open: false,
            deep_breaker_open: false,
            metadata_failure: None,
            deep_failure: None,
            observed: None,
        }
    }

    /// Finds the key of a `key_id` to decrypt. The committed registry decides first; only a version
    /// that it does not know is looked up among the unsaved ones.
    #[must_use]
    pub fn lookup(&self, key_id: &KeyId) -> Lookup {
        for registry in self.registry.iter().chain(&self.unsaved) {
            match registry.lookup(key_id) {
                Lookup::Unknown => {}
                found => return found,
            }
        }
        Lookup::Unknown
    }

    /// Either probe has failed three times in a row.
    #[must_use]
    pub fn breaker_open(&self) -> bool {
        self.metadata_breaker_open || self.deep_breaker_open
    }

    /// Restarts the age: a metadata probe has finished now, well or not.
    pub fn mark_observed(&mut self, clock: &dyn Clock) {
        self.observed = Some(Arc::new(Observed {
            elapsed_from: Instant::now(),
            wall: clock.now(),
            oldest_read: AtomicU64::new(0),
        }));
    }

    /// Time since the last metadata probe finished, by the clock that went further.
    fn age(&self, clock: &dyn Clock) -> Option<Duration> {
        let observed = self.observed.as_ref()?;
        let wall = clock
            .now()
            .duration_since(observed.wall)
            .unwrap_or_default();
        let now = observed.elapsed_from.elapsed().max(wall);
        let now = u64::try_from(now.as_micros()).unwrap_or(u64::MAX);
        let before = observed.oldest_read.fetch_max(now, Ordering::Relaxed);
        Some(Duration::from_micros(before.max(now)))
    }
}

/// Publishes views; held by the watcher alone.
#[derive(Debug)]
pub struct ViewWriter(watch::Sender<Arc<View>>);

/// Reads the latest view. Cheap to clone.
#[derive(Clone)]
pub struct ViewReader {
    latest: watch::Receiver<Arc<View>>,
    clock: Arc<dyn Clock>,
    max_staleness: Duration,
}

/// One view with everything that depends on the present moment.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The view that was the latest.
    pub view: Arc<View>,
    /// Time since the last metadata probe; `None` before the first.
    pub age: Option<Duration>,
    /// Whether the age is above `status.statusMaxStaleness`, or unknown.
    pub freshness: Freshness,
    /// What this view permits at this moment.
    pub health: Health,
}

/// A writer and its readers, starting with `view`.
#[must_use]
pub fn publish(
    view: View,
    clock: Arc<dyn Clock>,
    max_staleness: Duration,
) -> (ViewWriter, ViewReader) {
    let (writer, latest) = watch::channel(Arc::new(view));
    (
        ViewWriter(writer),
        ViewReader {
            latest,
            clock,
            max_staleness,
        },
    )
}

impl ViewWriter {
    /// Replaces the view for all readers at once.
    pub fn publish(&self, view: View) {
        self.0.send_replace(Arc::new(view));
    }
}

impl ViewReader {
    /// The latest view, weighed now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let view = Arc::clone(&self.latest.borrow());
        let age = view.age(&*self.clock);
        let freshness = match age {
            Some(age) if age <= self.max_staleness => Freshness::Fresh,
            Some(_) | None => Freshness::Stale,
        };
        let health = assess(
            view.registry.as_deref(),
            freshness,
            view.metadata,
            view.deep,
        );
        Snapshot {
            view,
            age,
            freshness,
            health,
        }
    }

    /// Finds the key of a `key_id` to decrypt, whatever the health of the view.
    #[must_use]
    pub fn lookup(&self, key_id: &KeyId) -> Lookup {
        self.latest.borrow().lookup(key_id)
    }
}

impl fmt::Debug for ViewReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ViewReader")
            .field("latest", &self.latest)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use kms_domain::health::Reason;

    use super::*;

    struct Stepped(Mutex<SystemTime>);

    impl Clock for Stepped {
        fn now(&self) -> SystemTime {
            *self.0.lock().unwrap()
        }
    }

    const MAX: Duration = Duration::from_secs(120);

    fn is_stale(reader: &ViewReader) -> bool {
        match reader.snapshot().health {
            Health::Healthy(_) => false,
            Health::Unhealthy(reasons) => reasons.as_slice().contains(&Reason::StatusStale),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_view_is_stale_after_its_limit_by_either_clock_and_never_gets_younger() {
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let clock = Arc::new(Stepped(Mutex::new(start)));
        let mut view = View::loaded(None);
        let (writer, reader) = publish(view.clone(), clock.clone(), MAX);
        assert!(is_stale(&reader), "nothing has been observed yet");

        view.mark_observed(&*clock);
        writer.publish(view.clone());
        tokio::time::advance(MAX).await;
        assert!(!is_stale(&reader), "exactly the limit is still fresh");
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(is_stale(&reader), "elapsed time alone suffices");

        view.mark_observed(&*clock);
        writer.publish(view);
        *clock.0.lock().unwrap() = start + MAX + Duration::from_secs(1);
        assert!(
            is_stale(&reader),
            "wall time alone suffices, as after a suspend"
        );
        *clock.0.lock().unwrap() = start;
        assert!(is_stale(&reader), "a step back does not revive it");
    }
}
