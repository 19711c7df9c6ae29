//! Reading records and peers' files, and what is shown of each piece of evidence.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use kms_domain::{
    digest::sha256_hex,
    key::TransitKey,
    recovery::{
        origin::Origin,
        pair::Proof,
        rebuild::{EtcdFinding, PeerEvidence, RecordEvidence},
        record::{self, BackupRecord},
    },
    registry::{
        anchor::Checkpoint,
        document::{self, Document, Generation, StateHash},
    },
    transit::TransitVersion,
};

use super::Obstacle;
use crate::state::StatePath;

/// What a piece of evidence is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A file of etcd.
    EtcdSnapshot,
    /// A running etcd.
    Etcd,
    /// What record-backup wrote.
    BackupRecord,
    /// A copy of another node's state.
    PeerState,
}

/// A piece of evidence that was read.
#[derive(Debug, Clone)]
pub struct Exhibited {
    /// What it is.
    pub kind: Kind,
    /// The file or the servers.
    pub name: String,
    /// Of the file; empty for a running etcd.
    pub sha256: String,
    /// The revision that was read; 0 where there is none.
    pub revision: u64,
    /// The highest version that it shows as promoted.
    pub active: Option<TransitVersion>,
    /// The state that it is or was made from.
    pub state: Option<(Generation, StateHash)>,
    /// How many objects need each version, of a source that tells.
    pub objects: BTreeMap<TransitVersion, u64>,
    /// What became of its distinct encrypted DEKs.
    pub deks: Proof,
}

impl Kind {
    /// The word in reports and journals.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::EtcdSnapshot => "etcd-snapshot",
            Self::Etcd => "etcd",
            Self::BackupRecord => "backup-record",
            Self::PeerState => "peer-state",
        }
    }
}

impl Exhibited {
    pub(super) fn etcd(
        name: &str,
        sha256: &str,
        revision: u64,
        findings: &[EtcdFinding],
        superseded: &[Origin],
    ) -> Self {
        let mut objects: BTreeMap<TransitVersion, u64> = BTreeMap::new();
        let promoted = superseded.iter().filter_map(|origin| match origin {
            Origin::Live(key) => Some(key.version()),
            Origin::Known(_) | Origin::Gap(_) => None,
        });
        let mut active = promoted.max();
        let mut deks = Proof::default();
        for EtcdFinding { finding, .. } in findings {
            let seeds = finding.seeds;
            deks.proven = deks.proven.saturating_add(seeds.proven);
            deks.failed = deks.failed.saturating_add(seeds.failed);
            deks.untried = deks.untried.saturating_add(seeds.untried);
            let version = match &finding.origin {
                Origin::Live(key) | Origin::Known(key) => {
                    active = active.max(Some(key.version()));
                    Some(key.version())
                }
                Origin::Gap(gap) => gap.version(),
            };
            if let Some(version) = version {
                let count = objects.entry(version).or_default();
                *count = count.saturating_add(finding.objects);
            }
        }
        Self {
            kind: match sha256 {
                "" => Kind::Etcd,
                _ => Kind::EtcdSnapshot,
            },
            name: name.to_owned(),
            sha256: sha256.to_owned(),
            revision,
            active,
            state: None,
            objects,
            deks,
        }
    }

    fn told(
        kind: Kind,
        name: &str,
        bytes: &[u8],
        active: &TransitKey,
        state: (Generation, StateHash),
    ) -> Self {
        Self {
            kind,
            name: name.to_owned(),
            sha256: sha256_hex(bytes),
            revision: 0,
            active: Some(active.version()),
            state: Some(state),
            objects: BTreeMap::new(),
            deks: Proof::default(),
        }
    }
}

pub(super) fn read_record(path: &Path) -> Result<(RecordEvidence, Exhibited), Obstacle> {
    let bytes = read(path, record::MAX_FILE_BYTES).map_err(|source| Obstacle::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    let record = BackupRecord::decode(&bytes).map_err(|problem| Obstacle::Record {
        path: path.to_owned(),
        problem,
    })?;
    let name = path.display().to_string();
    let state = &record.note().state;
    let state = (state.generation, state.hash.clone());
    let exhibited = Exhibited::told(Kind::BackupRecord, &name, &bytes, record.active(), state);
    Ok((RecordEvidence { name, record }, exhibited))
}

/// A copy lies wherever it was put, so only its content is judged.
pub(super) fn read_peer(
    path: &Path,
    own: &StatePath,
) -> Result<(PeerEvidence, Exhibited), Obstacle> {
    let same = |one: &Path, other: &Path| {
        let (one, other) = (fs::canonicalize(one).ok(), fs::canonicalize(other).ok());
        one.is_some() && one == other
    };
    if same(path, &own.document()) {
        return Err(Obstacle::PeerIsOwn {
            path: path.to_owned(),
        });
    }
    let unreadable = |path: PathBuf| |source| Obstacle::Unreadable { path, source };
    let bytes = read(path, document::MAX_FILE_BYTES).map_err(unreadable(path.to_owned()))?;
    let document = Document::decode(&bytes).map_err(|problem| Obstacle::PeerDocument {
        path: path.to_owned(),
        problem,
    })?;
    let mut beside = OsString::from(path);
    beside.push(".checkpoint");
    let beside = PathBuf::from(beside);
    let checkpoint = match read(&beside, document::MAX_FILE_BYTES) {
        Ok(bytes) => {
            Some(
                Checkpoint::decode(&bytes).map_err(|problem| Obstacle::PeerCheckpoint {
                    path: beside,
                    problem,
                })?,
            )
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(unreadable(beside)(error)),
    };
    let name = path.display().to_string();
    let state = (document.generation(), document.hash().clone());
    let active = document.registry().active();
    let exhibited = Exhibited::told(Kind::PeerState, &name, &bytes, active, state);
    let peer = PeerEvidence {
        name,
        document,
        checkpoint,
    };
    Ok((peer, exhibited))
}

/// A little more than `most`, where the file has more.
fn read(path: &Path, most: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let most = u64::try_from(most).unwrap_or(u64::MAX);
    let file = File::open(path)?;
    file.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok(bytes)
}
