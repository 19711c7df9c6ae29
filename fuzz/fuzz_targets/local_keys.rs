//! `EncryptionConfiguration` with keys, and values under them: any bytes give keys or none, and a plaintext
//! or none.
#![no_main]

use std::sync::LazyLock;

use kms_extract::local::LocalKeys;
use libfuzzer_sys::fuzz_target;

const CONFIGURATION: &str = include_str!("../seeds/local_keys/configuration.yaml");
static KEYS: LazyLock<LocalKeys> = LazyLock::new(|| LocalKeys::parse(CONFIGURATION).unwrap());

fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data) {
        let _keys = LocalKeys::parse(text);
    }
    for word in ["aescbc", "aesgcm", "secretbox"] {
        let value = [format!("k8s:enc:{word}:v1:key1:").as_bytes(), data].concat();
        let opened = KEYS.open(b"/registry/secrets/default/demo", &value);
        assert!(opened.is_none_or(|plaintext| plaintext.len() < value.len()));
    }
});
