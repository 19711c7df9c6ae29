//! Compares the identity of a state document with the configuration.
//! Implements `docs/format/state-document.md` section 2.

use crate::{
    fingerprint::IdentityFingerprint,
    registry::document::Document,
    scope::{IdentityScope, TransitKeyPath},
};

/// A state document that belongs to another configuration. A configuration error: no file is
/// changed and nothing is sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the state document belongs to another configuration: {}", list(.0))]
pub struct OtherIdentity(Vec<IdentityDifference>);

/// One difference between a document and the configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityDifference {
    /// A name of the identity scope.
    #[error("{key} is {configured:?}, but the document was made with {stored:?}")]
    Name {
        /// The configuration key.
        key: &'static str,
        /// The configured value; empty for the root namespace.
        configured: String,
        /// The document's value.
        stored: String,
    },
    /// The names are equal and the fingerprints differ: the difference is the path of the key.
    #[error(
        "transit.mountPath or transit.keyName differs from what the document was made with \
         (fingerprint {configured} instead of {stored})"
    )]
    KeyPath {
        /// From the configuration.
        configured: IdentityFingerprint,
        /// From the document.
        stored: IdentityFingerprint,
    },
}

impl OtherIdentity {
    /// Every difference, at least one.
    #[must_use]
    pub fn differences(&self) -> &[IdentityDifference] {
        &self.0
    }
}

/// Requires that `document` was made with this configuration.
///
/// # Errors
/// Every name that differs; if none does, the key path, which a legacy document does not have.
pub fn require_identity(
    document: &Document,
    scope: &IdentityScope,
    path: &TransitKeyPath,
) -> Result<(), OtherIdentity> {
    let stored = document.registry().scope().identity();
    let mut differences = name_differences(scope, stored);
    let configured = IdentityFingerprint::of(scope, path);
    if differences.is_empty()
        && let Some(stored) = document
            .fingerprint()
            .filter(|stored| **stored != configured)
    {
        let stored = stored.clone();
        differences.push(IdentityDifference::KeyPath { configured, stored });
    }
    if differences.is_empty() {
        Ok(())
    } else {
        Err(OtherIdentity(differences))
    }
}

/// Every name that differs, with both values.
pub(crate) fn name_differences(
    configured: &IdentityScope,
    stored: &IdentityScope,
) -> Vec<IdentityDifference> {
    let pairs = names(configured).into_iter().zip(names(stored));
    let different = pairs.filter(|(configured, stored)| configured != stored);
    different
        .map(
            |((key, configured), (_, stored))| IdentityDifference::Name {
                key,
                configured: configured.to_owned(),
                stored: stored.to_owned(),
            },
        )
        .collect()
}

/// The configuration keys of the names that differ.
pub(crate) fn differing_names(one: &IdentityScope, other: &IdentityScope) -> Vec<&'static str> {
    let pairs = names(one).into_iter().zip(names(other));
    pairs
        .filter(|(one, other)| one != other)
        .map(|((key, _), _)| key)
        .collect()
}

/// The configuration key of [`IdentityScope::provider_name`].
pub(crate) const PROVIDER_NAME: &str = "transit.keyIdScope.providerName";

/// The configuration keys of names without hashes in the annotations.
pub(crate) const OUTSIDE_ANNOTATIONS: [&str; 3] = [
    PROVIDER_NAME,
    "transit.keyIdScope.clusterId",
    "openbao.instanceId",
];

fn names(scope: &IdentityScope) -> [(&'static str, &str); 6] {
    let IdentityScope {
        provider_name,
        cluster_id,
        openbao_instance_id,
        openbao_namespace,
        transit_mount_id,
        key_lineage_id,
    } = scope;
    let namespace = openbao_namespace.as_ref();
    [
        (PROVIDER_NAME, provider_name.as_str()),
        ("transit.keyIdScope.clusterId", cluster_id.as_str()),
        ("openbao.instanceId", openbao_instance_id.as_str()),
        (
            "openbao.namespace",
            namespace.map_or("", |namespace| namespace.as_str()),
        ),
        (
            "transit.keyIdScope.transitMountId",
            transit_mount_id.as_str(),
        ),
        ("transit.keyIdScope.keyLineageId", key_lineage_id.as_str()),
    ]
}

fn list(differences: &[IdentityDifference]) -> String {
    let texts: Vec<_> = differences.iter().map(ToString::to_string).collect();
    texts.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors;

    #[test]
    fn every_difference_from_the_configuration_is_named() {
        let scope = vectors::golden_scope();
        let path = vectors::path("transit", "kubernetes-etcd");
        let registry = vectors::registry(&[(1, crate::registry::RecordState::Active)]);
        let document = Document::first(IdentityFingerprint::of(&scope, &path), registry);
        assert_eq!(require_identity(&document, &scope, &path), Ok(()));

        let mut other = vectors::key("with a namespace").scope().identity().clone();
        other.cluster_id = crate::scope::ClusterId::parse("workload-b").unwrap();
        let difference = require_identity(&document, &other, &path).unwrap_err();
        assert_eq!(
            difference.to_string(),
            "the state document belongs to another configuration: \
             transit.keyIdScope.clusterId is \"workload-b\", but the document was made with \
             \"workload-a\"; openbao.namespace is \"admin/workload-a\", but the document was made \
             with \"\""
        );

        for moved in [
            vectors::path("transit2", "kubernetes-etcd"),
            vectors::path("transit", "kubernetes-etcd-2"),
        ] {
            let difference = require_identity(&document, &scope, &moved).unwrap_err();
            assert!(matches!(
                difference.differences(),
                [IdentityDifference::KeyPath { .. }]
            ));
        }
    }
}
