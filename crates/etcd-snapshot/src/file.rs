//! Opens a snapshot: checks that the file is complete and selects one of its two meta pages.
//! Implements `docs/format/etcd-snapshot.md` sections 1 and 2.

use std::{
    cell::Cell,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
};

use aws_lc_rs::digest::{self, SHA256, SHA256_OUTPUT_LEN};

pub use crate::source::{OnProgress, Progress, ReadAt};
use crate::{
    damage::{Place, SnapshotError},
    keys::Superseded,
    page::{ByteOrder, HEADER, Header},
    source::{Meter, read_at},
    tree::{Bucket, Geometry, Walk},
};

/// Integrity status of the whole file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Integrity {
    /// The file has the hash that `etcdctl snapshot save` appended.
    Verified,
    /// There is no hash: a copied `member/snap/db`, or a snapshot without its last 32 bytes. Only
    /// structural damage is detected.
    NoHash,
}

/// A snapshot with a selected meta page. The hash is verified during the first read of its objects;
/// do not use objects before it succeeds.
pub struct Snapshot<'s, S: ?Sized> {
    source: &'s S,
    on_progress: OnProgress<'s>,
    meta: Meta,
    /// Size of the file without its hash, in bytes.
    present: u64,
    hash: Cell<Hash>,
    known: Option<&'s Superseded>,
    damaged_meta: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Hash {
    Unchecked,
    Right,
    Absent,
}

impl<'s, S: ReadAt + ?Sized> Snapshot<'s, S> {
    /// Reads the meta pages.
    ///
    /// # Errors
    /// A file in another format than bbolt, or a truncated one.
    pub fn open(source: &'s S, on_progress: OnProgress<'s>) -> Result<Self, SnapshotError> {
        let size = source
            .size()
            .map_err(|source| SnapshotError::Unreadable { offset: 0, source })?;

        if !is_database(source)? {
            return Err(SnapshotError::NotBbolt);
        }

        let (present, hash) = match size % SECTOR {
            0 => (size, Hash::Absent),
            HASH => (size.saturating_sub(HASH), Hash::Unchecked),
            _ => return Err(SnapshotError::Length { size }),
        };

        let (meta, damaged_meta) = newest_meta(source, present)?;

        let stated = meta
            .geometry
            .pages
            .saturating_mul(meta.geometry.page_size.into());
        if stated > present {
            return Err(SnapshotError::CutOff { stated, present });
        }

        Ok(Self {
            source,
            on_progress,
            meta,
            present,
            hash: Cell::new(hash),
            known: None,
            damaged_meta,
        })
    }

    /// Skips the verification of the hash, because an earlier read of the same bytes has verified it,
    /// and with its `superseded` also the comparison of the keys.
    pub fn trust(&mut self, superseded: Option<&'s Superseded>) {
        if self.hash.get() == Hash::Unchecked {
            self.hash.set(Hash::Right);
        }
        self.known = superseded;
    }

    pub(crate) fn known(&self) -> Option<&'s Superseded> {
        self.known
    }

    /// The damaged meta page, 0 or 1, if any. The other one is used then, and the last write may be
    /// missing. etcd itself starts in the same state.
    #[must_use]
    pub fn damaged_meta(&self) -> Option<u64> {
        self.damaged_meta
    }

    /// Runs `read` with a walk and the root bucket. The first call also verifies the hash, if there
    /// is one, on a second thread, since hashing takes longer than `read`. The result is returned
    /// only if the hash is correct. If both fail, the error of `read` is returned, because it names
    /// a page. A missing bucket identifies another program's database only if the hash is correct.
    pub(crate) fn verified<T>(
        &self,
        read: impl FnOnce(&mut Walk<'_, S>, &Bucket) -> Result<T, SnapshotError>,
    ) -> Result<(T, Integrity), SnapshotError> {
        let unchecked = self.hash.get() == Hash::Unchecked;
        let total = match unchecked {
            true => self.present.saturating_mul(2),
            false => self.present,
        };
        let meter = Meter::new(total, self.on_progress);
        let mut walk = Walk::new(self.source, self.meta.geometry, &meter);
        let root = Bucket::new(self.meta.root, self.meta.geometry.order, self.meta.place);

        let value = if unchecked {
            let stop = AtomicBool::new(false);
            let (source, present) = (self.source, self.present);
            thread::scope(|scope| {
                let verifying = thread::Builder::new()
                    .spawn_scoped(scope, || verify(source, present, &meter, &stop))
                    .map_err(SnapshotError::NoThread)?;
                let value = read(&mut walk, &root);
                let damaged = value.as_ref().is_err_and(SnapshotError::is_damage);
                stop.store(damaged, Relaxed);
                let verified = match verifying.join() {
                    Ok(verified) => verified,
                    Err(panic) => std::panic::resume_unwind(panic),
                };
                if damaged {
                    return value;
                }
                verified?;
                let value = value?;
                self.hash.set(Hash::Right);
                Ok(value)
            })?
        } else {
            read(&mut walk, &root)?
        };

        let integrity = match self.hash.get() {
            Hash::Absent => Integrity::NoHash,
            Hash::Right | Hash::Unchecked => Integrity::Verified,
        };
        Ok((value, integrity))
    }
}

/// The size of every database is a multiple of this.
const SECTOR: u64 = 512;
/// Size of the appended SHA-256 in bytes.
const HASH: u64 = 32;
/// Number of bytes per read for the hash.
const CHUNK: usize = 1 << 18;

/// Compares the hash of the first `total` bytes with the one after them.
fn verify<S: ReadAt + ?Sized>(
    source: &S,
    total: u64,
    meter: &Meter<'_>,
    stop: &AtomicBool,
) -> Result<(), SnapshotError> {
    let mut hash = digest::Context::new(&SHA256);
    let mut buffer = vec![0; CHUNK];
    let mut done = 0_u64;

    while done < total && !stop.load(Relaxed) {
        let left = usize::try_from(total.saturating_sub(done)).unwrap_or(usize::MAX);
        buffer.truncate(left);
        read_at(source, &mut buffer, done)?;
        hash.update(&buffer);
        let read = u64::try_from(buffer.len()).unwrap_or(u64::MAX);
        done = done.saturating_add(read);
        meter.add(read);
    }

    let mut stated = [0; SHA256_OUTPUT_LEN];
    read_at(source, &mut stated, total)?;
    if hash.finish().as_ref() == stated {
        Ok(())
    } else {
        Err(SnapshotError::WrongHash)
    }
}

/// The state of the database after one transaction.
#[derive(Clone, Copy)]
struct Meta {
    place: Place,
    geometry: Geometry,
    root: u64,
    transaction: u64,
}

/// Whether the file has any trace of a bbolt database: the magic number of either meta page, or the
/// header of the first. Reads within the first 65 KiB only.
///
/// # Errors
/// [`SnapshotError::Unreadable`].
pub fn is_database<S: ReadAt + ?Sized>(source: &S) -> Result<bool, SnapshotError> {
    const START: usize = HEADER + size_of::<u32>();
    let unreadable = |source| SnapshotError::Unreadable { offset: 0, source };
    let size = source.size().map_err(unreadable)?;
    let needed = u64::try_from(START).unwrap_or(u64::MAX);
    let seconds = PAGE_SIZES.map(|page_size| (1, u64::from(page_size)));
    for (page, offset) in [(0, 0)].into_iter().chain(seconds) {
        if offset.saturating_add(needed) > size {
            continue;
        }
        let mut bytes = [0; START];
        read_at(source, &mut bytes, offset)?;
        let is_trace = |order: ByteOrder| {
            let header = Header::read(&bytes, order);
            order.u32_at(&bytes, HEADER) == Some(MAGIC)
                || page == 0 && header.is_some_and(|header| header.is_meta(page))
        };
        if ByteOrder::ALL.into_iter().any(is_trace) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Size of a meta page after its header, in bytes.
const META: usize = 64;
const MAGIC: u32 = 0xED0C_DAED;
const VERSION: u32 = 2;
/// The page sizes of the platforms of etcd.
const PAGE_SIZES: [u32; 7] = [
    1 << 12,
    1 << 14,
    1 << 16,
    1 << 13,
    1 << 15,
    1 << 11,
    1 << 10,
];

/// The intact meta page with the highest transaction, and the number of the damaged one.
fn newest_meta<S: ReadAt + ?Sized>(
    source: &S,
    present: u64,
) -> Result<(Meta, Option<u64>), SnapshotError> {
    let first = meta_at(source, present, 0, None)?;
    let Some(first) = first else {
        // The page size comes from the first page, so the second is searched at every size.
        for page_size in PAGE_SIZES {
            if let Some(second) = meta_at(source, present, 1, Some(page_size))? {
                return Ok((second, Some(0)));
            }
        }
        return Err(SnapshotError::NoMeta);
    };
    match meta_at(source, present, 1, Some(first.geometry.page_size))? {
        Some(second) if second.transaction > first.transaction => Ok((second, None)),
        Some(_) => Ok((first, None)),
        None => Ok((first, Some(1))),
    }
}

/// The meta page with this number, if it is intact and has the given `page_size`.
fn meta_at<S: ReadAt + ?Sized>(
    source: &S,
    present: u64,
    page: u64,
    page_size: Option<u32>,
) -> Result<Option<Meta>, SnapshotError> {
    let offset = page.saturating_mul(page_size.unwrap_or_default().into());
    let mut bytes = [0; HEADER + META];
    if offset.saturating_add(SECTOR) > present {
        return Ok(None);
    }
    read_at(source, &mut bytes, offset)?;
    let meta = parse_meta(&bytes, Place { page, offset });
    Ok(meta.filter(|meta| page_size.is_none_or(|size| size == meta.geometry.page_size)))
}

fn parse_meta(page: &[u8], place: Place) -> Option<Meta> {
    let meta = page.get(HEADER..)?;
    let (summed, checksum) = meta.split_at_checked(META - 8)?;
    let mut orders = ByteOrder::ALL.into_iter();
    let order = orders.find(|order| order.u32_at(meta, 0) == Some(MAGIC))?;
    let sound = order.u32_at(meta, 4)? == VERSION && order.u64_at(checksum, 0)? == fnv1a(summed);
    let page_size = order.u32_at(meta, 8)?;
    (sound && PAGE_SIZES.contains(&page_size)).then_some(Meta {
        place,
        geometry: Geometry {
            page_size,
            pages: order.u64_at(meta, 40)?,
            order,
        },
        root: order.u64_at(meta, 16)?,
        transaction: order.u64_at(meta, 48)?,
    })
}

pub(crate) fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{PAGE, database, leaf, meta, put, read, root, with_hash};

    fn good() -> Vec<u8> {
        database(&[root(3), leaf(3, &[put(2, b"/a", b"1")])])
    }

    fn damaged_meta(file: &[u8]) -> Option<u64> {
        let snapshot = Snapshot::open(file, &|_| {}).unwrap();
        assert_eq!(read(file).unwrap().totals.keys, 1);
        snapshot.damaged_meta()
    }

    #[test]
    fn every_changed_bit_is_noticed_where_there_is_a_hash() {
        let good = with_hash(good());
        assert_eq!(read(&good).unwrap().integrity, Integrity::Verified);
        for bit in 0..good.len() * 8 {
            let mut changed = good.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&changed).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn every_cut_is_noticed_except_one_that_takes_the_hash_alone() {
        let whole = with_hash(good());
        for length in 0..whole.len() {
            let read = read(&whole[..length]);
            if length == whole.len() - 32 {
                assert_eq!(read.unwrap().integrity, Integrity::NoHash);
            } else {
                assert!(read.is_err(), "{length}");
            }
        }
        assert!(matches!(
            read(&good()[..2048]),
            Err(SnapshotError::CutOff {
                stated: 4096,
                present: 2048
            })
        ));
        assert!(matches!(read(b"short"), Err(SnapshotError::NotBbolt)));
        assert!(matches!(
            read(&good()[..1000]),
            Err(SnapshotError::Length { size: 1000 })
        ));
    }

    #[test]
    fn a_file_without_a_trace_of_bbolt_is_not_called_damaged() {
        let no_trace = |file: &[u8]| {
            let error = read(file).unwrap_err();
            assert!(matches!(error, SnapshotError::NotBbolt), "{error}");
            assert!(!error.is_damage());
        };
        for file in [&b""[..], b"short", &[0; 4096], &[0; 4096 + 32]] {
            no_trace(file);
        }
        let mut file = good();
        file[..16].fill(b'x');
        assert_eq!(
            damaged_meta(&file),
            None,
            "the header of a meta page is not read"
        );
        file[16] ^= 1;
        assert_eq!(damaged_meta(&file), Some(0));
        file[PAGE + 16] ^= 1;
        no_trace(&file);
        // The header of page 0 alone is a trace.
        file[..16].copy_from_slice(&good()[..16]);
        assert!(read(&file).unwrap_err().is_damage());
    }

    #[test]
    fn a_database_of_another_program_is_not_called_damaged_unless_its_hash_is_wrong() {
        let other = leaf(2, &[(1, b"data".into(), vec![0; 32])]);
        let other = with_hash(database(&[other]));
        let error = read(&other).unwrap_err();
        assert!(
            matches!(error, SnapshotError::NotEtcd { bucket: "key" }),
            "{error}"
        );
        assert!(!error.is_damage());
        let mut other = other;
        let last = other.len() - 1;
        other[last] ^= 1;
        assert!(matches!(read(&other), Err(SnapshotError::WrongHash)));
    }

    #[test]
    fn every_changed_bit_of_a_big_endian_file_is_noticed_too() {
        let little = with_hash(good());
        let good = testkit::big_endian::big_endian(&little);
        assert_eq!(read(&good).unwrap(), read(&little).unwrap());
        for bit in 0..good.len() * 8 {
            let mut changed = good.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&changed).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_database_may_be_longer_than_its_pages() {
        let mut file = good();
        file.resize(16 * PAGE, 0);
        assert_eq!(damaged_meta(&file), None);
    }

    #[test]
    fn the_newer_of_two_sound_meta_pages_counts() {
        let mut file = good();
        file[..PAGE].copy_from_slice(&meta(0, 7, 3));
        assert!(read(&file).is_err(), "page 3 is not in this state");
        file[PAGE..2 * PAGE].copy_from_slice(&meta(1, 8, 4));
        assert_eq!(damaged_meta(&file), None);
    }

    #[test]
    fn one_damaged_meta_page_is_said_and_two_are_an_error() {
        for bit in 0..64 * 8 {
            let mut file = good();
            let at = 16 + bit / 8;
            file[at] ^= 1 << (bit % 8);
            assert_eq!(damaged_meta(&file), Some(0), "bit {bit}");
            file[PAGE + at] ^= 1 << (bit % 8);
            assert!(matches!(read(&file), Err(SnapshotError::NoMeta)));
            file[at] ^= 1 << (bit % 8);
            assert_eq!(damaged_meta(&file), Some(1), "bit {bit}");
        }
    }

    #[test]
    fn progress_counts_the_hash_and_the_pages() {
        let file = with_hash(good());
        let seen = std::sync::Mutex::new(Vec::new());
        let listen = |progress| seen.lock().unwrap().push(progress);
        let snapshot = Snapshot::open(&file[..], &listen).unwrap();
        let gather = || snapshot.gather(crate::revision::Revisions::Newest, (), |(), _| {});
        gather().unwrap();
        let first = std::mem::take(&mut *seen.lock().unwrap());
        assert!(first.iter().all(|progress| progress.total == 8192));
        assert_eq!(
            first.iter().map(|progress| progress.done).max(),
            Some(4096 + 2048)
        );
        gather().unwrap();
        let second = std::mem::take(&mut *seen.lock().unwrap());
        assert!(second.iter().all(|progress| progress.total == 4096));
        let mut again = Snapshot::open(&file[..], &listen).unwrap();
        again.trust(None);
        let reading = again.gather(crate::revision::Revisions::Newest, (), |(), _| {});
        assert_eq!(reading.unwrap().integrity, Integrity::Verified);
        assert_eq!(*seen.lock().unwrap(), second);
    }
}
