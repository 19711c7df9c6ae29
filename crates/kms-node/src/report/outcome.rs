//! The result of a command: one model for text, JSON and the HTML page.
//!
//! JSON is one envelope for every command, a compatibility surface: members are added, never renamed
//! or removed. `R` holds the members of one command. [`text`](super::text) and [`html`](super::html)
//! render the same fields.

use std::{fmt, time::SystemTime};

use kms_domain::fingerprint::IdentityFingerprint;
use schemars::JsonSchema;
use serde::Serialize;

use super::{CheckResult, Status, picture::Picture, table::Table};
use crate::{
    advice::{Advice, DataImpact, NextStep},
    build_info::BuildInfo,
    config::Config,
    exit::Exit,
};

/// Verdict of a command whose checks all passed.
pub const PASSED: &str = "passed";
/// Verdict of a command with a failed check.
pub const FAILED: &str = "failed";

/// The result of a command.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Outcome<R = Nothing> {
    schema_version: &'static str,
    pub(super) command: &'static str,
    /// The same as `command`: the member of the reference provider.
    name: &'static str,
    /// Of this program.
    pub(super) version: &'static str,
    /// RFC 3339, whole seconds.
    pub(super) time: String,
    /// Identity of the configuration that was used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) identity_fingerprint: Option<String>,
    pub(super) verdict: &'static str,
    #[serde(skip)]
    exit: Exit,
    pub(super) exit_code: u8,
    /// The verdict in a sentence.
    pub(super) headline: String,
    /// Code of the cause in the catalogue of causes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cause: Option<&'static str>,
    /// The finding that decides, with its values.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) found: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) data: Option<Data>,
    pub(super) next_steps: Vec<NextStep>,
    pub(super) warnings: Vec<String>,
    /// The check to look at first.
    #[serde(skip_serializing_if = "Option::is_none")]
    first_failure: Option<&'static str>,
    pub(super) checks: Vec<CheckResult>,
    /// The members of this command.
    #[serde(flatten)]
    pub result: R,
    /// Facts that the result leaves open.
    pub(super) limitations: Vec<String>,
    /// Options that came from elsewhere than the command line.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    option_sources: Vec<OptionSource>,
    #[serde(skip)]
    pub(super) tables: Vec<Table>,
    /// For the page.
    #[serde(skip)]
    pub picture: Picture,
}

/// An option with the source of its value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct OptionSource {
    /// With its dashes.
    pub option: String,
    pub value: String,
    /// An environment variable, `kubeadm` for its files, or `command line`.
    pub source: &'static str,
}

impl fmt::Display for OptionSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} comes from {}", self.option, self.source)
    }
}

/// No members beside those of every command.
#[derive(Debug, Clone, Copy, Default, Serialize, JsonSchema)]
pub struct Nothing {}

/// Effect on the stored data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Data {
    pub(super) impact: DataImpact,
    pub(super) meaning: String,
}

impl Data {
    /// The meaning without the word of the impact, which stands before it.
    pub(super) fn sentence(&self) -> &str {
        let word = match self.impact {
            DataImpact::NoneLost => return &self.meaning,
            DataImpact::AtRisk => "at risk: ",
            DataImpact::LostWithoutBackup => "lost without a backup: ",
            DataImpact::Unknown => "unknown: ",
        };
        self.meaning.trim_start_matches(word)
    }
}

impl<R> Outcome<R> {
    /// A result without checks: a failure until one passed or [`Self::conclude`] says otherwise.
    pub fn new(command: &'static str, now: SystemTime, result: R) -> Self {
        Self {
            schema_version: "v1",
            command,
            name: command,
            version: BuildInfo::CURRENT.version,
            time: super::rfc3339(now),
            identity_fingerprint: None,
            verdict: FAILED,
            exit: Exit::CheckFailed,
            exit_code: Exit::CheckFailed.code(),
            headline: "no check was made".to_owned(),
            cause: None,
            found: None,
            data: None,
            next_steps: Vec::new(),
            warnings: Vec::new(),
            first_failure: None,
            checks: Vec::new(),
            result,
            limitations: Vec::new(),
            option_sources: Vec::new(),
            tables: Vec::new(),
            picture: Picture::default(),
        }
    }

    /// Names the configuration that was used.
    pub fn identify(&mut self, fingerprint: &IdentityFingerprint) {
        self.identity_fingerprint = Some(fingerprint.to_string());
    }

    /// Names the configuration, if one was given.
    pub fn identify_with(&mut self, config: Option<&Config>) {
        if let Some(config) = config {
            self.identify(&config.fingerprint());
        }
    }

    /// Adds checks after those before.
    pub fn add_checks(&mut self, checks: impl IntoIterator<Item = CheckResult>) {
        self.checks.extend(checks);
        let first = self.failures().next().map(CheckResult::id);
        self.first_failure = first;
    }

    /// Sets verdict, exit code and headline by the checks: a bad configuration before other failures,
    /// and the first failure before those after it.
    pub fn conclude_by_checks(&mut self) {
        let Some(first) = self.failures().next().cloned() else {
            if !self.checks.is_empty() {
                self.conclude(PASSED, Exit::Success, self.passed());
            }
            return;
        };
        let configuration = self.failures().any(|check| check.of_configuration);
        let exit = match configuration {
            true => Exit::Configuration,
            false => Exit::CheckFailed,
        };
        let headline = format!("{}: {}", first.id(), first.found());
        self.conclude(FAILED, exit, headline);
        self.cause = first.advice.as_ref().map(|advice| advice.code);
        if let Some(advice) = &first.advice {
            self.add_advice(advice);
        }
    }

    /// Sets verdict, exit code and headline.
    pub fn conclude(&mut self, verdict: &'static str, exit: Exit, headline: impl Into<String>) {
        self.verdict = verdict;
        self.exit = exit;
        self.exit_code = exit.code();
        self.headline = headline.into();
    }

    /// Sets everything that the catalogue has for the cause: its code is the verdict.
    pub fn conclude_with(&mut self, advice: &Advice) {
        self.conclude(advice.code, advice.exit, advice.headline.clone());
        self.cause = Some(advice.code);
        self.add_advice(advice);
    }

    /// Adds a cause of the verdict: the first one is that of the result.
    pub fn add_cause(&mut self, advice: &Advice) {
        self.cause.get_or_insert(advice.code);
        self.add_advice(advice);
    }

    /// Sets the cause and its effect on the data.
    pub fn set_cause(&mut self, advice: &Advice) {
        self.cause = Some(advice.code);
        self.set_data(advice.impact, advice.data.clone());
    }

    /// Sets the effect on the data, and adds steps and warnings of a cause.
    pub fn add_advice(&mut self, advice: &Advice) {
        if self.data.is_none() {
            self.set_data(advice.impact, advice.data.clone());
        }
        self.add_actions(advice);
    }

    /// Adds steps and warnings of a cause whose effect on the data is that of another.
    pub fn add_actions(&mut self, advice: &Advice) {
        self.add_steps(advice.steps.iter().cloned());
        self.add_warnings(advice.warnings.iter().copied());
    }

    pub fn set_data(&mut self, impact: DataImpact, meaning: impl Into<String>) {
        self.data = Some(Data {
            impact,
            meaning: meaning.into(),
        });
    }

    pub fn set_found(&mut self, found: impl Into<String>) {
        self.found = Some(found.into());
    }

    /// Adds a step after those before, once.
    pub fn add_step(&mut self, step: NextStep) {
        if !self.next_steps.contains(&step) {
            self.next_steps.push(step);
        }
    }

    /// Adds steps after those before, each once.
    pub fn add_steps(&mut self, steps: impl IntoIterator<Item = NextStep>) {
        steps.into_iter().for_each(|step| self.add_step(step));
    }

    /// Adds warnings after those before, each once. A warning is a whole sentence: `do not ...`.
    pub fn add_warnings<W: Into<String>>(&mut self, warnings: impl IntoIterator<Item = W>) {
        for warning in warnings {
            let warning = warning.into();
            if !self.warnings.contains(&warning) {
                self.warnings.push(warning);
            }
        }
    }

    /// Adds facts that the result leaves open, each once.
    pub fn add_limitations<L: Into<String>>(&mut self, limitations: impl IntoIterator<Item = L>) {
        for limitation in limitations {
            let limitation = limitation.into();
            if !self.limitations.contains(&limitation) {
                self.limitations.push(limitation);
            }
        }
    }

    /// Names the options that came from elsewhere than the command line.
    pub fn set_sources(&mut self, sources: &[OptionSource]) {
        let table = Table::of("options", sources)
            .column("option", |it| &it.option)
            .column("value", |it| &it.value)
            .column("source", |it| it.source);
        self.add_table(table.table());
        self.option_sources = sources.to_vec();
    }

    /// Takes over all that a partial result says of the data and of the next steps, its tables and its
    /// picture.
    pub fn take_over<P>(&mut self, part: &Outcome<P>) {
        self.cause = self.cause.or(part.cause);
        self.found = self.found.take().or_else(|| part.found.clone());
        self.data = self.data.take().or_else(|| part.data.clone());
        self.add_steps(part.next_steps.iter().cloned());
        self.add_warnings(part.warnings.iter().cloned());
        self.add_limitations(part.limitations.iter().cloned());
        self.tables.extend(part.tables.iter().cloned());
        self.picture.extend(&part.picture);
    }

    /// Adds a table to the text; a table without rows is left out.
    pub fn add_table(&mut self, table: Table) {
        if !table.is_empty() {
            self.tables.push(table);
        }
    }

    /// Adds tables after those before.
    pub fn add_tables(&mut self, tables: impl IntoIterator<Item = Table>) {
        tables.into_iter().for_each(|table| self.add_table(table));
    }

    pub fn exit(&self) -> Exit {
        self.exit
    }

    pub fn verdict(&self) -> &'static str {
        self.verdict
    }

    pub fn headline(&self) -> &str {
        &self.headline
    }

    pub fn command(&self) -> &'static str {
        self.command
    }

    /// RFC 3339, whole seconds.
    pub fn time(&self) -> &str {
        &self.time
    }

    /// Code of the cause in the catalogue of causes.
    pub fn cause(&self) -> Option<&'static str> {
        self.cause
    }

    pub fn next_steps(&self) -> &[NextStep] {
        &self.next_steps
    }

    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    pub fn checks(&self) -> &[CheckResult] {
        &self.checks
    }

    fn failures(&self) -> impl Iterator<Item = &CheckResult> {
        self.checks.iter().filter(|check| check.failed())
    }

    fn passed(&self) -> String {
        let count = |status| self.checks.iter().filter(|it| it.status == status).count();
        let (passed, skipped, warned) = (
            count(Status::Pass),
            count(Status::Skip),
            count(Status::Warn),
        );
        let mut text = format!("{} passed", super::counted(passed, "check"));
        for (number, word) in [(warned, "warned"), (skipped, "skipped")] {
            if number > 0 {
                text.push_str(&format!(", {number} {word}"));
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use serde_json::{Value, json};

    use super::*;

    fn outcome() -> Outcome {
        let mut outcome = Outcome::new("doctor", UNIX_EPOCH, Nothing {});
        outcome.add_checks([
            CheckResult::pass("a.first", "First"),
            CheckResult::warn("b.second", "Second", "odd").detail("count", 2),
        ]);
        outcome
    }

    #[test]
    fn the_envelope_is_the_same_for_every_command() {
        let mut outcome = outcome();
        outcome.conclude_by_checks();
        let value: Value = serde_json::to_value(&outcome).unwrap();
        assert_eq!(
            value,
            json!({
                "schemaVersion": "v1",
                "command": "doctor",
                "name": "doctor",
                "version": BuildInfo::CURRENT.version,
                "time": "1970-01-01T00:00:00Z",
                "verdict": "passed",
                "exitCode": 0,
                "headline": "1 check passed, 1 warned",
                "nextSteps": [],
                "warnings": [],
                "checks": [
                    {"id": "a.first", "title": "First", "status": "pass"},
                    {"id": "b.second", "title": "Second", "status": "warn", "message": "odd",
                     "details": {"count": 2}},
                ],
                "limitations": [],
            })
        );
    }

    #[test]
    fn a_warning_or_a_skip_does_not_fail_but_no_check_at_all_does() {
        let mut all = outcome();
        all.add_checks([CheckResult::skip("c.third", "Third", "not given")]);
        all.conclude_by_checks();
        assert_eq!(all.exit(), Exit::Success);
        all.add_checks([CheckResult::fail("d.fourth", "Fourth", "broken")]);
        all.conclude_by_checks();
        assert_eq!(all.exit(), Exit::CheckFailed);
        assert_eq!(all.headline(), "d.fourth: broken");
        all.add_checks([CheckResult::fail("e.fifth", "Fifth", "misspelt").of_configuration()]);
        all.conclude_by_checks();
        assert_eq!(all.exit(), Exit::Configuration);
        assert_eq!(all.first_failure, Some("d.fourth"));

        let mut none = Outcome::new("empty", UNIX_EPOCH, Nothing {});
        none.conclude_by_checks();
        assert_eq!(none.exit(), Exit::CheckFailed);
    }
}
