//! Binds a state document to one configuration, including mount path and key name. Implements
//! `docs/format/state-document.md` section 2, and the fingerprints of `docs/format/attestation.md`.

use serde::Serialize;

use crate::{
    digest::digest_type,
    json,
    scope::{IdentityScope, TransitKeyPath},
};

digest_type!(
    /// `clu1.` and the digest of the cluster's name in `clusterId`: equal for all nodes of a cluster.
    ClusterFingerprint,
    "clu1."
);

digest_type!(
    /// `key1.` and the digest of the names that lead to the Transit key: OpenBao instance, namespace,
    /// mount, lineage and key name. Versions are outside.
    KeyFingerprint,
    "key1."
);

impl ClusterFingerprint {
    /// The fingerprint of a configuration's cluster.
    #[must_use]
    pub fn of(scope: &IdentityScope) -> Self {
        #[derive(Serialize)]
        struct Material<'a> {
            domain: &'static str,
            cluster_id: &'a str,
        }
        let material = json::compact(&Material {
            domain: "openbao-kubernetes-kms/cluster-fingerprint/v1",
            cluster_id: scope.cluster_id.as_str(),
        });
        Self::of_bytes(material.as_bytes())
    }
}

impl KeyFingerprint {
    /// The fingerprint of a configuration's key.
    #[must_use]
    pub fn of(scope: &IdentityScope, path: &TransitKeyPath) -> Self {
        #[derive(Serialize)]
        struct Material<'a> {
            domain: &'static str,
            openbao_instance_id: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            openbao_namespace: Option<&'a str>,
            transit_mount_id: &'a str,
            key_lineage_id: &'a str,
            transit_mount_path: &'a str,
            transit_key_name: &'a str,
        }
        let namespace = scope.openbao_namespace.as_ref();
        let material = json::compact(&Material {
            domain: "openbao-kubernetes-kms/key-fingerprint/v1",
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

digest_type!(
    /// `cfg1.` and the digest of identity scope, mount path and key name. Server address, TLS and
    /// authentication settings are excluded: they may change.
    IdentityFingerprint,
    "cfg1."
);

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

/// The members in hashing order.
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
}
