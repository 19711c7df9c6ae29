//! All that Transit is asked for, made from permission and request in one step.
//!
//! Nothing here is sent before it has been checked, and nothing but [`prepare_encrypt`],
//! [`prepare_decrypt`] and [`prepare_proof`] makes the associated data of stored objects.

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

/// An encryption to ask Transit for, and what is answered beside its ciphertext.
#[derive(Debug, Clone)]
pub struct PreparedEncrypt {
    /// The explicit version to ask for; the answer must have it too.
    pub version: TransitVersion,
    /// To be authenticated with the plaintext.
    pub associated_data: AssociatedData,
    /// The name that Kubernetes stores.
    pub key_id: KeyId,
    /// What Kubernetes stores beside the ciphertext.
    pub annotations: Annotations,
}

/// A decryption to ask Transit for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreparedDecrypt {
    /// Of the version that the key has.
    pub ciphertext: TransitCiphertext,
    /// To be authenticated with the ciphertext.
    pub associated_data: AssociatedData,
}

impl Hash for PreparedDecrypt {
    /// Of the ciphertext alone: the associated data is long, and the same for all of one key.
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.ciphertext.hash(state);
    }
}

/// Why a decrypt request is refused without asking Transit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecryptRefused {
    /// The annotations are those of another key.
    #[error(transparent)]
    Annotations(#[from] AnnotationMismatch),
    /// The ciphertext names another version than its `key_id`.
    #[error("the ciphertext is of Transit version {found}, its key_id of version {expected}")]
    CiphertextVersion {
        /// By the ciphertext's prefix.
        found: TransitVersion,
        /// By the key.
        expected: TransitVersion,
    },
}

/// What the formats say about one key, for people to compare: nothing of it can be sent.
#[derive(Debug, Clone)]
pub struct Preview {
    /// As an encryption under the key writes them.
    pub annotations: Annotations,
    /// The text that is authenticated. Not an [`AssociatedData`], which takes a permission.
    pub associated_data: String,
}

/// Shows what an encryption under `key` writes and authenticates, without permission for one.
#[must_use]
pub fn preview(key: &TransitKey, plugin_version: &PluginVersion) -> Preview {
    let associated_data = AssociatedData::for_key(key);
    Preview {
        annotations: Annotations::for_key(key, plugin_version),
        associated_data: String::from_utf8_lossy(associated_data.as_bytes()).into_owned(),
    }
}

/// Everything of one encryption comes from one key, and that key is the active one:
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

/// Requires that annotations and ciphertext belong to the key that the `key_id` named.
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

/// The same for a key that no registry vouches for, to prove in a recovery that it is the one:
/// Transit authenticates what is asked for, and the plaintext is wiped at once.
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
        health::{DeepOutcome, Freshness, Health, MetadataOutcome, assess},
        registry::{Lookup, RecordState, Registry},
        vectors,
    };

    fn encrypt(registry: &Registry) -> PreparedEncrypt {
        let (fresh, verified) = (Freshness::Fresh, MetadataOutcome::Verified);
        let Health::Healthy(active) = assess(Some(registry), fresh, verified, DeepOutcome::Passed)
        else {
            panic!("unhealthy")
        };
        prepare_encrypt(&active, &PluginVersion::new("v1").unwrap())
    }

    fn decrypt_key(registry: &Registry, key_id: &KeyId) -> DecryptKey {
        match registry.lookup(key_id) {
            Lookup::Known(key) => key,
            Lookup::Withdrawn | Lookup::Unknown => panic!("{key_id} does not decrypt"),
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
