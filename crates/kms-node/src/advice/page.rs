//! The page of the catalogue, `docs/operate/causes.md`.

#![cfg(test)]

use std::{env, fs, path::Path};

use super::{Cause, catalogue};

const PAGE: &str = "../../docs/operate/causes.md";
const HEAD: &str = "\
# Causes

Each fault that a command, a log line or a refused call names, with its impact on the data, the next steps and the
warnings. This page is generated from the catalogue of the program, `crates/kms-node/src/advice/`; commands show
`{placeholders}` in place of the values of your installation, which the program fills in. A step without its value is
left out.

| Impact on the data | Meaning |
|---|---|
| `none_lost` | everything is readable again once the cause is fixed |
| `at_risk` | all data is still there; a wrong step, or inaction, can lose it |
| `lost_without_backup` | some or all objects need a backup |
| `unknown` | the evidence does not decide |

The warnings of a topic stand before its causes; each cause has the numbers of its warnings. Those of
[every incident](triage.md#never) apply as well.
";

fn page() -> String {
    let mut page = HEAD.to_owned();
    for (topic, causes) in catalogue() {
        page.push_str(&format!("\n## {topic}\n"));
        let mut warnings: Vec<&str> = Vec::new();
        for warning in causes.iter().flat_map(|cause| cause.warnings) {
            if !warnings.contains(warning) {
                warnings.push(warning);
            }
        }
        if !warnings.is_empty() {
            page.push_str("\nWarnings:\n\n");
        }
        for (number, warning) in warnings.iter().enumerate() {
            page.push_str(&format!("{}. {warning}\n", number + 1));
        }
        causes
            .iter()
            .for_each(|cause| section(cause, &warnings, &mut page));
    }
    page
}

fn section(cause: &Cause, warnings: &[&str], page: &mut String) {
    let Cause {
        code,
        headline,
        data,
        ..
    } = cause;
    let (impact, exit) = (cause.impact.as_str(), cause.exit.code());
    page.push_str(&format!(
        "\n### `{code}`\n\n{}. Exit code {exit}.\n\n- **Data** (`{impact}`): {data}.\n",
        sentence(headline),
    ));
    for (number, step) in cause.steps.iter().enumerate() {
        page.push_str(&format!("- **Step {}:** {}", number + 1, step.text));
        match step.command {
            "" => page.push('\n'),
            command => page.push_str(&format!(":\n  `{command}`\n")),
        }
    }
    let numbered = warnings.iter().zip(1..);
    let own = numbered.filter(|(warning, _)| cause.warnings.contains(warning));
    let own: Vec<_> = own
        .map(|(_, number): (_, u32)| number.to_string())
        .collect();
    if !own.is_empty() {
        page.push_str(&format!("- **Warnings:** {}\n", own.join(", ")));
    }
}

/// With a capital letter, unless it begins with a name.
fn sentence(text: &str) -> String {
    if text.starts_with("min_") {
        return format!("`{}`{}", word(text).0, word(text).1);
    }
    let mut chars = text.chars();
    let first = chars.next().map(|first| first.to_uppercase().to_string());
    first.unwrap_or_default() + chars.as_str()
}

fn word(text: &str) -> (&str, &str) {
    text.split_at(text.find(' ').unwrap_or(text.len()))
}

/// With `UPDATE_PAGES=1` in the environment the page is written.
#[test]
#[expect(clippy::disallowed_methods, reason = "a page of docs is no state")]
fn the_page_is_that_of_the_catalogue() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGE);
    if env::var_os("UPDATE_PAGES").is_some() {
        fs::write(&file, page()).unwrap();
    }
    let written = fs::read_to_string(&file).unwrap_or_default();
    assert!(
        written == page(),
        "{PAGE} is out of date: UPDATE_PAGES=1 cargo test -p kms-node --lib advice"
    );
}
