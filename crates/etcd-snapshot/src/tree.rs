//! Walks the B+tree of a bucket from its last key to its first. Each level has two buffers: one for
//! a page, one for those of its children that are adjacent in the file.
//! Implements `docs/format/etcd-snapshot.md` section 3.

use crate::{
    damage::{Damage, Place, SnapshotError},
    page::{ByteOrder, Header, Kind, Leaf, Page},
    source::{Meter, ReadAt, read_at},
};

/// Maximum depth; a valid tree of this depth needs more pages than any file has.
const MAX_DEPTH: usize = 32;
/// Maximum number of bytes of all pages between a root and a leaf. A leaf holds at least two
/// values, and etcd limits a value to 1.5 MB by default.
const MAX_HELD: usize = 128 << 20;
/// Larger buffers are freed, so that one large value does not keep its memory.
const KEPT_BUFFER: usize = 4 << 20;
/// Number of bytes per read of adjacent pages. Pages written together are adjacent, and a system
/// call per page takes longer than reading its bytes.
const RUN: u64 = 128 << 10;
/// Maximum distance between adjacent children, in pages. The pages between are mostly overflow.
const APART: u64 = 4;

/// Layout of the database.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Geometry {
    /// Bytes per page, from 1 KiB to 64 KiB.
    pub(crate) page_size: u32,
    /// Number of pages in the database, all within the file.
    pub(crate) pages: u64,
    /// Byte order of every integer.
    pub(crate) order: ByteOrder,
}

/// A bucket as stored in its parent.
pub(crate) struct Bucket {
    /// Root page, sequence, and the inline page of a small bucket.
    bytes: Vec<u8>,
    place: Place,
}

impl Bucket {
    pub(crate) fn new(root: u64, order: ByteOrder, place: Place) -> Self {
        let root = match order {
            ByteOrder::Little => root.to_le_bytes(),
            ByteOrder::Big => root.to_be_bytes(),
        };
        let mut bytes = root.to_vec();
        bytes.resize(INLINE, 0);
        Self { bytes, place }
    }

    pub(crate) fn of(leaf: &Leaf<'_>) -> Result<Self, SnapshotError> {
        if !leaf.is_bucket {
            return Err(leaf.place.is(Damage::NotAsDue));
        }
        Ok(Self {
            bytes: leaf.value.to_vec(),
            place: Place {
                offset: leaf.value_offset,
                ..leaf.place
            },
        })
    }
}

/// Pages 0 and 1 are the meta pages; the tree starts after them.
const FIRST_PAGE: u64 = 2;
/// Offset of the inline page, after root page and sequence.
const INLINE: usize = 16;

/// Called with each entry of a bucket.
type Visit<'v> = &'v mut dyn FnMut(Leaf<'_>) -> Result<(), SnapshotError>;

/// All buckets of one `Walk` together visit each page at most once. This bounds the time for a file
/// with cycles.
pub(crate) struct Walk<'s, S: ?Sized> {
    source: &'s S,
    geometry: Geometry,
    meter: &'s Meter<'s>,
    reached: Vec<u64>,
    held: usize,
    spare: Vec<Vec<u8>>,
}

/// Adjacent pages.
struct Run {
    /// Number of the first page.
    first: u64,
    bytes: Vec<u8>,
}

/// The permitted keys of a page: from the first bound, up to the second, exclusive.
#[derive(Clone, Copy)]
struct Range<'a>(Option<&'a [u8]>, Option<&'a [u8]>);

impl Range<'_> {
    fn contains(self, key: &[u8]) -> bool {
        self.0.is_none_or(|low| low <= key) && self.1.is_none_or(|high| key < high)
    }
}

impl<'s, S: ReadAt + ?Sized> Walk<'s, S> {
    pub(crate) fn new(source: &'s S, geometry: Geometry, meter: &'s Meter<'s>) -> Self {
        // The file has these pages, so this is one bit per existing page.
        let words = usize::try_from(geometry.pages.div_ceil(64)).unwrap_or(usize::MAX);
        Self {
            source,
            geometry,
            meter,
            reached: vec![0; words],
            held: 0,
            spare: Vec::new(),
        }
    }

    /// Calls `visit` with every entry of the bucket, the last key first.
    pub(crate) fn backwards(
        &mut self,
        bucket: &Bucket,
        visit: Visit<'_>,
    ) -> Result<(), SnapshotError> {
        let malformed = || bucket.place.is(Damage::Bucket);
        let (header, inline) = bucket
            .bytes
            .split_at_checked(INLINE)
            .ok_or_else(malformed)?;
        let order = self.geometry.order;
        let root = order.u64_at(header, 0).ok_or_else(malformed)?;
        if root != 0 {
            return self.page(root, &[], Range(None, None), 0, visit);
        }

        let place = Place {
            offset: bucket.place.offset.saturating_add(16),
            ..bucket.place
        };
        let header = Header::read(inline, order).ok_or_else(malformed)?;
        let page = Page::parse(inline, order, place)?;
        if header.id != 0 || header.overflow != 0 || page.kind == Kind::Branch {
            return Err(malformed());
        }

        leaves(&page, Range(None, None), visit)
    }

    /// Visits page `id`. `ahead` holds its first bytes, or is empty.
    fn page(
        &mut self,
        id: u64,
        ahead: &[u8],
        range: Range<'_>,
        depth: usize,
        visit: Visit<'_>,
    ) -> Result<(), SnapshotError> {
        let place = self.place(id);
        if depth >= MAX_DEPTH {
            return Err(place.is(Damage::TooDeep { limit: MAX_DEPTH }));
        }

        let mut buffer = self.spare.pop().unwrap_or_default();
        let bytes = self.read(id, ahead, &mut buffer)?;
        let held = bytes.len();
        self.held = self.held.saturating_add(held);

        let page = Page::parse(bytes, self.geometry.order, place)?;
        match page.kind {
            // A leaf without entries is valid only as the root of an empty bucket.
            _ if page.count == 0 && (depth > 0 || page.kind == Kind::Branch) => {
                return Err(place.is(Damage::Empty));
            }
            Kind::Leaf => leaves(&page, range, visit)?,
            Kind::Branch => self.children(&page, range, depth, visit)?,
        }

        self.held = self.held.saturating_sub(held);
        self.spare(buffer);
        Ok(())
    }

    fn children(
        &mut self,
        page: &Page<'_>,
        range: Range<'_>,
        depth: usize,
        visit: Visit<'_>,
    ) -> Result<(), SnapshotError> {
        // The reused buffer holds bytes of other pages. This first number excludes them from every
        // lookup.
        let mut run = Run {
            first: u64::MAX,
            bytes: self.spare.pop().unwrap_or_default(),
        };

        let mut high = range.1;
        for index in (0..page.count).rev() {
            let branch = page.branch(index)?;
            if !range.contains(branch.key) {
                return Err(branch.place.is(Damage::KeyOutsideRange));
            }

            if self.from(&run, branch.child).is_empty() {
                let first = self.first_neighbour(page, index, branch.child)?;
                self.read_run(first, branch.child, &mut run)?;
            }

            let below = Range(Some(branch.key), high);
            let ahead = self.from(&run, branch.child);
            self.page(branch.child, ahead, below, depth.saturating_add(1), visit)?;
            high = Some(branch.key);
        }

        self.spare(run.bytes);
        Ok(())
    }

    /// First page of the adjacent children before `child`, the one at `index`.
    fn first_neighbour(
        &self,
        page: &Page<'_>,
        index: usize,
        child: u64,
    ) -> Result<u64, SnapshotError> {
        let most = RUN.checked_div(self.geometry.page_size.into()).unwrap_or(1);
        let least = child.saturating_sub(most.saturating_sub(1)).max(FIRST_PAGE);
        let mut first = child;
        for index in (0..index).rev() {
            let next = page.branch(index)?.child;
            let is_near = (least..first).contains(&next) && first.saturating_sub(next) <= APART;
            if !is_near {
                break;
            }
            first = next;
        }
        Ok(first)
    }

    /// Reads the pages from `first` to `last`.
    fn read_run(&self, first: u64, last: u64, run: &mut Run) -> Result<(), SnapshotError> {
        run.first = first;
        // Leaves the run empty; the later visit of the page reports the error.
        if !(FIRST_PAGE..self.geometry.pages).contains(&last) {
            run.bytes.clear();
            return Ok(());
        }
        let pages = last.saturating_sub(first).saturating_add(1);
        let size = usize::try_from(self.bytes(pages)).unwrap_or(usize::MAX);
        run.bytes.resize(size, 0);
        read_at(self.source, &mut run.bytes, self.bytes(first))
    }

    /// The bytes of the run from page `id` on.
    fn from<'r>(&self, run: &'r Run, id: u64) -> &'r [u8] {
        let before = id.checked_sub(run.first).map(|pages| self.bytes(pages));
        let start = before.and_then(|bytes| usize::try_from(bytes).ok());
        start
            .and_then(|start| run.bytes.get(start..))
            .unwrap_or_default()
    }

    /// Page `id` with all its overflow, from `ahead` if complete there, else read into `buffer`.
    fn read<'b>(
        &mut self,
        id: u64,
        ahead: &'b [u8],
        buffer: &'b mut Vec<u8>,
    ) -> Result<&'b [u8], SnapshotError> {
        let place = self.place(id);
        if !(FIRST_PAGE..self.geometry.pages).contains(&id) {
            return Err(self.outside(place));
        }

        let size = usize::try_from(self.geometry.page_size).unwrap_or(usize::MAX);
        buffer.clear();
        if ahead.is_empty() {
            buffer.resize(size, 0);
            read_at(self.source, buffer, place.offset)?;
        }

        let first = if ahead.is_empty() { &*buffer } else { ahead };
        let header = Header::read(first, self.geometry.order)
            .ok_or_else(|| place.is(Damage::ElementOutsidePage))?;
        if header.id != id {
            return Err(place.is(Damage::WrongNumber { stated: header.id }));
        }

        let end = id.saturating_add(header.overflow.into()).saturating_add(1);
        if end > self.geometry.pages {
            return Err(self.outside(place));
        }
        self.reach(id..end)?;

        let total = usize::try_from(header.overflow)
            .unwrap_or(usize::MAX)
            .saturating_add(1)
            .saturating_mul(size);
        if self.held.saturating_add(total) > MAX_HELD {
            return Err(place.is(Damage::TooLarge { limit: MAX_HELD }));
        }

        if let Some(bytes) = ahead.get(..total) {
            return Ok(bytes);
        }
        if buffer.len() < total {
            buffer.resize(total, 0);
            read_at(self.source, buffer, place.offset)?;
        }
        Ok(buffer)
    }

    /// Keeps a buffer for another page.
    fn spare(&mut self, buffer: Vec<u8>) {
        if buffer.capacity() <= KEPT_BUFFER {
            self.spare.push(buffer);
        }
    }

    /// Marks the pages as visited; an error if one already was.
    fn reach(&mut self, pages: std::ops::Range<u64>) -> Result<(), SnapshotError> {
        let count = pages.end.saturating_sub(pages.start);
        for page in pages {
            let bit = 1_u64 << (page & 63);
            let word = usize::try_from(page >> 6).ok();
            match word.and_then(|word| self.reached.get_mut(word)) {
                Some(word) if *word & bit == 0 => *word |= bit,
                _ => return Err(self.place(page).is(Damage::ReachedTwice)),
            }
        }
        self.meter.add(self.bytes(count));
        Ok(())
    }

    fn outside(&self, place: Place) -> SnapshotError {
        let pages = self.geometry.pages;
        place.is(Damage::OutsideDatabase { pages })
    }

    fn place(&self, page: u64) -> Place {
        Place {
            page,
            offset: self.bytes(page),
        }
    }

    fn bytes(&self, pages: u64) -> u64 {
        pages.saturating_mul(self.geometry.page_size.into())
    }
}

fn leaves(page: &Page<'_>, range: Range<'_>, visit: Visit<'_>) -> Result<(), SnapshotError> {
    for index in (0..page.count).rev() {
        let leaf = page.leaf(index)?;
        // Keys ascend, so all are in the range if the first and the last are.
        let at_an_end = index == 0 || index.saturating_add(1) == page.count;
        if at_an_end && !range.contains(leaf.key) {
            return Err(leaf.place.is(Damage::KeyOutsideRange));
        }
        visit(leaf)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::{
        damage::Damage,
        fixtures::{branch, damage, database, leaf, put, read, revision, root},
    };

    #[test]
    fn a_tree_is_read_from_its_end_with_all_overflow() {
        let large = vec![7; 5000];
        let file = database(&[
            root(3),
            branch(3, &[(revision(2), 4), (revision(4), 10)]),
            leaf(4, &[put(2, b"/a", &large), put(3, b"/b", b"1")]),
            leaf(9, &[]),
            leaf(10, &[put(4, b"/c", b"2")]),
        ]);
        let found = read(&file).unwrap().gathered;
        let found: Vec<_> = found
            .iter()
            .map(|(_, value, at, _)| (*at, value.len()))
            .collect();
        assert_eq!(found, [(4, 1), (3, 1), (2, 5000)]);
    }

    /// Four adjacent pages, two distant ones, and values of one to five pages.
    #[test]
    fn pages_that_are_read_together_are_told_apart() {
        let value = |main: u8| vec![main; usize::from(main) % 5 * 1024];
        let entries = |main| [put(main, b"/a", &value(main)), put(main + 1, b"/b", b"1")];
        let mut pages = vec![root(3), leaf(3, &[])];
        let mut children = Vec::new();
        let mut next = 4;
        for main in (2..40_u8).step_by(2) {
            // Unused pages lie between.
            if main % 7 == 0 {
                let unused = u64::from(main % 4) * 3;
                pages.extend((next..next + unused).map(|id| leaf(id, &[])));
                next += unused;
            }
            let page = leaf(next, &entries(main));
            children.push((revision(main.into()), next));
            next += u64::try_from(page.len() / 1024).unwrap();
            pages.push(page);
        }
        pages[1] = branch(3, &children);
        let found = read(&database(&pages)).unwrap().gathered;
        let found: Vec<_> = found.into_iter().map(|(_, value, ..)| value).collect();
        let all = (2..40).rev().map(|main: u8| match main % 2 {
            0 => value(main),
            _ => b"1".to_vec(),
        });
        assert_eq!(found, all.collect::<Vec<_>>());
    }

    #[test]
    fn an_empty_root_is_an_empty_bucket() {
        let file = database(&[root(3), leaf(3, &[])]);
        assert_eq!(read(&file).unwrap().gathered, []);
    }

    /// A page, an offset in it, and the bytes to write there.
    type Patch = (usize, usize, &'static [u8]);

    /// Two leaves below a branch on page 3, patched.
    fn patched((page, at, bytes): Patch) -> Vec<u8> {
        let mut file = database(&[
            root(3),
            branch(3, &[(revision(2), 4), (revision(4), 5)]),
            leaf(4, &[put(2, b"/a", b"1"), put(3, b"/b", b"1")]),
            leaf(5, &[put(4, b"/c", b"2"), put(5, b"/d", b"3")]),
        ]);
        assert!(read(&file).is_ok());
        let at = page * 1024 + at;
        file[at..at + bytes.len()].copy_from_slice(bytes);
        file
    }

    #[test]
    fn a_page_that_does_not_hold_together_is_blamed() {
        let pages = 6;
        use Damage::*;
        let cases: &[(&str, Patch, (u64, u64, Damage))] = &[
            ("number", (5, 0, &[4]), (5, 0, WrongNumber { stated: 4 })),
            ("flags", (5, 8, &[3]), (5, 0, WrongKind { flags: 3 })),
            ("count, more", (5, 10, &[3]), (5, 16, ElementGap)),
            ("count, fewer", (5, 10, &[1]), (5, 16, ElementGap)),
            ("count, none", (5, 10, &[0]), (5, 0, Empty)),
            ("count, giant", (5, 10, &[255; 2]), (5, 16, ElementGap)),
            ("overflow", (5, 12, &[1]), (5, 0, OutsideDatabase { pages })),
            (
                "giant overflow",
                (5, 12, &[255; 4]),
                (5, 0, OutsideDatabase { pages }),
            ),
            ("overflow onto a page", (4, 12, &[1]), (5, 0, ReachedTwice)),
            (
                "element flags",
                (5, 32, &[2]),
                (5, 32, UnknownFlags { flags: 2 }),
            ),
            ("position", (5, 36, &[0]), (5, 32, ElementGap)),
            (
                "giant position",
                (5, 36, &[255; 4]),
                (5, 32, ElementOutsidePage),
            ),
            ("key size", (5, 24, &[18]), (5, 32, ElementGap)),
            ("giant key", (5, 24, &[255; 4]), (5, 16, ElementOutsidePage)),
            ("value size", (5, 28, &[1]), (5, 32, ElementGap)),
            (
                "giant value",
                (5, 44, &[255; 4]),
                (5, 32, ElementOutsidePage),
            ),
            ("key order", (5, 48 + 7, &[9]), (5, 32, KeyOrder)),
            (
                "key before its page",
                (5, 48 + 7, &[3]),
                (5, 16, KeyOutsideRange),
            ),
            (
                "key after its page",
                (4, 79 + 7, &[9]),
                (4, 32, KeyOutsideRange),
            ),
            ("branch key", (3, 65 + 7, &[5]), (5, 16, KeyOutsideRange)),
            ("other child", (3, 40, &[4]), (4, 32, KeyOutsideRange)),
            ("child twice", (3, 24, &[5]), (5, 0, ReachedTwice)),
            ("cycle", (3, 40, &[3]), (3, 0, ReachedTwice)),
            (
                "child outside",
                (3, 40, &[6]),
                (6, 0, OutsideDatabase { pages }),
            ),
            (
                "meta page for a child",
                (3, 40, &[1]),
                (1, 0, OutsideDatabase { pages }),
            ),
            (
                "bucket root",
                (2, 48 + 3, &[9]),
                (9, 0, OutsideDatabase { pages }),
            ),
            ("inline bucket", (2, 48 + 3, &[0]), (2, 48 + 3, Bucket)),
            ("no bucket", (2, 16, &[0]), (2, 16, NotAsDue)),
        ];
        for (name, patch, (page, offset, damaged)) in cases {
            let expected = (*page, page * 1024 + offset, *damaged);
            assert_eq!(damage(&patched(*patch)), expected, "{name}");
        }
    }

    #[test]
    fn a_branch_without_children_is_no_empty_bucket() {
        let file = database(&[root(3), branch(3, &[])]);
        assert_eq!(damage(&file), (3, 3 * 1024, Damage::Empty));
    }

    #[test]
    fn depth_is_bounded() {
        let mut pages = vec![root(3)];
        pages.extend((3..40).map(|id| branch(id, &[(revision(2), id + 1)])));
        pages.push(leaf(40, &[put(2, b"/a", b"1")]));
        let too_deep = Damage::TooDeep { limit: 32 };
        assert_eq!(damage(&database(&pages)), (35, 35 * 1024, too_deep));
    }

    #[test]
    fn what_is_held_at_a_time_is_bounded() {
        let mut file = database(&[root(3), leaf(3, &[put(2, b"/a", &[7; 9])])]);
        let pages = (128 << 10) + 8;
        file.resize(pages * 1024, 0);
        for number in 0..2 {
            let meta = crate::fixtures::meta(number, 7, pages);
            let at = usize::try_from(number).unwrap() * 1024;
            file[at..at + 1024].copy_from_slice(&meta);
        }
        assert!(read(&file).is_ok());
        file[3 * 1024 + 12..][..4].copy_from_slice(&(128_u32 << 10).to_le_bytes());
        let too_large = Damage::TooLarge { limit: 128 << 20 };
        assert_eq!(damage(&file), (3, 3 * 1024, too_large));
    }
}
