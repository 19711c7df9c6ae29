//! The checkpoint: a second file with generation and hash of the newest accepted document. It
//! detects the restoration of an older document.
//! Implements `docs/format/state-document.md` sections 5 and 6.
//!
//! A commit writes the document first: a newer document without its checkpoint can be repaired, a
//! newer checkpoint without its document cannot.

use serde::{Deserialize, Serialize};

use super::document::{Document, Generation, MAX_FILE_BYTES, StateHash};
use crate::{
    digest::MalformedDigest,
    json::{self, JsonProblem},
    schema::{self, CHECKPOINT as SCHEMA, NewerSchema},
    transit::{KeyProfile, TransitVersion},
};

/// The generation and hash of the last accepted document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    generation: Generation,
    hash: StateHash,
}

/// Error of a checkpoint file. All except a schema of another release mean corruption.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// Larger than any valid checkpoint.
    #[error("the checkpoint has {0} bytes or more, beyond the limit of {MAX_FILE_BYTES}")]
    TooLarge(usize),
    /// Invalid JSON of this format.
    #[error("the checkpoint cannot be read")]
    Json(#[source] JsonProblem),
    /// A newer release wrote the file; it is intact, and that release reads it.
    #[error("the checkpoint was {0}")]
    NewerRelease(NewerSchema),
    /// The schema of another format.
    #[error("the checkpoint has the schema {0:?} instead of {SCHEMA:?}")]
    OtherFormat(String),
    /// `generation` is 0.
    #[error("the checkpoint's generation must be at least 1")]
    Generation,
    /// `currentHash` is malformed.
    #[error("the checkpoint's currentHash is malformed")]
    CurrentHash(#[source] MalformedDigest),
}

/// Agreement of document and checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckpointStatus {
    /// Both files are missing: a writer may call [`bootstrap`](crate::bootstrap::bootstrap).
    Absent,
    /// The checkpoint accepts this document.
    Current,
    /// The checkpoint accepts the previous document, because a commit was interrupted. A writer
    /// rewrites the checkpoint, a reader warns.
    Behind,
    /// The document exists without a checkpoint.
    Missing {
        /// True after an interrupted first commit; a writer may then write the checkpoint by
        /// itself. If false, the document may be an older one, and only the operator may accept it.
        first_generation: bool,
    },
}

/// The document is older than the accepted one, or does not follow it. Do not write any file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rollback {
    /// The checkpoint exists without its document.
    #[error(
        "the checkpoint accepts generation {} ({}), but there is no state document",
        checkpoint.generation, checkpoint.hash
    )]
    DocumentLost {
        /// The last accepted checkpoint.
        checkpoint: Checkpoint,
    },
    /// The document has a lower generation.
    #[error(
        "the state document has generation {found}, but generation {} has been accepted: an older \
         document was put in place",
        checkpoint.generation
    )]
    Older {
        /// The document's generation.
        found: Generation,
        /// The last accepted checkpoint.
        checkpoint: Checkpoint,
    },
    /// The document has the accepted generation and other content.
    #[error(
        "the state document of generation {} has the hash {found}, but {} has been accepted",
        checkpoint.generation, checkpoint.hash
    )]
    OtherHash {
        /// The document's hash.
        found: StateHash,
        /// The last accepted checkpoint.
        checkpoint: Checkpoint,
    },
    /// The document is more than one generation ahead, so its link cannot be verified.
    #[error(
        "the state document has generation {found}, but the checkpoint only accepts up to the one \
         after {}: document and checkpoint are not of one pair",
        checkpoint.generation
    )]
    TooFarAhead {
        /// The document's generation.
        found: Generation,
        /// The last accepted checkpoint.
        checkpoint: Checkpoint,
    },
    /// The document is the next generation of another chain.
    #[error(
        "the state document of generation {found} follows {}, not the accepted {}: document and \
         checkpoint are of different chains",
        previous_hash.as_ref().map_or("nothing", StateHash::as_str), checkpoint.hash
    )]
    NotLinked {
        /// The document's generation.
        found: Generation,
        /// Hash of the document's predecessor.
        previous_hash: Option<StateHash>,
        /// The last accepted checkpoint.
        checkpoint: Checkpoint,
    },
}

impl CheckpointStatus {
    /// Compares the two files; `None` is a missing file. The caller must report an unreadable file
    /// as an error instead of passing `None`.
    ///
    /// # Errors
    /// [`Rollback`].
    pub fn of(
        document: Option<&Document>,
        checkpoint: Option<&Checkpoint>,
    ) -> Result<Self, Rollback> {
        let (document, checkpoint) = match (document, checkpoint) {
            (None, None) => return Ok(Self::Absent),
            (Some(document), None) => {
                return Ok(Self::Missing {
                    first_generation: document.generation() == Generation::FIRST,
                });
            }
            (None, Some(checkpoint)) => {
                return Err(Rollback::DocumentLost {
                    checkpoint: checkpoint.clone(),
                });
            }
            (Some(document), Some(checkpoint)) => (document, checkpoint.clone()),
        };

        let found = document.generation();
        match found.get().checked_sub(checkpoint.generation.get()) {
            None => Err(Rollback::Older { found, checkpoint }),
            Some(0) if *document.hash() == checkpoint.hash => Ok(Self::Current),
            Some(0) => Err(Rollback::OtherHash {
                found: document.hash().clone(),
                checkpoint,
            }),
            Some(1) if document.previous_hash() == Some(&checkpoint.hash) => Ok(Self::Behind),
            Some(1) => Err(Rollback::NotLinked {
                found,
                previous_hash: document.previous_hash().cloned(),
                checkpoint,
            }),
            Some(_) => Err(Rollback::TooFarAhead { found, checkpoint }),
        }
    }
}

impl Checkpoint {
    /// The checkpoint that accepts `document`.
    #[must_use]
    pub fn of(document: &Document) -> Self {
        Self {
            generation: document.generation(),
            hash: document.hash().clone(),
        }
    }

    /// Decodes a checkpoint file, as strictly as a document.
    ///
    /// # Errors
    /// [`CheckpointError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, CheckpointError> {
        if bytes.len() > MAX_FILE_BYTES {
            return Err(CheckpointError::TooLarge(bytes.len()));
        }

        schema::refuse_newer(bytes).map_err(CheckpointError::NewerRelease)?;
        let raw: RawCheckpoint = json::read(bytes).map_err(CheckpointError::Json)?;
        if raw.schema_version != SCHEMA {
            return Err(CheckpointError::OtherFormat(raw.schema_version));
        }

        Ok(Self {
            generation: Generation::new(raw.generation).ok_or(CheckpointError::Generation)?,
            hash: StateHash::parse(&raw.current_hash).map_err(CheckpointError::CurrentHash)?,
        })
    }

    /// Encodes the checkpoint file.
    #[must_use]
    pub fn encode(&self) -> String {
        json::indented(&RawCheckpoint {
            schema_version: SCHEMA.to_owned(),
            generation: self.generation.get(),
            current_hash: self.hash.to_string(),
        })
    }

    /// The newest accepted generation.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// Whether the generation implies rotations, but the key was never rotated. A key at version 1
    /// has generation 1. Later generations come from rotations or from earlier rebuilds, so the
    /// result is a strong doubt about the key, not a proof.
    #[must_use]
    pub fn needs_rotations_of(&self, key: &KeyProfile) -> bool {
        self.generation != Generation::FIRST && key.latest() == TransitVersion::FIRST
    }

    /// The hash of the accepted document.
    #[must_use]
    pub fn hash(&self) -> &StateHash {
        &self.hash
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawCheckpoint {
    schema_version: String,
    generation: u64,
    current_hash: String,
}
