//! The state document: an accepted document survives encoding and decoding.
//!
//! A mutated document has a wrong hash and would fail early, so the target corrects the hash.
#![no_main]

use kms_domain::registry::document::{Document, DocumentError};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let decoded = match Document::decode(text.as_bytes()) {
        Err(DocumentError::HashMismatch { stated, computed }) => {
            Document::decode(text.replace(stated.as_str(), computed.as_str()).as_bytes())
        }
        other => other,
    };
    if let Ok(document) = decoded {
        assert_eq!(
            Document::decode(document.encode().as_bytes()).unwrap(),
            document
        );
    }
});
