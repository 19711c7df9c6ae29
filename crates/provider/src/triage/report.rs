//! What `triage` tells: for a tired person the verdict first, then what it means for the data, what to
//! do and what not to do; below it how far the walk came.

use std::{
    io::{self, Write},
    path::Path,
};

use schemars::JsonSchema;
use serde::Serialize;

use super::{
    advice::{Case, do_not, next_steps},
    evidence::shows_the_key,
    verdict::{DataImpact, Verdict},
};
use crate::{
    cli::exit::Exit,
    diagnose::facts::Facts,
    report::{Check, DoNot, Render, Report},
};

/// The result of `triage`.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TriageReport {
    verdict: Verdict,
    /// What is broken.
    summary: &'static str,
    /// By what it shows; absent when nothing is broken.
    #[serde(skip_serializing_if = "Option::is_none")]
    found: Option<String>,
    data: Data,
    next_steps: Vec<String>,
    do_not: Vec<&'static str>,
    /// The check at which the walk ended; absent when it came to its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    stopped_at: Option<&'static str>,
    #[serde(flatten)]
    report: Report,
    limitations: Vec<&'static str>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Data {
    impact: DataImpact,
    meaning: &'static str,
}

impl TriageReport {
    /// Puts the end of the walk into words. `report` has every check.
    #[must_use]
    pub fn new(
        stopped: Option<(Verdict, Check)>,
        facts: &Facts,
        config_path: &Path,
        mut report: Report,
    ) -> Self {
        let (verdict, stopped_at) = match &stopped {
            Some((verdict, check)) => (*verdict, Some(check)),
            None => (Verdict::Healthy, None),
        };
        report.conclude(verdict.exit());
        let case = Case {
            facts,
            config_path,
            stopped_at,
        };
        Self {
            verdict,
            summary: verdict.headline(),
            found: stopped_at.map(|check| check.found().to_owned()),
            data: Data::of(verdict, facts),
            next_steps: next_steps(verdict, &case),
            do_not: do_not(verdict),
            stopped_at: stopped_at.map(Check::id),
            limitations: limitations(verdict, facts),
            report,
        }
    }

    /// The exit code of the command.
    #[must_use]
    pub fn exit(&self) -> Exit {
        self.report.exit()
    }
}

impl Data {
    fn of(verdict: Verdict, facts: &Facts) -> Self {
        let impact = verdict.data();
        // Only the name of the key and its version numbers were seen.
        if impact == DataImpact::NoneLost && verdict.rests_on_the_key() && !shows_the_key(facts) {
            return Self {
                impact: DataImpact::Unknown,
                meaning: KEY_NOT_SHOWN,
            };
        }
        Self {
            impact,
            meaning: verdict.meaning(),
        }
    }
}

const KEY_NOT_SHOWN: &str = "not known: OpenBao has a key of that name, and nothing that was looked \
    at shows that it is the one that data was encrypted with. Give --etcd-snapshot or --endpoints";

/// What the verdict does not say.
fn limitations(verdict: Verdict, facts: &Facts) -> Vec<&'static str> {
    let mut all = Vec::new();
    let mut add = |applies: bool, text| all.extend(applies.then_some(text));
    add(
        verdict != Verdict::Healthy,
        "Only the first thing that is broken is named; nothing is known of what comes after it.",
    );
    // Before the key was looked at, the first says it all.
    let key_seen = facts.usable_key().is_some();
    add(
        key_seen && facts.etcd.is_empty(),
        "No etcd data was tried, so nothing shows that the key decrypts all that is stored. Give \
         --etcd-snapshot or --endpoints.",
    );
    add(
        key_seen && facts.etcd.is_empty() && facts.record.is_none() && facts.registry().is_none(),
        "With neither state nor record nor etcd data nothing shows that this key is the one that \
         data was encrypted with.",
    );
    add(
        !facts.etcd.is_empty(),
        "No object was opened: what was moved or changed in etcd goes unnoticed. verify-backup \
         --depth data opens every one.",
    );
    add(true, "Only this node was looked at.");
    all
}

impl Render for TriageReport {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "triage: {}", self.verdict.as_str())?;
        writeln!(out, "{}", self.summary)?;
        if let Some(found) = &self.found {
            writeln!(out, "found: {found}")?;
        }
        let Data { impact, meaning } = &self.data;
        writeln!(out, "data: {} - {meaning}", impact.as_str())?;
        for step in &self.next_steps {
            writeln!(out, "next: {step}")?;
        }
        for not in &self.do_not {
            writeln!(out, "{}", DoNot(not))?;
        }
        writeln!(out)?;
        match self.verdict {
            Verdict::Healthy => self.report.checks_text(out)?,
            _ => self.report.brief_text(out)?,
        }
        for limitation in &self.limitations {
            writeln!(out, "limitation: {limitation}")?;
        }
        Ok(())
    }
}
