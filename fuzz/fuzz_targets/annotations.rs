//! Annotations of a decrypt request: an accepted set is encoded unchanged, without unknown keys.
//!
//! The input has one annotation per line, `key=value`.
#![no_main]

use kms_domain::annotations::Annotations;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let entries = input.split(|byte| *byte == b'\n').filter_map(|line| {
        let at = line.iter().position(|byte| *byte == b'=')?;
        Some((std::str::from_utf8(&line[..at]).ok()?, &line[at + 1..]))
    });
    let Ok(annotations) = Annotations::parse(entries.clone()) else {
        return;
    };
    let written = annotations.entries();
    for (key, value) in &written {
        assert!(
            entries
                .clone()
                .any(|entry| entry == (*key, value.as_bytes()))
        );
    }
    let again = Annotations::parse(written.iter().map(|(key, value)| (*key, value.as_bytes())));
    assert_eq!(again, Ok(annotations));
});
