//! May this etcd data and this OpenBao go into service together? The verdict from what was found.

use std::collections::BTreeSet;

use super::origin::{Gap, Origin};
use crate::transit::TransitVersion;

/// What was found about the objects of one `key_id` and one set of annotations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Where the `key_id` comes from.
    pub origin: Origin,
    /// How many objects carry it.
    pub objects: u64,
    /// What became of their distinct encrypted seeds.
    pub seeds: Proof,
    /// What became of the objects themselves, if they were opened.
    pub data: Option<Proof>,
}

/// How many of a kind were tried, and with what outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Proof {
    /// Opened, and found authentic.
    pub proven: u64,
    /// Found not to open.
    pub failed: u64,
    /// Not tried, or the attempt itself failed.
    pub untried: u64,
}

/// The answer to "is this a compatible pair?".
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Everything that etcd holds under this provider decrypts.
    Compatible,
    /// Everything will, once these have been carried out.
    CompatibleAfter(Vec<Remedy>),
    /// Some of it does not and will not decrypt with this OpenBao and this configuration.
    Incompatible,
    /// What was looked at does not decide it.
    Inconclusive,
}

/// What makes a pair compatible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// Lower `min_decryption_version` to this version.
    LowerMinDecryption(TransitVersion),
}

/// Judges what was found. The worst finding decides; objects of other providers play no part.
#[must_use]
pub fn judge(findings: &[Finding]) -> Verdict {
    let lost = |finding: &Finding| match &finding.origin {
        Origin::Live(_)
        | Origin::Known(_)
        | Origin::Gap(Gap::Hidden { .. } | Gap::Unknown { .. }) => {
            finding.seeds.failed > 0 || finding.data.is_some_and(|data| data.failed > 0)
        }
        Origin::Gap(
            Gap::KeyId(_)
            | Gap::Annotations(_)
            | Gap::Foreign(_)
            | Gap::OtherScope { .. }
            | Gap::NewerThanLatest { .. }
            | Gap::Trimmed { .. }
            | Gap::OtherCreation { .. },
        ) => true,
    };
    let undecided = |finding: &Finding| match &finding.origin {
        Origin::Live(_) => {
            finding.seeds.untried > 0 || finding.data.is_some_and(|data| data.untried > 0)
        }
        Origin::Known(_) | Origin::Gap(Gap::Unknown { .. }) => true,
        Origin::Gap(_) => false,
    };
    let hidden: BTreeSet<TransitVersion> = findings
        .iter()
        .filter_map(|finding| match finding.origin {
            Origin::Gap(Gap::Hidden { version, .. }) => Some(version),
            Origin::Live(_) | Origin::Known(_) | Origin::Gap(_) => None,
        })
        .collect();
    if findings.iter().any(lost) {
        Verdict::Incompatible
    } else if findings.iter().any(undecided) {
        Verdict::Inconclusive
    } else if let Some(&lowest) = hidden.first() {
        Verdict::CompatibleAfter(vec![Remedy::LowerMinDecryption(lowest)])
    } else {
        Verdict::Compatible
    }
}

impl Verdict {
    /// The word in reports.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Compatible => "compatible",
            Self::CompatibleAfter(_) => "compatible-after",
            Self::Incompatible => "incompatible",
            Self::Inconclusive => "inconclusive",
        }
    }
}
