//! Problems of a configuration: place, rule, next step.
//!
//! A problem shows the offending value, except where a misplaced secret may stand; it never shows a
//! piece of the file.

use std::fmt;

use schemars::JsonSchema;
use serde::Serialize;

use super::origin::Origin;
use crate::duration::DurationProblem;

/// One thing to repair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Problem {
    /// The setting, such as `server.socketMode` or `auth.jwt.expectedAudience[0]`.
    pub path: String,
    /// Whether the file has the wrong shape or a value breaks a rule.
    pub kind: ProblemKind,
    /// Where the value came from; `None` when nothing was given.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    /// The offending value, shortened.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// The rule that is broken, as the rest of a sentence: `must be an absolute path`.
    pub rule: String,
    /// What to write instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// The two depths at which a configuration can fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum ProblemKind {
    /// An unknown or repeated key, a missing `configVersion`, a value of the wrong type.
    Shape,
    /// A value that breaks its rule, or a rule between values.
    Value,
    /// A file or directory that the configuration names.
    File,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path)?;
        if let Some(origin) = &self.origin {
            write!(f, " ({origin})")?;
        }
        match &self.value {
            Some(value) => write!(f, ": {value:?} {}", self.rule)?,
            None => write!(f, ": {}", self.rule)?,
        }
        match &self.hint {
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}

/// A broken rule, before path and origin are known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Broken {
    pub(super) rule: String,
    pub(super) hint: Option<&'static str>,
    pub(super) show_value: bool,
}

impl Broken {
    pub(super) fn rule(rule: impl fmt::Display) -> Self {
        Self {
            rule: rule.to_string(),
            hint: None,
            show_value: true,
        }
    }

    pub(super) fn hint(self, hint: &'static str) -> Self {
        let hint = Some(hint);
        Self { hint, ..self }
    }

    /// For a field into which a secret may have been pasted by mistake.
    pub(super) fn hidden(self) -> Self {
        Self {
            show_value: false,
            ..self
        }
    }
}

impl From<DurationProblem> for Broken {
    fn from(problem: DurationProblem) -> Self {
        let hint =
            (problem == DurationProblem::Form).then_some("write for example \"90s\" or \"1m30s\"");
        Self {
            hint,
            ..Self::rule(problem)
        }
    }
}

impl From<kms_domain::scope::NameProblem> for Broken {
    fn from(problem: kms_domain::scope::NameProblem) -> Self {
        Self::rule(problem)
    }
}
