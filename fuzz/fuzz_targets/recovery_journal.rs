//! The recovery journal: an accepted journal survives encoding and decoding.
//!
//! A mutated journal has a wrong hash and would fail early, so the target corrects the hash.
#![no_main]

use kms_domain::recovery::journal::{Journal, JournalError};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let decoded = match Journal::decode(text.as_bytes()) {
        Err(JournalError::Changed { stated, computed }) => {
            Journal::decode(text.replace(stated.as_str(), computed.as_str()).as_bytes())
        }
        other => other,
    };
    if let Ok(journal) = decoded {
        assert_eq!(
            Journal::decode(journal.encode().as_bytes()).unwrap(),
            journal
        );
    }
});
