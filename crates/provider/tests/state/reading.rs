//! What is accepted at a start, what is refused, and that a refusal changes nothing.

use std::{fs, os::unix::fs::symlink};

use kms_domain::{
    fingerprint::IdentityFingerprint,
    registry::{
        checkpoint::{CheckpointError, CheckpointStatus, Rollback},
        document::{Document, DocumentError},
    },
    scope::{ClusterId, IdentityScope, KeyName, TransitKeyPath},
};
use kms_node::{
    advice::{self, state::of_error},
    state::{
        MissingCheckpoint, StateError, StatePath, StateReader,
        disk::{DiskError, Flaw},
    },
};
use tempfile::tempdir;

use crate::node::{
    CHECKPOINT, DOCUMENT, Node, after, chain, document, first, key_path, scope, set_mode,
};

const REFUSE: MissingCheckpoint = MissingCheckpoint::Refuse;

/// Asserts that reader and writer refuse alike and change nothing.
#[track_caller]
fn refused(node: &Node) -> StateError {
    let before = node.content();
    let error = node.reader().load().unwrap_err();
    for missing in [REFUSE, MissingCheckpoint::Accept] {
        let same = node.writer(missing).err().unwrap();
        assert_eq!(chain(&same), chain(&error));
    }
    assert_eq!(node.content(), before);
    error
}

#[test]
fn without_files_there_is_no_state_and_a_start_makes_none() {
    let node = Node::new();
    let stored = node.reader().load().unwrap();
    assert_eq!(
        (stored.document, stored.anchor),
        (None, CheckpointStatus::Absent)
    );
    let writer = node.writer(REFUSE).unwrap();
    assert_eq!(
        (writer.committed(), writer.found()),
        (None, CheckpointStatus::Absent)
    );
    assert!(node.content().is_empty());
}

#[test]
fn a_current_pair_is_accepted_and_left_alone() {
    let state = after(&first(1), 2);
    let node = Node::with(Some(&state), Some(&state));
    let before = node.content();
    let stored = node.reader().load().unwrap();
    assert_eq!(stored.anchor, CheckpointStatus::Current);
    assert_eq!(stored.checkpoint.unwrap().hash(), state.hash());
    let writer = node.writer(REFUSE).unwrap();
    assert_eq!(writer.committed(), Some(&state));
    assert_eq!(node.content(), before);
}

#[test]
fn only_a_writer_repairs_a_checkpoint_that_is_behind() {
    let previous = first(1);
    let state = after(&previous, 2);
    let node = Node::with(Some(&state), Some(&previous));
    let before = node.content();
    assert_eq!(
        node.reader().load().unwrap().anchor,
        CheckpointStatus::Behind
    );
    assert_eq!(node.content(), before);

    let writer = node.writer(REFUSE).unwrap();
    assert_eq!(writer.found(), CheckpointStatus::Behind);
    assert_eq!(writer.committed(), Some(&state));
    node.assert_holds(&state);
}

#[test]
fn the_first_document_is_anchored_again_without_asking() {
    let state = first(1);
    let node = Node::with(Some(&state), None);
    assert_eq!(node.reader().load().unwrap().checkpoint, None);
    assert_eq!(node.writer(REFUSE).unwrap().committed(), Some(&state));
    node.assert_holds(&state);
}

#[test]
fn a_later_document_without_checkpoint_needs_the_operator() {
    let state = after(&first(1), 2);
    let node = Node::with(Some(&state), None);
    let before = node.content();
    let stored = node.reader().load().unwrap();
    let first_generation = false;
    assert_eq!(
        stored.anchor,
        CheckpointStatus::Missing { first_generation }
    );

    let error = node.writer(REFUSE).err().unwrap();
    assert!(matches!(error, StateError::CheckpointMissing { .. }));
    assert_advises(&error, &[CHECKPOINT, "--accept-missing-checkpoint", "peer"]);
    assert_eq!(of_error(&error), &advice::state::CHECKPOINT_LOST);
    assert_eq!(node.content(), before);

    let writer = node.writer(MissingCheckpoint::Accept).unwrap();
    assert_eq!(writer.committed(), Some(&state));
    node.assert_holds(&state);
}

#[test]
fn a_state_that_its_checkpoint_does_not_accept_is_refused() {
    let one = first(1);
    let two = after(&one, 2);
    let three = after(&two, 3);
    let other_one = first(9);
    let other_two = after(&other_one, 2);
    type Expected = fn(&Rollback) -> bool;
    let table: [(Option<&Document>, &Document, Expected); 6] = [
        (None, &one, |p| matches!(p, Rollback::DocumentLost { .. })),
        (Some(&two), &three, |p| matches!(p, Rollback::Older { .. })),
        (Some(&other_two), &two, |p| {
            matches!(p, Rollback::OtherHash { .. })
        }),
        (Some(&three), &one, |p| {
            matches!(p, Rollback::TooFarAhead { .. })
        }),
        (Some(&other_two), &one, |p| {
            matches!(p, Rollback::NotLinked { .. })
        }),
        (Some(&document(2, Some(&two), 4)), &one, |p| {
            matches!(p, Rollback::NotLinked { .. })
        }),
    ];
    for (state, anchored, expected) in table {
        let error = refused(&Node::with(state, Some(anchored)));
        match &error {
            StateError::RolledBack { problem, .. } => assert!(expected(problem), "{problem:?}"),
            other => panic!("expected a rollback, got {other:?}"),
        }
        let advice = [
            DOCUMENT,
            "backup",
            "peer",
            "do not edit the state, and do not delete the checkpoint",
        ];
        assert_advises(&error, &advice);
    }
}

#[test]
fn a_damaged_file_is_refused_and_never_taken_for_a_missing_one() {
    let state = first(1);
    for damage in ["", "{}", "not JSON"] {
        let node = Node::with(Some(&state), Some(&state));
        node.put_text(DOCUMENT, Some(damage.to_owned()));
        let error = refused(&node);
        assert!(matches!(error, StateError::CorruptDocument { .. }));
        assert_advises(
            &error,
            &[
                DOCUMENT,
                "do not edit the state, and do not delete the checkpoint",
                "nothing was changed",
            ],
        );

        for document in [None, Some(&state)] {
            let node = Node::with(document, None);
            node.put_text(CHECKPOINT, Some(damage.to_owned()));
            let error = refused(&node);
            assert!(matches!(error, StateError::CorruptCheckpoint { .. }));
            assert_advises(&error, &[CHECKPOINT, "do not delete"]);
        }
    }
}

#[test]
fn unsafe_files_are_refused_and_never_taken_for_missing_ones() {
    let state = first(1);
    for name in [DOCUMENT, CHECKPOINT] {
        let node = Node::with(Some(&state), Some(&state));
        set_mode(&node.file(name), 0o660);
        let error = refused(&node);
        assert!(matches!(flaw(&error), Flaw::TooOpen { .. }));
        assert_advises(&error, &[name, "has mode 0660, at most 0640 is allowed"]);

        let node = Node::with(Some(&state), Some(&state));
        let elsewhere = tempdir().unwrap();
        let target = elsewhere.path().join("target");
        fs::copy(node.file(name), &target).unwrap();
        node.put_text(name, None);
        symlink(&target, node.file(name)).unwrap();
        assert_eq!(flaw(&refused(&node)), Flaw::NotARegularFile);

        let node = Node::with(Some(&state), Some(&state));
        let oversize = " ".repeat(4 * 1024 * 1024 + 1);
        node.put_text(name, Some(oversize));
        let too_large = refused(&node);
        assert!(matches!(
            too_large,
            StateError::CorruptDocument {
                problem: DocumentError::TooLarge(_),
                ..
            } | StateError::CorruptCheckpoint {
                problem: CheckpointError::TooLarge(_),
                ..
            }
        ));
    }
}

#[test]
fn a_shared_or_linked_directory_is_refused() {
    let state = first(1);
    let node = Node::with(Some(&state), Some(&state));
    set_mode(node.directory(), 0o770);
    assert!(matches!(flaw(&refused(&node)), Flaw::SharedDirectory(_)));
    set_mode(node.directory(), 0o700);

    let elsewhere = tempdir().unwrap();
    let link = elsewhere.path().join("link");
    symlink(node.directory(), &link).unwrap();
    let path = StatePath::parse(&link.join(DOCUMENT)).unwrap();
    let reader = StateReader::new(path, scope(), key_path());
    assert_eq!(flaw(&reader.load().unwrap_err()), Flaw::NotADirectory);
    let error = reader.lock().unwrap_err();
    assert_eq!(flaw(&error), Flaw::NotADirectory);
}

#[test]
fn the_state_of_another_configuration_is_refused_by_field() {
    let state = first(1);
    let other_cluster = IdentityScope {
        cluster_id: ClusterId::parse("workload-b").unwrap(),
        ..scope()
    };
    let other_key = TransitKeyPath {
        key_name: KeyName::parse("other").unwrap(),
        ..key_path()
    };
    assert_ne!(
        IdentityFingerprint::of(&scope(), &other_key),
        *state.fingerprint().unwrap()
    );
    // Even where a checkpoint would have been repaired.
    let node = Node::with(Some(&state), None);
    let before = node.content();
    for (scope, key_path, field) in [
        (other_cluster, key_path(), "transit.keyIdScope.clusterId"),
        (scope(), other_key, "transit.keyName"),
    ] {
        let reader = node.reader_for(scope, key_path);
        for error in [
            reader.load().unwrap_err(),
            reader
                .clone()
                .lock()
                .unwrap()
                .start_writing(REFUSE)
                .err()
                .unwrap(),
        ] {
            assert!(matches!(error, StateError::OtherConfiguration { .. }));
            assert_advises(&error, &[DOCUMENT, field, "nothing was changed"]);
        }
    }
    assert_eq!(node.content(), before);
}

#[track_caller]
fn flaw(error: &StateError) -> Flaw {
    match error {
        StateError::Unreadable(DiskError::Unsafe { flaw, .. }) => *flaw,
        other => panic!("expected an unsafe file, got {other:?}"),
    }
}

/// What a person is told: the error with its causes, and the advice of the catalogue.
#[track_caller]
fn assert_advises(error: &StateError, parts: &[&str]) {
    let cause = of_error(error);
    let steps = cause
        .steps
        .iter()
        .flat_map(|step| [step.text, step.command]);
    let advice: Vec<_> = steps.chain(cause.warnings.iter().copied()).collect();
    let text = format!("{} {}", chain(error), advice.join(" "));
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
}
