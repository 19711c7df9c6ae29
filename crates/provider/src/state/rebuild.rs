//! Putting a rebuilt state in place of a lost, damaged or replaced one.
//!
//! What was there is kept under another name first, then the journal is written, then state and
//! checkpoint. A crash leaves either the files from before, from which the same plan follows again,
//! or the state that the journal names, which is completed without any evidence.

use std::ffi::{OsStr, OsString};

use kms_domain::{
    confirmed::Confirmed,
    digest::{TextHash, sha256_hex},
    recovery::{
        journal::{self, Journal, JournalError, Kept},
        rebuild::{Found, OwnFiles, PlanHash, RebuildPlan},
    },
    registry::{
        anchor::{Checkpoint, CheckpointError},
        document::{Document, DocumentError},
    },
    schema::NewerSchema,
};

use super::{
    Anchor, LockedState, StateError, StatePath, StateReader,
    disk::{Directory, Disk, DiskError, SystemDisk},
};

/// The most of a damaged file that is hashed and kept: far more than a valid one has.
const MAX_KEPT_BYTES: u64 = 64 * 1024 * 1024;

/// What is left of a state: files that are valid by themselves, or whose bytes are known.
#[derive(Debug)]
pub struct Remains {
    /// As evidence.
    pub files: OwnFiles,
    /// Why the state is damaged, if it is.
    pub document_problem: Option<DocumentError>,
    /// Why the checkpoint is damaged, if it is.
    pub checkpoint_problem: Option<CheckpointError>,
    /// The state or the checkpoint was written by a newer release; it counts as damaged only for an
    /// operator who gives it up.
    pub newer_release: Option<StateError>,
    present: Vec<Present>,
}

#[derive(Debug)]
struct Present {
    /// The state, not its checkpoint.
    of_state: bool,
    name: OsString,
    content: Vec<u8>,
}

/// Why a rebuilt state is not in place.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// The files are not those that the plan was made for. Nothing was written.
    #[error(
        "{} or its checkpoint has changed since the plan was made; nothing was written. Make a new \
         plan; do not delete either file",
        path.document().display()
    )]
    Changed {
        /// Where.
        path: StatePath,
    },
    /// The files cannot be read.
    #[error(transparent)]
    State(#[from] StateError),
    /// A journal of this plan is there, and is not one, or a newer release wrote it. Nothing was
    /// written.
    #[error(
        "{} is in the place of this recovery's journal and cannot be read as one; nothing was \
         written. {}",
        path.display(),
        match problem {
            JournalError::NewerRelease(_) => {
                "Run recover-state of the release that wrote it; do not edit or delete the file"
            }
            _ => "Move it away and run the same command again",
        }
    )]
    Journal {
        /// The file.
        path: std::path::PathBuf,
        /// The broken rule.
        #[source]
        problem: JournalError,
    },
    /// The disk failed.
    #[error(
        "the rebuilt state could not be stored as a whole; no data is lost. Mend the cause and run \
         the same command again: it continues where this one stopped. Do not delete or edit any of \
         the files"
    )]
    Disk(#[source] DiskError),
    /// What was written is not what is there.
    #[error(
        "{} does not hold what was written to it; no data is lost. Check the disk, and run the same \
         command again",
        path.document().display()
    )]
    NotReadBack {
        /// Where.
        path: StatePath,
    },
}

impl StateReader {
    /// What is left, without judging whether it belongs together.
    ///
    /// # Errors
    /// When a directory is missing, unsafe or unreadable, or a file is.
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
        let (document, document_problem) = found(document, Document::decode);
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

    /// Refuses what a newer release wrote: it may hold more than this release understands.
    ///
    /// # Errors
    /// [`StateError::OtherRelease`].
    pub fn require_known_release(mut self) -> Result<Self, StateError> {
        match self.newer_release.take() {
            Some(newer) => Err(newer),
            None => Ok(self),
        }
    }

    /// The files that a rebuild would put others in place of, and the names they are kept under.
    #[must_use]
    pub fn kept(&self) -> Vec<Kept> {
        self.to_keep().map(Present::kept).collect()
    }

    /// Whether the rebuild of this journal has left, or found, the checkpoint that is there beside
    /// the document that it made.
    fn has_checkpoint_of(&self, journal: &Journal, made: &Document, name: &OsStr) -> bool {
        if let Found::Valid(checkpoint) = &self.files.checkpoint {
            let anchor = Anchor::of(Some(made), Some(checkpoint));
            return matches!(anchor, Ok(Anchor::Current | Anchor::Behind));
        }
        let present = self.present.iter().find(|present| !present.of_state);
        let mut kept = journal.kept.iter();
        present.map(Present::kept).as_ref() == kept.find(|kept| *kept.file == *name)
    }

    /// The checkpoint of a state in service tells no more than the state.
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
    /// As there.
    pub fn remains(&self) -> Result<Remains, StateError> {
        Remains::read(&self.directory, &self.reader.path)
    }

    /// Puts the planned state in place, with its journal beside it.
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

    /// Like [`LockedState::rebuild`], on a disk that may fail.
    ///
    /// # Errors
    /// As there.
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
        // So that the new state follows an accepted one, and a crash between the two writes below
        // leaves what any start completes.
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

    /// Finishes a rebuild that was cut short after the state was written, and says which one it was;
    /// `None` when the files are not as this plan's rebuild leaves them. Its journal alone does not
    /// show that: it stays when a provider has moved on, and an older state may be put back later.
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

    /// The checkpoint last, then both are read as a provider would read them.
    fn complete_on(&self, disk: &mut dyn Disk, document: &Document) -> Result<(), RebuildError> {
        let path = &self.reader.path;
        let checkpoint = Checkpoint::of(document);
        let text = checkpoint.encode();
        let current = self.remains()?.files.checkpoint;
        if current != Found::Valid(checkpoint) {
            self.replace(disk, &path.checkpoint_name(), &text)?;
        }
        let stored = self.load()?;
        if stored.document.as_ref() == Some(document) && stored.anchor == Anchor::Current {
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

/// The name of a plan's journal.
#[must_use]
pub fn journal_name(path: &StatePath, plan: &PlanHash) -> OsString {
    let characters = plan.as_str().split_once('.').map_or("", |(_, hash)| hash);
    let mut name = path.document_name().to_owned();
    name.push(".recovery-");
    name.push(characters.get(..16).unwrap_or(characters));
    name.push(".json");
    name
}
