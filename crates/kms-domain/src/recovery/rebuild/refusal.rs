//! Why evidence does not suffice to rebuild a registry: what is wrong, what follows from it, the
//! next step, and what must not be done.

use std::fmt;

use super::{PlanHash, VersionRange};
use crate::{
    recovery::origin::Gap,
    registry::{
        anchor::Rollback,
        document::{Generation, ProgressProblem, StateHash},
    },
    transit::{CreatedAt, TransitVersion, VersionProblem},
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
    /// Evidence of another version of the same number.
    #[error(
        "version {version} was created at {recorded} by it, but the live version {version} at \
         {live}"
    )]
    Recreated {
        /// The evidence.
        evidence: String,
        /// The number.
        version: TransitVersion,
        /// In the evidence.
        recorded: CreatedAt,
        /// In OpenBao.
        live: CreatedAt,
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
            Self::NotDecrypted { .. } => "not_decrypted",
            Self::Untried { .. } => "untried",
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
            | Self::AssumptionWrong { evidence, .. } => std::slice::from_ref(evidence),
            Self::NoEvidence
            | Self::StateInPlace { .. }
            | Self::OtherState { .. }
            | Self::NothingToReplace { .. }
            | Self::AssumptionIdle { .. }
            | Self::Document(_) => &[],
        }
    }

    /// What would follow, or what is at stake for the data.
    #[must_use]
    pub fn consequence(&self) -> &'static str {
        match self {
            Self::NoEvidence => {
                "the key's metadata does not tell which version the nodes encrypt with, nor which \
                 ones stored objects need; no object is lost by that"
            }
            Self::StateInPlace { .. } | Self::OtherState { .. } | Self::NothingToReplace { .. } => {
                "nothing needs to be rebuilt as asked; no object is lost"
            }
            Self::OtherIdentity { .. } => {
                "a state made from it would name other keys than the stored objects do, and none \
                 of them could be read"
            }
            Self::PeerNoPair { .. } | Self::PeerUnanchored { .. } => {
                "it may be an older state, which names a version as active that the peers have left"
            }
            Self::NoObjects { .. } => {
                "it shows nothing about the key: it is another cluster's, or was made before this \
                 cluster used the provider"
            }
            Self::Undecryptable { .. } | Self::NotDecrypted { .. } => {
                "with this OpenBao and this configuration those objects stay unreadable, so they \
                 are not the ones that they were written with"
            }
            Self::Untried { .. } => "nothing proves that the key decrypts them",
            Self::AboveLatest { .. } => {
                "OpenBao holds an older copy of the key; what was written since cannot be read \
                 until the newer one is back"
            }
            Self::Recreated { .. } | Self::Contradiction { .. } => {
                "they are different keys under one number: what one has encrypted the other does \
                 not decrypt"
            }
            Self::Unaccounted { .. } => {
                "objects under that version could not be read, and nothing shows that there are \
                 none"
            }
            Self::ActiveUnusable { .. } | Self::ActiveBlocked { .. } => {
                "the node could not encrypt, and every write of a protected object would fail"
            }
            Self::Undecided { .. } => {
                "if a node has promoted a version beyond, this node would encrypt with an older \
                 version than its peers, and the key_id would flip back"
            }
            Self::AssumptionWrong { .. } => {
                "the node would go back to a version that the nodes have left"
            }
            Self::AssumptionIdle { .. } => "none: the assumption settles nothing",
            Self::Document(_) => "the node has no state until this is settled; no object is lost",
        }
    }

    /// What to do now.
    #[must_use]
    pub fn next_step(&self) -> String {
        match self {
            Self::NoEvidence => {
                "give at least one: --etcd-snapshot or --endpoints, --record, or --peer-state with \
                 its checkpoint beside it; a fresh pair from a peer that serves is the best"
                    .to_owned()
            }
            Self::StateInPlace { hash, .. } => format!(
                "start the provider; only if this very state is to be given up, add --replace \
                 --expected-state-hash {hash}"
            ),
            Self::OtherState { .. } => {
                "look at the state with inspect-state, and give the hash of the state that is to \
                 be given up"
                    .to_owned()
            }
            Self::NothingToReplace { .. } => {
                "leave out --replace and --expected-state-hash".to_owned()
            }
            Self::OtherIdentity { .. } => {
                "if the evidence is this cluster's, change the configuration back to what it names; \
                 else take this cluster's"
                    .to_owned()
            }
            Self::PeerNoPair { .. } | Self::PeerUnanchored { .. } => {
                "copy state and checkpoint together from a peer that serves, the checkpoint beside \
                 the state as FILE.checkpoint"
                    .to_owned()
            }
            Self::NoObjects { .. } => {
                "look at it with scan-etcd, and give this cluster's own etcd or a later snapshot of \
                 it"
                .to_owned()
            }
            Self::Undecryptable { gap, .. } => after_gap(gap),
            Self::NotDecrypted { .. } => {
                "run verify-backup with this etcd: it names the cause; then point the \
                 configuration at the OpenBao that has the original key, or restore it"
                    .to_owned()
            }
            Self::Untried { .. } => {
                "try again; to try only some on purpose, give --sample".to_owned()
            }
            Self::AboveLatest { version, .. } => {
                format!("restore the OpenBao storage that has version {version}")
            }
            Self::Recreated { .. } => {
                "restore the OpenBao storage that has the original key, or take evidence of this \
                 cluster's key"
                    .to_owned()
            }
            Self::Contradiction { .. } => {
                "find out which of the two is not of this cluster and leave it out".to_owned()
            }
            Self::Unaccounted { problem, .. } => match problem {
                VersionProblem::Hidden { version, .. } => format!(
                    "lower min_decryption_version to {version}; or, if no object needs it, add the \
                     etcd data that shows so"
                ),
                VersionProblem::AboveLatest { .. }
                | VersionProblem::Trimmed { .. }
                | VersionProblem::Unlisted(_)
                | VersionProblem::OtherCreation { .. } => "add the etcd data, live or a snapshot of now, that shows that no object \
                      needs it"
                    .to_owned(),
            },
            Self::ActiveUnusable { problem, .. } => match problem {
                VersionProblem::Hidden { version, .. } => {
                    format!("lower min_decryption_version to {version} or less")
                }
                VersionProblem::AboveLatest { .. }
                | VersionProblem::Trimmed { .. }
                | VersionProblem::Unlisted(_)
                | VersionProblem::OtherCreation { .. } => "restore the OpenBao storage that has the version".to_owned(),
            },
            Self::ActiveBlocked { active, .. } => {
                format!("lower min_encryption_version to {active} or less")
            }
            Self::Undecided { versions, .. } => format!(
                "wait until the peers have promoted the newest version (rotation-plan on a peer), \
                 then give a peer's state, a record or etcd data from after that. Only if no node \
                 has promoted any of them: --assume-not-promoted {}; if that is wrong, this node \
                 encrypts with an older version again until it has promoted the newest one itself, \
                 and no data is lost",
                versions.first
            ),
            Self::AssumptionWrong { .. } | Self::AssumptionIdle { .. } => {
                "leave out --assume-not-promoted and make a new plan".to_owned()
            }
            Self::Document(_) => "keep all files and report this message".to_owned(),
        }
    }

    /// What would make it worse.
    #[must_use]
    pub fn do_not(&self) -> &'static str {
        match self {
            Self::NoEvidence => "do not recreate the key to get back to version 1",
            Self::StateInPlace { .. } | Self::OtherState { .. } | Self::NothingToReplace { .. } => {
                "do not delete the state or the checkpoint to make room"
            }
            Self::OtherIdentity { .. } => "do not edit the evidence to fit",
            Self::PeerNoPair { .. } | Self::PeerUnanchored { .. } => {
                "do not write the checkpoint by hand"
            }
            Self::NoObjects { .. } => "do not go on with evidence that shows nothing",
            Self::Undecryptable { .. }
            | Self::NotDecrypted { .. }
            | Self::AboveLatest { .. }
            | Self::Recreated { .. }
            | Self::ActiveUnusable { .. } => {
                "do not rotate, trim or recreate the key, and do not delete the data in etcd"
            }
            Self::Untried { .. } => "do not sample where there is time to try all",
            Self::Contradiction { .. } => "do not pick the evidence that happens to be accepted",
            Self::Unaccounted { .. } => "do not trim the key",
            Self::ActiveBlocked { .. } => "do not rotate the key to get past it",
            Self::Undecided { .. } => {
                "do not assume it to get on faster, and do not rotate the key again"
            }
            Self::AssumptionWrong { .. } | Self::AssumptionIdle { .. } => {
                "do not guess the version"
            }
            Self::Document(_) => "do not edit them",
        }
    }
}

fn after_gap(gap: &Gap) -> String {
    match gap {
        Gap::KeyId(_) | Gap::Annotations(_) | Gap::Foreign(_) => {
            "find out with verify-backup what wrote or changed them; they need a backup of etcd \
             from before"
                .to_owned()
        }
        Gap::OtherScope { .. } => {
            "if this etcd is this cluster's, change those names of the configuration back; else \
             give this cluster's"
                .to_owned()
        }
        Gap::NewerThanLatest { version, .. } => {
            format!("restore the OpenBao storage that has version {version}")
        }
        Gap::Trimmed { version, .. } => format!(
            "restore the OpenBao storage from before version {version} was trimmed; or, if a later \
             etcd no longer needs it, give that one"
        ),
        Gap::Hidden { version, .. } => {
            format!("lower min_decryption_version to {version} or less, and make a new plan")
        }
        Gap::OtherCreation { .. } => {
            "restore the OpenBao storage that has the original key; or, if this etcd is another \
             cluster's, give this cluster's"
                .to_owned()
        }
        Gap::NoKey { .. } | Gap::Unknown { .. } => {
            "point the configuration at the OpenBao that has the key".to_owned()
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
