//! The checkpoint file: an accepted checkpoint survives encoding and decoding.
#![no_main]

use kms_domain::registry::checkpoint::Checkpoint;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let Ok(checkpoint) = Checkpoint::decode(input) {
        assert_eq!(
            Checkpoint::decode(checkpoint.encode().as_bytes()).unwrap(),
            checkpoint
        );
    }
});
