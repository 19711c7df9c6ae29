//! A directory of statements. The order of their names is the order of the chain: a new name is later than
//! all names before it, also with a clock that went back, and one writer at a time adds a file.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    io::{self, Read as _},
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant, SystemTime},
};

use jiff::{SignedDuration, Timestamp, civil::DateTime, tz::TimeZone};
use kms_domain::digest::sha256_hex;
use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

use super::{AttestationError, envelope::MAX_BYTES, statement::Digest};
use crate::recovery::open_regular;

/// End of the names of statements.
const SUFFIX: &str = ".dsse.json";
const TIME: &str = "%Y%m%dT%H%M%S%.3fZ";
/// Size of a time in a name.
const TIME_BYTES: usize = 20;
/// Longest wait for other writers. Each holds the lock for one signature.
const WAIT: Duration = Duration::from_secs(120);

/// The files of a directory with the end of a statement.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// Names with a time, in the order of the chain.
    pub(super) dated: Vec<String>,
    /// All other names: of statements that were written to a file of their own.
    pub(super) left_out: Vec<OsString>,
}

/// The sole right to add a statement, until it is dropped.
pub(super) struct Turn {
    _lock: File,
    /// Name of the new statement.
    pub(super) path: PathBuf,
    /// Digest of the one before.
    pub(super) previous: Option<Digest>,
}

/// A name that sorts by time.
pub(super) fn dated(command: &str, at: Timestamp) -> String {
    format!("{}-{command}{SUFFIX}", at.strftime(TIME))
}

/// Time in the name of a statement.
fn time_of(name: &str) -> Option<Timestamp> {
    let (time, rest) = name.split_at_checked(TIME_BYTES)?;
    let command = rest.strip_prefix('-')?.strip_suffix(SUFFIX)?;
    let plain = |c: char| c.is_ascii_lowercase() || c == '-';
    if command.is_empty() || !command.chars().all(plain) {
        return None;
    }
    let time = DateTime::strptime("%Y%m%dT%H%M%S%.fZ", time).ok()?;
    let time = TimeZone::UTC.to_timestamp(time).ok()?;
    // Only the form that a writer uses, so that names sort by time.
    name.starts_with(&time.strftime(TIME).to_string())
        .then_some(time)
}

/// Lists the statements of a directory.
///
/// # Errors
/// The directory cannot be read.
pub(super) fn list(directory: &Path) -> io::Result<Listing> {
    let mut listing = Listing::default();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        if !name.as_bytes().ends_with(SUFFIX.as_bytes()) {
            continue;
        }
        match dated_name(&name) {
            Some(name) => listing.dated.push(name),
            None => listing.left_out.push(name),
        }
    }
    listing.dated.sort();
    listing.left_out.sort();
    Ok(listing)
}

fn dated_name(name: &OsStr) -> Option<String> {
    let name = name.to_str()?;
    time_of(name).map(|_| name.to_owned())
}

/// Content of a statement, at most one byte more than allowed.
///
/// # Errors
/// The file cannot be read, or is no regular file.
pub(super) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let most = u64::try_from(MAX_BYTES).unwrap_or(u64::MAX);
    let mut bytes = Vec::new();
    open_regular(path)?
        .take(most.saturating_add(1))
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

impl Turn {
    /// Waits for other writers, then names the next statement after the newest one.
    ///
    /// # Errors
    /// The directory or its newest statement cannot be read, or other writers take too long.
    pub(super) fn take(
        directory: &Path,
        command: &str,
        now: impl FnOnce() -> SystemTime,
    ) -> Result<Self, AttestationError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| AttestationError::Previous { path, source }
        };
        let lock = lock(directory).map_err(failed(directory))?;
        let now = Timestamp::try_from(now()).unwrap_or_default();
        let listing = list(directory).map_err(failed(directory))?;
        let Some(newest) = listing.dated.last() else {
            let path = directory.join(dated(command, now));
            return Ok(Self {
                _lock: lock,
                path,
                previous: None,
            });
        };
        let before = directory.join(newest);
        let bytes = read(&before).map_err(failed(&before))?;
        let after = time_of(newest).and_then(|newest| {
            let millisecond = SignedDuration::from_millis(1);
            newest.checked_add(millisecond).ok()
        });
        let at = after.map_or(now, |after| after.max(now));
        Ok(Self {
            _lock: lock,
            path: directory.join(dated(command, at)),
            previous: Some(Digest {
                sha256: sha256_hex(&bytes),
            }),
        })
    }
}

/// Tries in a loop: a lock that another program holds forever must not hold a drill forever.
fn lock(directory: &Path) -> io::Result<File> {
    let file = File::open(directory)?;
    let begun = Instant::now();
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(Errno::WOULDBLOCK) if begun.elapsed() < WAIT => {
                thread::sleep(Duration::from_millis(20));
            }
            Err(Errno::WOULDBLOCK) => {
                return Err(io::Error::other("another program holds its lock"));
            }
            Err(errno) => return Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use kms_node::state::disk;
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    use tempfile::TempDir;

    use super::*;

    #[test]
    fn only_names_in_the_form_of_a_writer_are_statements_of_the_chain() {
        let at = |milliseconds: i64| Timestamp::from_millisecond(milliseconds).unwrap();
        for time in [0, 1, 1_795_846_603_107] {
            assert_eq!(time_of(&dated("verify-backup", at(time))), Some(at(time)));
        }
        for name in [
            "backup.dsse.json",
            ".dsse.json",
            "20261130T061643.107Z-.dsse.json",
            "20261130T061643.107Z-drill.dsse.json.bak",
            "20261130T061643.107Z-\u{1b}[2J.dsse.json",
            "20261131T061643.107Z-drill.dsse.json",
            "20261130T061643.1070-drill.dsse.json",
            "2026113\u{f6}061643.107Z-drill.dsse.json",
        ] {
            assert_eq!(time_of(name), None, "{name}");
        }
    }

    #[test]
    fn each_statement_is_later_than_those_before_also_with_a_clock_that_went_back() {
        let directory = TempDir::new().unwrap();
        let path = directory.path();
        disk::create_new(&path.join("zz.dsse.json"), b"of another command").unwrap();
        let add = |seconds: u64, content: &str| {
            let now = || UNIX_EPOCH + Duration::from_secs(seconds);
            let turn = Turn::take(path, "drill", now).unwrap();
            disk::create_new(&turn.path, content.as_bytes()).unwrap();
            let name = turn.path.file_name().unwrap().to_str().unwrap().to_owned();
            (name, turn.previous.map(|it| it.sha256))
        };
        let digest = |content: &str| Some(sha256_hex(content.as_bytes()));
        assert_eq!(
            add(10, "a"),
            ("19700101T000010.000Z-drill.dsse.json".to_owned(), None)
        );
        for (seconds, content, previous, time) in [
            (10, "b", "a", "10.001"),
            (3, "c", "b", "10.002"),
            (11, "d", "c", "11.000"),
        ] {
            let name = format!("19700101T0000{time}Z-drill.dsse.json");
            assert_eq!(add(seconds, content), (name, digest(previous)));
        }

        // Nobody writes to this pipe, so reading it would never end.
        let pipe = path.join("19700102T000000.000Z-drill.dsse.json");
        mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR, 0).unwrap();
        let refused = Turn::take(path, "drill", || UNIX_EPOCH)
            .map(|_| ())
            .unwrap_err();
        let AttestationError::Previous { path, .. } = refused else {
            panic!("{refused}");
        };
        assert_eq!(path, pipe);
    }
}
