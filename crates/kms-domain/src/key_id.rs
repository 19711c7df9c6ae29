//! The `key_id` of a Transit version in an identity scope.
//! Implements `docs/format/key-id.md`.
//!
//! A `key_id` is public, but logs and metrics show its [`TextHash`] instead.

use crate::{
    digest::{TextHash, digest_type},
    scope::IdentityScope,
    transit::{CreatedAt, TransitVersion},
};

/// Begin of every `key_id`, which names the version of its derivation.
pub const PREFIX: &str = "obk2.";

digest_type!(
    /// `obk2.` and a digest: 48 ASCII characters, stored beside every encrypted object.
    KeyId,
    PREFIX
);

impl KeyId {
    /// Derives the `key_id` of this version in this scope.
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

        // The separator is unambiguous: every name rule excludes NUL.
        let mut preimage = Vec::new();
        for part in parts.into_iter().flatten() {
            preimage.extend_from_slice(part.as_bytes());
            preimage.push(0);
        }

        Self::of_bytes(&preimage)
    }

    /// The hash for logs, metrics and reports.
    #[must_use]
    pub fn hash(&self) -> TextHash {
        TextHash::of(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        scope::{ClusterId, Namespace, ProviderName, TransitMountId},
        vectors,
    };
    use proptest::prelude::*;

    #[test]
    fn every_vector_is_derived_and_read() {
        for vector in vectors::key_ids().keys {
            let key = vector.key();
            assert_eq!(key.id().as_str(), vector.key_id, "{}", vector.claim);
            assert_eq!(key.id_hash().as_str(), vector.key_id_hash);
            assert_eq!(KeyId::parse(&vector.key_id).as_ref(), Ok(key.id()));
        }
    }

    #[test]
    fn a_malformed_key_id_is_refused() {
        for case in vectors::key_ids().malformed {
            assert!(KeyId::parse(&case.text).is_err(), "{}", case.claim);
        }
    }

    #[test]
    fn a_character_that_moves_to_the_next_name_changes_the_key_id() {
        let with = |provider, cluster, namespace: Option<&str>, mount| {
            let mut scope = vectors::golden_scope();
            scope.provider_name = ProviderName::parse(provider).unwrap();
            scope.cluster_id = ClusterId::parse(cluster).unwrap();
            scope.openbao_namespace = namespace.map(|text| Namespace::parse(text).unwrap());
            scope.transit_mount_id = TransitMountId::parse(mount).unwrap();
            KeyId::derive(&scope, vectors::version(3), vectors::created_at(1))
        };
        assert_ne!(with("ab", "c", None, "m"), with("a", "bc", None, "m"));
        assert_ne!(with("a", "c", Some("n"), "m"), with("a", "c", None, "nm"));
    }

    proptest! {
        #[test]
        fn a_printed_key_id_is_read_back(key in vectors::any_key()) {
            prop_assert_eq!(&KeyId::parse(key.id().as_str()).unwrap(), key.id());
            prop_assert_eq!(key.id().as_str().len(), 48);
        }
    }
}
