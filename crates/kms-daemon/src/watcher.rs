//! Probes the Transit key, applies the rotation rules, commits transitions and publishes the view.
//!
//! One task owns the watcher, so probes and discoveries never overlap. A failed probe changes
//! health only; all key versions in the registry stay readable.

use std::{mem, sync::Arc, time::Duration};

use kms_domain::{
    health::{DeepOutcome, MetadataFailure, MetadataOutcome, Reason},
    registry::{
        Lookup, Registry,
        rotation::{ActivationWait, RotationRefused, RotationRules, discover},
    },
    scope::{IdentityScope, TransitKeyPath},
    transit::KeyProfile,
};
use kms_node::{
    auth::{CallFailure, Session},
    clock::Clock,
    jitter::drift,
    state::StorageFault,
    transit_key::{
        read_profile,
        round_trip::{self, DeepError},
    },
};
use openbao_client::{failure::FailureClass, transit::Transit};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until, timeout},
};

use self::{
    breaker::Breaker,
    calls::CallOutcomes,
    committer::{CommitterError, Confirmed, StateCommitter},
    discovery::{Discovery, DiscoveryFailed, Limiter, Wanted},
    metadata::MetadataError,
};
use crate::{
    telemetry::metrics::Metrics,
    view::{PersistenceDegraded, ProbeFailure, View, ViewWriter},
};

pub mod breaker;
pub mod calls;
pub mod committer;
pub mod discovery;
pub mod metadata;
mod step;

/// Delay from a failed request call to a probe. Under packet loss, another call usually succeeds
/// within this time, which makes the probe unnecessary.
const SETTLE: Duration = Duration::from_millis(200);

/// Interval between two warnings about the same failure of a probe.
const SAY_AGAIN: Duration = Duration::from_secs(30);

/// Probe intervals and promotion rules.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Interval between metadata probes, and between discoveries.
    pub metadata: Duration,
    /// Interval between deep probes of a healthy key.
    pub deep: Duration,
    /// Waiting time of a stable version before its promotion.
    pub activation_delay: Duration,
    /// Time limit for the metadata read of one discovery.
    pub discovery_limit: Duration,
    pub rules: RotationRules,
}

/// Dependencies of a watcher.
pub struct Parts {
    /// Source of the access token.
    pub session: Session,
    pub transit: Transit,
    /// Scope of the key identity, an input of every key_id.
    pub scope: IdentityScope,
    /// Path of the key in OpenBao.
    pub path: TransitKeyPath,
    pub committer: StateCommitter,
    /// Source of timestamps and ages.
    pub clock: Arc<dyn Clock>,
    pub metrics: Arc<Metrics>,
    /// Outcomes of the Transit calls of KMS requests.
    pub calls: Arc<CallOutcomes>,
}

/// Why the provider cannot start serving.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// The metadata probe failed: the key is unusable.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// The deep probe failed: the key does not encrypt and decrypt correctly.
    #[error(transparent)]
    Deep(#[from] DeepError),
}

pub struct Watcher {
    parts: Parts,
    pace: Pace,
    view: View,
    publish: ViewWriter,
    wanted: mpsc::Receiver<Wanted>,
    limiter: Limiter,
    wait: ActivationWait,
    started: Instant,
    /// The last observation of this process; before the first one, its start.
    observed: Instant,
    metadata_breaker: Breaker,
    deep_breaker: Breaker,
    next_metadata: Instant,
    next_deep: Instant,
    /// Time of the probe to make because calls of requests fail.
    suspected: Option<Instant>,
    /// A successful request call during backoff has already moved the next probe forward.
    half_open: bool,
    /// The last probe moved forward by calls of requests.
    hastened: Option<Instant>,
    /// Fault found by the last comparison with the disk.
    on_disk: Option<StorageFault>,
    metadata_log: ProbeLog,
    deep_log: ProbeLog,
}

impl Watcher {
    /// Creates a watcher with the initial view `view`, which must match the committed state.
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
            next_metadata: now,
            next_deep: now,
            suspected: None,
            half_open: false,
            hastened: None,
            on_disk: None,
            metadata_log: ProbeLog::default(),
            deep_log: ProbeLog::default(),
        };
        (watcher, discovery)
    }

    /// Probes until both probes succeed, at most for `grace`. Ends early on a failure for which
    /// retrying is useless.
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

    /// Probes and serves discoveries until the task is dropped.
    pub async fn run(mut self) {
        self.next_metadata = Instant::now() + drift(self.pace.metadata);
        self.next_deep = Instant::now() + drift(self.pace.deep);
        loop {
            if self.backs_off() && !self.half_open {
                self.parts.calls.await_success();
            }
            let next = self.next_metadata.min(self.next_deep);
            let next = self.suspected.map_or(next, |suspected| suspected.min(next));
            tokio::select! {
                () = sleep_until(next) => self.probe_due().await,
                Some(wanted) = self.wanted.recv() => self.serve_discovery(wanted).await,
                () = self.parts.calls.changed() => self.follow_calls(),
            }
        }
    }

    /// Makes the due probes. While metadata reads fail, the deep probe waits: one cheap call a
    /// second suffices to detect recovery.
    async fn probe_due(&mut self) {
        let now = Instant::now();
        let suspected = self.suspected.take_if(|at| *at <= now).is_some()
            // A success since then makes the probe unnecessary.
            && self.parts.calls.are_failing();

        if suspected || mem::take(&mut self.half_open) {
            self.hastened = Some(now);
        }
        if suspected || now >= self.next_metadata {
            // The probe publishes its outcome; the schedule continues after a failure too.
            let found = self.probe_metadata().await.is_ok();
            let regular = Instant::now() + drift(self.pace.metadata);
            self.next_metadata = match self.metadata_breaker.retry_at() {
                Some(retry) if self.metadata_breaker.is_open() => retry,
                Some(retry) => retry.min(regular),
                None => regular,
            };
            // A suspected or unverified key gets its deep probe immediately.
            let wanted = suspected || self.view.deep != DeepOutcome::Passed;
            if found && wanted && self.deep_breaker.retry_at().is_none() {
                self.next_deep = Instant::now();
            }
        }

        if Instant::now() >= self.next_deep {
            self.next_deep = match self.metadata_breaker.retry_at() {
                Some(retry) => retry,
                None => {
                    drop(self.probe_deep().await);
                    let regular = Instant::now() + drift(self.pace.deep);
                    self.deep_breaker.retry_at().unwrap_or(regular)
                }
            };
        }
    }

    /// Whether a probe fails and is repeated sooner than its interval.
    fn backs_off(&self) -> bool {
        self.metadata_breaker.retry_at().is_some() || self.deep_breaker.retry_at().is_some()
    }

    /// Schedules a probe when calls of requests begin to fail or succeed again, at most one a
    /// second for this reason.
    fn follow_calls(&mut self) {
        let now = Instant::now();
        let soonest = self
            .hastened
            .map_or(now, |last| now.max(last + breaker::PAUSE));
        if self.parts.calls.are_failing() {
            if !self.backs_off() {
                self.suspected = Some(soonest.max(now + SETTLE));
            }
        } else if self.backs_off() && !self.half_open {
            self.half_open = true;
            for (breaker, next) in [
                (&mut self.metadata_breaker, &mut self.next_metadata),
                (&mut self.deep_breaker, &mut self.next_deep),
            ] {
                breaker.half_open(soonest);
                *next = breaker.retry_at().map_or(*next, |retry| retry.min(*next));
            }
        }
    }

    /// Makes and publishes one metadata probe. The activation wait advances with published, durable
    /// state.
    async fn probe_metadata(&mut self) -> Result<(), MetadataError> {
        let result = self.look().await;
        match &result {
            Ok(()) => self.parts.transit.confirm_cluster(),
            Err(MetadataError::Rotation(RotationRefused::Conflict(_))) => {
                self.parts.transit.refuse_cluster();
            }
            Err(_) => {}
        }

        self.conclude_metadata(result.as_ref().err());
        if result
            .as_ref()
            .err()
            .is_none_or(MetadataError::leaves_the_registry_valid)
            && let Some(registry) = self.parts.committer.registry()
        {
            let elapsed = self.started.elapsed();
            self.wait
                .observed(registry, self.pace.rules.required_observations, elapsed);
        }

        match result {
            Err(MetadataError::Deferred(_)) => Ok(()),
            result => result,
        }
    }

    /// Completes an unfinished commit, compares the disk with the committed state, reads the key,
    /// and commits the resulting transition.
    async fn look(&mut self) -> Result<(), MetadataError> {
        let left = self.complete_commit().await;
        let confirmed = self.parts.committer.confirm();
        let profile = self.read().await;
        let Confirmed { document, space } = confirmed.await;

        self.view.space = space.map(|(space, _)| space);
        let failed = left.as_ref().and(document.as_ref()).err();
        self.on_disk = match failed {
            Some(error) => Some(error.fault()),
            None => space.and_then(|(_, fault)| fault),
        };
        let profile = profile?;

        if let Err(unsaved) = left {
            return Err(self.unsaved(&profile, unsaved).await);
        }
        if self.parts.committer.document().is_none() {
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
            calls,
            ..
        } = &self.parts;
        let began = Instant::now();
        let backs_off = self.metadata_breaker.retry_at().is_some();
        if backs_off {
            calls.await_success();
        }

        let recovered = async {
            while {
                calls.changed().await;
                calls.are_failing()
            } {}
        };
        let answer = tokio::select! {
            answer = read_profile(session, transit, path) => answer,
            // This read began during an outage that is over, and may hang on a dead connection.
            () = recovered, if backs_off => read_profile(session, transit, path).await,
        };

        match answer {
            Err(failure) if failure.call().is_some() => {
                self.metadata_breaker.failed(began, Instant::now());
                Err(failure.into())
            }
            answered => {
                self.metadata_breaker.succeeded();
                Ok(answered?)
            }
        }
    }

    /// Answers one decrypt request with an unknown key_id.
    async fn serve_discovery(&mut self, wanted: Wanted) {
        let result = match self.view.lookup(&wanted.key_id) {
            _ if self.view.registry.is_none() => Err(DiscoveryFailed::Refused),
            Lookup::Known(_) | Lookup::Disabled => Ok(()),
            Lookup::Unknown => match self.limiter.recent(Instant::now()) {
                Some(recent) => recent,
                // Probes already run every second.
                None if self.metadata_breaker.is_open() => Err(DiscoveryFailed::Unanswered),
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

    /// A metadata probe for discovery: it neither counts as an observation nor promotes a version.
    /// It also finds versions whose commit fails.
    async fn discover(&mut self) -> Result<(), DiscoveryFailed> {
        let result = self.look_for_more().await;
        self.conclude_metadata(result.as_ref().err());
        result.or_else(|failure| failure.of_discovery())
    }

    async fn look_for_more(&mut self) -> Result<(), MetadataError> {
        let left = self.complete_commit().await;
        if let Err(unsaved) = &left {
            self.on_disk = Some(unsaved.fault());
        }
        // The time limit covers the read only: a started commit must run to its end.
        let limit = self.pace.discovery_limit;
        let profile = timeout(limit, self.read())
            .await
            .unwrap_or(Err(MetadataError::CutOff))?;
        if let Err(unsaved) = left {
            return Err(self.unsaved(&profile, unsaved).await);
        }
        let now = self.parts.clock.unix_seconds();
        let found = match self.parts.committer.document() {
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
        let began = Instant::now();
        let result = round_trip::probe(&self.parts.session, &self.parts.transit, &active).await;
        match &result {
            Ok(()) => self.deep_breaker.succeeded(),
            Err(_) => self.deep_breaker.failed(began, Instant::now()),
        }
        self.record_deep(result.as_ref().err());
        self.publish_view();
        result
    }

    /// The registry; `None` before the first document and while Transit refuses to encrypt with its
    /// active version.
    fn encryptable(&self) -> Option<&Arc<Registry>> {
        let blocked = MetadataOutcome::Failed(MetadataFailure::EncryptionBlocked);
        self.parts
            .committer
            .registry()
            .filter(|_| self.view.metadata != blocked)
    }

    fn conclude_metadata(&mut self, failure: Option<&MetadataError>) {
        let unsaved = failure.and_then(MetadataError::unsaved);
        let unsaved = unsaved.map(CommitterError::fault);
        self.show_persistence(unsaved.or(self.on_disk));

        if failure.is_none() {
            self.view.unsaved = None;
            self.limiter.recovered();
        }
        let found = failure.map(|failure| {
            let (call, failure) = (failure.call(), failure.failure());
            (failure, self.failed_probe(failure.into(), call))
        });

        (self.view.metadata, self.view.metadata_class) = match found {
            Some((finding, failed)) if !matches!(failure, Some(MetadataError::Deferred(_))) => {
                (MetadataOutcome::Failed(finding), Some(failed.class))
            }
            _ => (MetadataOutcome::Verified, None),
        };
        let failed = found.map(|(_, failed)| failed);
        self.view.metadata_failure = failed.or(self.view.metadata_failure);
        self.view.mark_observed(&*self.parts.clock);
        let status = failed.map_or("ok", |failed| failed.class);
        self.parts.metrics.metadata_probe(status);
        self.metadata_log.probe("metadata", failed, unsaved);
        self.publish_view();
    }

    fn record_deep(&mut self, failure: Option<&DeepError>) {
        let found = failure.map(|failure| {
            let (call, failure) = (failure.call(), failure.failure());
            (failure, self.failed_probe(failure.into(), call))
        });
        self.view.deep = found.map_or(DeepOutcome::Passed, |(failure, _)| {
            DeepOutcome::Failed(failure)
        });
        let failed = found.map(|(_, failed)| failed);
        self.view.deep_class = failed.map(|failed| failed.class);
        self.view.deep_failure = failed.or(self.view.deep_failure);
        let status = failed.map_or("ok", |failed| failed.class);
        self.parts.metrics.deep_probe(status);
        self.deep_log.probe("deep", failed, None);
    }

    fn failed_probe(&self, reason: Reason, call: Option<&CallFailure>) -> ProbeFailure {
        ProbeFailure {
            at: self.parts.clock.now(),
            reason,
            class: class_of(reason, call),
        }
    }

    /// Publishes and logs the persistence status when it changes.
    fn show_persistence(&mut self, fault: Option<StorageFault>) {
        if self.view.persistence.map(|shown| shown.fault) != fault {
            match fault {
                Some(fault) => tracing::warn!(detail = fault.as_str(), "state.degraded"),
                None => tracing::info!("state.restored"),
            }
            let since = self.parts.clock.now();
            self.view.persistence = fault.map(|fault| PersistenceDegraded { fault, since });
        }
        let current = fault.is_none() && self.parts.committer.document().is_some();
        self.parts.metrics.state_current(current);
    }

    fn publish_view(&mut self) {
        self.view.metadata_breaker_open = self.metadata_breaker.is_open();
        self.view.deep_breaker_open = self.deep_breaker.is_open();
        self.publish.publish(self.view.clone());
    }
}

/// The last logged failure of one kind of probe. An unchanged failure is logged as a warning every
/// 30 s, although it is probed every second.
#[derive(Debug, Default)]
struct ProbeLog(Option<(&'static str, &'static str, Option<StorageFault>, Instant)>);

impl ProbeLog {
    fn probe(
        &mut self,
        probe_kind: &'static str,
        failed: Option<ProbeFailure>,
        fault: Option<StorageFault>,
    ) {
        let Some(ProbeFailure { reason, class, .. }) = failed else {
            self.0 = None;
            tracing::debug!(probe_kind, status = "ok", "status.probe");
            return;
        };
        let (reason, error_class) = (reason.code(), class);
        let detail = fault.map(StorageFault::as_str);
        let now = Instant::now();
        let is_news = self.0.is_none_or(|(was, class, detail, at)| {
            (was, class, detail) != (reason, error_class, fault)
                || now.duration_since(at) >= SAY_AGAIN
        });
        if is_news {
            self.0 = Some((reason, error_class, fault, now));
            tracing::warn!(
                probe_kind,
                status = "failed",
                reason,
                error_class,
                detail,
                "status.probe"
            );
        } else {
            tracing::debug!(
                probe_kind,
                status = "failed",
                reason,
                error_class,
                detail,
                "status.probe"
            );
        }
    }
}

impl BootstrapError {
    /// The failed call to OpenBao; `None` for a finding about the key or the state.
    #[must_use]
    pub fn call(&self) -> Option<&CallFailure> {
        match self {
            Self::Metadata(failure) => failure.call(),
            Self::Deep(failure) => failure.call(),
        }
    }

    /// The reason code, as readiness reports it.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::Metadata(failure) => failure.failure().into(),
            Self::Deep(failure) => failure.failure().into(),
        }
    }

    /// Whether retrying may succeed: a failed call to OpenBao, or a slow disk.
    fn may_pass(&self) -> bool {
        let slow_disk = matches!(
            self,
            Self::Metadata(MetadataError::Save(CommitterError::NoAnswer))
        );
        self.call().is_some() || slow_disk
    }
}

/// The class of the failed call; for a finding, its reason code.
fn class_of(reason: Reason, call: Option<&CallFailure>) -> &'static str {
    call.map_or(reason.code(), |call| {
        call.class().map_or("auth_failed", FailureClass::label)
    })
}
