//! Transit: mounts and keys.

use serde::Serialize;
use serde_json::json;

use crate::admin::{Admin, AdminError};

/// Parameters of a new key. The default is the type required by the provider: AES-256-GCM, not
/// exportable. Other values are for tests of its rejection.
#[derive(Debug, Clone, Serialize)]
pub struct NewKey {
    /// Key type as named by the API.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Whether the key may be exported.
    pub exportable: bool,
    /// Whether the key may be backed up as plaintext.
    pub allow_plaintext_backup: bool,
    /// Whether each context derives its own key.
    pub derived: bool,
    /// Whether equal plaintexts give equal ciphertexts; requires `derived`.
    pub convergent_encryption: bool,
}

impl Default for NewKey {
    fn default() -> Self {
        Self {
            kind: "aes256-gcm96",
            exportable: false,
            allow_plaintext_backup: false,
            derived: false,
            convergent_encryption: false,
        }
    }
}

/// Changes to a key. `None` leaves a setting unchanged.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct KeyConfig {
    /// The oldest version that still decrypts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_decryption_version: Option<u64>,
    /// The oldest version that still encrypts; 0 stands for the latest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_encryption_version: Option<u64>,
    /// Whether the key may be deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deletion_allowed: Option<bool>,
    /// Whether the key may be exported; cannot be reverted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exportable: Option<bool>,
    /// Whether the key may be backed up as plaintext; cannot be reverted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_plaintext_backup: Option<bool>,
}

impl Admin<'_> {
    /// Mounts Transit with `disable_upsert`: encryption with a missing key then fails instead of
    /// creating it.
    ///
    /// # Errors
    /// [`AdminError::Call`].
    pub async fn mount_transit(&self, mount: &str) -> Result<(), AdminError> {
        self.write(&format!("sys/mounts/{mount}"), &json!({"type": "transit"}))
            .await?;
        self.write(
            &format!("{mount}/config/keys"),
            &json!({"disable_upsert": true}),
        )
        .await
        .map(drop)
    }

    /// Creates a key with one version.
    ///
    /// # Errors
    /// [`AdminError::Call`].
    pub async fn create_key(&self, mount: &str, key: &str, new: &NewKey) -> Result<(), AdminError> {
        self.write(&format!("{mount}/keys/{key}"), new)
            .await
            .map(drop)
    }

    /// Adds a version as the latest.
    ///
    /// # Errors
    /// [`AdminError::Call`].
    pub async fn rotate_key(&self, mount: &str, key: &str) -> Result<(), AdminError> {
        self.write(&format!("{mount}/keys/{key}/rotate"), &json!({}))
            .await
            .map(drop)
    }

    /// Changes the settings of a key.
    ///
    /// # Errors
    /// [`AdminError::Call`].
    pub async fn configure_key(
        &self,
        mount: &str,
        key: &str,
        config: KeyConfig,
    ) -> Result<(), AdminError> {
        self.write(&format!("{mount}/keys/{key}/config"), &config)
            .await
            .map(drop)
    }

    /// Destroys all versions below `min_available_version`. OpenBao requires both other minimums to
    /// be at least that high.
    ///
    /// # Errors
    /// [`AdminError::Call`].
    pub async fn trim_key(
        &self,
        mount: &str,
        key: &str,
        min_available_version: u64,
    ) -> Result<(), AdminError> {
        let body = json!({"min_available_version": min_available_version});
        self.write(&format!("{mount}/keys/{key}/trim"), &body)
            .await
            .map(drop)
    }

    /// Destroys a key. Its setting `deletion_allowed` must be true.
    ///
    /// # Errors
    /// [`AdminError::Call`].
    pub async fn delete_key(&self, mount: &str, key: &str) -> Result<(), AdminError> {
        self.delete(&format!("{mount}/keys/{key}")).await
    }
}
