//! Watches the Transit key: probes it, lets the rules decide, commits, publishes.
//!
//! One task owns this, so probes and discoveries never overlap. A failed probe changes health
//! alone: what the registry knows stays readable.

use std::{sync::Arc, time::Duration};

use kms_domain::{
    health::{DeepOutcome, MetadataFailure, MetadataOutcome, Reason},
    registry::{
        Lookup, Registry,
        rotation::{ActivationWait, RotationRules, discover},
    },
    scope::{IdentityScope, TransitKeyPath},
    transit::KeyProfile,
};
use openbao_client::{failure::FailureClass, transit::Transit};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until, timeout},
};

use self::{
    breaker::Breaker,
    deep::DeepError,
    discovery::{Discovery, DiscoveryFailed, Limiter, Wanted},
    ledger::Ledger,
    metadata::{MetadataError, read_profile},
};
use crate::{
    auth::{CallFailure, Session},
    clock::Clock,
    telemetry::metrics::Metrics,
    view::{View, ViewWriter},
};

pub mod breaker;
pub mod deep;
pub mod discovery;
pub mod ledger;
pub mod metadata;
mod step;

/// How often to look, and how slowly to follow.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Between metadata probes, and between discoveries.
    pub metadata: Duration,
    /// Between deep probes of a healthy key.
    pub deep: Duration,
    /// How long a stable version waits before it is promoted.
    pub activation_delay: Duration,
    /// For the reading of metadata by one discovery.
    pub discovery_limit: Duration,
    /// When a version is stable, and what a rollback is called.
    pub rules: RotationRules,
}

/// What a watcher works with.
pub struct Parts {
    /// Lends the token.
    pub session: Session,
    /// The key.
    pub transit: Transit,
    /// The names that every key_id is made of.
    pub scope: IdentityScope,
    /// Where the key is.
    pub path: TransitKeyPath,
    /// The committed state.
    pub ledger: Ledger,
    /// For bookkeeping and ages.
    pub clock: Arc<dyn Clock>,
    /// Counts probes.
    pub metrics: Arc<Metrics>,
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

/// The prober, the state on disk, and the view that it publishes.
pub struct Watcher {
    parts: Parts,
    pace: Pace,
    view: View,
    publish: ViewWriter,
    wanted: mpsc::Receiver<Wanted>,
    limiter: Limiter,
    wait: ActivationWait,
    started: Instant,
    /// When this process observed last; its start, before it has.
    observed: Instant,
    metadata_breaker: Breaker,
    deep_breaker: Breaker,
}

impl Watcher {
    /// A watcher that publishes from `view` on, which must show what the ledger holds.
    #[must_use]
    pub fn new(parts: Parts, pace: Pace, view: View, publish: ViewWriter) -> (Self, Discovery) {
        let (discovery, wanted) = discovery::channel();
        let now = Instant::now();
        let watcher = Self {
            parts,
            pace,
            view,
            publish,
            wanted,
            limiter: Limiter::new(pace.metadata),
            wait: ActivationWait::new(pace.activation_delay),
            started: now,
            observed: now,
            metadata_breaker: Breaker::default(),
            deep_breaker: Breaker::default(),
        };
        (watcher, discovery)
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

    /// Probes and discovers for ever.
    pub async fn run(mut self) {
        let mut next_metadata = Instant::now() + self.pace.metadata;
        let mut next_deep = Instant::now() + self.pace.deep;
        loop {
            tokio::select! {
                () = sleep_until(next_metadata.min(next_deep)) => {}
                Some(wanted) = self.wanted.recv() => {
                    self.serve_discovery(wanted).await;
                    continue;
                }
            }
            if Instant::now() >= next_metadata {
                let found = self.watch_metadata().await;
                next_metadata = Instant::now() + self.pace.metadata;
                // A healthy key is not kept waiting for its turn.
                if found && self.view.deep != DeepOutcome::Passed {
                    next_deep = Instant::now();
                }
            }
            if Instant::now() >= next_deep {
                self.watch_deep().await;
                next_deep = Instant::now() + self.pace.deep;
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
        if self.encryptable().is_none() {
            return;
        }
        if self.deep_breaker.is_open(Instant::now()) {
            self.conclude_deep(Some(&DeepError::BreakerOpen));
            return;
        }
        // Its outcome is published; the schedule goes on either way.
        drop(self.probe_deep().await);
    }

    /// One metadata probe, published. The activation wait follows what is durable and published.
    async fn probe_metadata(&mut self) -> Result<(), MetadataError> {
        let result = self.look().await;
        self.conclude_metadata(result.as_ref().err());
        if result
            .as_ref()
            .err()
            .is_none_or(MetadataError::leaves_the_registry_valid)
            && let Some(registry) = self.parts.ledger.registry()
        {
            let elapsed = self.started.elapsed();
            self.wait
                .observed(registry, self.pace.rules.required_observations, elapsed);
        }
        result
    }

    /// Finishes what was left undone, reads the key, and takes the step that follows.
    async fn look(&mut self) -> Result<(), MetadataError> {
        let left = self.complete_commit().await;
        let profile = self.read().await?;
        if let Err(unsaved) = left {
            return Err(self.unsaved(&profile, unsaved).await);
        }
        if self.parts.ledger.document().is_none() {
            self.first_document(&profile).await?;
        }
        self.advance(&profile).await?;
        self.require_encryption(&profile)
    }

    async fn read(&mut self) -> Result<KeyProfile, MetadataError> {
        let Parts {
            session,
            transit,
            path,
            ..
        } = &self.parts;
        match read_profile(session, transit, path).await {
            Err(failure) if failure.call().is_some() => {
                self.metadata_breaker.failed(Instant::now());
                Err(failure)
            }
            answered => {
                self.metadata_breaker.succeeded();
                answered
            }
        }
    }

    /// Answers one decrypt that found its key_id unknown.
    async fn serve_discovery(&mut self, wanted: Wanted) {
        let known = self
            .parts
            .ledger
            .registry()
            .map(|registry| registry.lookup(&wanted.key_id));
        let result = match known {
            None => Err(DiscoveryFailed::Refused),
            Some(Lookup::Known(_) | Lookup::Withdrawn) => Ok(()),
            Some(Lookup::Unknown) => match self.limiter.recent(Instant::now()) {
                Some(recent) => recent,
                None => {
                    let started = Instant::now();
                    let result = self.discover().await;
                    self.limiter.ended(started, result);
                    result
                }
            },
        };
        wanted.answer(result);
    }

    /// A metadata probe that neither counts nor promotes.
    async fn discover(&mut self) -> Result<(), DiscoveryFailed> {
        let result = if self.metadata_breaker.is_open(Instant::now()) {
            Err(MetadataError::BreakerOpen)
        } else {
            self.look_for_more().await
        };
        self.conclude_metadata(result.as_ref().err());
        result.map_err(|failure| failure.of_discovery())
    }

    async fn look_for_more(&mut self) -> Result<(), MetadataError> {
        let left = self.complete_commit().await;
        // Only the reading is cut off: a commit under way must be seen to its end.
        let limit = self.pace.discovery_limit;
        let profile = timeout(limit, self.read())
            .await
            .unwrap_or(Err(MetadataError::CutOff))?;
        if let Err(unsaved) = left {
            return Err(self.unsaved(&profile, unsaved).await);
        }
        let now = self.parts.clock.unix_seconds();
        let found = match self.parts.ledger.document() {
            Some(document) => discover(document, &profile, &self.pace.rules, now)?,
            None => None,
        };
        if let Some(transition) = found {
            self.commit(&profile, transition).await?;
        }
        self.require_encryption(&profile)
    }

    async fn probe_deep(&mut self) -> Result<(), DeepError> {
        let Some(registry) = self.encryptable() else {
            return Ok(());
        };
        let active = registry.probe_key();
        let result = deep::probe(&self.parts.session, &self.parts.transit, &active).await;
        match &result {
            Ok(()) => self.deep_breaker.succeeded(),
            Err(_) => self.deep_breaker.failed(Instant::now()),
        }
        self.conclude_deep(result.as_ref().err());
        result
    }

    /// The registry, unless there is none or Transit refuses to encrypt with its active version.
    fn encryptable(&self) -> Option<&Arc<Registry>> {
        let blocked = MetadataOutcome::Failed(MetadataFailure::EncryptionBlocked);
        self.parts
            .ledger
            .registry()
            .filter(|_| self.view.metadata != blocked)
    }

    fn conclude_metadata(&mut self, failure: Option<&MetadataError>) {
        let reason = failure.map(|failure| failure.failure().into());
        let class = class_of(reason, failure.and_then(MetadataError::call));
        self.view.persistence_degraded = matches!(failure, Some(MetadataError::Deferred(_)));
        (self.view.metadata, self.view.metadata_class) = match failure {
            None | Some(MetadataError::Deferred(_)) => (MetadataOutcome::Verified, None),
            Some(failure) => (MetadataOutcome::Failed(failure.failure()), class),
        };
        self.view.mark_observed(&*self.parts.clock);
        self.parts.metrics.metadata_probe(class.unwrap_or("ok"));
        if let Some(MetadataError::Save(_) | MetadataError::Deferred(_)) = failure {
            self.parts.metrics.state_unsaved();
        }
        log_probe("metadata", reason, class);
        self.publish_view();
    }

    fn conclude_deep(&mut self, failure: Option<&DeepError>) {
        self.record_deep(failure);
        self.publish_view();
    }

    fn record_deep(&mut self, failure: Option<&DeepError>) {
        let reason = failure.map(|failure| failure.failure().into());
        let class = class_of(reason, failure.and_then(DeepError::call));
        self.view.deep = failure.map_or(DeepOutcome::Passed, |failure| {
            DeepOutcome::Failed(failure.failure())
        });
        self.view.deep_class = class;
        self.parts.metrics.deep_probe(class.unwrap_or("ok"));
        log_probe("deep", reason, class);
    }

    fn publish_view(&mut self) {
        let now = Instant::now();
        self.view.breaker_open =
            self.metadata_breaker.is_open(now) || self.deep_breaker.is_open(now);
        self.publish.publish(self.view.clone());
    }
}

impl BootstrapError {
    /// The call to OpenBao that failed; `None` for a finding about the key or the state.
    #[must_use]
    pub fn call(&self) -> Option<&CallFailure> {
        match self {
            Self::Metadata(failure) => failure.call(),
            Self::Deep(failure) => failure.call(),
        }
    }

    /// What readiness calls it.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::Metadata(failure) => failure.failure().into(),
            Self::Deep(failure) => failure.failure().into(),
        }
    }

    /// Whether waiting may mend it: OpenBao did not answer, or not with what it will answer.
    fn may_pass(&self) -> bool {
        self.call().is_some()
    }
}

/// The class of what failed below a probe; the reason itself for a finding.
fn class_of(reason: Option<Reason>, call: Option<&CallFailure>) -> Option<&'static str> {
    let reason = reason?.code();
    Some(call.map_or(reason, |call| {
        call.class().map_or("auth_failed", FailureClass::label)
    }))
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
