//! Reads records and peers' states, and summarizes each piece of evidence.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use kms_domain::{
    digest::sha256_hex,
    key::TransitKey,
    recovery::{
        journal::EvidenceItem,
        pair::Proof,
        rebuild::{EtcdFinding, PeerEvidence, RecordEvidence},
        record::{self, BackupRecord},
        resolve::Resolution,
    },
    registry::{
        checkpoint::Checkpoint,
        document::{self, Document, DocumentError, Generation, StateHash},
    },
    transit::TransitVersion,
};
use kms_node::state::StatePath;

use super::{FileProblem, InputError};
use crate::recovery::open_regular;

/// Kind of evidence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    EtcdSnapshot,
    Etcd,
    /// File from record-backup.
    BackupRecord,
    /// A copy of another node's state.
    PeerState,
}

/// Summary of one piece of evidence.
#[derive(Debug, Clone)]
pub struct GatheredItem {
    pub kind: Kind,
    /// Path of the file, or URLs of the members.
    pub name: String,
    /// Hash of the file in hex; empty for a running etcd.
    pub sha256: String,
    /// Revision of the reading; 0 for a record or a state.
    pub revision: u64,
    /// Highest promoted version in the evidence.
    pub active: Option<TransitVersion>,
    /// The peer's state, or the state at the time of the record.
    pub state: Option<(Generation, StateHash)>,
    /// Number of objects per needed version, from etcd only.
    pub objects: BTreeMap<TransitVersion, u64>,
    /// Results of its distinct encrypted DEKs.
    pub deks: Proof,
}

impl Kind {
    /// Code in reports and journals.
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

impl GatheredItem {
    /// As in a journal.
    #[must_use]
    pub fn item(&self) -> EvidenceItem {
        EvidenceItem {
            kind: self.kind.as_str().to_owned(),
            name: self.name.clone(),
            sha256: self.sha256.clone(),
            revision: self.revision,
        }
    }

    pub(super) fn etcd(
        name: &str,
        sha256: &str,
        revision: u64,
        findings: &[EtcdFinding],
        superseded: &[Resolution],
    ) -> Self {
        let mut objects: BTreeMap<TransitVersion, u64> = BTreeMap::new();
        let promoted = superseded.iter().filter_map(|origin| match origin {
            Resolution::Live(key) => Some(key.version()),
            Resolution::Known(_) | Resolution::Unresolved(_) => None,
        });
        let mut active = promoted.max();
        let mut deks = Proof::default();

        for EtcdFinding { finding, .. } in findings {
            deks = deks.plus(finding.seeds);
            let version = match &finding.origin {
                Resolution::Live(key) | Resolution::Known(key) => {
                    active = active.max(Some(key.version()));
                    Some(key.version())
                }
                Resolution::Unresolved(gap) => gap.version(),
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

/// Reads a backup record.
///
/// # Errors
/// [`InputError`] of an unreadable or invalid file.
pub fn read_record(path: &Path) -> Result<(RecordEvidence, GatheredItem), InputError> {
    let bytes = read_file(path, record::MAX_FILE_BYTES).map_err(unreadable(path))?;
    let record = BackupRecord::decode(&bytes).map_err(invalid(path))?;
    let name = path.display().to_string();
    let state = &record.note().state;
    let state = (state.generation, state.hash.clone());
    let exhibited = GatheredItem::told(Kind::BackupRecord, &name, &bytes, record.active(), state);
    Ok((RecordEvidence { name, record }, exhibited))
}

/// Reads the copy of a peer's state. Accepts it at any path, so only its content is verified.
///
/// # Errors
/// [`InputError`] of an unreadable or invalid file, or of this node's own state.
pub fn read_peer(path: &Path, own: &StatePath) -> Result<(PeerEvidence, GatheredItem), InputError> {
    let same = |one: &Path, other: &Path| {
        let (one, other) = (fs::canonicalize(one).ok(), fs::canonicalize(other).ok());
        one.is_some() && one == other
    };
    if same(path, &own.document()) {
        return Err(InputError::PeerIsOwn {
            path: path.to_owned(),
        });
    }

    let bytes = read_file(path, document::MAX_FILE_BYTES).map_err(unreadable(path))?;
    let document = match Document::decode(&bytes) {
        Err(DocumentError::LegacySchema) => Document::decode_legacy(&bytes),
        decoded => decoded,
    };
    let document = document.map_err(invalid(path))?;

    let mut beside = OsString::from(path);
    beside.push(".checkpoint");
    let beside = PathBuf::from(beside);
    let checkpoint = match read_file(&beside, document::MAX_FILE_BYTES) {
        Ok(bytes) => Some(Checkpoint::decode(&bytes).map_err(invalid(&beside))?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(unreadable(&beside)(error)),
    };

    let name = path.display().to_string();
    let state = (document.generation(), document.hash().clone());
    let active = document.registry().active();
    let exhibited = GatheredItem::told(Kind::PeerState, &name, &bytes, active, state);
    let peer = PeerEvidence {
        name,
        document,
        checkpoint,
    };
    Ok((peer, exhibited))
}

fn unreadable(path: &Path) -> impl FnOnce(io::Error) -> InputError {
    let path = path.to_owned();
    |source| InputError::Unreadable { path, source }
}

fn invalid<P: Into<FileProblem>>(path: &Path) -> impl FnOnce(P) -> InputError {
    let path = path.to_owned();
    |problem| InputError::Invalid {
        path,
        problem: Box::new(problem.into()),
    }
}

/// Reads at most `most + 1` bytes of a regular file, so that a larger one is detected.
///
/// # Errors
/// Those of opening and reading the file, and [`io::ErrorKind::InvalidInput`] for another kind of file.
pub fn read_file(path: &Path, most: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let most = u64::try_from(most).unwrap_or(u64::MAX);
    let file = open_regular(path)?;
    file.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    #[test]
    fn a_pipe_is_refused_without_a_wait() {
        let directory = tempfile::TempDir::new().unwrap();
        let pipe = directory.path().join("record.json");
        mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR, 0).unwrap();
        let refused = read_file(&pipe, 1).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
    }
}
