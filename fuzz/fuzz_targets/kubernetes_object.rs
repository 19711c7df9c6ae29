//! Stored objects of Kubernetes: any bytes of any known type give a manifest of limited size or an error.
//!
//! The first two bytes select the type, which a mutation would seldom find by its name.
#![no_main]

use std::sync::LazyLock;

use kms_extract::manifest::{Descriptors, Manifest};
use libfuzzer_sys::fuzz_target;

static TYPES: LazyLock<(Descriptors, Vec<(String, String)>)> = LazyLock::new(|| {
    let types = Descriptors::load().unwrap();
    let kinds = types.kinds();
    (types, kinds)
});

fuzz_target!(|data: &[u8]| {
    let (types, kinds) = &*TYPES;
    write(types, data);
    if let Some((number, object)) = data.split_first_chunk() {
        let (api_version, kind) = &kinds[usize::from(u16::from_be_bytes(*number)) % kinds.len()];
        let type_meta = [field(1, api_version.as_bytes()), field(2, kind.as_bytes())].concat();
        let stored = [b"k8s\0", &field(1, &type_meta)[..], &field(2, object)].concat();
        write(types, &stored);
    }
});

fn write(types: &Descriptors, stored: &[u8]) {
    let Ok(manifest) = Manifest::decode(types, stored) else {
        return;
    };
    let _same = manifest.equals(&manifest);
    if let Ok(text) = manifest.yaml("a comment") {
        assert!(std::str::from_utf8(text.as_bytes()).is_ok());
        assert!(text.as_bytes().len() <= (32 * stored.len()).max(1 << 20));
    }
}

/// A field with bytes or a message.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![number << 3 | 2];
    let mut rest = content.len();
    while rest > 127 {
        bytes.push((rest & 127 | 128) as u8);
        rest >>= 7;
    }
    bytes.push(rest as u8);
    [&bytes, content].concat()
}
