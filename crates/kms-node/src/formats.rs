//! The formats of a release: those it reads, and the one it writes. `version` prints them, and
//! `doctor --for-version` compares those of another release with the files of a node and with etcd.

use kms_domain::{annotations::AAD_VERSION_1, key_id, schema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::{Accepted, accepted};

/// One format of a release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Format {
    /// Such as `state`.
    pub name: String,
    /// Versions that it reads.
    pub reads: Vec<String>,
    /// The version that it writes.
    pub writes: String,
}

/// The formats of a release, and the settings that it accepts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Formats {
    /// Formats of files, and of the values beside an encrypted object.
    pub formats: Vec<Format>,
    /// Settings of the configuration file.
    pub settings: Vec<Accepted>,
}

/// Text before the digest of a `key_id`.
pub const KEY_ID: &str = "key_id";
/// Value of the annotation `aad-version.kms.openbao.org`.
pub const ASSOCIATED_DATA: &str = "associated data";

/// Every format of this release, with its only version.
const OURS: [(&str, &str); 6] = [
    ("state", schema::STATE),
    ("checkpoint", schema::CHECKPOINT),
    ("recovery journal", schema::JOURNAL),
    ("backup record", schema::RECORD),
    (KEY_ID, key_id::PREFIX),
    (ASSOCIATED_DATA, AAD_VERSION_1),
];

impl Formats {
    /// Those of this release.
    #[must_use]
    pub fn ours() -> Self {
        let formats = OURS.map(|(name, version)| Format {
            name: name.to_owned(),
            reads: vec![version.to_owned()],
            writes: version.to_owned(),
        });
        Self {
            formats: formats.into(),
            settings: accepted().collect(),
        }
    }

    /// Whether the release reads this version of the format.
    #[must_use]
    pub fn reads(&self, name: &str, version: &str) -> bool {
        let format = self.formats.iter().find(|format| format.name == name);
        format.is_some_and(|format| format.reads.iter().any(|read| read == version))
    }

    /// Whether the release reads a file of this schema version, of any kind.
    #[must_use]
    pub fn reads_file(&self, version: &str) -> bool {
        let mut read = self.formats.iter().flat_map(|format| &format.reads);
        read.any(|read| read == version)
    }
}
