//! Rebuilds a lost or corrupt registry, after a rotation, from evidence: versions needed by stored
//! objects, and the active version of the other nodes.
//!
//! Metadata alone is insufficient: the newest version of the key may still be unpromoted on every
//! node. The highest version with evidence of promotion becomes active. Versions above it without
//! any evidence block the plan. All blockers are reported together, so the operator can fix them in
//! one round.
//!
//! The result is independent of the clock: the same evidence gives the same plan.

mod assessment;
mod blocker;
mod claim_source;
mod limitation;
mod unreadable;

use std::{fmt, num::NonZeroU64, sync::Arc};

use serde::Serialize;

pub use blocker::{PlanBlocker, PlanBlockers, PlanOutdated};
pub use limitation::Limitation;
pub use unreadable::{EtcdFinding, Unreadable};

use super::{record::BackupRecord, resolve::Resolution};
use crate::{
    confirmed::Confirmed,
    digest::{TextHash, digest_type},
    fingerprint::IdentityFingerprint,
    json,
    key::{KeyScope, TransitKey},
    registry::{
        RecordState,
        checkpoint::{Checkpoint, CheckpointStatus},
        document::{Document, Generation, StateHash},
    },
    scope::TransitKeyPath,
    transit::{KeyProfile, TransitVersion},
};
use assessment::Assessment;

digest_type!(
    /// `rbp1.` and the digest of a plan's result and evidence.
    PlanHash,
    "rbp1."
);

/// All inputs of a plan.
#[derive(Debug, Clone)]
pub struct Evidence {
    /// The configured names.
    pub scope: Arc<KeyScope>,
    /// The configured path of the key.
    pub path: TransitKeyPath,
    /// The live key.
    pub key: KeyProfile,
    /// This node's own files.
    pub own: OwnFiles,
    /// Hash of the valid state to be replaced.
    pub replace: Option<StateHash>,
    /// Objects in etcd, by source.
    pub etcd: Vec<EtcdEvidence>,
    /// Backup records.
    pub records: Vec<RecordEvidence>,
    /// Copies of other nodes' files.
    pub peers: Vec<PeerEvidence>,
    /// The operator asserts that no node has promoted this version or a later one.
    pub not_promoted: Option<TransitVersion>,
    /// The number of [`Unreadable`] objects, over all of `etcd`, that the operator accepts.
    pub accepted: Option<NonZeroU64>,
}

/// The files at `state.path` and beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnFiles {
    /// The state.
    pub document: Found<Document>,
    /// Its checkpoint.
    pub checkpoint: Found<Checkpoint>,
}

/// One file of this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found<T> {
    /// The file does not exist.
    Nothing,
    /// The file exists, but its content is invalid by itself.
    Damaged {
        /// The hash of its bytes.
        content: TextHash,
    },
    /// The content is valid by itself, in the schema of a preview: evidence, and never in service.
    Legacy(T),
    /// The content is valid by itself.
    Valid(T),
}

/// Objects of this provider in one etcd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdEvidence {
    /// The snapshot file or the servers.
    pub name: String,
    /// Hash of the snapshot file. Empty for a running etcd, because its content changes.
    pub content: String,
    /// The objects of each `key_id` of this key in their newest revisions, under any provider name.
    pub findings: Vec<EtcdFinding>,
    /// The versions of replaced and deleted revisions. They prove promotions, and may be
    /// undecryptable.
    pub superseded: Vec<Resolution>,
    /// Values of this provider that are unreadable for every API server.
    pub damaged: u64,
    /// Reasons why the source may be incomplete, each a sentence.
    pub doubts: Vec<String>,
    /// Maximum number of distinct DEKs tried per `key_id`; `None` for all.
    pub sample: Option<NonZeroU64>,
}

impl EtcdEvidence {
    /// Whether the source is a running etcd.
    fn is_running(&self) -> bool {
        self.content.is_empty()
    }

    /// Whether the sample limit left DEKs untried.
    fn is_sampled(&self) -> bool {
        let untried = |found: &EtcdFinding| found.finding.seeds.untried > 0;
        self.sample.is_some() && self.findings.iter().any(untried)
    }
}

/// A backup record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordEvidence {
    /// The file.
    pub name: String,
    /// The decoded record.
    pub record: BackupRecord,
}

/// A copy of a peer's state and checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerEvidence {
    /// The state file.
    pub name: String,
    /// The state.
    pub document: Document,
    /// The checkpoint beside it.
    pub checkpoint: Option<Checkpoint>,
}

/// A reviewable rebuild of this node's registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RebuildPlan {
    next: Document,
    hash: PlanHash,
    own: OwnFiles,
    link: Link,
    active_shown_by: Vec<String>,
    versions: Vec<Rebuilt>,
    unreadable: Vec<Unreadable>,
    limitations: Vec<Limitation>,
}

/// Predecessor of the new document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Link {
    /// The valid state to be replaced.
    Replaced,
    /// The remaining checkpoint of this node.
    Checkpoint,
    /// The highest generation in this evidence.
    Evidence(String),
    /// There is no predecessor: the document has generation 1.
    Nothing,
}

/// One version in the new registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rebuilt {
    /// The version.
    pub key: Arc<TransitKey>,
    /// Its state in the new registry.
    pub state: RecordState,
    /// Number of objects under it, by etcd.
    pub objects: Vec<(String, u64)>,
    /// Its state in each record and state document with the version.
    pub said: Vec<(String, Option<RecordState>)>,
}

/// Consecutive versions of the key, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VersionRange {
    /// The lowest.
    pub first: TransitVersion,
    /// The highest.
    pub last: TransitVersion,
}

/// Name of this node's own state in reports.
pub const OWN_STATE: &str = "the state of this node";

/// Plans the registry from the evidence.
///
/// # Errors
/// [`PlanBlockers`] with all blockers.
pub fn rebuild(evidence: &Evidence) -> Result<RebuildPlan, PlanBlockers> {
    let mut assessment = Assessment::of(evidence);
    let active = assessment.active();
    assessment.account_for_the_rest();

    let registry = active.map(|active| assessment.records(&active));
    let link = assessment.link();

    if let (Some((records, versions)), Some((link, previous))) = (registry, link) {
        let fingerprint = IdentityFingerprint::of(evidence.scope.identity(), &evidence.path);
        match Document::rebuilt(fingerprint, previous, records) {
            Ok(next) if assessment.refusals.is_empty() => {
                let limitations = assessment.limitations(&link);
                return Ok(RebuildPlan {
                    hash: plan_hash(evidence, &next, &assessment.accepted, &limitations),
                    next,
                    own: evidence.own.clone(),
                    active_shown_by: assessment.active_shown_by(),
                    unreadable: assessment.accepted,
                    limitations,
                    link,
                    versions,
                });
            }
            Ok(_) => {}
            Err(problem) => assessment.refuse(PlanBlocker::Document(problem)),
        }
    }

    Err(PlanBlockers(assessment.refusals))
}

impl OwnFiles {
    /// The state, if a provider would start with it.
    #[must_use]
    pub fn in_service(&self) -> Option<&Document> {
        let document = self.document.valid()?;
        self.is_consistent(document).then_some(document)
    }

    /// The state of a preview, if it is the newest one by its checkpoint. It shows the active version
    /// as a record does.
    #[must_use]
    pub fn legacy(&self) -> Option<&Document> {
        match &self.document {
            Found::Legacy(document) if self.is_consistent(document) => Some(document),
            Found::Legacy(_) | Found::Nothing | Found::Damaged { .. } | Found::Valid(_) => None,
        }
    }

    fn is_consistent(&self, document: &Document) -> bool {
        let checkpoint = match &self.checkpoint {
            Found::Nothing => None,
            Found::Damaged { .. } | Found::Legacy(_) => return false,
            Found::Valid(checkpoint) => Some(checkpoint),
        };

        matches!(
            CheckpointStatus::of(Some(document), checkpoint),
            Ok(CheckpointStatus::Current
                | CheckpointStatus::Behind
                | CheckpointStatus::Missing {
                    first_generation: true,
                })
        )
    }
}

impl RebuildPlan {
    /// The document produced by the plan.
    #[must_use]
    pub fn next(&self) -> &Document {
        &self.next
    }

    /// The hash for confirmation by the operator.
    #[must_use]
    pub fn hash(&self) -> &PlanHash {
        &self.hash
    }

    /// The files of this node at planning time.
    #[must_use]
    pub fn own(&self) -> &OwnFiles {
        &self.own
    }

    /// The predecessor of the document.
    #[must_use]
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// The evidence of the active version's promotion.
    #[must_use]
    pub fn active_shown_by(&self) -> &[String] {
        &self.active_shown_by
    }

    /// The versions in document order.
    #[must_use]
    pub fn versions(&self) -> &[Rebuilt] {
        &self.versions
    }

    /// Objects that stay unreadable, as accepted by the operator.
    #[must_use]
    pub fn unreadable(&self) -> &[Unreadable] {
        &self.unreadable
    }

    /// Open points of the evidence.
    #[must_use]
    pub fn limitations(&self) -> &[Limitation] {
        &self.limitations
    }

    /// Confirms that this is the reviewed plan.
    ///
    /// # Errors
    /// [`PlanOutdated`] if the hash differs.
    pub fn confirm(self, expected: &PlanHash) -> Result<Confirmed<Self>, PlanOutdated> {
        if *expected == self.hash {
            Ok(Confirmed::new(self))
        } else {
            Err(PlanOutdated {
                expected: expected.clone(),
                found: self.hash,
            })
        }
    }
}

impl Rebuilt {
    /// Sources that have the version as removed.
    pub fn removed_by(&self) -> impl Iterator<Item = &str> {
        let removed = self
            .said
            .iter()
            .filter(|(_, state)| *state == Some(RecordState::Removed));
        removed.map(|(name, _)| name.as_str())
    }
}

impl fmt::Display for VersionRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "version {}", self.first)
        } else {
            write!(f, "versions {} to {}", self.first, self.last)
        }
    }
}

/// Hash over stable inputs only. The objects of a running etcd change all the time: the versions
/// they need are in the document's records, and limitations enter by code, without their counts.
fn plan_hash(
    evidence: &Evidence,
    next: &Document,
    unreadable: &[Unreadable],
    limitations: &[Limitation],
) -> PlanHash {
    #[derive(Serialize)]
    struct Material<'a> {
        domain: &'static str,
        next: &'a str,
        document: String,
        checkpoint: String,
        etcd: Vec<(&'a str, Option<NonZeroU64>)>,
        records: Vec<&'a str>,
        peers: Vec<&'a str>,
        not_promoted: Option<u64>,
        /// Version, cause and number of accepted objects.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        unreadable: Vec<(Option<u64>, &'static str, u64)>,
        limitations: Vec<&'static str>,
    }

    let own = &evidence.own;

    // The checkpoint of a state in service may be updated meanwhile; the plan stays the same.
    let checkpoint = match own.in_service() {
        Some(_) => String::new(),
        None => own.checkpoint.mark(Checkpoint::encode),
    };

    let etcd = evidence.etcd.iter();
    let material = Material {
        domain: "openbao-kubernetes-kms/rebuild-plan/v1",
        next: next.hash().as_str(),
        document: own.document.mark(|document| document.hash().to_string()),
        checkpoint,
        etcd: etcd
            .map(|etcd| (etcd.content.as_str(), etcd.sample))
            .collect(),
        records: evidence
            .records
            .iter()
            .map(|record| record.record.hash().as_str())
            .collect(),
        peers: evidence
            .peers
            .iter()
            .map(|peer| peer.document.hash().as_str())
            .collect(),
        not_promoted: evidence.not_promoted.map(TransitVersion::get),
        unreadable: unreadable
            .iter()
            .map(|it| {
                let version = it.version.map(TransitVersion::get);
                (version, it.cause, it.objects())
            })
            .collect(),
        limitations: limitations.iter().map(Limitation::code).collect(),
    };

    PlanHash::of_bytes(json::compact(&material).as_bytes())
}

impl<T> Found<T> {
    /// The content, if it is valid.
    #[must_use]
    pub fn valid(&self) -> Option<&T> {
        match self {
            Self::Valid(content) => Some(content),
            Self::Nothing | Self::Damaged { .. } | Self::Legacy(_) => None,
        }
    }

    /// The content, if it is valid in any schema.
    #[must_use]
    pub fn readable(&self) -> Option<&T> {
        match self {
            Self::Valid(content) | Self::Legacy(content) => Some(content),
            Self::Nothing | Self::Damaged { .. } => None,
        }
    }

    fn mark(&self, of: impl FnOnce(&T) -> String) -> String {
        match self {
            Self::Nothing => String::new(),
            Self::Damaged { content } => format!("damaged {content}"),
            Self::Valid(content) | Self::Legacy(content) => of(content),
        }
    }
}

/// Generation and hash of the previous document.
type Previous = Option<(Generation, StateHash)>;

#[cfg(test)]
mod tests;
