//! Commits that fail while the process lives on, and files that change under its lock.

use kms_domain::registry::document::Document;
use kms_node::state::{CommitError, MissingCheckpoint, StateWriter};

use crate::node::{CHECKPOINT, DOCUMENT, FailingDisk, Moment, Node, after, chain, document, first};

const CALLS: usize = 8;

/// A writer whose commit of `next` after `previous` has failed once.
fn interrupted(
    previous: Option<&Document>,
    next: &Document,
    call: usize,
    moment: Moment,
) -> (Node, StateWriter) {
    let node = Node::with(previous, previous);
    let mut writer = node.writer_on(FailingDisk::at(call, moment));
    let failed = writer.commit(next.clone());
    assert!(matches!(failed, Err(CommitError::Store { .. })));
    assert_eq!(writer.committed(), previous, "published too early");
    (node, writer)
}

#[test]
fn the_next_attempt_completes_a_commit_that_failed_anywhere() {
    let previous = first(1);
    for (previous, next) in [(None, first(1)), (Some(&previous), after(&previous, 2))] {
        for call in 0..CALLS {
            for moment in Moment::ALL {
                let (node, mut writer) = interrupted(previous, &next, call, moment);
                assert_eq!(writer.complete().unwrap(), Some(&next));
                assert_eq!(writer.committed(), Some(&next));
                node.assert_holds(&next);
                writer.confirm().unwrap();

                assert_eq!(writer.complete().unwrap(), None, "completed twice");
                let third = after(&next, 3);
                assert_eq!(writer.commit(third.clone()).unwrap(), &third);
            }
        }
    }
}

#[test]
fn a_disk_that_stays_broken_only_delays_the_commit() {
    let previous = first(1);
    let next = after(&previous, 2);
    let node = Node::with(Some(&previous), Some(&previous));
    let mut writer = node.writer_on(FailingDisk::during(0..=2, Moment::Midway));

    writer.commit(next.clone()).unwrap_err();
    for _ in 0..2 {
        let error = writer.complete().unwrap_err();
        assert!(chain(&error).ends_with("the disk is broken"), "{error}");
        assert_eq!(writer.committed(), Some(&previous));
    }
    assert_eq!(writer.complete().unwrap(), Some(&next));
}

#[test]
fn no_other_commit_overtakes_one_that_failed() {
    let previous = first(1);
    let next = after(&previous, 2);
    let (node, mut writer) = interrupted(Some(&previous), &next, 3, Moment::Before);
    let before = node.content();

    for other in [after(&previous, 9), after(&next, 3), next] {
        let refused = writer.commit(other);
        assert!(matches!(refused, Err(CommitError::Unfinished(_))));
    }
    assert_eq!(node.content(), before);
}

#[test]
fn only_the_successor_of_the_committed_document_is_written() {
    let previous = first(1);
    let other = first(2);
    let node = Node::with(Some(&previous), Some(&previous));
    let mut writer = node.writer(MissingCheckpoint::Refuse).unwrap();
    let before = node.content();
    for wrong in [
        previous.clone(),
        first(2),
        after(&other, 3),
        document(3, Some(&previous), 4),
    ] {
        let refused = writer.commit(wrong);
        assert!(matches!(refused, Err(CommitError::NotTheNext(_))));
    }
    assert_eq!(node.content(), before);
    writer.commit(after(&previous, 5)).unwrap();

    let node = Node::new();
    let mut writer = node.writer(MissingCheckpoint::Refuse).unwrap();
    let refused = writer.commit(after(&previous, 2));
    assert!(matches!(refused, Err(CommitError::NotTheNext(_))));
    assert!(node.content().is_empty());
}

/// Pairs that neither `previous` nor an attempt at `next` can have left.
fn foreign_pairs<'a>(
    previous: &'a Document,
    next: &'a Document,
    other: &'a Document,
) -> Vec<(Option<&'a Document>, Option<&'a Document>)> {
    let (previous, next, other) = (Some(previous), Some(next), Some(other));
    vec![
        (None, None),
        (None, previous),
        (None, next),
        (previous, None),
        (next, None),
        (previous, next),
        (previous, other),
        (next, other),
        (other, other),
        (other, previous),
        (other, None),
    ]
}

#[test]
fn what_someone_else_wrote_is_never_overwritten() {
    let previous = first(1);
    let next = after(&previous, 2);
    let other = after(&previous, 9);
    for (document, anchored) in foreign_pairs(&previous, &next, &other) {
        let (node, mut failed) = interrupted(Some(&previous), &next, 0, Moment::Before);
        node.put(document, anchored);
        let before = node.content();
        assert_foreign(failed.complete());
        assert_foreign(failed.confirm());
        assert_eq!(node.content(), before);
        assert_eq!(failed.committed(), Some(&previous));
        drop(failed);

        let node = Node::with(Some(&previous), Some(&previous));
        let mut fresh = node.writer(MissingCheckpoint::Refuse).unwrap();
        node.put(document, anchored);
        let before = node.content();
        assert_foreign(fresh.commit(next.clone()));
        assert_eq!(node.content(), before);

        node.put(Some(&previous), Some(&previous));
        assert_eq!(fresh.complete().unwrap(), Some(&next), "not kept");
    }
}

#[test]
fn a_first_commit_overwrites_nothing_but_its_own_attempt() {
    let next = first(1);
    let other = first(2);
    for (document, anchored) in [
        (None, Some(&next)),
        (Some(&other), None),
        (Some(&other), Some(&other)),
        (Some(&next), Some(&other)),
    ] {
        let (node, mut writer) = interrupted(None, &next, 0, Moment::Before);
        node.put(document, anchored);
        let before = node.content();
        assert_foreign(writer.complete());
        assert_eq!(node.content(), before);
    }
}

#[test]
fn a_damaged_file_stops_a_commit_without_a_change() {
    let previous = first(1);
    for name in [DOCUMENT, CHECKPOINT] {
        let node = Node::with(Some(&previous), Some(&previous));
        let mut writer = node.writer(MissingCheckpoint::Refuse).unwrap();
        node.put_text(name, Some("{}".to_owned()));
        let before = node.content();
        let refused = writer.commit(after(&previous, 2));
        assert!(matches!(refused, Err(CommitError::Examine(_))));
        assert!(matches!(writer.confirm(), Err(CommitError::Examine(_))));
        assert_eq!(node.content(), before);
    }
}

#[test]
fn a_directory_that_was_exchanged_is_neither_written_nor_confirmed() {
    let previous = first(1);
    let node = Node::with(Some(&previous), Some(&previous));
    let mut writer = node.writer(MissingCheckpoint::Refuse).unwrap();
    let aside = node.directory().with_extension("aside");
    rustix::fs::rename(node.directory(), &aside).unwrap();
    let refused = [
        writer.confirm().err(),
        writer.commit(after(&previous, 2)).err(),
    ];
    rustix::fs::rename(&aside, node.directory()).unwrap();
    for error in refused {
        let error = error.unwrap();
        assert!(matches!(error, CommitError::Examine(_)), "{error:?}");
        assert!(chain(&error).contains("was replaced while in use"));
    }
    node.assert_holds(&previous);
}

#[test]
fn confirm_accepts_exactly_the_committed_pair() {
    let previous = first(1);
    let next = after(&previous, 2);
    let (_node, untouched) = interrupted(Some(&previous), &next, 2, Moment::Before);
    untouched.confirm().unwrap();
    let (_node, renamed) = interrupted(Some(&previous), &next, 2, Moment::After);
    assert_foreign(renamed.confirm());

    let node = Node::new();
    let none = node.writer(MissingCheckpoint::Refuse).unwrap();
    none.confirm().unwrap();
    node.put(Some(&previous), Some(&previous));
    assert_foreign(none.confirm());
}

#[track_caller]
fn assert_foreign<T: std::fmt::Debug>(outcome: Result<T, CommitError>) {
    match outcome {
        Err(error @ CommitError::Foreign { .. }) => {
            let text = chain(&error);
            for part in [DOCUMENT, "nothing was written", "Restart the provider"] {
                assert!(text.contains(part), "{text}");
            }
        }
        other => panic!("expected a refusal of foreign files, got {other:?}"),
    }
}
