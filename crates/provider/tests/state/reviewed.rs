//! A plan that an operator has reviewed is written like any commit, and only where it was made for.

use std::num::NonZeroU32;

use kms_domain::{
    confirmed::Confirmed,
    registry::{
        document::Document,
        retire::{Plan, plan_retirement},
        rotation::{Activation, Counting, RotationRules, Step, observe},
    },
    transit::{KeyProfile, TransitVersion},
};
use kms_node::state::{CommitError, MissingCheckpoint};
use serde_json::json;

use crate::node::{FailingDisk, Moment, Node, after, first, key_path};

fn profile() -> KeyProfile {
    let metadata = json!({
        "type": "aes256-gcm96", "latest_version": 2, "keys": {"1": 1_700_000_060, "2": 1_700_000_120},
        "supports_encryption": true, "supports_decryption": true,
    });
    KeyProfile::check(
        &serde_json::from_value(metadata).unwrap(),
        &key_path().key_name,
    )
    .unwrap()
}

/// The document after `first`, with version 2 active and version 1 retired.
fn rotated(first: &Document) -> Document {
    let rules = RotationRules {
        required_observations: NonZeroU32::MIN,
        reject_version_rollback: true,
    };
    let (counting, activation) = (Counting::Counts, Activation::NotRequired);
    match observe(first, &profile(), &rules, counting, activation, 9).unwrap() {
        Step::Due(promotion) => promotion.promote().into_next(),
        other => panic!("{other:?}"),
    }
}

fn reviewed(document: &Document) -> Confirmed<Plan> {
    let before = TransitVersion::new(2).unwrap();
    let plan = plan_retirement(document, before, &profile()).unwrap();
    plan.confirm(document.hash()).unwrap()
}

#[test]
fn a_reviewed_plan_is_written_once() {
    let rotated = rotated(&first(1));
    let node = Node::with(Some(&rotated), Some(&rotated));
    let mut writer = node.writer(MissingCheckpoint::Refuse).unwrap();
    let plan = reviewed(&rotated);
    let next = plan.plan().next().clone();
    writer.carry_out(plan).unwrap();
    assert_eq!(writer.committed(), Some(&next));
    node.assert_holds(&next);

    let before = node.content();
    writer.carry_out(reviewed(&next)).unwrap();
    assert_eq!(node.content(), before, "nothing was left to change");
}

#[test]
fn a_plan_for_another_state_is_not_written() {
    let rotated = rotated(&first(1));
    let moved_on = after(&rotated, 9);
    let node = Node::with(Some(&moved_on), Some(&moved_on));
    let mut writer = node.writer(MissingCheckpoint::Refuse).unwrap();
    let before = node.content();
    let refused = writer.carry_out(reviewed(&rotated));
    assert!(matches!(refused, Err(CommitError::NotTheNext(_))));
    assert_eq!(node.content(), before);
}

#[test]
fn a_reviewed_change_that_is_cut_short_is_completed_or_can_be_applied_again() {
    for call in 0..8 {
        for moment in Moment::ALL {
            let rotated = rotated(&first(1));
            let node = Node::with(Some(&rotated), Some(&rotated));
            let mut writer = node.writer_on(FailingDisk::at(call, moment));
            let plan = reviewed(&rotated);
            let next = plan.plan().next().clone();
            writer.carry_out(plan).unwrap_err();
            drop(writer);
            let mut writer = node.writer(MissingCheckpoint::Refuse).unwrap();
            if writer.committed() == Some(&rotated) {
                writer.carry_out(reviewed(&rotated)).unwrap();
            }
            assert_eq!(writer.committed(), Some(&next), "{call} {moment:?}");
            writer.confirm().unwrap();
        }
    }
}
