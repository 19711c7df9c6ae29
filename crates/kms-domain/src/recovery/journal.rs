//! Evidence and assumptions of a registry rebuild, kept beside the rebuilt state.
//! Implements `docs/format/recovery-journal.md`.
//!
//! The journal is written before the state. After an interruption, it distinguishes a rebuilt state
//! from one of unknown origin, and the rebuild can be completed. The hash detects damage and
//! careless edits; it is not a signature.

use serde::{Deserialize, Serialize};

use super::rebuild::PlanHash;
use crate::{
    digest::{MalformedDigest, digest_type},
    fingerprint::IdentityFingerprint,
    json::{self, JsonProblem},
    registry::document::{Generation, StateHash},
    schema::{self, JOURNAL as SCHEMA, NewerSchema},
    transit::TransitVersion,
};

/// Maximum size of a file.
pub const MAX_FILE_BYTES: usize = 4 * 1024 * 1024;

digest_type!(
    /// `rcj1.` and a digest of everything else in the journal.
    JournalHash,
    "rcj1."
);

/// The journal of one rebuild.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Journal {
    /// RFC 3339, for people; the program ignores it.
    pub recovered_at: String,
    /// Version of the program that rebuilt the state.
    pub plugin_version: String,
    /// The confirmed plan.
    pub plan: PlanHash,
    /// Fingerprint of the configuration.
    pub fingerprint: IdentityFingerprint,
    /// Generation of the rebuilt state.
    pub generation: Generation,
    /// Hash of the state's predecessor.
    pub previous_hash: Option<StateHash>,
    /// Hash of the rebuilt state.
    pub state_hash: StateHash,
    /// The active version.
    pub active: TransitVersion,
    /// The evidence of the plan.
    pub evidence: Vec<EvidenceItem>,
    /// The operator asserted that no node had promoted this version or a later one.
    pub not_promoted: Option<TransitVersion>,
    /// Files replaced by the rebuild, with the names of their copies.
    pub kept: Vec<Kept>,
    /// Open points of the evidence.
    pub limitations: Vec<String>,
}

/// One piece of evidence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EvidenceItem {
    /// `etcd-snapshot`, `etcd`, `backup-record` or `peer-state`.
    pub kind: String,
    /// The file or the servers.
    pub name: String,
    /// Hash of the file; empty for a running etcd.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub sha256: String,
    /// The etcd revision; 0 for evidence without one.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub revision: u64,
}

/// A file replaced by the rebuild.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Kept {
    /// Its name.
    pub file: String,
    /// The name of the copy beside it.
    pub kept_as: String,
    /// Hash of its content.
    pub sha256: String,
}

/// Error of a journal file.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Larger than [`MAX_FILE_BYTES`].
    #[error("the file has {0} bytes, more than a recovery journal can have")]
    TooLarge(usize),
    /// Another file format.
    #[error("the file is not a recovery journal")]
    Json(#[source] JsonProblem),
    /// A newer release wrote the file; it is intact, and that release reads it.
    #[error("the journal was {0}")]
    NewerRelease(NewerSchema),
    /// The schema of another format.
    #[error("the journal has the schema {0:?} instead of {SCHEMA:?}")]
    OtherFormat(String),
    /// A hash or fingerprint is malformed.
    #[error("{member} is malformed")]
    Digest {
        /// The member.
        member: &'static str,
        /// The violated rule.
        #[source]
        problem: MalformedDigest,
    },
    /// The contents differ from the hashed contents.
    #[error(
        "the journal was changed: it states the hash {stated}, but its contents have {computed}"
    )]
    Changed {
        /// The hash in the journal.
        stated: JournalHash,
        /// The hash of the contents.
        computed: JournalHash,
    },
    /// A number outside its range.
    #[error("{member} is {value}, outside its range")]
    Number {
        /// The member.
        member: &'static str,
        /// The value.
        value: u64,
    },
}

impl Journal {
    /// Encodes the file.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut raw = RawJournal::of(self);
        raw.journal_hash = raw.content_hash().to_string();
        json::indented(&raw)
    }

    /// Decodes and checks a journal. White space between tokens is ignored.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, JournalError> {
        if bytes.len() > MAX_FILE_BYTES {
            return Err(JournalError::TooLarge(bytes.len()));
        }
        schema::refuse_newer(bytes).map_err(JournalError::NewerRelease)?;
        let mut raw: RawJournal = json::read(bytes).map_err(JournalError::Json)?;
        if raw.schema_version != SCHEMA {
            return Err(JournalError::OtherFormat(raw.schema_version));
        }
        let stated = std::mem::take(&mut raw.journal_hash);
        let stated = digest("journalHash", JournalHash::parse(&stated))?;
        let computed = raw.content_hash();
        if stated != computed {
            return Err(JournalError::Changed { stated, computed });
        }
        raw.read()
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawJournal {
    schema_version: String,
    recovered_at: String,
    plugin_version: String,
    plan_hash: String,
    identity_fingerprint: String,
    generation: u64,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    previous_hash: String,
    state_hash: String,
    active_transit_version: u64,
    evidence: Vec<EvidenceItem>,
    #[serde(default, skip_serializing_if = "is_zero")]
    assumed_not_promoted: u64,
    kept_files: Vec<Kept>,
    limitations: Vec<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    journal_hash: String,
}

impl RawJournal {
    fn of(journal: &Journal) -> Self {
        let previous = journal.previous_hash.as_ref();
        Self {
            schema_version: SCHEMA.to_owned(),
            recovered_at: journal.recovered_at.clone(),
            plugin_version: journal.plugin_version.clone(),
            plan_hash: journal.plan.to_string(),
            identity_fingerprint: journal.fingerprint.to_string(),
            generation: journal.generation.get(),
            previous_hash: previous.map(StateHash::to_string).unwrap_or_default(),
            state_hash: journal.state_hash.to_string(),
            active_transit_version: journal.active.get(),
            evidence: journal.evidence.clone(),
            assumed_not_promoted: journal.not_promoted.map_or(0, TransitVersion::get),
            kept_files: journal.kept.clone(),
            limitations: journal.limitations.clone(),
            journal_hash: String::new(),
        }
    }

    /// Hash over all members but `journalHash`, which must still be empty.
    fn content_hash(&self) -> JournalHash {
        JournalHash::of_bytes(json::compact(self).as_bytes())
    }

    fn read(self) -> Result<Journal, JournalError> {
        let version = |member, value| {
            TransitVersion::new(value).ok_or(JournalError::Number { member, value })
        };
        let previous = (!self.previous_hash.is_empty()).then(|| {
            let parsed = StateHash::parse(&self.previous_hash);
            digest("previousHash", parsed)
        });
        let not_promoted = (self.assumed_not_promoted != 0)
            .then(|| version("assumedNotPromoted", self.assumed_not_promoted));

        Ok(Journal {
            plan: digest("planHash", PlanHash::parse(&self.plan_hash))?,
            fingerprint: digest(
                "identityFingerprint",
                IdentityFingerprint::parse(&self.identity_fingerprint),
            )?,
            generation: Generation::new(self.generation).ok_or(JournalError::Number {
                member: "generation",
                value: self.generation,
            })?,
            previous_hash: previous.transpose()?,
            state_hash: digest("stateHash", StateHash::parse(&self.state_hash))?,
            active: version("activeTransitVersion", self.active_transit_version)?,
            not_promoted: not_promoted.transpose()?,
            recovered_at: self.recovered_at,
            plugin_version: self.plugin_version,
            evidence: self.evidence,
            kept: self.kept_files,
            limitations: self.limitations,
        })
    }
}

fn digest<T>(member: &'static str, parsed: Result<T, MalformedDigest>) -> Result<T, JournalError> {
    parsed.map_err(|problem| JournalError::Digest { member, problem })
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests {
    use proptest::{prelude::*, sample};

    use super::*;
    use crate::{
        registry::RecordState,
        vectors::{self, vectors},
    };

    #[derive(Deserialize)]
    struct Vectors {
        journals: Vec<Vector>,
    }

    #[derive(Deserialize)]
    struct Vector {
        claim: String,
        journal: String,
    }

    fn journal() -> Journal {
        let document = vectors::document(&[(2, RecordState::Active)]);
        Journal {
            recovered_at: "2024-05-15T20:00:00Z".to_owned(),
            plugin_version: "v1".to_owned(),
            plan: PlanHash::parse(&crate::digest::text_of("rbp1.", b"")).unwrap(),
            fingerprint: document.fingerprint().unwrap().clone(),
            generation: Generation::new(5).unwrap(),
            previous_hash: Some(document.hash().clone()),
            state_hash: document.hash().clone(),
            active: vectors::version(2),
            evidence: vec![EvidenceItem {
                kind: "etcd-snapshot".to_owned(),
                name: "/backup/etcd.db".to_owned(),
                sha256: "ab".repeat(32),
                revision: 7,
            }],
            not_promoted: Some(vectors::version(3)),
            kept: vec![Kept {
                file: "key-registry.json".to_owned(),
                kept_as: "key-registry.json.kept-ab".to_owned(),
                sha256: "ab".repeat(32),
            }],
            limitations: vec!["<one> & only".to_owned()],
        }
    }

    #[test]
    fn every_vector_is_read_and_written() {
        let vectors: Vectors = vectors!("recovery_journal.json");
        for vector in vectors.journals {
            let journal = Journal::decode(vector.journal.as_bytes()).unwrap();
            assert_eq!(journal.encode(), vector.journal, "{}", vector.claim);
        }
    }

    #[test]
    fn what_is_not_there_is_left_out_and_read_back() {
        let bare = Journal {
            previous_hash: None,
            not_promoted: None,
            evidence: vec![EvidenceItem {
                kind: "etcd".to_owned(),
                name: "https://127.0.0.1:2379".to_owned(),
                sha256: String::new(),
                revision: 0,
            }],
            ..journal()
        };
        for journal in [bare, journal()] {
            let text = journal.encode();
            assert_eq!(Journal::decode(text.as_bytes()).unwrap(), journal);
        }
    }

    #[test]
    fn a_newer_release_is_named_whatever_else_it_writes() {
        for more in ["", "\"new\": {\"more\": 1},", "\"planHash\": 7,"] {
            let newer = journal().encode().replace("journal/v1", "journal/v2");
            let newer = newer.replacen('{', &format!("{{{more}"), 1);
            assert!(matches!(
                Journal::decode(newer.as_bytes()),
                Err(JournalError::NewerRelease(schema)) if schema.to_string().contains("/v2\"")
            ));
        }
        let own = journal().encode().replacen('{', "{\"new\": 1,", 1);
        let refused = Journal::decode(own.as_bytes());
        assert!(matches!(refused, Err(JournalError::Json(_))));
    }

    proptest! {
        #[test]
        fn a_changed_byte_is_refused_or_was_white_space(
            at in any::<sample::Index>(),
            byte in any::<u8>(),
        ) {
            let mut text = journal().encode().into_bytes();
            let at = at.index(text.len());
            text[at] = byte;
            if let Ok(read) = Journal::decode(&text) {
                prop_assert_eq!(read, journal());
            }
        }
    }
}
