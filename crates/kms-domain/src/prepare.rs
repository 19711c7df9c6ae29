//! Requests to Transit, each built from a permission and a message in one step.
//!
//! Every request is checked before it is sent. Only [`prepare_encrypt`], [`prepare_decrypt`] and
//! [`prepare_proof`] build the associated data of stored objects.

use std::hash::{Hash, Hasher};

use crate::{
    aad::AssociatedData,
    annotations::{AnnotationMismatch, Annotations, PluginVersion},
    ciphertext::TransitCiphertext,
    health::ActiveKey,
    key::TransitKey,
    key_id::KeyId,
    registry::DecryptKey,
    transit::TransitVersion,
};

/// An encryption request to Transit, and the other parts of the response to Kubernetes.
#[derive(Debug, Clone)]
pub struct PreparedEncrypt {
    /// The explicit version; the response must have it too.
    pub version: TransitVersion,
    /// Authenticated with the plaintext.
    pub associated_data: AssociatedData,
    /// The `key_id` for Kubernetes.
    pub key_id: KeyId,
    /// The annotations for Kubernetes.
    pub annotations: Annotations,
}

/// A decryption request to Transit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreparedDecrypt {
    /// A ciphertext of the key's version.
    pub ciphertext: TransitCiphertext,
    /// Authenticated with the ciphertext.
    pub associated_data: AssociatedData,
}

impl Hash for PreparedDecrypt {
    /// Hashes only the ciphertext: the associated data is long, and equal for all requests of one
    /// key.
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.ciphertext.hash(state);
    }
}

/// Reason for a decrypt request that is refused without a call to Transit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecryptRefused {
    /// The annotations belong to another key.
    #[error(transparent)]
    Annotations(#[from] AnnotationMismatch),
    /// The ciphertext has another version than its `key_id`.
    #[error("the ciphertext is of Transit version {found}, its key_id of version {expected}")]
    CiphertextVersion {
        /// From the ciphertext's prefix.
        found: TransitVersion,
        /// From the key.
        expected: TransitVersion,
    },
}

/// Formatted values of one key, for display and comparison only.
#[derive(Debug, Clone)]
pub struct Preview {
    /// The annotations of an encryption under the key.
    pub annotations: Annotations,
    /// The authenticated text. An [`AssociatedData`] requires a permission, so this is a string.
    pub associated_data: String,
}

/// Shows annotations and associated data of an encryption under `key`, without permission for one.
#[must_use]
pub fn preview(key: &TransitKey, plugin_version: &PluginVersion) -> Preview {
    let associated_data = AssociatedData::for_key(key);
    Preview {
        annotations: Annotations::for_key(key, plugin_version),
        associated_data: String::from_utf8_lossy(associated_data.as_bytes()).into_owned(),
    }
}

/// Takes every part of the request from the active key:
///
/// ```compile_fail,E0308
/// use kms_domain::{annotations::PluginVersion, prepare::prepare_encrypt, registry::DecryptKey};
///
/// fn encrypt_with_a_retired_key(retired: &DecryptKey, plugin_version: &PluginVersion) {
///     prepare_encrypt(retired, plugin_version);
/// }
/// ```
#[must_use]
pub fn prepare_encrypt(active: &ActiveKey, plugin_version: &PluginVersion) -> PreparedEncrypt {
    let key = active.key();
    PreparedEncrypt {
        version: key.version(),
        associated_data: AssociatedData::for_key(key),
        key_id: key.id().clone(),
        annotations: Annotations::for_key(key, plugin_version),
    }
}

/// Checks that annotations and ciphertext belong to the key named by the `key_id`.
///
/// # Errors
/// [`DecryptRefused`].
pub fn prepare_decrypt(
    decrypt: &DecryptKey,
    annotations: &Annotations,
    ciphertext: TransitCiphertext,
) -> Result<PreparedDecrypt, DecryptRefused> {
    prepare_proof(decrypt.key(), annotations, ciphertext)
}

/// Like [`prepare_decrypt`], for a key outside any registry: a recovery proves with it that the key
/// is the original one. Transit authenticates the request. The caller must wipe the plaintext at
/// once.
///
/// # Errors
/// [`DecryptRefused`].
pub fn prepare_proof(
    key: &TransitKey,
    annotations: &Annotations,
    ciphertext: TransitCiphertext,
) -> Result<PreparedDecrypt, DecryptRefused> {
    annotations.require_match(key)?;
    if ciphertext.version() != key.version() {
        return Err(DecryptRefused::CiphertextVersion {
            found: ciphertext.version(),
            expected: key.version(),
        });
    }
    Ok(PreparedDecrypt {
        ciphertext,
        associated_data: AssociatedData::for_key(key),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        health::{Breaker, DeepOutcome, Freshness, Health, MetadataOutcome, assess},
        registry::{Lookup, RecordState, Registry},
        vectors,
    };

    fn encrypt(registry: &Registry) -> PreparedEncrypt {
        let (fresh, verified) = (Freshness::Fresh, MetadataOutcome::Verified);
        let (passed, closed) = (DeepOutcome::Passed, Breaker::Closed);
        let Health::Healthy(active) = assess(Some(registry), fresh, verified, passed, closed)
        else {
            panic!("unhealthy")
        };
        prepare_encrypt(&active, &PluginVersion::new("v1").unwrap())
    }

    fn decrypt_key(registry: &Registry, key_id: &KeyId) -> DecryptKey {
        match registry.lookup(key_id) {
            Lookup::Known(key) => key,
            Lookup::Disabled | Lookup::Unknown => panic!("{key_id} does not decrypt"),
        }
    }

    fn ciphertext(version: u64) -> TransitCiphertext {
        TransitCiphertext::parse(format!("vault:v{version}:AAEC").as_bytes()).unwrap()
    }

    #[test]
    fn decrypt_authenticates_what_encrypt_did_also_after_retirement() {
        let before = vectors::registry(&[(1, RecordState::Active)]);
        let after = vectors::registry(&[(2, RecordState::Active), (1, RecordState::Retired)]);
        let encrypted = encrypt(&before);
        assert_eq!(encrypted.version, vectors::version(1));
        let key = decrypt_key(&after, &encrypted.key_id);
        let decrypted = prepare_decrypt(&key, &encrypted.annotations, ciphertext(1)).unwrap();
        assert_eq!(decrypted.associated_data, encrypted.associated_data);
        assert_eq!(decrypted.ciphertext, ciphertext(1));
    }

    #[test]
    fn annotations_or_ciphertext_of_another_version_are_refused() {
        let registry = vectors::registry(&[(2, RecordState::Active), (1, RecordState::Retired)]);
        let encrypted = encrypt(&registry);
        let own = decrypt_key(&registry, &encrypted.key_id);
        assert_eq!(
            prepare_decrypt(&own, &encrypted.annotations, ciphertext(1)).unwrap_err(),
            DecryptRefused::CiphertextVersion {
                found: vectors::version(1),
                expected: vectors::version(2),
            }
        );
        let first = registry.records()[1].key.id();
        let other = decrypt_key(&registry, first);
        let refused = prepare_decrypt(&other, &encrypted.annotations, ciphertext(1)).unwrap_err();
        assert!(matches!(refused, DecryptRefused::Annotations(_)));
    }
}
