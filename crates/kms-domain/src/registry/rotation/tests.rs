use std::time::Duration;

use super::*;
use crate::{
    health::MetadataFailure,
    registry::{
        Lookup,
        RecordState::{self, Active, Pending, Rejected, Removed, Retired},
    },
    vectors::{self, document, sound_profile, version},
};

const NOW: u64 = 1_000;

fn rules(required: u32) -> RotationRules {
    RotationRules {
        required_observations: NonZeroU32::new(required).unwrap(),
        reject_version_rollback: true,
    }
}

/// One counted observation with three required, at [`NOW`] and without promotion.
fn look(document: &Document, profile: &KeyProfile) -> Result<Step, RotationRefused> {
    let (counts, waiting) = (Counting::Counts, Activation::Waiting);
    observe(document, profile, &rules(3), counts, waiting, NOW)
}

fn recorded(step: Step) -> Transition {
    let Step::Recorded(transition) = step else {
        panic!("{step:?}")
    };
    transition
}

fn due(step: Step) -> Promotion {
    let Step::Due(promotion) = step else {
        panic!("{step:?}")
    };
    promotion
}

fn states(document: &Document) -> Vec<(u64, RecordState)> {
    let records = document.registry().records().iter();
    records
        .map(|record| (record.key.version().get(), record.state))
        .collect()
}

/// Observed, count, stable, promoted; 0 if unset.
fn history(document: &Document, number: u64) -> [u64; 4] {
    let mut records = document.registry().records().iter();
    let record = records.find(|record| record.key.version() == version(number));
    let notes = record.unwrap().bookkeeping;
    [
        notes.observed_at(),
        notes.stable_observation_count(),
        notes.stable_at(),
        notes.promoted_at(),
    ]
    .map(|number| number.map_or(0, |number| number.get()))
}

/// A document whose version 2 was counted `counts` times of 3, the first time at second 100.
fn counted(counts: u32) -> Document {
    let profile = sound_profile(2, 0, 1);
    let first = document(&[(1, Active)]);
    let discovered = discover(&first, &profile, &rules(3), 100).unwrap();
    (0..counts).fold(discovered.unwrap().into_next(), |document, _| {
        let (counts, waiting) = (Counting::Counts, Activation::Waiting);
        recorded(observe(&document, &profile, &rules(3), counts, waiting, 100).unwrap()).into_next()
    })
}

#[test]
fn discovery_reaches_the_reference_vector() {
    let profile = vectors::profile(&[(1, 1_700_000_060), (2, 1_700_000_120)], 0, 1);
    let (initial, _) = vectors::pair("initial");
    let found = discover(&initial, &profile, &rules(3), 1_700_000_060).unwrap();
    assert_eq!(
        found.unwrap().next().encode(),
        vectors::pair("discovered").1
    );
}

#[test]
fn one_observation_without_delay_reaches_the_reference_vector() {
    let profile = vectors::profile(&[(1, 1_700_000_060), (2, 1_700_000_120)], 0, 1);
    let (initial, _) = vectors::pair("initial");
    let (counts, wait) = (Counting::Counts, Activation::NotRequired);
    let step = observe(&initial, &profile, &rules(1), counts, wait, 1_700_000_060);
    let promoted = due(step.unwrap()).promote();
    assert_eq!(promoted.next().encode(), vectors::pair("rotated").1);
    assert_eq!(promoted.change(), Change::Promoted);
}

#[test]
fn nothing_newer_is_no_step_in_any_order_of_records() {
    let before = document(&[(1, Retired), (2, Active)]);
    let profile = sound_profile(2, 0, 1);
    assert_eq!(look(&before, &profile), Ok(Step::Unchanged));
    assert_eq!(discover(&before, &profile, &rules(3), NOW), Ok(None));
}

#[test]
fn each_observation_counts_once_and_the_required_one_makes_it_stable() {
    let profile = sound_profile(2, 0, 1);
    let mut current = document(&[(1, Active)]);
    for (count, change, stable_at) in [
        (1, Change::Discovered, 0),
        (2, Change::Counted, 0),
        (3, Change::Counted, NOW),
    ] {
        let step = recorded(look(&current, &profile).unwrap());
        assert_eq!(step.change(), change);
        current = step.into_next();
        assert_eq!(history(&current, 2), [NOW, count, stable_at, 0]);
        assert_eq!(states(&current), [(1, Active), (2, Pending)]);
        assert_eq!(current.generation().get(), count + 1);
    }
    assert_eq!(
        look(&current, &profile),
        Ok(Step::Unchanged),
        "it stays at 3"
    );
}

#[test]
fn an_observation_too_soon_is_recorded_but_not_counted() {
    let profile = sound_profile(2, 0, 1);
    let soon = |document: &Document| {
        let (too_soon, waiting) = (Counting::TooSoon, Activation::Waiting);
        observe(document, &profile, &rules(3), too_soon, waiting, NOW).unwrap()
    };
    let found = recorded(soon(&document(&[(1, Active)]))).into_next();
    assert_eq!(history(&found, 2), [NOW, 0, 0, 0]);
    assert_eq!(soon(&found), Step::Unchanged);
    assert_eq!(soon(&counted(3)), Step::Unchanged);
}

#[test]
fn discovery_never_counts_and_never_promotes() {
    let profile = sound_profile(2, 0, 1);
    for counts in 0..=3 {
        let document = counted(counts);
        assert_eq!(discover(&document, &profile, &rules(1), NOW), Ok(None));
    }
}

#[test]
fn only_the_wait_of_the_very_key_id_promotes() {
    let profile = sound_profile(2, 0, 1);
    let stable = counted(3);
    let step = |activation| {
        observe(
            &stable,
            &profile,
            &rules(3),
            Counting::TooSoon,
            activation,
            NOW,
        )
        .unwrap()
    };
    let registry = stable.registry();
    let (own, other) = (registry.pending().unwrap().key.id(), registry.active().id());
    assert_eq!(step(Activation::Waiting), Step::Unchanged);
    assert_eq!(step(Activation::Over(other)), Step::Unchanged);
    let promotion = due(step(Activation::Over(own)));
    assert_eq!(promotion.candidate().version(), version(2));
    assert_eq!(promotion.clone().postpone(), None);
    let promoted = promotion.promote();
    assert_eq!(states(promoted.next()), [(2, Active), (1, Retired)]);
    assert_eq!(history(promoted.next(), 2), [100, 3, 100, NOW]);
}

#[test]
fn an_unstable_version_is_not_promoted_even_without_delay() {
    let profile = sound_profile(2, 0, 1);
    let (soon, wait) = (Counting::TooSoon, Activation::NotRequired);
    let step = observe(&counted(2), &profile, &rules(3), soon, wait, NOW).unwrap();
    assert_eq!(step, Step::Unchanged);
    // Raised settings apply to a version that was stable under the old ones.
    let step = observe(&counted(3), &profile, &rules(4), soon, wait, NOW).unwrap();
    assert_eq!(step, Step::Unchanged);
}

#[test]
fn lowered_settings_make_a_counted_version_stable_at_its_next_observation() {
    let profile = sound_profile(2, 0, 1);
    let (counts, wait) = (Counting::Counts, Activation::Waiting);
    let step = observe(&counted(2), &profile, &rules(2), counts, wait, NOW).unwrap();
    assert_eq!(history(recorded(step).next(), 2), [100, 2, NOW, 0]);
}

#[test]
fn a_candidate_that_fails_its_probe_keeps_what_was_observed() {
    let profile = sound_profile(2, 0, 1);
    let (counts, wait) = (Counting::Counts, Activation::NotRequired);
    let step = observe(&counted(2), &profile, &rules(3), counts, wait, NOW).unwrap();
    let kept = due(step).postpone().unwrap();
    assert_eq!(kept.change(), Change::Counted);
    assert_eq!(states(kept.next()), [(1, Active), (2, Pending)]);
    assert_eq!(history(kept.next(), 2), [100, 3, NOW, 0]);
}

#[test]
fn the_old_active_version_loses_its_count_and_keeps_its_times() {
    let profile = sound_profile(2, 0, 1);
    let (counts, wait) = (Counting::Counts, Activation::NotRequired);
    let promote = |document: &Document, profile: &KeyProfile, now| {
        due(observe(document, profile, &rules(1), counts, wait, now).unwrap())
            .promote()
            .into_next()
    };
    let second = promote(&document(&[(1, Active)]), &profile, 10);
    assert_eq!(history(&second, 2), [10, 1, 10, 10]);
    let third = promote(&second, &sound_profile(3, 0, 1), 20);
    assert_eq!(history(&third, 2), [10, 0, 0, 10]);
    assert_eq!(states(&third), [(3, Active), (2, Retired), (1, Retired)]);
}

#[test]
fn skipped_and_overtaken_versions_are_retired_and_decrypt() {
    let before = counted(2);
    let after = recorded(look(&before, &sound_profile(5, 0, 1)).unwrap());
    assert_eq!(after.change(), Change::Discovered);
    let after = after.into_next();
    assert_eq!(
        states(&after),
        [
            (1, Active),
            (5, Pending),
            (4, Retired),
            (3, Retired),
            (2, Retired)
        ]
    );
    assert_eq!(history(&after, 2), [100, 2, 0, 0], "as it stood");
    assert_eq!(history(&after, 4), [NOW, 0, 0, 0]);
    assert_eq!(history(&after, 5), [NOW, 1, 0, 0], "counted anew");
    for record in after.registry().records() {
        let found = after.registry().lookup(record.key.id());
        assert!(matches!(found, Lookup::Known(_)), "{record:?}");
    }
}

#[test]
fn records_are_written_active_pending_retired_rejected_removed() {
    let before = document(&[
        (1, Removed),
        (2, Rejected),
        (3, Retired),
        (4, Removed),
        (5, Retired),
        (6, Active),
    ]);
    let after = recorded(look(&before, &sound_profile(7, 0, 1)).unwrap());
    assert_eq!(
        states(after.next()),
        [
            (6, Active),
            (7, Pending),
            (5, Retired),
            (3, Retired),
            (2, Rejected),
            (4, Removed),
            (1, Removed),
        ]
    );
}

#[test]
fn a_removed_version_on_the_way_is_not_taken_up_again() {
    let before = document(&[(1, Active), (2, Removed)]);
    let after = recorded(look(&before, &sound_profile(3, 0, 1)).unwrap());
    assert_eq!(
        states(after.next()),
        [(1, Active), (3, Pending), (2, Removed)]
    );
}

#[test]
fn a_newest_version_that_is_withdrawn_here_is_refused() {
    for state in [Removed, Rejected, Retired] {
        let before = document(&[(1, Active), (2, state)]);
        assert_eq!(
            look(&before, &sound_profile(2, 0, 1)),
            Err(RotationRefused::Disabled {
                latest: version(2),
                state
            })
        );
    }
}

#[test]
fn a_skipped_version_that_cannot_decrypt_is_refused() {
    let before = document(&[(2, Active), (1, Removed)]);
    for (profile, problem) in [
        (
            vectors::profile(&[(2, 2), (4, 4)], 0, 2),
            VersionProblem::Unlisted(version(3)),
        ),
        (
            vectors::profile(&[(2, 2), (i64::MAX, 4)], 0, 2),
            VersionProblem::Unlisted(version(3)),
        ),
    ] {
        let latest = profile.latest();
        let active = version(2);
        let refused = RotationRefused::Intermediate {
            active,
            latest,
            problem,
        };
        assert_eq!(look(&before, &profile), Err(refused.clone()));
        assert_eq!(refused.failure(), MetadataFailure::ProfileInvalid);
    }
}

#[test]
fn a_lost_version_refuses_every_step() {
    let before = document(&[(2, Active), (1, Retired)]);
    let hides_1 = sound_profile(3, 0, 2);
    let refused = look(&before, &hides_1).unwrap_err();
    assert!(matches!(
        refused,
        RotationRefused::Conflict(RegistryConflict::Retained(_))
    ));
    assert_eq!(refused.failure(), MetadataFailure::ProfileInvalid);
    assert_eq!(discover(&before, &hides_1, &rules(3), NOW), Err(refused));
}

#[test]
fn the_rollback_setting_changes_the_reason_and_not_the_outcome() {
    let before = document(&[(2, Active), (1, Retired)]);
    let behind = sound_profile(1, 0, 1);
    let refused = |reject_version_rollback| {
        let rules = RotationRules {
            reject_version_rollback,
            ..rules(3)
        };
        discover(&before, &behind, &rules, NOW)
            .unwrap_err()
            .failure()
    };
    assert_eq!(refused(true), MetadataFailure::VersionRollback);
    assert_eq!(refused(false), MetadataFailure::ProfileInvalid);
}

#[test]
fn pending_work_goes_on_while_the_active_version_may_not_encrypt() {
    let profile = vectors::blocking_profile(2, 2);
    let stable = counted(3);
    assert!(profile.blocks_encryption(stable.registry().active().version()));
    let (soon, wait) = (Counting::TooSoon, Activation::NotRequired);
    let step = observe(&stable, &profile, &rules(3), soon, wait, NOW).unwrap();
    let promoted = due(step).promote();
    assert!(!profile.blocks_encryption(promoted.next().registry().active().version()));
}

#[test]
fn a_clock_that_steps_back_raises_times_to_their_lower_bound_and_is_reported() {
    let profile = sound_profile(2, 0, 1);
    let (counts, wait) = (Counting::Counts, Activation::NotRequired);
    let step = observe(&counted(2), &profile, &rules(3), counts, wait, 99).unwrap();
    let promotion = due(step);
    for transition in [promotion.clone().postpone().unwrap(), promotion.promote()] {
        let regression = transition.clock_regression().unwrap();
        assert_eq!((regression.now.get(), regression.noted.get()), (99, 100));
        assert_eq!(history(transition.next(), 2)[..3], [100, 3, 100]);
    }
    let step = observe(&counted(2), &profile, &rules(3), counts, wait, 100).unwrap();
    assert_eq!(due(step).promote().clock_regression(), None);
}

#[test]
fn a_clock_outside_the_range_of_the_document_still_makes_readable_documents() {
    for now in [0, u64::MAX] {
        let found = discover(
            &document(&[(1, Active)]),
            &sound_profile(2, 0, 1),
            &rules(3),
            now,
        );
        let text = found.unwrap().unwrap().next().encode();
        assert!(Document::decode(text.as_bytes()).is_ok(), "{now}");
    }
}

#[test]
fn the_wait_begins_with_the_first_stable_observation_and_belongs_to_one_key_id() {
    let seconds = Duration::from_secs;
    let required = rules(3).required_observations;
    let mut wait = ActivationWait::new(seconds(10));
    let (unstable, stable) = (counted(2), counted(3));
    let key_id = stable.registry().pending().unwrap().key.id().clone();

    wait.observed(unstable.registry(), required, seconds(0));
    assert_eq!(wait.activation(seconds(100)), Activation::Waiting);
    wait.observed(stable.registry(), required, seconds(100));
    wait.observed(stable.registry(), required, seconds(105));
    assert_eq!(wait.activation(seconds(109)), Activation::Waiting);
    assert_eq!(wait.activation(seconds(110)), Activation::Over(&key_id));

    wait.observed(unstable.registry(), required, seconds(110));
    assert_eq!(wait.activation(seconds(120)), Activation::Waiting);
    let restarted = ActivationWait::new(seconds(10));
    assert_eq!(restarted.activation(seconds(1_000)), Activation::Waiting);
    let none = ActivationWait::new(Duration::ZERO);
    assert_eq!(none.activation(seconds(0)), Activation::NotRequired);
}

#[test]
fn reports_show_what_waits_and_until_when() {
    let word = |document: Option<&Document>| {
        RotationState::of(document.map(|document| &**document.registry())).as_str()
    };
    assert_eq!(word(None), "unknown");
    assert_eq!(word(Some(&document(&[(1, Active)]))), "active");
    assert_eq!(word(Some(&counted(1))), "pending");
    let promotes_after = |document: &Document| {
        let pending = document.registry().pending().unwrap();
        pending.bookkeeping.promotes_after(Duration::from_secs(120))
    };
    assert_eq!(promotes_after(&counted(2)), None);
    assert_eq!(promotes_after(&counted(3)), Some(220));
}
