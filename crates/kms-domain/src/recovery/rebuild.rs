//! Makes a lost or corrupt registry anew, after a rotation, from evidence: which versions stored
//! objects need, and which version the other nodes encrypt with.
//!
//! Metadata alone never suffices: a version that the key has may be one that no node has promoted.
//! So the highest version that evidence shows as promoted becomes active, and as long as the key has
//! versions beyond it of which nothing is known, there is no plan. Whatever stands against a plan is
//! told together, so that one round of mending is enough.
//!
//! No clock takes part: the same evidence gives the same plan.

mod limitation;
mod refusal;
mod unreadable;
mod weighing;
mod witness;

use std::{fmt, num::NonZeroU64, sync::Arc};

use serde::Serialize;

pub use limitation::Limitation;
pub use refusal::{PlanOutdated, Refusal, Refusals};
pub use unreadable::{EtcdFinding, Unreadable};

use super::{origin::Origin, record::BackupRecord};
use crate::{
    confirmed::Confirmed,
    digest::{TextHash, digest_type},
    fingerprint::IdentityFingerprint,
    json,
    key::{KeyScope, TransitKey},
    registry::{
        RecordState,
        anchor::{Anchor, Checkpoint},
        document::{Document, Generation, StateHash},
    },
    scope::TransitKeyPath,
    transit::{KeyProfile, TransitVersion},
};
use weighing::Weighing;

digest_type!(
    /// `rbp1.` and the digest of what a plan leads to and of what it rests on.
    PlanHash,
    "rbp1."
);

/// All that is known.
#[derive(Debug, Clone)]
pub struct Evidence {
    /// The configured names.
    pub scope: Arc<KeyScope>,
    /// The configured place of the key.
    pub path: TransitKeyPath,
    /// The live key.
    pub key: KeyProfile,
    /// This node's own files.
    pub own: OwnFiles,
    /// A valid state that is to be given up, by its hash.
    pub replace: Option<StateHash>,
    /// What etcd holds, source by source.
    pub etcd: Vec<EtcdEvidence>,
    /// Notes that were made with backups.
    pub records: Vec<RecordEvidence>,
    /// Copies of other nodes' files.
    pub peers: Vec<PeerEvidence>,
    /// The operator's word that no node has promoted this version or one above it.
    pub not_promoted: Option<TransitVersion>,
    /// The number of [`Unreadable`] objects, over all of `etcd`, that the operator accepts.
    pub accepted: Option<NonZeroU64>,
}

/// What is at `state.path` and beside it.
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
    /// There is none.
    Nothing,
    /// There is one that is not valid by itself.
    Damaged {
        /// The hash of its bytes.
        content: TextHash,
    },
    /// It is valid by itself.
    Valid(T),
}

/// What one etcd shows about this provider's objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdEvidence {
    /// The file or the servers.
    pub name: String,
    /// What identifies the content: a file's hash. Empty for a running etcd, which moves on.
    pub content: String,
    /// The objects of each `key_id` of this key in their newest revisions, under any provider name.
    pub findings: Vec<EtcdFinding>,
    /// The versions that replaced and deleted revisions were written under. They show promotions;
    /// nothing needs to decrypt them.
    pub superseded: Vec<Origin>,
    /// Values of this provider that no API server can read.
    pub damaged: u64,
    /// Why it may not show everything, each a sentence.
    pub doubts: Vec<String>,
    /// At most how many distinct DEKs of each `key_id` were tried; `None` for all.
    pub sample: Option<NonZeroU64>,
}

impl EtcdEvidence {
    /// Whether it shows what etcd holds now.
    fn is_running(&self) -> bool {
        self.content.is_empty()
    }

    /// Whether DEKs were left out on purpose.
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
    /// What it says.
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

/// What the new document follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Link {
    /// The valid state that is given up.
    Replaced,
    /// The checkpoint that this node still has.
    Checkpoint,
    /// The highest generation that this evidence shows.
    Evidence(String),
    /// Nothing: it is of generation 1.
    Nothing,
}

/// One version in the new registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rebuilt {
    /// The version.
    pub key: Arc<TransitKey>,
    /// What it becomes.
    pub state: RecordState,
    /// How many objects each etcd holds under it, where it holds any.
    pub objects: Vec<(String, u64)>,
    /// What records and states say of it.
    pub said: Vec<(String, Option<RecordState>)>,
}

/// Versions of the key, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VersionRange {
    /// The lowest.
    pub first: TransitVersion,
    /// The highest.
    pub last: TransitVersion,
}

/// How this node's own state is called where evidence is named.
pub const OWN_STATE: &str = "the state of this node";

/// Plans the registry that the evidence shows.
///
/// # Errors
/// [`Refusals`]: everything that stands against it.
pub fn rebuild(evidence: &Evidence) -> Result<RebuildPlan, Refusals> {
    let mut weighing = Weighing::of(evidence);
    let active = weighing.active();
    weighing.account_for_the_rest();
    let registry = active.map(|active| weighing.records(&active));
    let link = weighing.link();
    if let (Some((records, versions)), Some((link, previous))) = (registry, link) {
        let fingerprint = IdentityFingerprint::of(evidence.scope.identity(), &evidence.path);
        match Document::rebuilt(fingerprint, previous, records) {
            Ok(next) if weighing.refusals.is_empty() => {
                let limitations = weighing.limitations(&link);
                return Ok(RebuildPlan {
                    hash: plan_hash(evidence, &next, &weighing.accepted, &limitations),
                    next,
                    own: evidence.own.clone(),
                    active_shown_by: weighing.active_shown_by(),
                    unreadable: weighing.accepted,
                    limitations,
                    link,
                    versions,
                });
            }
            Ok(_) => {}
            Err(problem) => weighing.refuse(Refusal::Document(problem)),
        }
    }
    Err(Refusals(weighing.refusals))
}

impl OwnFiles {
    /// The state that a provider would start with.
    #[must_use]
    pub fn in_service(&self) -> Option<&Document> {
        let Found::Valid(document) = &self.document else {
            return None;
        };
        let checkpoint = match &self.checkpoint {
            Found::Nothing => None,
            Found::Damaged { .. } => return None,
            Found::Valid(checkpoint) => Some(checkpoint),
        };
        match Anchor::of(Some(document), checkpoint) {
            Ok(
                Anchor::Current
                | Anchor::Behind
                | Anchor::Missing {
                    first_generation: true,
                },
            ) => Some(document),
            Ok(
                Anchor::Absent
                | Anchor::Missing {
                    first_generation: false,
                },
            )
            | Err(_) => None,
        }
    }
}

impl RebuildPlan {
    /// The document that it leads to.
    #[must_use]
    pub fn next(&self) -> &Document {
        &self.next
    }

    /// What is to be given back for confirmation.
    #[must_use]
    pub fn hash(&self) -> &PlanHash {
        &self.hash
    }

    /// The files of this node that it was made for.
    #[must_use]
    pub fn own(&self) -> &OwnFiles {
        &self.own
    }

    /// What the document follows.
    #[must_use]
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// The evidence that shows the active version as promoted.
    #[must_use]
    pub fn active_shown_by(&self) -> &[String] {
        &self.active_shown_by
    }

    /// The versions in document order.
    #[must_use]
    pub fn versions(&self) -> &[Rebuilt] {
        &self.versions
    }

    /// Objects that stay unreadable, as the operator accepted.
    #[must_use]
    pub fn unreadable(&self) -> &[Unreadable] {
        &self.unreadable
    }

    /// What the evidence leaves open.
    #[must_use]
    pub fn limitations(&self) -> &[Limitation] {
        &self.limitations
    }

    /// Whether this is the plan that was reviewed.
    ///
    /// # Errors
    /// [`PlanOutdated`].
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
    /// Those that say that it was taken out of use.
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

/// What a running etcd holds changes all the time; which versions it needs is in the document's
/// records as far as it matters, and of what it leaves open that it does so, not how much.
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
    // That of a state in service is brought up to date on the way, which is no change of the plan.
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
            Self::Nothing | Self::Damaged { .. } => None,
        }
    }

    fn mark(&self, of: impl FnOnce(&T) -> String) -> String {
        match self {
            Self::Nothing => String::new(),
            Self::Damaged { content } => format!("damaged {content}"),
            Self::Valid(content) => of(content),
        }
    }
}

/// The generation and hash of the document before.
type Previous = Option<(Generation, StateHash)>;

#[cfg(test)]
mod tests;
