//! Takes each setting from flag, variable, file or default, and collects every problem.

use std::{collections::BTreeMap, path::PathBuf};

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::{
    document::Document,
    origin::{Flags, Origin, Substitute},
    problem::{Broken, Problem, ProblemKind},
    rules::Rule,
    setting::{Declared, Key},
    settings::SECTIONS,
};
use crate::environment::Environment;

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

/// Every method answers `None` after a problem, and reports the problem once. The caller continues
/// with the other settings and gives up at the end.
pub(super) struct Resolver {
    written: BTreeMap<String, (Value, Origin)>,
    settings: BTreeMap<&'static str, Setting>,
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
    pub(super) socket_roots: Vec<PathBuf>,
    pub(super) substitute: Substitute,
}

impl Resolver {
    /// Flags and variables win over the document, even where its value has the wrong type.
    pub(super) fn new(document: Document, flags: &Flags, environment: &Environment) -> Self {
        let replaced = flags.replacements(environment).into_iter();
        Self {
            written: document.written,
            settings: replaced.map(|setting| (setting.path, setting)).collect(),
            problems: document.problems,
            warnings: Vec::new(),
            socket_roots: environment.socket_roots(),
            substitute: flags.substitute.clone(),
        }
    }

    /// The settings in effect, in the order of their declaration, and warnings; or the problems, in
    /// the order of the file.
    pub(super) fn finish(mut self) -> Result<(Vec<Setting>, Vec<Problem>), Vec<Problem>> {
        if self.problems.is_empty() {
            let declared = SECTIONS.iter().flat_map(|section| section.settings);
            let settings = declared.filter_map(|setting| self.settings.remove(setting.path));
            return Ok((settings.collect(), self.warnings));
        }
        self.problems.sort_by_key(|problem| match problem.origin {
            Some(Origin::File { line, column }) => (line, column),
            _ => (u64::MAX, 0),
        });
        Err(self.problems)
    }

    /// The value of a setting; `None` also where it is absent and its default is null.
    pub(super) fn get<R: Rule>(&mut self, key: Key<R>) -> Option<R::Value> {
        let value = self.effective(&key.declared)?;
        R::read(&value, key.declared.path, self)
    }

    /// A setting with the default null, required by another one.
    pub(super) fn needed<R: Rule>(&mut self, key: Key<R>) -> Option<R::Value> {
        let path = key.declared.path;
        self.get(key).or_else(|| self.missing(path))
    }

    /// Reports a missing section in place of its settings.
    pub(super) fn require(&mut self, section: &'static str) {
        if !self.is_written(section) {
            self.missing::<()>(section);
        }
    }

    pub(super) fn is_written(&self, path: impl Into<&'static str>) -> bool {
        self.written.contains_key(path.into())
    }

    /// Sets a value that follows from another setting.
    pub(super) fn infer<R, S>(&mut self, key: Key<R>, value: &str, from: Key<S>) {
        let from = from.declared.path;
        self.record(key.declared.path, value.into(), Origin::Inferred { from });
    }

    pub(super) fn missing<T>(&mut self, path: &str) -> Option<T> {
        if !self.is_reported(path) {
            let rule = Broken::rule("must be written; it has no default");
            self.broken(path, None, rule);
        }
        None
    }

    /// A value breaks the rule of its setting.
    pub(super) fn broken(&mut self, path: &str, value: Option<&str>, broken: Broken) {
        let problem = self.problem(path, value, broken);
        if !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }

    /// Reports a broken rule between settings.
    pub(super) fn reject_if(
        &mut self,
        is_broken: bool,
        path: impl Into<&'static str>,
        broken: Broken,
    ) {
        if is_broken {
            let problem = self.about(path.into(), broken);
            self.problems.push(problem);
        }
    }

    /// Reports an allowed value, probably a mistake.
    pub(super) fn warn_if(&mut self, is_odd: bool, path: impl Into<&'static str>, broken: Broken) {
        if is_odd {
            let warning = self.about(path.into(), broken);
            self.warnings.push(warning);
        }
    }

    /// The value in effect; it is recorded before its rule is checked.
    fn effective(&mut self, declared: &Declared) -> Option<Value> {
        let path = declared.path;
        if let Some(setting) = self.settings.get(path) {
            return Some(setting.value.clone());
        }
        if self.is_reported(path) {
            return None;
        }
        let (value, origin) = match (self.written.get(path), declared.default) {
            (Some(written), _) => written.clone(),
            (None, Some(default)) => (default(), Origin::Default),
            (None, None) => return self.missing(path),
        };
        if value.is_null() {
            return None;
        }
        self.record(path, value.clone(), origin);
        Some(value)
    }

    fn record(&mut self, path: &'static str, value: Value, origin: Origin) {
        let setting = Setting {
            path,
            value,
            origin,
        };
        self.settings.insert(path, setting);
    }

    /// Whether a problem of this setting, or of a section around it, is known.
    fn is_reported(&self, path: &str) -> bool {
        let within = |outer: &str, inner: &str, next: char| {
            let rest = inner.strip_prefix(outer);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(next))
        };
        let mut known = self.problems.iter().map(|problem| problem.path.as_str());
        known.any(|known| within(known, path, '.') || within(path, known, '['))
    }

    fn about(&self, path: &str, broken: Broken) -> Problem {
        let value = match self.settings.get(path).map(|setting| &setting.value) {
            None | Some(Value::Array(_)) => None,
            Some(Value::String(text)) => Some(text.clone()).filter(|text| !text.is_empty()),
            Some(other) => Some(other.to_string()),
        };
        self.problem(path, value.as_deref(), broken)
    }

    fn problem(&self, path: &str, value: Option<&str>, broken: Broken) -> Problem {
        let setting = self.settings.get(path).map(|setting| &setting.origin);
        let written = self.written.get(path).map(|(_, origin)| origin);
        Problem {
            path: path.to_owned(),
            kind: ProblemKind::Value,
            origin: setting.or(written).cloned(),
            value: value.filter(|_| broken.show_value).map(shorten),
            rule: broken.rule,
            hint: broken.hint.map(str::to_owned),
        }
    }
}

fn shorten(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARACTERS) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}
