//! Files of a directory with backups: of etcdctl, k3s and RKE2, etcd-druid, Talos, Velero. Content decides on
//! the kind of a file; its name only tells the time, and which files cannot be read alone.

use std::{
    fs, io,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use jiff::Timestamp;
use kms_node::{
    clock::{Clock as _, SystemClock},
    report::one_line,
};

use super::Doubt;

/// etcd-druid has two levels below its directory.
const DEPTH: usize = 3;
/// 2015, before which no cluster existed, in Unix seconds.
const FIRST: u64 = 1_420_070_400;
/// Times in names, with `d` for a digit: RFC 3339, its short form, and the one without colons.
const WRITTEN: [&str; 3] = [
    "dddd-dd-ddTdd:dd:ddZ",
    "ddddddddTddddddZ",
    "dddd-dd-ddTdd-dd-ddZ",
];

/// Content of a directory.
#[derive(Debug, Default)]
pub struct Listing {
    pub files: Vec<BackupFile>,
    pub unread: Vec<Unread>,
}

/// A part of a directory that possibly has backups and was not read.
#[derive(Debug)]
pub struct Unread {
    /// Relative to the directory.
    pub name: String,
    pub reason: String,
    /// The modification time; `None` if unknown.
    pub made: Option<SystemTime>,
}

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

/// Lists the regular files of a directory and of those in it. Links within the directory are left out:
/// they are second names, such as `latest`.
///
/// # Errors
/// The directory itself cannot be read.
pub fn list(directory: &Path) -> io::Result<Listing> {
    let mut listing = Listing::default();
    let root = Root {
        given: directory,
        real: directory.canonicalize()?,
        now: SystemClock.now(),
    };
    root.add(directory, DEPTH, &mut listing)?;
    listing.files.sort_by(|a, b| a.path.cmp(&b.path));
    listing.unread.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(listing)
}

struct Root<'a> {
    given: &'a Path,
    /// Without links.
    real: PathBuf,
    now: SystemTime,
}

impl Root<'_> {
    fn add(&self, directory: &Path, depth: usize, listing: &mut Listing) -> io::Result<()> {
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            let unread = match self.add_entry(&path, depth, listing) {
                Ok(None) => continue,
                Ok(Some(reason)) => reason.to_owned(),
                Err(error) => one_line(&error),
            };
            listing.unread.push(Unread {
                name: self.name(&path),
                reason: unread,
                made: path.symlink_metadata().and_then(|it| it.modified()).ok(),
            });
        }
        Ok(())
    }

    /// Adds the entry, or returns the reason why it is not read.
    fn add_entry(
        &self,
        path: &Path,
        depth: usize,
        listing: &mut Listing,
    ) -> io::Result<Option<&'static str>> {
        let facts = path.symlink_metadata()?;
        if facts.is_dir() {
            if depth == 1 {
                return Ok(Some("a directory below the third level"));
            }
            self.add(path, depth - 1, listing)?;
        } else if facts.is_symlink() {
            if !path.canonicalize()?.starts_with(&self.real) {
                return Ok(Some("a link that leads out of the directory"));
            }
        } else if facts.is_file() {
            let (made, made_by) = match self.named_time(path) {
                Some(made) => (made, MadeBy::Name),
                None => (facts.modified()?, MadeBy::ModificationTime),
            };
            listing.files.push(BackupFile {
                path: path.to_owned(),
                name: self.name(path),
                made,
                made_by,
            });
        }
        Ok(None)
    }

    /// Other bytes than UTF-8 are escaped, so that different names stay different.
    fn name(&self, path: &Path) -> String {
        let name = path.strip_prefix(self.given).unwrap_or(path);
        match name.to_str() {
            Some(name) => name.to_owned(),
            None => name.as_os_str().as_bytes().escape_ascii().to_string(),
        }
    }

    fn named_time(&self, path: &Path) -> Option<SystemTime> {
        named_time(path.file_name()?.to_str()?, self.now)
    }
}

impl BackupFile {
    /// Whether the name is that of a JSON document, such as a backup record.
    #[must_use]
    pub fn may_be_record(&self) -> bool {
        self.path.extension().is_some_and(|it| it == "json")
    }

    /// Reason why the file cannot be read alone, by its name, and what that leaves open.
    #[must_use]
    pub fn unreadable_by_name(&self) -> Option<(&'static str, Doubt)> {
        let name = self.path.file_name()?.to_str()?;
        if name.starts_with("Incr-") {
            let reason =
                "an incremental snapshot of etcd-druid: restore it with its full snapshot first";
            Some((reason, Doubt::Changes))
        } else if [".age", ".gpg", ".enc"]
            .iter()
            .any(|end| name.ends_with(end))
        {
            Some(("an encrypted file: decrypt it first", Doubt::Snapshot))
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

/// Time in a file name: ten digits of Unix seconds after a hyphen at the end of the stem (k3s, RKE2,
/// etcd-druid), or one of [`WRITTEN`] (Talos). A time before 2015 or after `now` is another number.
pub(crate) fn named_time(name: &str, now: SystemTime) -> Option<SystemTime> {
    let seconds = || {
        let (_, last) = name.rsplit_once('-')?;
        let last = last.split('.').next()?;
        let is_seconds = last.len() == 10 && last.bytes().all(|it| it.is_ascii_digit());
        is_seconds.then(|| last.parse().ok())?
    };
    let seconds = written_time(name).or_else(seconds)?;
    let time = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))?;
    (seconds >= FIRST && time <= now).then_some(time)
}

/// Unix seconds of a time as in [`WRITTEN`]. Other forms, such as those without a zone, are ambiguous.
fn written_time(name: &str) -> Option<u64> {
    let starts = name.char_indices().map(|(start, _)| start);
    let mut texts = starts.flat_map(|start| WRITTEN.map(|form| (start, form)));
    let digits = texts.find_map(|(start, form)| {
        let text = name.get(start..start.checked_add(form.len())?)?;
        let fits = text
            .bytes()
            .zip(form.bytes())
            .all(|(byte, form)| match form {
                b'd' => byte.is_ascii_digit(),
                form => byte == form,
            });
        let before = name.get(..start)?.bytes().next_back();
        let is_part = before.is_some_and(|byte| byte.is_ascii_digit());
        let digits = text.chars().filter(char::is_ascii_digit);
        (fits && !is_part).then(|| digits.collect::<String>())
    })?;
    let time = Timestamp::strptime("%Y%m%d%H%M%S%z", format!("{digits}+0000")).ok()?;
    u64::try_from(time.as_second()).ok()
}

#[cfg(test)]
mod tests {
    use std::{ffi::OsStr, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn names_of_known_tools_tell_the_time() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        for (name, seconds) in [
            ("etcd-snapshot-node1-1700000000", Some(1_700_000_000)),
            (
                "etcd-snapshot-node1.example.com-1700000000.zip",
                Some(1_700_000_000),
            ),
            ("on-demand-node-1-1700000001", Some(1_700_000_001)),
            ("Full-00000000-00004321-1700000002.gz", Some(1_700_000_002)),
            ("cluster-2023-11-14T22:13:20Z.snap", Some(1_700_000_000)),
            ("etcd-20231114T221320Z.db", Some(1_700_000_000)),
            ("etcd-2023-11-14T22-13-20Z.db", Some(1_700_000_000)),
            ("2023-11-14T22-13-20Z.db.gz", Some(1_700_000_000)),
            ("snapshot.db", None),
            ("etcd-12345678901.db", None),
            ("etcd-20231114.db", None),
            // Without a zone, with an offset, without seconds, no time of day, and behind a digit.
            ("etcd-2023-11-14T22:13:20.db", None),
            ("etcd-2023-11-14T06-12-33.db", None),
            ("etcd-2023-11-14T22:13:20+01:00.db", None),
            ("etcd-2023-11-14T22:13Z.db", None),
            ("etcd-2023-11-14T25:13:20Z.db", None),
            ("etcd-12023-11-14T22:13:20Z.db", None),
            // An hour of 2023, a number within a name, and seconds of 2009 and of the future.
            ("etcd-2023111422.db", None),
            ("host-1700000000-etcd.db", None),
            ("host-1234567890.db", None),
            ("etcd-1800000001.db", None),
            ("etcd-2027-01-15T08:00:01Z.db", None),
            ("2027-01-15T08:00:00Z.db", Some(1_800_000_000)),
        ] {
            let made = named_time(name, now);
            let expected = seconds.map(|it| SystemTime::UNIX_EPOCH + Duration::from_secs(it));
            assert_eq!(made, expected, "{name}");
        }
    }

    #[test]
    fn files_are_found_below_a_directory_and_other_parts_are_named() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("etcd");
        let put = |name: &[u8]| {
            let path = root.join(OsStr::from_bytes(name));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            drop(fs::File::create(path).unwrap());
        };
        put(b"b.db");
        put(b"c\xfe.db");
        put(b"c\xff.db");
        put(b"v2/Backup-1/Incr-00000001-00000002-1700000000");
        put(b"v2/Backup-1/deep/d.db");
        let outside = directory.path().join("outside.db");
        drop(fs::File::create(&outside).unwrap());
        for (name, target) in [
            ("latest", &root.join("b.db")),
            ("linked", &outside),
            ("unmounted", &directory.path().join("none")),
        ] {
            symlink(target, root.join(name)).unwrap();
        }
        let Listing { files, unread } = list(&root).unwrap();
        let names: Vec<_> = files.iter().map(|it| &*it.name).collect();
        let druid = "v2/Backup-1/Incr-00000001-00000002-1700000000";
        assert_eq!(names, ["b.db", "c\\xfe.db", "c\\xff.db", druid]);
        assert_eq!(files[0].unreadable_by_name(), None);
        assert!(files[3].unreadable_by_name().is_some());
        let names: Vec<_> = unread.iter().map(|it| &*it.name).collect();
        assert_eq!(names, ["linked", "unmounted", "v2/Backup-1/deep"]);
        assert!(unread.iter().all(|it| it.made.is_some()));

        assert!(list(&directory.path().join("none")).is_err());
    }
}
