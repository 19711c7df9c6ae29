//! The key's metadata as sent by OpenBao. Parsing is lenient, so that [`profile`](super::profile)
//! can report the faulty setting instead of a parse error.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, Visitor},
};

/// The fields under `data` of `GET v1/<mount>/keys/<name>`, as sent. Missing booleans are false and
/// missing numbers are 0; [`KeyProfile::check`](super::KeyProfile::check) decides.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct KeyMetadata {
    /// The key's name; checked only if sent.
    pub name: Option<String>,
    /// The key type, such as `aes256-gcm96`.
    #[serde(rename = "type")]
    pub key_type: String,
    /// The newest version.
    pub latest_version: i64,
    /// Lower versions were trimmed permanently; 0 means no limit.
    pub min_available_version: i64,
    /// Lower versions are undecryptable, and missing in `keys`.
    pub min_decryption_version: i64,
    /// Lower versions are blocked from encryption; 0 means no limit.
    pub min_encryption_version: i64,
    /// The creation time of each listed version.
    pub keys: KeyVersions,
    /// Keys are derived from a context.
    pub derived: bool,
    /// Equal plaintexts give equal ciphertexts.
    pub convergent_encryption: bool,
    /// The key material can be exported.
    pub exportable: bool,
    /// The key material can be exported as a backup.
    pub allow_plaintext_backup: bool,
    /// The key can be deleted.
    pub deletion_allowed: bool,
    /// The key was deleted but can be restored.
    pub soft_deleted: bool,
    /// The key type encrypts.
    pub supports_encryption: bool,
    /// The key type decrypts.
    pub supports_decryption: bool,
}

/// The `keys` map as sent, including duplicates.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyVersions(pub Vec<(String, KeyEntry)>);

/// One value of the `keys` map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(from = "RawEntry")]
pub enum KeyEntry {
    /// Unix seconds.
    Created(i64),
    /// Any other value, such as the public keys of an asymmetric key. It is kept, so that the wrong
    /// key type is reported as such.
    Other,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum RawEntry {
    Seconds(i64),
    Other(IgnoredAny),
}

impl From<RawEntry> for KeyEntry {
    fn from(raw: RawEntry) -> Self {
        match raw {
            RawEntry::Seconds(seconds) => Self::Created(seconds),
            RawEntry::Other(IgnoredAny) => Self::Other,
        }
    }
}

impl<'de> Deserialize<'de> for KeyVersions {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;

        impl<'de> Visitor<'de> for Entries {
            type Value = KeyVersions;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of key versions")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<KeyVersions, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(KeyVersions(entries))
            }
        }

        deserializer.deserialize_map(Entries)
    }
}
