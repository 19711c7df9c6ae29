//! Takes each setting from flag, variable, file or default, parses it, and keeps its origin.

use std::{collections::BTreeMap, fmt::Display, ops::RangeInclusive};

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::{
    defaults,
    origin::Origin,
    problem::{Broken, Problem, ProblemKind},
};

/// Values are shown up to this many characters.
const SHOWN_CHARACTERS: usize = 80;

/// One setting as it takes effect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Setting {
    /// Such as `server.socketPath`.
    pub path: &'static str,
    /// In the spelling of the file.
    pub value: Value,
    /// Where it came from.
    #[serde(flatten)]
    pub origin: Origin,
}

/// Reads settings one by one and collects everything that is wrong with them. Every method
/// answers `None` after a problem; the caller reads on and gives up at the end.
pub(super) struct Resolver {
    pub(super) settings: Vec<Setting>,
    pub(super) problems: Vec<Problem>,
    pub(super) warnings: Vec<Problem>,
    positions: BTreeMap<String, Origin>,
    replacements: BTreeMap<&'static str, (String, Origin)>,
}

impl Resolver {
    /// `problems` are those of the shape: the settings they name are not reported as missing too.
    pub(super) fn new(
        positions: BTreeMap<String, Origin>,
        problems: Vec<Problem>,
        replacements: BTreeMap<&'static str, (String, Origin)>,
    ) -> Self {
        Self {
            settings: Vec::new(),
            problems,
            warnings: Vec::new(),
            positions,
            replacements,
        }
    }

    /// A text setting.
    pub(super) fn text<T, E: Into<Broken>>(
        &mut self,
        path: &'static str,
        given: Option<String>,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let given = given.map(Value::String);
        let (value, origin) = self.take(path, given)?;
        let text = value.as_str()?;
        match parse(text) {
            Ok(parsed) => Some(parsed),
            Err(broken) => {
                self.broken(path.to_owned(), Some(origin), Some(text), broken.into());
                None
            }
        }
    }

    /// A whole number.
    pub(super) fn integer<T: TryFrom<i64>>(
        &mut self,
        path: &'static str,
        given: Option<i64>,
        range: RangeInclusive<i64>,
    ) -> Option<T> {
        let (value, origin) = self.take(path, given.map(Value::from))?;
        let number = value.as_i64()?;
        let parsed = Some(number)
            .filter(|number| range.contains(number))
            .and_then(|number| T::try_from(number).ok());
        if parsed.is_none() {
            let rule = format!("must be from {} to {}", range.start(), range.end());
            let shown = number.to_string();
            self.broken(
                path.to_owned(),
                Some(origin),
                Some(&shown),
                Broken::rule(rule),
            );
        }
        parsed
    }

    /// True or false.
    pub(super) fn boolean(&mut self, path: &'static str, given: Option<bool>) -> Option<bool> {
        self.take(path, given.map(Value::Bool))?.0.as_bool()
    }

    /// A list of texts; each entry is parsed.
    pub(super) fn list<T, E: Into<Broken>>(
        &mut self,
        path: &'static str,
        given: Option<Vec<String>>,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<Vec<T>> {
        let (value, _) = self.take(path, given.map(Value::from))?;
        let mut parsed = Vec::new();
        let mut whole = true;
        for (index, text) in value
            .as_array()?
            .iter()
            .filter_map(Value::as_str)
            .enumerate()
        {
            match parse(text) {
                Ok(item) => parsed.push(item),
                Err(broken) => {
                    let path = format!("{path}[{index}]");
                    let origin = self.positions.get(&path).cloned();
                    self.broken(path, origin, Some(text), broken.into());
                    whole = false;
                }
            }
        }
        whole.then_some(parsed)
    }

    /// A list of sections; `parse` reads each one at its path.
    pub(super) fn sections<S: Serialize, T>(
        &mut self,
        path: &'static str,
        given: Option<Vec<S>>,
        parse: impl Fn(&mut Self, &str, S) -> Option<T>,
    ) -> Option<Vec<T>> {
        let value = given.as_ref().map(serde_json::to_value);
        self.take(path, value.transpose().ok()?)?;
        let sections = given.unwrap_or_default().into_iter().enumerate();
        let parsed: Vec<_> = sections
            .map(|(index, section)| parse(self, &format!("{path}[{index}]"), section))
            .collect();
        parsed.into_iter().collect()
    }

    /// A text within a section of a list.
    pub(super) fn entry<T, E: Into<Broken>>(
        &mut self,
        path: String,
        given: Option<&str>,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let origin = self.positions.get(&path).cloned();
        let Some(text) = given else {
            let rule = Broken::rule("must be written; it has no default");
            self.broken(path, origin, None, rule);
            return None;
        };
        match parse(text) {
            Ok(parsed) => Some(parsed),
            Err(broken) => {
                self.broken(path, origin, Some(text), broken.into());
                None
            }
        }
    }

    /// A setting that follows from another one.
    pub(super) fn infer(&mut self, path: &'static str, value: &str, from: &'static str) {
        self.settings.push(Setting {
            path,
            value: Value::from(value),
            origin: Origin::Inferred { from },
        });
    }

    /// A setting or section that is needed and was not written.
    pub(super) fn missing(&mut self, path: &'static str) {
        if self.is_faulty(path) {
            return;
        }
        let rule = "must be written; it has no default".to_owned();
        self.broken(path.to_owned(), None, None, Broken::rule(rule));
    }

    /// A rule between settings is broken.
    pub(super) fn reject(&mut self, path: &'static str, rule: impl Display, hint: &str) {
        let problem = self.about(path, rule, hint);
        self.problems.push(problem);
    }

    /// Allowed, yet probably not meant.
    pub(super) fn warn(&mut self, path: &'static str, rule: impl Display, hint: &str) {
        let warning = self.about(path, rule, hint);
        self.warnings.push(warning);
    }

    /// Whether the shape of this setting, or of a section around it, is already reported.
    pub(super) fn is_faulty(&self, path: &str) -> bool {
        self.problems.iter().any(|problem| {
            let within = |outer: &str, inner: &str| {
                inner
                    .strip_prefix(outer)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
            };
            problem.kind == ProblemKind::Shape
                && (within(&problem.path, path)
                    || (within(path, &problem.path) && problem.path.ends_with(']')))
        })
    }

    /// The effective value; it is noted even when it turns out to break its rule.
    fn take(&mut self, path: &'static str, given: Option<Value>) -> Option<(Value, Origin)> {
        let from_file = || {
            let origin = self.positions.get(path).cloned()?;
            Some((given?, origin))
        };
        let taken = match self.replacements.remove(path) {
            Some((text, origin)) => Some((Value::String(text), origin)),
            None if self.is_faulty(path) => return None,
            None => from_file().or_else(|| Some((defaults::of(path)?, Origin::Default))),
        };
        let Some((value, origin)) = taken else {
            self.missing(path);
            return None;
        };
        self.settings.push(Setting {
            path,
            value: value.clone(),
            origin: origin.clone(),
        });
        Some((value, origin))
    }

    fn broken(
        &mut self,
        path: String,
        origin: Option<Origin>,
        value: Option<&str>,
        broken: Broken,
    ) {
        self.problems.push(Problem {
            path,
            kind: ProblemKind::Value,
            origin,
            value: value.filter(|_| broken.show_value).map(shorten),
            rule: broken.rule,
            hint: broken.hint,
        });
    }

    fn about(&self, path: &'static str, rule: impl Display, hint: &str) -> Problem {
        let setting = self.settings.iter().find(|setting| setting.path == path);
        Problem {
            path: path.to_owned(),
            kind: ProblemKind::Value,
            origin: setting.map(|setting| setting.origin.clone()),
            value: setting.and_then(|setting| match &setting.value {
                Value::String(text) if text.is_empty() => None,
                Value::String(text) => Some(shorten(text)),
                Value::Array(_) => None,
                other => Some(other.to_string()),
            }),
            rule: rule.to_string(),
            hint: Some(hint.to_owned()),
        }
    }
}

fn shorten(text: &str) -> String {
    let mut shown: String = text.chars().take(SHOWN_CHARACTERS).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
}
