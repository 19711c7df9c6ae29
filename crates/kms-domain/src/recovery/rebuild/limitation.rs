//! Open points of a plan, for its reviewer.

use super::{Unreadable, VersionRange, blocker::counted};
use crate::{registry::document::Generation, transit::TransitVersion};

/// A point that the evidence leaves open.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Limitation {
    /// The evidence includes no etcd data.
    #[error(
        "no etcd data was given: that the key decrypts what is stored was not tried, and the active \
         version is that of records or peers"
    )]
    NoEtcd,
    /// A state of a preview lacks mount and key name.
    #[error(
        "{evidence} is of a preview and names neither mount nor key: its names and the creation times of \
         its versions are those of the configured key"
    )]
    Unbound {
        /// The state.
        evidence: String,
    },
    /// Only a sample of the DEKs was tried.
    #[error(
        "{evidence}: of each key_id at most {sample} distinct encrypted DEKs were tried, and {untried} \
         were not"
    )]
    Sampled {
        /// The source.
        evidence: String,
        /// Maximum number tried per `key_id`.
        sample: u64,
        /// Number of untried DEKs.
        untried: u64,
    },
    /// Values with an unreadable envelope, so with an unknown version.
    #[error(
        "{evidence}: {} damaged, and the version that is needed is unknown",
        counted(*.values, "value is", "values are")
    )]
    Damaged {
        /// The source.
        evidence: String,
        /// Number of values.
        values: u64,
    },
    /// The source may be incomplete.
    #[error("{evidence}: {doubt}")]
    Doubtful {
        /// The source.
        evidence: String,
        /// The reason.
        doubt: String,
    },
    /// Objects of another provider of this key, outside this configuration.
    #[error(
        "{evidence}: {} written by another provider of this key, whose DEKs were not tried",
        counted(*.objects, "object was", "objects were")
    )]
    OtherProvider {
        /// The source.
        evidence: String,
        /// Number of objects.
        objects: u64,
    },
    /// Unreadable objects that the operator has accepted.
    #[error(
        "{}: {}{} unreadable ({}), as accepted: {}",
        .0.evidence,
        counted(.0.objects(), "object", "objects"),
        match (.0.version, .0.objects()) {
            (None, 1) => " stays".to_owned(),
            (None, _) => " stay".to_owned(),
            (Some(version), 1) => format!(" of version {version} stays"),
            (Some(version), _) => format!(" of version {version} stay"),
        },
        .0.cause,
        resources(.0)
    )]
    Unreadable(Unreadable),
    /// Objects were written under a version above the key's latest.
    #[error(
        "{evidence}: version {version} was promoted, but the key's latest version is {latest}: OpenBao \
         was restored to a point before that rotation. The next rotation makes other versions of the \
         same numbers"
    )]
    LostPromotion {
        /// The source.
        evidence: String,
        /// The highest such version.
        version: TransitVersion,
        /// Latest version of the live key.
        latest: TransitVersion,
    },
    /// The checkpoint implies rotations, but the key was never rotated.
    #[error(
        "the checkpoint of this node accepts generation {0}, but the key was never rotated: unless \
         earlier rebuilds made those generations, the key was rotated, and this OpenBao is of a point \
         before that"
    )]
    NeverRotated(Generation),
    /// An assertion of the operator.
    #[error(
        "that no node has promoted {0} is assumed, not shown: if one has, this node encrypts with an \
         older version again until it has promoted the newest one itself; no data is lost"
    )]
    Assumed(VersionRange),
    /// A snapshot shows the needs at its own time only.
    #[error(
        "version {version}: OpenBao does not decrypt it, and nothing in {} needs it, so it is carried \
         as removed. What was written to etcd since then is not shown",
        .evidence.join(", ")
    )]
    UnneededThen {
        /// The version.
        version: TransitVersion,
        /// The snapshots.
        evidence: Vec<String>,
    },
    /// Versions left out of the state, because their creation second is unknown.
    #[error(
        "{0}: OpenBao does not decrypt it and no evidence tells when it was made, so the state does \
         not name it"
    )]
    LeftOut(VersionRange),
    /// The last generation of the lost chain is unknown.
    #[error(
        "neither a checkpoint nor a record or state of another node tells a generation, so the \
         chain restarts at 1: a copy of the lost state that turns up later must not be put back"
    )]
    NoLowerBound,
    /// The chain continues from that of another node.
    #[error(
        "this node's checkpoint is lost, so the chain goes on from that of {0}: whether this node \
         had come further is unknown, and a copy of its lost state must not be put back"
    )]
    OtherChain(String),
}

impl Limitation {
    /// The stable code in reports.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoEtcd => "no_etcd",
            Self::Unbound { .. } => "unbound",
            Self::Sampled { .. } => "sampled",
            Self::Damaged { .. } => "damaged",
            Self::Doubtful { .. } => "doubtful",
            Self::OtherProvider { .. } => "other_provider",
            Self::Unreadable(_) => "unreadable",
            Self::LostPromotion { .. } => "lost_promotion",
            Self::NeverRotated(_) => "never_rotated",
            Self::Assumed(_) => "assumed",
            Self::UnneededThen { .. } => "unneeded_then",
            Self::LeftOut(_) => "left_out",
            Self::NoLowerBound => "no_lower_bound",
            Self::OtherChain(_) => "other_chain",
        }
    }
}

fn resources(unreadable: &Unreadable) -> String {
    let resources = unreadable.resources.iter();
    let counts: Vec<_> = resources
        .map(|(resource, objects)| format!("{resource} {objects}"))
        .collect();
    counts.join(", ")
}
