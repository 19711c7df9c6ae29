//! Results of the probes, published as one immutable [`View`] that is always consistent.
//!
//! A registry is published only after its commit, so a version encrypts only once it is on disk.
//! Versions whose commit failed are published for decryption only.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use kms_domain::{
    health::{Breaker, DeepOutcome, Freshness, Health, MetadataOutcome, Reason, assess},
    key_id::KeyId,
    registry::{Lookup, Registry},
};
use kms_node::{
    clock::Clock,
    state::{StorageFault, disk::Space},
};
use tokio::{sync::watch, time::Instant};

/// An immutable snapshot of registry and probe results.
#[derive(Debug, Clone)]
pub struct View {
    /// The committed registry; `None` before the first document.
    pub registry: Option<Arc<Registry>>,
    /// Outcome of the last metadata probe.
    pub metadata: MetadataOutcome,
    /// Outcome of the last deep probe of the active key.
    pub deep: DeepOutcome,
    /// The error class of the last metadata probe, if it failed.
    pub metadata_class: Option<&'static str>,
    /// The error class of the last deep probe, if it failed.
    pub deep_class: Option<&'static str>,
    /// The committed registry plus newer versions of the key whose commit failed. Used for
    /// decryption only: encryption requires a version on disk.
    pub unsaved: Option<Arc<Registry>>,
    /// The disk fails to store a change of the state, has no room for one, or holds another state
    /// than the one in use.
    pub persistence: Option<PersistenceDegraded>,
    /// Free space of the state directory; `None` if unknown.
    pub space: Option<Space>,
    /// Three metadata probes in a row have failed.
    pub metadata_breaker_open: bool,
    /// Three deep probes in a row have failed.
    pub deep_breaker_open: bool,
    /// The last failed metadata probe; kept after a success.
    pub metadata_failure: Option<ProbeFailure>,
    /// The last failed deep probe; kept after a success.
    pub deep_failure: Option<ProbeFailure>,
    /// End of the last metadata probe.
    observed: Option<Arc<Observed>>,
}

/// Cause of degraded persistence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PersistenceDegraded {
    pub fault: StorageFault,
    /// First occurrence of this cause, by the wall clock.
    pub since: SystemTime,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProbeFailure {
    /// Time by the wall clock.
    pub at: SystemTime,
    /// The reason on `/ready`.
    pub reason: Reason,
    /// The error class of the failed call; for a finding, the code of its reason.
    pub class: &'static str,
}

/// The end of a metadata probe, by both clocks.
#[derive(Debug)]
struct Observed {
    elapsed_from: Instant,
    wall: SystemTime,
    /// The greatest age returned so far, in microseconds: a clock step must not make a view
    /// younger.
    oldest_read: AtomicU64,
}

impl View {
    /// The view before the first probe: the registry loaded from disk decrypts, and encryption is
    /// disabled.
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
            space: None,
            metadata_breaker_open: false,
            deep_breaker_open: false,
            metadata_failure: None,
            deep_failure: None,
            observed: None,
        }
    }

    /// Finds the key of a `key_id` for decryption. The committed registry takes precedence; the
    /// unsaved versions are used only for a `key_id` unknown there.
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

    /// Whether either probe has failed three times in a row.
    #[must_use]
    pub fn breaker_open(&self) -> bool {
        self.metadata_breaker_open || self.deep_breaker_open
    }

    /// Restarts the age, at the end of a successful or failed metadata probe.
    pub fn mark_observed(&mut self, clock: &dyn Clock) {
        self.observed = Some(Arc::new(Observed {
            elapsed_from: Instant::now(),
            wall: clock.now(),
            oldest_read: AtomicU64::new(0),
        }));
    }

    /// Time since the last metadata probe finished, by the clock with the larger difference.
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

/// Publishes views; owned by the watcher.
#[derive(Debug)]
pub struct ViewWriter(watch::Sender<Arc<View>>);

/// Reads the latest view. Cheap to clone.
#[derive(Clone)]
pub struct ViewReader {
    latest: watch::Receiver<Arc<View>>,
    clock: Arc<dyn Clock>,
    max_staleness: Duration,
}

/// One view with its age and health at a point in time.
#[derive(Debug, Clone)]
pub struct Snapshot {
    pub view: Arc<View>,
    /// Time since the last metadata probe; `None` before the first.
    pub age: Option<Duration>,
    /// Whether the age is above `status.statusMaxStaleness`, or unknown.
    pub freshness: Freshness,
    /// Health of the view at this time.
    pub health: Health,
}

/// Creates a writer and a reader of views, starting with `view`.
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
    /// Atomically replaces the view for all readers.
    pub fn publish(&self, view: View) {
        self.0.send_replace(Arc::new(view));
    }
}

impl ViewReader {
    /// The latest view, with its present age and health.
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
            match view.breaker_open() {
                true => Breaker::Open,
                false => Breaker::Closed,
            },
        );
        Snapshot {
            view,
            age,
            freshness,
            health,
        }
    }

    /// Finds the key of a `key_id` for decryption, independent of the health of the view.
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
