//! The message of a revision in etcd: any bytes give its object or an error.
#![no_main]

mod database;

use etcd_snapshot::{file::Snapshot, revision::Revisions};
use libfuzzer_sys::fuzz_target;

const REVISION: &[u8] = b"\0\0\0\0\0\0\0\x02_\0\0\0\0\0\0\0\0";

fuzz_target!(|message: &[u8]| {
    let bucket = |entries: &[_]| [&[0; 16], &leaf(0, entries)[..]].concat();
    let mut root = leaf(
        2,
        &[
            (1, b"key", &bucket(&[(0, REVISION, message)])),
            (1, b"meta", &bucket(&[])),
        ],
    );
    root[12] = u8::try_from(root.len() / 1025).unwrap();
    let file = database::around(&root);
    let snapshot = Snapshot::open(&file[..], &|_| {}).unwrap();
    let object = snapshot.gather(Revisions::Newest, None, |found, object| {
        *found = Some((object.key.to_vec(), object.value.to_vec()));
    });
    if let Ok(object) = object {
        assert_eq!(object.totals.revision, 2);
        match object.gathered {
            Some((key, _)) => assert!(!key.is_empty()),
            None => assert!(message.is_empty()),
        }
    }
});

/// A leaf page with these entries: flags, key, value.
fn leaf(id: u8, entries: &[(u8, &[u8], &[u8])]) -> Vec<u8> {
    let count = u8::try_from(entries.len()).unwrap();
    let mut page = vec![id, 0, 0, 0, 0, 0, 0, 0, 2, 0, count, 0, 0, 0, 0, 0];
    let mut content = Vec::new();
    for (index, (flags, key, value)) in entries.iter().enumerate() {
        let pos = (entries.len() - index) * 16 + content.len();
        for word in [usize::from(*flags), pos, key.len(), value.len()] {
            page.extend(u32::try_from(word).unwrap().to_le_bytes());
        }
        content.extend([*key, *value].concat());
    }
    page.extend(content);
    page
}
