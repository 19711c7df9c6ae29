//! The response of a metrics endpoint: displayed words are short and contain safe characters only.
#![no_main]

use kms_operator::nodes::exposition;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(seen) = exposition::read(text) {
        for word in seen.provider_version.iter().chain(&seen.reasons) {
            let shown = |c: char| c.is_ascii_alphanumeric() || ".-_+".contains(c);
            assert!(word.len() <= 64 && word.chars().all(shown), "{word:?}");
        }
    }
});
