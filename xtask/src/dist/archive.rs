//! Archives whose bytes depend only on names, modes, content and time of their files.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use tar::{Builder, EntryType, Header};

use super::Entry;
use crate::process::Error;

/// A tar archive of the files and of their directories, all owned by root.
pub(super) fn tar(entries: &[Entry], below: &str, epoch: u64) -> Result<Vec<u8>, Error> {
    build(entries, below, epoch).map_err(Error::file("archive", Path::new(below)))
}

fn build(entries: &[Entry], below: &str, epoch: u64) -> io::Result<Vec<u8>> {
    let mut archive = Builder::new(Vec::new());
    let mut made = BTreeSet::new();
    let header = |kind: EntryType, mode: u32, size: usize| {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size.try_into().unwrap_or(u64::MAX));
        header.set_mtime(epoch);
        header.set_uid(0);
        header.set_gid(0);
        header
    };
    for entry in entries {
        let path = format!("{below}{}", entry.path);
        for (at, _) in path.match_indices('/') {
            let directory = path.get(..=at).unwrap_or_default();
            if made.insert(directory.to_owned()) {
                let mut header = header(EntryType::Directory, 0o755, 0);
                archive.append_data(&mut header, directory, io::empty())?;
            }
        }
        let mut header = header(EntryType::Regular, entry.mode, entry.bytes.len());
        archive.append_data(&mut header, &path, &*entry.bytes)?;
    }
    archive.into_inner()
}
