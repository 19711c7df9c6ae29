//! Ranges and sizes of the pages of a reading.
//!
//! A page has so many objects that it has [`SMALL`] to [`LARGE`] bytes: the number doubles after a
//! smaller page, and halves after a larger or a slow one.
//!
//! For each page, etcd counts all keys of the requested range, also those beyond the page. With the
//! whole rest as the range, time grows with the square of the number of keys. So a range covers the
//! keys that share the first bytes of its first key: more bytes after a range of many keys, fewer
//! after a range that fits into a page.

use std::{num::NonZeroU32, time::Duration};

use bytes::Bytes;

/// Number of objects of the first page.
const FIRST: i64 = 500;
/// Limit of the objects of a page, the same as of a list call of kube-apiserver.
const MOST: i64 = 10_000;
/// Size in bytes below which a full page is followed by a larger one.
const SMALL: usize = 4 << 20;
/// Size in bytes above which a page is followed by a smaller one.
const LARGE: usize = 8 << 20;
/// Time above which a page is followed by a smaller one, so that a slow etcd or network gets small
/// requests.
const SLOW: Duration = Duration::from_secs(1);
/// Number of keys above which a range is followed by a narrower one. etcd counts about ten keys in a
/// microsecond, so counting these takes a fraction of the time of a page.
const WIDE: i64 = 100_000;

/// Half-open range of keys: `start` included, `end` excluded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Keys {
    pub(super) start: Bytes,
    /// A single zero byte means no end, as in the etcd API.
    pub(super) end: Bytes,
}

/// In the etcd API, the first key as `start`, and no end as `end`.
const NUL: Bytes = Bytes::from_static(&[0]);

/// The remaining keys of a reading, and the form of the next page.
pub(super) struct Paging {
    rest: Keys,
    limit: i64,
    most: i64,
    wide: i64,
    /// Number of first bytes shared by the keys of a range.
    shared: usize,
    /// Number of bytes by which the next range shares fewer, if it is to be wider.
    step: usize,
    /// Whether the range is a continued one.
    continued: bool,
}

/// Properties of a page.
#[derive(Debug, Clone, Copy)]
pub(super) struct Page<'a> {
    /// First and last key; `None` for an empty page.
    pub(super) ends: Option<(&'a [u8], &'a [u8])>,
    pub(super) objects: i64,
    pub(super) bytes: usize,
    /// Number of keys of the requested range, counted by etcd.
    pub(super) count: i64,
    /// Whether the requested range has keys after the page.
    pub(super) more: bool,
    /// Time between request and answer.
    pub(super) took: Duration,
}

impl Keys {
    pub(super) fn all() -> Self {
        Self {
            start: NUL,
            end: NUL,
        }
    }

    /// Keys of the API server with this prefix. `0` is the byte after `/`, so `/registry-2` and
    /// `/registry2` are outside `/registry`.
    pub(super) fn below(prefix: &[u8]) -> Self {
        Self {
            start: [prefix, b"/"].concat().into(),
            end: [prefix, b"0"].concat().into(),
        }
    }

    pub(super) fn contain(&self, key: &[u8]) -> bool {
        self.start <= *key && (self.end == NUL || self.end > *key)
    }

    /// The part that shares the first bytes of `start`.
    fn sharing(&self, bytes: usize) -> Self {
        let shared = self.start.get(..bytes).unwrap_or(&self.start);
        let end = match end_of(shared) {
            Some(end) if self.end == NUL || end < self.end => end,
            _ => self.end.clone(),
        };
        Self {
            start: self.start.clone(),
            end,
        }
    }
}

/// Successor of a key in byte order.
pub(super) fn after(key: &[u8]) -> Bytes {
    [key, &[0]].concat().into()
}

/// The first key after all keys with this prefix; `None` if there is no such key.
fn end_of(prefix: &[u8]) -> Option<Bytes> {
    let last = prefix.iter().rposition(|byte| *byte != u8::MAX)?;
    let mut end = prefix.get(..=last)?.to_vec();
    let last = end.last_mut()?;
    *last = last.checked_add(1)?;
    Some(end.into())
}

impl Paging {
    /// `rate` is the limit of the objects a second, and of a page.
    pub(super) fn new(keys: Keys, rate: Option<NonZeroU32>) -> Self {
        let most = rate.map_or(MOST, |rate| MOST.min(rate.get().into()));
        Self::with(keys, most, WIDE)
    }

    fn with(keys: Keys, most: i64, wide: i64) -> Self {
        Self {
            rest: keys,
            limit: FIRST.min(most),
            most,
            wide,
            shared: 0,
            step: 1,
            continued: false,
        }
    }

    /// Range of the next page.
    pub(super) fn range(&self) -> Keys {
        self.rest.sharing(self.shared)
    }

    /// Limit of the objects of the next page.
    pub(super) fn limit(&self) -> i64 {
        self.limit
    }

    /// Halves the page after an answer beyond the limit of a message. Returns `false` for a page of
    /// one object.
    pub(super) fn halve(&mut self) -> bool {
        let divisible = self.limit > 1;
        self.limit = (self.limit / 2).max(1);
        divisible
    }

    /// Moves on behind a page of the current range. Returns `false` after the last page.
    pub(super) fn advance(&mut self, page: Page<'_>) -> bool {
        let range = self.range();
        self.shared = self.shared.min(range.start.len());
        self.resize(page);
        match page.ends {
            Some((first, last)) if page.more => {
                self.rest.start = after(last);
                self.continued = true;
                if page.count > self.wide {
                    self.narrow(first, last);
                }
                true
            }
            _ => {
                if self.continued {
                    self.step = 1;
                } else {
                    self.widen();
                }
                self.continued = false;
                let ended = range.end == self.rest.end;
                self.rest.start = range.end;
                !ended
            }
        }
    }

    fn resize(&mut self, page: Page<'_>) {
        if page.bytes > LARGE || page.took > SLOW {
            self.limit = (page.objects / 2).clamp(1, self.limit);
        } else if page.bytes < SMALL && page.took < SLOW / 2 && page.objects >= self.limit {
            self.limit = self.limit.saturating_mul(2).min(self.most);
        }
    }

    /// The keys of a page share more bytes than those of its range.
    fn narrow(&mut self, first: &[u8], last: &[u8]) {
        let pairs = first.iter().zip(last);
        let common = pairs.take_while(|(first, last)| first == last).count();
        let least = self.shared.saturating_add(1);
        self.shared = match first == last {
            true => least,
            false => common.max(least),
        };
        self.step = 1;
        self.continued = false;
    }

    /// Faster with each range in a row that fits into a page.
    fn widen(&mut self) {
        self.shared = self.shared.saturating_sub(self.step);
        self.step = self.step.saturating_mul(2);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::{collection, prelude::*};

    use super::*;

    const FAST: Duration = Duration::from_millis(1);

    /// Requests of one reading.
    #[derive(Default)]
    struct Requests {
        pages: usize,
        /// Sum of the keys counted for them.
        counted: usize,
        /// Limits of the pages in order.
        limits: Vec<i64>,
        keys: Vec<Bytes>,
    }

    /// Reads keys, with the size of their objects, like etcd serves them. An answer above `refused`
    /// bytes has no page.
    fn read(
        objects: &BTreeMap<Bytes, usize>,
        mut paging: Paging,
        refused: usize,
    ) -> Result<Requests, Requests> {
        let mut requests = Requests::default();
        loop {
            let (keys, limit) = (paging.range(), usize::try_from(paging.limit()).unwrap());
            requests.pages += 1;
            requests.limits.push(paging.limit());
            // `Keys::contain` is the definition of a range; the bounds here are only for speed.
            let there = objects.range(keys.start.clone()..);
            let there = there.take_while(|(key, _)| keys.contain(key));
            let there: Vec<_> = there.collect();
            requests.counted += there.len();
            let page = &there[..limit.min(there.len())];
            let bytes = page.iter().map(|(_, bytes)| **bytes).sum();
            if bytes > refused {
                match paging.halve() {
                    true => continue,
                    false => return Err(requests),
                }
            }
            requests
                .keys
                .extend(page.iter().map(|(key, _)| (*key).clone()));
            let ends = page.first().zip(page.last());
            let more = paging.advance(Page {
                ends: ends.map(|((first, _), (last, _))| (&first[..], &last[..])),
                objects: i64::try_from(page.len()).unwrap(),
                bytes,
                count: i64::try_from(there.len()).unwrap(),
                more: page.len() < there.len(),
                took: FAST,
            });
            if !more {
                return Ok(requests);
            }
        }
    }

    fn objects(keys: impl Iterator<Item = String>, bytes: usize) -> BTreeMap<Bytes, usize> {
        keys.map(|key| (key.into(), bytes)).collect()
    }

    #[test]
    fn a_prefix_ends_before_the_first_key_without_it() {
        for (prefix, end) in [
            (&b"/registry/a"[..], Some(&b"/registry/b"[..])),
            (b"a\xff\xff", Some(b"b")),
            (b"\xff", None),
            (b"", None),
        ] {
            assert_eq!(end_of(prefix).as_deref(), end, "{prefix:?}");
        }
        let keys = Keys::below(b"/registry");
        assert_eq!(keys.sharing(0), keys);
        assert_eq!(
            keys.sharing("/registry".len()),
            keys,
            "not beyond the end of the range"
        );
    }

    #[test]
    fn pages_grow_to_a_size_in_bytes_and_large_objects_shrink_them() {
        let small = objects((0..20_000).map(|it| format!("/registry/a/{it:06}")), 1400);
        let large = objects((0..200).map(|it| format!("/registry/b/{it:06}")), 1 << 20);
        let all = small.into_iter().chain(large).collect();
        let read = read(&all, Paging::new(Keys::all(), None), 64 << 20);
        let Ok(requests) = read else {
            panic!("the objects fit into a page");
        };
        assert!(requests.keys.iter().eq(all.keys()));
        assert_eq!(requests.limits[..5], [500, 1000, 2000, 4000, 4000]);
        assert!(*requests.limits.last().unwrap() <= 8);

        // The operator's limit of objects a second is also one of a page.
        let read = self::read(
            &all,
            Paging::new(Keys::all(), NonZeroU32::new(50)),
            64 << 20,
        );
        let limits = read.map(|requests| requests.limits).unwrap_or_default();
        assert!(limits.iter().all(|limit| *limit <= 50) && !limits.is_empty());
    }

    #[test]
    fn a_slow_etcd_gets_smaller_requests() {
        let mut paging = Paging::new(Keys::all(), None);
        let page = |took, objects| Page {
            ends: Some((b"/a", b"/b")),
            objects,
            bytes: 1000,
            count: 9000,
            more: true,
            took,
        };
        assert!(paging.advance(page(FAST, 500)));
        assert_eq!(paging.limit(), 1000);
        assert!(paging.advance(page(SLOW / 2, 1000)));
        assert_eq!(paging.limit(), 1000, "not larger");
        assert!(paging.advance(page(SLOW * 2, 1000)));
        assert_eq!(paging.limit(), 500);
    }

    /// Keys counted for each object, and pages for each full one, stay the same.
    #[test]
    fn etcd_counts_each_key_a_bounded_number_of_times() {
        let flat = |number| format!("/registry/secrets/default/{number:07}");
        let nested = |number: u64| {
            let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let (kind, namespace) = (mixed % 7, mixed / 7 % 300);
            format!("/registry/{kind}-kind/ns-{namespace}/{mixed:016x}")
        };
        for key in [&flat as &dyn Fn(u64) -> String, &nested] {
            for number in [4000, 8000, 16_000] {
                let all = objects((0..number).map(key), 70_000);
                let read = read(&all, Paging::with(Keys::all(), MOST, 1000), usize::MAX);
                let Ok(requests) = read else {
                    panic!("no page is refused");
                };
                assert!(requests.keys.iter().eq(all.keys()));
                let counted = requests.counted / all.len();
                let full = all.len() / 100;
                let pages = requests.pages;
                assert!(counted <= 16, "{number}: {counted} times");
                assert!(pages <= 4 * full + 20, "{number}: {pages} pages for {full}");
            }
        }
    }

    proptest! {
        #[test]
        fn each_key_is_read_once_in_order(
            keys in collection::btree_map(
                collection::vec(prop_oneof![Just(0u8), Just(b'a'), Just(b'b'), Just(255u8)], 1..7),
                1..2000usize,
                0..60,
            ),
            most in 1..40i64,
            wide in 0..100i64,
            refused in 1500..20_000usize,
        ) {
            let all: BTreeMap<Bytes, usize> =
                keys.into_iter().map(|(key, bytes)| (key.into(), bytes)).collect();
            match read(&all, Paging::with(Keys::all(), most, wide), refused) {
                Ok(requests) => prop_assert!(requests.keys.iter().eq(all.keys())),
                // A single object above the limit of an answer.
                Err(requests) => {
                    prop_assert!(all.values().any(|bytes| *bytes > refused));
                    let read: BTreeSet<_> = requests.keys.iter().collect();
                    prop_assert_eq!(read.len(), requests.keys.len());
                }
            }
        }
    }
}
