//! What `recover-state` tells: for people the verdict first, then everything that stands against the
//! recovery, each with its next step, or else the state that the evidence leads to.

mod checks;
mod shown;

use std::{
    io::{self, Write},
    path::PathBuf,
    time::SystemTime,
};

use checks::{Checked, checks};
use kms_domain::{
    recovery::{
        journal::Journal,
        rebuild::{Link, PlanHash, RebuildPlan, Refusal, Unreadable},
    },
    registry::document::Document,
};
use schemars::JsonSchema;
use serde::Serialize;
use shown::{EvidenceShown, KeptShown, RefusalShown, StateShown, UnreadableShown, VersionShown};

use super::recover_state::{Obstacle, Weighed};
use crate::{
    cli::exit::Exit,
    config::Config,
    report::{DoNot, Render, Report},
    state::rebuild::{Remains, journal_name},
};

const NAME: &str = "recover-state";

/// The result of `recover-state`.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RecoveryReport {
    /// `planned`, `applied`, `continued`, `refused` or `inconclusive`.
    verdict: &'static str,
    summary: String,
    next_steps: Vec<String>,
    do_not: Vec<&'static str>,
    #[serde(flatten)]
    report: Report,
    /// Everything that stands against a recovery.
    refusals: Vec<RefusalShown>,
    evidence: Vec<EvidenceShown>,
    #[serde(skip_serializing_if = "Option::is_none")]
    plan_hash: Option<String>,
    /// The state that the plan leads to, or that is in place now.
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<StateShown>,
    versions: Vec<VersionShown>,
    /// Objects that stay unreadable; a plan has only those that were accepted.
    unreadable: Vec<UnreadableShown>,
    kept_files: Vec<KeptShown>,
    #[serde(skip_serializing_if = "Option::is_none")]
    journal: Option<PathBuf>,
    limitations: Vec<String>,
}

/// The command line that asked for a report.
#[derive(Debug)]
pub struct Typed {
    /// All of it.
    pub whole: String,
    /// Without the flags that apply a plan, sample, or accept unreadable objects.
    pub planning: String,
}

const AFTER: &str = "start the provider; then compare `inspect-state` and the active key_id with \
     those of a peer, and run verify-backup with this etcd";
const KEEP: &str = "do not delete the state, the checkpoint, the lock file or the key";

impl RecoveryReport {
    /// The exit code of the command.
    #[must_use]
    pub fn exit(&self) -> Exit {
        self.report.exit()
    }

    /// Before anything was changed.
    #[must_use]
    pub fn planned(config: &Config, weighed: &Weighed, typed: &Typed, now: SystemTime) -> Self {
        match &weighed.plan {
            None => Self::refused(config, weighed, typed, now),
            Some(plan) => {
                let stop = match &weighed.holder {
                    Some(holder) => format!(
                        "with process {} ({}) stopped, which holds the state, ",
                        holder.pid, holder.program
                    ),
                    None => "with the provider of this node stopped, ".to_owned(),
                };
                let hash = plan.hash();
                let apply = format!(
                    "review evidence, versions and limitations; then, {stop}run \
                     `{} --apply --expected-plan-hash {hash}`",
                    typed.whole
                );
                let summary = format!(
                    "this node can have a state again, with version {} active{}; nothing was changed \
                     yet",
                    plan.next().registry().active().version(),
                    but_unreadable(plan)
                );
                let mut report = Self::of(config, weighed, "planned", summary, now);
                report.add_plan(config, weighed, plan);
                report.next_steps = vec![apply];
                report.do_not = vec![KEEP];
                report.report.conclude(Exit::Success);
                report
            }
        }
    }

    /// When the state is in place.
    #[must_use]
    pub fn applied(config: &Config, weighed: &Weighed, now: SystemTime) -> Self {
        let unreadable = weighed.plan.as_ref().map_or(String::new(), but_unreadable);
        let summary = format!("the state and its checkpoint are in place{unreadable}");
        let mut report = Self::of(config, weighed, "applied", summary, now);
        if let Some(plan) = &weighed.plan {
            report.add_plan(config, weighed, plan);
        }
        report.next_steps = vec![AFTER.to_owned()];
        report.do_not = vec![KEEP];
        report.report.conclude(Exit::Success);
        report
    }

    /// When an earlier run had put the state in place.
    #[must_use]
    pub fn continued(
        config: &Config,
        document: &Document,
        journal: &Journal,
        now: SystemTime,
    ) -> Self {
        let summary = format!(
            "the state of this very plan was in place already, since {}; its checkpoint is too",
            journal.recovered_at
        );
        let mut report = Self::of(config, &Weighed::default(), "continued", summary, now);
        report.report = Report::new(NAME, now);
        report.report.identify(&config.fingerprint());
        report.plan_hash = Some(journal.plan.to_string());
        report.state = Some(StateShown::of(config, document, None, &[]));
        report.versions = document
            .registry()
            .records()
            .iter()
            .map(|record| VersionShown::of(&record.key, record.state))
            .collect();
        report.evidence = journal
            .evidence
            .iter()
            .map(EvidenceShown::exhibit)
            .collect();
        report.kept_files = journal.kept.iter().map(KeptShown::of).collect();
        report.journal = Some(journal_path(config, &journal.plan));
        report.limitations = journal.limitations.clone();
        report.next_steps = vec![AFTER.to_owned()];
        report.do_not = vec![KEEP];
        report.report.conclude(Exit::Success);
        report
    }

    /// When nothing was or can be done.
    #[must_use]
    pub fn refused(config: &Config, weighed: &Weighed, typed: &Typed, now: SystemTime) -> Self {
        let obstacles = &weighed.obstacles;
        let undecided = weighed.refusals.is_empty() && obstacles.iter().all(Obstacle::is_undecided);
        let (verdict, summary) = if undecided {
            ("inconclusive", "not established, so nothing was changed")
        } else {
            ("refused", "no state was made, and nothing was changed")
        };
        let mut report = Self::of(config, weighed, verdict, summary.to_owned(), now);
        let refusals = weighed.refusals.iter();
        let refusals = refusals.map(|it| RefusalShown::refusal(it, accepting(it, weighed, typed)));
        report.refusals.extend(refusals);
        let unreadable = weighed.unreadable.iter();
        report.unreadable = unreadable.map(UnreadableShown::of).collect();
        for refusal in &report.refusals {
            if !report.next_steps.contains(&refusal.next_step) {
                report.next_steps.push(refusal.next_step.clone());
            }
            if !report.do_not.contains(&refusal.do_not) {
                report.do_not.push(refusal.do_not);
            }
        }
        if undecided {
            report.report.conclude(Exit::Runtime);
        }
        report
    }

    fn of(
        config: &Config,
        weighed: &Weighed,
        verdict: &'static str,
        summary: String,
        now: SystemTime,
    ) -> Self {
        let mut report = Report::new(NAME, now);
        report.identify(&config.fingerprint());
        for check in checks(Checked { config, weighed }) {
            report.push(check);
        }
        let obstacles = weighed.obstacles.iter().map(RefusalShown::obstacle);
        Self {
            verdict,
            summary,
            next_steps: Vec::new(),
            do_not: Vec::new(),
            report,
            refusals: obstacles.collect(),
            evidence: weighed.exhibits.iter().map(EvidenceShown::of).collect(),
            plan_hash: None,
            state: None,
            versions: Vec::new(),
            unreadable: Vec::new(),
            kept_files: Vec::new(),
            journal: None,
            limitations: Vec::new(),
        }
    }

    fn add_plan(&mut self, config: &Config, weighed: &Weighed, plan: &RebuildPlan) {
        let follows = match plan.link() {
            Link::Replaced => "replaced-state",
            Link::Checkpoint => "checkpoint",
            Link::Evidence(_) => "evidence",
            Link::Nothing => "none",
        };
        let shown_by = plan.active_shown_by();
        self.plan_hash = Some(plan.hash().to_string());
        self.state = Some(StateShown::of(config, plan.next(), Some(follows), shown_by));
        self.versions = plan.versions().iter().map(VersionShown::rebuilt).collect();
        // With names, which a plan has like its evidence.
        self.unreadable = plan.unreadable().iter().map(UnreadableShown::of).collect();
        let kept = weighed.remains.iter().flat_map(Remains::kept);
        self.kept_files = kept.map(|kept| KeptShown::of(&kept)).collect();
        self.journal = Some(journal_path(config, plan.hash()));
        self.limitations = plan.limitations().iter().map(ToString::to_string).collect();
    }
}

/// The headline's part about accepted objects.
fn but_unreadable(plan: &RebuildPlan) -> String {
    let unreadable = plan.unreadable().iter().map(Unreadable::objects);
    match unreadable.fold(0, u64::saturating_add) {
        0 => String::new(),
        objects => format!("; {objects} objects stay unreadable, as accepted"),
    }
}

/// The next step of a refusal that concerns the acceptance of unreadable objects, as a command.
fn accepting(refusal: &Refusal, weighed: &Weighed, typed: &Typed) -> Option<String> {
    let planning = &typed.planning;
    match refusal {
        Refusal::Unreadable { sampled: true, .. } => Some(format!(
            "try all encrypted DEKs, which tells the exact number: `{planning}`"
        )),
        Refusal::Unreadable { objects, .. } => {
            let others = weighed
                .refusals
                .iter()
                .any(|it| !it.is_settled_by_acceptance());
            Some(match others || !weighed.obstacles.is_empty() {
                true => format!(
                    "settle the other refusals first; if the {objects} objects are lost for good, \
                     the next plan offers to accept them"
                ),
                false => format!(
                    "restore the storage or the backup that has them; only if they are lost for \
                     good, review the lines `unreadable` and make the plan without them: \
                     `{planning} --accept-unreadable {objects}`"
                ),
            })
        }
        Refusal::AcceptanceIdle { .. } => Some(format!("make a new plan: `{planning}`")),
        _ => None,
    }
}

fn journal_path(config: &Config, plan: &PlanHash) -> PathBuf {
    let directory = config.state_path.directory();
    directory.join(journal_name(&config.state_path, plan))
}

impl Render for RecoveryReport {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{NAME}: {}", self.verdict)?;
        writeln!(out, "{}", self.summary)?;
        if self.refusals.is_empty() {
            for step in &self.next_steps {
                writeln!(out, "next: {step}")?;
            }
            for not in &self.do_not {
                writeln!(out, "{}", DoNot(not))?;
            }
        }
        for refusal in &self.refusals {
            refusal.text(out)?;
        }
        writeln!(out)?;
        for evidence in &self.evidence {
            evidence.text(out)?;
        }
        if let Some(hash) = &self.plan_hash {
            writeln!(out, "planHash: {hash}")?;
        }
        if let Some(state) = &self.state {
            state.text(out)?;
        }
        for version in &self.versions {
            version.text(out)?;
        }
        for unreadable in &self.unreadable {
            unreadable.text(out)?;
        }
        for kept in &self.kept_files {
            writeln!(out, "kept: {} as {}", kept.file, kept.kept_as)?;
        }
        if let Some(journal) = &self.journal {
            writeln!(out, "journal: {}", journal.display())?;
        }
        writeln!(out)?;
        self.report.checks_text(out)?;
        for limitation in &self.limitations {
            writeln!(out, "limitation: {limitation}")?;
        }
        Ok(())
    }
}
