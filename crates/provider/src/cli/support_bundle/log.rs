//! The end of the provider's log.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

const LINES: &str = "--lines=10000";
/// Most bytes of the end of a log.
const MAX_BYTES: u64 = 4 * 1024 * 1024;
/// `journalctl` without an entry of the unit.
const NO_ENTRIES: &str = "-- No entries --";

#[derive(Debug, thiserror::Error)]
pub(super) enum LogError {
    #[error("cannot read {}", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot run journalctl: give --log FILE")]
    NoJournal(#[source] io::Error),
    #[error("journalctl failed: {0}: give --log FILE")]
    Journal(String),
    #[error("the journal has no line of {0}: give --log FILE")]
    NoLines(String),
}

/// The end of this file, or of the journal of the unit.
pub(super) fn tail(file: Option<&Path>, unit: &str) -> Result<String, LogError> {
    match file {
        Some(path) => of_file(path).map_err(|source| LogError::File {
            path: path.to_owned(),
            source,
        }),
        None => of_journal(unit),
    }
}

fn of_file(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let size = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(size.saturating_sub(MAX_BYTES)))?;
    let mut end = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut end)?;
    Ok(lines(&end, size > MAX_BYTES))
}

fn of_journal(unit: &str) -> Result<String, LogError> {
    let of_unit = format!("--unit={unit}");
    let mut journal = Command::new("journalctl");
    let journal = journal.args([&of_unit, LINES, "--no-pager", "--output=short-iso", "--utc"]);
    let done = journal
        .stdin(Stdio::null())
        .output()
        .map_err(LogError::NoJournal)?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr);
        return Err(LogError::Journal(
            said.lines().next().unwrap_or_default().to_owned(),
        ));
    }
    let kept = usize::try_from(MAX_BYTES).unwrap_or(usize::MAX);
    let start = done.stdout.len().saturating_sub(kept);
    let end = done.stdout.get(start..).unwrap_or_default();
    let text = lines(end, start > 0);
    match text.trim() {
        "" | NO_ENTRIES => Err(LogError::NoLines(unit.to_owned())),
        _ => Ok(text),
    }
}

/// The text without the rest of a line before it.
fn lines(end: &[u8], is_cut: bool) -> String {
    let text = String::from_utf8_lossy(end);
    match text.split_once('\n') {
        Some((_, whole)) if is_cut => whole.to_owned(),
        _ => text.into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use testkit::files;

    use super::*;

    #[test]
    fn the_end_of_a_long_file_begins_with_a_whole_line() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let line = format!("{}\n", "x".repeat(99));
        let lines = usize::try_from(MAX_BYTES).unwrap() / line.len() + 2;
        files::replace(&path, line.repeat(lines).as_bytes(), 0o600);
        let end = tail(Some(&path), "none").unwrap();
        assert!(end.len() > line.len() * (lines - 4), "{}", end.len());
        assert!(end.lines().all(|found| found.len() == 99));
        files::replace(&path, b"short", 0o600);
        assert_eq!(tail(Some(&path), "none").unwrap(), "short");
        let missing = tail(Some(&directory.path().join("none")), "none").unwrap_err();
        assert!(matches!(missing, LogError::File { .. }));
    }
}
