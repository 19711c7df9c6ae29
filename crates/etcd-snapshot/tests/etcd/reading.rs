//! Reads a snapshot, and the same state from etcd itself for comparison.

use std::{collections::BTreeMap, fs::File, path::Path};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use etcd_snapshot::{
    damage::SnapshotError,
    file::{Integrity, ReadAt, Snapshot},
    revision::{Object, Reading, Revisions, Totals},
};
use serde_json::Value;
use testkit::etcd::Etcd;

/// Revision and value of each key.
pub(crate) type State = BTreeMap<Vec<u8>, (i64, Vec<u8>)>;

pub(crate) fn read<S: ReadAt + ?Sized>(source: &S) -> Result<Reading<State>, SnapshotError> {
    let snapshot = Snapshot::open(source, &|_| {})?;
    snapshot.gather(Revisions::Newest, State::new(), |state, object| {
        let Object {
            key,
            value,
            revision,
            superseded,
        } = object;
        assert!(!superseded);
        let before = state.insert(key.to_vec(), (revision, value.to_vec()));
        assert_eq!(before, None);
    })
}

pub(crate) fn read_file(path: &Path) -> Reading<State> {
    read(&File::open(path).unwrap()).unwrap()
}

/// Key and revision of every entry.
pub(crate) fn all_revisions(path: &Path) -> Vec<(Vec<u8>, i64)> {
    let file = File::open(path).unwrap();
    let snapshot = Snapshot::open(&file, &|_| {}).unwrap();
    let all = snapshot.gather(Revisions::All, Vec::new(), |all, object| {
        all.push((object.key.to_vec(), object.revision));
    });
    all.unwrap().gathered
}

/// The state as returned by etcd, now or at an older revision.
pub(crate) fn asked(etcd: &Etcd, revision: Option<i64>) -> (State, i64) {
    let revision = format!("--rev={}", revision.unwrap_or(0));
    let answer = etcd.ctl(&["get", "", "--prefix", "--write-out=json", &revision]);
    let answer: Value = serde_json::from_slice(&answer).unwrap();
    let bytes = |value: &Value| STANDARD.decode(value.as_str().unwrap_or("")).unwrap();
    let found = answer["kvs"].as_array().into_iter().flatten();
    let state = found.map(|found| {
        let revision = found["mod_revision"].as_i64().unwrap();
        (bytes(&found["key"]), (revision, bytes(&found["value"])))
    });
    let revision = answer["header"]["revision"].as_i64().unwrap();
    (state.collect(), revision)
}

/// Saves a snapshot and compares it with the state in etcd.
pub(crate) fn saved_as_answered(etcd: &Etcd, path: &Path) -> Totals {
    etcd.save_snapshot(path);
    let reading = read_file(path);
    let (state, revision) = asked(etcd, None);
    assert!(reading.gathered == state, "{:?}", reading.totals);
    assert_eq!(reading.totals.revision, revision);
    assert_eq!(reading.totals.keys, u64::try_from(state.len()).unwrap());
    assert_eq!(reading.integrity, Integrity::Verified);
    reading.totals
}
