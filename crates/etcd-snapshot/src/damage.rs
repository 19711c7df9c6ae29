//! What can be wrong with a snapshot, and where.

use std::io;

/// Why a snapshot gave no answer. There is no partial one.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The file could not be read.
    #[error("cannot read the snapshot at offset {offset}")]
    Unreadable {
        /// Bytes from the start of the file.
        offset: u64,
        /// What the system said.
        source: io::Error,
    },
    /// The hash is computed on a second thread.
    #[error("cannot start a thread to verify the snapshot")]
    NoThread(#[source] io::Error),
    /// Nothing in the file is of a bbolt database.
    #[error("the file is not an etcd snapshot: neither of its first pages is one of bbolt's")]
    NotBbolt,
    /// No database has this length, with or without a hash after it.
    #[error(
        "{size} bytes are neither a whole database nor one with its 32-byte hash: the file is cut \
         off"
    )]
    Length {
        /// Length of the file in bytes.
        size: u64,
    },
    /// The file is not what etcd wrote.
    #[error(
        "the SHA-256 at the end of the snapshot is not that of its content: the file was changed or \
         damaged after it was saved; take another copy"
    )]
    WrongHash,
    /// Neither copy of the page that leads to all others is sound.
    #[error("neither meta page is sound: the file is damaged")]
    NoMeta,
    /// The file ends before its database does.
    #[error("the database has {stated} bytes and the file only {present}: it is cut off")]
    CutOff {
        /// Length of the database in bytes, as its meta page has it.
        stated: u64,
        /// Bytes of the file, without a hash.
        present: u64,
    },
    /// A page does not hold together.
    #[error("page {page} is damaged at offset {offset} of the file: {damage}")]
    Damaged {
        /// Number of the page.
        page: u64,
        /// Bytes from the start of the file.
        offset: u64,
        /// What is wrong there.
        damage: Damage,
    },
    /// The database is sound but not etcd's.
    #[error(
        "the file is a sound bbolt database without a bucket `{bucket}`, so it is another \
         program's and not an etcd snapshot"
    )]
    NotEtcd {
        /// The missing bucket.
        bucket: &'static str,
    },
}

impl SnapshotError {
    /// Whether the file is a bbolt database with wrong bytes. A file of another form, or one that
    /// could not be read, says nothing of the data.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Unreadable { .. } | Self::NoThread(_) | Self::NotBbolt | Self::NotEtcd { .. } => {
                false
            }
            Self::Length { .. }
            | Self::WrongHash
            | Self::NoMeta
            | Self::CutOff { .. }
            | Self::Damaged { .. } => true,
        }
    }
}

/// A place in the file, to blame for what is found there.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) page: u64,
    pub(crate) offset: u64,
}

impl Place {
    pub(crate) fn is(self, damage: Damage) -> SnapshotError {
        SnapshotError::Damaged {
            page: self.page,
            offset: self.offset,
            damage,
        }
    }
}

/// What is wrong at one place of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// Another page stands here.
    #[error("the page calls itself page {stated}")]
    WrongNumber {
        /// The number in its header.
        stated: u64,
    },
    /// The page is outside the database.
    #[error("the page, with its overflow, lies outside the {pages} pages of the database")]
    OutsideDatabase {
        /// Pages of the database.
        pages: u64,
    },
    /// Two ways lead to one page.
    #[error("the page is part of another page, or is reached twice")]
    ReachedTwice,
    /// The page alone, or all pages above it, exceed what this reader holds at a time.
    #[error("the page and those that lead to it have more than {limit} bytes")]
    TooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// The tree has too many levels.
    #[error("the page is more than {limit} levels below its root")]
    TooDeep {
        /// The limit.
        limit: usize,
    },
    /// Neither a branch nor a leaf.
    #[error("the page has flags {flags:#06x}, neither those of a branch nor of a leaf")]
    WrongKind {
        /// The flags of its header.
        flags: u16,
    },
    /// A page that must have elements has none.
    #[error("the page has no elements")]
    Empty,
    /// An element with a flag that has no meaning.
    #[error("the element has unknown flags {flags:#010x}")]
    UnknownFlags {
        /// The flags of the element.
        flags: u32,
    },
    /// The elements of a page follow each other without gaps, and these do not.
    #[error("the element does not begin where the one before it ends")]
    Gap,
    /// An element ends after its page.
    #[error("the element reaches beyond its page")]
    ElementOutsidePage,
    /// Keys ascend, and this one does not.
    #[error("the key does not come after the one before it")]
    KeyOrder,
    /// The keys of a page lie between those that lead to it.
    #[error("the key is outside the range of its page")]
    KeyOutsideRange,
    /// An entry that should be a bucket, or should not be.
    #[error("the entry is a bucket where a value is due, or the other way round")]
    NotAsDue,
    /// A bucket's header is too short, or its inline page has another form.
    #[error("the header of the bucket is malformed")]
    Bucket,
    /// The key of an entry is not that of a revision.
    #[error("the key is not that of a revision")]
    RevisionKey,
    /// The revision inside an entry is not the one that it is stored under.
    #[error("the entry is of revision {stated}, not of the one that it is stored under")]
    OtherRevision {
        /// The revision in the entry.
        stated: i64,
    },
    /// The value of an entry is no `KeyValue` message.
    #[error("the value is no message of etcd's: {0}")]
    Message(#[from] crate::protobuf::Malformed),
    /// A message without a key.
    #[error("the value has no key")]
    NoKey,
}
