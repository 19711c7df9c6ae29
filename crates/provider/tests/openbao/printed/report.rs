//! What a command printed: the steps of its causes, in text and in JSON.

use std::collections::BTreeSet;

use kms_node::advice::Cause;
use serde_json::Value;

use crate::node::Finished;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) text: String,
    pub(super) command: Option<String>,
}

pub(super) struct Report {
    pub(super) line: String,
    pub(super) text: String,
    /// In the order in which they are taken.
    steps: Vec<Step>,
    /// Codes and effects on the data of the causes, from JSON.
    codes: BTreeSet<String>,
    /// Exit code 0: a plan, say, names no cause.
    passed: bool,
}

impl Report {
    pub(super) fn of_text(line: &str, done: &Finished) -> Self {
        let text = format!("{}{}", done.out, done.err);
        Self {
            line: line.to_owned(),
            steps: steps_of_text(&text),
            text,
            codes: BTreeSet::new(),
            passed: done.code == Some(0),
        }
    }

    /// Both forms, which must print the same commands.
    #[track_caller]
    pub(super) fn of_both(line: &str, text: &Finished, json: &Finished) -> Self {
        let report = Self::of_text(line, text);
        let of_json = Self::of_json(line, json);
        let shown = &report.text;
        assert_eq!(text.code, json.code, "{line}: {shown}{}", json.out);
        for step in &of_json.steps {
            assert!(
                report.steps.contains(step),
                "{line}: {step:?} is not in {shown}"
            );
        }
        Self {
            codes: of_json.codes,
            ..report
        }
    }

    #[track_caller]
    pub(super) fn of_json(line: &str, done: &Finished) -> Self {
        let Finished { out, err, .. } = done;
        let json: Value =
            serde_json::from_str(out).unwrap_or_else(|error| panic!("{line}: {error}: {out}{err}"));
        let (mut steps, mut codes) = (Vec::new(), BTreeSet::new());
        gather(&json, &mut steps, &mut codes);
        Self {
            line: line.to_owned(),
            text: out.clone(),
            steps,
            codes,
            passed: done.code == Some(0),
        }
    }

    /// Whether it reports the cause: by its code, or by its effect on the data and its steps.
    pub(super) fn names(&self, code: &str) -> bool {
        let cause = Cause::named(code).unwrap();
        let effect = self.codes.is_empty() || self.codes.iter().any(|it| fits(&cause.data(), it));
        self.codes.contains(code) || (effect && !self.printed(code).is_empty())
    }

    /// The steps of the cause, of which one must have a command.
    #[track_caller]
    pub(super) fn steps_of(&self, code: &str) -> Vec<Step> {
        let steps = self.printed(code);
        let has_command = steps.iter().any(|step| step.command.is_some());
        let named = self.passed || self.names(code);
        assert!(
            has_command && named,
            "{}: no command of {code}: {}",
            self.line,
            self.text
        );
        steps
    }

    fn printed(&self, code: &str) -> Vec<Step> {
        let cause = Cause::named(code).unwrap_or_else(|| panic!("{code}"));
        let of_cause = |step: &&Step| {
            cause.steps.iter().any(|template| {
                fits(template.text, &step.text)
                    && fits(
                        template.command,
                        step.command.as_deref().unwrap_or_default(),
                    )
            })
        };
        let mut steps: Vec<Step> = Vec::new();
        for step in self.steps.iter().filter(of_cause) {
            if !steps.contains(step) {
                steps.push(step.clone());
            }
        }
        steps
    }
}

/// Whether the template with its placeholders filled in can be the text.
fn fits(template: &str, text: &str) -> bool {
    let mut parts = template.split('{');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    for part in parts {
        let (_, literal) = part.split_once('}').unwrap();
        match rest.find(literal) {
            Some(at) if !literal.is_empty() => rest = &rest[at + literal.len()..],
            Some(_) => rest = "",
            None => return false,
        }
    }
    rest.is_empty()
}

fn steps_of_text(text: &str) -> Vec<Step> {
    let mut lines = text.lines().peekable();
    let mut steps = Vec::new();
    while let Some(line) = lines.next() {
        let indent = line.len() - line.trim_start().len();
        let Some(text) = line.trim_start().strip_prefix("next: ") else {
            continue;
        };
        let start = " ".repeat(indent + "next: ".len());
        let command = lines.peek().and_then(|next| next.strip_prefix(&start));
        let command = command.filter(|it| !it.starts_with(' ')).map(str::to_owned);
        steps.push(Step {
            text: text.to_owned(),
            command,
        });
    }
    steps
}

/// Every step and every code of a cause. The option that asked for JSON is no part of a command.
fn gather(value: &Value, steps: &mut Vec<Step>, codes: &mut BTreeSet<String>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| gather(item, steps, codes)),
        Value::Object(members) => {
            for (name, member) in members {
                match (name.as_str(), member) {
                    ("nextSteps", Value::Array(listed)) => {
                        let text = |step: &Value, name: &str| {
                            Some(step[name].as_str()?.replace(" --output json", ""))
                        };
                        steps.extend(listed.iter().map(|step| Step {
                            text: text(step, "text").unwrap(),
                            command: text(step, "command"),
                        }));
                    }
                    ("cause" | "verdict" | "code" | "impact" | "meaning", Value::String(code)) => {
                        codes.insert(code.clone());
                    }
                    _ => gather(member, steps, codes),
                }
            }
        }
        _ => {}
    }
}
