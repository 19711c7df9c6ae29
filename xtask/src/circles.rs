//! Circular dependencies between the top-level modules of a crate.
//!
//! A module and its children count as one. Its dependencies are its `crate::` paths. Comments and
//! test code are skipped.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::process::Command;

use crate::process::{self, Error};

/// Path below `src`, and content.
type Files = BTreeMap<String, String>;
/// For each module the modules used by it, each with one of the files that use it.
type Uses<'f> = BTreeMap<&'f str, BTreeMap<&'f str, &'f str>>;

/// Checks the files known to git.
pub(crate) fn run() -> Result<(), Error> {
    let crates = read()?;
    let problems = crates.iter().flat_map(|(name, files)| {
        let problems = problems(files).into_iter();
        problems.map(move |problem| format!("{name}: {problem}"))
    });
    let problems: Vec<_> = problems.collect();
    match problems.is_empty() {
        true => Ok(()),
        false => Err(Error::Refused(problems.join("\n"))),
    }
}

fn read() -> Result<BTreeMap<String, Files>, Error> {
    let mut list = Command::new("git");
    let list = process::output(list.args(["ls-files", "-z"]).current_dir(process::root()))?;
    let mut crates = BTreeMap::<_, Files>::new();
    for path in list.split_terminator('\0') {
        let Some((root, file)) = path.split_once("/src/") else {
            continue;
        };
        let full = process::root().join(path);
        if file.ends_with(".rs") && full.is_file() {
            let text = fs::read_to_string(&full).map_err(Error::file("read", &full))?;
            let name = root.rsplit('/').next().unwrap_or(root);
            let files = crates.entry(name.to_owned()).or_default();
            files.insert(file.to_owned(), text);
        }
    }
    Ok(crates)
}

/// Every dependency of each circle.
fn problems(files: &Files) -> Vec<String> {
    let uses = uses(files);
    let mut problems = Vec::new();
    for &first in uses.keys() {
        // A circle is reported at the first of its modules.
        let circle = path(&uses, first, first).filter(|it| it.iter().min() == Some(&first));
        for pair in circle.iter().flat_map(|it| it.windows(2)) {
            if let [module, used] = *pair {
                let file = uses.get(module).and_then(|uses| uses.get(used));
                let file = file.copied().unwrap_or_default();
                problems.push(format!("circle: {module} -> {used}, in src/{file}"));
            }
        }
    }
    problems
}

fn uses(files: &Files) -> Uses<'_> {
    let modules: BTreeSet<_> = files.keys().map(|file| module_of(file)).collect();
    let tests: Vec<_> = files.iter().flat_map(test_modules).collect();
    let is_test = |file: &str| {
        let mut children = tests.iter().filter_map(|test| file.strip_prefix(test));
        children.any(|rest| rest.starts_with(['/', '.']))
    };
    let mut uses = Uses::new();
    for (file, text) in files.iter().filter(|(file, _)| !is_test(file)) {
        let module = module_of(file);
        for used in roots(&without_comments_and_tests(text)) {
            if used != module
                && let Some(used) = modules.get(used)
            {
                let uses = uses.entry(module).or_default();
                uses.entry(used).or_insert(file);
            }
        }
    }
    uses
}

/// The top-level module of a file.
fn module_of(file: &str) -> &str {
    file.split(['/', '.']).next().unwrap_or_default()
}

/// Paths, without extension, of the test modules declared by a file.
fn test_modules((file, text): (&String, &String)) -> Vec<String> {
    let parent = match file.strip_suffix(".rs").unwrap_or(file) {
        "lib" | "main" => String::new(),
        module => format!("{module}/"),
    };
    let declarations = text.split("#[cfg(test)]\n").skip(1);
    let names = declarations.filter_map(|rest| {
        let declaration = rest.lines().next()?.strip_suffix(';')?;
        let (_, name) = declaration.rsplit_once("mod ")?;
        Some(format!("{parent}{name}"))
    });
    names.collect()
}

fn without_comments_and_tests(text: &str) -> String {
    let code = text.split("#[cfg(test)]\nmod tests {").next();
    let lines = code.unwrap_or_default().lines();
    let code: Vec<_> = lines
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect();
    code.join("\n")
}

/// The names after each `crate::`, also those of a group.
fn roots(code: &str) -> Vec<&str> {
    let mut names = Vec::new();
    for path in code.split("crate::").skip(1) {
        let Some(group) = path.strip_prefix('{') else {
            names.push(name_at(path));
            continue;
        };
        names.push(name_at(group));
        let mut depth = 0_usize;
        for (at, character) in group.char_indices() {
            match character {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => names.push(name_at(&group[at + 1..])),
                _ => {}
            }
        }
    }
    names
}

/// The identifier at the start of a text.
fn name_at(text: &str) -> &str {
    let mut names = text
        .trim_start()
        .split(|c: char| !c.is_alphanumeric() && c != '_');
    names.next().unwrap_or_default()
}

/// The shortest chain of uses between two modules, both included.
fn path<'f>(uses: &Uses<'f>, from: &'f str, to: &str) -> Option<Vec<&'f str>> {
    let mut chains = VecDeque::from([vec![from]]);
    let mut seen = BTreeSet::new();
    while let Some(chain) = chains.pop_front() {
        let used = chain.last().and_then(|last| uses.get(last));
        for module in used.into_iter().flat_map(BTreeMap::keys).copied() {
            let longer = [&chain[..], &[module]].concat();
            if module == to {
                return Some(longer);
            }
            if seen.insert(module) {
                chains.push_back(longer);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(texts: &[(&str, &str)]) -> Files {
        let owned = |(file, text): &(&str, &str)| ((*file).to_owned(), (*text).to_owned());
        texts.iter().map(owned).collect()
    }

    #[test]
    fn a_circle_is_reported_once_with_its_files() {
        let files = files(&[
            ("a.rs", "use crate::b;"),
            ("a/child.rs", "use crate::a::Item; use crate::d::Item;"),
            ("b.rs", "fn f() -> crate::c::Item {}"),
            (
                "c/child.rs",
                "use crate::{\n    d::{a, b},\n    a::child::Item,\n};",
            ),
            ("d.rs", "use crate::missing;"),
        ]);
        let found = [
            "circle: a -> b, in src/a.rs",
            "circle: b -> c, in src/b.rs",
            "circle: c -> a, in src/c/child.rs",
        ];
        assert_eq!(problems(&files), found);
    }

    #[test]
    fn comments_and_tests_are_skipped() {
        let files = files(&[
            ("lib.rs", "#[cfg(test)]\nmod fixtures;\npub mod a;\n"),
            ("fixtures.rs", "use crate::a;"),
            (
                "a.rs",
                "#[cfg(test)]\npub(crate) mod claims;\nuse crate::{fixtures, b};\n",
            ),
            ("a/claims.rs", "use crate::b;"),
            (
                "b.rs",
                "//! [`crate::a`]\n\n#[cfg(test)]\nmod tests {\n    use crate::a;\n}\n",
            ),
        ]);
        assert!(problems(&files).is_empty());
    }
}
