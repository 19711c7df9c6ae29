//! Blockers of a rebuild: facts with their values. The program's catalogue adds impact and steps.

use std::{fmt, num::NonZeroU64};

use super::{PlanHash, VersionRange, unreadable::NOT_DECRYPTED};
use crate::{
    recovery::{claims::OtherSecond, resolve::ResolveError},
    registry::{
        checkpoint::Rollback,
        document::{Generation, ProgressProblem, StateHash},
    },
    transit::{CreatedAt, Sentences, TransitVersion, VersionProblem},
};

/// All blockers of a rebuild, at least one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the registry cannot be rebuilt from this evidence: {}", list(.0))]
pub struct PlanBlockers(pub(super) Vec<PlanBlocker>);

/// One blocker of a rebuild. Its text gives the cause; the methods give consequence, next step and
/// warning.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanBlocker {
    /// Metadata alone does not show the promoted versions.
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
    /// The node's state is not the one named for replacement.
    #[error("the state to be replaced is {found}, not {expected}")]
    OtherState {
        /// The requested hash.
        expected: StateHash,
        /// On this node.
        found: StateHash,
    },
    /// Replacement was requested, but there is no valid state.
    #[error("the state {expected} is to be replaced, but this node has no valid state")]
    NothingToReplace {
        /// The requested hash.
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
    /// A peer's state and checkpoint belong to different documents.
    #[error("the peer's state and checkpoint are no pair: {problem}")]
    PeerNoPair {
        /// The evidence.
        evidence: String,
        /// The difference.
        problem: Rollback,
    },
    /// A peer's state came without its checkpoint.
    #[error("the peer's checkpoint is missing")]
    PeerUnanchored {
        /// The evidence.
        evidence: String,
    },
    /// An etcd source has no object of this provider.
    #[error("it holds no object of provider {provider}")]
    NoObjects {
        /// The evidence.
        evidence: String,
        /// The configured name.
        provider: String,
    },
    /// Objects without a decrypting version in the live key.
    #[error("{} cannot be decrypted: {gap}", counted(*.objects, "object", "objects"))]
    Undecryptable {
        /// The evidence.
        evidence: String,
        /// Number of objects.
        objects: u64,
        /// The reason.
        gap: ResolveError,
    },
    /// OpenBao has the version, but refuses DEKs written under it.
    #[error(
        "{} of version {version} {} refused by OpenBao",
        counted(*.deks, "encrypted DEK", "encrypted DEKs"),
        if *.deks == 1 { "is" } else { "are" }
    )]
    NotDecrypted {
        /// The evidence.
        evidence: String,
        /// The version derived from the `key_id`.
        version: TransitVersion,
        /// Number of DEKs.
        deks: u64,
    },
    /// Some DEKs were left untried without a requested sample.
    #[error(
        "{} of version {version} {} not tried",
        counted(*.deks, "encrypted DEK", "encrypted DEKs"),
        if *.deks == 1 { "was" } else { "were" }
    )]
    Untried {
        /// The evidence.
        evidence: String,
        /// The version derived from the `key_id`.
        version: TransitVersion,
        /// Number of DEKs.
        deks: u64,
    },
    /// Unreadable objects, with another accepted number or none.
    #[error(
        "{} unreadable with this OpenBao and this configuration{}",
        counted(*.objects, "object stays", "objects stay"),
        .accepted.map_or(String::new(), |accepted| format!(", instead of the accepted {accepted}"))
    )]
    Unreadable {
        /// The number of objects, over all etcd evidence. A lower bound if DEKs were sampled.
        objects: u64,
        /// The number given by the operator.
        accepted: Option<NonZeroU64>,
        /// Whether DEKs were left untried, so that the number may be higher.
        sampled: bool,
    },
    /// All objects are readable, so an acceptance has no effect.
    #[error(
        "{} accepted, but no object stays unreadable",
        counted(accepted.get(), "unreadable object was", "unreadable objects were")
    )]
    AcceptanceIdle {
        /// The number given by the operator.
        accepted: NonZeroU64,
    },
    /// Unreadable objects were accepted, but the version that would encrypt is unproven.
    #[error(
        "unreadable objects cannot be accepted, since no encrypted DEK in etcd proves {}",
        .active.map_or("a version of the key".to_owned(), |active| {
            format!("version {active}, the version to be active")
        })
    )]
    ActiveUnproven {
        /// The highest version with evidence of promotion.
        active: Option<TransitVersion>,
    },
    /// A node or record has the version as removed, so it had promoted a higher one.
    #[error("it has version {active}, the version to be active, as removed")]
    ActiveRemoved {
        /// The evidence.
        evidence: String,
        /// The version.
        active: TransitVersion,
    },
    /// The checkpoint implies rotations of a key without any, and the key is unproven by DEKs.
    #[error(
        "the checkpoint of this node accepts generation {generation}, but the key is at version 1 \
         and was never rotated, and no etcd data shows that it decrypts what is stored"
    )]
    NeverRotated {
        /// Generation in the checkpoint.
        generation: Generation,
    },
    /// Evidence of a version above the key's latest.
    #[error("it knows version {version}, but the key's latest version is {latest}")]
    AboveLatest {
        /// The evidence.
        evidence: String,
        /// Version in the evidence.
        version: TransitVersion,
        /// Latest version of the live key.
        latest: TransitVersion,
    },
    /// Evidence of versions with other creation seconds than the live ones.
    #[error(
        "it knows other versions than the live ones of the same number: {}",
        Sentences(.versions)
    )]
    Recreated {
        /// The evidence.
        evidence: String,
        /// The contradicting versions.
        versions: Vec<OtherSecond>,
    },
    /// Two pieces of evidence contradict each other.
    #[error(
        "version {version} was created at {} by it, but at {} by {other}",
        .second.utc(), .first.utc()
    )]
    Contradiction {
        /// The evidence.
        evidence: String,
        /// The number.
        version: TransitVersion,
        /// Creation second in the evidence.
        second: CreatedAt,
        /// The other evidence.
        other: String,
        /// Creation second in the other evidence.
        first: CreatedAt,
    },
    /// A known version that OpenBao does not decrypt; the evidence leaves open whether an object
    /// needs it.
    #[error("it keeps a version that OpenBao does not decrypt: {problem}")]
    Unresolved {
        /// The evidence.
        evidence: String,
        /// The reason.
        problem: VersionProblem,
    },
    /// The promoted version is unusable.
    #[error("the version to be active cannot be used: {problem}")]
    ActiveUnusable {
        /// The evidence of its promotion.
        evidence: String,
        /// The reason.
        problem: VersionProblem,
    },
    /// OpenBao refuses to encrypt with the promoted version.
    #[error("min_encryption_version {minimum} forbids to encrypt with the active version {active}")]
    ActiveBlocked {
        /// The evidence of its promotion.
        evidence: String,
        /// The version.
        active: TransitVersion,
        /// `min_encryption_version`
        minimum: u64,
    },
    /// Higher versions exist, and whether a node encrypts with them is unknown.
    #[error(
        "the key has {} beyond version {active}, the highest that is shown as promoted; {} may be \
         older than its promotion", .versions, .evidence.join(", ")
    )]
    Undecided {
        /// All claim sources and etcd sources.
        evidence: Vec<String>,
        /// The highest promoted one.
        active: TransitVersion,
        /// The undecided versions above it.
        versions: VersionRange,
    },
    /// The evidence shows the promotion of a version that the operator asserted as unpromoted.
    #[error(
        "version {promoted} was promoted, though versions from {assumed} on are assumed not to be"
    )]
    AssumptionWrong {
        /// The evidence of the promotion.
        evidence: String,
        /// The lowest version in the assertion.
        assumed: TransitVersion,
        /// The promoted version.
        promoted: TransitVersion,
    },
    /// The assertion covers no existing version.
    #[error(
        "version {assumed} is assumed not to be promoted, but the key ends at version {latest}"
    )]
    AssumptionIdle {
        /// The lowest version in the assertion.
        assumed: TransitVersion,
        /// Latest version of the live key.
        latest: TransitVersion,
    },
    /// The new document would be invalid.
    #[error("the state document cannot be made: {0}")]
    Document(ProgressProblem),
}

/// The current plan differs from the reviewed plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the plan that was reviewed is {expected}, but evidence, key and files now lead to {found}"
)]
pub struct PlanOutdated {
    /// Hash of the reviewed plan.
    pub expected: PlanHash,
    /// Hash of the current plan.
    pub found: PlanHash,
}

impl PlanBlockers {
    /// The blockers, in the recommended order of fixing.
    #[must_use]
    pub fn all(&self) -> &[PlanBlocker] {
        &self.0
    }
}

impl PlanBlocker {
    /// The stable code in reports.
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
            Self::Recreated { .. } => "creation_time_mismatch",
            Self::Contradiction { .. } => "contradiction",
            Self::Unresolved { .. } => "unresolved",
            Self::ActiveUnusable { .. } => "active_unusable",
            Self::ActiveBlocked { .. } => "active_blocked",
            Self::Undecided { .. } => "undecided",
            Self::AssumptionWrong { .. } => "assumption_wrong",
            Self::AssumptionIdle { .. } => "assumption_idle",
            Self::Document(_) => "document",
        }
    }

    /// Names of the evidence concerned; empty if the blocker concerns none.
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
            | Self::Unresolved { evidence, .. }
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

    /// Whether accepting the unreadable objects resolves it.
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
            | Self::Unresolved { .. }
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

/// A number with its noun.
pub(super) fn counted(number: u64, one: &str, more: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { more })
}

fn list(refusals: &[PlanBlocker]) -> String {
    let texts = refusals.iter().map(|refusal| Named(refusal).to_string());
    texts.collect::<Vec<_>>().join("; ")
}

/// Adds the name of the evidence as a prefix.
struct Named<'a>(&'a PlanBlocker);

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.evidence() {
            [one] => write!(f, "{one}: {}", self.0),
            _ => self.0.fmt(f),
        }
    }
}
