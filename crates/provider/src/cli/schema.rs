//! `schema`: the JSON Schema of each result in JSON, derived from its type. `docs/schema` holds what
//! this prints; a test compares.

use std::io;

use clap::Args;
use kms_daemon::telemetry::health;
use kms_extract::report::Extract;
use kms_node::{report::outcome::Outcome, why::Why};
use kms_operator::{
    attestation::{history::History, statement::Statement, verification::VerifyAttestation},
    benchmark::Benchmark,
    drill::report::Drill,
    nodes::report::Nodes,
    recovery::{
        backups::report::Backups, pair_report::VerifyBackup, recovery_report::Recovery,
        scan::ScanEtcd,
    },
    rotation_report::Rotation,
    triage::report::Triage,
};
use schemars::{JsonSchema, Schema, generate::SchemaSettings, transform::RecursiveTransform};
use serde_json::{Value, json};

use super::{
    Context, Exit, Failure, config, dev, failure::Failed, init, inspect_state, key_id, node,
    record_backup, review, support_bundle, version,
};

/// The name of a schema's file, and how it is made.
type Published = (&'static str, fn() -> Schema);

const SCHEMAS: [Published; 31] = [
    // The signed content of a file of --attest.
    ("attestation", of::<Statement>),
    ("backups", of::<Outcome<Backups>>),
    ("benchmark", of::<Outcome<Benchmark>>),
    // `doctor`, `verify-key` and `probe`.
    ("checks", of::<Outcome>),
    ("compare-nodes", of::<Outcome<Nodes>>),
    ("config", of::<Outcome<config::Effective<'_>>>),
    (
        "config-migrate",
        of::<Outcome<config::migrate::Migration<'_>>>,
    ),
    ("dev-once", of::<Outcome<dev::Summary<'_>>>),
    ("dev", of::<Outcome<dev::Made<'_>>>),
    ("drill", of::<Outcome<Drill>>),
    ("drill-history", of::<Outcome<History>>),
    ("extract", of::<Outcome<Extract>>),
    // A command that ends without a result.
    ("failure", of::<Outcome<Failed<'_>>>),
    ("init", of::<Outcome<init::Init>>),
    ("inspect-state", of::<Outcome<inspect_state::Inspection>>),
    ("key-id", of::<Outcome<key_id::Derived>>),
    // `node prepare`, `node start` and `node remove`; `node check` has that of `checks`.
    ("node", of::<Outcome<node::Node>>),
    ("record-backup", of::<Outcome<record_backup::RecordBackup>>),
    ("recover-state", of::<Outcome<Recovery>>),
    ("scan-etcd", of::<Outcome<ScanEtcd>>),
    ("verify-attestation", of::<Outcome<VerifyAttestation>>),
    ("verify-backup", of::<Outcome<VerifyBackup>>),
    // The body of /ready.
    ("ready", of::<health::Ready<'_>>),
    // `retire-versions` and `restore-versions`.
    ("retirement", of::<Outcome<review::Retirement>>),
    (
        "rewrite",
        of::<Outcome<kms_cluster::rewrite::report::Rewrite>>,
    ),
    (
        "rollout",
        of::<Outcome<kms_cluster::rollout::report::Rollout>>,
    ),
    // `rotation-plan` and `verify-rotation`.
    ("rotation", of::<Outcome<Rotation>>),
    // Also `manifest.json` in the archive.
    ("support-bundle", of::<Outcome<support_bundle::Bundle>>),
    ("triage", of::<Outcome<Triage>>),
    ("version", of::<Outcome<version::Build>>),
    // The body of /why.
    ("why", of::<Why>),
];

/// Print the JSON Schema of a result, or without NAME the names
#[derive(Debug, Args)]
pub(super) struct Options {
    #[arg(value_parser = SCHEMAS.map(|(name, _)| name))]
    name: Option<String>,
}

impl Options {
    pub(super) fn run(self, context: &mut Context<'_>) -> Result<Exit, Failure> {
        for (name, schema) in SCHEMAS {
            match &self.name {
                None => writeln!(context.out, "{name}")?,
                Some(asked) if asked == name => {
                    serde_json::to_writer_pretty(&mut *context.out, &schema())
                        .map_err(io::Error::from)?;
                    writeln!(context.out)?;
                }
                Some(_) => {}
            }
        }
        Ok(Exit::Success)
    }
}

/// Of what is written: a member that is left out when empty is optional.
fn of<T: JsonSchema>() -> Schema {
    SchemaSettings::draft2020_12()
        .for_serialize()
        .with_transform(RecursiveTransform(refuse_null))
        .into_generator()
        .into_root_schema_for::<T>()
}

/// An optional member may be absent, and is never null.
fn refuse_null(schema: &mut Schema) {
    let Some(object) = schema.as_object_mut() else {
        return;
    };
    if let Some(Value::Array(types)) = object.get_mut("type") {
        types.retain(|name| name != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            object.insert("type".to_owned(), only);
        }
    }
    if let Some(Value::Array(branches)) = object.get_mut("anyOf") {
        branches.retain(|branch| *branch != json!({"type": "null"}));
        if let [Value::Object(only)] = branches.as_slice() {
            let only = only.clone();
            object.remove("anyOf");
            for (keyword, value) in only {
                object.entry(keyword).or_insert(value);
            }
        }
    }
    // The format that schemars gives to Rust integers says nothing to other readers.
    object.remove("format");
}
