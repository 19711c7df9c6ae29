//! The byte source of a snapshot, and the progress of a read.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use crate::damage::SnapshotError;

/// A source of bytes. Two threads read from it concurrently.
pub trait ReadAt: Sync {
    /// Size in bytes.
    ///
    /// # Errors
    /// When the system cannot report the size.
    fn size(&self) -> io::Result<u64>;

    /// Fills `buffer` with the bytes from `offset` on.
    ///
    /// # Errors
    /// When the bytes cannot be read, or the source ends before them.
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

/// Progress of a read, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes read so far. A file with a hash is read twice, and both reads count.
    pub done: u64,
    /// Maximum of `done`. A read may end below it, because unused pages are skipped.
    pub total: u64,
}

/// Called with the progress after each page, from any thread.
pub type OnProgress<'p> = &'p (dyn Fn(Progress) + Sync);

/// Sums the bytes read by both threads.
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
