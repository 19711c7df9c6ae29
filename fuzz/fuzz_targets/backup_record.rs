//! The backup record: an accepted record survives encoding and decoding.
//!
//! A mutated record has a wrong hash and would fail early, so the target corrects the hash.
#![no_main]

use kms_domain::recovery::record::{BackupRecord, RecordError};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let decoded = match BackupRecord::decode(text.as_bytes()) {
        Err(RecordError::Changed { stated, computed }) => {
            BackupRecord::decode(text.replace(stated.as_str(), computed.as_str()).as_bytes())
        }
        other => other,
    };
    if let Ok(record) = decoded {
        assert_eq!(
            BackupRecord::decode(record.encode().as_bytes()).unwrap(),
            record
        );
    }
});
