//! The checkpoint: a second file that names the newest accepted document, so that an older pair
//! of files cannot pass unnoticed. Implements `docs/format/state-document.md` sections 5 and 6.
//!
//! State is written before its checkpoint: a lone newer document is repairable, a lone newer
//! checkpoint is not.

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

/// Why bytes are not a checkpoint. All but the schema of another release mean corruption.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// Larger than any checkpoint.
    #[error("the checkpoint has {0} bytes or more, beyond the limit of {MAX_FILE_BYTES}")]
    TooLarge(usize),
    /// Not this format's JSON.
    #[error("the checkpoint cannot be read")]
    Json(#[source] JsonProblem),
    /// No damage: that release reads it.
    #[error("the checkpoint was {0}")]
    NewerRelease(NewerSchema),
    /// The schema of another format.
    #[error("the checkpoint has the schema {0:?} instead of {SCHEMA:?}")]
    OtherFormat(String),
    /// `generation` is 0.
    #[error("the checkpoint's generation must be at least 1")]
    Generation,
    /// `currentHash` has no valid form.
    #[error("the checkpoint's currentHash is malformed")]
    CurrentHash(#[source] MalformedDigest),
}

/// How document and checkpoint agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Anchor {
    /// Neither exists: a writer may ask [`bootstrap`](crate::bootstrap::bootstrap).
    Absent,
    /// The checkpoint names this document.
    Current,
    /// The checkpoint names the document before: a commit was cut short. A writer rewrites the
    /// checkpoint, a reader warns.
    Behind,
    /// There is a document but no checkpoint.
    Missing {
        /// True for a first commit cut short, which a writer may anchor again by itself. If
        /// false, an older document could be in place, and only the operator may accept it.
        first_generation: bool,
    },
}

/// A document that is older than, or no successor of, the accepted one. Nothing may be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rollback {
    /// The document is gone, its checkpoint is not.
    #[error(
        "the checkpoint accepts generation {} ({}), but there is no state document: restore \
         the document of that generation, or rebuild it with recover-state",
        checkpoint.generation, checkpoint.hash
    )]
    DocumentLost {
        /// What was last accepted.
        checkpoint: Checkpoint,
    },
    /// The document has a lower generation.
    #[error(
        "the state document has generation {found}, but generation {} has been accepted: an older \
         document was put in place; restore the newest pair, or rebuild it with recover-state",
        checkpoint.generation
    )]
    Older {
        /// The document's generation.
        found: Generation,
        /// What was last accepted.
        checkpoint: Checkpoint,
    },
    /// The document has the accepted generation but other content.
    #[error(
        "the state document of generation {} has the hash {found}, but {} has been accepted: \
         restore the pair from one and the same backup or peer, or rebuild it with recover-state",
        checkpoint.generation, checkpoint.hash
    )]
    OtherHash {
        /// The document's hash.
        found: StateHash,
        /// What was last accepted.
        checkpoint: Checkpoint,
    },
    /// The document is more than one generation ahead, so its link cannot be followed.
    #[error(
        "the state document has generation {found}, but the checkpoint only accepts up to the one \
         after {}: document and checkpoint are not of one pair; restore both together, or \
         rebuild them with recover-state",
        checkpoint.generation
    )]
    TooFarAhead {
        /// The document's generation.
        found: Generation,
        /// What was last accepted.
        checkpoint: Checkpoint,
    },
    /// The document is the next generation of another chain.
    #[error(
        "the state document of generation {found} follows {}, not the accepted {}: document and \
         checkpoint are of different chains; restore both together, or rebuild them with \
         recover-state",
        previous_hash.as_ref().map_or("nothing", StateHash::as_str), checkpoint.hash
    )]
    NotLinked {
        /// The document's generation.
        found: Generation,
        /// What the document follows.
        previous_hash: Option<StateHash>,
        /// What was last accepted.
        checkpoint: Checkpoint,
    },
}

impl Anchor {
    /// Compares the two files; `None` is a file that does not exist. One that exists but cannot
    /// be read is an error of its own and never `None`.
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

    /// Reads the bytes of a checkpoint file, as strictly as those of a document.
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

    /// The text of the checkpoint file.
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

    /// Whether the history needs rotations, and the key was never rotated. A key at version 1 makes
    /// generation 1; later generations come from rotations or from earlier rebuilds, so this is a
    /// strong doubt about the key and no proof.
    #[must_use]
    pub fn needs_rotations_of(&self, key: &KeyProfile) -> bool {
        self.generation != Generation::FIRST && key.latest() == TransitVersion::FIRST
    }

    /// The hash of the document of that generation.
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
