//! Notes what is true of this node and its key when a backup set is made.
//! Implements `docs/format/backup-record.md`.
//!
//! Nothing but the note is written. A state that does not fit the live key is not noted: whoever
//! restores by the record would take one of the two for granted.

use std::{
    borrow::Borrow,
    collections::BTreeMap,
    fs::File,
    io::{self, Read as _, Seek as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use etcd_snapshot::{file::OnProgress, revision::Revisions};
use jiff::Timestamp;
use kms_domain::{
    key::KeyScope,
    recovery::{
        claims::VersionClaims,
        origin::{Gap, Lineage, LiveKey, Origin},
        rebuild::OWN_STATE,
        record::{
            BackupRecord, Note, NotedEtcd, NotedFile, NotedLimits, NotedState, NotedVersion,
            RecordProblem,
        },
    },
    registry::document::Document,
    transit::{KeyProfile, ProfileRefused, RegistryConflict},
};
use sha2::{Digest as _, Sha256};

use super::{
    EtcdError, EtcdSource, SnapshotFile,
    inventory::{Inventory, Wanted},
};
use crate::{
    auth::CallFailure,
    build_info::BuildInfo,
    config::Config,
    connection::{self, ConnectionError},
    state::{StateError, Stored},
};

/// The files of the set, as far as they are there already.
#[derive(Debug, Clone, Copy)]
pub struct BackupSet<'a> {
    /// What `etcdctl snapshot save` wrote.
    pub etcd: Option<&'a Path>,
    /// What `bao operator raft snapshot save` wrote; only its hash is taken.
    pub openbao: Option<&'a Path>,
}

/// A note, and what in the set does not fit it.
#[derive(Debug)]
pub struct Noted {
    /// To be written.
    pub record: BackupRecord,
    /// What etcd holds, if it was read.
    pub inventory: Option<Inventory>,
    /// Objects of this key, under any provider name, that the live key does not decrypt.
    pub unmapped: u64,
    /// Values of this provider that are damaged in etcd.
    pub damaged: u64,
}

/// Why there is nothing to note.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The state cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// There is no state.
    #[error(
        "there is no registry state at {}, so it is not known which version is active; no record \
         was written. Run this on a node that serves; if this one did, run recover-state \
         first",
        .0.display()
    )]
    NoState(PathBuf),
    /// OpenBao could not be asked.
    #[error("{UNREAD}")]
    Connection(#[from] ConnectionError),
    /// OpenBao did not tell what the key has.
    #[error("{UNREAD}")]
    Metadata(#[from] CallFailure),
    /// The key must not be used.
    #[error(
        "the key is not set up as this node relies on, so that a backup of it may not restore; no \
         record was written. Correct in OpenBao what is named below; do not recreate the key"
    )]
    Profile(#[from] ProfileRefused),
    /// State and key contradict each other.
    #[error(
        "the registry state and the key in OpenBao contradict each other, so that one of them is \
         not the one that data was encrypted with; no record was written. Run verify-key and mend \
         that first; do not edit the state, and do not recreate the key"
    )]
    Conflict(#[from] RegistryConflict),
    /// The etcd snapshot gives no answer.
    #[error("the etcd snapshot cannot be part of a backup set; no record was written")]
    Etcd(#[from] EtcdError),
    /// A file of the set could not be read.
    #[error("cannot read {}, a file of the backup set", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The facts make no record.
    #[error("what was found makes no backup record; no record was written")]
    Note(#[from] RecordProblem),
}

const UNREAD: &str = "the key's metadata could not be read from OpenBao, so that a record would \
     not tell what the backup must hold; no record was written. Mend the cause and try again";

/// Gathers everything; writes nothing.
///
/// # Errors
/// [`BackupError`].
pub fn gather(
    config: &Config,
    set: BackupSet<'_>,
    now: SystemTime,
    on_progress: OnProgress<'_>,
) -> Result<Noted, BackupError> {
    let stored = config.state().load()?;
    let Some(document) = &stored.document else {
        return Err(BackupError::NoState(config.state_path.document()));
    };
    let metadata = connection::ask_for_key(config)??;
    let profile = KeyProfile::check(&metadata, &config.key.key_name)?;
    profile.require_retained(document.registry())?;

    let scope = Arc::new(KeyScope::new(config.scope.clone()));
    let versions = NotedVersion::all(&scope, document, &profile);
    let (etcd, inventory, unmapped, damaged) = match set.etcd {
        None => (None, None, 0, 0),
        Some(path) => {
            let known = VersionClaims::of_registry(OWN_STATE, document.registry());
            let live = LiveKey::Listed(profile.clone());
            let lineage = Lineage::new(Arc::clone(&scope), live, [known]);
            let source = EtcdSource::file(path)?;
            let (etcd, inventory, unmapped) = note_etcd(&source, &lineage, on_progress)?;
            let names = inventory.names_of_key(&lineage);
            let damaged = inventory.damaged_under(|name| names.contains(name));
            let damaged = damaged.fold(0, |sum: u64, (_, it)| sum.saturating_add(it.objects));
            (etcd, Some(inventory), unmapped, damaged)
        }
    };
    let openbao = set.openbao.map(|path| note(path, || File::open(path)));
    let record = BackupRecord::new(Note {
        recorded_at: Timestamp::try_from(now)
            .unwrap_or_default()
            .strftime("%Y-%m-%dT%H:%M:%SZ")
            .to_string(),
        plugin_version: BuildInfo::CURRENT.version.to_owned(),
        scope,
        path: config.key.clone(),
        state: state(document, &stored),
        limits: NotedLimits::of(&profile),
        versions,
        etcd,
        openbao: openbao.transpose()?,
    })?;
    Ok(Noted {
        record,
        inventory,
        unmapped,
        damaged,
    })
}

/// Length and hash of the very file that `source` reads; `None` of a running etcd.
///
/// # Errors
/// [`BackupError::Unreadable`].
pub fn note_source(source: &EtcdSource) -> Result<Option<NotedFile>, BackupError> {
    match source {
        EtcdSource::File(SnapshotFile { path, file, .. }) => note(path, || Ok(file)).map(Some),
        EtcdSource::Live(_) => Ok(None),
    }
}

fn note<F: Borrow<File>>(
    path: &Path,
    open: impl FnOnce() -> io::Result<F>,
) -> Result<NotedFile, BackupError> {
    let read = || {
        let file = open()?;
        let mut file: &File = file.borrow();
        file.rewind()?;
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 1 << 18];
        let mut bytes = 0_u64;
        loop {
            let read = file.read(&mut buffer)?;
            if read == 0 {
                break;
            }
            hash.update(&buffer[..read]);
            bytes = bytes.saturating_add(u64::try_from(read).unwrap_or(u64::MAX));
        }
        let sha256 = hash.finalize().into();
        Ok(NotedFile { sha256, bytes })
    };
    read().map_err(|source| BackupError::Unreadable {
        path: path.to_owned(),
        source,
    })
}

fn state(document: &Document, stored: &Stored) -> NotedState {
    NotedState {
        generation: document.generation(),
        hash: document.hash().clone(),
        checkpoint: stored.checkpoint_status().to_owned(),
    }
}

fn note_etcd(
    source: &EtcdSource,
    lineage: &Lineage,
    on_progress: OnProgress<'_>,
) -> Result<(Option<NotedEtcd>, Inventory, u64), BackupError> {
    let wanted = Wanted {
        revisions: Revisions::Newest,
        prefix: None,
        names: false,
    };
    let inventory = Inventory::gather(source, &wanted, on_progress)?;
    let mut required = BTreeMap::new();
    let mut unmapped = 0_u64;
    for (_, group) in inventory.of_key(lineage) {
        match lineage.origin(group.stored()) {
            Origin::Live(key) => {
                let objects: &mut u64 = required.entry(key.version()).or_default();
                *objects = objects.saturating_add(group.count.objects);
            }
            Origin::Gap(Gap::OtherProvider { version, .. }) => {
                let objects: &mut u64 = required.entry(version).or_default();
                *objects = objects.saturating_add(group.count.objects);
            }
            Origin::Known(_) | Origin::Gap(_) => {
                unmapped = unmapped.saturating_add(group.count.objects);
            }
        }
    }
    let etcd = note_source(source)?.map(|file| NotedEtcd {
        file,
        revision: inventory.totals.revision.unsigned_abs(),
        required,
    });
    Ok((etcd, inventory, unmapped))
}
