//! One version of the Transit key with all values derived from it.
//!
//! A [`TransitKey`] is only constructed by derivation, so its `key_id` always belongs to its
//! fields.

use std::sync::Arc;

use crate::{
    digest::TextHash,
    key_id::KeyId,
    scope::IdentityScope,
    transit::{CreatedAt, TransitVersion},
};

/// An identity scope with the hashes of its names, computed once and shared by its keys.
#[derive(Debug, PartialEq, Eq)]
pub struct KeyScope {
    identity: IdentityScope,
    pub(crate) cluster_hash: TextHash,
    pub(crate) instance_hash: TextHash,
    pub(crate) namespace_hash: Option<TextHash>,
    pub(crate) mount_hash: TextHash,
    pub(crate) lineage_hash: TextHash,
}

impl KeyScope {
    /// Hashes the names of `identity`.
    #[must_use]
    pub fn new(identity: IdentityScope) -> Self {
        let namespace = identity.openbao_namespace.as_ref();
        Self {
            cluster_hash: TextHash::of(identity.cluster_id.as_str()),
            instance_hash: TextHash::of(identity.openbao_instance_id.as_str()),
            namespace_hash: namespace.map(|namespace| TextHash::of(namespace.as_str())),
            mount_hash: TextHash::of(identity.transit_mount_id.as_str()),
            lineage_hash: TextHash::of(identity.key_lineage_id.as_str()),
            identity,
        }
    }

    /// The unhashed names.
    #[must_use]
    pub fn identity(&self) -> &IdentityScope {
        &self.identity
    }
}

/// A Transit version in its scope. It grants no permission: encryption takes an
/// [`ActiveKey`](crate::health::ActiveKey), decryption a
/// [`DecryptKey`](crate::registry::DecryptKey).
#[derive(Debug, PartialEq, Eq)]
pub struct TransitKey {
    scope: Arc<KeyScope>,
    version: TransitVersion,
    created_at: CreatedAt,
    id: KeyId,
    id_hash: TextHash,
}

impl TransitKey {
    /// Derives the `key_id` and its hash.
    #[must_use]
    pub fn new(scope: Arc<KeyScope>, version: TransitVersion, created_at: CreatedAt) -> Self {
        let id = KeyId::derive(scope.identity(), version, created_at);
        Self {
            id_hash: id.hash(),
            scope,
            version,
            created_at,
            id,
        }
    }

    /// The scope, shared by all keys of a registry.
    #[must_use]
    pub fn scope(&self) -> &Arc<KeyScope> {
        &self.scope
    }

    /// The version for requests to Transit.
    #[must_use]
    pub fn version(&self) -> TransitVersion {
        self.version
    }

    /// Creation second of the version.
    #[must_use]
    pub fn created_at(&self) -> CreatedAt {
        self.created_at
    }

    /// The `key_id` for Kubernetes.
    #[must_use]
    pub fn id(&self) -> &KeyId {
        &self.id
    }

    /// Replaces the `key_id` in logs, reports and stored records.
    #[must_use]
    pub fn id_hash(&self) -> &TextHash {
        &self.id_hash
    }
}
