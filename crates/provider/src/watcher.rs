//! Watches the Transit key: probes it, commits what the registry learns, publishes the result.
//!
//! One task owns this, so probes never overlap. A failed probe changes health alone: what the
//! registry knows stays readable.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use kms_domain::{
    bootstrap::bootstrap,
    health::{DeepOutcome, MetadataFailure, MetadataOutcome, Reason},
    registry::{Registry, document::Document},
    scope::{IdentityScope, TransitKeyPath},
    transit::KeyProfile,
};
use openbao_client::{failure::FailureClass, transit::Transit};
use tokio::{
    task,
    time::{Instant, sleep_until},
};

use self::{
    breaker::Breaker,
    deep::{DeepError, round_trip},
    metadata::{MetadataError, read_profile, require_registry},
};
use crate::{
    auth::{CallFailure, Session},
    clock::Clock,
    state::{CommitError, StateWriter},
    telemetry::metrics::Metrics,
    view::{View, ViewWriter},
};

pub mod breaker;
pub mod deep;
pub mod metadata;

/// How often to look.
#[derive(Debug, Clone, Copy)]
pub struct Intervals {
    /// Between metadata probes.
    pub metadata: Duration,
    /// Between deep probes of a healthy key.
    pub deep: Duration,
}

/// Why the provider cannot start serving.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// The key cannot be used.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// The key does not work.
    #[error(transparent)]
    Deep(#[from] DeepError),
}

/// The prober, its state on disk, and the view that it publishes.
pub struct Watcher {
    session: Session,
    transit: Transit,
    scope: IdentityScope,
    path: TransitKeyPath,
    state: Arc<Mutex<StateWriter>>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    view: View,
    publish: ViewWriter,
    metadata_breaker: Breaker,
    deep_breaker: Breaker,
}

impl Watcher {
    /// A watcher that publishes from `view` on, which must be what `state` holds.
    #[must_use]
    #[expect(
        clippy::too_many_arguments,
        reason = "it composes; every argument is used as it is"
    )]
    pub fn new(
        session: Session,
        transit: Transit,
        scope: IdentityScope,
        path: TransitKeyPath,
        state: StateWriter,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
        (view, publish): (View, ViewWriter),
    ) -> Self {
        Self {
            session,
            transit,
            scope,
            path,
            state: Arc::new(Mutex::new(state)),
            clock,
            metrics,
            view,
            publish,
            metadata_breaker: Breaker::default(),
            deep_breaker: Breaker::default(),
        }
    }

    /// Probes until both probes succeed, at most for `grace`; a finding that waiting cannot mend
    /// ends it at once.
    ///
    /// # Errors
    /// The last failure.
    pub async fn bootstrap(
        &mut self,
        grace: Duration,
        retry: Duration,
    ) -> Result<(), BootstrapError> {
        let end = Instant::now() + grace;
        loop {
            let failure = match self.attempt().await {
                Ok(()) => return Ok(()),
                Err(failure) => failure,
            };
            let now = Instant::now();
            if now >= end || !failure.may_pass() {
                return Err(failure);
            }
            sleep_until(end.min(now + retry)).await;
        }
    }

    async fn attempt(&mut self) -> Result<(), BootstrapError> {
        self.probe_metadata().await?;
        self.probe_deep().await?;
        Ok(())
    }

    /// Probes for ever.
    pub async fn run(mut self, intervals: Intervals) {
        let mut next_metadata = Instant::now() + intervals.metadata;
        let mut next_deep = Instant::now() + intervals.deep;
        loop {
            sleep_until(next_metadata.min(next_deep)).await;
            if Instant::now() >= next_metadata {
                let found = self.watch_metadata().await;
                next_metadata = Instant::now() + intervals.metadata;
                // A healthy key is not kept waiting for its turn.
                if found && self.view.deep != DeepOutcome::Passed {
                    next_deep = Instant::now();
                }
            }
            if Instant::now() >= next_deep {
                self.watch_deep().await;
                next_deep = Instant::now() + intervals.deep;
            }
        }
    }

    async fn watch_metadata(&mut self) -> bool {
        if self.metadata_breaker.is_open(Instant::now()) {
            self.conclude_metadata(Some(&MetadataError::BreakerOpen));
            return false;
        }
        self.probe_metadata().await.is_ok()
    }

    async fn watch_deep(&mut self) {
        let Some(active) = self.encryptable() else {
            return;
        };
        if self.deep_breaker.is_open(Instant::now()) {
            self.conclude_deep(Some(&DeepError::BreakerOpen));
            return;
        }
        // Its outcome is published; the schedule goes on either way.
        drop(self.probe_deep_of(&active).await);
    }

    /// One metadata probe, published.
    async fn probe_metadata(&mut self) -> Result<(), MetadataError> {
        let result = self.look().await;
        self.conclude_metadata(result.as_ref().err());
        result
    }

    async fn look(&mut self) -> Result<(), MetadataError> {
        self.complete_commit().await?;
        let profile = match read_profile(&self.session, &self.transit, &self.path).await {
            Err(failure) if failure.call().is_some() => {
                self.metadata_breaker.failed(Instant::now());
                return Err(failure);
            }
            answered => {
                self.metadata_breaker.succeeded();
                answered?
            }
        };
        let registry = match &self.view.registry {
            Some(registry) => Arc::clone(registry),
            None => self.first_registry(&profile).await?,
        };
        self.note_newer_version(&profile, &registry);
        require_registry(&profile, &registry)
    }

    fn note_newer_version(&mut self, profile: &KeyProfile, registry: &Registry) {
        let active = registry.active().version();
        let newer = Some(profile.latest()).filter(|latest| *latest > active);
        if let Some(latest) = newer.filter(|_| newer != self.view.newer_version) {
            let (transit_key_version, latest_transit_version) = (active.get(), latest.get());
            tracing::info!(
                transit_key_version,
                latest_transit_version,
                "key.newer_version"
            );
        }
        self.view.newer_version = newer;
    }

    /// Makes and commits the state of a key that was never rotated.
    async fn first_registry(
        &mut self,
        profile: &KeyProfile,
    ) -> Result<Arc<Registry>, MetadataError> {
        let now = self.clock.unix_seconds();
        let first = bootstrap(profile, &self.scope, &self.path, now)?;
        let registry = self
            .with_state(move |state| Ok(registry_of(state.commit(first)?)))
            .await?;
        self.view.registry = Some(Arc::clone(&registry));
        Ok(registry)
    }

    /// Finishes a commit that failed half way, before anything else is decided.
    async fn complete_commit(&mut self) -> Result<(), MetadataError> {
        let completed = self
            .with_state(|state| Ok(state.complete()?.map(registry_of)))
            .await?;
        if let Some(registry) = completed {
            self.view.registry = Some(registry);
        }
        Ok(())
    }

    /// Runs `work` on the state, on a thread that may block.
    async fn with_state<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut StateWriter) -> Result<T, CommitError> + Send + 'static,
    ) -> Result<T, MetadataError> {
        let state = Arc::clone(&self.state);
        let blocking = task::spawn_blocking(move || {
            // Only this task takes it, and a writer that panicked still knows what it attempted.
            work(&mut state.lock().unwrap_or_else(PoisonError::into_inner))
        });
        match blocking.await {
            Ok(result) => Ok(result?),
            Err(_panicked_or_cancelled) => Err(MetadataError::Interrupted),
        }
    }

    async fn probe_deep(&mut self) -> Result<(), DeepError> {
        match self.encryptable() {
            Some(registry) => self.probe_deep_of(&registry).await,
            None => Ok(()),
        }
    }

    async fn probe_deep_of(&mut self, registry: &Registry) -> Result<(), DeepError> {
        let version = registry.active().version();
        let result = round_trip(&self.session, &self.transit, version).await;
        match &result {
            Ok(()) => self.deep_breaker.succeeded(),
            Err(_) => self.deep_breaker.failed(Instant::now()),
        }
        self.conclude_deep(result.as_ref().err());
        result
    }

    /// The registry, unless there is none or Transit refuses to encrypt with its active version.
    fn encryptable(&self) -> Option<Arc<Registry>> {
        let blocked = MetadataOutcome::Failed(MetadataFailure::EncryptionBlocked);
        self.view
            .registry
            .clone()
            .filter(|_| self.view.metadata != blocked)
    }

    fn conclude_metadata(&mut self, failure: Option<&MetadataError>) {
        let reason = failure.map(|failure| failure.failure().into());
        let class = class_of(reason, failure.and_then(MetadataError::call));
        self.view.metadata = failure.map_or(MetadataOutcome::Verified, |failure| {
            MetadataOutcome::Failed(failure.failure())
        });
        self.view.metadata_class = class;
        self.view.mark_observed(&*self.clock);
        self.metrics.metadata_probe(class.unwrap_or("ok"));
        log_probe("metadata", reason, class);
        self.publish_view();
    }

    fn conclude_deep(&mut self, failure: Option<&DeepError>) {
        let reason = failure.map(|failure| failure.failure().into());
        let class = class_of(reason, failure.and_then(DeepError::call));
        self.view.deep = failure.map_or(DeepOutcome::Passed, |failure| {
            DeepOutcome::Failed(failure.failure())
        });
        self.view.deep_class = class;
        self.metrics.deep_probe(class.unwrap_or("ok"));
        log_probe("deep", reason, class);
        self.publish_view();
    }

    fn publish_view(&mut self) {
        let now = Instant::now();
        self.view.breaker_open =
            self.metadata_breaker.is_open(now) || self.deep_breaker.is_open(now);
        self.publish.publish(self.view.clone());
    }
}

impl BootstrapError {
    /// Whether waiting may mend it: OpenBao did not answer, or not with what it will answer.
    fn may_pass(&self) -> bool {
        match self {
            Self::Metadata(failure) => failure.call().is_some(),
            Self::Deep(failure) => failure.call().is_some(),
        }
    }
}

/// The class of what failed below a probe; the reason itself for a finding.
fn class_of(reason: Option<Reason>, call: Option<&CallFailure>) -> Option<&'static str> {
    let reason = reason?.code();
    Some(call.map_or(reason, |call| {
        call.class().map_or("auth_failed", FailureClass::label)
    }))
}

fn registry_of(document: &Document) -> Arc<Registry> {
    Arc::clone(document.registry())
}

fn log_probe(probe_kind: &'static str, reason: Option<Reason>, error_class: Option<&'static str>) {
    match reason.map(Reason::code) {
        None => tracing::debug!(probe_kind, status = "ok", "status.probe"),
        Some(reason) => {
            tracing::warn!(
                probe_kind,
                status = "failed",
                reason,
                error_class,
                "status.probe"
            );
        }
    }
}
