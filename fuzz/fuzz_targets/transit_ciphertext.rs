//! A ciphertext of Transit: an accepted ciphertext is kept byte for byte.
#![no_main]

use kms_domain::ciphertext::TransitCiphertext;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let Ok(ciphertext) = TransitCiphertext::parse(input) {
        assert_eq!(ciphertext.as_str().as_bytes(), input);
        assert!(
            ciphertext
                .as_str()
                .starts_with(&format!("vault:v{}:", ciphertext.version()))
        );
    }
});
