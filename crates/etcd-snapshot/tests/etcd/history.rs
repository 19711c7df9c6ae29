//! A snapshot holds the same objects as etcd returns, in every phase of a database.

use std::collections::BTreeSet;

use etcd_snapshot::file::Integrity;
use tempfile::TempDir;
use testkit::etcd::{Etcd, utl};

use crate::reading::{all_revisions, asked, read_file, saved_as_answered};

fn key(number: usize) -> String {
    format!("/registry/secrets/namespace-{}/{number}", number % 7)
}

fn put(number: usize, value: &str) -> String {
    format!("put {} \"{value}\"", key(number))
}

#[tokio::test]
async fn a_snapshot_holds_what_etcd_answers() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("snapshot");
    let etcd = Etcd::start().await;

    let empty = saved_as_answered(&etcd, &file);
    assert_eq!((empty.revision, empty.keys), (1, 0));

    // Many revisions in one transaction differ only in their second number.
    for batch in 0..10 {
        let operations: Vec<_> = (batch * 100..batch * 100 + 100)
            .map(|key| put(key, &"x".repeat(key % 300)))
            .collect();
        etcd.transaction(&operations);
    }
    saved_as_answered(&etcd, &file);

    let before = asked(&etcd, None).1;
    for update in 0..5 {
        let operations: Vec<_> = (0..100)
            .map(|key| put(key * 3, &format!("{update}")))
            .collect();
        etcd.transaction(&operations);
    }
    let deletions: Vec<_> = (0..50)
        .map(|number| format!("del {}", key(number * 5)))
        .collect();
    etcd.transaction(&deletions);
    etcd.transaction(&[put(0, "again"), put(10, "again")]);
    // Larger than a page, up to nearly the size limit of etcd.
    for size in [4000, 4096, 70_000, 1_500_000] {
        etcd.put(&format!("/large/{size}"), &vec![b'y'; size]);
    }
    etcd.put("/binary", &(0..=255).collect::<Vec<u8>>());
    let grown = saved_as_answered(&etcd, &file);
    assert_eq!(grown.compacted, None);

    // Every revision that etcd can still return is in the snapshot.
    let all = all_revisions(&file);
    let older = asked(&etcd, Some(before)).0;
    let there: BTreeSet<_> = all.iter().cloned().collect();
    let revisions = older
        .iter()
        .map(|(key, (revision, _))| (key.clone(), *revision));
    assert!(
        revisions
            .into_iter()
            .all(|revision| there.contains(&revision))
    );
    assert_eq!(all.len() as u64, grown.keys + grown.superseded);
    // Five updates of a hundred keys, fifty deletions.
    assert_eq!(grown.superseded, 500 + 50);

    let at = grown.revision;
    let _said = etcd.ctl(&["compact", "--physical", &at.to_string()]);
    let compacted = saved_as_answered(&etcd, &file);
    assert_eq!(compacted.compacted, Some(at));
    assert_eq!((compacted.keys, compacted.superseded), (grown.keys, 0));

    let _said = etcd.ctl(&["defrag"]);
    assert_eq!(saved_as_answered(&etcd, &file), compacted);

    let stopped = etcd.stop().await;
    let raw = read_file(&stopped.database());
    assert_eq!(raw.totals, compacted);
    assert_eq!(raw.gathered, read_file(&file).gathered);
    assert_eq!(raw.integrity, Integrity::NoHash);
    saved_as_answered(&stopped.start().await, &file);
}

/// The revision is raised by a thousand million, if this release of etcd can do so (3.6 or later).
#[tokio::test]
async fn a_restored_database_is_read_with_its_revision_raised_or_not() {
    let directory = TempDir::new().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let etcd = Etcd::start().await;
    etcd.transaction(&[put(1, "a"), put(2, "b")]);
    etcd.save_snapshot(path("snapshot").as_ref());
    let (snapshot, restored) = (path("snapshot"), path("restored"));
    let restore = ["snapshot", "restore", &snapshot, "--data-dir", &restored];
    let (raise, raised) = match utl(&["version"]).starts_with(b"etcdutl version: 3.5.") {
        true => (&[][..], 0),
        false => (
            &["--bump-revision=1000000000", "--mark-compacted"][..],
            1_000_000_000,
        ),
    };
    let _said = utl(&[&restore, raise].concat());
    let restored = read_file(path("restored/member/snap/db").as_ref());
    assert_eq!(restored.gathered, asked(&etcd, None).0);
    assert_eq!(restored.totals.revision, 2 + raised);
    let compacted = (raised > 0).then_some(2 + raised);
    assert_eq!(restored.totals.compacted, compacted);
}
