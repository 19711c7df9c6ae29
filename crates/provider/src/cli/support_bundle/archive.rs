//! The archive: tar in gzip, in the order of its files, free of the values of this machine but for
//! the time.

use std::io;

use flate2::{Compression, write::GzEncoder};
use tar::{Builder, EntryType, Header};

/// Packs the files below one directory.
///
/// # Errors
/// A name is unsuitable for an archive.
pub(super) fn pack(
    directory: &str,
    unix_time: u64,
    files: &[(&str, &[u8])],
) -> io::Result<Vec<u8>> {
    let encoder = GzEncoder::new(Vec::new(), Compression::default());
    let mut archive = Builder::new(encoder);
    for (name, content) in files {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Regular);
        header.set_size(u64::try_from(content.len()).unwrap_or(u64::MAX));
        header.set_mode(0o600);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(unix_time);
        archive.append_data(&mut header, format!("{directory}/{name}"), *content)?;
    }
    archive.into_inner()?.finish()
}
