//! Reads the files of an untrusted tar archive. Memory use is independent of the sizes in its
//! headers: names in extra headers are skipped.

use std::io::{self, Read};

use tar::{EntryType, Header, PaxExtensions};

/// Error while reading an archive.
#[derive(Debug, thiserror::Error)]
pub(super) enum TarError {
    #[error("it ends within one of its files")]
    Truncated,
    /// A header is invalid, or a read failed.
    #[error(transparent)]
    Read(#[from] io::Error),
    /// Unsupported layout.
    #[error("it holds a sparse file")]
    Sparse,
}

/// A regular file in an archive.
pub(super) struct TarFile<'a> {
    /// Name in the header of the file itself, which truncates a longer name.
    pub(super) name: &'a [u8],
    /// Modification time in seconds since 1970, from the header.
    pub(super) modified: Option<u64>,
    pub(super) content: &'a mut dyn Read,
}

/// Size of a header in bytes. Content is padded to a multiple of it.
const BLOCK: u64 = 512;
/// Range of the checksum in a header.
const CHECKSUM: std::ops::Range<usize> = 148..156;
/// Maximum number of bytes parsed from an extra header.
const MAX_EXTRA: u64 = 64 << 10;

/// Calls `visit` for each regular file. Skips content left unread.
///
/// # Errors
/// Errors of `visit`, and [`TarError`].
pub(super) fn each_file<E: From<TarError>>(
    mut archive: impl Read,
    mut visit: impl FnMut(TarFile<'_>) -> Result<(), E>,
) -> Result<(), E> {
    // A size too large for the header of the file is in an extra header before it.
    let mut extra_size = None;
    while let Some(header) = next_header(&mut archive)? {
        let kind = header.entry_type();
        let is_file = matches!(kind, EntryType::Regular | EntryType::Continuous);
        let size = match extra_size.take() {
            Some(size) if is_file => size,
            _ => header.entry_size().map_err(TarError::from)?,
        };

        let mut content = (&mut archive).take(size);
        match kind {
            EntryType::GNUSparse => return Err(TarError::Sparse.into()),
            EntryType::XHeader | EntryType::XGlobalHeader => {
                let mut extra = Vec::new();
                let mut start = (&mut content).take(MAX_EXTRA);
                start.read_to_end(&mut extra).map_err(TarError::from)?;
                let stated = size_in(&extra)?;
                extra_size = stated.filter(|_| kind == EntryType::XHeader);
            }
            _ if is_file => visit(TarFile {
                name: &header.path_bytes(),
                modified: header.mtime().ok(),
                content: &mut content,
            })?,
            // Directories, links, and long names of the next file.
            _ => {}
        }

        io::copy(&mut content, &mut io::sink()).map_err(TarError::from)?;
        if content.limit() > 0 {
            return Err(TarError::Truncated.into());
        }
        let padding = size.next_multiple_of(BLOCK).saturating_sub(size);
        let mut padding = (&mut archive).take(padding);
        io::copy(&mut padding, &mut io::sink()).map_err(TarError::from)?;
    }
    Ok(())
}

/// The next header; `None` at the end of the archive.
fn next_header(archive: &mut impl Read) -> Result<Option<Header>, TarError> {
    let mut header = Header::new_old();
    let mut block = Vec::new();
    archive.take(BLOCK).read_to_end(&mut block)?;
    if block.iter().all(|byte| *byte == 0) {
        return Ok(None);
    }

    match header.as_mut_bytes().get_mut(..block.len()) {
        Some(bytes) if u64::try_from(block.len()) == Ok(BLOCK) => bytes.copy_from_slice(&block),
        _ => return Err(TarError::Truncated),
    }

    let sum = block.iter().enumerate().map(|(at, byte)| match at {
        at if CHECKSUM.contains(&at) => u32::from(b' '),
        _ => u32::from(*byte),
    });
    if header.cksum()? != sum.sum::<u32>() {
        let wrong = "the checksum of a header is wrong";
        return Err(io::Error::new(io::ErrorKind::InvalidData, wrong).into());
    }
    Ok(Some(header))
}

/// Size of the next file in an extra header.
fn size_in(extra: &[u8]) -> Result<Option<u64>, TarError> {
    let mut size = None;
    for record in PaxExtensions::new(extra) {
        let record = record?;
        let (keyword, value) = (record.key_bytes(), record.value_bytes());
        if keyword.starts_with(b"GNU.sparse.") {
            return Err(TarError::Sparse);
        }
        if keyword == b"size" {
            let text = std::str::from_utf8(value).ok();
            size = text.and_then(|text| text.parse().ok());
        }
    }
    Ok(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(kind: EntryType, name: &str, size: u64) -> Vec<u8> {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_path(name).unwrap();
        header.set_size(size);
        header.set_mtime(7);
        header.set_cksum();
        header.as_bytes().to_vec()
    }

    fn block(content: &[u8]) -> Vec<u8> {
        let mut block = content.to_vec();
        block.resize(512, 0);
        block
    }

    /// Name and content of a file.
    type NamedFile = (Vec<u8>, Vec<u8>);

    fn files(archive: &[u8]) -> Result<Vec<NamedFile>, TarError> {
        let mut files = Vec::new();
        each_file(archive, |file| {
            let mut content = Vec::new();
            file.content.read_to_end(&mut content)?;
            assert_eq!(file.modified, Some(7));
            files.push((file.name.to_vec(), content));
            Ok::<_, TarError>(())
        })?;
        Ok(files)
    }

    #[test]
    fn regular_files_are_handed_out_and_an_early_end_is_noticed() {
        let archive = [
            header(EntryType::Directory, "d", 0),
            header(EntryType::Regular, "d/one", 3),
            block(b"one"),
            // Precedes a file of more than 8 GiB.
            header(EntryType::XHeader, "x", 9),
            block(b"9 size=3\n"),
            header(EntryType::Regular, "two", 0),
            block(b"two"),
        ];
        let archive = [&archive.concat()[..], &[0; 1024], b"ignored"].concat();
        let found = files(&archive).unwrap();
        let name = |name: &str, content: &str| (name.as_bytes().to_vec(), content.into());
        assert_eq!(found, [name("d/one", "one"), name("two", "two")]);
        for cut in [100, 512 + 100, 1024 + 1, 5 * 512 + 2, 6 * 512 + 1] {
            assert!(
                matches!(files(&archive[..cut]), Err(TarError::Truncated)),
                "{cut}"
            );
        }
        let mut wrong = archive;
        wrong[512] ^= 1;
        assert!(matches!(files(&wrong), Err(TarError::Read(_))));
    }

    #[test]
    fn a_sparse_file_is_not_taken_for_its_content() {
        for archive in [
            header(EntryType::GNUSparse, "s", 0),
            [
                header(EntryType::XHeader, "x", 22),
                block(b"22 GNU.sparse.major=1\n"),
            ]
            .concat(),
        ] {
            assert!(matches!(files(&archive), Err(TarError::Sparse)));
        }
    }
}
