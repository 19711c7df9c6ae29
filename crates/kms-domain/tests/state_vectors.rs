//! Every state document, checkpoint and refused text of `conformance/vectors`, through the public
//! interface of the state store.

#![expect(clippy::unwrap_used, reason = "helpers of tests may panic too")]

use std::error::Error;

use kms_domain::registry::{
    checkpoint::{Checkpoint, CheckpointStatus, Rollback},
    document::{Document, DocumentError, MAX_FILE_BYTES},
};
use serde::Deserialize;

#[derive(Deserialize)]
struct Vectors {
    pairs: Vec<Pair>,
}

#[derive(Deserialize)]
struct Pair {
    name: String,
    state: String,
    checkpoint: String,
}

#[derive(Deserialize)]
struct RefusedDocuments {
    documents: Vec<RefusedDocument>,
}

#[derive(Deserialize)]
struct RefusedDocument {
    claim: String,
    state: String,
    error: String,
}

#[derive(Deserialize)]
struct RefusedCheckpoints {
    checkpoints: Vec<RefusedCheckpoint>,
}

#[derive(Deserialize)]
struct RefusedCheckpoint {
    claim: String,
    checkpoint: String,
    error: String,
}

fn pairs() -> Vec<Pair> {
    let text = include_str!("../../../conformance/vectors/state.json");
    serde_json::from_str::<Vectors>(text).unwrap().pairs
}

fn document(name: &str) -> Document {
    let pairs = pairs();
    let pair = pairs.iter().find(|pair| pair.name == name).unwrap();
    Document::decode(pair.state.as_bytes()).unwrap()
}

fn chain(error: &dyn Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {}", chain(cause)),
        None => error.to_string(),
    }
}

#[test]
fn every_document_is_read_and_written_byte_for_byte() {
    for Pair {
        name,
        state,
        checkpoint,
    } in pairs()
    {
        let document = Document::decode(state.as_bytes()).unwrap();
        assert_eq!(document.encode(), state, "{name}");
        assert_eq!(Checkpoint::of(&document).encode(), checkpoint, "{name}");
        let checkpoint = Checkpoint::decode(checkpoint.as_bytes()).unwrap();
        assert_eq!(
            CheckpointStatus::of(Some(&document), Some(&checkpoint)),
            Ok(CheckpointStatus::Current)
        );
    }
}

/// The pairs of a preview, without a fingerprint.
fn legacy_pairs() -> Vec<Pair> {
    let text = include_str!("../../../conformance/vectors/state_legacy.json");
    serde_json::from_str::<Vectors>(text).unwrap().pairs
}

#[test]
fn every_document_of_a_preview_is_read_as_such_alone() {
    for Pair {
        name,
        state,
        checkpoint,
    } in legacy_pairs()
    {
        let bytes = state.as_bytes();
        let refused = Document::decode(bytes).unwrap_err();
        assert!(matches!(refused, DocumentError::LegacySchema), "{name}");
        let read = Document::decode_legacy(bytes).unwrap();
        assert_eq!(read.encode(), state, "{name}");
        assert_eq!(read.fingerprint(), None);
        assert_eq!(read.registry(), document(&name).registry(), "{name}");
        let checkpoint = Checkpoint::decode(checkpoint.as_bytes()).unwrap();
        assert_eq!(
            CheckpointStatus::of(Some(&read), Some(&checkpoint)),
            Ok(CheckpointStatus::Current)
        );

        let present = document(&name).encode();
        let refused = Document::decode_legacy(present.as_bytes()).unwrap_err();
        assert!(matches!(refused, DocumentError::OtherFormat(_)), "{name}");
        let bound = present.replace("openbao-kms/v1alpha2", "openbao-kms/v1alpha1");
        let refused = Document::decode_legacy(bound.as_bytes()).unwrap_err();
        assert!(
            matches!(refused, DocumentError::LegacyFingerprint),
            "{name}"
        );
    }
}

#[test]
fn no_byte_of_a_document_of_a_preview_can_be_changed_but_white_space() {
    let pair = legacy_pairs().pop().unwrap();
    let mut bytes = pair.state.into_bytes();
    for position in 0..bytes.len() {
        let old = bytes[position];
        for new in [old ^ 1, old ^ 0x20, b' ', b'0', b'"'] {
            let harmless = old.is_ascii_whitespace() && new == b' ';
            bytes[position] = new;
            let accepted = Document::decode_legacy(&bytes).is_ok();
            assert_eq!(accepted, new == old || harmless, "{position} to {new:#04x}");
        }
        bytes[position] = old;
    }
}

#[test]
fn every_refused_document_names_its_rule() {
    let text = include_str!("../../../conformance/vectors/state_refused.json");
    let cases = serde_json::from_str::<RefusedDocuments>(text).unwrap();
    let cases = cases.documents.iter().map(|case| {
        let error = Document::decode(case.state.as_bytes()).expect_err(&case.claim);
        (&case.claim, chain(&error), &case.error)
    });
    let wrong: Vec<_> = cases
        .filter(|(_, found, rule)| !found.contains(*rule))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_refused_checkpoint_names_its_rule() {
    let text = include_str!("../../../conformance/vectors/checkpoint_refused.json");
    let cases = serde_json::from_str::<RefusedCheckpoints>(text).unwrap();
    let cases = cases.checkpoints.iter().map(|case| {
        let error = Checkpoint::decode(case.checkpoint.as_bytes()).expect_err(&case.claim);
        (&case.claim, chain(&error), &case.error)
    });
    let wrong: Vec<_> = cases
        .filter(|(_, found, rule)| !found.contains(*rule))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn no_byte_of_a_document_can_be_changed_but_white_space() {
    for Pair { name, state, .. } in pairs() {
        let mut bytes = state.clone().into_bytes();
        for position in 0..bytes.len() {
            let old = bytes[position];
            for new in [old ^ 1, old ^ 0x20, b' ', b'0', b'"'] {
                let harmless = old.is_ascii_whitespace() && new == b' ';
                bytes[position] = new;
                let accepted = Document::decode(&bytes).is_ok();
                assert_eq!(
                    accepted,
                    new == old || harmless,
                    "{name}: {position} to {new:#04x}"
                );
            }
            bytes[position] = old;
        }
    }
}

#[test]
fn white_space_between_tokens_does_not_matter() {
    let Pair { state, .. } = pairs().remove(0);
    let spread = state.replace('\n', "\r\n\t");
    assert_eq!(
        Document::decode(spread.as_bytes()).unwrap(),
        document("initial")
    );
}

#[test]
fn an_oversize_file_is_refused_unread() {
    let spaces = vec![b' '; MAX_FILE_BYTES + 1];
    assert!(matches!(
        Document::decode(&spaces),
        Err(DocumentError::TooLarge(_))
    ));
    assert!(Checkpoint::decode(&spaces).is_err());
}

#[test]
fn a_document_is_accepted_only_at_or_just_after_its_checkpoint() {
    let initial = document("initial");
    let discovered = document("discovered");
    let rotated = document("rotated");
    let removed = document("removed");
    let judge = |document: Option<&Document>, accepted: Option<&Document>| {
        CheckpointStatus::of(document, accepted.map(Checkpoint::of).as_ref())
    };

    assert_eq!(judge(None, None), Ok(CheckpointStatus::Absent));
    for (document, first_generation) in [(&initial, true), (&rotated, false)] {
        let missing = CheckpointStatus::Missing { first_generation };
        assert_eq!(judge(Some(document), None), Ok(missing));
    }
    assert_eq!(
        judge(Some(&rotated), Some(&rotated)),
        Ok(CheckpointStatus::Current)
    );
    assert_eq!(
        judge(Some(&rotated), Some(&initial)),
        Ok(CheckpointStatus::Behind)
    );
    assert_eq!(
        judge(Some(&removed), Some(&rotated)),
        Ok(CheckpointStatus::Behind)
    );

    let refused = |document, accepted| judge(document, Some(accepted)).unwrap_err();
    assert!(matches!(
        refused(None, &initial),
        Rollback::DocumentLost { .. }
    ));
    assert!(matches!(
        refused(Some(&rotated), &removed),
        Rollback::Older { .. }
    ));
    assert!(matches!(
        refused(Some(&rotated), &discovered),
        Rollback::OtherHash { .. }
    ));
    assert!(matches!(
        refused(Some(&removed), &initial),
        Rollback::TooFarAhead { .. }
    ));
    assert!(matches!(
        refused(Some(&removed), &discovered),
        Rollback::NotLinked { .. }
    ));
}

#[test]
fn a_rollback_says_what_was_found_and_what_was_accepted() {
    let (initial, rotated) = (document("initial"), document("rotated"));
    let rollback =
        CheckpointStatus::of(Some(&initial), Some(&Checkpoint::of(&rotated))).unwrap_err();
    assert_eq!(
        rollback.to_string(),
        "the state document has generation 1, but generation 2 has been accepted: an older \
         document was put in place"
    );
}
