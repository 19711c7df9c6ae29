//! The process ends within a commit and is started again.

use kms_domain::registry::{checkpoint::CheckpointStatus, document::Document};
use kms_node::state::{CommitError, MissingCheckpoint};

use crate::node::{FailingDisk, Moment, Node, after, first};

/// Write, sync, rename, sync the directory: first for the document, then for the checkpoint.
const CALLS: usize = 8;
const DOCUMENT_RENAME: usize = 2;
const CHECKPOINT_RENAME: usize = 6;

/// Whether the effect of call `effect` is on disk when call `call` fails at `moment`.
fn happened(effect: usize, call: usize, moment: Moment) -> bool {
    effect < call || (effect == call && moment == Moment::After)
}

#[test]
fn a_commit_is_eight_calls_to_the_disk() {
    let node = Node::new();
    let next = first(1);
    let mut writer = node.writer_on(FailingDisk::at(CALLS, Moment::Before));
    assert_eq!(writer.commit(next.clone()).unwrap(), &next);
    node.assert_holds(&next);
    let failed = writer.commit(after(&next, 2));
    assert!(matches!(failed, Err(CommitError::Store { .. })));
}

#[test]
fn a_crash_within_the_first_commit_leaves_nothing_or_the_document() {
    let next = first(1);
    crash_everywhere(None, &next);
}

#[test]
fn a_crash_within_a_later_commit_leaves_the_old_or_the_new_document() {
    let previous = first(1);
    crash_everywhere(Some(&previous), &after(&previous, 2));
}

fn crash_everywhere(previous: Option<&Document>, next: &Document) {
    for call in 0..CALLS {
        for moment in Moment::ALL {
            let node = Node::with(previous, previous);
            let mut writer = node.writer_on(FailingDisk::at(call, moment));
            let crashed = writer.commit(next.clone());
            assert!(matches!(crashed, Err(CommitError::Store { .. })));
            assert_eq!(writer.committed(), previous, "published too early");
            drop(writer);

            let (expected, anchor) = if happened(CHECKPOINT_RENAME, call, moment) {
                (Some(next), CheckpointStatus::Current)
            } else if happened(DOCUMENT_RENAME, call, moment) {
                let first_generation = true;
                let cut_short = previous
                    .map_or(CheckpointStatus::Missing { first_generation }, |_| {
                        CheckpointStatus::Behind
                    });
                (Some(next), cut_short)
            } else {
                (
                    previous,
                    previous.map_or(CheckpointStatus::Absent, |_| CheckpointStatus::Current),
                )
            };

            let before = node.content();
            let stored = node.reader().load().unwrap();
            assert_eq!(stored.document.as_ref(), expected, "{call} {moment:?}");
            assert_eq!(stored.anchor, anchor, "{call} {moment:?}");
            assert_eq!(node.content(), before, "a reader wrote");

            let mut writer = node.writer(MissingCheckpoint::Refuse).unwrap();
            assert_eq!(writer.found(), anchor);
            assert_eq!(writer.committed(), expected, "{call} {moment:?}");
            writer.confirm().unwrap();
            let third = expected.map_or_else(|| next.clone(), |last| after(last, 3));
            writer.commit(third.clone()).unwrap();
            node.assert_holds(&third);
        }
    }
}

#[test]
fn a_crash_while_the_checkpoint_is_repaired_is_repaired_by_the_next_start() {
    let previous = first(1);
    let next = after(&previous, 2);
    for call in 0..CALLS / 2 {
        for moment in Moment::ALL {
            for anchored in [None, Some(&previous)] {
                let document = anchored.map_or(&previous, |_| &next);
                let node = Node::with(Some(document), anchored);
                let locked = node.reader().lock().unwrap();
                let disk = Box::new(FailingDisk::at(call, moment));
                let crashed = locked.start_writing_on(disk, MissingCheckpoint::Refuse);
                assert!(crashed.is_err());

                let writer = node.writer(MissingCheckpoint::Refuse).unwrap();
                assert_eq!(writer.committed(), Some(document));
                writer.confirm().unwrap();
            }
        }
    }
}
