//! Why evidence does not suffice to rebuild a registry: what is wrong, what follows from it, the
//! next step, and what must not be done.

mod advice;

use std::{fmt, num::NonZeroU64};

use super::{PlanHash, VersionRange, unreadable::NOT_DECRYPTED};
use crate::{
    recovery::{claims::OtherSecond, origin::Gap},
    registry::{
        anchor::Rollback,
        document::{Generation, ProgressProblem, StateHash},
    },
    transit::{CreatedAt, Sentences, TransitVersion, VersionProblem},
};

/// Everything that stands against a rebuild, at least one thing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the registry cannot be rebuilt from this evidence: {}", list(.0))]
pub struct Refusals(pub(super) Vec<Refusal>);

/// One thing that stands against a rebuild. Its text says what; the methods tell the rest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Metadata alone does not tell which versions were promoted.
    #[error("no etcd data, backup record or peer state was given")]
    NoEvidence,
    /// There is nothing to recover.
    #[error("this node has a valid state of generation {generation} ({hash})")]
    StateInPlace {
        /// Its generation.
        generation: Generation,
        /// Its hash.
        hash: StateHash,
    },
    /// The state to be replaced is not the one that was looked at.
    #[error("the state to be replaced is {found}, not {expected}")]
    OtherState {
        /// As asked.
        expected: StateHash,
        /// On this node.
        found: StateHash,
    },
    /// Replacing was asked for, and there is no valid state.
    #[error("the state {expected} is to be replaced, but this node has no valid state")]
    NothingToReplace {
        /// As asked.
        expected: StateHash,
    },
    /// A record, a peer or this node's own file was made under another configuration.
    #[error("it was made under another configuration: {}", .differences.join("; "))]
    OtherIdentity {
        /// The evidence.
        evidence: String,
        /// The configuration keys with both values.
        differences: Vec<String>,
    },
    /// A peer's two files do not belong together.
    #[error("the peer's state and checkpoint are no pair: {problem}")]
    PeerNoPair {
        /// The evidence.
        evidence: String,
        /// How they differ.
        problem: Rollback,
    },
    /// A peer's state without its checkpoint.
    #[error("the peer's checkpoint is missing")]
    PeerUnanchored {
        /// The evidence.
        evidence: String,
    },
    /// An etcd source without any object of this provider.
    #[error("it holds no object of provider {provider}")]
    NoObjects {
        /// The evidence.
        evidence: String,
        /// The configured name.
        provider: String,
    },
    /// Objects that no version of the live key decrypts.
    #[error("{objects} objects cannot be decrypted: {gap}")]
    Undecryptable {
        /// The evidence.
        evidence: String,
        /// How many.
        objects: u64,
        /// Why.
        gap: Gap,
    },
    /// The version is there, and does not decrypt what was written under it.
    #[error("{deks} encrypted DEKs of version {version} are refused by OpenBao")]
    NotDecrypted {
        /// The evidence.
        evidence: String,
        /// By derivation.
        version: TransitVersion,
        /// How many.
        deks: u64,
    },
    /// Not every DEK was tried, and that was not asked for.
    #[error("{deks} encrypted DEKs of version {version} were not tried")]
    Untried {
        /// The evidence.
        evidence: String,
        /// By derivation.
        version: TransitVersion,
        /// How many.
        deks: u64,
    },
    /// Unreadable objects whose number is not accepted, or is not the one that was accepted.
    #[error(
        "{objects} objects stay unreadable with this OpenBao and this configuration{}",
        .accepted.map_or(String::new(), |accepted| format!(", but {accepted} were accepted"))
    )]
    Unreadable {
        /// The number of objects, over all etcd evidence. A lower bound if DEKs were sampled.
        objects: u64,
        /// As asked.
        accepted: Option<NonZeroU64>,
        /// Whether DEKs were left out, so that the number may be higher.
        sampled: bool,
    },
    /// No object stays unreadable.
    #[error("{accepted} unreadable objects were accepted, but no object stays unreadable")]
    AcceptanceIdle {
        /// As asked.
        accepted: NonZeroU64,
    },
    /// Unreadable objects were accepted, and nothing proves the version that would encrypt.
    #[error(
        "unreadable objects cannot be accepted, since no encrypted DEK in etcd proves {}",
        .active.map_or("a version of the key".to_owned(), |active| {
            format!("version {active}, the version to be active")
        })
    )]
    ActiveUnproven {
        /// The highest version that is shown as promoted.
        active: Option<TransitVersion>,
    },
    /// A node or record has left the version for a higher one.
    #[error("it has version {active}, the version to be active, as removed")]
    ActiveRemoved {
        /// The evidence.
        evidence: String,
        /// The version.
        active: TransitVersion,
    },
    /// A history that needs rotations beside a key without any, and no DEK proves the key.
    #[error(
        "the checkpoint of this node accepts generation {generation}, but the key is at version 1 \
         and was never rotated, and no etcd data shows that it decrypts what is stored"
    )]
    NeverRotated {
        /// Of the checkpoint.
        generation: Generation,
    },
    /// Evidence of a version that this OpenBao has never made.
    #[error("it knows version {version}, but the key's latest version is {latest}")]
    AboveLatest {
        /// The evidence.
        evidence: String,
        /// Its version.
        version: TransitVersion,
        /// Of the live key.
        latest: TransitVersion,
    },
    /// Evidence of other versions of the same numbers.
    #[error(
        "it knows other versions than the live ones of the same number: {}",
        Sentences(.versions)
    )]
    Recreated {
        /// The evidence.
        evidence: String,
        /// Each of them.
        versions: Vec<OtherSecond>,
    },
    /// Two pieces of evidence that cannot both be true.
    #[error(
        "version {version} was created at {second} by it, but at {first} by {}",
        other
    )]
    Contradiction {
        /// The evidence.
        evidence: String,
        /// The number.
        version: TransitVersion,
        /// In the evidence.
        second: CreatedAt,
        /// The other evidence.
        other: String,
        /// In the other.
        first: CreatedAt,
    },
    /// A known version that OpenBao does not decrypt, and nothing shows that none needs it.
    #[error("it keeps a version that OpenBao does not decrypt: {problem}")]
    Unaccounted {
        /// The evidence.
        evidence: String,
        /// Why it does not.
        problem: VersionProblem,
    },
    /// The version that was promoted cannot be used.
    #[error("the version to be active cannot be used: {problem}")]
    ActiveUnusable {
        /// The evidence that shows it as promoted.
        evidence: String,
        /// Why.
        problem: VersionProblem,
    },
    /// OpenBao refuses to encrypt with it.
    #[error("min_encryption_version {minimum} forbids to encrypt with the active version {active}")]
    ActiveBlocked {
        /// The evidence that shows it as promoted.
        evidence: String,
        /// The version.
        active: TransitVersion,
        /// `min_encryption_version`
        minimum: u64,
    },
    /// The key has versions of which nothing tells whether a node encrypts with them.
    #[error(
        "the key has {} beyond version {active}, the highest that is shown as promoted; {} may be \
         older than its promotion", .versions, .evidence.join(", ")
    )]
    Undecided {
        /// All that was looked at.
        evidence: Vec<String>,
        /// The highest promoted one.
        active: TransitVersion,
        /// Those above, as far as nothing is assumed of them.
        versions: VersionRange,
    },
    /// It was assumed that a version was never promoted, and it was.
    #[error(
        "version {promoted} was promoted, though versions from {assumed} on are assumed not to be"
    )]
    AssumptionWrong {
        /// The evidence that shows it.
        evidence: String,
        /// As asked.
        assumed: TransitVersion,
        /// The version.
        promoted: TransitVersion,
    },
    /// Nothing is left open that an assumption could settle.
    #[error(
        "version {assumed} is assumed not to be promoted, but the key ends at version {latest}"
    )]
    AssumptionIdle {
        /// As asked.
        assumed: TransitVersion,
        /// Of the live key.
        latest: TransitVersion,
    },
    /// The document cannot be made.
    #[error("the state document cannot be made: {0}")]
    Document(ProgressProblem),
}

/// The plan that was reviewed is not the one that would be carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the plan that was reviewed is {expected}, but evidence, key and files now lead to {found}: \
     nothing was changed and no data is touched. Make a new plan and review it; do not apply with \
     a hash that you have not reviewed"
)]
pub struct PlanOutdated {
    /// What the operator reviewed.
    pub expected: PlanHash,
    /// What would be done.
    pub found: PlanHash,
}

impl Refusals {
    /// Each of them, in the order in which they are best looked at.
    #[must_use]
    pub fn all(&self) -> &[Refusal] {
        &self.0
    }
}

impl Refusal {
    /// The stable word for reports.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoEvidence => "no_evidence",
            Self::StateInPlace { .. } => "state_in_place",
            Self::OtherState { .. } => "other_state",
            Self::NothingToReplace { .. } => "nothing_to_replace",
            Self::OtherIdentity { .. } => "other_identity",
            Self::PeerNoPair { .. } => "peer_no_pair",
            Self::PeerUnanchored { .. } => "peer_unanchored",
            Self::NoObjects { .. } => "no_objects",
            Self::Undecryptable { gap, .. } => gap.code(),
            Self::NotDecrypted { .. } => NOT_DECRYPTED,
            Self::Untried { .. } => "untried",
            Self::Unreadable { .. } => "unreadable_objects",
            Self::AcceptanceIdle { .. } => "acceptance_idle",
            Self::ActiveUnproven { .. } => "active_unproven",
            Self::ActiveRemoved { .. } => "active_removed",
            Self::NeverRotated { .. } => "never_rotated",
            Self::AboveLatest { .. } => "newer_than_latest",
            Self::Recreated { .. } => "other_creation",
            Self::Contradiction { .. } => "contradiction",
            Self::Unaccounted { .. } => "unaccounted",
            Self::ActiveUnusable { .. } => "active_unusable",
            Self::ActiveBlocked { .. } => "active_blocked",
            Self::Undecided { .. } => "undecided",
            Self::AssumptionWrong { .. } => "assumption_wrong",
            Self::AssumptionIdle { .. } => "assumption_idle",
            Self::Document(_) => "document",
        }
    }

    /// The evidence that it is about; empty where it is about none.
    #[must_use]
    pub fn evidence(&self) -> &[String] {
        match self {
            Self::Undecided { evidence, .. } => evidence,
            Self::OtherIdentity { evidence, .. }
            | Self::PeerNoPair { evidence, .. }
            | Self::PeerUnanchored { evidence }
            | Self::NoObjects { evidence, .. }
            | Self::Undecryptable { evidence, .. }
            | Self::NotDecrypted { evidence, .. }
            | Self::Untried { evidence, .. }
            | Self::AboveLatest { evidence, .. }
            | Self::Recreated { evidence, .. }
            | Self::Contradiction { evidence, .. }
            | Self::Unaccounted { evidence, .. }
            | Self::ActiveUnusable { evidence, .. }
            | Self::ActiveBlocked { evidence, .. }
            | Self::ActiveRemoved { evidence, .. }
            | Self::AssumptionWrong { evidence, .. } => std::slice::from_ref(evidence),
            Self::NoEvidence
            | Self::StateInPlace { .. }
            | Self::OtherState { .. }
            | Self::NothingToReplace { .. }
            | Self::AssumptionIdle { .. }
            | Self::Unreadable { .. }
            | Self::AcceptanceIdle { .. }
            | Self::ActiveUnproven { .. }
            | Self::NeverRotated { .. }
            | Self::Document(_) => &[],
        }
    }

    /// Whether accepting the unreadable objects settles it.
    #[must_use]
    pub fn is_settled_by_acceptance(&self) -> bool {
        match self {
            Self::Undecryptable { gap, .. } => gap.is_lasting(),
            Self::NotDecrypted { .. } | Self::Unreadable { .. } => true,
            Self::NoEvidence
            | Self::StateInPlace { .. }
            | Self::OtherState { .. }
            | Self::NothingToReplace { .. }
            | Self::OtherIdentity { .. }
            | Self::PeerNoPair { .. }
            | Self::PeerUnanchored { .. }
            | Self::NoObjects { .. }
            | Self::Untried { .. }
            | Self::AboveLatest { .. }
            | Self::Recreated { .. }
            | Self::Contradiction { .. }
            | Self::Unaccounted { .. }
            | Self::ActiveUnusable { .. }
            | Self::ActiveBlocked { .. }
            | Self::ActiveUnproven { .. }
            | Self::ActiveRemoved { .. }
            | Self::NeverRotated { .. }
            | Self::Undecided { .. }
            | Self::AssumptionWrong { .. }
            | Self::AssumptionIdle { .. }
            | Self::AcceptanceIdle { .. }
            | Self::Document(_) => false,
        }
    }
}

fn list(refusals: &[Refusal]) -> String {
    let texts = refusals.iter().map(|refusal| Named(refusal).to_string());
    texts.collect::<Vec<_>>().join("; ")
}

/// With the evidence before it.
struct Named<'a>(&'a Refusal);

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.evidence() {
            [one] => write!(f, "{one}: {}", self.0),
            _ => self.0.fmt(f),
        }
    }
}
