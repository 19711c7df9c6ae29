//! The objects of a snapshot: the newest revision of each existing key, and older revisions left by
//! compaction.
//! Implements `docs/format/etcd-snapshot.md` section 4.

use crate::{
    damage::{Damage, SnapshotError},
    file::{Integrity, ReadAt, Snapshot},
    keys::{Keys, Superseded},
    page::Leaf,
    protobuf::{Fields, Malformed},
    tree::{Bucket, Walk},
};

/// Selection of revisions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Revisions {
    /// The newest of each existing key: the state of a restored API server.
    Newest,
    /// Also older revisions that are not compacted yet, including those of deleted keys. A watch
    /// from an old resource version can still read them.
    All,
    /// The newest of each key that existed at this etcd revision, which must be within
    /// [`Totals::compacted`] and [`Totals::revision`]: the caller compares them.
    At(i64),
}

/// One revision of a key with its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Object<'a> {
    /// The complete key.
    pub key: &'a [u8],
    /// The value as stored by the API server.
    pub value: &'a [u8],
    /// The etcd revision of the write.
    pub revision: i64,
    /// A later revision replaced or deleted it.
    pub superseded: bool,
}

/// Counts and revisions of the etcd state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Totals {
    /// The newest etcd revision in the snapshot.
    pub revision: i64,
    /// The revision of the last compaction, finished or scheduled.
    pub compacted: Option<i64>,
    /// Number of existing keys.
    pub keys: u64,
    /// Number of superseded revisions, without deletions.
    pub superseded: u64,
}

/// Result of a complete read without an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading<A> {
    /// The accumulated result over all objects.
    pub gathered: A,
    /// Counts and revisions of the etcd state.
    pub totals: Totals,
    /// Whether a hash verified the content.
    pub integrity: Integrity,
    /// For [`Snapshot::trust`]; `None` after a read that knew it, or of an earlier revision.
    pub superseded: Option<Superseded>,
}

impl<S: ReadAt + ?Sized> Snapshot<'_, S> {
    /// Calls `gather` with `into` and every object, later revisions first. An error drops `into`,
    /// so a partial result cannot be mistaken for the whole. The first read verifies the hash.
    ///
    /// # Errors
    /// A wrong hash, or any damage. Other side effects of `gather` must be undone by the caller.
    pub fn gather<A>(
        &self,
        revisions: Revisions,
        mut into: A,
        mut gather: impl FnMut(&mut A, Object<'_>),
    ) -> Result<Reading<A>, SnapshotError> {
        // An earlier revision has other newest entries.
        let (known, is_whole) = match revisions {
            Revisions::Newest | Revisions::All => (self.known(), true),
            Revisions::At(_) => (None, false),
        };
        let mut keys = Keys::new(known);
        let (totals, integrity) = self.verified(|walk, root| {
            read(walk, root, revisions, &mut keys, &mut |object| {
                if revisions == Revisions::All || !object.superseded {
                    gather(&mut into, object);
                }
            })
        })?;
        Ok(Reading {
            gathered: into,
            totals,
            integrity,
            superseded: keys.into_superseded().filter(|_| is_whole),
        })
    }
}

fn read<S: ReadAt + ?Sized>(
    walk: &mut Walk<'_, S>,
    root: &Bucket,
    revisions: Revisions,
    newer: &mut Keys<'_>,
    gather: &mut dyn FnMut(Object<'_>),
) -> Result<Totals, SnapshotError> {
    let (mut keys, mut meta) = (None, None);
    walk.backwards(root, &mut |leaf| {
        match leaf.key {
            b"key" => keys = Some(Bucket::of(&leaf)?),
            b"meta" => meta = Some(Bucket::of(&leaf)?),
            _ => {}
        }
        Ok(())
    })?;

    let keys = keys.ok_or(SnapshotError::NotEtcd { bucket: "key" })?;
    let meta = meta.ok_or(SnapshotError::NotEtcd { bucket: "meta" })?;

    let mut compacted = None;
    walk.backwards(&meta, &mut |leaf| {
        if matches!(leaf.key, b"scheduledCompactRev" | b"finishedCompactRev") {
            let revision =
                Revision::parse(leaf.value).ok_or_else(|| leaf.place.is(Damage::RevisionKey))?;
            compacted = compacted.max(Some(revision.main));
        }
        Ok(())
    })?;

    let mut totals = Totals {
        // An empty etcd is at revision 1, and compaction may have removed the last deletion.
        revision: compacted.unwrap_or(1),
        compacted,
        keys: 0,
        superseded: 0,
    };

    walk.backwards(&keys, &mut |leaf| {
        let (revision, entry) = entry(&leaf)?;
        totals.revision = totals.revision.max(revision.main);
        let Some(entry) = entry else {
            return Ok(());
        };
        if matches!(revisions, Revisions::At(last) if revision.main > last) {
            return Ok(());
        }
        let superseded = newer.is_superseded(entry.key);
        if revision.deletes {
            return Ok(());
        }
        let count = match superseded {
            true => &mut totals.superseded,
            false => &mut totals.keys,
        };
        *count = count.saturating_add(1);
        gather(Object {
            key: entry.key,
            value: entry.value,
            revision: revision.main,
            superseded,
        });
        Ok(())
    })?;

    Ok(totals)
}

/// The key of an entry in the bucket `key`.
#[derive(Clone, Copy)]
struct Revision {
    main: i64,
    deletes: bool,
}

impl Revision {
    fn parse(key: &[u8]) -> Option<Self> {
        let (main, rest) = key.split_first_chunk()?;
        let (separator, rest) = rest.split_first()?;
        let (sub, mark) = rest.split_first_chunk()?;
        let main = i64::from_be_bytes(*main);
        let sub = i64::from_be_bytes(*sub);
        let deletes = match mark {
            b"" => false,
            b"t" => true,
            _ => return None,
        };
        (*separator == b'_' && main > 0 && sub >= 0).then_some(Self { main, deletes })
    }
}

/// The used fields of etcd's `KeyValue` message.
#[derive(Default)]
struct Entry<'a> {
    key: &'a [u8],
    value: &'a [u8],
    mod_revision: u64,
}

/// `None` is the empty entry that `etcdutl snapshot restore --bump-revision` writes to raise the
/// revision.
fn entry<'a>(leaf: &Leaf<'a>) -> Result<(Revision, Option<Entry<'a>>), SnapshotError> {
    let at = |damage| leaf.place.is(damage);
    if leaf.is_bucket {
        return Err(at(Damage::NotAsDue));
    }

    let revision = Revision::parse(leaf.key).ok_or_else(|| at(Damage::RevisionKey))?;
    if leaf.value.is_empty() && !revision.deletes {
        return Ok((revision, None));
    }

    let entry = key_value(leaf.value).map_err(|malformed| at(malformed.into()))?;
    if entry.key.is_empty() {
        return Err(at(Damage::NoKey));
    }

    let stated = entry.mod_revision.cast_signed();
    // A deletion has no revision in its message.
    if stated != if revision.deletes { 0 } else { revision.main } {
        return Err(at(Damage::OtherRevision { stated }));
    }

    Ok((revision, Some(entry)))
}

fn key_value(message: &[u8]) -> Result<Entry<'_>, Malformed> {
    let mut entry = Entry::default();
    for field in Fields(message) {
        let field = field?;
        match field.number {
            1 => entry.key = field.bytes()?,
            3 => entry.mod_revision = field.varint()?,
            5 => entry.value = field.bytes()?,
            _ => {}
        }
    }
    Ok(entry)
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*, sample::Index};

    use super::*;
    use crate::fixtures::{
        Entry, Found, PAGE, branch, damage, database, delete, leaf, put, read, revision, root,
        with_hash,
    };

    fn of(entries: &[Entry]) -> Vec<u8> {
        database(&[root(3), leaf(3, entries)])
    }

    fn found(key: &[u8], value: &[u8], revision: i64, superseded: bool) -> Found {
        (key.to_vec(), value.to_vec(), revision, superseded)
    }

    #[test]
    fn the_newest_revision_of_a_key_counts_and_a_deletion_ends_it() {
        let file = of(&[
            put(2, b"/a", b"1"),
            put(3, b"/b", b"1"),
            put(4, b"/a", b"2"),
            delete(5, b"/b"),
            put(6, b"/c", b""),
            delete(7, b"/c"),
            put(8, b"/c", b"again"),
            delete(9, b"/never-there"),
        ]);
        let all = read(&file).unwrap();
        assert_eq!(
            all.gathered,
            [
                found(b"/c", b"again", 8, false),
                found(b"/c", b"", 6, true),
                found(b"/a", b"2", 4, false),
                found(b"/b", b"1", 3, true),
                found(b"/a", b"1", 2, true),
            ]
        );
        let totals = Totals {
            revision: 9,
            compacted: None,
            keys: 2,
            superseded: 3,
        };
        assert_eq!(all.totals, totals);
        assert_eq!(all.integrity, Integrity::NoHash);

        let file = with_hash(file);
        let snapshot = Snapshot::open(&file[..], &|_| {}).unwrap();
        for _ in 0..2 {
            let newest = snapshot
                .gather(Revisions::Newest, Vec::new(), |keys, object| {
                    keys.push(object.key.to_vec());
                })
                .unwrap();
            assert_eq!(newest.gathered, [b"/c", b"/a"]);
            assert_eq!(newest.totals, totals);
            assert_eq!(newest.integrity, Integrity::Verified);
        }
    }

    #[test]
    fn a_read_that_knows_the_replaced_entries_finds_the_same() {
        let entries: Vec<_> = (2..120)
            .map(|main| {
                let key = [b'/', b'a' + main % 7];
                match main % 5 {
                    0 => delete(main, &key),
                    _ => put(main, &key, &[main]),
                }
            })
            .collect();
        let file = with_hash(database(&[root(3), leaf(3, &entries)]));
        let first = read(&file).unwrap();
        let superseded = first.superseded.clone().unwrap();
        let mut snapshot = Snapshot::open(&file[..], &|_| {}).unwrap();
        snapshot.trust(Some(&superseded));
        let keep = |found: &mut Vec<Found>, it: Object<'_>| {
            found.push((
                it.key.to_vec(),
                it.value.to_vec(),
                it.revision,
                it.superseded,
            ));
        };
        let again = snapshot.gather(Revisions::All, Vec::new(), keep).unwrap();
        assert_eq!(
            (again.gathered, again.totals),
            (first.gathered, first.totals)
        );
        assert_eq!(again.superseded, None);

        // An earlier revision has other newest entries, so it is compared again.
        let earlier = snapshot.gather(Revisions::At(8), Vec::new(), keep).unwrap();
        let revisions: Vec<_> = earlier.gathered.iter().map(|(.., it, _)| *it).collect();
        assert_eq!(revisions, [8, 7, 6, 4, 3, 2]);
        assert_eq!(earlier.superseded, None);
    }

    #[test]
    fn compaction_is_the_later_of_the_scheduled_and_the_finished_one() {
        let meta = |entries: &[Entry]| {
            let keys = [&[0; 16][..], &leaf(0, &[put(2, b"/a", b"1")])].concat();
            let at = [4_u64.to_le_bytes(), [0; 8]].concat();
            let root = leaf(2, &[(1, b"key".into(), keys), (1, b"meta".into(), at)]);
            database(&[root, leaf(4, entries)])
        };
        let file = meta(&[
            (0, b"finishedCompactRev".into(), revision(9)),
            (0, b"scheduledCompactRev".into(), revision(11)),
            (0, b"term".into(), b"any".into()),
        ]);
        // Page 3 belongs to the root, whose inline bucket is larger than one page.
        let totals = read(&file).unwrap().totals;
        assert_eq!((totals.compacted, totals.revision), (Some(11), 11));
        let file = meta(&[(0, b"finishedCompactRev".into(), b"9".into())]);
        assert_eq!(damage(&file), (4, 4 * 1024 + 16, Damage::RevisionKey));
    }

    #[test]
    fn an_earlier_revision_has_its_own_newest_objects() {
        let file = of(&[
            put(2, b"/a", b"1"),
            put(3, b"/b", b"1"),
            put(4, b"/a", b"2"),
            delete(5, b"/b"),
        ]);
        let snapshot = Snapshot::open(&file[..], &|_| {}).unwrap();
        for (revision, expected) in [
            (1, &[][..]),
            (2, &[("/a", 2)]),
            (3, &[("/b", 3), ("/a", 2)]),
            (4, &[("/a", 4), ("/b", 3)]),
            (5, &[("/a", 4)]),
        ] {
            let at = snapshot
                .gather(Revisions::At(revision), Vec::new(), |found, object| {
                    let key = String::from_utf8(object.key.to_vec()).unwrap();
                    found.push((key, object.revision));
                })
                .unwrap();
            let found: Vec<_> = at.gathered.iter().map(|(key, at)| (&**key, *at)).collect();
            assert_eq!(found, expected, "{revision}");
            assert_eq!(at.totals.revision, 5);
        }
    }

    #[test]
    fn a_raised_revision_has_an_empty_entry() {
        let file = of(&[put(2, b"/a", b"1"), (0, revision(1_000_000_002), vec![])]);
        let totals = read(&file).unwrap().totals;
        assert_eq!((totals.revision, totals.keys), (1_000_000_002, 1));
    }

    #[test]
    fn an_entry_that_etcd_would_not_write_is_blamed() {
        let message = put(2, b"/a", b"1").2;
        for (entry, blame) in [
            ((1, revision(2), message.clone()), Damage::NotAsDue),
            (
                (2, revision(2), message.clone()),
                Damage::UnknownFlags { flags: 2 },
            ),
            ((0, revision(0), message.clone()), Damage::RevisionKey),
            ((0, revision(-2), message.clone()), Damage::RevisionKey),
            (
                (0, b"12345678-12345678".into(), message.clone()),
                Damage::RevisionKey,
            ),
            (
                (0, [&revision(2)[..], b"u"].concat(), message.clone()),
                Damage::RevisionKey,
            ),
            ((0, b"short".into(), message.clone()), Damage::RevisionKey),
            (
                (0, revision(3), message.clone()),
                Damage::OtherRevision { stated: 2 },
            ),
            (
                (0, [&revision(2)[..], b"t"].concat(), message),
                Damage::OtherRevision { stated: 2 },
            ),
            (
                (0, [&revision(2)[..], b"t"].concat(), vec![]),
                Damage::NoKey,
            ),
            ((0, revision(2), b"\x18\x02".into()), Damage::NoKey),
            (
                (0, revision(2), b"\x0a\x09".into()),
                Malformed::CutOff.into(),
            ),
            (
                (0, revision(2), b"\x08\x09".into()),
                Malformed::WireType { number: 1 }.into(),
            ),
        ] {
            let file = of(&[entry]);
            assert_eq!(damage(&file), (3, 3 * 1024 + 16, blame));
        }
    }

    #[test]
    fn a_database_of_another_program_is_none_of_etcd() {
        for (name, missing) in [(&b"keys"[..], "key"), (b"key", "meta")] {
            let root = leaf(2, &[(1, name.into(), leaf(0, &[])[..].into())]);
            match read(&database(&[root])) {
                Err(SnapshotError::NotEtcd { bucket }) => assert_eq!(bucket, missing),
                other => panic!("{other:?}"),
            }
        }
    }

    fn small() -> Vec<u8> {
        database(&[
            root(3),
            branch(3, &[(revision(2), 4), (revision(4), 6)]),
            leaf(4, &[put(2, b"/a", &[7; 1500]), put(3, b"/b", b"1")]),
            leaf(6, &[put(4, b"/a", b"2"), delete(5, b"/b")]),
        ])
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn whatever_is_changed_there_is_an_answer_or_an_error(
            changes in vec((any::<Index>(), any::<u8>()), 1..6),
            sealed in any::<bool>(),
        ) {
            let good = small();
            let mut file = good.clone();
            // The meta pages have their own checksums.
            for (at, byte) in changes {
                let at = 2 * PAGE + at.index(file.len() - 2 * PAGE);
                file[at] = byte;
            }
            if sealed {
                let hash = &with_hash(good.clone())[good.len()..];
                let unchanged = file == good;
                file.extend(hash);
                prop_assert_eq!(read(&file).is_ok(), unchanged);
            } else if let Ok(reading) = read(&file) {
                let live = reading.gathered.iter().filter(|(.., superseded)| !superseded);
                prop_assert_eq!(u64::try_from(live.count()).unwrap(), reading.totals.keys);
            }
        }
    }
}
