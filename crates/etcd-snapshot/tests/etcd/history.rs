//! What a snapshot holds is what etcd answers, at every turn of its life.

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

    // Many revisions in one transaction differ in their second number alone.
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
    // Larger than a page, up to nearly all that etcd takes.
    for size in [4000, 4096, 70_000, 1_500_000] {
        etcd.put(&format!("/large/{size}"), &vec![b'y'; size]);
    }
    etcd.put("/binary", &(0..=255).collect::<Vec<u8>>());
    let grown = saved_as_answered(&etcd, &file);
    assert_eq!(grown.compacted, None);

    // Every revision that etcd can still be asked for is among all that are there.
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

#[tokio::test]
async fn a_restored_database_with_a_raised_revision_is_read() {
    let directory = TempDir::new().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let etcd = Etcd::start().await;
    etcd.transaction(&[put(1, "a"), put(2, "b")]);
    etcd.save_snapshot(path("snapshot").as_ref());
    let _said = utl(&[
        "snapshot",
        "restore",
        &path("snapshot"),
        "--data-dir",
        &path("restored"),
        "--bump-revision=1000000000",
        "--mark-compacted",
    ]);
    let restored = read_file(path("restored/member/snap/db").as_ref());
    assert_eq!(restored.gathered, asked(&etcd, None).0);
    assert_eq!(restored.totals.revision, 1_000_000_002);
    assert_eq!(restored.totals.compacted, Some(1_000_000_002));
}
