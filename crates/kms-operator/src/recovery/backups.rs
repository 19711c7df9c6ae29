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
    EtcdError, EtcdSource,
    backup_record::{note_raft_snapshot, note_source},
    form::Form,
    local_knowledge::LocalKnowledge,
    open,
    recover_state::read_file,
    unpacked::UnpackError,
    verify_pair::{self, Pair},
};
use directory::{BackupFile, MadeBy, list};

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
}

/// An OpenBao snapshot.
#[derive(Debug)]
pub struct OpenbaoBackup {
    pub file: BackupFile,
    created: Option<CreatedAt>,
    /// Index of the record with its hash.
    record: Option<usize>,
}

/// A file that is no part of any pair.
#[derive(Debug)]
pub struct LeftOut {
    pub file: String,
    pub reason: String,
    /// Whether it may be an unreadable snapshot, whose needs are unknown.
    pub is_suspect: bool,
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
        let etcd = listed(&request.etcd)?;
        let openbao = listed(&request.openbao)?;
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
            backups.add_record(config, &path.display().to_string(), &bytes);
        }
        let (records, snapshots): (Vec<_>, Vec<_>) =
            etcd.into_iter().partition(BackupFile::may_be_record);
        let (more, archives): (Vec<_>, Vec<_>) =
            openbao.into_iter().partition(BackupFile::may_be_record);
        for file in records.iter().chain(&more) {
            match read_file(&file.path, MAX_FILE_BYTES) {
                Ok(bytes) => backups.add_record(config, &file.name, &bytes),
                Err(error) => backups.leave_out(&file.name, one_line(&error), false),
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
        backups.etcd.sort_by_key(|it| it.file.made);
        backups.openbao.sort_by_key(|it| it.file.made);
        Ok(backups)
    }

    /// Every pair, from the oldest etcd snapshot on.
    pub fn pairs(&self) -> impl Iterator<Item = Judged<'_>> {
        self.etcd
            .iter()
            .flat_map(move |etcd| self.openbao.iter().map(move |it| self.judge(etcd, it)))
    }

    fn judge<'b>(&'b self, etcd: &'b EtcdBackup, openbao: &'b OpenbaoBackup) -> Judged<'b> {
        let facts = SnapshotFacts {
            created: openbao.created,
            record: openbao.record.and_then(|index| self.records.get(index)),
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

    fn leave_out(&mut self, file: &str, reason: String, is_suspect: bool) {
        self.left_out.push(LeftOut {
            file: file.to_owned(),
            reason,
            is_suspect,
        });
    }

    fn add_record(&mut self, config: &Config, name: &str, bytes: &[u8]) {
        match BackupRecord::decode(bytes) {
            Ok(record)
                if *record.note().scope.identity() == config.scope
                    && record.note().path == config.key =>
            {
                self.records.push(record);
            }
            Ok(_) => {
                let reason = "the record is of another cluster or key";
                self.leave_out(name, reason.to_owned(), false);
            }
            Err(problem) => self.leave_out(name, one_line(&problem), false),
        }
    }

    fn add_etcd(
        &mut self,
        config: &Config,
        mut file: BackupFile,
        prefix: Option<String>,
        claims: &[VersionClaims],
        reading: OnProgress<'_>,
    ) {
        if let Some(reason) = file.unreadable_by_name() {
            return self.leave_out(&file.name, reason.to_owned(), true);
        }
        let read = EtcdSource::file(&file.path).and_then(|source| {
            let claims = claims.to_vec();
            let live = LiveKey::Unknown;
            let pair = verify_pair::count(config, &source, prefix, claims, live, reading)?;
            Ok((pair, note_source(&source).ok().flatten()))
        });
        match read {
            Ok((pair, noted)) => {
                let record = noted.and_then(|noted| {
                    let mut records = self.records.iter();
                    records.find(|it| is_of(it.note().etcd.as_ref().map(|it| &it.file), &noted))
                });
                // A name has the time of the snapshot; a record was written after it, and a file may
                // be a copy.
                if file.made_by == MadeBy::ModificationTime
                    && let Some(at) = record.and_then(recorded_at)
                {
                    file.set_made(at, MadeBy::Record);
                }
                self.etcd.push(EtcdBackup::of(file, &pair));
            }
            Err(error) => {
                self.leave_out(&file.name, one_line(&error), may_be_snapshot(&error));
            }
        }
    }

    fn add_openbao(&mut self, mut file: BackupFile) {
        if let Some(reason) = file.unreadable_by_name() {
            return self.leave_out(&file.name, reason.to_owned(), false);
        }
        match inspect(&file.path) {
            Ok((created, noted)) => {
                if let Some(created) = created {
                    file.set_made(created, MadeBy::Archive);
                }
                let mut records = self.records.iter();
                let record = records.position(|it| is_of(it.note().openbao.as_ref(), &noted));
                let created = created.and_then(|it| it.duration_since(SystemTime::UNIX_EPOCH).ok());
                self.openbao.push(OpenbaoBackup {
                    file,
                    created: created.and_then(|it| CreatedAt::new(it.as_secs())),
                    record,
                });
            }
            Err(reason) => self.leave_out(&file.name, reason, false),
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

fn listed(directory: &Path) -> Result<Vec<BackupFile>, Unreadable> {
    list(directory).map_err(|source| Unreadable {
        path: directory.to_owned(),
        source,
    })
}

fn is_of(recorded: Option<&FileInfo>, noted: &FileInfo) -> bool {
    recorded.is_some_and(|recorded| recorded == noted)
}

fn recorded_at(record: &BackupRecord) -> Option<SystemTime> {
    let at: jiff::Timestamp = record.note().recorded_at.parse().ok()?;
    let since = Duration::from_secs(u64::try_from(at.as_second()).ok()?);
    SystemTime::UNIX_EPOCH.checked_add(since)
}

/// Whether a file that was not read may be an etcd snapshot. A text, such as a list of hashes, is none.
fn may_be_snapshot(error: &EtcdError) -> bool {
    let EtcdError::Form { problem, .. } = error else {
        return true;
    };
    !matches!(
        problem,
        UnpackError::NotASnapshot(Form::Text | Form::Empty | Form::RaftSnapshot)
    )
}

/// Creation time and hash of an OpenBao snapshot, or the reason against it.
fn inspect(path: &Path) -> Result<(Option<SystemTime>, FileInfo), String> {
    let file = open(path).map_err(|error| one_line(&error))?;
    let (noted, inspected) = note_raft_snapshot(&file).map_err(|problem| one_line(&problem))?;
    Ok((inspected.created, noted))
}
