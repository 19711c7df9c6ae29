//! `key-id`: what the formats say about one key version, computed from the configuration alone.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    sync::Arc,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use clap::Args;
use kms_domain::{
    key::{KeyScope, TransitKey},
    prepare::{Preview, preview},
    transit::{CreatedAt, TransitVersion},
};
use schemars::JsonSchema;
use serde::Serialize;

use super::{Context, Failure, OutputFlag, exit::Exit};
use crate::{build_info::BuildInfo, report::Render};

/// Show the key_id, annotations and associated data of a key version, without any connection
///
/// Version and creation time are those in OpenBao's key metadata:
/// `bao read -field=keys <mount>/keys/<key>`. Compare the result between nodes, or with what
/// is stored in etcd.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// Transit key version, from 1
    #[arg(long, value_name = "N", value_parser = version)]
    version: TransitVersion,
    /// When that version was made, in whole seconds after the Unix epoch
    #[arg(long, value_name = "SECONDS", value_parser = created_at)]
    created_at: CreatedAt,
    #[command(flatten)]
    output: OutputFlag,
}

impl Options {
    pub(super) fn run(self, context: &mut Context<'_>) -> Result<Exit, Failure> {
        let config = context.load()?.config;
        let fingerprint = config.fingerprint();
        let scope = Arc::new(KeyScope::new(config.scope));
        let key = TransitKey::new(scope, self.version, self.created_at);
        let Preview {
            annotations,
            associated_data,
        } = preview(&key, &BuildInfo::CURRENT.plugin_version());
        let derived = Derived {
            identity_fingerprint: fingerprint.to_string(),
            transit_version: key.version().get(),
            transit_version_created_at_unix: key.created_at().get(),
            key_id: key.id().to_string(),
            key_id_hash: key.id_hash().to_string(),
            annotations: annotations.entries().into_iter().collect(),
            associated_data_base64: STANDARD.encode(&associated_data),
            associated_data,
        };
        self.output.output.write(&derived, context.out)?;
        Ok(Exit::Success)
    }
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Derived {
    identity_fingerprint: String,
    transit_version: u64,
    transit_version_created_at_unix: u64,
    key_id: String,
    key_id_hash: String,
    annotations: BTreeMap<&'static str, String>,
    associated_data: String,
    /// As Transit gets it.
    associated_data_base64: String,
}

impl Render for Derived {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "identityFingerprint: {}", self.identity_fingerprint)?;
        writeln!(out, "transitVersion: {}", self.transit_version)?;
        writeln!(
            out,
            "transitVersionCreatedAtUnix: {}",
            self.transit_version_created_at_unix
        )?;
        writeln!(out, "keyId: {}", self.key_id)?;
        writeln!(out, "keyIdHash: {}", self.key_id_hash)?;
        writeln!(out, "annotations:")?;
        for (name, value) in &self.annotations {
            writeln!(out, "  {name}: {value}")?;
        }
        writeln!(out, "associatedData: {}", self.associated_data)?;
        writeln!(out, "associatedDataBase64: {}", self.associated_data_base64)
    }
}

fn version(text: &str) -> Result<TransitVersion, &'static str> {
    number(text)
        .and_then(TransitVersion::new)
        .ok_or("must be a number from 1 up")
}

fn created_at(text: &str) -> Result<CreatedAt, &'static str> {
    number(text)
        .and_then(CreatedAt::new)
        .ok_or("must be whole seconds after the Unix epoch, from 1 up")
}

fn number(text: &str) -> Option<u64> {
    text.parse().ok()
}
