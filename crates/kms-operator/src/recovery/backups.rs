//! Which snapshots of two directories belong together, without any key of OpenBao.
//!
//! Each etcd snapshot is read whole for the versions that its objects need; each OpenBao snapshot is
//! encrypted, so only its creation time and a backup record with its hash speak for it. The domain
//! crate's `recovery::offer` judges the pairs.

pub mod directory;
pub mod newest;
pub mod report;

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use etcd_snapshot::file::OnProgress;
use kms_domain::{
    key::TransitKey,
    recovery::{
        claims::VersionClaims,
        offer::{Match, Needs, SnapshotFacts},
        record::{BackupRecord, FileInfo, MAX_FILE_BYTES},
        resolve::{LiveKey, Resolution},
    },
    transit::{CreatedAt, TransitVersion},
};
use kms_node::{config::Config, report::one_line};

use super::{
    EtcdError, EtcdSource, Trust,
    backup_record::{note_raft_snapshot, note_source},
    form::Form,
    local_knowledge::LocalKnowledge,
    open,
    raft_snapshot::RaftSnapshotError,
    recover_state::read_file,
    unpacked::UnpackError,
    verify_pair::{self, Pair},
};
use directory::{BackupFile, Listing, MadeBy, list};

/// Directories with backups.
#[derive(Debug)]
pub struct Request {
    pub etcd: PathBuf,
    pub openbao: PathBuf,
    /// Records beside those in the directories.
    pub records: Vec<PathBuf>,
    /// Prefix of the selected API server.
    pub prefix: Option<String>,
}

/// Error: a directory or a named record cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {}", path.display())]
pub struct Unreadable {
    pub path: PathBuf,
    #[source]
    pub source: io::Error,
}

/// An etcd snapshot with the versions that it needs.
#[derive(Debug)]
pub struct EtcdBackup {
    pub file: BackupFile,
    /// Objects of this key.
    pub objects: u64,
    /// Versions that a record or the state names.
    pub needed: Vec<Arc<TransitKey>>,
    /// Versions by number, also those that nothing names.
    pub versions: BTreeSet<TransitVersion>,
    /// Objects and damaged values that no named version explains.
    pub unexplained: u64,
    /// Revision of etcd.
    pub revision: i64,
    pub trust: Trust,
}

/// An OpenBao snapshot.
#[derive(Debug)]
pub struct OpenbaoBackup {
    pub file: BackupFile,
    created: Option<CreatedAt>,
    /// Index of the earliest record with its hash.
    record: Option<usize>,
}

/// A file or directory that is no part of any pair.
#[derive(Debug)]
pub struct LeftOut {
    /// `None` for a record outside the directories.
    pub store: Option<Store>,
    pub file: String,
    pub reason: String,
    /// By its name or its modification time, if known.
    pub made: Option<SystemTime>,
    pub doubt: Doubt,
}

/// One of the two directories.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Store {
    Etcd,
    Openbao,
}

impl Store {
    /// Code in reports.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::Openbao => "openbao",
        }
    }
}

impl LeftOut {
    /// Whether it is possibly etcd data, whose versions are unknown.
    #[must_use]
    pub fn hides_needs(&self) -> bool {
        self.store == Some(Store::Etcd) && matches!(self.doubt, Doubt::Changes | Doubt::Snapshot)
    }
}

/// What a part of a directory that was not read leaves open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doubt {
    /// It is no snapshot.
    None,
    /// It has changes of etcd that belong to an older snapshot.
    Changes,
    /// A snapshot was not written to it: it is empty.
    Failed,
    /// It is possibly a snapshot.
    Snapshot,
}

/// One pair.
#[derive(Debug)]
pub struct Judged<'b> {
    pub etcd: &'b EtcdBackup,
    pub openbao: &'b OpenbaoBackup,
    pub verdict: Match,
    pub missing: BTreeSet<TransitVersion>,
    pub open: BTreeSet<TransitVersion>,
}

/// All backups of the directories, from old to new.
#[derive(Debug)]
pub struct Backups {
    pub etcd: Vec<EtcdBackup>,
    pub openbao: Vec<OpenbaoBackup>,
    pub records: Vec<BackupRecord>,
    pub left_out: Vec<LeftOut>,
}

impl Backups {
    /// Reads both directories.
    ///
    /// # Errors
    /// [`Unreadable`]. A file in a directory that cannot be read is part of the result.
    pub fn gather(
        config: &Config,
        known: &LocalKnowledge,
        request: &Request,
        reading: OnProgress<'_>,
    ) -> Result<Self, Unreadable> {
        let Listing { files, unread } = listed(&request.etcd)?;
        let (etcd, etcd_unread) = (files, unread);
        let Listing { files, unread } = listed(&request.openbao)?;
        let (openbao, openbao_unread) = (files, unread);
        let mut backups = Self {
            etcd: Vec::new(),
            openbao: Vec::new(),
            records: Vec::new(),
            left_out: Vec::new(),
        };
        for path in &request.records {
            let bytes = read_file(path, MAX_FILE_BYTES).map_err(|source| Unreadable {
                path: path.clone(),
                source,
            })?;
            backups.add_record(config, None, &path.display().to_string(), &bytes);
        }
        for (store, unread) in [(Store::Etcd, etcd_unread), (Store::Openbao, openbao_unread)] {
            backups
                .left_out
                .extend(unread.into_iter().map(|it| LeftOut {
                    store: Some(store),
                    file: it.name,
                    reason: it.reason,
                    made: it.made,
                    doubt: Doubt::Snapshot,
                }));
        }
        let (records, snapshots): (Vec<_>, Vec<_>) =
            etcd.into_iter().partition(BackupFile::may_be_record);
        let (more, archives): (Vec<_>, Vec<_>) =
            openbao.into_iter().partition(BackupFile::may_be_record);
        let records = records.iter().map(|file| (Store::Etcd, file));
        let more = more.iter().map(|file| (Store::Openbao, file));
        for (store, file) in records.chain(more) {
            match read_file(&file.path, MAX_FILE_BYTES) {
                Ok(bytes) => backups.add_record(config, Some(store), &file.name, &bytes),
                Err(error) => backups.leave_out(store, file, one_line(&error), Doubt::None),
            }
        }

        let mut claims = known.claims();
        let named = backups.records.iter();
        claims.extend(named.map(|it| VersionClaims::of_record("a backup record", it)));
        for file in snapshots {
            backups.add_etcd(config, file, request.prefix.clone(), &claims, reading);
        }
        for file in archives {
            backups.add_openbao(file);
        }
        backups.etcd.sort_by_key(|it| (it.file.made, it.revision));
        backups.openbao.sort_by_key(|it| it.file.made);
        Ok(backups)
    }

    /// Every pair, from the oldest etcd snapshot on.
    pub fn pairs(&self) -> impl Iterator<Item = Judged<'_>> {
        self.etcd
            .iter()
            .flat_map(move |etcd| self.openbao.iter().map(move |it| self.judge(etcd, it)))
    }

    /// The etcd snapshots of which any may be the newest, from old to new. A snapshot is older than
    /// another one if its time and its revision are: a copy may be given a later time, and an etcd
    /// that was restored continues from a smaller revision.
    pub fn newest(&self) -> impl Iterator<Item = &EtcdBackup> {
        let order = |it: &EtcdBackup| (it.file.made, it.revision);
        let is_older = move |it: &EtcdBackup| {
            let (made, revision) = order(it);
            let mut others = self.etcd.iter().map(order);
            others.any(|other| other != (made, revision) && made <= other.0 && revision <= other.1)
        };
        self.etcd.iter().filter(move |it| !is_older(it))
    }

    /// Parts of the directory of OpenBao that were not read and possibly have later versions of the key.
    pub fn unread_openbao(&self) -> impl Iterator<Item = &LeftOut> {
        let newest = self.openbao.last().map(|it| it.file.made);
        self.possibly_newer_than(newest, Store::Openbao, &[Doubt::Snapshot])
    }

    /// Parts of the directory of etcd that were not read and are possibly newer than every snapshot.
    pub fn unread_etcd(&self) -> impl Iterator<Item = &LeftOut> {
        let newest = self.etcd.last().map(|it| it.file.made);
        self.possibly_newer_than(newest, Store::Etcd, &[Doubt::Failed, Doubt::Snapshot])
    }

    fn possibly_newer_than(
        &self,
        newest: Option<SystemTime>,
        store: Store,
        doubts: &[Doubt],
    ) -> impl Iterator<Item = &LeftOut> {
        self.left_out.iter().filter(move |it| {
            it.store == Some(store)
                && doubts.contains(&it.doubt)
                && it
                    .made
                    .zip(newest)
                    .is_none_or(|(made, newest)| made > newest)
        })
    }

    fn judge<'b>(&'b self, etcd: &'b EtcdBackup, openbao: &'b OpenbaoBackup) -> Judged<'b> {
        let facts = SnapshotFacts {
            created: openbao.created,
            record: openbao.record.and_then(|index| {
                let record = self.records.get(index)?;
                Some((record, recorded_at(record)?))
            }),
        };
        let needs = Needs {
            known: etcd.needed.iter().map(|key| &**key).collect(),
            has_unknown: etcd.unexplained > 0,
        };
        let (verdict, missing, open) = facts.judge(&needs);
        Judged {
            etcd,
            openbao,
            verdict,
            missing,
            open,
        }
    }

    fn leave_out(&mut self, store: Store, file: &BackupFile, reason: String, doubt: Doubt) {
        self.left_out.push(LeftOut {
            store: Some(store),
            file: file.name.clone(),
            reason,
            made: Some(file.made),
            doubt,
        });
    }

    fn add_record(&mut self, config: &Config, store: Option<Store>, name: &str, bytes: &[u8]) {
        let reason = match BackupRecord::decode(bytes) {
            Ok(record)
                if *record.note().scope.identity() == config.scope
                    && record.note().path == config.key =>
            {
                return self.records.push(record);
            }
            Ok(_) => "the record is of another cluster or key".to_owned(),
            Err(problem) => one_line(&problem),
        };
        self.left_out.push(LeftOut {
            store,
            file: name.to_owned(),
            reason,
            made: None,
            doubt: Doubt::None,
        });
    }

    fn add_etcd(
        &mut self,
        config: &Config,
        mut file: BackupFile,
        prefix: Option<String>,
        claims: &[VersionClaims],
        reading: OnProgress<'_>,
    ) {
        if let Some((reason, doubt)) = file.unreadable_by_name() {
            return self.leave_out(Store::Etcd, &file, reason.to_owned(), doubt);
        }
        let read = EtcdSource::file(&file.path).and_then(|source| {
            let claims = claims.to_vec();
            let live = LiveKey::Unknown;
            let pair = verify_pair::count(config, &source, prefix, claims, live, reading)?;
            Ok((pair, source))
        });
        match read {
            Ok((pair, source)) => {
                let noted = hashes(&source);
                let record = self.records.iter().find(|record| {
                    let recorded = record.note().etcd.as_ref().map(|it| &it.file);
                    recorded.is_some_and(|recorded| noted.contains(recorded))
                });
                // A name has the time of the snapshot; a record was written after it, and a file may
                // be a copy.
                if file.made_by == MadeBy::ModificationTime
                    && let Some(at) = record.and_then(recorded_at)
                {
                    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(at);
                    file.set_made(at, MadeBy::Record);
                }
                self.etcd.push(EtcdBackup::of(file, &pair));
            }
            Err(error) => {
                self.leave_out(Store::Etcd, &file, one_line(&error), doubt_of(&error));
            }
        }
    }

    fn add_openbao(&mut self, mut file: BackupFile) {
        if let Some((reason, doubt)) = file.unreadable_by_name() {
            return self.leave_out(Store::Openbao, &file, reason.to_owned(), doubt);
        }
        match inspect(&file.path) {
            Ok((created, noted)) => {
                if let Some(created) = created {
                    file.set_made(created, MadeBy::Archive);
                }
                let records = self.records.iter().enumerate();
                let of_it = records.filter(|(_, it)| it.note().openbao.as_ref() == Some(&noted));
                let record = of_it.min_by_key(|(_, it)| recorded_at(it));
                let record = record.map(|(index, _)| index);
                let created = created.and_then(|it| it.duration_since(SystemTime::UNIX_EPOCH).ok());
                self.openbao.push(OpenbaoBackup {
                    file,
                    created: created.and_then(|it| CreatedAt::new(it.as_secs())),
                    record,
                });
            }
            Err((reason, doubt)) => self.leave_out(Store::Openbao, &file, reason, doubt),
        }
    }
}

impl EtcdBackup {
    fn of(file: BackupFile, pair: &Pair) -> Self {
        let mut backup = Self {
            file,
            objects: 0,
            needed: Vec::new(),
            versions: BTreeSet::new(),
            unexplained: pair.damaged,
            revision: pair.inventory.totals.revision,
            trust: pair.inventory.trust,
        };
        for row in &pair.rows {
            let objects = row.finding.objects;
            backup.objects = backup.objects.saturating_add(objects);
            backup.versions.extend(row.version);
            match &row.finding.origin {
                Resolution::Known(key) | Resolution::Live(key) => {
                    backup.needed.push(Arc::clone(key));
                }
                Resolution::Unresolved(_) => {
                    backup.unexplained = backup.unexplained.saturating_add(objects);
                }
            }
        }
        backup
    }
}

impl OpenbaoBackup {
    /// Whether a record has its hash.
    #[must_use]
    pub fn has_record(&self) -> bool {
        self.record.is_some()
    }
}

fn listed(directory: &Path) -> Result<Listing, Unreadable> {
    list(directory).map_err(|source| Unreadable {
        path: directory.to_owned(),
        source,
    })
}

/// Unix seconds.
fn recorded_at(record: &BackupRecord) -> Option<u64> {
    let at: jiff::Timestamp = record.note().recorded_at.parse().ok()?;
    u64::try_from(at.as_second()).ok()
}

/// What an unreadable file in the directory of etcd leaves open. A text, such as a list of hashes, is no
/// snapshot.
fn doubt_of(error: &EtcdError) -> Doubt {
    match error {
        EtcdError::Form {
            problem: UnpackError::NotASnapshot(Form::Text | Form::RaftSnapshot),
            ..
        } => Doubt::None,
        EtcdError::Form {
            problem: UnpackError::NotASnapshot(Form::Empty),
            ..
        } => Doubt::Failed,
        _ => Doubt::Snapshot,
    }
}

/// Hashes of the file, and of the database that is packed in it: a record may have either.
fn hashes(source: &EtcdSource) -> Vec<FileInfo> {
    let given = note_source(source).ok().flatten();
    let unpacked = match source {
        EtcdSource::File(snapshot) => snapshot.note_unpacked().ok().flatten(),
        EtcdSource::Live(_) => None,
    };
    given.into_iter().chain(unpacked).collect()
}

/// Creation time and hash of an OpenBao snapshot, or the reason against it.
fn inspect(path: &Path) -> Result<(Option<SystemTime>, FileInfo), (String, Doubt)> {
    let file = open(path).map_err(|error| (one_line(&error), Doubt::Snapshot))?;
    let noted = note_raft_snapshot(&file);
    let (noted, inspected) =
        noted.map_err(|problem| (one_line(&problem), doubt_of_raft(&problem)))?;
    Ok((inspected.created, noted))
}

/// The same for the directory of OpenBao. A damaged snapshot cannot be restored.
fn doubt_of_raft(problem: &RaftSnapshotError) -> Doubt {
    match problem {
        RaftSnapshotError::Damaged(_)
        | RaftSnapshotError::Form(Form::Text | Form::Markup | Form::Database) => Doubt::None,
        RaftSnapshotError::Form(Form::Empty) => Doubt::Failed,
        RaftSnapshotError::Read(_)
        | RaftSnapshotError::Form(_)
        | RaftSnapshotError::Unknown(_)
        | RaftSnapshotError::Changed => Doubt::Snapshot,
    }
}
