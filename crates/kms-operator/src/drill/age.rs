//! Age of the backups in a drill, and its source.

use std::{
    fmt,
    fs::File,
    path::Path,
    time::{Duration, SystemTime},
};

use jiff::Timestamp;
use kms_domain::recovery::record::BackupRecord;
use kms_node::{
    clock::{Clock as _, SystemClock},
    report::rfc3339,
};

use crate::recovery::backups::directory::named_time;

/// Creation time of a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Made {
    /// Time of the complete backup, with the accuracy of `source`.
    pub at: SystemTime,
    pub source: MadeSource,
}

/// Source of a creation time, in order of preference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MadeSource {
    /// Time inside a raft snapshot, written by OpenBao.
    Archive,
    /// `recordedAt` of a record with the hash of the file, shortly after the snapshot.
    Record,
    /// Time in the name of the file.
    Name,
    /// Modification time of the file. Copying may change it.
    ModificationTime,
}

impl MadeSource {
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

impl Made {
    /// From the record, which must contain the hash of this file.
    pub(super) fn by_record(record: &BackupRecord) -> Option<Self> {
        let at: Timestamp = record.note().recorded_at.parse().ok()?;
        let since = Duration::from_secs(u64::try_from(at.as_second()).ok()?);
        Some(Self {
            at: SystemTime::UNIX_EPOCH.checked_add(since)?,
            source: MadeSource::Record,
        })
    }

    /// From the raft snapshot itself.
    pub(super) fn by_archive(at: Option<SystemTime>) -> Option<Self> {
        at.map(|at| Self {
            at,
            source: MadeSource::Archive,
        })
    }

    /// From the name, as the tools of etcd write it.
    pub(super) fn by_name(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?;
        Some(Self {
            at: named_time(name, SystemClock.now())?,
            source: MadeSource::Name,
        })
    }

    /// From the modification time.
    pub(super) fn by_file(file: &File) -> Option<Self> {
        Some(Self {
            at: file.metadata().ok()?.modified().ok()?,
            source: MadeSource::ModificationTime,
        })
    }
}

/// The ages of both backups at the end of a drill.
#[derive(Debug)]
pub(super) struct Ages {
    /// `--max-age`.
    pub(super) most: Option<Duration>,
    pub(super) etcd: Option<Age>,
    pub(super) openbao: Option<Age>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Age {
    pub(super) store: &'static str,
    pub(super) made: Made,
    /// `None` for a time in the future, which says nothing about the backup.
    pub(super) age: Option<Duration>,
}

/// Tolerated difference of two clocks.
pub(crate) const SKEW: Duration = Duration::from_secs(300);

impl Age {
    pub(super) fn of(store: &'static str, made: Made, now: SystemTime) -> Self {
        let age = match now.duration_since(made.at) {
            Err(ahead) if ahead.duration() > SKEW => None,
            age => Some(age.unwrap_or_default()),
        };
        Self { store, made, age }
    }
}

impl Ages {
    /// Ages above the limit, or unknown.
    pub(super) fn too_old(&self) -> impl Iterator<Item = Age> {
        let ages = [self.etcd, self.openbao].into_iter().flatten();
        ages.filter(|it| {
            let most = self.most;
            most.is_some_and(|most| it.age.is_none_or(|age| age > most))
        })
    }
}

impl fmt::Display for Age {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { store, made, age } = self;
        let source = made.source.as_str();
        match age {
            Some(age) => write!(f, "{store} snapshot {} (by {source})", Span(*age)),
            None => {
                let at = rfc3339(made.at);
                write!(
                    f,
                    "{store} snapshot of unknown age: {source} has the future time {at}"
                )
            }
        }
    }
}

/// A duration as options take it, such as `168h1s`. Parts of a second count as one, so that an age above a
/// limit differs from it.
pub(crate) struct Span(pub(crate) Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let more = u64::from(self.0.subsec_nanos() > 0);
        let seconds = self.0.as_secs().saturating_add(more);
        if seconds == 0 {
            return f.write_str("0s");
        }
        for (part, unit) in [
            (seconds / 3600, "h"),
            (seconds / 60 % 60, "m"),
            (seconds % 60, "s"),
        ] {
            if part > 0 {
                write!(f, "{part}{unit}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn a_span_above_a_limit_differs_from_it() {
        for (seconds, text) in [
            (0.0, "0s"),
            (26.0 * 3600.0, "26h"),
            (26.0 * 3600.0 + 0.5, "26h1s"),
            (61.0, "1m1s"),
            (604_801.0, "168h1s"),
        ] {
            assert_eq!(Span(Duration::from_secs_f64(seconds)).to_string(), text);
        }
    }

    #[test]
    fn a_backup_of_the_future_is_of_unknown_age_and_so_too_old() {
        let now = UNIX_EPOCH + Duration::from_secs(1_000_000);
        let made = |at| Made {
            at,
            source: MadeSource::ModificationTime,
        };
        let ages = |at| Ages {
            most: Some(Duration::from_secs(3600)),
            etcd: Some(Age::of("etcd", made(at), now)),
            openbao: None,
        };
        let skewed = ages(now + SKEW);
        assert_eq!(skewed.too_old().count(), 0);
        assert_eq!(skewed.etcd.unwrap().age, Some(Duration::ZERO));
        let future = ages(now + SKEW + Duration::from_secs(1));
        let told: Vec<_> = future.too_old().map(|age| age.to_string()).collect();
        let text = "etcd snapshot of unknown age: modification-time has the future time \
                    1970-01-12T13:51:41Z";
        assert_eq!(told, [text]);
    }
}
