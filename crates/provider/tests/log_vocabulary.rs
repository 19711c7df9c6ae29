//! What the program may log is a closed list: the calls in its source and the table in
//! `docs/observability.md` name the same events, with the same levels and fields.

#![expect(
    clippy::unwrap_used,
    reason = "functions that only tests call may fail like tests"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// Levels and fields of each message.
type Vocabulary = BTreeMap<String, [BTreeSet<String>; 2]>;

const LEVELS: [&str; 4] = ["debug", "info", "warn", "error"];

/// The words in backticks outside parentheses and explanations that begin with a colon.
fn names(cell: &str) -> BTreeSet<String> {
    let mut depth = 0;
    let plain: String = cell
        .chars()
        .filter(|c| {
            depth += i32::from(*c == '(');
            let inside = depth > 0;
            depth -= i32::from(*c == ')');
            !inside
        })
        .collect();
    let plain = plain.split(": ").next().unwrap();
    let words = plain.split('`').skip(1).step_by(2);
    words.map(str::to_owned).collect()
}

fn documented() -> Vocabulary {
    let page = include_str!("../../../docs/observability.md");
    let (_, section) = page.split_once("## Logs").unwrap();
    let (section, _) = section.split_once("\n##").unwrap();
    let mut vocabulary = Vocabulary::new();
    for row in section.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        if cells[1] == "`message`" {
            continue;
        }
        let levels = LEVELS.iter().filter(|level| cells[2].contains(**level));
        let levels: BTreeSet<_> = levels.map(|level| (*level).to_owned()).collect();
        for message in names(cells[1]) {
            vocabulary.insert(message, [levels.clone(), names(cells[3])]);
        }
    }
    vocabulary
}

/// The arguments of a macro call, from after its opening parenthesis.
fn arguments(source: &str) -> Vec<String> {
    let mut arguments = vec![String::new()];
    let (mut depth, mut quoted) = (1, false);
    for c in source.chars() {
        quoted ^= c == '"';
        match c {
            '(' | '[' | '{' if !quoted => depth += 1,
            ')' | ']' | '}' if !quoted => depth -= 1,
            ',' if !quoted && depth == 1 => {
                arguments.push(String::new());
                continue;
            }
            _ => {}
        }
        if depth == 0 {
            break;
        }
        arguments.last_mut().unwrap().push(c);
    }
    arguments.retain(|argument| !argument.trim().is_empty());
    arguments
}

fn collect(directory: &Path, vocabulary: &mut Vocabulary) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, vocabulary);
            continue;
        }
        let source = fs::read_to_string(&path).unwrap();
        for call in source.split("tracing::").skip(1) {
            let Some((level, call)) = call.split_once("!(") else {
                continue;
            };
            if !LEVELS.contains(&level) {
                continue;
            }
            let mut arguments = arguments(call);
            let message = arguments.pop().unwrap();
            let message = message.trim().trim_matches('"').to_owned();
            let [levels, fields] = vocabulary.entry(message).or_default();
            levels.insert(level.to_owned());
            fields.extend(arguments.iter().map(|argument| {
                let name = argument.split('=').next().unwrap();
                name.trim().trim_start_matches(['%', '?']).to_owned()
            }));
        }
    }
}

#[test]
fn the_program_logs_what_the_documentation_lists_and_nothing_else() {
    let mut vocabulary = Vocabulary::new();
    for source in sources() {
        collect(&source, &mut vocabulary);
    }
    assert!(vocabulary.len() > 15, "{vocabulary:?}");
    assert_eq!(vocabulary, documented());
}

/// An event can only be written in the way that the test above finds.
#[test]
fn events_are_written_by_the_macros_of_tracing_alone() {
    fn check(directory: &Path) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                check(&path);
                continue;
            }
            let source = fs::read_to_string(&path).unwrap();
            for hidden in [
                "event!",
                "span!",
                "instrument",
                "use tracing::{debug",
                "trace!",
            ] {
                assert!(!source.contains(hidden), "{hidden} in {}", path.display());
            }
        }
    }
    for source in sources() {
        check(&source);
    }
}

/// Sources of the crates of the program that write to the log.
fn sources() -> [PathBuf; 3] {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    ["kms-daemon", "kms-node", "provider"].map(|name| crates.join(name).join("src"))
}
