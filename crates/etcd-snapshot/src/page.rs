//! One page of the database and its elements, with all bounds checked.
//! Implements `docs/format/etcd-snapshot.md` section 3.

use crate::damage::{Damage, Place, SnapshotError};

/// Size of a page header, and of an element of either kind, in bytes.
pub(crate) const HEADER: usize = 16;
const ELEMENT: usize = 16;

const BRANCH: u16 = 0x01;
const LEAF: u16 = 0x02;
const META: u16 = 0x04;
/// The only flag of a leaf element.
const IS_BUCKET: u32 = 0x01;

/// The header of every page.
pub(crate) struct Header {
    pub(crate) id: u64,
    flags: u16,
    count: u16,
    /// Number of further pages that belong to this one.
    pub(crate) overflow: u32,
}

impl Header {
    /// Returns `None` if there are too few bytes.
    pub(crate) fn read(bytes: &[u8], order: ByteOrder) -> Option<Self> {
        Some(Self {
            id: order.u64_at(bytes, 0)?,
            flags: order.u16_at(bytes, 8)?,
            count: order.u16_at(bytes, 10)?,
            overflow: order.u32_at(bytes, 12)?,
        })
    }

    /// Whether it is a valid header of meta page `id`.
    pub(crate) fn is_meta(&self, id: u64) -> bool {
        self.id == id && self.flags == META && self.count == 0 && self.overflow == 0
    }
}

/// Byte order of the machine that wrote the database; it applies to every integer of bbolt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ByteOrder {
    Little,
    /// For example s390x.
    Big,
}

impl ByteOrder {
    pub(crate) const ALL: [Self; 2] = [Self::Little, Self::Big];

    pub(crate) fn u16_at(self, bytes: &[u8], at: usize) -> Option<u16> {
        let bytes = *bytes.get(at..)?.first_chunk()?;
        Some(match self {
            Self::Little => u16::from_le_bytes(bytes),
            Self::Big => u16::from_be_bytes(bytes),
        })
    }

    pub(crate) fn u32_at(self, bytes: &[u8], at: usize) -> Option<u32> {
        let bytes = *bytes.get(at..)?.first_chunk()?;
        Some(match self {
            Self::Little => u32::from_le_bytes(bytes),
            Self::Big => u32::from_be_bytes(bytes),
        })
    }

    pub(crate) fn u64_at(self, bytes: &[u8], at: usize) -> Option<u64> {
        let bytes = *bytes.get(at..)?.first_chunk()?;
        Some(match self {
            Self::Little => u64::from_le_bytes(bytes),
            Self::Big => u64::from_be_bytes(bytes),
        })
    }
}

/// A branch or a leaf page with unread elements.
#[derive(Clone, Copy)]
pub(crate) struct Page<'a> {
    /// Includes all overflow.
    bytes: &'a [u8],
    order: ByteOrder,
    /// Start of the page.
    place: Place,
    pub(crate) kind: Kind,
    pub(crate) count: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Branch,
    Leaf,
}

/// A reference to another page, whose keys are all at or after `key`.
pub(crate) struct Branch<'a> {
    pub(crate) key: &'a [u8],
    pub(crate) child: u64,
    pub(crate) place: Place,
}

/// A key with its value.
#[derive(Clone, Copy)]
pub(crate) struct Leaf<'a> {
    pub(crate) key: &'a [u8],
    pub(crate) value: &'a [u8],
    pub(crate) is_bucket: bool,
    /// Place of the element; its key is elsewhere.
    pub(crate) place: Place,
    /// Start of the value.
    pub(crate) value_offset: u64,
}

impl<'a> Page<'a> {
    /// Parses the page in all of `bytes`, starting at `place`. The order of the keys and the
    /// position of every element are checked here, so later reads of elements need no further
    /// check.
    pub(crate) fn parse(
        bytes: &'a [u8],
        order: ByteOrder,
        place: Place,
    ) -> Result<Self, SnapshotError> {
        let header =
            Header::read(bytes, order).ok_or_else(|| place.is(Damage::ElementOutsidePage))?;
        let kind = match header.flags {
            BRANCH => Kind::Branch,
            LEAF => Kind::Leaf,
            flags => return Err(place.is(Damage::WrongKind { flags })),
        };
        let page = Self {
            bytes,
            order,
            place,
            kind,
            count: header.count.into(),
        };
        page.check()?;
        Ok(page)
    }

    /// bbolt writes the content of the elements directly after their table and without gaps. A
    /// wrong count, position or length leaves a gap, except in the last value.
    fn check(&self) -> Result<(), SnapshotError> {
        let table = self.count.saturating_mul(ELEMENT);
        let mut due = HEADER.saturating_add(table);
        let mut before: Option<&[u8]> = None;

        for index in 0..self.count {
            let raw = self.raw(index)?;
            if raw.start != due {
                return Err(raw.place.is(Damage::ElementGap));
            }
            if before.is_some_and(|before| before >= raw.key) {
                return Err(raw.place.is(Damage::KeyOrder));
            }
            before = Some(raw.key);
            due = raw.end;
        }
        Ok(())
    }

    /// The element at `index`, which must be below `count`.
    pub(crate) fn branch(&self, index: usize) -> Result<Branch<'a>, SnapshotError> {
        let raw = self.raw(index)?;
        Ok(Branch {
            key: raw.key,
            child: raw.child,
            place: raw.place,
        })
    }

    /// The element at `index`, which must be below `count`.
    pub(crate) fn leaf(&self, index: usize) -> Result<Leaf<'a>, SnapshotError> {
        let raw = self.raw(index)?;
        Ok(Leaf {
            key: raw.key,
            value: raw.value,
            is_bucket: raw.is_bucket,
            place: raw.place,
            value_offset: self.offset(raw.end.saturating_sub(raw.value.len())),
        })
    }

    fn raw(&self, index: usize) -> Result<Raw<'a>, SnapshotError> {
        let at = HEADER.saturating_add(index.saturating_mul(ELEMENT));
        let place = Place {
            offset: self.offset(at),
            ..self.place
        };
        let outside = || place.is(Damage::ElementOutsidePage);

        let element = self.bytes.get(at..).ok_or_else(outside)?;
        let order = self.order;

        let (pos, key_size, value_size, child, flags) = match self.kind {
            Kind::Branch => (
                order.u32_at(element, 0),
                order.u32_at(element, 4),
                Some(0),
                order.u64_at(element, 8),
                Some(0),
            ),
            Kind::Leaf => (
                order.u32_at(element, 4),
                order.u32_at(element, 8),
                order.u32_at(element, 12),
                Some(0),
                order.u32_at(element, 0),
            ),
        };
        let (Some(pos), Some(key_size), Some(value_size), Some(child), Some(flags)) =
            (pos, key_size, value_size, child, flags)
        else {
            return Err(outside());
        };

        if flags & !IS_BUCKET != 0 {
            return Err(place.is(Damage::UnknownFlags { flags }));
        }

        let start = advance(at, pos).ok_or_else(outside)?;
        let middle = advance(start, key_size).ok_or_else(outside)?;
        let end = advance(middle, value_size).ok_or_else(outside)?;

        Ok(Raw {
            key: self.bytes.get(start..middle).ok_or_else(outside)?,
            value: self.bytes.get(middle..end).ok_or_else(outside)?,
            child,
            is_bucket: flags & IS_BUCKET != 0,
            start,
            end,
            place,
        })
    }

    fn offset(&self, within: usize) -> u64 {
        self.place
            .offset
            .saturating_add(u64::try_from(within).unwrap_or(u64::MAX))
    }
}

/// An element of either kind.
struct Raw<'a> {
    key: &'a [u8],
    value: &'a [u8],
    child: u64,
    is_bucket: bool,
    start: usize,
    end: usize,
    place: Place,
}

fn advance(from: usize, by: u32) -> Option<usize> {
    from.checked_add(usize::try_from(by).ok()?)
}
