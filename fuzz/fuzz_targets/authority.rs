//! Bytes of a client after the HTTP/2 preface: only authorities change, independent of the read
//! size.
//!
//! The first byte of the input is the read size.
#![no_main]

use kms_daemon::kms::authority::AuthorityRewriter;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((size, sent)) = input.split_first() else {
        return;
    };
    let passed = pass(sent, usize::MAX);
    for (was, is) in sent.iter().zip(&passed) {
        let dot = (*was, *is) == (b'%', b'.');
        let only_bits_set = was & is == *was;
        assert!(dot || only_bits_set, "{was:#x} became {is:#x}");
    }
    assert_eq!(pass(sent, usize::from(*size).max(1)), passed);
    assert_eq!(pass(&passed, usize::MAX), passed);
});

fn pass(sent: &[u8], size: usize) -> Vec<u8> {
    let mut repair = AuthorityRewriter::new();
    repair.pass(&mut [0; 24]);
    let mut bytes = sent.to_vec();
    bytes.chunks_mut(size).for_each(|read| repair.pass(read));
    bytes
}
