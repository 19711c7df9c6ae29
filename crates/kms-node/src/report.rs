//! The result model of every command and its renderings.
//!
//! A command makes one value; `--output` chooses between its text for people and its JSON, which
//! is a compatibility surface: members are added, never renamed or removed.

pub mod html;
pub mod outcome;
pub mod picture;
pub mod table;
pub mod text;

use std::{
    borrow::Cow,
    fmt,
    io::{self, Write},
    time::SystemTime,
};

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::advice::{Advice, NextStep};
pub use crate::{advice::site::shell, error_chain::one_line};
use outcome::Outcome;
use text::Look;

const CODE: &str = "code";

/// How a result is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Output {
    /// Text for a terminal
    #[default]
    Text,
    /// One JSON document, indented by two spaces
    Json,
    /// The same document as YAML
    Yaml,
}

/// Whether a terminal or a browser would obey the character instead of showing it: a control character, or
/// one that reorders text. Names of files and of objects may contain them.
fn is_obeyed(c: char) -> bool {
    let reorders = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    (c.is_control() && c != '\n' && c != '\t') || reorders
}

/// The text for a terminal, with escapes in place of characters that it would obey.
#[must_use]
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(is_obeyed) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match is_obeyed(c) {
            true => escaped.extend(c.escape_unicode()),
            false => escaped.push(c),
        }
    }
    Cow::Owned(escaped)
}

/// A number with its noun: `1 object`, `2 objects`.
#[must_use]
pub fn counted<N: fmt::Display + PartialEq + From<u8>>(number: N, noun: &str) -> String {
    let plural = if number == N::from(1) { "" } else { "s" };
    format!("{number} {noun}{plural}")
}

/// Unix seconds in RFC 3339; a number beyond the calendar stays one.
#[must_use]
pub fn utc(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok();
    let time = time.and_then(|seconds| Timestamp::from_second(seconds).ok());
    time.map_or_else(|| format!("second {seconds}"), |time| time.to_string())
}

/// A time in RFC 3339, in whole seconds; one beyond the calendar is shown as the epoch.
#[must_use]
pub fn rfc3339(time: SystemTime) -> String {
    let time = Timestamp::try_from(time).unwrap_or_default();
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

struct StepText<'a> {
    text: &'a str,
    command: Option<&'a str>,
}

impl Output {
    /// Writes the result of a command in this form.
    ///
    /// # Errors
    /// Those of `out`, without a broken pipe.
    pub fn write<R: Serialize>(
        self,
        outcome: &Outcome<R>,
        look: Look,
        out: &mut dyn Write,
    ) -> io::Result<()> {
        let written = match self {
            Self::Text => outcome.text(look, out),
            Self::Json => serde_json::to_writer_pretty(&mut *out, outcome)
                .map_err(io::Error::from)
                .and_then(|()| writeln!(out)),
            Self::Yaml => serde_saphyr::to_string(outcome)
                .map_err(io::Error::other)
                .and_then(|text| write!(out, "---\n{text}")),
        };
        ignore_broken_pipe(written)
    }
}

/// A reader that has seen enough, such as `head`, changes nothing of what was found, so that the exit
/// code still tells it.
///
/// # Errors
/// Any that there was but for [`io::ErrorKind::BrokenPipe`].
pub fn ignore_broken_pipe(written: io::Result<()>) -> io::Result<()> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// Identifier and title of a check. Stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckName(pub &'static str, pub &'static str);

impl CheckName {
    /// As it should be.
    #[must_use]
    pub fn pass(self) -> CheckResult {
        CheckResult::pass(self.0, self.1)
    }

    /// To be looked at.
    #[must_use]
    pub fn warn(self, message: impl Into<String>) -> CheckResult {
        CheckResult::warn(self.0, self.1, message)
    }

    /// Not as it should be.
    #[must_use]
    pub fn fail(self, message: impl Into<String>) -> CheckResult {
        CheckResult::fail(self.0, self.1, message)
    }

    /// Not asked; `cause` says why.
    #[must_use]
    pub fn skip(self, cause: impl Into<String>) -> CheckResult {
        CheckResult::skip(self.0, self.1, cause)
    }
}

/// One question and its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CheckResult {
    id: &'static str,
    title: &'static str,
    status: Status,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    impact: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    impact_class: Option<ImpactClass>,
    /// The next steps in one text.
    #[serde(skip_serializing_if = "Option::is_none")]
    remediation: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    next_steps: Vec<NextStep>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    details: Map<String, Value>,
    #[serde(skip)]
    of_configuration: bool,
    #[serde(skip)]
    advice: Option<Advice>,
}

/// Class of the risk of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ImpactClass {
    /// Secrecy or integrity of encrypted data.
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

impl CheckResult {
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

    #[must_use]
    pub fn message(self, message: impl Into<String>) -> Self {
        Self {
            message: Some(message.into()),
            ..self
        }
    }

    /// Effect on the cluster.
    #[must_use]
    pub fn impact(self, impact: impl Into<String>) -> Self {
        Self {
            impact: Some(impact.into()),
            ..self
        }
    }

    /// The finding of a command that has not compared the key with the stored data.
    #[must_use]
    pub fn without_the_key(mut self) -> Self {
        if let Some(advice) = &mut self.advice {
            advice.without_the_key();
            self.impact = Some(advice.data.clone());
        }
        self
    }

    /// The cause in the catalogue: its code, its effect on the data, its steps.
    #[must_use]
    pub fn because(self, advice: Advice) -> Self {
        let texts = advice.steps.iter().map(|step| match &step.command {
            Some(command) => format!("{}: {command}", step.text),
            None => step.text.clone(),
        });
        let remediation = texts.collect::<Vec<_>>().join("; ");
        let check = Self {
            impact: Some(advice.data.clone()),
            remediation: (!remediation.is_empty()).then_some(remediation),
            next_steps: advice.steps.clone(),
            ..self
        };
        let check = check.code(advice.code);
        Self {
            advice: Some(advice),
            ..check
        }
    }

    /// The steps to take, of the catalogue or of the check itself.
    #[must_use]
    pub fn next_steps(&self) -> Vec<NextStep> {
        let step = |step: StepText<'_>| NextStep {
            text: step.text.to_owned(),
            command: step.command.map(str::to_owned),
        };
        self.steps().map(step).collect()
    }

    fn steps(&self) -> impl Iterator<Item = StepText<'_>> {
        let own = self.remediation.as_deref();
        let own = own.filter(|_| self.next_steps.is_empty());
        let own = own.map(|text| StepText {
            text,
            command: None,
        });
        let listed = self.next_steps.iter().map(|step| StepText {
            text: &step.text,
            command: step.command.as_deref(),
        });
        listed.chain(own)
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

    #[must_use]
    pub fn is_of_configuration(&self) -> bool {
        self.of_configuration
    }

    /// Identifier of the check.
    #[must_use]
    pub fn id(&self) -> &'static str {
        self.id
    }

    /// Warnings of the cause.
    #[must_use]
    pub fn warnings(&self) -> &[&'static str] {
        self.advice.as_ref().map_or(&[], |advice| &advice.warnings)
    }

    #[must_use]
    pub fn status(&self) -> Status {
        self.status
    }

    /// The message of a passed check.
    #[must_use]
    pub fn established(&self) -> Option<&str> {
        let passed = self.status == Status::Pass;
        self.message.as_deref().filter(|_| passed)
    }

    /// Whether it is not as it should be.
    #[must_use]
    pub fn failed(&self) -> bool {
        self.status == Status::Fail
    }

    /// The finding, else the title.
    #[must_use]
    pub fn found(&self) -> &str {
        self.message.as_deref().unwrap_or(self.title)
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

    /// Whether checks that build on it have nothing to ask.
    #[must_use]
    pub fn blocks(&self) -> bool {
        matches!(self.status, Status::Fail | Status::Skip)
    }

    /// The code of the finding among those of the check.
    #[must_use]
    pub fn cause(&self) -> Option<&str> {
        self.details.get(CODE)?.as_str()
    }

    /// The advice of the catalogue, with the values of the finding.
    #[must_use]
    pub fn advice(&self) -> Option<&Advice> {
        self.advice.as_ref()
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
            next_steps: Vec::new(),
            details: Map::new(),
            of_configuration: false,
            advice: None,
        }
    }
}

impl Status {
    /// The word of reports.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Warn => "warn",
            Self::Fail => "fail",
            Self::Skip => "skip",
        }
    }
}
