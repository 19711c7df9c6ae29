//! `config.yaml`: every setting with its meaning.

use std::fmt::Write as _;

use kms_node::config::described;
use serde_json::Value;

use crate::plan::{Plan, PlanError, load, problem};

/// Columns of a comment.
const WIDTH: usize = 100;

/// The whole configuration, each setting written and explained.
///
/// # Errors
/// What is read back differs from the plan.
pub(super) fn configuration(plan: &Plan) -> Result<String, PlanError> {
    let mut text = "# Configuration of bao-kms-provider, the same on every node of the cluster.\n\
        # Settings marked as identity enter every key ID: never change one once data is encrypted.\n"
        .to_owned();
    let mut open: Vec<&str> = Vec::new();
    for setting in &plan.loaded.settings {
        let mut keys: Vec<&str> = setting.path.split('.').collect();
        let Some(key) = keys.pop() else {
            continue;
        };
        let shared = open
            .iter()
            .zip(&keys)
            .take_while(|(one, other)| one == other)
            .count();
        if shared == 0 {
            text.push('\n');
        }
        for (depth, section) in keys.iter().enumerate().skip(shared) {
            text.push_str(&format!("{}{section}:\n", "  ".repeat(depth)));
        }
        let indent = "  ".repeat(keys.len());
        let about = described()
            .find(|it| it.path == setting.path)
            .map(|it| it.text);
        for line in about
            .into_iter()
            .flat_map(|about| wrapped(about, WIDTH - indent.len()))
        {
            writeln!(text, "{indent}# {line}").ok();
        }
        writeln!(text, "{indent}{key}: {}", scalar(&setting.value)).ok();
        open = keys;
    }
    let read = load(&text)?;
    let values = |loaded: &kms_node::config::Loaded| -> Vec<(&'static str, Value)> {
        let settings = loaded.settings.iter();
        settings
            .map(|setting| (setting.path, setting.value.clone()))
            .collect()
    };
    match values(&read) == values(&plan.loaded) {
        true => Ok(text),
        false => Err(PlanError::Invalid(vec![problem(
            "config.yaml",
            "reads back with other values: report this fault of the program",
        )])),
    }
}

/// Plain where it cannot be read as another type, otherwise in JSON's form, which is YAML.
fn scalar(value: &Value) -> String {
    let plain = |text: &str| {
        text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
            && text
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "/._@-".contains(c))
            && !["true", "false", "null", "yes", "no", "on", "off", "y", "n"]
                .contains(&&*text.to_ascii_lowercase())
    };
    match value {
        Value::String(text) if plain(text) => text.clone(),
        other => other.to_string(),
    }
}

fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace().filter(|word| !word.is_empty()) {
        let word = word.replace("**", "");
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(&word),
            Some(line) if line.len() + 1 + word.len() <= width => {
                line.push(' ');
                line.push_str(&word);
            }
            _ => lines.push(word),
        }
    }
    lines
}
