//! What `recover-state` tells: for people the verdict first, then everything that stands against the
//! recovery, each with its next step, or else the state that the evidence leads to.

mod checks;

use std::{
    collections::BTreeMap,
    io::{self, Write},
    path::{Path, PathBuf},
    time::SystemTime,
};

use checks::{Checked, checks};
use kms_domain::{
    key::TransitKey,
    recovery::{
        journal::{Journal, Kept},
        rebuild::{Link, RebuildPlan, Rebuilt, Refusal},
    },
    registry::{RecordState, document::Document},
};
use schemars::JsonSchema;
use serde::Serialize;

use super::recover_state::{Exhibited, Obstacle, Weighed};
use crate::{
    cli::exit::Exit,
    config::Config,
    report::{Render, Report, one_line},
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
    kept_files: Vec<KeptShown>,
    #[serde(skip_serializing_if = "Option::is_none")]
    journal: Option<PathBuf>,
    limitations: Vec<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct RefusalShown {
    code: &'static str,
    /// The files or servers that it is about; empty where it is about none.
    evidence: Vec<String>,
    message: String,
    impact: &'static str,
    next_step: String,
    do_not: &'static str,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct EvidenceShown {
    kind: &'static str,
    name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    sha256: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    revision: Option<u64>,
    /// The highest version that it shows as promoted.
    #[serde(skip_serializing_if = "Option::is_none")]
    active_transit_version: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state_generation: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state_hash: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    required_versions: Vec<Required>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Required {
    transit_version: u64,
    objects: u64,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct StateShown {
    path: PathBuf,
    generation: u64,
    hash: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    previous_hash: Option<String>,
    /// `replaced-state`, `checkpoint`, `evidence` or `none`; absent where it was made by an earlier run.
    #[serde(skip_serializing_if = "Option::is_none")]
    follows: Option<&'static str>,
    active_transit_version: u64,
    active_key_id_hash: String,
    /// The evidence that shows the active version as promoted.
    active_shown_by: Vec<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct VersionShown {
    transit_version: u64,
    state: &'static str,
    key_id_hash: String,
    /// By the name of the etcd source.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    objects: BTreeMap<String, u64>,
    /// Evidence that has it as removed; it decrypts, so it is retired again.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    removed_by: Vec<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct KeptShown {
    file: String,
    kept_as: String,
    sha256: String,
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
    pub fn planned(config: &Config, weighed: &Weighed, now: SystemTime) -> Self {
        match &weighed.plan {
            None => Self::refused(config, weighed, now),
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
                     the same command with --apply --expected-plan-hash {hash}"
                );
                let summary = format!(
                    "this node can have a state again, with version {} active; nothing was changed \
                     yet",
                    plan.next().registry().active().version()
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
        let summary = "the state and its checkpoint are in place".to_owned();
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
            .map(|exhibit| EvidenceShown {
                kind: match exhibit.kind.as_str() {
                    "etcd" => "etcd",
                    "etcd-snapshot" => "etcd-snapshot",
                    "backup-record" => "backup-record",
                    _ => "peer-state",
                },
                name: exhibit.name.clone(),
                sha256: exhibit.sha256.clone(),
                revision: (exhibit.revision > 0).then_some(exhibit.revision),
                active_transit_version: None,
                state_generation: None,
                state_hash: None,
                required_versions: Vec::new(),
            })
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
    pub fn refused(config: &Config, weighed: &Weighed, now: SystemTime) -> Self {
        let obstacles = &weighed.obstacles;
        let undecided = weighed.refusals.is_empty() && obstacles.iter().all(Obstacle::is_undecided);
        let (verdict, summary) = if undecided {
            (
                "inconclusive",
                "not established, so nothing was changed; no data is lost by that",
            )
        } else {
            (
                "refused",
                "this evidence does not lead to a state that is safe to serve with; nothing was \
                 changed, and no data is lost by that",
            )
        };
        let mut report = Self::of(config, weighed, verdict, summary.to_owned(), now);
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
        let refusals = weighed.refusals.iter().map(RefusalShown::refusal);
        Self {
            verdict,
            summary,
            next_steps: Vec::new(),
            do_not: Vec::new(),
            report,
            refusals: obstacles.chain(refusals).collect(),
            evidence: weighed.exhibits.iter().map(EvidenceShown::of).collect(),
            plan_hash: None,
            state: None,
            versions: Vec::new(),
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
        let kept = weighed.remains.iter().flat_map(Remains::kept);
        self.kept_files = kept.map(|kept| KeptShown::of(&kept)).collect();
        self.journal = Some(journal_path(config, plan.hash()));
        self.limitations = plan.limitations().iter().map(ToString::to_string).collect();
    }
}

fn journal_path(config: &Config, plan: &kms_domain::recovery::rebuild::PlanHash) -> PathBuf {
    let directory: &Path = config.state_path.directory();
    directory.join(journal_name(&config.state_path, plan))
}

impl RefusalShown {
    fn obstacle(obstacle: &Obstacle) -> Self {
        Self {
            code: obstacle.code(),
            evidence: obstacle.evidence().into_iter().collect(),
            message: one_line(obstacle),
            impact: obstacle.consequence(),
            next_step: obstacle.next_step().to_owned(),
            do_not: obstacle.do_not(),
        }
    }

    fn refusal(refusal: &Refusal) -> Self {
        Self {
            code: refusal.code(),
            evidence: refusal.evidence().to_vec(),
            message: refusal.to_string(),
            impact: refusal.consequence(),
            next_step: refusal.next_step(),
            do_not: refusal.do_not(),
        }
    }

    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let about = match &*self.evidence {
            [one] => format!("{one}: "),
            _ => String::new(),
        };
        writeln!(out, "refused: [{}] {about}{}", self.code, self.message)?;
        writeln!(out, "    impact: {}", self.impact)?;
        writeln!(out, "    next: {}", self.next_step)?;
        writeln!(out, "    {}", self.do_not)
    }
}

impl EvidenceShown {
    fn of(exhibited: &Exhibited) -> Self {
        let state = exhibited.state.as_ref();
        Self {
            kind: exhibited.kind.as_str(),
            name: exhibited.name.clone(),
            sha256: exhibited.sha256.clone(),
            revision: (exhibited.revision > 0).then_some(exhibited.revision),
            active_transit_version: exhibited.active.map(|version| version.get()),
            state_generation: state.map(|(generation, _)| generation.get()),
            state_hash: state.map(|(_, hash)| hash.to_string()),
            required_versions: exhibited
                .objects
                .iter()
                .map(|(version, &objects)| Required {
                    transit_version: version.get(),
                    objects,
                })
                .collect(),
        }
    }

    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        write!(out, "evidence: {} {}", self.kind, self.name)?;
        if let Some(version) = self.active_transit_version {
            write!(out, " promoted={version}")?;
        }
        if let Some(generation) = self.state_generation {
            write!(out, " generation={generation}")?;
        }
        if let Some(revision) = self.revision {
            write!(out, " revision={revision}")?;
        }
        for required in &self.required_versions {
            write!(
                out,
                " version{}={}",
                required.transit_version, required.objects
            )?;
        }
        if !self.sha256.is_empty() {
            write!(out, " sha256={}", self.sha256)?;
        }
        writeln!(out)
    }
}

impl StateShown {
    fn of(
        config: &Config,
        document: &Document,
        follows: Option<&'static str>,
        shown_by: &[String],
    ) -> Self {
        let active = document.registry().active();
        Self {
            path: config.state_path.document(),
            generation: document.generation().get(),
            hash: document.hash().to_string(),
            previous_hash: document.previous_hash().map(ToString::to_string),
            follows,
            active_transit_version: active.version().get(),
            active_key_id_hash: active.id_hash().to_string(),
            active_shown_by: shown_by.to_vec(),
        }
    }

    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "state: {}", self.path.display())?;
        writeln!(out, "generation: {}", self.generation)?;
        writeln!(out, "stateHash: {}", self.hash)?;
        if let Some(previous) = &self.previous_hash {
            writeln!(out, "previousHash: {previous}")?;
        }
        if let Some(follows) = self.follows {
            writeln!(out, "follows: {follows}")?;
        }
        writeln!(out, "activeTransitVersion: {}", self.active_transit_version)?;
        writeln!(out, "activeKeyIdHash: {}", self.active_key_id_hash)?;
        for name in &self.active_shown_by {
            writeln!(out, "activeShownBy: {name}")?;
        }
        Ok(())
    }
}

impl VersionShown {
    fn of(key: &TransitKey, state: RecordState) -> Self {
        Self {
            transit_version: key.version().get(),
            state: state.as_str(),
            key_id_hash: key.id_hash().to_string(),
            objects: BTreeMap::new(),
            removed_by: Vec::new(),
        }
    }

    fn rebuilt(version: &Rebuilt) -> Self {
        let decrypts = version.state.is_retained();
        let removed_by = version.removed_by().filter(|_| decrypts);
        Self {
            objects: version.objects.iter().cloned().collect(),
            removed_by: removed_by.map(str::to_owned).collect(),
            ..Self::of(&version.key, version.state)
        }
    }

    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        write!(
            out,
            "version {}: {} keyIdHash={}",
            self.transit_version, self.state, self.key_id_hash
        )?;
        for (source, objects) in &self.objects {
            write!(out, ", {objects} objects in {source}")?;
        }
        if !self.removed_by.is_empty() {
            let by = self.removed_by.join(", ");
            write!(out, ", kept though it is removed by {by}: it decrypts")?;
        }
        writeln!(out)
    }
}

impl KeptShown {
    fn of(kept: &Kept) -> Self {
        let Kept {
            file,
            kept_as,
            sha256,
        } = kept.clone();
        Self {
            file,
            kept_as,
            sha256,
        }
    }
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
                writeln!(out, "{not}")?;
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
