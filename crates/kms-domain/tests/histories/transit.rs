//! A model of a Transit key and its past, limited to metadata and probes.

use std::sync::Arc;

use kms_domain::{
    key::{KeyScope, TransitKey},
    scope::{IdentityScope, TransitKeyPath},
    transit::{
        CreatedAt, KeyEntry, KeyMetadata, KeyProfile, KeyVersions, ProfileRefused, TransitVersion,
    },
};

/// The present key. Creation seconds are unique, so they identify key material.
#[derive(Debug, Clone)]
pub(crate) struct Transit {
    created: Vec<u64>,
    min_available: u64,
    min_decryption: u64,
    min_encryption: u64,
}

impl Transit {
    pub(crate) fn new(second: u64) -> Self {
        Self {
            created: vec![second],
            min_available: 1,
            min_decryption: 1,
            min_encryption: 0,
        }
    }

    pub(crate) fn rotate(&mut self, second: u64) {
        self.created.push(second);
    }

    pub(crate) fn latest(&self) -> u64 {
        self.created.len() as u64
    }

    pub(crate) fn limit_decryption(&mut self, minimum: u64) {
        self.min_decryption = minimum.clamp(self.min_available, self.latest());
    }

    pub(crate) fn limit_encryption(&mut self, minimum: u64) {
        self.min_encryption = minimum.min(self.latest());
    }

    /// Trims permanently, and only below the decryptable versions.
    pub(crate) fn trim(&mut self, minimum: u64) {
        self.min_available = minimum.clamp(self.min_available, self.min_decryption);
    }

    /// The metadata for a reader; `omitted` is left out, as in a truncated response.
    pub(crate) fn read(
        &self,
        path: &TransitKeyPath,
        omitted: Option<u64>,
    ) -> Result<KeyProfile, ProfileRefused> {
        let listed = (self.min_decryption..=self.latest()).filter(|n| Some(*n) != omitted);
        let entry = |number: u64| {
            let second = i64::try_from(self.second(number)).unwrap();
            (number.to_string(), KeyEntry::Created(second))
        };
        let number = |number: u64| i64::try_from(number).unwrap();
        let metadata = KeyMetadata {
            key_type: "aes256-gcm96".to_owned(),
            latest_version: number(self.latest()),
            min_available_version: number(self.min_available),
            min_decryption_version: number(self.min_decryption),
            min_encryption_version: number(self.min_encryption),
            keys: KeyVersions(listed.map(entry).collect()),
            supports_encryption: true,
            supports_decryption: true,
            ..KeyMetadata::default()
        };
        KeyProfile::check(&metadata, &path.key_name)
    }

    /// The newest version in the scope of a node.
    pub(crate) fn newest(&self, scope: &IdentityScope) -> Arc<TransitKey> {
        Arc::new(TransitKey::new(
            Arc::new(KeyScope::new(scope.clone())),
            TransitVersion::new(self.latest()).unwrap(),
            CreatedAt::new(self.second(self.latest())).unwrap(),
        ))
    }

    /// Whether ciphertexts under `key` decrypt now.
    pub(crate) fn decrypts(&self, key: &TransitKey) -> bool {
        let number = key.version().get();
        (self.min_decryption..=self.latest()).contains(&number)
            && self.second(number) == key.created_at().get()
    }

    /// Whether a deep probe with `version` passes.
    pub(crate) fn round_trips(&self, version: TransitVersion) -> bool {
        let lowest = self.min_decryption.max(self.min_encryption);
        (lowest..=self.latest()).contains(&version.get())
    }

    fn second(&self, number: u64) -> u64 {
        self.created[usize::try_from(number).unwrap() - 1]
    }
}
