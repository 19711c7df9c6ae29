//! Common part of `retire-versions` and `restore-versions`: a plan for review, and its application
//! to exactly the reviewed state.

use std::{collections::BTreeMap, sync::Arc};

use clap::Args;
use kms_domain::{
    key::TransitKey,
    registry::{document::StateHash, retire::Operation},
};
use kms_node::{
    advice::{
        Cause, Site,
        retirement::{APPLIED, PLANNED, UNCHECKED, UNCHECKED_LIMITATION},
    },
    clock::{Clock as _, SystemClock},
    config::Config,
    report::{outcome, table::Table},
};
use kms_operator::{
    attestation::statement::{Findings, Role, VersionRow},
    diagnose::node::become_provider,
    recovery::{
        evidence::{Asked, EvidenceSources},
        evidence_report::{self, Asker},
        retirement_report::{self, EvidenceRow, NeededBy, OlderRevisions},
    },
    retirement::{self, Outcome, Wanted},
};
use schemars::JsonSchema;
use serde::Serialize;

use super::{
    Context, Exit, Failure, OutputFlag,
    attest_flags::{AttestFlags, attest},
    etcd_source::EvidenceFlags,
    openbao_flags::TokenFlags,
    progress::reading,
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
    token: TokenFlags,
    #[command(flatten)]
    output: OutputFlag,
}

impl Review {
    pub(super) fn run(
        self,
        context: &mut Context<'_>,
        wanted: &Wanted,
        etcd: Option<&EvidenceFlags>,
        statement: &AttestFlags,
    ) -> Result<Exit, Failure> {
        self.token.apply(context);
        let loaded = context.load()?;
        let config = &loaded.config;
        config.auth.supported()?;
        let sources = etcd.map(EvidenceFlags::evidence).transpose()?.flatten();
        let attestor = statement.attestor(config)?;
        become_owner(config);
        if let Some(attestor) = &attestor {
            attestor.require_writable()?;
        }
        let mut findings = Findings::default();
        if attestor.is_some() {
            findings.add_sources(sources.iter().flat_map(EvidenceSources::iter));
        }
        let outcome = reading(|on_progress| {
            let evidence = sources.as_ref().map(|sources| Asked {
                sources,
                on_progress,
            });
            Ok::<_, Failure>(match &self.expected_state_hash {
                None => retirement::plan(config, wanted, evidence)?,
                Some(reviewed) => retirement::apply(config, wanted, reviewed, evidence)?,
            })
        })?;

        const APPLYING: [(&str, bool); 2] = [("--apply", false), ("--expected-state-hash", true)];
        let bounded = [&APPLYING[..], &[("--etcd-prefix-only", false)]].concat();
        let asker = Asker {
            site: Site::new(&loaded.path, Some(config)),
            again: &context.typed_without(&APPLYING),
            unbounded: &context.typed_without(&bounded),
        };
        let mut result = shown(&outcome, asker);
        result.identify(&config.fingerprint());
        result.set_sources(&context.sources);
        let shown = self.output.show(&result, context);
        if attestor.is_some() {
            findings.add_path(Role::RegistryState, &config.state_path.document());
            findings.add_versions(retired(&outcome));
        }
        attest(attestor.as_ref(), config, &result, findings, shown)
    }
}

/// The versions that are retired, with the objects that need them.
fn retired(outcome: &Outcome) -> impl Iterator<Item = VersionRow> {
    outcome.plan.removed().iter().map(|key| VersionRow {
        transit_version: Some(key.version().get()),
        key_id_hash: Some(key.id_hash().to_string()),
        objects: outcome.findings.as_ref().map(|findings| {
            let mut sources: BTreeMap<String, u64> = BTreeMap::new();
            for needed in findings.needed_by(key.version()) {
                let sum = sources.entry(needed.source).or_default();
                *sum = sum.saturating_add(needed.objects);
            }
            sources.into_values().max().unwrap_or_default()
        }),
        ..VersionRow::default()
    })
}

/// Root has opened the evidence, and goes on as the owner of the state, who alone may write it.
/// Without the privilege to change the user, plans still work, and a write names both users.
pub(super) fn become_owner(config: &Config) {
    become_provider(config).ok();
}

/// The members of a plan and its result.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Retirement {
    operation: &'static str,
    /// Whether the state equals `nextStateHash`.
    applied: bool,
    /// 0 for a restoration.
    before_version: u64,
    state_hash: String,
    next_state_hash: String,
    next_generation: u64,
    active_key_id_hash: String,
    removed_versions: Vec<Version>,
    restored_versions: Vec<Version>,
    /// Present if a version was removed without a reading of etcd.
    #[serde(skip_serializing_if = "Option::is_none")]
    not_checked: Option<&'static str>,
    /// Results from etcd, if it was read.
    #[serde(flatten)]
    evidence: Option<EvidenceRow>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Version {
    transit_version: u64,
    key_id_hash: String,
    /// Objects that need this version; absent without a reading of etcd.
    #[serde(skip_serializing_if = "Option::is_none")]
    needed_by: Option<Vec<NeededBy>>,
    /// Superseded revisions with this version, before compaction; absent without a reading of etcd.
    #[serde(skip_serializing_if = "Option::is_none")]
    older_revisions: Option<Vec<OlderRevisions>>,
}

const NOT_CHECKED: &str = "No etcd was read with --apply, so it was not checked that no object and \
    no backup needs these versions, whatever the plan was reviewed with.";

/// The result of a plan or its application.
fn shown(outcome: &Outcome, asker: Asker<'_>) -> outcome::Outcome<Retirement> {
    let Outcome {
        plan,
        findings,
        applied,
    } = outcome;
    let findings = findings.as_ref();
    let operation = plan.operation();
    let command = match operation {
        Operation::Retire { .. } => "retire-versions",
        Operation::Restore => "restore-versions",
    };
    let blind = *applied && findings.is_none() && !plan.removed().is_empty();
    let versions = |keys: &[Arc<TransitKey>]| {
        let shown = keys.iter().map(|key| Version::of(key, findings));
        shown.collect()
    };
    let members = Retirement {
        operation: command,
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
        not_checked: blind.then_some(NOT_CHECKED),
        evidence: findings.map(retirement_report::Findings::shown),
    };

    let unchanged = plan.next().hash() == plan.state_hash();
    let without_evidence = matches!(operation, Operation::Retire { .. }) && findings.is_none();
    let forbidden = findings.and_then(|findings| findings.advise(plan, asker));
    let (verdict, headline, cause): (_, _, Option<&Cause>) = match (unchanged, *applied) {
        (true, _) => (
            "unchanged",
            "no version is affected, and the state stays as it is",
            None,
        ),
        (false, true) => (
            "applied",
            "the state was changed as planned",
            Some(&APPLIED),
        ),
        (false, false) if without_evidence => (
            "planned",
            "a plan without etcd data; nothing was changed yet",
            Some(&UNCHECKED),
        ),
        (false, false) => (
            "planned",
            "the plan can be applied; nothing was changed yet",
            Some(&PLANNED),
        ),
    };
    let tables = members.tables();
    let mut result = outcome::Outcome::new(command, SystemClock.now(), members);
    if let Some(findings) = findings {
        result.add_checks(findings.checks(plan, asker));
    }
    match findings {
        Some(findings) => {
            let headline = match forbidden.is_none() && *applied {
                true => format!("{headline}: {}", findings.headline()),
                false => findings.headline().to_owned(),
            };
            result.conclude(findings.verdict.as_str(), findings.exit(), headline);
        }
        None => result.conclude(verdict, Exit::Success, headline),
    }
    match (forbidden, cause) {
        (Some(advice), _) => {
            result.set_cause(&advice);
            result.add_actions(&advice);
        }
        (None, Some(cause)) => {
            let hash = vec![("hash", plan.state_hash().to_string())];
            let advice = asker.advise(cause, &hash);
            if without_evidence && !*applied {
                result.set_cause(&advice);
            }
            result.add_actions(&advice);
        }
        (None, None) => {}
    }
    result.add_tables(tables);
    match findings {
        Some(findings) => result.add_limitations(findings.limitations()),
        None => result.add_limitations([UNCHECKED_LIMITATION]),
    }
    result.add_limitations(blind.then_some(NOT_CHECKED));
    result
}

impl Retirement {
    fn tables(&self) -> Vec<Table> {
        let mut plan = Table::new("plan", ["fact", "value"]);
        plan.facts("applied", [self.applied]);
        plan.facts(
            "beforeVersion",
            Some(self.before_version).filter(|it| *it > 0),
        );
        plan.facts("stateHash", [&self.state_hash]);
        plan.facts("nextStateHash", [&self.next_state_hash]);
        plan.facts("nextGeneration", [self.next_generation]);
        plan.facts("activeKeyIdHash", [&self.active_key_id_hash]);
        plan.facts("confidence", self.evidence.as_ref().map(|it| it.confidence));
        let mut tables = vec![
            plan,
            table_of("versions to remove", &self.removed_versions),
            table_of("versions to restore", &self.restored_versions),
        ];
        if let Some(evidence) = &self.evidence {
            tables.extend(evidence_report::tables(&evidence.sources));
        }
        tables
    }
}

/// A row for each resource that needs a version, or one for a version without any.
fn table_of(title: &str, versions: &[Version]) -> Table {
    let columns = [
        "version",
        "key_id hash",
        "needed by",
        "older revisions",
        "source",
    ];
    let mut table = Table::new(title, columns);
    for version in versions {
        let number = version.transit_version.to_string();
        let hash = version.key_id_hash.as_str();
        let needed = version.needed_by.as_deref().unwrap_or_default();
        let older = version.older_revisions.as_deref().unwrap_or_default();
        if needed.is_empty() && older.is_empty() {
            table.row([&*number, hash]);
        }
        for NeededBy {
            source,
            resource,
            objects,
        } in needed
        {
            table.row([&*number, hash, &format!("{resource} {objects}"), "", source]);
        }
        for OlderRevisions {
            source,
            resource,
            revisions,
        } in older
        {
            table.row([
                &*number,
                hash,
                "",
                &format!("{resource} {revisions}"),
                source,
            ]);
        }
    }
    table
}

impl Version {
    fn of(key: &TransitKey, findings: Option<&retirement_report::Findings>) -> Self {
        let version = key.version();
        Self {
            transit_version: version.get(),
            key_id_hash: key.id_hash().to_string(),
            needed_by: findings.map(|findings| findings.needed_by(version)),
            older_revisions: findings.map(|findings| findings.older_revisions(version)),
        }
    }
}

fn state_hash(text: &str) -> Result<StateHash, &'static str> {
    StateHash::parse(text).map_err(|_| "must be krs1. and 43 characters, as the plan shows it")
}
