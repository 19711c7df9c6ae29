//! Versions in the metadata above the active one: the newest version and skipped versions.

use std::{cmp::Reverse, collections::BTreeSet, num::NonZeroU32, sync::Arc};

use super::{Change, Promotion, RotationRefused, Transition};
use crate::{
    key::TransitKey,
    registry::{
        Bookkeeping, Record, RecordState, Registry, StepClock,
        document::{Document, ProgressProblem, Retention},
    },
    transit::{CreatedAt, KeyProfile, TransitVersion},
};

/// The records of a registry, extended up to a newest version above the active one.
pub(super) struct Observation {
    pending: Record,
    others: Vec<Record>,
}

impl Observation {
    /// Returns `None` if the active version is the newest. The caller must have checked the
    /// retained versions.
    pub(super) fn of(
        registry: &Registry,
        profile: &KeyProfile,
        clock: &StepClock,
    ) -> Result<Option<Self>, RotationRefused> {
        let (active, latest) = (registry.active().version(), profile.latest());
        if latest <= active {
            return Ok(None);
        }

        let mut pending = None;
        let mut others = Vec::new();
        for record in registry.records() {
            let mut record = record.clone();
            match (record.key.version() == latest, record.state) {
                (true, RecordState::Pending) => {
                    pending = Some(record);
                    continue;
                }
                (true, state) => return Err(RotationRefused::Disabled { latest, state }),
                // A peer may have encrypted with it already.
                (false, RecordState::Pending) => record.state = RecordState::Retired,
                (false, _) => {}
            }
            others.push(record);
        }

        let seen = |version, created_at: CreatedAt, state| Record {
            key: Arc::new(TransitKey::new(
                Arc::clone(registry.scope()),
                version,
                created_at,
            )),
            state,
            bookkeeping: Bookkeeping::seen(clock),
        };
        let known: BTreeSet<_> = others.iter().map(|record| record.key.version()).collect();

        // The active version is known. The loop ends at the first unlisted version, so an
        // implausible number in the metadata is harmless.
        for number in active.get()..latest.get() {
            let Some(version) = TransitVersion::new(number).filter(|v| !known.contains(v)) else {
                continue;
            };
            let created_at =
                profile
                    .decryptable(version)
                    .map_err(|problem| RotationRefused::Intermediate {
                        active,
                        latest,
                        problem,
                    })?;
            others.push(seen(version, created_at, RecordState::Retired));
        }

        let pending = pending
            .unwrap_or_else(|| seen(latest, profile.latest_created_at(), RecordState::Pending));
        Ok(Some(Self { pending, others }))
    }

    pub(super) fn pending(&self) -> &Record {
        &self.pending
    }

    pub(super) fn count(&mut self, required: NonZeroU32, clock: &mut StepClock) {
        self.pending.bookkeeping = self.pending.bookkeeping.counted(required, clock);
    }

    /// The document with the observed versions; `None` if `document` already has them.
    pub(super) fn record(
        &self,
        document: &Document,
        clock: &StepClock,
    ) -> Result<Option<Transition>, ProgressProblem> {
        let before = in_order(document.registry().records().to_vec());
        let after = in_order([std::slice::from_ref(&self.pending), &self.others].concat());
        if before == after {
            return Ok(None);
        }

        let uses = |records: &[Record]| -> Vec<_> {
            let use_of = |record: &Record| (Arc::clone(&record.key), record.state);
            records.iter().map(use_of).collect()
        };
        let change = if uses(&before) == uses(&after) {
            Change::Counted
        } else {
            Change::Discovered
        };

        transition(document, after, change, clock).map(Some)
    }

    /// Makes the pending version active and the active one retired. `unpromoted` is the transition
    /// to keep if the probe fails.
    pub(super) fn promote(
        mut self,
        document: &Document,
        unpromoted: Option<Transition>,
        mut clock: StepClock,
    ) -> Result<Promotion, ProgressProblem> {
        for record in &mut self.others {
            if record.state == RecordState::Active {
                record.state = RecordState::Retired;
                record.bookkeeping = record.bookkeeping.retired();
            }
        }

        let candidate = Arc::clone(&self.pending.key);
        self.others.push(Record {
            key: self.pending.key,
            state: RecordState::Active,
            bookkeeping: self.pending.bookkeeping.promoted(&mut clock),
        });

        let records = in_order(self.others);
        let promoted = transition(document, records, Change::Promoted, &clock)?;
        Ok(Promotion::new(candidate, promoted, unpromoted))
    }
}

fn transition(
    document: &Document,
    records: Vec<Record>,
    change: Change,
    clock: &StepClock,
) -> Result<Transition, ProgressProblem> {
    Ok(Transition {
        next: document.next(records, Retention::Kept)?,
        change,
        clock_regression: clock.regression(),
    })
}

/// The record order of rotation: by state, then by descending version.
pub(crate) fn in_order(mut records: Vec<Record>) -> Vec<Record> {
    let rank = |state| match state {
        RecordState::Active => 0,
        RecordState::Pending => 1,
        RecordState::Retired => 2,
        RecordState::Rejected => 3,
        RecordState::Removed => 4,
    };
    records.sort_by_key(|record| (rank(record.state), Reverse(record.key.version())));
    records
}
