//! Objects that the live key cannot decrypt. They block a rebuild until an operator accepts their
//! exact number.

use std::collections::BTreeMap;

use super::EtcdEvidence;
use crate::{
    recovery::{
        pair::Finding,
        resolve::{Resolution, ResolveError},
    },
    transit::TransitVersion,
};

/// The objects of one `key_id` in one etcd, in their newest revisions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdFinding {
    /// The version and the results of its encrypted DEKs.
    pub finding: Finding,
    /// Unreadable objects by resource: all objects of a [`ResolveError`], else those of refused
    /// DEKs.
    pub unreadable: BTreeMap<String, u64>,
    /// Keys of the first few unreadable objects, if requested.
    pub names: Vec<String>,
}

/// Unreadable objects of one etcd with the same version and cause.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// The etcd.
    pub evidence: String,
    /// The version that the objects need; `None` if unknown.
    pub version: Option<TransitVersion>,
    /// The stable code in reports: that of the [`ResolveError`], or `not_decrypted`.
    pub cause: &'static str,
    /// The objects by resource.
    pub resources: BTreeMap<String, u64>,
    /// Keys of the first few objects, if requested.
    pub names: Vec<String>,
}

/// Cause: OpenBao refuses the encrypted DEK.
pub(super) const NOT_DECRYPTED: &str = "not_decrypted";

impl EtcdEvidence {
    /// Objects that need another OpenBao storage, another configuration or an etcd backup to become
    /// readable. Objects of a hidden version are excluded: lowering `min_decryption_version` makes
    /// them readable.
    #[must_use]
    pub fn unreadable(&self) -> Vec<Unreadable> {
        let mut found: BTreeMap<(Option<TransitVersion>, &'static str), Unreadable> =
            BTreeMap::new();

        for of_key_id in &self.findings {
            let finding = &of_key_id.finding;
            let (version, cause) = match &finding.origin {
                Resolution::Live(key) if finding.seeds.failed > 0 => {
                    (Some(key.version()), NOT_DECRYPTED)
                }
                Resolution::Unresolved(gap) if gap.is_lasting() => (gap.version(), gap.code()),
                Resolution::Live(_) | Resolution::Known(_) | Resolution::Unresolved(_) => {
                    continue;
                }
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

impl ResolveError {
    /// Whether the objects stay unreadable under every setting of the live key.
    pub(super) fn is_lasting(&self) -> bool {
        match self {
            Self::KeyId(_)
            | Self::Annotations(_)
            | Self::Foreign(_)
            | Self::IdentityMismatch { .. }
            | Self::NewerThanLatest { .. }
            | Self::Trimmed { .. }
            | Self::Recreated { .. }
            | Self::CreationTimeMismatch { .. } => true,
            Self::Hidden { .. }
            | Self::OtherProvider { .. }
            | Self::NoKey { .. }
            | Self::Unknown { .. } => false,
        }
    }
}
