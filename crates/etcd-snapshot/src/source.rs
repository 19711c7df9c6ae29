//! The bytes of a snapshot, and the progress of reading them.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use crate::damage::SnapshotError;

/// Where the bytes come from. Two threads read at once.
pub trait ReadAt: Sync {
    /// Their number.
    ///
    /// # Errors
    /// When the system does not tell.
    fn size(&self) -> io::Result<u64>;

    /// Fills `buffer` with the bytes from `offset` on.
    ///
    /// # Errors
    /// When they cannot be read or there are fewer.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
}

impl ReadAt for File {
    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        FileExt::read_exact_at(self, buffer, offset)
    }
}

impl ReadAt for [u8] {
    fn size(&self) -> io::Result<u64> {
        u64::try_from(self.len()).map_err(io::Error::other)
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let end = start.saturating_add(buffer.len());
        let bytes = self.get(start..end).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(bytes);
        Ok(())
    }
}

pub(crate) fn read_at<S: ReadAt + ?Sized>(
    source: &S,
    buffer: &mut [u8],
    offset: u64,
) -> Result<(), SnapshotError> {
    source
        .read_exact_at(buffer, offset)
        .map_err(|source| SnapshotError::Unreadable { offset, source })
}

/// How far a reading has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes read so far. Those of a file with a hash are read twice.
    pub done: u64,
    /// All bytes there are to read. A reading can end before them, at pages that are not in use.
    pub total: u64,
}

/// Hears of the progress, for each page and from any thread.
pub type OnProgress<'p> = &'p (dyn Fn(Progress) + Sync);

/// Counts for both threads what they have read.
pub(crate) struct Meter<'p> {
    on_progress: OnProgress<'p>,
    done: AtomicU64,
    total: u64,
}

impl<'p> Meter<'p> {
    pub(crate) fn new(total: u64, on_progress: OnProgress<'p>) -> Self {
        Self {
            on_progress,
            done: AtomicU64::new(0),
            total,
        }
    }

    pub(crate) fn add(&self, bytes: u64) {
        let before = self.done.fetch_add(bytes, Relaxed);
        (self.on_progress)(Progress {
            done: before.saturating_add(bytes),
            total: self.total,
        });
    }
}
