//! What follows from one reading of the key: the step of the rules, its commit, and the repair of
//! a commit that failed. Nothing is shown before it is durable.

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
use tokio::time::Instant;

use super::{Watcher, class_of, deep, ledger::LedgerError, metadata::MetadataError};

impl Watcher {
    /// Makes and commits the state of a key that was never rotated.
    pub(super) async fn first_document(
        &mut self,
        profile: &KeyProfile,
    ) -> Result<(), MetadataError> {
        let now = self.parts.clock.unix_seconds();
        let first = bootstrap(profile, &self.parts.scope, &self.parts.path, now)?;
        self.parts.ledger.commit(first).await?;
        self.show_registry();
        Ok(())
    }

    /// Observes the key, and commits the step that the rules make of it.
    pub(super) async fn advance(&mut self, profile: &KeyProfile) -> Result<(), MetadataError> {
        let counting = self.counting();
        let Some(document) = self.parts.ledger.document() else {
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

    /// A probe that comes sooner than an interval after another, as after a restart, is no more
    /// evidence that a version is stable.
    fn counting(&mut self) -> Counting {
        let now = Instant::now();
        if now.duration_since(self.observed) < self.pace.metadata {
            return Counting::TooSoon;
        }
        self.observed = now;
        Counting::Counts
    }

    /// The candidate proves itself first; promotion and proof are then published as one.
    async fn promote(
        &mut self,
        profile: &KeyProfile,
        promotion: Promotion,
    ) -> Result<(), MetadataError> {
        let candidate = promotion.candidate();
        match deep::probe(&self.parts.session, &self.parts.transit, candidate).await {
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
        match self.parts.ledger.commit(transition.into_next()).await {
            Ok(()) => {
                self.on_disk = None;
                self.show_registry();
                Ok(())
            }
            Err(unsaved) => Err(self.unsaved(profile, unsaved).await),
        }
    }

    /// A commit failed. The state in use continues to serve if the key still fits it and the files
    /// do not speak against it: whatever is encrypted meanwhile is readable under a version that is
    /// durable. Newer versions of the key are shown to Decrypt alone, since a peer may have encrypted
    /// under them; if this process forgets them, the next reading of the key finds them again.
    pub(super) async fn unsaved(
        &mut self,
        profile: &KeyProfile,
        unsaved: LedgerError,
    ) -> MetadataError {
        self.on_disk = Some(unsaved.fault());
        let confirmed = self.parts.ledger.confirm().await;
        let Some(document) = self.parts.ledger.document() else {
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

    /// Finishes a commit that failed half way, before anything else is decided. If that promotes,
    /// the new key proves itself again before it is shown.
    pub(super) async fn complete_commit(&mut self) -> Result<(), LedgerError> {
        if !self.parts.ledger.complete().await? {
            return Ok(());
        }
        let shown = self
            .view
            .registry
            .as_ref()
            .map(|registry| registry.active().version());
        self.show_registry();
        let Some(registry) = self.parts.ledger.registry() else {
            return Ok(());
        };
        let active = registry.probe_key();
        if shown != Some(active.version()) {
            let proof = deep::probe(&self.parts.session, &self.parts.transit, &active).await;
            self.record_deep(proof.err().as_ref());
        }
        Ok(())
    }

    pub(super) fn require_encryption(&self, profile: &KeyProfile) -> Result<(), MetadataError> {
        match self
            .parts
            .ledger
            .registry()
            .map(|registry| registry.active().version())
        {
            Some(active) if profile.blocks_encryption(active) => {
                Err(MetadataError::EncryptionBlocked { active })
            }
            _ => Ok(()),
        }
    }

    /// The committed registry is what the next view shows, and the log tells what is new in it.
    /// Another active key is not proven by the deep probe of the one before.
    fn show_registry(&mut self) {
        let Some(document) = self.parts.ledger.document() else {
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

/// New versions and promotions are worth a line; counts are not.
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
