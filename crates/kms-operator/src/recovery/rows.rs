//! Rows common to several reports. Comments on the types would be texts of their schemas.

use std::collections::BTreeMap;

use kms_domain::{
    recovery::{pair::Proof, record::FileInfo},
    transit::TransitVersion,
};
use schemars::JsonSchema;
use serde::Serialize;

// Attempts by outcome.
#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
pub struct Tried {
    pub proven: u64,
    pub failed: u64,
    pub untried: u64,
}

// A file of a backup set.
#[derive(Debug, Serialize, JsonSchema)]
pub struct FileRow {
    pub sha256: String,
    pub bytes: u64,
}

// A version of the key, and the number of objects that need it.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Required {
    pub transit_version: u64,
    pub objects: u64,
}

impl From<Proof> for Tried {
    fn from(proof: Proof) -> Self {
        let Proof {
            proven,
            failed,
            untried,
        } = proof;
        Self {
            proven,
            failed,
            untried,
        }
    }
}

impl From<&FileInfo> for FileRow {
    fn from(file: &FileInfo) -> Self {
        Self {
            sha256: file.sha256_hex(),
            bytes: file.bytes,
        }
    }
}

impl Required {
    #[must_use]
    pub fn rows(objects: &BTreeMap<TransitVersion, u64>) -> Vec<Self> {
        let rows = objects.iter().map(|(version, &objects)| Self {
            transit_version: version.get(),
            objects,
        });
        rows.collect()
    }
}
