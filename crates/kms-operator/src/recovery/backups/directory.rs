//! Files of a directory with backups: of etcdctl, k3s and RKE2, etcd-druid, Talos, Velero. Content decides on
//! the kind of a file; its name only tells the time, and which files cannot be read alone.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use jiff::Timestamp;

/// etcd-druid has two levels below its directory.
const DEPTH: usize = 3;

/// A file with the time of its creation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupFile {
    pub path: PathBuf,
    /// Relative to the directory.
    pub name: String,
    pub made: SystemTime,
    pub made_by: MadeBy,
}

/// Source of the creation time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MadeBy {
    /// Time inside a raft snapshot.
    Archive,
    /// `recordedAt` of a record with the hash of the file.
    Record,
    /// Seconds or RFC 3339 in the name.
    Name,
    /// Modification time of the file.
    ModificationTime,
}

impl MadeBy {
    /// Code in reports.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Archive => "archive",
            Self::Record => "record",
            Self::Name => "name",
            Self::ModificationTime => "modification-time",
        }
    }
}

/// Lists the regular files of a directory and of those in it. Links are left out: they are second
/// names, such as `latest`.
///
/// # Errors
/// A directory or the facts of a file cannot be read.
pub fn list(directory: &Path) -> io::Result<Vec<BackupFile>> {
    let mut files = Vec::new();
    add(directory, directory, DEPTH, &mut files)?;
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

fn add(root: &Path, directory: &Path, depth: usize, files: &mut Vec<BackupFile>) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let (path, kind) = (entry.path(), entry.file_type()?);
        if kind.is_dir() && depth > 1 {
            add(root, &path, depth - 1, files)?;
        } else if kind.is_file() {
            let name = path.strip_prefix(root).unwrap_or(&path);
            let name = name.display().to_string();
            let named = named_time(&entry.file_name().display().to_string());
            let (made, made_by) = match named {
                Some(made) => (made, MadeBy::Name),
                None => (entry.metadata()?.modified()?, MadeBy::ModificationTime),
            };
            files.push(BackupFile {
                path,
                name,
                made,
                made_by,
            });
        }
    }
    Ok(())
}

impl BackupFile {
    /// Whether the name is that of a JSON document, such as a backup record.
    #[must_use]
    pub fn may_be_record(&self) -> bool {
        self.path.extension().is_some_and(|it| it == "json")
    }

    /// Reason why the file cannot be read alone, by its name.
    #[must_use]
    pub fn unreadable_by_name(&self) -> Option<&'static str> {
        let name = self.path.file_name()?.to_str()?;
        if name.starts_with("Incr-") {
            Some("an incremental snapshot of etcd-druid: restore it with its full snapshot first")
        } else if [".age", ".gpg", ".enc"]
            .iter()
            .any(|end| name.ends_with(end))
        {
            Some("an encrypted file: decrypt it first")
        } else {
            None
        }
    }

    /// Replaces the time by one of a better source.
    pub fn set_made(&mut self, made: SystemTime, made_by: MadeBy) {
        self.made = made;
        self.made_by = made_by;
    }
}

/// Time in a file name: Unix seconds of ten digits between other characters (k3s, RKE2, etcd-druid), or
/// RFC 3339 in its long or short form (Talos).
fn named_time(name: &str) -> Option<SystemTime> {
    let parts = name.split(|c: char| !c.is_ascii_digit());
    let seconds = parts.filter(|part| part.len() == 10 && part.starts_with(['1', '2']));
    let seconds = seconds.filter_map(|part| part.parse().ok()).next_back();
    let written = || {
        let sizes = ["2026-11-30T06:16:43Z".len(), "20261130T061643Z".len()];
        let starts = 0..name.len();
        let mut texts =
            starts.flat_map(|from| sizes.map(|size| name.get(from..from.checked_add(size)?)));
        let time = texts.find_map(|text| text?.parse::<Timestamp>().ok())?;
        u64::try_from(time.as_second()).ok()
    };
    let seconds = seconds.or_else(written)?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_known_tools_tell_the_time() {
        for (name, seconds) in [
            ("etcd-snapshot-node1-1700000000", Some(1_700_000_000)),
            ("etcd-snapshot-node1-1700000000.zip", Some(1_700_000_000)),
            ("on-demand-node-1-1700000001", Some(1_700_000_001)),
            ("Full-00000000-00004321-1700000002.gz", Some(1_700_000_002)),
            ("cluster-2023-11-14T22:13:20Z.snap", Some(1_700_000_000)),
            ("etcd-20231114T221320Z.db", Some(1_700_000_000)),
            ("snapshot.db", None),
            ("etcd-12345678901.db", None),
            ("etcd-20231114.db", None),
        ] {
            let made = named_time(name);
            let expected = seconds.map(|it| SystemTime::UNIX_EPOCH + Duration::from_secs(it));
            assert_eq!(made, expected, "{name}");
        }
    }

    #[test]
    fn files_are_found_below_a_directory_and_links_are_left_out() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let put = |name: &str| {
            let path = root.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            drop(fs::File::create(path).unwrap());
        };
        put("b.db");
        put("v2/Backup-1/Incr-00000001-00000002-1700000000");
        std::os::unix::fs::symlink(root.join("b.db"), root.join("latest")).unwrap();
        let files = list(root).unwrap();
        let names: Vec<_> = files.iter().map(|it| &*it.name).collect();
        assert_eq!(
            names,
            ["b.db", "v2/Backup-1/Incr-00000001-00000002-1700000000"]
        );
        assert_eq!(files[0].unreadable_by_name(), None);
        assert!(files[1].unreadable_by_name().is_some());
    }
}
