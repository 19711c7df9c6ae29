//! The checkpoint file: what is read survives being written.
#![no_main]

use kms_domain::registry::anchor::Checkpoint;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let Ok(checkpoint) = Checkpoint::decode(input) {
        assert_eq!(
            Checkpoint::decode(checkpoint.encode().as_bytes()).unwrap(),
            checkpoint
        );
    }
});
