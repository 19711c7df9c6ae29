//! The pages of a snapshot: any bytes give all objects or an error.
#![no_main]

mod database;

use std::collections::HashSet;

use etcd_snapshot::{file::Snapshot, revision::Revisions};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|pages: &[u8]| {
    let file = database::around(pages);
    let snapshot = Snapshot::open(&file[..], &|_| {}).unwrap();
    assert_eq!(snapshot.damaged_meta(), None);
    let newest = snapshot.gather(Revisions::Newest, HashSet::new(), |keys, object| {
        assert!(!object.superseded && keys.insert(object.key.to_vec()));
    });
    let all = snapshot.gather(Revisions::All, 0, |count, _| *count += 1);
    match (newest, all) {
        (Ok(newest), Ok(all)) => {
            assert_eq!(newest.totals, all.totals);
            assert_eq!(newest.totals.keys, newest.gathered.len() as u64);
            assert_eq!(all.totals.keys + all.totals.superseded, all.gathered);
        }
        (Err(newest), Err(all)) => assert_eq!(newest.to_string(), all.to_string()),
        (newest, all) => panic!("{newest:?}, but {all:?}"),
    }
});
