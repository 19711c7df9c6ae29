//! What `retire-versions` and `restore-versions` share: a plan to review, and its application to
//! exactly the state that was reviewed.

use std::io::{self, Write};

use clap::Args;
use kms_domain::{
    key::TransitKey,
    registry::{
        document::StateHash,
        retire::{LIMITATIONS, Operation, Plan},
    },
};
use schemars::JsonSchema;
use serde::Serialize;

use super::{Context, Failure, OutputFlag, exit::Exit};
use crate::{
    report::Render,
    retirement::{self, Wanted},
};

#[derive(Debug, Args)]
pub(super) struct Review {
    /// Carry the plan out; the provider must be stopped
    #[arg(long, requires = "expected_state_hash")]
    apply: bool,
    /// The stateHash of the plan that was reviewed
    #[arg(long, value_name = "HASH", requires = "apply", value_parser = state_hash)]
    expected_state_hash: Option<StateHash>,
    #[command(flatten)]
    output: OutputFlag,
}

impl Review {
    /// `command` is how the same is asked for again.
    pub(super) fn run(
        self,
        context: &mut Context<'_>,
        wanted: &Wanted,
        command: &str,
    ) -> Result<Exit, Failure> {
        let config = context.load()?.config;
        config.auth.jwt_file()?;
        let report = match &self.expected_state_hash {
            None => {
                let mut command = command.to_owned();
                if let Some(path) = &context.flags.config {
                    command.push_str(&format!(" --config {}", path.display()));
                }
                PlanReport::of(&retirement::plan(&config, wanted)?, Some(&command))
            }
            Some(reviewed) => {
                PlanReport::of(retirement::apply(&config, wanted, reviewed)?.plan(), None)
            }
        };
        self.output.output.write(&report, context.out)?;
        Ok(Exit::Success)
    }
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct PlanReport {
    schema_version: &'static str,
    command: &'static str,
    operation: &'static str,
    /// The state has become the one of `nextStateHash`, or was already.
    applied: bool,
    /// 0 for a restoration.
    before_version: u64,
    state_hash: String,
    next_state_hash: String,
    next_generation: u64,
    active_key_id_hash: String,
    removed_versions: Vec<Version>,
    restored_versions: Vec<Version>,
    limitations: &'static str,
    next_step: String,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Version {
    transit_version: u64,
    key_id_hash: String,
}

impl PlanReport {
    /// `to_apply` is the command of a plan that has not been carried out.
    fn of(plan: &Plan, to_apply: Option<&str>) -> Self {
        let operation = plan.operation();
        let changes = plan.next().hash() != plan.state_hash();
        let next_step = match (to_apply, changes) {
            (_, false) => "none: no version is affected and the state stays as it is".to_owned(),
            (None, true) => "start the provider again, then do the same on the other nodes, each \
                             with a plan of its own"
                .to_owned(),
            (Some(command), true) => format!(
                "review the versions; then stop the provider of this node and run \
                 `bao-kms-provider {command} --apply --expected-state-hash {}`",
                plan.state_hash()
            ),
        };
        Self {
            schema_version: "v1",
            command: operation.as_str(),
            operation: operation.as_str(),
            applied: to_apply.is_none(),
            before_version: match operation {
                Operation::Retire { before } => before.get(),
                Operation::Restore => 0,
            },
            state_hash: plan.state_hash().to_string(),
            next_state_hash: plan.next().hash().to_string(),
            next_generation: plan.next().generation().get(),
            active_key_id_hash: plan.next().registry().active().id_hash().to_string(),
            removed_versions: plan.removed().iter().map(|key| Version::of(key)).collect(),
            restored_versions: plan.restored().iter().map(|key| Version::of(key)).collect(),
            limitations: LIMITATIONS,
            next_step,
        }
    }
}

impl Version {
    fn of(key: &TransitKey) -> Self {
        Self {
            transit_version: key.version().get(),
            key_id_hash: key.id_hash().to_string(),
        }
    }
}

impl Render for PlanReport {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "operation: {}", self.operation)?;
        writeln!(out, "applied: {}", self.applied)?;
        writeln!(out, "beforeVersion: {}", self.before_version)?;
        writeln!(out, "stateHash: {}", self.state_hash)?;
        writeln!(out, "nextStateHash: {}", self.next_state_hash)?;
        writeln!(out, "nextGeneration: {}", self.next_generation)?;
        writeln!(out, "activeKeyIdHash: {}", self.active_key_id_hash)?;
        for (verb, versions) in [
            ("remove", &self.removed_versions),
            ("restore", &self.restored_versions),
        ] {
            for version in versions {
                writeln!(
                    out,
                    "{verb}: transitVersion={} keyIdHash={}",
                    version.transit_version, version.key_id_hash
                )?;
            }
        }
        writeln!(out, "limitations: {}", self.limitations)?;
        writeln!(out, "nextStep: {}", self.next_step)
    }
}

fn state_hash(text: &str) -> Result<StateHash, &'static str> {
    StateHash::parse(text).map_err(|_| "must be krs1. and 43 characters, as the plan shows it")
}
