//! Replaces a lost, damaged or outdated state with a rebuilt one.
//!
//! The order of writes is: copies of the existing files under other names, the journal, the state,
//! the checkpoint. A crash leaves one of two cases: the previous files, which yield the same plan
//! again, or the state named in the journal, which is completed without any evidence.

use std::ffi::{OsStr, OsString};

use kms_domain::{
    confirmed::Confirmed,
    digest::{TextHash, sha256_hex},
    recovery::{
        journal::{self, Journal, JournalError, Kept},
        rebuild::{Found, OwnFiles, PlanHash, RebuildPlan},
    },
    registry::{
        checkpoint::{Checkpoint, CheckpointError},
        document::{Document, DocumentError},
    },
    schema::NewerSchema,
};

use super::{
    CheckpointStatus, LockedState, StateError, StatePath, StateReader,
    disk::{Directory, Disk, DiskError, SystemDisk},
};

/// Limit for hashing and keeping a damaged file, far above the size of a valid one.
const MAX_KEPT_BYTES: u64 = 64 * 1024 * 1024;

/// Existing files of a state: valid by themselves, or damaged with known bytes.
#[derive(Debug)]
pub struct Remains {
    /// The files as evidence for a plan.
    pub files: OwnFiles,
    /// Why the state document is damaged.
    pub document_problem: Option<DocumentError>,
    /// Why the checkpoint is damaged.
    pub checkpoint_problem: Option<CheckpointError>,
    /// A newer release wrote the state or the checkpoint. The file counts as damaged only if the
    /// operator chooses to replace it.
    pub newer_release: Option<StateError>,
    present: Vec<Present>,
}

#[derive(Debug)]
struct Present {
    /// `true` for the state document, `false` for the checkpoint.
    of_state: bool,
    name: OsString,
    content: Vec<u8>,
}

/// Why a rebuilt state is not in place.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// The files differ from those in the plan. Nothing was written.
    #[error(
        "{} or its checkpoint has changed since the plan was made; nothing was written",
        path.document().display()
    )]
    Changed { path: StatePath },
    #[error(transparent)]
    State(#[from] StateError),
    /// The journal file of this plan is invalid or was written by a newer release. Nothing was
    /// written.
    #[error(
        "{} is in the place of this recovery's journal and is no valid one; nothing was written",
        path.display()
    )]
    Journal {
        path: std::path::PathBuf,
        /// The violated format rule.
        #[source]
        problem: JournalError,
    },
    #[error("the rebuilt state could not be stored as a whole")]
    Disk(#[source] DiskError),
    /// The files read back differ from the written ones.
    #[error(
        "{} was read back with other content than written",
        path.document().display()
    )]
    NotReadBack { path: StatePath },
}

impl StateReader {
    /// Reads the existing files without comparing them with each other.
    ///
    /// # Errors
    /// A missing directory, or an unsafe or unreadable directory or file.
    pub fn remains(&self) -> Result<Remains, StateError> {
        let directory = Directory::open(self.path.directory()).map_err(StateError::Unreadable)?;
        let directory = directory.ok_or_else(|| StateError::NoDirectory {
            path: self.path.directory().to_owned(),
        })?;
        Remains::read(&directory, &self.path)
    }
}

impl Remains {
    fn read(directory: &Directory, path: &StatePath) -> Result<Self, StateError> {
        let mut present = Vec::new();
        let mut read = |name: &OsStr| {
            let content = directory
                .read(name, MAX_KEPT_BYTES)
                .map_err(StateError::Unreadable)?;
            if let Some(content) = &content {
                present.push(Present {
                    of_state: name == path.document_name(),
                    name: name.to_owned(),
                    content: content.clone(),
                });
            }
            Ok::<_, StateError>(content)
        };

        let checkpoint = read(&path.checkpoint_name())?;
        let (checkpoint, checkpoint_problem) = found(checkpoint, Checkpoint::decode);
        let document = read(path.document_name())?;
        let preview = document.as_deref().map(Document::decode_legacy);
        let (document, document_problem) = match preview {
            Some(Ok(document)) => (Found::Legacy(document), None),
            Some(Err(_)) | None => found(document, Document::decode),
        };

        let newer = |path, schema: &NewerSchema| StateError::OtherRelease {
            path,
            schema: schema.clone(),
        };

        let newer_release = match (&document_problem, &checkpoint_problem) {
            (Some(DocumentError::NewerRelease(schema)), _) => Some(newer(path.document(), schema)),
            (_, Some(CheckpointError::NewerRelease(schema))) => {
                Some(newer(path.checkpoint(), schema))
            }
            _ => None,
        };

        Ok(Self {
            newer_release,
            files: OwnFiles {
                document,
                checkpoint,
            },
            document_problem,
            checkpoint_problem,
            present,
        })
    }

    /// Rejects files of a newer release: they may hold more than this release understands.
    ///
    /// # Errors
    /// [`StateError::OtherRelease`].
    pub fn require_known_release(mut self) -> Result<Self, StateError> {
        match self.newer_release.take() {
            Some(newer) => Err(newer),
            None => Ok(self),
        }
    }

    /// The files to be replaced by a rebuild, with the names of their copies.
    #[must_use]
    pub fn kept(&self) -> Vec<Kept> {
        self.to_keep().map(Present::kept).collect()
    }

    /// Whether the present checkpoint is consistent with a rebuild of this journal: it belongs to
    /// the rebuilt document, or is still the one found before the rebuild.
    fn has_checkpoint_of(&self, journal: &Journal, made: &Document, name: &OsStr) -> bool {
        if let Found::Valid(checkpoint) = &self.files.checkpoint {
            let anchor = CheckpointStatus::of(Some(made), Some(checkpoint));
            return matches!(
                anchor,
                Ok(CheckpointStatus::Current | CheckpointStatus::Behind)
            );
        }
        let present = self.present.iter().find(|present| !present.of_state);
        let mut kept = journal.kept.iter();
        present.map(Present::kept).as_ref() == kept.find(|kept| *kept.file == *name)
    }

    /// All files to copy. The checkpoint of a state in service is left out, being derivable from
    /// the state.
    fn to_keep(&self) -> impl Iterator<Item = &Present> {
        let in_service = self.files.in_service().is_some();
        let present = self.present.iter();
        present.filter(move |present| present.of_state || !in_service)
    }
}

impl Present {
    fn kept(&self) -> Kept {
        let sha256 = sha256_hex(&self.content);
        let file = self.name.to_string_lossy().into_owned();
        Kept {
            kept_as: format!("{file}.kept-{}", sha256.get(..16).unwrap_or_default()),
            file,
            sha256,
        }
    }
}

fn found<T, E>(
    bytes: Option<Vec<u8>>,
    decode: impl FnOnce(&[u8]) -> Result<T, E>,
) -> (Found<T>, Option<E>) {
    match bytes {
        None => (Found::Nothing, None),
        Some(bytes) => match decode(&bytes) {
            Ok(content) => (Found::Valid(content), None),
            Err(problem) => {
                let content = TextHash::of_content(&bytes);
                (Found::Damaged { content }, Some(problem))
            }
        },
    }
}

impl LockedState {
    /// Like [`StateReader::remains`].
    ///
    /// # Errors
    /// As [`StateReader::remains`].
    pub fn remains(&self) -> Result<Remains, StateError> {
        Remains::read(&self.directory, &self.reader.path)
    }

    /// Stores the planned state with its journal.
    ///
    /// # Errors
    /// [`RebuildError`].
    pub fn rebuild(
        self,
        plan: &Confirmed<RebuildPlan>,
        journal: &Journal,
    ) -> Result<(), RebuildError> {
        self.rebuild_on(&mut SystemDisk, plan, journal)
    }

    /// Like [`LockedState::rebuild`], on the given disk implementation.
    ///
    /// # Errors
    /// As [`LockedState::rebuild`].
    pub fn rebuild_on(
        self,
        disk: &mut dyn Disk,
        plan: &Confirmed<RebuildPlan>,
        journal: &Journal,
    ) -> Result<(), RebuildError> {
        let (plan, path) = (plan.plan(), &self.reader.path);
        let remains = self.remains()?;
        if remains.files != *plan.own() {
            return Err(RebuildError::Changed { path: path.clone() });
        }

        for present in remains.to_keep() {
            let name = OsString::from(present.kept().kept_as);
            self.directory
                .keep(disk, &name, &present.content)
                .map_err(RebuildError::Disk)?;
        }

        if self.journal(plan.hash())?.is_none() {
            let text = journal.encode();
            self.directory
                .keep(disk, &journal_name(path, plan.hash()), text.as_bytes())
                .map_err(RebuildError::Disk)?;
        }
        // Makes the new state follow an accepted one. Any start then completes a crash between the
        // two writes below.
        if let Some(replaced) = plan.own().in_service() {
            self.replace(
                disk,
                &path.checkpoint_name(),
                &Checkpoint::of(replaced).encode(),
            )?;
        }
        self.replace(disk, path.document_name(), &plan.next().encode())?;
        self.complete_on(disk, plan.next())
    }

    /// Completes a rebuild that was interrupted after writing the state, and returns its journal;
    /// `None` if the files differ from those this rebuild leaves. The journal alone is insufficient
    /// evidence: it remains after later commits, and an older state may be restored beside it.
    ///
    /// # Errors
    /// [`RebuildError`].
    pub fn complete_rebuild(
        &self,
        plan: &PlanHash,
    ) -> Result<Option<(Journal, Document)>, RebuildError> {
        let Some(journal) = self.journal(plan)? else {
            return Ok(None);
        };
        let remains = self.remains()?;
        let Found::Valid(document) = &remains.files.document else {
            return Ok(None);
        };

        let made_it = journal.plan == *plan
            && journal.state_hash == *document.hash()
            && self.reader.require_configured(document).is_ok();
        let name = self.reader.path.checkpoint_name();
        if !made_it || !remains.has_checkpoint_of(&journal, document, &name) {
            return Ok(None);
        }
        self.complete_on(&mut SystemDisk, document)?;
        Ok(Some((journal, document.clone())))
    }

    /// Writes the checkpoint last, then reads both files back as the provider reads them.
    fn complete_on(&self, disk: &mut dyn Disk, document: &Document) -> Result<(), RebuildError> {
        let path = &self.reader.path;
        let checkpoint = Checkpoint::of(document);
        let text = checkpoint.encode();
        let current = self.remains()?.files.checkpoint;
        if current != Found::Valid(checkpoint) {
            self.replace(disk, &path.checkpoint_name(), &text)?;
        }

        let stored = self.load()?;
        if stored.document.as_ref() == Some(document) && stored.anchor == CheckpointStatus::Current
        {
            Ok(())
        } else {
            Err(RebuildError::NotReadBack { path: path.clone() })
        }
    }

    fn replace(&self, disk: &mut dyn Disk, name: &OsStr, text: &str) -> Result<(), RebuildError> {
        self.directory
            .replace(disk, name, text.as_bytes())
            .map_err(RebuildError::Disk)
    }

    fn journal(&self, plan: &PlanHash) -> Result<Option<Journal>, RebuildError> {
        let name = journal_name(&self.reader.path, plan);
        self.directory
            .remove_stale(&name)
            .map_err(RebuildError::Disk)?;
        let bytes = self
            .directory
            .read(&name, journal::MAX_FILE_BYTES as u64)
            .map_err(RebuildError::Disk)?;
        let read = |bytes: Vec<u8>| {
            Journal::decode(&bytes).map_err(|problem| RebuildError::Journal {
                path: self.directory.path().join(&name),
                problem,
            })
        };
        bytes.map(read).transpose()
    }
}

/// File name of a plan's journal.
#[must_use]
pub fn journal_name(path: &StatePath, plan: &PlanHash) -> OsString {
    let characters = plan.as_str().split_once('.').map_or("", |(_, hash)| hash);
    let mut name = path.document_name().to_owned();
    name.push(".recovery-");
    name.push(characters.get(..16).unwrap_or(characters));
    name.push(".json");
    name
}
