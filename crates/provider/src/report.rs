//! The result model of every command and its two renderings.
//!
//! A command makes one value; `--output` chooses between its text for people and its JSON, which
//! is a compatibility surface: members are added, never renamed or removed.

#[cfg(test)]
pub(crate) mod claims;

use std::{
    borrow::Cow,
    error::Error,
    fmt,
    io::{self, Write},
    path::Path,
    time::SystemTime,
};

use jiff::Timestamp;
use kms_domain::fingerprint::IdentityFingerprint;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::{build_info::BuildInfo, cli::exit::Exit};

const CODE: &str = "code";

/// How a result is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Text,
    /// For programs, indented by two spaces.
    Json,
}

/// A result that has both renderings.
pub trait Render: Serialize {
    /// Writes the text for people, with a line feed at the end.
    ///
    /// # Errors
    /// Those of `out`.
    fn text(&self, out: &mut dyn Write) -> io::Result<()>;
}

/// The error and its causes on one line.
#[must_use]
pub fn one_line(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// A step that would make it worse, as text shows it. In data it is a whole sentence, which nobody
/// takes for advice where it stands alone.
pub struct DoNot<'a>(pub &'a str);

impl fmt::Display for DoNot<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "do not: {}",
            self.0.strip_prefix("do not ").unwrap_or(self.0)
        )
    }
}

impl Output {
    /// Writes `result` in this form.
    ///
    /// # Errors
    /// Those of `out`, [`unless_unread`].
    pub fn write(self, result: &impl Render, out: &mut dyn Write) -> io::Result<()> {
        let written = match self {
            Self::Text => result.text(out),
            Self::Json => serde_json::to_writer_pretty(&mut *out, result)
                .map_err(io::Error::from)
                .and_then(|()| writeln!(out)),
        };
        unless_unread(written)
    }
}

/// A reader that has seen enough, such as `head`, changes nothing of what was found, so that the exit
/// code still tells it.
///
/// # Errors
/// Any that there was but for [`io::ErrorKind::BrokenPipe`].
pub fn unless_unread(written: io::Result<()>) -> io::Result<()> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// The checks of one diagnostic command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    schema_version: &'static str,
    /// The same as `name`, which other results of this program do not have.
    command: &'static str,
    name: &'static str,
    /// Of this program.
    version: &'static str,
    /// RFC 3339, whole seconds.
    time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    identity_fingerprint: Option<String>,
    exit_code: u8,
    #[serde(skip)]
    concluded: Option<Exit>,
    /// The check to look at first.
    #[serde(skip_serializing_if = "Option::is_none")]
    first_failure: Option<&'static str>,
    checks: Vec<Check>,
}

/// One question and its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Check {
    id: &'static str,
    title: &'static str,
    status: Status,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    impact: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    impact_class: Option<ImpactClass>,
    #[serde(skip_serializing_if = "Option::is_none")]
    remediation: Option<String>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    details: Map<String, Value>,
    #[serde(skip)]
    of_configuration: bool,
}

/// What is at stake while a finding stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ImpactClass {
    /// Secrecy or integrity of what is encrypted.
    CryptographicSafety,
    /// Stored objects may stay unreadable until a backup is back.
    DataRecovery,
    /// kube-apiserver cannot read or write encrypted objects through this node, now or soon.
    ApiServerAvailability,
    /// Nothing by itself, but something is not known, or will be in the way later.
    Diagnosis,
}

/// The answer. A skipped or absent check is not a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As it should be.
    Pass,
    /// To be looked at; does not fail the command.
    Warn,
    /// Fails the command.
    Fail,
    /// A prerequisite failed or was not given.
    Skip,
}

impl Report {
    /// A report without checks.
    #[must_use]
    pub fn new(name: &'static str, now: SystemTime) -> Self {
        // A clock beyond the calendar is shown as the epoch rather than not at all.
        let time = Timestamp::try_from(now).unwrap_or_default();
        Self {
            schema_version: "v1",
            command: name,
            name,
            version: BuildInfo::CURRENT.version,
            time: time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            identity_fingerprint: None,
            // Nothing asked is a failure.
            exit_code: Exit::CheckFailed.code(),
            concluded: None,
            first_failure: None,
            checks: Vec::new(),
        }
    }

    /// Names the configuration that was checked.
    pub fn identify(&mut self, fingerprint: &IdentityFingerprint) {
        self.identity_fingerprint = Some(fingerprint.to_string());
    }

    /// Adds a check after the others.
    pub fn push(&mut self, check: Check) {
        self.checks.push(check);
        self.exit_code = self.exit().code();
        let first = self.failures().next().map(|check| check.id);
        self.first_failure = first;
    }

    /// Ends the command with this exit code, where a verdict says more than the checks.
    pub fn conclude(&mut self, exit: Exit) {
        self.concluded = Some(exit);
        self.exit_code = exit.code();
    }

    /// Writes the checks as text, for results that begin with more than a name.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn checks_text(&self, out: &mut dyn Write) -> io::Result<()> {
        self.checks.iter().try_for_each(|check| check.text(out))
    }

    /// As [`Self::checks_text`], for readers in a hurry: of what has passed no more than the names,
    /// what was skipped for one cause on one line, and no consequences.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn brief_text(&self, out: &mut dyn Write) -> io::Result<()> {
        let alike = |one: &Check, other: &Check| match (one.status, other.status) {
            (Status::Pass, Status::Pass) => true,
            (Status::Skip, Status::Skip) => one.message == other.message,
            _ => false,
        };
        for group in self.checks.chunk_by(alike) {
            let ids: Vec<_> = group.iter().map(Check::id).collect();
            let ids = ids.join(", ");
            match group {
                [passed, ..] if passed.status == Status::Pass => writeln!(out, "[pass] {ids}")?,
                [one] => one.line(out)?,
                [first, ..] => writeln!(out, "[skip] {ids} - {}", first.found())?,
                [] => {}
            }
        }
        Ok(())
    }

    /// The exit code of the command that reports this: a bad configuration before other failures.
    #[must_use]
    pub fn exit(&self) -> Exit {
        if let Some(exit) = self.concluded {
            exit
        } else if self.failures().any(|check| check.of_configuration) {
            Exit::Configuration
        } else if self.checks.is_empty() || self.failures().next().is_some() {
            Exit::CheckFailed
        } else {
            Exit::Success
        }
    }

    fn failures(&self) -> impl Iterator<Item = &Check> {
        let failed = |check: &&Check| check.status == Status::Fail;
        self.checks.iter().filter(failed)
    }
}

impl Render for Report {
    /// What failed first comes once more at the end, where a terminal shows it.
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{}", self.name)?;
        self.checks_text(out)?;
        let mut failures = self.failures();
        let Some(first) = failures.next() else {
            return Ok(());
        };
        let found = first.message.as_deref().unwrap_or(first.title);
        writeln!(out, "\nfirst failure: {} - {found}", first.id)?;
        first.consequences(out)?;
        let others: Vec<_> = failures.map(Check::label).collect();
        if !others.is_empty() {
            writeln!(out, "    failed too: {}", others.join(", "))?;
        }
        Ok(())
    }
}

impl Check {
    /// As it should be.
    #[must_use]
    pub fn pass(id: &'static str, title: &'static str) -> Self {
        Self::new(id, title, Status::Pass)
    }

    /// To be looked at.
    #[must_use]
    pub fn warn(id: &'static str, title: &'static str, message: impl Into<String>) -> Self {
        Self::new(id, title, Status::Warn).message(message)
    }

    /// Not as it should be.
    #[must_use]
    pub fn fail(id: &'static str, title: &'static str, message: impl Into<String>) -> Self {
        Self::new(id, title, Status::Fail).message(message)
    }

    /// Not asked; `cause` says why.
    #[must_use]
    pub fn skip(id: &'static str, title: &'static str, cause: impl Into<String>) -> Self {
        Self::new(id, title, Status::Skip).message(cause)
    }

    /// What was found.
    #[must_use]
    pub fn message(self, message: impl Into<String>) -> Self {
        Self {
            message: Some(message.into()),
            ..self
        }
    }

    /// What follows from it for the cluster.
    #[must_use]
    pub fn impact(self, impact: impl Into<String>) -> Self {
        Self {
            impact: Some(impact.into()),
            ..self
        }
    }

    /// The class of that.
    #[must_use]
    pub fn impact_class(self, class: ImpactClass) -> Self {
        Self {
            impact_class: Some(class),
            ..self
        }
    }

    /// The fault is one of the configuration, which has an exit code of its own.
    #[must_use]
    pub fn of_configuration(self) -> Self {
        Self {
            of_configuration: true,
            ..self
        }
    }

    /// Tells causes of one check apart, for programs.
    #[must_use]
    pub fn code(self, code: impl Into<String>) -> Self {
        self.detail(CODE, code.into())
    }

    /// What to do.
    #[must_use]
    pub fn remediation(self, remediation: impl Into<String>) -> Self {
        Self {
            remediation: Some(remediation.into()),
            ..self
        }
    }

    /// A fact for programs.
    #[must_use]
    pub fn detail(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.details.insert(name.to_owned(), value.into());
        self
    }

    /// Identifier of the check.
    #[must_use]
    pub fn id(&self) -> &'static str {
        self.id
    }

    /// Whether it is not as it should be.
    #[must_use]
    pub fn failed(&self) -> bool {
        self.status == Status::Fail
    }

    /// What was found, or else what was asked.
    #[must_use]
    pub fn found(&self) -> &str {
        self.message.as_deref().unwrap_or(self.title)
    }

    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> Option<&str> {
        self.remediation.as_deref()
    }

    /// Whether there is such a fact for programs.
    #[must_use]
    pub fn has_detail(&self, name: &str) -> bool {
        self.details.contains_key(name)
    }

    /// The same, where a failure is no more than to be looked at.
    #[must_use]
    pub fn as_warning(self) -> Self {
        Self {
            status: Status::Warn,
            ..self
        }
    }

    /// With the cause, where there are several.
    fn label(&self) -> String {
        match self.cause() {
            Some(cause) => format!("{}/{cause}", self.id),
            None => self.id.to_owned(),
        }
    }

    /// Whether checks that build on it have nothing to ask.
    #[must_use]
    pub fn blocks(&self) -> bool {
        matches!(self.status, Status::Fail | Status::Skip)
    }

    /// What tells this cause from the others of the check.
    #[must_use]
    pub fn cause(&self) -> Option<&str> {
        self.details.get(CODE)?.as_str()
    }

    fn new(id: &'static str, title: &'static str, status: Status) -> Self {
        Self {
            id,
            title,
            status,
            message: None,
            impact: None,
            impact_class: None,
            remediation: None,
            details: Map::new(),
            of_configuration: false,
        }
    }

    /// Writes its lines, for results that are no [`Report`].
    ///
    /// # Errors
    /// Those of `out`.
    pub fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        self.line(out)?;
        self.consequences(out)
    }

    fn line(&self, out: &mut dyn Write) -> io::Result<()> {
        write!(
            out,
            "[{}] {}: {}",
            self.status.as_str(),
            self.id,
            self.title
        )?;
        if let Some(message) = &self.message {
            write!(out, " - {message}")?;
        }
        writeln!(out)
    }

    fn consequences(&self, out: &mut dyn Write) -> io::Result<()> {
        for (label, text) in [("impact", &self.impact), ("next", &self.remediation)] {
            if let Some(text) = text {
                writeln!(out, "    {label}: {text}")?;
            }
        }
        Ok(())
    }
}

impl Status {
    fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Warn => "warn",
            Self::Fail => "fail",
            Self::Skip => "skip",
        }
    }
}

/// The path as one word of a shell, quoted where it needs to be.
#[must_use]
pub fn shell(path: &Path) -> Cow<'_, str> {
    let text = path.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text;
    }
    format!("'{}'", text.replace('\'', r"'\''")).into()
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn a_path_is_one_word_of_a_shell() {
        assert_eq!(shell(Path::new("/etc/a-b_c.yaml")), "/etc/a-b_c.yaml");
        assert_eq!(shell(Path::new("/a b/it's")), r"'/a b/it'\''s'");
    }

    fn report() -> Report {
        let mut report = Report::new("doctor", UNIX_EPOCH);
        report.push(Check::pass("a.first", "First"));
        report.push(Check::warn("b.second", "Second", "odd").detail("count", 2));
        report
    }

    fn written(report: &Report, output: Output) -> String {
        let mut out = Vec::new();
        output.write(report, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn text_is_the_name_and_a_line_a_check() {
        let mut report = report();
        report.push(
            Check::fail("c.third", "Third", "broken")
                .impact("none")
                .remediation("mend"),
        );
        report.push(Check::fail("d.fourth", "Fourth", "gone"));
        assert_eq!(
            written(&report, Output::Text),
            "doctor\n[pass] a.first: First\n[warn] b.second: Second - odd\n\
             [fail] c.third: Third - broken\n    impact: none\n    next: mend\n\
             [fail] d.fourth: Fourth - gone\n\n\
             first failure: c.third - broken\n    impact: none\n    next: mend\n    \
             failed too: d.fourth\n"
        );
    }

    #[test]
    fn json_keeps_the_four_members_of_a_check_and_leaves_out_what_is_not_there() {
        let value: Value = serde_json::from_str(&written(&report(), Output::Json)).unwrap();
        assert_eq!(value["name"], "doctor");
        assert_eq!(value["time"], "1970-01-01T00:00:00Z");
        assert_eq!(
            value["checks"],
            serde_json::json!([
                {"id": "a.first", "title": "First", "status": "pass"},
                {"id": "b.second", "title": "Second", "status": "warn", "message": "odd",
                 "details": {"count": 2}},
            ])
        );
    }

    #[test]
    fn a_warning_or_a_skip_does_not_fail_but_no_check_at_all_does() {
        let mut report = report();
        report.push(Check::skip("c.third", "Third", "not given"));
        assert_eq!(report.exit(), Exit::Success);
        report.push(Check::fail("d.fourth", "Fourth", "broken"));
        assert_eq!(report.exit(), Exit::CheckFailed);
        report.push(Check::fail("e.fifth", "Fifth", "misspelt").of_configuration());
        assert_eq!(report.exit(), Exit::Configuration);
        assert_eq!(report.first_failure, Some("d.fourth"));
        assert_eq!(Report::new("empty", UNIX_EPOCH).exit(), Exit::CheckFailed);
    }
}
