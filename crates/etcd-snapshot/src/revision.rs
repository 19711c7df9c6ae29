//! The objects of a snapshot: the newest revision of each key that was not deleted, and what older
//! revisions compaction has left. Implements `docs/format/etcd-snapshot.md` section 4.

use std::{
    collections::HashSet,
    hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState},
};

use crate::{
    damage::{Damage, SnapshotError},
    file::{Integrity, ReadAt, Snapshot},
    page::Leaf,
    protobuf::{Fields, Malformed},
    tree::{Bucket, Walk},
};

/// Which revisions to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Revisions {
    /// The newest of each key that exists: what a restored API server reads.
    Newest,
    /// The older ones too that compaction has not removed, those of deleted keys included: what a
    /// watch from an old resource version can still make the API server read.
    All,
}

/// One revision of a key with its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Object<'a> {
    /// The key, whole.
    pub key: &'a [u8],
    /// The value, as the API server stored it.
    pub value: &'a [u8],
    /// The revision that stored it.
    pub revision: i64,
    /// A later revision replaced or deleted it.
    pub superseded: bool,
}

/// What etcd held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Totals {
    /// The revision of etcd that was read.
    pub revision: i64,
    /// The revision of the last compaction, finished or not.
    pub compacted: Option<i64>,
    /// Keys that exist.
    pub keys: u64,
    /// Superseded revisions that are still there, deletions not counted.
    pub superseded: u64,
}

/// The answer of a reading that met the end of the snapshot without an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading<A> {
    /// What was gathered of all objects.
    pub gathered: A,
    /// What etcd held.
    pub totals: Totals,
    /// What vouches for it.
    pub integrity: Integrity,
}

impl<S: ReadAt + ?Sized> Snapshot<'_, S> {
    /// Lets `gather` put every object into `into`, later revisions first. After an error that is
    /// gone, so nobody can take a part for the whole. The first reading verifies the hash.
    ///
    /// # Errors
    /// A wrong hash, or any damage on the way. Whatever else `gather` did must be undone.
    pub fn gather<A>(
        &self,
        revisions: Revisions,
        mut into: A,
        mut gather: impl FnMut(&mut A, Object<'_>),
    ) -> Result<Reading<A>, SnapshotError> {
        let (totals, integrity) = self.verified(|walk, root| {
            read(walk, root, &mut |object| {
                if revisions == Revisions::All || !object.superseded {
                    gather(&mut into, object);
                }
            })
        })?;
        Ok(Reading {
            gathered: into,
            totals,
            integrity,
        })
    }
}

fn read<S: ReadAt + ?Sized>(
    walk: &mut Walk<'_, S>,
    root: &Bucket,
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
        // An empty etcd is at 1, and compaction may have removed the last deletion.
        revision: compacted.unwrap_or(1),
        compacted,
        keys: 0,
        superseded: 0,
    };
    let mut seen = KeySet::default();
    walk.backwards(&keys, &mut |leaf| {
        let (revision, entry) = entry(&leaf)?;
        totals.revision = totals.revision.max(revision.main);
        let Some(entry) = entry else {
            return Ok(());
        };
        let superseded = !seen.insert(entry.key);
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

/// What an entry of the bucket `key` is stored under.
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

/// The part of etcd's `KeyValue` message that is of use here.
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
    // A deletion states no revision.
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

/// The keys met so far, as 128 bits of each. The hash has a secret that is new for every set, so
/// nobody can store two keys for it to confuse.
#[derive(Default)]
struct KeySet {
    halves: [RandomState; 2],
    hashes: HashSet<(u64, u64), BuildHasherDefault<AsIs>>,
}

impl KeySet {
    /// Whether the key is new.
    fn insert(&mut self, key: &[u8]) -> bool {
        let [first, second] = self.halves.each_ref().map(|half| half.hash_one(key));
        self.hashes.insert((first, second))
    }
}

/// Takes the second half of a hash as it is.
#[derive(Default)]
struct AsIs(u64);

impl Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write_u64(&mut self, half: u64) {
        self.0 = half;
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }
}
