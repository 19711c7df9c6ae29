//! The newest pair of snapshots in two directories, for a drill or a record.

use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use kms_node::advice::{Cause, evidence, snapshot};

use super::{
    super::{EtcdSource, open, raft_snapshot, truncated::few},
    Doubt, Unreadable,
    directory::{BackupFile, Listing},
    doubt_of, doubt_of_raft, listed,
};

/// Error: no pair was found.
#[derive(Debug, thiserror::Error)]
pub enum NoPair {
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    #[error("{} has no etcd snapshot", .0.display())]
    NoEtcd(PathBuf),
    #[error("{} has no OpenBao snapshot", .0.display())]
    NoOpenbao(PathBuf),
}

impl NoPair {
    /// Cause of the failure.
    #[must_use]
    pub fn cause(&self) -> &'static Cause {
        match self {
            Self::Unreadable(_) => &snapshot::NOT_OPENED,
            Self::NoEtcd(_) | Self::NoOpenbao(_) => &evidence::NO_BACKUPS,
        }
    }
}

/// A pair of snapshots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewestPair {
    pub etcd: PathBuf,
    pub openbao: PathBuf,
    /// Limitations of a result with this pair: later files that were not used.
    pub limitations: Vec<String>,
}

const LATER: &str = "A file in the directory of etcd is newer than the newest OpenBao snapshot. It belongs \
     to no finished set, and was not used.";

/// Accuracy of the time in a raft snapshot.
const SECOND: Duration = Duration::from_secs(1);

/// The newest etcd snapshot with a later OpenBao snapshot, and the newest OpenBao snapshot. A set is saved
/// in this order, so an etcd snapshot without a later OpenBao snapshot belongs to an unfinished set. If
/// there is no such pair, the newest of each directory.
///
/// # Errors
/// [`NoPair`].
pub fn newest_pair(etcd: &Path, openbao: &Path) -> Result<NewestPair, NoPair> {
    let (archives, mut skipped_archives) = candidates(listed(openbao)?);
    let archives = archives
        .into_iter()
        .filter_map(|file| match archive(&file) {
            Ok(made) => Some((file.path, made)),
            Err(doubt) => {
                skipped_archives.add(file, doubt);
                None
            }
        });
    let newest = archives.max_by_key(|(_, made)| *made);
    let (openbao, saved) = newest.ok_or_else(|| NoPair::NoOpenbao(openbao.to_owned()))?;

    let (mut etcd_files, mut skipped) = candidates(listed(etcd)?);
    etcd_files.sort_by_key(|file| file.made);
    // The time in a raft snapshot has whole seconds.
    let (finished, unfinished): (Vec<_>, Vec<_>) = etcd_files
        .into_iter()
        .rev()
        .partition(|file| file.made < saved + SECOND);
    let newest_unfinished = unfinished.first().map(|file| file.made);
    let mut found = None;
    for file in finished.into_iter().chain(unfinished) {
        match database(&file) {
            Ok(()) => {
                found = Some(file);
                break;
            }
            Err(doubt) => skipped.add(file, doubt),
        }
    }
    let file = found.ok_or_else(|| NoPair::NoEtcd(etcd.to_owned()))?;

    let has_later = newest_unfinished.is_some_and(|made| made > file.made);
    let later = has_later.then(|| LATER.to_owned());
    let skipped = [
        skipped.limitation("etcd", file.made),
        skipped_archives.limitation("OpenBao", saved),
    ];
    Ok(NewestPair {
        etcd: file.path,
        openbao,
        limitations: later
            .into_iter()
            .chain(skipped.into_iter().flatten())
            .collect(),
    })
}

/// Files to try, and the parts of the directory that cannot be tried.
fn candidates(listing: Listing) -> (Vec<BackupFile>, Skipped) {
    let unread = listing.unread.into_iter().map(|it| (it.name, it.made));
    let mut skipped = Skipped(unread.collect());
    let mut files = listing.files;
    files.retain(|file| match file.unreadable_by_name() {
        Some((_, doubt)) => {
            skipped.add(file.clone(), doubt);
            false
        }
        None => !file.may_be_record(),
    });
    (files, skipped)
}

/// Names of parts that are possibly snapshots, with their times, if known.
struct Skipped(Vec<(String, Option<SystemTime>)>);

impl Skipped {
    fn add(&mut self, file: BackupFile, doubt: Doubt) {
        if matches!(doubt, Doubt::Failed | Doubt::Snapshot) {
            self.0.push((file.name, Some(file.made)));
        }
    }

    /// Sentence on those later than the snapshot in use.
    fn limitation(self, store: &str, used: SystemTime) -> Option<String> {
        let later = self.0.into_iter();
        let later = later.filter(|(_, made)| made.is_none_or(|made| made > used));
        let names: Vec<_> = later.map(|(name, _)| name).collect();
        (!names.is_empty()).then(|| {
            format!(
                "In the directory of {store}, {} cannot be read as a snapshot. It is of a later time than \
                 the one in use, so the newest backup is possibly lost.",
                few(&names, 0)
            )
        })
    }
}

/// Whether the file is a database, plain or packed. A damaged one counts, so that the damage shows.
fn database(file: &BackupFile) -> Result<(), Doubt> {
    let read = || match EtcdSource::file(&file.path)? {
        EtcdSource::File(snapshot) => snapshot.database().map(|_| ()),
        EtcdSource::Live(_) => Ok(()),
    };
    read().map_err(|error| doubt_of(&error))
}

/// The time of a raft snapshot. A damaged one counts, with the time of its file.
fn archive(file: &BackupFile) -> Result<SystemTime, Doubt> {
    let opened = open(&file.path).map_err(|_| Doubt::Snapshot)?;
    match raft_snapshot::inspect(&opened) {
        Ok(snapshot) => Ok(snapshot.created.unwrap_or(file.made)),
        Err(problem) if problem.is_damage() => Ok(file.made),
        Err(problem) => Err(doubt_of_raft(&problem)),
    }
}
