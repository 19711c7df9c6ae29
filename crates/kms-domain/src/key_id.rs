//! The name of one Transit version under one identity scope.
//! Implements `docs/format/key-id.md`.
//!
//! A `key_id` is public, yet logs and metrics show its [`TextHash`].

use crate::{
    digest::{TextHash, digest_type},
    scope::IdentityScope,
    transit::{CreatedAt, TransitVersion},
};

digest_type!(
    /// `obk2.` and a digest: 48 ASCII characters, stored beside every encrypted object.
    KeyId,
    "obk2."
);

impl KeyId {
    /// The only `key_id` of this version in this scope.
    #[must_use]
    pub fn derive(scope: &IdentityScope, version: TransitVersion, created_at: CreatedAt) -> Self {
        let namespace = scope.openbao_namespace.as_ref();
        let version = version.to_string();
        let created_at = created_at.to_string();
        let parts = [
            Some("openbao-kubernetes-kms/key-id/v1"),
            Some(scope.provider_name.as_str()),
            Some(scope.cluster_id.as_str()),
            Some(scope.openbao_instance_id.as_str()),
            namespace.map(|namespace| namespace.as_str()),
            Some(scope.transit_mount_id.as_str()),
            Some(scope.key_lineage_id.as_str()),
            Some(&version),
            Some(&created_at),
        ];
        // No part can hold the separator: every name refuses NUL.
        let mut preimage = Vec::new();
        for part in parts.into_iter().flatten() {
            preimage.extend_from_slice(part.as_bytes());
            preimage.push(0);
        }
        Self::of_bytes(&preimage)
    }

    /// What logs, metrics and reports show instead of the `key_id`.
    #[must_use]
    pub fn hash(&self) -> TextHash {
        TextHash::of(self.as_str())
    }
}
