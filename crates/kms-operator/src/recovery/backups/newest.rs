//! The newest pair of snapshots in two directories, for a drill or a record.

use std::{
    path::{Path, PathBuf},
    time::SystemTime,
};

use super::{
    super::{EtcdSource, open, raft_snapshot},
    Unreadable,
    directory::BackupFile,
    listed,
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

/// A pair of snapshots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewestPair {
    pub etcd: PathBuf,
    pub openbao: PathBuf,
    /// Whether a later file is left for the set that is not finished.
    pub has_later: bool,
}

/// Limitation of a result with [`NewestPair::has_later`].
pub const LATER: &str = "A file in the directory of etcd is newer than the newest OpenBao snapshot. It belongs \
     to no finished set, and was not used.";

/// The newest etcd snapshot with a later OpenBao snapshot, and the newest OpenBao snapshot. A set is saved
/// in this order, so an etcd snapshot without a later OpenBao snapshot belongs to an unfinished set. If
/// there is no such pair, the newest of each directory.
///
/// # Errors
/// [`NoPair`].
pub fn newest_pair(etcd: &Path, openbao: &Path) -> Result<NewestPair, NoPair> {
    let mut etcd_files = listed(etcd)?;
    etcd_files.retain(|file| !file.may_be_record() && file.unreadable_by_name().is_none());
    etcd_files.sort_by_key(|file| file.made);
    let archives = listed(openbao)?.into_iter().filter_map(archive);
    let newest = archives.max_by_key(|(_, made)| *made);
    let (openbao, saved) = newest.ok_or_else(|| NoPair::NoOpenbao(openbao.to_owned()))?;

    let finished = etcd_files.iter().rev().filter(|file| file.made <= saved);
    let unfinished = etcd_files.iter().rev().filter(|file| file.made > saved);
    let mut candidates = finished.chain(unfinished);
    let found = candidates.find(|file| is_etcd(&file.path));
    match found {
        Some(file) => Ok(NewestPair {
            etcd: file.path.clone(),
            openbao,
            has_later: etcd_files.iter().any(|it| it.made > file.made.max(saved)),
        }),
        None => Err(NoPair::NoEtcd(etcd.to_owned())),
    }
}

/// Whether the file is a database, plain or packed. A damaged one counts, so that the damage shows.
fn is_etcd(path: &Path) -> bool {
    match EtcdSource::file(path) {
        Ok(EtcdSource::File(file)) => file.database().is_ok(),
        _ => false,
    }
}

/// A raft snapshot with its time. A damaged one counts, with the time of its file.
fn archive(file: BackupFile) -> Option<(PathBuf, SystemTime)> {
    let inspected = open(&file.path).map(|opened| raft_snapshot::inspect(&opened));
    let made = match inspected {
        Ok(Ok(snapshot)) => snapshot.created,
        Ok(Err(problem)) if problem.is_damage() => None,
        Ok(Err(_)) | Err(_) => return None,
    };
    Some((file.path, made.unwrap_or(file.made)))
}
