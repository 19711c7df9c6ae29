//! A `key_id`: only the canonical spelling is accepted.
#![no_main]

use kms_domain::key_id::KeyId;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(key_id) = KeyId::parse(text) {
        assert_eq!(key_id.as_str(), text);
        assert_eq!(text.len(), 48);
    }
});
