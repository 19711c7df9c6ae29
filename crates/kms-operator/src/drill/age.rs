//! Age of the backups in a drill, and its source.

use std::{
    fmt,
    fs::File,
    time::{Duration, SystemTime},
};

use jiff::Timestamp;
use kms_domain::recovery::record::BackupRecord;

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
    /// Zero for a time in the future.
    pub(super) age: Duration,
}

impl Age {
    pub(super) fn of(store: &'static str, made: Made, now: SystemTime) -> Self {
        Self {
            store,
            made,
            age: now.duration_since(made.at).unwrap_or_default(),
        }
    }
}

impl Ages {
    /// Ages above the limit.
    pub(super) fn too_old(&self) -> impl Iterator<Item = Age> {
        let ages = [self.etcd, self.openbao].into_iter().flatten();
        ages.filter(|age| self.most.is_some_and(|most| age.age > most))
    }
}

impl fmt::Display for Age {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { store, made, age } = self;
        let source = made.source.as_str();
        write!(f, "{store} snapshot {} (by {source})", Hours(*age))
    }
}

/// A duration in hours with one decimal place.
pub(crate) struct Hours(pub(crate) Duration);

impl fmt::Display for Hours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} h", self.0.as_secs_f64() / 3600.0)
    }
}
