//! `key-id`: the stored forms of one key version, computed from the configuration alone.

use std::{collections::BTreeMap, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use clap::Args;
use kms_domain::{
    key::{KeyScope, TransitKey},
    prepare::{Preview, preview},
    transit::{CreatedAt, TransitVersion},
};
use kms_node::{
    build_info::BuildInfo,
    clock::{Clock as _, SystemClock},
    report::{
        outcome::{Outcome, PASSED},
        table::Table,
        utc,
    },
};
use schemars::JsonSchema;
use serde::Serialize;

use super::{Context, Exit, Failure, OutputFlag};

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
            transit_version: key.version().get(),
            transit_version_created_at_unix: key.created_at().get(),
            transit_version_created_at: utc(key.created_at().get()),
            key_id: key.id().to_string(),
            key_id_hash: key.id_hash().to_string(),
            annotations: annotations.entries().into_iter().collect(),
            associated_data_base64: STANDARD.encode(&associated_data),
            associated_data,
        };
        let facts = derived.facts(fingerprint.as_str());
        let headline = derived.key_id.clone();
        let mut outcome = Outcome::new("key-id", SystemClock.now(), derived);
        outcome.identify(&fingerprint);
        outcome.conclude(PASSED, Exit::Success, headline);
        outcome.add_table(facts);
        self.output.show(&outcome, context)
    }
}

/// The members of `key-id`.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Derived {
    transit_version: u64,
    transit_version_created_at_unix: u64,
    /// The same in RFC 3339.
    transit_version_created_at: String,
    key_id: String,
    key_id_hash: String,
    annotations: BTreeMap<&'static str, String>,
    associated_data: String,
    /// As Transit gets it.
    associated_data_base64: String,
}

impl Derived {
    fn facts(&self, fingerprint: &str) -> Table {
        let mut facts = Table::new("key version", ["name", "value"]);
        facts.facts("identityFingerprint", [fingerprint]);
        facts.facts("transitVersion", [self.transit_version]);
        let created_at = self.transit_version_created_at_unix;
        facts.facts("transitVersionCreatedAtUnix", [created_at]);
        let created_at = &self.transit_version_created_at;
        facts.facts("transitVersionCreatedAt", [created_at]);
        facts.facts("keyIdHash", [&self.key_id_hash]);
        for (name, value) in &self.annotations {
            facts.facts(name, [value]);
        }
        facts.facts("associatedData", [&self.associated_data]);
        facts.facts("associatedDataBase64", [&self.associated_data_base64]);
        facts
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
