//! Objects that cannot be read with the live key. They do not block a rebuild once an operator has
//! accepted their exact number.

use std::collections::BTreeMap;

use super::EtcdEvidence;
use crate::{
    recovery::{
        origin::{Gap, Origin},
        pair::Finding,
    },
    transit::TransitVersion,
};

/// The objects of one `key_id` in one etcd, in their newest revisions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdFinding {
    /// The version and the results of its encrypted DEKs.
    pub finding: Finding,
    /// Unreadable objects by resource: all objects of a [`Gap`], else those of refused DEKs.
    pub unreadable: BTreeMap<String, u64>,
    /// Keys of the first few unreadable objects, if they were asked for.
    pub names: Vec<String>,
}

/// Unreadable objects of one etcd with the same version and cause.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// The etcd.
    pub evidence: String,
    /// The version that the objects need; `None` if they name none.
    pub version: Option<TransitVersion>,
    /// The stable word for reports: that of the [`Gap`], or `not_decrypted`.
    pub cause: &'static str,
    /// The objects by resource.
    pub resources: BTreeMap<String, u64>,
    /// Keys of the first few objects, if they were asked for.
    pub names: Vec<String>,
}

/// The cause of objects whose encrypted DEK is refused by OpenBao.
pub(super) const NOT_DECRYPTED: &str = "not_decrypted";

impl EtcdEvidence {
    /// Objects that only another OpenBao storage, another configuration or an etcd backup makes
    /// readable. Objects of a hidden version are not among them: lowering `min_decryption_version`
    /// makes them readable.
    #[must_use]
    pub fn unreadable(&self) -> Vec<Unreadable> {
        let mut found: BTreeMap<(Option<TransitVersion>, &'static str), Unreadable> =
            BTreeMap::new();
        for of_key_id in &self.findings {
            let finding = &of_key_id.finding;
            let (version, cause) = match &finding.origin {
                Origin::Live(key) if finding.seeds.failed > 0 => {
                    (Some(key.version()), NOT_DECRYPTED)
                }
                Origin::Gap(gap) if gap.is_lasting() => (gap.version(), gap.code()),
                Origin::Live(_) | Origin::Known(_) | Origin::Gap(_) => continue,
            };
            let row = found.entry((version, cause)).or_insert_with(|| Unreadable {
                evidence: self.name.clone(),
                version,
                cause,
                resources: BTreeMap::new(),
                names: Vec::new(),
            });
            for (resource, objects) in &of_key_id.unreadable {
                let count = row.resources.entry(resource.clone()).or_default();
                *count = count.saturating_add(*objects);
            }
            row.names.extend(of_key_id.names.iter().cloned());
        }
        found.into_values().collect()
    }
}

impl Unreadable {
    /// Whether OpenBao has the version and refuses the encrypted DEKs.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        self.cause == NOT_DECRYPTED
    }

    /// The number of objects.
    #[must_use]
    pub fn objects(&self) -> u64 {
        self.resources
            .values()
            .copied()
            .fold(0, u64::saturating_add)
    }
}

impl Gap {
    /// Whether no setting of the live key makes the objects readable.
    pub(super) fn is_lasting(&self) -> bool {
        match self {
            Self::KeyId(_)
            | Self::Annotations(_)
            | Self::Foreign(_)
            | Self::OtherScope { .. }
            | Self::NewerThanLatest { .. }
            | Self::Trimmed { .. }
            | Self::Recreated { .. }
            | Self::OtherCreation { .. } => true,
            Self::Hidden { .. }
            | Self::OtherProvider { .. }
            | Self::NoKey { .. }
            | Self::Unknown { .. } => false,
        }
    }
}
