//! What `retire-versions` and `restore-versions` share: a plan to review, and its application to
//! exactly the state that was reviewed.

use std::{
    io::{self, Write},
    sync::Arc,
};

use clap::Args;
use kms_domain::{
    key::TransitKey,
    registry::{
        document::StateHash,
        retire::{LIMITATIONS, Operation},
    },
};
use schemars::JsonSchema;
use serde::Serialize;

use super::{
    Context, Failure, OutputFlag, etcd_source::EvidenceFlags, exit::Exit, progress::ProgressLine,
};
use crate::{
    recovery::{
        evidence::{Asked, EvidenceSources},
        retirement_report::{EvidenceShown, Findings, NeededBy, OlderRevisions},
    },
    report::Render,
    retirement::{self, Outcome, Wanted},
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
    pub(super) fn run(
        self,
        context: &mut Context<'_>,
        wanted: &Wanted,
        etcd: Option<&EvidenceFlags>,
    ) -> Result<Exit, Failure> {
        let config = context.load()?.config;
        config.auth.jwt_file()?;
        let sources = match etcd {
            Some(flags) => EvidenceSources::new(flags.sources()?, flags.prefix()),
            None => None,
        };
        let progress = ProgressLine::new("reading etcd");
        let on_progress = |done| progress.show(done);
        let evidence = sources.as_ref().map(|sources| Asked {
            sources,
            on_progress: &on_progress,
        });
        let outcome = match &self.expected_state_hash {
            None => retirement::plan(&config, wanted, evidence)?,
            Some(reviewed) => retirement::apply(&config, wanted, reviewed, evidence)?,
        };
        drop(progress);
        let report = PlanReport::of(&outcome, &context.typed);
        self.output.output.write(&report, context.out)?;
        Ok(outcome
            .findings
            .as_ref()
            .map_or(Exit::Success, Findings::exit))
    }
}

/// A plan, and what came of it.
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
    limitations: String,
    /// What was not looked at again before a version was removed.
    #[serde(skip_serializing_if = "Option::is_none")]
    not_checked: Option<&'static str>,
    next_step: String,
    /// Where etcd was read.
    #[serde(flatten)]
    evidence: Option<EvidenceShown>,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Version {
    transit_version: u64,
    key_id_hash: String,
    /// The objects that need it; absent where etcd was not read.
    #[serde(skip_serializing_if = "Option::is_none")]
    needed_by: Option<Vec<NeededBy>>,
    /// What was under it before, and is not compacted yet; absent where etcd was not read.
    #[serde(skip_serializing_if = "Option::is_none")]
    older_revisions: Option<Vec<OlderRevisions>>,
}

const NOT_CHECKED: &str = "No etcd was read with --apply, so it was not checked that no object and \
    no backup needs these versions, whatever the plan was reviewed with.";

impl PlanReport {
    /// `command` is what `--apply` completes to the command that carries the plan out.
    fn of(outcome: &Outcome, command: &str) -> Self {
        let Outcome {
            plan,
            findings,
            applied,
        } = outcome;
        let operation = plan.operation();
        let blind = *applied && findings.is_none() && !plan.removed().is_empty();
        let versions = |keys: &[Arc<TransitKey>]| {
            let shown = keys.iter().map(|key| Version::of(key, findings.as_ref()));
            shown.collect()
        };
        Self {
            schema_version: "v1",
            command: operation.as_str(),
            operation: operation.as_str(),
            applied: *applied,
            before_version: match operation {
                Operation::Retire { before } => before.get(),
                Operation::Restore => 0,
            },
            state_hash: plan.state_hash().to_string(),
            next_state_hash: plan.next().hash().to_string(),
            next_generation: plan.next().generation().get(),
            active_key_id_hash: plan.next().registry().active().id_hash().to_string(),
            removed_versions: versions(plan.removed()),
            restored_versions: versions(plan.restored()),
            limitations: match findings {
                Some(findings) => findings.limitations(),
                None => LIMITATIONS.to_owned(),
            },
            not_checked: blind.then_some(NOT_CHECKED),
            next_step: next_step(outcome, command),
            evidence: findings.as_ref().map(|findings| findings.shown(plan)),
        }
    }
}

fn next_step(outcome: &Outcome, command: &str) -> String {
    let Outcome {
        plan,
        findings,
        applied,
    } = outcome;
    let against = findings.as_ref().and_then(|it| it.next_step(plan));
    if let Some(step) = against {
        return step;
    }
    if plan.next().hash() == plan.state_hash() {
        return "none: no version is affected and the state stays as it is".to_owned();
    }
    if *applied {
        return "start the provider again, then do the same on the other nodes, each with a plan \
                of its own"
            .to_owned();
    }
    format!(
        "review the versions; then stop the provider of this node and run \
         `{command} --apply --expected-state-hash {}`",
        plan.state_hash()
    )
}

impl Version {
    fn of(key: &TransitKey, findings: Option<&Findings>) -> Self {
        let version = key.version();
        Self {
            transit_version: version.get(),
            key_id_hash: key.id_hash().to_string(),
            needed_by: findings.map(|findings| findings.needed_by(version)),
            older_revisions: findings.map(|findings| findings.older_revisions(version)),
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
                let needed = version.needed_by.iter().flatten();
                needed.into_iter().try_for_each(|row| row.text(out))?;
                let older = version.older_revisions.iter().flatten();
                older.into_iter().try_for_each(|row| row.text(out))?;
            }
        }
        if let Some(evidence) = &self.evidence {
            evidence.text(out)?;
        }
        writeln!(out, "limitations: {}", self.limitations)?;
        if let Some(not_checked) = self.not_checked {
            writeln!(out, "notChecked: {not_checked}")?;
        }
        writeln!(out, "next: {}", self.next_step)?;
        match &self.evidence {
            Some(evidence) => evidence.do_not_text(out),
            None => Ok(()),
        }
    }
}

fn state_hash(text: &str) -> Result<StateHash, &'static str> {
    StateHash::parse(text).map_err(|_| "must be krs1. and 43 characters, as the plan shows it")
}
