//! Errors of a snapshot, with their place in the file.

use std::io;

/// Reason for a failed read. There is no partial result.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// Reading the file failed.
    #[error("cannot read the snapshot at offset {offset}")]
    Unreadable {
        /// Bytes from the start of the file.
        offset: u64,
        /// The error of the operating system.
        source: io::Error,
    },
    /// Starting the second thread, which computes the hash, failed.
    #[error("cannot start a thread to verify the snapshot")]
    NoThread(#[source] io::Error),
    /// The file has no trace of a bbolt database.
    #[error("the file is not an etcd snapshot: neither of its first pages is one of bbolt's")]
    NotBbolt,
    /// The length is impossible for a database, with or without a trailing hash.
    #[error(
        "{size} bytes are neither a whole database nor one with its 32-byte hash: the file is cut \
         off"
    )]
    Length {
        /// Length of the file in bytes.
        size: u64,
    },
    /// The file was changed or damaged after etcd wrote it.
    #[error(
        "the SHA-256 at the end of the snapshot is not that of its content: the file was changed or \
         damaged after it was saved; take another copy"
    )]
    WrongHash,
    /// Both meta pages are damaged.
    #[error("neither meta page is sound: the file is damaged")]
    NoMeta,
    /// The file is shorter than its database.
    #[error("the database has {stated} bytes and the file only {present}: it is cut off")]
    CutOff {
        /// Length of the database in bytes, from its meta page.
        stated: u64,
        /// Bytes of the file, without a hash.
        present: u64,
    },
    /// A page is inconsistent.
    #[error("page {page} is damaged at offset {offset} of the file: {damage}")]
    Damaged {
        /// Number of the page.
        page: u64,
        /// Bytes from the start of the file.
        offset: u64,
        /// The kind of damage.
        damage: Damage,
    },
    /// An intact bbolt database of another program.
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
    /// Whether the file is a bbolt database with wrong bytes. Unreadable files and other formats
    /// return false: they show nothing about the data.
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

/// A place in the file, for error reports.
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

/// Kind of damage at one place of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// The page header has another page number.
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
    /// Two references lead to one page.
    #[error("the page is part of another page, or is reached twice")]
    ReachedTwice,
    /// The page and those above it together exceed the memory limit of the reader.
    #[error("the page and its parents have more than {limit} bytes")]
    TooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// The tree is too deep.
    #[error("the page is more than {limit} levels below its root")]
    TooDeep {
        /// Maximum number of levels.
        limit: usize,
    },
    /// The page is neither a branch nor a leaf.
    #[error("the page has flags {flags:#06x}, neither those of a branch nor of a leaf")]
    WrongKind {
        /// The flags of its header.
        flags: u16,
    },
    /// A page without elements, where one is required.
    #[error("the page has no elements")]
    Empty,
    /// An element with an undefined flag.
    #[error("the element has unknown flags {flags:#010x}")]
    UnknownFlags {
        /// The flags of the element.
        flags: u32,
    },
    /// Elements must follow each other without gaps.
    #[error("the element does not begin where the one before it ends")]
    ElementGap,
    /// An element ends after its page.
    #[error("the element reaches beyond its page")]
    ElementOutsidePage,
    /// Keys must ascend.
    #[error("the key does not come after the one before it")]
    KeyOrder,
    /// A key is outside the range given by the pages above.
    #[error("the key is outside the range of its page")]
    KeyOutsideRange,
    /// A bucket in place of a value, or the reverse.
    #[error("the entry is a bucket where a value is due, or the other way round")]
    NotAsDue,
    /// A bucket's header is too short, or its inline page is malformed.
    #[error("the header of the bucket is malformed")]
    Bucket,
    /// The key of an entry is not a revision.
    #[error("the key is no revision key")]
    RevisionKey,
    /// The revision inside an entry differs from that of its key.
    #[error("the entry states revision {stated}, and is stored under another one")]
    OtherRevision {
        /// The revision in the entry.
        stated: i64,
    },
    /// The value of an entry is not a `KeyValue` message.
    #[error("the value is no message of etcd's: {0}")]
    Message(#[from] crate::protobuf::Malformed),
    /// A message without a key.
    #[error("the value has no key")]
    NoKey,
}
