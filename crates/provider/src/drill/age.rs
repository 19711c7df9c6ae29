//! How old the backups of a drill are, and what tells.

use std::{
    fmt,
    fs::File,
    time::{Duration, SystemTime},
};

use jiff::Timestamp;
use kms_domain::recovery::record::BackupRecord;

/// When a backup was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Made {
    /// Not before this moment the backup was whole.
    pub at: SystemTime,
    /// What tells.
    pub source: MadeSource,
}

/// What tells when a backup was made, the best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MadeSource {
    /// The time inside a raft snapshot, which OpenBao wrote.
    Archive,
    /// `recordedAt` of a record that has the hash of the file. It is shortly after the snapshot.
    Record,
    /// The modification time of the file, which a copy can change.
    ModificationTime,
}

impl MadeSource {
    /// The word in reports.
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
    /// By the record, which must be one of this very file.
    pub(super) fn by_record(record: &BackupRecord) -> Option<Self> {
        let at: Timestamp = record.note().recorded_at.parse().ok()?;
        let since = Duration::from_secs(u64::try_from(at.as_second()).ok()?);
        Some(Self {
            at: SystemTime::UNIX_EPOCH.checked_add(since)?,
            source: MadeSource::Record,
        })
    }

    /// By the time of the raft snapshot's own.
    pub(super) fn by_archive(at: Option<SystemTime>) -> Option<Self> {
        at.map(|at| Self {
            at,
            source: MadeSource::Archive,
        })
    }

    /// By the modification time.
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

/// The age of a backup.
#[derive(Debug, Clone, Copy)]
pub(super) struct Age {
    pub(super) store: &'static str,
    pub(super) made: Made,
    /// Zero for a time that is still to come.
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
    /// Those above the limit.
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
pub(super) struct Hours(pub(super) Duration);

impl fmt::Display for Hours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} h", self.0.as_secs_f64() / 3600.0)
    }
}
