//! Retirement of versions on this node, and their restoration.
//! Implements `docs/format/state-document.md` section 10.
//!
//! A plan follows from the state and the live key. The operator reviews it and confirms it with the
//! hash of its state. It leaves OpenBao unchanged, so every retirement can be undone until the
//! version is trimmed there.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    Record, RecordState, RegistryConflict,
    document::{Document, ProgressProblem, Retention, StateHash},
};
use crate::{
    confirmed::Confirmed,
    key::TransitKey,
    transit::{KeyProfile, Sentences, TransitVersion},
};

/// A reviewable change of this node's registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    operation: Operation,
    state_hash: StateHash,
    next: Document,
    versions: Vec<Arc<TransitKey>>,
}

/// The requested operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Removes the retired versions below `before`.
    Retire {
        /// The lowest version to keep.
        before: TransitVersion,
    },
    /// Returns removed versions to the state `retired`.
    Restore,
}

/// Reason for a refused plan. The state is unchanged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanRefused {
    /// Version 1 is the lowest version.
    #[error("there is no version before 1, so nothing was retired")]
    NothingBefore,
    /// The active version must stay.
    #[error("version {before} is above the active version {active}, so nothing was retired")]
    AboveActive {
        /// The requested limit.
        before: TransitVersion,
        /// In the registry.
        active: TransitVersion,
    },
    /// The request names no version.
    #[error("no version was named, so nothing was restored")]
    NoVersions,
    /// Some of the versions that were named cannot be restored; every one.
    #[error("nothing was restored: {}", Sentences(.0))]
    NotRestorable(Vec<NotRestorable>),
    /// OpenBao lacks versions that the changed registry would rely on.
    #[error(
        "the registry was not changed, since afterwards it would rely on more than OpenBao has"
    )]
    Conflict(#[from] RegistryConflict),
    /// The next document would be invalid.
    #[error(
        "the next state document cannot be made; the registry was not changed and no data is lost"
    )]
    Progress(#[from] ProgressProblem),
}

/// Reason why a version cannot be restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotRestorable {
    /// Named more than once.
    #[error("version {0} is named twice")]
    Twice(TransitVersion),
    /// The registry has no record of it.
    #[error("version {0} has no record here")]
    Unknown(TransitVersion),
    /// Only versions below the active one can be removed.
    #[error("version {version} is not below the active version {active}")]
    NotBelowActive {
        /// The requested version.
        version: TransitVersion,
        /// In the registry.
        active: TransitVersion,
    },
    /// It is in use.
    #[error("version {version} is {}, not removed", state.as_str())]
    NotRemoved {
        /// The requested version.
        version: TransitVersion,
        /// The state of its record.
        state: RecordState,
    },
}

/// The state has changed since the review.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the plan was reviewed for the state {expected}, but the state is {found}")]
pub struct PlanOutdated {
    /// Hash of the reviewed state.
    pub expected: StateHash,
    /// Hash of the state of the plan.
    pub found: StateHash,
}

/// Plans the removal of every retired version below `before`.
///
/// A pending rotation does not prevent it. Active, pending, rejected and removed records stay as
/// they are. OpenBao must have all remaining retained versions; it may already lack the removed
/// ones.
///
/// # Errors
/// [`PlanRefused`].
pub fn plan_retirement(
    document: &Document,
    before: TransitVersion,
    profile: &KeyProfile,
) -> Result<Plan, PlanRefused> {
    let active = document.registry().active().version();
    if before == TransitVersion::FIRST {
        return Err(PlanRefused::NothingBefore);
    }
    if before > active {
        return Err(PlanRefused::AboveActive { before, active });
    }

    let is_affected =
        |record: &Record| record.state == RecordState::Retired && record.key.version() < before;
    let operation = Operation::Retire { before };
    plan(document, operation, profile, is_affected)
}

/// Plans the restoration of exactly the removed `versions`. OpenBao must have all of them.
///
/// # Errors
/// [`PlanRefused`].
pub fn plan_restoration(
    document: &Document,
    versions: &[TransitVersion],
    profile: &KeyProfile,
) -> Result<Plan, PlanRefused> {
    if versions.is_empty() {
        return Err(PlanRefused::NoVersions);
    }

    let mut named = BTreeSet::new();
    let problems: Vec<_> = versions
        .iter()
        .filter_map(|&version| match named.insert(version) {
            true => problem_of(document, version),
            false => Some(NotRestorable::Twice(version)),
        })
        .collect();
    if !problems.is_empty() {
        return Err(PlanRefused::NotRestorable(problems));
    }

    let is_affected = |record: &Record| named.contains(&record.key.version());
    plan(document, Operation::Restore, profile, is_affected)
}

impl Plan {
    /// The requested operation.
    #[must_use]
    pub fn operation(&self) -> Operation {
        self.operation
    }

    /// Hash of the state of the plan, for confirmation by the operator.
    #[must_use]
    pub fn state_hash(&self) -> &StateHash {
        &self.state_hash
    }

    /// The resulting document; equal to the current one if the plan changes nothing.
    #[must_use]
    pub fn next(&self) -> &Document {
        &self.next
    }

    /// The versions that stop decrypting, in document order.
    #[must_use]
    pub fn removed(&self) -> &[Arc<TransitKey>] {
        match self.operation {
            Operation::Retire { .. } => &self.versions,
            Operation::Restore => &[],
        }
    }

    /// The versions that decrypt again, in document order.
    #[must_use]
    pub fn restored(&self) -> &[Arc<TransitKey>] {
        match self.operation {
            Operation::Retire { .. } => &[],
            Operation::Restore => &self.versions,
        }
    }

    /// Confirms that the reviewed state is still the current one.
    ///
    /// # Errors
    /// [`PlanOutdated`] if the hash differs.
    pub fn confirm(self, expected: &StateHash) -> Result<Confirmed<Self>, PlanOutdated> {
        if *expected == self.state_hash {
            Ok(Confirmed::new(self))
        } else {
            Err(PlanOutdated {
                expected: expected.clone(),
                found: self.state_hash,
            })
        }
    }
}

impl Confirmed<Plan> {
    /// The document to commit; `None` if the plan changes nothing.
    #[must_use]
    pub fn into_next(self) -> Option<Document> {
        let Plan {
            next, state_hash, ..
        } = self.into_plan();
        (*next.hash() != state_hash).then_some(next)
    }
}

impl Operation {
    fn leads_to(self) -> RecordState {
        match self {
            Self::Retire { .. } => RecordState::Removed,
            Self::Restore => RecordState::Retired,
        }
    }
}

/// Changes only the state of the affected records and keeps their position.
fn plan(
    document: &Document,
    operation: Operation,
    profile: &KeyProfile,
    is_affected: impl Fn(&Record) -> bool,
) -> Result<Plan, PlanRefused> {
    let mut records = document.registry().records().to_vec();
    let mut versions = Vec::new();
    for record in records.iter_mut().filter(|record| is_affected(record)) {
        record.state = operation.leads_to();
        versions.push(Arc::clone(&record.key));
    }

    let next = if versions.is_empty() {
        document.clone()
    } else {
        document.next(records, Retention::Reviewed)?
    };

    profile.require_retained(next.registry())?;

    Ok(Plan {
        operation,
        state_hash: document.hash().clone(),
        next,
        versions,
    })
}

fn problem_of(document: &Document, version: TransitVersion) -> Option<NotRestorable> {
    let active = document.registry().active().version();
    if version >= active {
        return Some(NotRestorable::NotBelowActive { version, active });
    }
    let records = document.registry().records();
    match records.iter().find(|r| r.key.version() == version) {
        None => Some(NotRestorable::Unknown(version)),
        Some(record) if record.state == RecordState::Removed => None,
        Some(record) => Some(NotRestorable::NotRemoved {
            version,
            state: record.state,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors::{self, document, version};
    use RecordState::{Active, Pending, Rejected, Removed, Retired};

    fn sound(latest: u64) -> KeyProfile {
        vectors::sound_profile(latest, 0, 1)
    }

    fn states(document: &Document) -> Vec<(u64, RecordState)> {
        let records = document.registry().records().iter();
        records
            .map(|record| (record.key.version().get(), record.state))
            .collect()
    }

    fn numbers(keys: &[Arc<TransitKey>]) -> Vec<u64> {
        keys.iter().map(|key| key.version().get()).collect()
    }

    #[test]
    fn retirement_reaches_the_reference_vector() {
        let plan = plan_retirement(
            &vectors::pair("rotated").0,
            version(2),
            &vectors::profile(&[(2, 1_700_000_120)], 0, 2),
        );
        assert_eq!(plan.unwrap().next().encode(), vectors::pair("removed").1);
    }

    #[test]
    fn only_retired_versions_below_the_limit_are_removed_and_positions_stay() {
        let before = document(&[
            (3, Retired),
            (6, Pending),
            (1, Rejected),
            (5, Active),
            (4, Retired),
            (2, Removed),
        ]);
        let plan = plan_retirement(&before, version(4), &sound(6)).unwrap();
        assert_eq!(
            states(plan.next()),
            [
                (3, Removed),
                (6, Pending),
                (1, Rejected),
                (5, Active),
                (4, Retired),
                (2, Removed),
            ]
        );
        assert_eq!(numbers(plan.removed()), [3]);
        assert_eq!(numbers(plan.restored()), [0; 0]);
        assert_eq!(plan.next().generation().get(), 2);
        assert_eq!(plan.next().previous_hash(), Some(before.hash()));
    }

    #[test]
    fn a_retirement_can_be_undone() {
        let before = document(&[(3, Active), (2, Retired), (1, Retired)]);
        let removed = plan_retirement(&before, version(3), &sound(3)).unwrap();
        let named = [version(1), version(2)];
        let restored = plan_restoration(removed.next(), &named, &sound(3)).unwrap();
        assert_eq!(restored.next().registry(), before.registry());
        assert_eq!(numbers(restored.restored()), [2, 1]);
        assert_eq!(numbers(restored.removed()), [0; 0]);
        assert_eq!(restored.operation(), Operation::Restore);
    }

    #[test]
    fn a_plan_without_a_match_keeps_the_document_and_commits_nothing() {
        let before = document(&[(2, Active), (1, Removed)]);
        let plan = plan_retirement(&before, version(2), &sound(2)).unwrap();
        assert_eq!(plan.next(), &before);
        assert!(matches!(plan.operation(), Operation::Retire { .. }));
        assert_eq!(plan.confirm(before.hash()).unwrap().into_next(), None);
    }

    #[test]
    fn only_the_hash_of_the_reviewed_state_confirms() {
        let before = document(&[(2, Active), (1, Retired)]);
        let plan = plan_retirement(&before, version(2), &sound(2)).unwrap();
        let next = plan.next().clone();
        let outdated = plan.clone().confirm(next.hash()).unwrap_err();
        assert_eq!(&outdated.expected, next.hash());
        assert_eq!(&outdated.found, before.hash());
        let confirmed = plan.confirm(before.hash()).unwrap();
        assert_eq!(confirmed.into_next(), Some(next));
    }

    #[test]
    fn the_limit_is_between_2_and_the_active_version() {
        let before = document(&[(3, Pending), (2, Active), (1, Retired)]);
        let refused = |number| plan_retirement(&before, version(number), &sound(3)).unwrap_err();
        assert_eq!(refused(1), PlanRefused::NothingBefore);
        assert_eq!(
            refused(3),
            PlanRefused::AboveActive {
                before: version(3),
                active: version(2)
            }
        );
    }

    #[test]
    fn every_version_that_cannot_be_restored_is_named() {
        let before = document(&[(6, Pending), (5, Active), (4, Retired), (2, Removed)]);
        let refused =
            |numbers: &[u64]| match plan_restoration(&before, &versions(numbers), &sound(6)) {
                Err(PlanRefused::NotRestorable(problems)) => problems,
                other => panic!("{other:?}"),
            };
        let active = version(5);
        assert_eq!(
            refused(&[2, 2, 1, 4, 5, 6]),
            [
                NotRestorable::Twice(version(2)),
                NotRestorable::Unknown(version(1)),
                NotRestorable::NotRemoved {
                    version: version(4),
                    state: Retired
                },
                NotRestorable::NotBelowActive {
                    version: version(5),
                    active
                },
                NotRestorable::NotBelowActive {
                    version: version(6),
                    active
                },
            ]
        );
        let nothing = plan_restoration(&before, &[], &sound(6));
        assert_eq!(nothing, Err(PlanRefused::NoVersions));
    }

    #[test]
    fn openbao_must_have_what_is_kept_and_may_lack_what_is_removed() {
        let before = document(&[(3, Active), (2, Retired), (1, Retired)]);
        let hides_1 = vectors::sound_profile(3, 0, 2);
        assert!(plan_retirement(&before, version(2), &hides_1).is_ok());
        let hides_2 = vectors::sound_profile(3, 0, 3);
        let kept = plan_retirement(&before, version(2), &hides_2);
        assert!(matches!(kept, Err(PlanRefused::Conflict(_))), "{kept:?}");
        let behind = plan_retirement(&before, version(2), &sound(2));
        assert!(
            matches!(
                behind,
                Err(PlanRefused::Conflict(
                    RegistryConflict::VersionRollback { .. }
                ))
            ),
            "{behind:?}"
        );
        let removed = plan_retirement(&before, version(2), &hides_1).unwrap();
        let restored = plan_restoration(removed.next(), &versions(&[1]), &hides_1);
        assert!(
            matches!(restored, Err(PlanRefused::Conflict(_))),
            "{restored:?}"
        );
    }

    #[test]
    fn a_key_that_may_not_encrypt_with_the_active_version_does_not_forbid_a_plan() {
        let before = document(&[(2, Active), (1, Retired)]);
        let blocked = vectors::blocking_profile(3, 3);
        assert!(blocked.blocks_encryption(version(2)));
        assert!(plan_retirement(&before, version(2), &blocked).is_ok());
    }

    fn versions(numbers: &[u64]) -> Vec<TransitVersion> {
        numbers.iter().copied().map(version).collect()
    }
}
