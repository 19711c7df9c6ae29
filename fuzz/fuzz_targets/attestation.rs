//! Signed statements: an accepted envelope and an accepted statement survive encoding and decoding, and no
//! public key ends the program.
//!
//! A mutated statement has a wrong signature and would fail early, so the target signs it.
#![no_main]

use std::sync::LazyLock;

use aws_lc_rs::signature::Ed25519KeyPair;
use kms_operator::attestation::{
    envelope::{self, Envelope},
    public_key::PublicKey,
    statement::{Statement, StatementProblem},
};
use libfuzzer_sys::fuzz_target;

static PAIR: LazyLock<Ed25519KeyPair> =
    LazyLock::new(|| Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap());
/// Its public key.
const KEY: &str = "6kpsY+KcUgq+9VB7Ey7F+ZVHdq6+vnuSQh7qaRRG0iw=";

fuzz_target!(|data: &[u8]| {
    if let Ok(envelope) = Envelope::decode(data) {
        let encoded = envelope.encode();
        let again = Envelope::decode(encoded.as_bytes()).unwrap();
        assert_eq!(again.encode(), encoded);
    }
    if let Ok(statement) = opened(data) {
        assert!(!statement.subject.is_empty());
        let encoded = serde_json::to_vec(&statement).unwrap();
        assert_eq!(opened(&encoded).unwrap(), statement);
    }
    if let Ok(key) = PublicKey::from_file(data) {
        assert_eq!(key.id().len(), 64);
        assert!(!key.verify(b"", data));
    }
});

fn opened(payload: &[u8]) -> Result<Statement, StatementProblem> {
    let key = PublicKey::from_file(KEY.as_bytes()).unwrap();
    let signature = PAIR.sign(&envelope::encoded(payload)).as_ref().to_vec();
    let envelope = Envelope::signed(payload.to_vec(), key.id(), signature);
    let opened = Statement::open(envelope.encode().as_bytes(), std::slice::from_ref(&key));
    opened.map(|(statement, _)| statement)
}
