//! The result of `recover-state`: the plan, or the findings that block it, each with its advice.

mod causes;
mod checks;
mod rows;

use std::{path::PathBuf, time::SystemTime};

pub use causes::Typed;
use causes::{Advisor, Values};
use checks::checks;
use kms_domain::{
    recovery::{
        journal::Journal,
        rebuild::{Link, PlanHash, RebuildPlan, Unreadable},
    },
    registry::document::Document,
};
use kms_node::{
    advice::{
        Cause, DataImpact, Site,
        restore::{PLANNED, REBUILT, limitation},
    },
    config::Loaded,
    exit::Exit,
    report::{counted, outcome::Outcome, table::Table},
    state::rebuild::{Remains, journal_name},
};
use rows::{EvidenceRow, KeptRow, RefusalRow, StateRow, UnreadableRow, VersionRow};
use schemars::JsonSchema;
use serde::Serialize;

use super::recover_state::{InputError, Weighed};

const NAME: &str = "recover-state";

/// The members of `recover-state`. Its verdict is `planned`, `applied`, `continued`, `refused` or
/// `inconclusive`.
#[derive(Debug, Default, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Recovery {
    /// Findings that block a plan.
    refusals: Vec<RefusalRow>,
    evidence: Vec<EvidenceRow>,
    #[serde(skip_serializing_if = "Option::is_none")]
    plan_hash: Option<String>,
    /// The state that the plan leads to, or that is in place now.
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<StateRow>,
    versions: Vec<VersionRow>,
    /// Objects that stay unreadable; a plan has only those that were accepted.
    unreadable: Vec<UnreadableRow>,
    kept_files: Vec<KeptRow>,
    #[serde(skip_serializing_if = "Option::is_none")]
    journal: Option<PathBuf>,
}

/// The run that a result is about.
#[derive(Debug, Clone, Copy)]
pub struct Run<'a> {
    pub loaded: &'a Loaded,
    pub typed: &'a Typed,
    pub now: SystemTime,
}

impl Run<'_> {
    /// Before anything was changed.
    #[must_use]
    pub fn planned(self, weighed: &Weighed) -> Outcome<Recovery> {
        let Some(plan) = &weighed.plan else {
            return self.refused(weighed);
        };
        let headline = format!(
            "this node can have a state again, with version {} active{}; nothing was changed yet",
            plan.next().registry().active().version(),
            but_unreadable(plan)
        );
        let values = vec![("plan_hash", plan.hash().to_string())];
        self.done("planned", headline, weighed, (&PLANNED, values))
    }

    /// When the state is in place.
    #[must_use]
    pub fn applied(self, weighed: &Weighed) -> Outcome<Recovery> {
        let unreadable = weighed.plan.as_ref().map_or(String::new(), but_unreadable);
        let headline = format!("the state and its checkpoint are in place{unreadable}");
        self.done("applied", headline, weighed, (&REBUILT, Vec::new()))
    }

    /// When an earlier run had put the state in place.
    #[must_use]
    pub fn continued(self, document: &Document, journal: &Journal) -> Outcome<Recovery> {
        let config = &self.loaded.config;
        let records = document.registry().records().iter();
        let recovery = Recovery {
            plan_hash: Some(journal.plan.to_string()),
            state: Some(StateRow::of(config, document, None, &[])),
            versions: records
                .map(|record| VersionRow::of(&record.key, record.state))
                .collect(),
            evidence: journal.evidence.iter().map(EvidenceRow::item).collect(),
            kept_files: journal.kept.iter().cloned().map(KeptRow::of).collect(),
            journal: Some(self.journal(&journal.plan)),
            ..Recovery::default()
        };
        let headline = format!(
            "the state of this very plan was in place already, since {}; its checkpoint is too",
            journal.recovered_at
        );
        let mut outcome = self.outcome(recovery);
        outcome.conclude("continued", Exit::Success, headline);
        let weighed = Weighed::default();
        outcome.add_actions(&self.advisor(&weighed).of_plan(&REBUILT, Vec::new()));
        outcome.add_limitations(journal.limitations.iter().cloned());
        outcome
    }

    /// When nothing was or can be done.
    #[must_use]
    pub fn refused(self, weighed: &Weighed) -> Outcome<Recovery> {
        let findings = self.advisor(weighed).findings();
        let recovery = Recovery {
            refusals: findings.iter().map(RefusalRow::of).collect(),
            evidence: weighed.items.iter().map(EvidenceRow::of).collect(),
            unreadable: weighed.unreadable.iter().map(UnreadableRow::of).collect(),
            ..Recovery::default()
        };

        let mut outcome = self.outcome(recovery);
        outcome.add_checks(checks(&self.loaded.config, weighed, &findings));
        outcome.conclude_by_checks();
        let undecided =
            weighed.refusals.is_empty() && weighed.obstacles.iter().all(InputError::is_undecided);
        match undecided {
            true => outcome.conclude(
                "inconclusive",
                Exit::Runtime,
                "the evidence was not read completely, so nothing was changed",
            ),
            false => outcome.conclude(
                "refused",
                outcome.exit(),
                "no state was made, and nothing was changed",
            ),
        }
        // The worst finding decides what is at stake; each of them has steps.
        let advice = || findings.iter().map(|it| &it.advice);
        if let Some(worst) = advice().min_by_key(|it| rank(it.impact)) {
            outcome.set_cause(worst);
        }
        advice().for_each(|it| outcome.add_actions(it));
        outcome
    }

    fn done(
        self,
        verdict: &'static str,
        headline: String,
        weighed: &Weighed,
        (cause, values): (&Cause, Values),
    ) -> Outcome<Recovery> {
        let mut recovery = Recovery {
            evidence: weighed.items.iter().map(EvidenceRow::of).collect(),
            ..Recovery::default()
        };
        if let Some(plan) = &weighed.plan {
            let kept = weighed.remains.iter().flat_map(Remains::kept);
            let shown_by = plan.active_shown_by();
            let follows = match plan.link() {
                Link::Replaced => "replaced-state",
                Link::Checkpoint => "checkpoint",
                Link::Evidence(_) => "evidence",
                Link::Nothing => "none",
            };
            let config = &self.loaded.config;
            recovery = Recovery {
                plan_hash: Some(plan.hash().to_string()),
                state: Some(StateRow::of(config, plan.next(), Some(follows), shown_by)),
                versions: plan.versions().iter().map(VersionRow::rebuilt).collect(),
                // With names, which a plan has like its evidence.
                unreadable: plan.unreadable().iter().map(UnreadableRow::of).collect(),
                kept_files: kept.map(KeptRow::of).collect(),
                journal: Some(self.journal(plan.hash())),
                ..recovery
            };
        }
        let mut outcome = self.outcome(recovery);
        outcome.add_checks(checks(&self.loaded.config, weighed, &[]));
        outcome.conclude(verdict, Exit::Success, headline);
        outcome.add_actions(&self.advisor(weighed).of_plan(cause, values));
        let limitations = weighed.plan.iter().flat_map(RebuildPlan::limitations);
        outcome.add_limitations(limitations.map(limitation));
        outcome
    }

    fn outcome(self, recovery: Recovery) -> Outcome<Recovery> {
        let tables = recovery.tables();
        let mut outcome = Outcome::new(NAME, self.now, recovery);
        outcome.identify(&self.loaded.config.fingerprint());
        outcome.add_tables(tables);
        outcome
    }

    fn advisor<'a>(&'a self, weighed: &'a Weighed) -> Advisor<'a> {
        Advisor {
            site: Site::new(&self.loaded.path, Some(&self.loaded.config)),
            typed: self.typed,
            weighed,
        }
    }

    fn journal(&self, plan: &PlanHash) -> PathBuf {
        let state = &self.loaded.config.state_path;
        state.directory().join(journal_name(state, plan))
    }
}

impl Recovery {
    fn tables(&self) -> [Table; 6] {
        let mut plan = Table::new("plan", ["fact", "value"]);
        plan.facts("planHash", &self.plan_hash);
        if let Some(state) = &self.state {
            state.rows(&mut plan);
        }
        plan.facts("journal", self.journal.as_ref().map(|it| it.display()));
        let kept = self.kept_files.iter();
        plan.facts(
            "keptAs",
            kept.map(|it| format!("{} as {}", it.file, it.kept_as)),
        );
        [
            rows::refusals(&self.refusals),
            plan,
            rows::versions(&self.versions),
            rows::unreadable(&self.unreadable),
            rows::names(&self.unreadable),
            rows::evidence(&self.evidence),
        ]
    }
}

/// The worst impact first.
fn rank(impact: DataImpact) -> u8 {
    match impact {
        DataImpact::LostWithoutBackup => 0,
        DataImpact::Unknown => 1,
        DataImpact::AtRisk => 2,
        DataImpact::NoneLost => 3,
    }
}

/// The headline's part about accepted objects.
fn but_unreadable(plan: &RebuildPlan) -> String {
    let unreadable = plan.unreadable().iter().map(Unreadable::objects);
    match unreadable.fold(0, u64::saturating_add) {
        0 => String::new(),
        objects => format!("; {}, as accepted", stay_unreadable(objects)),
    }
}

fn stay_unreadable(objects: u64) -> String {
    let stay = if objects == 1 { "stays" } else { "stay" };
    format!("{} {stay} unreadable", counted(objects, "object"))
}
