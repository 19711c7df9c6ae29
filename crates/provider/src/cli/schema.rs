//! `schema`: the JSON Schema of each result in JSON, derived from its type. `docs/schema` holds what
//! this prints; a test compares.

use std::io;

use clap::Args;
use schemars::{JsonSchema, Schema, generate::SchemaSettings, transform::RecursiveTransform};

use super::{
    Context, Failure, config, dev, exit::Exit, inspect_state, key_id, record_backup, review,
};
use crate::{
    benchmark::Benchmark,
    build_info::BuildInfo,
    drill::report::DrillReport,
    nodes::report::NodesReport,
    recovery::{pair_report::PairReport, recovery_report::RecoveryReport, scan::Scan},
    report::Report,
    rotation_report::RotationReport,
    telemetry::{health, why::Why},
    triage::report::TriageReport,
};

/// The name of a schema's file, and how it is made.
type Published = (&'static str, fn() -> Schema);

const SCHEMAS: [Published; 20] = [
    ("benchmark", of::<Benchmark>),
    // `verify-key`, `probe` and every other report of checks.
    ("checks", of::<Report>),
    ("compare-nodes", of::<NodesReport>),
    ("config", of::<config::Effective<'_>>),
    ("config-invalid", of::<config::Invalid<'_>>),
    ("dev-once", of::<dev::Summary<'_>>),
    ("dev", of::<dev::Made<'_>>),
    ("drill", of::<DrillReport>),
    ("inspect-state", of::<inspect_state::Inspection>),
    ("key-id", of::<key_id::Derived>),
    ("record-backup", of::<record_backup::Summary>),
    ("recover-state", of::<RecoveryReport>),
    ("scan-etcd", of::<Scan>),
    ("verify-backup", of::<PairReport>),
    // The body of /ready.
    ("ready", of::<health::Ready<'_>>),
    // `retire-versions` and `restore-versions`.
    ("retirement", of::<review::PlanReport>),
    // `rotation-plan` and `verify-rotation`.
    ("rotation", of::<RotationReport>),
    ("triage", of::<TriageReport>),
    ("version", of::<BuildInfo>),
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
        .with_transform(RecursiveTransform(crate::config::refuse_null))
        .into_generator()
        .into_root_schema_for::<T>()
}
