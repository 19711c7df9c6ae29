//! Binds a state document to one configuration, raw mount path and key name included.
//! Implements `docs/format/state-document.md` section 2.

use serde::Serialize;

use crate::{
    digest::digest_type,
    json,
    registry::document::Document,
    scope::{IdentityScope, TransitKeyPath},
};

digest_type!(
    /// `cfg1.` and the digest of identity scope, mount path and key name. Server address, TLS and
    /// authentication settings take no part: they may change.
    IdentityFingerprint,
    "cfg1."
);

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
    /// The names agree but the fingerprints do not, so it is what only the fingerprint covers.
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

impl IdentityFingerprint {
    /// The fingerprint of a configuration.
    #[must_use]
    pub fn of(scope: &IdentityScope, path: &TransitKeyPath) -> Self {
        let namespace = scope.openbao_namespace.as_ref();
        let material = json::compact(&Material {
            domain: "openbao-kubernetes-kms/config-identity/v1",
            provider_name: scope.provider_name.as_str(),
            cluster_id: scope.cluster_id.as_str(),
            openbao_instance_id: scope.openbao_instance_id.as_str(),
            openbao_namespace: namespace.map(|namespace| namespace.as_str()),
            transit_mount_id: scope.transit_mount_id.as_str(),
            key_lineage_id: scope.key_lineage_id.as_str(),
            transit_mount_path: path.mount_path.as_str(),
            transit_key_name: path.key_name.as_str(),
        });
        Self::of_bytes(material.as_bytes())
    }
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
/// Every name that differs; if none does, the key path.
pub fn require_identity(
    document: &Document,
    scope: &IdentityScope,
    path: &TransitKeyPath,
) -> Result<(), OtherIdentity> {
    let stored = document.registry().scope().identity();
    let mut differences = name_differences(scope, stored);
    let configured = IdentityFingerprint::of(scope, path);
    if differences.is_empty() && configured != *document.fingerprint() {
        differences.push(IdentityDifference::KeyPath {
            configured,
            stored: document.fingerprint().clone(),
        });
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

/// The members in the order in which they are hashed.
#[derive(Serialize)]
struct Material<'a> {
    domain: &'static str,
    provider_name: &'a str,
    cluster_id: &'a str,
    openbao_instance_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    openbao_namespace: Option<&'a str>,
    transit_mount_id: &'a str,
    key_lineage_id: &'a str,
    transit_mount_path: &'a str,
    transit_key_name: &'a str,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors::{self, ScopeVector, vectors};
    use serde::Deserialize;

    #[derive(Deserialize)]
    struct Vectors {
        fingerprints: Vec<Vector>,
        malformed: Vec<String>,
    }

    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Vector {
        claim: String,
        scope: ScopeVector,
        mount_path: String,
        key_name: String,
        fingerprint: String,
    }

    #[test]
    fn every_vector_is_computed() {
        let vectors: Vectors = vectors!("fingerprint.json");
        for vector in vectors.fingerprints {
            let path = vectors::path(&vector.mount_path, &vector.key_name);
            let fingerprint = IdentityFingerprint::of(&vector.scope.scope(), &path);
            assert_eq!(fingerprint.as_str(), vector.fingerprint, "{}", vector.claim);
            assert_eq!(
                IdentityFingerprint::parse(&vector.fingerprint),
                Ok(fingerprint)
            );
        }
        for text in vectors.malformed {
            assert!(IdentityFingerprint::parse(&text).is_err(), "{text:?}");
        }
    }

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
