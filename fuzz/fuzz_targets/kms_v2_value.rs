//! A stored value: the parts of a KMS v2 message lie inside it and within their limits.
#![no_main]

use etcd_snapshot::{envelope::Envelope, value::Protection};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|value: &[u8]| {
    let protection = Protection::of(value);
    let encrypted = value.starts_with(b"k8s:enc:");
    let told = matches!(
        protection,
        Protection::Plaintext(_) | Protection::NotAnObject
    );
    assert_ne!(encrypted, told);
    let Protection::KmsV2 { provider, message } = protection else {
        return;
    };
    assert!(!provider.is_empty() && !provider.contains(':'));
    let Ok(envelope) = Envelope::parse(message) else {
        return;
    };
    assert!((1..=1024).contains(&envelope.key_id.len()));
    assert!((1..=1024).contains(&envelope.encrypted_dek_source.len()));
    assert!(!envelope.encrypted_data.is_empty());
    assert!(envelope.annotations.is_sorted_by(|a, b| a.0 < b.0));
    let range = message.as_ptr_range();
    assert!(range.contains(&envelope.encrypted_data.as_ptr()));
});
