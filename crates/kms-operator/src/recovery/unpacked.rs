//! Unpacks an etcd snapshot from a backup archive for the duration of a command.
//!
//! The unpacked data is in an unnamed file, accessible to this process only. The kernel removes it
//! at process exit, including a crash. As protection against hostile archives, its size is limited
//! and part of the file system stays free.

use std::{
    cell::Cell,
    env,
    error::Error,
    fs::{self, File, OpenOptions},
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use etcd_snapshot::file::is_database;
use flate2::bufread::MultiGzDecoder;
use kms_node::advice::{Found, snapshot};
use rustix::{
    fs::{Mode, OFlags, fstatvfs},
    io::Errno,
    rand::{GetRandomFlags, getrandom},
};
use ruzstd::decoding::{
    BlockDecodingStrategy, FrameDecoder,
    errors::{FrameDecoderError, ReadFrameHeaderError},
};
use zip::{ZipArchive, result::ZipError};

use super::{
    form::Form,
    tar_files::{TarError, each_file},
};

/// Size limit of an unpacked snapshot in bytes: twice the largest database size recommended by
/// etcd.
pub const MAX_UNPACKED: u64 = 16 << 30;
/// Largest space in bytes to keep free on the temporary file system.
const MAX_RESERVE: u64 = 1 << 30;
/// Number of bytes written between two checks of the free space.
const LOOK: u64 = 16 << 20;
/// Number of leading bytes for format detection. They contain both meta pages of a database with
/// the largest page size.
const HEAD: u64 = 68 << 10;

/// Failure for a file other than a bbolt database. The integrity of the data remains unknown.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    #[error("cannot read the file")]
    Read(#[source] io::Error),
    /// Known format without an etcd snapshot.
    #[error("the file is {0}, not an etcd snapshot")]
    NotASnapshot(Form),
    /// Unknown format.
    #[error("the file has no known format: it is not an etcd snapshot")]
    Unknown,
    /// The archive contains other data.
    #[error("the file is {archive} with {} instead of an etcd snapshot", known(*.content))]
    Holds {
        archive: Form,
        /// Format of its content; `None` if unknown.
        content: Option<Form>,
    },
    /// The archive contains no file, or several.
    #[error("the file is {archive} with {files}; it must hold the etcd snapshot and no other file")]
    Files {
        archive: Form,
        /// `no file` or `several files`.
        files: &'static str,
    },
    /// The archive ends prematurely.
    #[error("the file is {0}, truncated: its content is unknown")]
    Truncated(Form),
    /// The archive violates its format.
    #[error("the file is {archive}, damaged or truncated: its content is unknown")]
    Damaged {
        archive: Form,
        #[source]
        source: io::Error,
    },
    /// The archive uses an unsupported feature.
    #[error("the file is {archive} with an unsupported feature: {what}")]
    Unsupported {
        archive: Form,
        /// Name of the feature.
        what: String,
    },
    /// The content exceeds the size limit.
    #[error(
        "the file is {archive} that holds more than {} GiB, more than any etcd database; nothing \
         of it was kept", limit >> 30
    )]
    TooLarge {
        archive: Form,
        /// Limit in bytes.
        limit: u64,
    },
    /// Free space is insufficient for the content.
    #[error(
        "no room to unpack {archive} in {}: a twentieth of the file system must stay free, at most \
         1 GiB", directory.display()
    )]
    NoRoom {
        archive: Form,
        /// Directory of temporary files.
        directory: PathBuf,
    },
    /// A temporary file could not be created or written.
    #[error("cannot write a temporary file in {} to unpack the file", directory.display())]
    Temporary {
        /// Directory of temporary files.
        directory: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The file changed during or after unpacking.
    #[error("the file was written to while it was read")]
    Changed,
}

fn known(content: Option<Form>) -> String {
    content.map_or_else(|| "something else".to_owned(), |form| form.to_string())
}

impl UnpackError {
    /// Cause of the failure, for the file at `path`.
    #[must_use]
    pub fn cause(&self, path: &Path) -> Found {
        let cause = match self {
            Self::NotASnapshot(form) => return form.cause(path),
            Self::Holds { archive, .. }
            | Self::Files { archive, .. }
            | Self::Unsupported { archive, .. }
            | Self::TooLarge { archive, .. } => return archive.cause(path),
            Self::Unknown => return Form::Database.cause(path),
            Self::Read(_) | Self::Truncated(_) | Self::Damaged { .. } | Self::Changed => {
                &snapshot::UNREADABLE
            }
            Self::NoRoom { .. } | Self::Temporary { .. } => &snapshot::NO_ROOM,
        };
        (cause, Vec::new())
    }
}

/// Unpacks the etcd snapshot in `file`, which must not itself be a bbolt database.
///
/// # Errors
/// [`UnpackError`].
pub(super) fn unpack(file: &File) -> Result<File, UnpackError> {
    unpack_to(file, &env::temp_dir(), MAX_UNPACKED)
}

fn unpack_to(file: &File, directory: &Path, limit: u64) -> Result<File, UnpackError> {
    if let Some(form) = Form::of_kind(file).map_err(UnpackError::Read)? {
        return Err(UnpackError::NotASnapshot(form));
    }
    let source = Source::new(file);
    let head = source.head().map_err(UnpackError::Read)?;
    let archive = Form::of(&head).ok_or(UnpackError::Unknown)?;
    let unpacking = Unpacking {
        archive,
        source: &source,
        directory,
        limit,
    };
    let buffered = BufReader::new(&source);
    match archive {
        Form::Gzip => unpacking.stream(MultiGzDecoder::new(buffered)),
        Form::Zstd => unpacking.stream(ZstdFrames::new(buffered)),
        Form::Tar => unpacking.only_file(buffered),
        Form::Zip => unpacking.zip(buffered),
        form => Err(UnpackError::NotASnapshot(form)),
    }
}

/// Unpacking of one archive.
struct Unpacking<'a> {
    archive: Form,
    source: &'a Source<'a>,
    directory: &'a Path,
    limit: u64,
}

impl Unpacking<'_> {
    /// Unpacks a compressed stream: a snapshot, or a tar archive with a snapshot.
    fn stream(&self, mut content: impl Read) -> Result<File, UnpackError> {
        let head = self.head(&mut content)?;
        let content_form = Form::of(head.get_ref());
        let mut content = head.chain(content);
        match content_form {
            Some(Form::Tar) => self.only_file(content),
            _ => self.keep(&mut content),
        }
    }

    fn only_file(&self, mut archive: impl Read) -> Result<File, UnpackError> {
        let mut kept = None;
        let mut is_first = true;
        let walked = each_file(&mut archive, |file| {
            if !is_first {
                return Err(Stop::Unpack(self.files("several files")));
            }
            is_first = false;
            if matches!(file.name, b"meta.json" | b"state.bin") {
                return Err(Stop::Unpack(UnpackError::NotASnapshot(Form::RaftSnapshot)));
            }
            kept = Some(self.keep(file.content).map_err(Stop::Unpack)?);
            Ok(())
        });

        walked.map_err(|stop| match stop {
            Stop::Unpack(error) => error,
            Stop::Tar(TarError::Truncated) => self.wrong(io::ErrorKind::UnexpectedEof.into()),
            Stop::Tar(TarError::Read(error)) => self.wrong(error),
            Stop::Tar(error @ TarError::Sparse) => self.unsupported(&error),
        })?;

        // Reads the remainder after the tar archive, to verify the checksum of the compression.
        let mut rest = archive.take(self.limit);
        io::copy(&mut rest, &mut io::sink()).map_err(|error| self.wrong(error))?;
        kept.ok_or_else(|| self.files("no file"))
    }

    fn zip(&self, archive: impl Read + Seek) -> Result<File, UnpackError> {
        let mut archive = ZipArchive::new(archive).map_err(|error| self.wrong_zip(error))?;
        let mut found = None;
        for index in 0..archive.len() {
            let entry = archive.by_index_raw(index);
            let is_file = entry.map_err(|error| self.wrong_zip(error))?.is_file();
            if is_file && found.replace(index).is_some() {
                return Err(self.files("several files"));
            }
        }
        let index = found.ok_or_else(|| self.files("no file"))?;
        let entry = archive.by_index(index);
        self.keep(&mut entry.map_err(|error| self.wrong_zip(error))?)
    }

    /// Writes the content to an unnamed file, if it starts like a bbolt database.
    fn keep(&self, content: &mut dyn Read) -> Result<File, UnpackError> {
        let head = self.head(content)?;
        let is_database = is_database(head.get_ref().as_slice()).unwrap_or(false);
        if !is_database {
            return Err(UnpackError::Holds {
                archive: self.archive,
                content: Form::of(head.get_ref()),
            });
        }

        let mut file = nameless(self.directory).map_err(|error| self.not_written(error))?;
        let mut content = head.chain(content);
        let mut buffer = vec![0; 1 << 16];
        let (mut written, mut looked) = (0_u64, 0_u64);

        loop {
            let read = content
                .read(&mut buffer)
                .map_err(|error| self.wrong(error))?;
            let Some(part) = buffer.get(..read).filter(|part| !part.is_empty()) else {
                return Ok(file);
            };
            let after = written.saturating_add(u64::try_from(read).unwrap_or(u64::MAX));
            if after > self.limit {
                return Err(UnpackError::TooLarge {
                    archive: self.archive,
                    limit: self.limit,
                });
            }
            if written == 0 || after.saturating_sub(looked) > LOOK {
                looked = after;
                let room = fstatvfs(&file).map_err(|error| self.not_written(error.into()))?;
                let free = room.f_bavail.saturating_mul(room.f_frsize);
                if free < reserve(room.f_blocks.saturating_mul(room.f_frsize)) {
                    return Err(self.not_written(io::ErrorKind::StorageFull.into()));
                }
            }
            file.write_all(part)
                .map_err(|error| self.not_written(error))?;
            written = after;
        }
    }

    fn head(&self, content: &mut dyn Read) -> Result<io::Cursor<Vec<u8>>, UnpackError> {
        let mut head = Vec::new();
        let read = content.take(HEAD).read_to_end(&mut head);
        read.map_err(|error| self.wrong(error))?;
        Ok(io::Cursor::new(head))
    }

    fn files(&self, files: &'static str) -> UnpackError {
        UnpackError::Files {
            archive: self.archive,
            files,
        }
    }

    fn unsupported(&self, feature: &dyn Error) -> UnpackError {
        UnpackError::Unsupported {
            archive: self.archive,
            what: feature.to_string(),
        }
    }

    /// Cause of a failed read of the archive.
    fn wrong(&self, error: io::Error) -> UnpackError {
        let archive = self.archive;
        if self.source.has_failed() {
            return UnpackError::Read(error);
        }
        match error.kind() {
            io::ErrorKind::Unsupported => self.unsupported(&error),
            io::ErrorKind::UnexpectedEof => UnpackError::Truncated(archive),
            _ if self.source.ended.get() => UnpackError::Truncated(archive),
            _ => UnpackError::Damaged {
                archive,
                source: error,
            },
        }
    }

    fn wrong_zip(&self, error: ZipError) -> UnpackError {
        let archive = self.archive;
        match error {
            ZipError::Io(error) => self.wrong(error),
            ZipError::UnsupportedArchive(_) | ZipError::CompressionMethodNotSupported(_) => {
                self.unsupported(&error)
            }
            // The directory of a zip archive is at its end, so a truncated archive counts as
            // damaged.
            error => match self.source.has_failed() {
                true => UnpackError::Read(io::Error::other(error)),
                false => UnpackError::Damaged {
                    archive,
                    source: io::Error::other(error),
                },
            },
        }
    }

    fn not_written(&self, source: io::Error) -> UnpackError {
        let directory = self.directory.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => UnpackError::NoRoom {
                archive: self.archive,
                directory,
            },
            _ => UnpackError::Temporary { directory, source },
        }
    }
}

/// Error while reading a tar archive.
enum Stop {
    Tar(TarError),
    Unpack(UnpackError),
}

impl From<TarError> for Stop {
    fn from(error: TarError) -> Self {
        Self::Tar(error)
    }
}

/// The original file. Distinguishes a premature end, damage, and disk errors.
pub(super) struct Source<'f> {
    file: &'f File,
    ended: Cell<bool>,
    failed: Cell<bool>,
}

impl<'f> Source<'f> {
    pub(super) fn new(file: &'f File) -> Self {
        Self {
            file,
            ended: Cell::new(false),
            failed: Cell::new(false),
        }
    }

    /// The first bytes, for format detection. The next reading starts at the beginning.
    pub(super) fn head(&self) -> io::Result<Vec<u8>> {
        let mut reader = self;
        let mut head = Vec::new();
        reader.rewind()?;
        reader.take(HEAD).read_to_end(&mut head)?;
        reader.rewind()?;
        self.ended.set(false);
        Ok(head)
    }

    /// Whether reading from disk failed.
    pub(super) fn has_failed(&self) -> bool {
        self.failed.get()
    }
}

impl Read for &Source<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut file = self.file;
        let read = file.read(buffer);
        match &read {
            Ok(0) if !buffer.is_empty() => self.ended.set(true),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => self.failed.set(true),
        }
        read
    }
}

impl Seek for &Source<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let mut file = self.file;
        file.seek(to)
    }
}

/// Number of bytes to keep free on a file system of `total` bytes: a twentieth, at most
/// [`MAX_RESERVE`]. A fraction alone would refuse a small snapshot on a large disk.
fn reserve(total: u64) -> u64 {
    (total / 20).min(MAX_RESERVE)
}

/// Creates an unnamed file. Only this process can access it, until it exits.
fn nameless(directory: &Path) -> io::Result<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC | OFlags::EXCL;
    match rustix::fs::open(directory, flags, Mode::RUSR | Mode::WUSR) {
        Ok(file) => Ok(file.into()),
        // Some network and overlay file systems do not support unnamed files.
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => unlinked(directory),
        Err(error) => Err(error.into()),
    }
}

/// Fallback: creates a named file and removes the name while the file is empty.
fn unlinked(directory: &Path) -> io::Result<File> {
    let mut random = [0; 16];
    getrandom(&mut random, GetRandomFlags::empty())?;
    let name = format!(".bao-kms-{:032x}", u128::from_ne_bytes(random));
    let path = directory.join(name);
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true).mode(0o600);
    let file = options.open(&path)?;
    fs::remove_file(&path)?;
    Ok(file)
}

/// Decodes all frames of a zstd file and verifies the checksum of each.
struct ZstdFrames<R> {
    source: R,
    decoder: FrameDecoder,
    in_frame: bool,
}

impl<R: BufRead> ZstdFrames<R> {
    fn new(source: R) -> Self {
        Self {
            source,
            decoder: FrameDecoder::new(),
            in_frame: false,
        }
    }

    /// Advances to the next frame with content; `false` at the end.
    fn next_frame(&mut self) -> io::Result<bool> {
        loop {
            if self.source.fill_buf()?.is_empty() {
                return Ok(false);
            }
            let skip = match self.decoder.reset(&mut self.source) {
                Ok(()) => return Ok(true),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => u64::from(length),
                Err(error) => return Err(unread_frame(error)),
            };
            let skipped = io::copy(&mut (&mut self.source).take(skip), &mut io::sink())?;
            if skipped < skip {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

fn unread_frame(error: FrameDecoderError) -> io::Error {
    let kind = match error {
        FrameDecoderError::WindowSizeTooBig { .. } | FrameDecoderError::DictNotProvided { .. } => {
            io::ErrorKind::Unsupported
        }
        _ => io::ErrorKind::InvalidData,
    };
    io::Error::new(kind, error)
}

impl<R: BufRead> Read for ZstdFrames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if !self.in_frame {
                if !self.next_frame()? {
                    return Ok(0);
                }
                self.in_frame = true;
            }
            while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                let one = BlockDecodingStrategy::UptoBlocks(1);
                let decoded = self.decoder.decode_blocks(&mut self.source, one);
                decoded.map_err(unread_frame)?;
            }
            let read = self.decoder.read(buffer)?;
            if read > 0 {
                return Ok(read);
            }
            let stated = self.decoder.get_checksum_from_data();
            if stated.is_some() && stated != self.decoder.get_calculated_checksum() {
                let wrong = "the checksum of a frame is wrong";
                return Err(io::Error::new(io::ErrorKind::InvalidData, wrong));
            }
            self.in_frame = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write, os::unix::fs::MetadataExt as _};

    use flate2::{Compression, write::GzEncoder};
    use tempfile::TempDir;

    use super::*;

    /// A gzip archive of zeros after the header of a database.
    fn bomb(bytes: usize) -> (TempDir, File) {
        let directory = TempDir::new().unwrap();
        let mut file = File::create_new(directory.path().join("bomb.gz")).unwrap();
        let mut gzip = GzEncoder::new(&mut file, Compression::fast());
        let mut content = vec![0; bytes];
        content[8] = 4;
        gzip.write_all(&content).unwrap();
        gzip.finish().unwrap();
        let file = File::open(directory.path().join("bomb.gz")).unwrap();
        (directory, file)
    }

    fn is_empty(directory: &TempDir) -> bool {
        fs::read_dir(directory.path()).unwrap().next().is_none()
    }

    #[test]
    fn what_is_larger_than_the_limit_is_not_kept() {
        let (_archive, file) = bomb(1 << 20);
        let directory = TempDir::new().unwrap();
        let unpacked = unpack_to(&file, directory.path(), 1 << 20).unwrap();
        assert_eq!(unpacked.metadata().unwrap().len(), 1 << 20);
        assert!(is_empty(&directory));
        let error = unpack_to(&file, directory.path(), (1 << 20) - 1).unwrap_err();
        assert!(matches!(error, UnpackError::TooLarge { .. }), "{error}");
        assert!(is_empty(&directory));
    }

    #[test]
    fn a_large_disk_with_little_free_space_takes_a_small_snapshot() {
        assert_eq!(reserve(64 << 20), (64 << 20) / 20);
        assert_eq!(reserve(20 << 30), 1 << 30);
        assert_eq!(reserve(252 << 30), 1 << 30);
        assert_eq!(reserve(u64::MAX), 1 << 30);
    }

    #[test]
    fn without_a_directory_for_it_the_error_names_the_variable() {
        let (_archive, file) = bomb(1 << 17);
        let error = unpack_to(&file, Path::new("/nonexistent"), 1 << 20).unwrap_err();
        assert!(error.to_string().contains("/nonexistent"), "{error}");
        let (cause, _) = error.cause(Path::new("etcd.db"));
        assert_eq!(cause, &snapshot::NO_ROOM);
    }

    #[test]
    fn a_temporary_file_has_no_name_and_no_other_reader() {
        let directory = TempDir::new().unwrap();
        for file in [nameless(directory.path()), unlinked(directory.path())] {
            let facts = file.unwrap().metadata().unwrap();
            assert_eq!(facts.nlink(), 0);
            assert_eq!(facts.mode() & 0o777, 0o600);
            assert!(is_empty(&directory));
        }
    }

    #[test]
    fn every_frame_of_a_zstd_file_is_read_and_held_against_its_checksum() {
        let frame = |content: &[u8]| {
            let level = ruzstd::encoding::CompressionLevel::Fastest;
            ruzstd::encoding::compress_to_vec(content, level)
        };
        let skipped = b"\x50\x2a\x4d\x18\x03\0\0\0abc";
        let file = [skipped, &frame(b"one ")[..], skipped, &frame(b"two")].concat();
        let read = |file: &[u8]| {
            let mut content = Vec::new();
            let read = ZstdFrames::new(file).read_to_end(&mut content);
            read.map(|_| content)
        };
        assert_eq!(read(&file).unwrap(), b"one two");
        for cut in 1..file.len() {
            if let Ok(content) = read(&file[..cut]) {
                assert!(b"one two".starts_with(&content[..]) && content.len() < 7);
            }
        }
        let mut damaged = file;
        let last = damaged.len() - 1;
        damaged[last] ^= 1;
        assert!(read(&damaged).is_err());
    }
}
