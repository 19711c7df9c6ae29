//! What a plan does not know, for the one who reviews it.

use super::{Unreadable, VersionRange};
use crate::{registry::document::Generation, transit::TransitVersion};

/// Something that the evidence leaves open.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Limitation {
    /// No etcd was looked at.
    #[error(
        "no etcd data was given: that the key decrypts what is stored was not tried, and the active \
         version is that of records or peers"
    )]
    NoEtcd,
    /// Only some DEKs were tried.
    #[error(
        "{evidence}: of each key_id at most {sample} distinct encrypted DEKs were tried, and {untried} \
         were not; verify-backup tries all"
    )]
    Sampled {
        /// The source.
        evidence: String,
        /// At most so many of each `key_id`.
        sample: u64,
        /// How many were left out.
        untried: u64,
    },
    /// Values whose envelope cannot be read name no version.
    #[error("{evidence}: {values} values are damaged, and which version they need is unknown")]
    Damaged {
        /// The source.
        evidence: String,
        /// How many.
        values: u64,
    },
    /// What was read may not be all.
    #[error("{evidence}: {doubt}")]
    Doubtful {
        /// The source.
        evidence: String,
        /// Why.
        doubt: String,
    },
    /// Objects that this configuration cannot judge.
    #[error(
        "{evidence}: {objects} objects are of another provider of this key; their DEKs were not \
         tried. Run verify-backup with the configuration of that provider too"
    )]
    OtherProvider {
        /// The source.
        evidence: String,
        /// How many.
        objects: u64,
    },
    /// What the operator has accepted.
    #[error(
        "{}: {} objects{} stay unreadable ({}), as accepted: {}. They need the OpenBao storage or the \
         etcd backup that has them",
        .0.evidence,
        .0.objects(),
        .0.version.map_or(String::new(), |version| format!(" of version {version}")),
        .0.cause,
        resources(.0)
    )]
    Unreadable(Unreadable),
    /// Objects were written under a version that the key does not have.
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
        /// Of the live key.
        latest: TransitVersion,
    },
    /// A history that needs rotations beside a key without any.
    #[error(
        "the checkpoint of this node accepts generation {0}, but the key was never rotated: unless \
         recover-state made those generations (its journals are beside the state), the key was \
         rotated, and this OpenBao is of a point before that"
    )]
    NeverRotated(Generation),
    /// The operator's word.
    #[error(
        "that no node has promoted {0} is assumed, not shown: if one has, this node encrypts with an \
         older version again until it has promoted the newest one itself; no data is lost"
    )]
    Assumed(VersionRange),
    /// Snapshots tell of their own time.
    #[error(
        "version {version}: OpenBao does not decrypt it, and nothing in {} needs it, so it is carried \
         as removed. What was written to etcd since then is not shown: if an object needs it after \
         all, restore-versions takes it back into use once OpenBao decrypts it",
        .evidence.join(", ")
    )]
    UnneededThen {
        /// The version.
        version: TransitVersion,
        /// The snapshots.
        evidence: Vec<String>,
    },
    /// Versions that cannot be carried, since their creation second is not known.
    #[error(
        "{0}: OpenBao does not decrypt it and no evidence tells when it was made, so the state does \
         not name it. If min_decryption_version is lowered later, run recover-state with --replace, \
         since the provider itself looks for new versions only"
    )]
    LeftOut(VersionRange),
    /// Nothing tells how far the lost chain had come.
    #[error(
        "neither a checkpoint nor a record or state of another node tells a generation, so the \
         chain begins anew at 1: a copy of the lost state that turns up later must not be put back"
    )]
    NoLowerBound,
    /// The chain goes on from someone else's.
    #[error(
        "this node's checkpoint is lost, so the chain goes on from that of {0}: whether this node \
         had come further is unknown, and a copy of its lost state must not be put back"
    )]
    OtherChain(String),
}

impl Limitation {
    /// The stable word for reports.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoEtcd => "no_etcd",
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
