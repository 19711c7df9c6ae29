//! Transition after a metadata read: the step of the rotation rules, its commit, and the completion
//! of a failed commit. A state is published only once it is durable.

use std::sync::Arc;

use kms_domain::{
    bootstrap::bootstrap,
    health::{DeepOutcome, Reason},
    registry::{
        Registry,
        rotation::{Counting, Promotion, Step, Transition, discover, observe},
    },
    transit::KeyProfile,
};
use kms_node::{jitter::shortest, transit_key::round_trip};
use tokio::time::Instant;

use super::{Watcher, class_of, committer::CommitterError, metadata::MetadataError};

impl Watcher {
    /// Creates and commits the first state, for a key that was never rotated.
    pub(super) async fn first_document(
        &mut self,
        profile: &KeyProfile,
    ) -> Result<(), MetadataError> {
        let now = self.parts.clock.unix_seconds();
        let first = bootstrap(profile, &self.parts.scope, &self.parts.path, now)?;
        self.parts.committer.commit(first).await?;
        self.show_registry();
        Ok(())
    }

    /// Observes the key, and commits the resulting step of the rotation rules.
    pub(super) async fn advance(&mut self, profile: &KeyProfile) -> Result<(), MetadataError> {
        let counting = self.counting();
        let Some(document) = self.parts.committer.document() else {
            return Ok(());
        };
        let activation = self.wait.activation(self.started.elapsed());
        let now = self.parts.clock.unix_seconds();
        match observe(
            document,
            profile,
            &self.pace.rules,
            counting,
            activation,
            now,
        )? {
            Step::Unchanged => Ok(()),
            Step::Recorded(transition) => self.commit(profile, transition).await,
            Step::Due(promotion) => self.promote(profile, promotion).await,
        }
    }

    /// A probe sooner after the previous one than a regular one, for example after a restart, does
    /// not count as further evidence of a stable version.
    fn counting(&mut self) -> Counting {
        let now = Instant::now();
        if now.duration_since(self.observed) < shortest(self.pace.metadata) {
            return Counting::TooSoon;
        }
        self.observed = now;
        Counting::Counts
    }

    /// Proves the candidate by a deep probe first, then publishes promotion and proof together.
    async fn promote(
        &mut self,
        profile: &KeyProfile,
        promotion: Promotion,
    ) -> Result<(), MetadataError> {
        let candidate = promotion.candidate();
        match round_trip::probe(&self.parts.session, &self.parts.transit, candidate).await {
            Ok(()) => {
                self.commit(profile, promotion.promote()).await?;
                self.view.deep = DeepOutcome::Passed;
                self.view.deep_class = None;
                Ok(())
            }
            Err(failure) => {
                let reason = Reason::from(failure.failure());
                let error_class = class_of(reason, failure.call());
                let reason = reason.code();
                let transit_key_version = candidate.version().get();
                tracing::warn!(
                    transit_key_version,
                    reason,
                    error_class,
                    "key.promotion_postponed"
                );
                match promotion.postpone() {
                    Some(transition) => self.commit(profile, transition).await,
                    None => Ok(()),
                }
            }
        }
    }

    pub(super) async fn commit(
        &mut self,
        profile: &KeyProfile,
        transition: Transition,
    ) -> Result<(), MetadataError> {
        if let Some(regression) = transition.clock_regression() {
            tracing::warn!(reason = "timestamp_order_preserved", detail = %regression, "clock.regressed");
        }
        match self.parts.committer.commit(transition.into_next()).await {
            Ok(()) => {
                self.on_disk = None;
                self.show_registry();
                Ok(())
            }
            Err(unsaved) => Err(self.unsaved(profile, unsaved).await),
        }
    }

    /// Handles a failed commit. The state in use continues to serve if the key still fits it and
    /// the files do not contradict it: new data is then encrypted under a durable version. Newer
    /// versions of the key are published for Decrypt only, because a peer may have encrypted under
    /// them. After a restart, the next read of the key finds them again.
    pub(super) async fn unsaved(
        &mut self,
        profile: &KeyProfile,
        unsaved: CommitterError,
    ) -> MetadataError {
        self.on_disk = Some(unsaved.fault());
        let confirmed = self.parts.committer.confirm().await.document;
        let Some(document) = self.parts.committer.document() else {
            return unsaved.into();
        };
        let now = self.parts.clock.unix_seconds();
        match discover(document, profile, &self.pace.rules, now) {
            Ok(newer) => {
                self.view.unsaved = newer.map(|newer| Arc::clone(newer.next().registry()));
            }
            Err(refused) => return refused.into(),
        }
        if let Err(blocked) = self.require_encryption(profile) {
            blocked
        } else if confirmed.is_err_and(|error| error.fault().contradicts()) {
            MetadataError::Save(unsaved)
        } else {
            MetadataError::Deferred(unsaved)
        }
    }

    /// Completes a failed commit before any other step. If it promotes a version, the new key must
    /// pass a deep probe again before it is published.
    pub(super) async fn complete_commit(&mut self) -> Result<(), CommitterError> {
        if !self.parts.committer.complete().await? {
            return Ok(());
        }
        let shown = self
            .view
            .registry
            .as_ref()
            .map(|registry| registry.active().version());
        self.show_registry();
        let Some(registry) = self.parts.committer.registry() else {
            return Ok(());
        };
        let active = registry.probe_key();
        if shown != Some(active.version()) {
            let proof = round_trip::probe(&self.parts.session, &self.parts.transit, &active).await;
            self.record_deep(proof.err().as_ref());
        }
        Ok(())
    }

    pub(super) fn require_encryption(&self, profile: &KeyProfile) -> Result<(), MetadataError> {
        match self
            .parts
            .committer
            .registry()
            .map(|registry| registry.active().version())
        {
            Some(active) if profile.blocks_encryption(active) => {
                Err(MetadataError::EncryptionBlocked { active })
            }
            _ => Ok(()),
        }
    }

    /// Puts the committed registry into the next view and logs the changes. The deep probe outcome
    /// of a previous active key does not apply to a new one.
    fn show_registry(&mut self) {
        let Some(document) = self.parts.committer.document() else {
            return;
        };
        self.parts.metrics.state_saved(document.generation());
        let registry = Arc::clone(document.registry());
        let shown = self.view.registry.replace(Arc::clone(&registry));
        if let Some(shown) = &shown {
            log_changes(shown, &registry);
        }
        if shown.is_none_or(|shown| shown.active().version() != registry.active().version()) {
            self.view.deep = DeepOutcome::Pending;
            self.view.deep_class = None;
        }
    }
}

/// Logs new versions and promotions; observation counts are left out.
fn log_changes(previous: &Registry, next: &Registry) {
    let (was, is) = (previous.active(), next.active());
    if was.version() != is.version() {
        tracing::info!(
            key_id_hash = is.id_hash().as_str(),
            transit_key_version = is.version().get(),
            previous_key_id_hash = was.id_hash().as_str(),
            previous_transit_key_version = was.version().get(),
            "key.promoted"
        );
    }
    let pending = |registry: &Registry| registry.pending().map(|pending| pending.key.version());
    if let Some(found) = next.pending()
        && pending(previous) != pending(next)
    {
        tracing::info!(
            pending_transit_key_version = found.key.version().get(),
            pending_key_id_hash = found.key.id_hash().as_str(),
            "key.pending"
        );
    }
}
