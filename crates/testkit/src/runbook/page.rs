//! Parses a page.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// One item of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// A fault for the test to cause.
    Incident(String),
    /// A command.
    Step(Step),
    /// Sections of the provider's configuration, from a `yaml` block.
    Settings(String),
}

/// A command with its expected output and exit code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Line number of the command, from 1.
    pub line: usize,
    /// Machine that runs the command; empty for the machine without a name.
    pub machine: String,
    /// Shell command, of one or more lines.
    pub command: String,
    /// Expected exit code.
    pub code: i32,
    /// Patterns of its output lines.
    pub expected: Vec<String>,
}

/// Number of servers of OpenBao, members of etcd and control-plane nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Members {
    /// One of each.
    One,
    /// More than one of each.
    Several,
}

/// A parsed page.
pub struct Page {
    name: String,
    text: String,
    /// Items, with the clusters that they are for; `None` for all.
    items: Vec<(Option<Members>, Item)>,
}

const INCIDENT: &str = "<!-- incident: ";
const ONE: &str = "<!-- one member -->";
const SEVERAL: &str = "<!-- several members -->";
const ONE_FROM_HERE: &str = "<!-- one member from here on -->";
const EXIT: &str = "# exits with ";
/// Prefixes of commands that must be in `console` blocks. Commands in prose are untested.
const PROGRAMS: [&str; 10] = [
    "bao ",
    "bao-kms-provider ",
    "curl ",
    "etcdctl ",
    "etcdutl ",
    "kubectl ",
    "mv ",
    "rm ",
    "sudo ",
    "systemctl ",
];

/// The directory of all documentation.
#[must_use]
pub fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs")
}

impl Page {
    /// Reads `docs/<name>.md`.
    ///
    /// # Panics
    /// When the file is missing or malformed.
    #[must_use]
    pub fn read(name: &str) -> Self {
        let path = directory().join(name).with_extension("md");
        let text = fs::read_to_string(&path).unwrap_or_else(|error| {
            panic!("{} cannot be read: {error}", path.display());
        });
        Self::parse(&format!("{name}.md"), &text)
    }

    fn parse(name: &str, text: &str) -> Self {
        let mut items = Vec::new();
        let mut block: Option<Block<'_>> = None;
        let (mut rest, mut next) = (None, None);
        for (index, line) in text.lines().enumerate() {
            let place = format!("{name}:{}", index + 1);
            match &mut block {
                Some(open) => {
                    if line.trim() == "```" {
                        let members = next.take().or(rest);
                        let closed = block.take().into_iter().flat_map(Block::close);
                        items.extend(closed.map(|item| (members, item)));
                    } else {
                        open.line(&place, index + 1, line);
                    }
                }
                None => {
                    let trimmed = line.trim_start();
                    if let Some(language) = trimmed.strip_prefix("```") {
                        block = Some(Block {
                            language,
                            indent: &line[..line.len() - trimmed.len()],
                            steps: Vec::new(),
                            settings: String::new(),
                        });
                    } else if let Some(incident) = trimmed.strip_prefix(INCIDENT) {
                        let incident = incident.strip_suffix(" -->");
                        let incident = incident.unwrap_or_else(|| panic!("{place}: {line}"));
                        items.push((rest, Item::Incident(incident.to_owned())));
                    } else if trimmed == ONE_FROM_HERE {
                        rest = Some(Members::One);
                    } else if let Some(members) = members(trimmed) {
                        next = Some(members);
                    } else {
                        assert_prose(&place, line);
                    }
                }
            }
        }
        assert!(block.is_none(), "{name}: unterminated block");
        assert!(next.is_none(), "{name}: members without a block");
        Self {
            name: name.to_owned(),
            text: text.to_owned(),
            items,
        }
    }

    /// The file's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file's content.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Incidents, commands and settings for such a cluster, in order.
    #[must_use]
    pub fn items(&self, members: Members) -> Vec<Item> {
        let items = self.items.iter();
        let items = items.filter(|(only, _)| only.is_none_or(|only| only == members));
        items.map(|(_, item)| item.clone()).collect()
    }

    /// Whether the page has commands for several members alone.
    #[must_use]
    pub fn is_about_several(&self) -> bool {
        let mut items = self.items.iter();
        items.any(|(only, _)| *only == Some(Members::Several))
    }
}

/// A fenced block while it is parsed.
struct Block<'a> {
    language: &'a str,
    indent: &'a str,
    steps: Vec<Step>,
    settings: String,
}

impl Block<'_> {
    fn line(&mut self, place: &str, number: usize, line: &str) {
        let line = line.strip_prefix(self.indent).unwrap_or(line);
        let console = self.language == "console";
        let prompt = prompt(line);
        assert!(
            console || prompt.is_none(),
            "{place}: a command outside a `console` block is untested"
        );
        if self.language == "yaml" {
            self.settings.push_str(line);
            self.settings.push('\n');
        }
        if !console {
            return;
        }
        if let Some(step) = self.steps.last_mut()
            && step.expected.is_empty()
            && step.command.ends_with('\\')
        {
            step.command.push('\n');
            step.command.push_str(line);
        } else if let Some((machine, command)) = prompt {
            self.steps.push(Step {
                line: number,
                machine: machine.to_owned(),
                command: command.to_owned(),
                code: 0,
                expected: Vec::new(),
            });
        } else {
            let step = self.steps.last_mut();
            let step = step.unwrap_or_else(|| panic!("{place}: output before the first command"));
            step.expected.push(line.trim_end().to_owned());
        }
    }

    fn close(self) -> impl Iterator<Item = Item> {
        let settings = (!self.settings.is_empty()).then_some(Item::Settings(self.settings));
        let steps = self.steps.into_iter().map(|mut step| {
            while step.expected.last().is_some_and(String::is_empty) {
                step.expected.pop();
            }
            if let Some((command, code)) = step.command.split_once(EXIT) {
                step.code = code.trim().parse().unwrap();
                step.command = command.trim_end().to_owned();
            }
            Item::Step(step)
        });
        settings.into_iter().chain(steps)
    }
}

/// The clusters that the next block is for.
fn members(line: &str) -> Option<Members> {
    match line {
        ONE => Some(Members::One),
        SEVERAL => Some(Members::Several),
        _ => None,
    }
}

/// The machine and the command of a line that begins with a prompt.
fn prompt(line: &str) -> Option<(&str, &str)> {
    let (machine, command) = line.split_once("$ ")?;
    let named = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    machine.chars().all(named).then_some((machine, command))
}

fn assert_prose(place: &str, line: &str) {
    for code in line.split('`').skip(1).step_by(2) {
        let command = PROGRAMS.iter().find(|program| code.starts_with(**program));
        assert!(
            command.is_none(),
            "{place}: `{code}` is an untested command in prose; move it into a `console` block, \
             or name the program without arguments"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_outputs_codes_machines_and_incidents_are_read() {
        let page = Page::parse(
            "page.md",
            "# Title\n\nProse with `code`.\n\n1. In a list:\n\n   ```console\n   $ one \\\n       \
             two # exits with 4\n   out\n\n     indented\n\n   cp-2$ three\n   ```\n\n\
             <!-- incident: it breaks -->\n\n```text\nno command\n```\n\n```yaml\nauth:\n  method: jwt\n```\n",
        );
        let step = |line, machine: &str, command: &str, code, expected: &[&str]| {
            Item::Step(Step {
                line,
                machine: machine.to_owned(),
                command: command.to_owned(),
                code,
                expected: expected.iter().map(|&line| line.to_owned()).collect(),
            })
        };
        assert!(!page.is_about_several());
        assert_eq!(
            page.items(Members::Several),
            [
                step(8, "", "one \\\n    two", 4, &["out", "", "  indented"]),
                step(14, "cp-2", "three", 0, &[]),
                Item::Incident("it breaks".to_owned()),
                Item::Settings("auth:\n  method: jwt\n".to_owned()),
            ]
        );
    }

    #[test]
    fn a_block_is_for_the_clusters_above_it() {
        let block = |command: &str| format!("```console\n$ {command}\n```\n");
        let page = [
            &block("always"),
            "<!-- one member -->\n",
            &block("alone"),
            "<!-- several members -->\n",
            &block("together"),
            &block("again"),
            "<!-- one member from here on -->\n<!-- incident: it breaks -->\n",
            &block("last"),
        ];
        let page = Page::parse("page.md", &page.concat());
        let of = |members| {
            let items = page.items(members).into_iter();
            let names = items.map(|item| match item {
                Item::Step(step) => step.command,
                Item::Incident(text) | Item::Settings(text) => text,
            });
            names.collect::<Vec<_>>()
        };
        assert_eq!(of(Members::Several), ["always", "together", "again"]);
        let alone = ["always", "alone", "again", "it breaks", "last"];
        assert_eq!(of(Members::One), alone);
        assert!(page.is_about_several());
    }

    #[test]
    #[should_panic(expected = "is untested")]
    fn a_command_in_another_block_is_found() {
        Page::parse("page.md", "```sh\n$ rm -rf /\n```\n");
    }

    #[test]
    #[should_panic(expected = "untested command in prose")]
    fn a_command_in_prose_is_found() {
        Page::parse("page.md", "Run `bao operator seal` now.\n");
    }
}
