//! `cargo xtask prose`: measures the English of docs, comments and messages.
//!
//! Free relative clauses, `that`/`which` and negations have limits per 1,000 words; listed phrases
//! must be replaced by standard terms. Each limit is about the worst figure of three well-kept Rust
//! projects. Tests, generated code and the changelog are not measured.

use std::cmp::Reverse;
use std::fs;
use std::process::Command;

use crate::process::{self, Error, say};

/// Lines of `phrase, phrase = standard terms`; `*` matches one or more characters of a word.
const PHRASES: &str = include_str!("prose/phrases.txt");

/// Maximum number of lines printed for an exceeded limit.
const WORST: usize = 12;

/// Words of the first figure, allowed in questions.
const FREE: &[&str] = &["what", "who", "whoever", "whatever", "whichever"];

const FIGURES: [(&str, &[&str]); 3] = [
    ("what/who", FREE),
    ("that/which", &["that", "which"]),
    (
        "negations",
        &["not", "no", "nothing", "none", "never", "nobody", "neither"],
    ),
];

/// Kinds of text, with their limits in the order of [`FIGURES`].
const KINDS: [(&str, [f64; 3]); 3] = [
    ("docs", [2.5, 15.0, 16.0]),
    ("comments", [1.5, 16.0, 15.0]),
    ("messages", [1.0, 8.0, 45.0]),
];

/// A line number, or `file:line`, and the text to measure.
type Line<Place> = (Place, String);

/// Prints the figures, and the worst lines for each exceeded limit.
pub(crate) fn run() -> Result<(), Error> {
    let (mut failed, mut phrases) = (Vec::new(), Vec::new());
    for ((kind, limits), lines) in KINDS.into_iter().zip(read()?) {
        for ((figure, words), limit) in FIGURES.into_iter().zip(limits) {
            let found = per_thousand(&lines, words);
            say(&format!("{kind}: {figure} {found:.1} (at most {limit})"));
            if found > limit {
                failed.push(format!("{figure} in {kind}"));
                let found = lines.iter().filter(|(_, text)| count(text, words) > 0);
                let mut worst: Vec<_> = found.collect();
                worst.sort_by_cached_key(|(_, text)| Reverse(count(text, words)));
                for (place, text) in worst.into_iter().take(WORST) {
                    say(&format!("    {place}: {}", text.trim()));
                }
            }
        }
        for (place, text) in &lines {
            let found = phrases_in(text);
            phrases.extend(found.map(|(phrase, terms)| format!("{place}: {phrase}: {terms}")));
        }
    }
    if !phrases.is_empty() {
        say(&format!("phrases: {} (at most 0)", phrases.len()));
        phrases
            .iter()
            .take(WORST)
            .for_each(|found| say(&format!("    {found}")));
        failed.push("phrases".to_owned());
    }
    if failed.is_empty() {
        return Ok(());
    }
    let failed = failed.join(", ");
    Err(Error::Refused(format!("limits exceeded: {failed}")))
}

/// Reads the files known to git, in the order of [`KINDS`].
fn read() -> Result<[Vec<Line<String>>; 3], Error> {
    let mut list = Command::new("git");
    let list = process::output(list.args(["ls-files", "-z"]).current_dir(process::root()))?;
    let [mut docs, mut comments, mut messages] = [Vec::new(), Vec::new(), Vec::new()];
    for file in list.split_terminator('\0') {
        let has = |part: &&str| file.contains(part);
        let is_doc = file.ends_with(".md");
        let is_code = file.ends_with(".rs")
            && !file.ends_with("tests.rs")
            && !["/tests", "generated"].iter().any(has);
        let path = process::root().join(file);
        if !(is_doc || is_code) || ["CHANGELOG", "vendor/"].iter().any(has) || !path.is_file() {
            continue;
        }
        let text = fs::read(&path).map_err(Error::file("read", &path))?;
        let text = String::from_utf8_lossy(&text);
        let place = |(number, text): Line<usize>| (format!("{file}:{number}"), text);
        if is_doc {
            docs.extend(page(&text).into_iter().map(place));
        } else {
            comments.extend(comments_of(&text).map(place));
            messages.extend(messages_of(&text).map(place));
        }
    }
    Ok([docs, comments, messages])
}

fn words(text: &str) -> impl Iterator<Item = String> {
    let words = text.split(|c: char| !c.is_ascii_alphabetic() && c != '\'');
    words.filter(|word| !word.is_empty()).map(str::to_lowercase)
}

fn count(text: &str, counted: &[&str]) -> usize {
    let in_question = text.trim_end().ends_with('?') && counted == FREE;
    let found = words(text).filter(|word| counted.contains(&word.as_str()) && !in_question);
    found.count()
}

fn per_thousand<P>(lines: &[Line<P>], counted: &[&str]) -> f64 {
    let all: usize = lines.iter().map(|(_, text)| words(text).count()).sum();
    let found: usize = lines.iter().map(|(_, text)| count(text, counted)).sum();
    1000.0 * found as f64 / all.max(1) as f64
}

/// The lines of a page, without code and link targets.
fn page(text: &str) -> Vec<Line<usize>> {
    let prose = outside(text, "```", |code| "\n".repeat(code.matches('\n').count()));
    let lines = (1..).zip(prose.lines());
    let lines = lines.map(|(number, line)| {
        let mut parts = line.split("](");
        let first = parts.next().unwrap_or_default().to_owned();
        let rest = parts.map(|part| part.split_once(')').map_or(part, |(_, after)| after));
        (
            number,
            without_code(&rest.fold(first, |line, part| line + "]" + part)),
        )
    });
    lines.collect()
}

/// Replaces the text between pairs of a mark.
fn outside(text: &str, mark: &str, replace: impl Fn(&str) -> String) -> String {
    let last = text.matches(mark).count();
    let parts = text.split(mark).enumerate();
    let parts = parts.map(|(index, part)| match index % 2 == 1 && index < last {
        true => replace(part),
        false => part.to_owned(),
    });
    parts.collect()
}

fn without_code(line: &str) -> String {
    outside(line, "`", |_| "X".to_owned())
}

/// The text of a comment line.
fn comment(line: &str) -> Option<&str> {
    let rest = line.trim_start().strip_prefix("//")?;
    Some(rest.strip_prefix(['/', '!']).unwrap_or(rest))
}

fn comments_of(text: &str) -> impl Iterator<Item = Line<usize>> {
    let lines = (1..).zip(text.lines());
    lines.filter_map(|(number, line)| Some((number, without_code(comment(line)?))))
}

/// String literals of more than three words, before the unit tests.
fn messages_of(text: &str) -> impl Iterator<Item = Line<usize>> {
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    let lines = (1..)
        .zip(code.lines())
        .filter(|(_, line)| comment(line).is_none());
    let literals = lines.flat_map(|(number, line)| {
        let literals = literals(line).into_iter();
        literals.map(move |text| (number, text))
    });
    literals.filter(|(_, text)| text.split_whitespace().count() > 3)
}

/// String literals that begin and end on this line.
fn literals(line: &str) -> Vec<String> {
    let (mut found, mut open) = (Vec::new(), None::<String>);
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match (&mut open, c) {
            (None, '"') => open = Some(String::new()),
            (None, _) => {}
            (Some(_), '"') => found.extend(open.take()),
            (Some(text), '\\') => text.extend([Some(c), chars.next()].into_iter().flatten()),
            (Some(text), _) => text.push(c),
        }
    }
    found
}

/// The listed phrases in a text, with their standard terms.
fn phrases_in(text: &str) -> impl Iterator<Item = (&'static str, &'static str)> {
    let text = text.to_lowercase();
    let rows = PHRASES.lines().filter_map(|row| row.split_once(" = "));
    let all = rows.flat_map(|(row, terms)| row.split(", ").map(move |phrase| (phrase, terms)));
    all.filter(move |(phrase, _)| contains(&text, phrase))
}

/// Whether a text contains a phrase as whole words.
fn contains(text: &str, phrase: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let (head, tail) = phrase.split_once('*').unwrap_or((phrase, ""));
    text.match_indices(head).any(|(at, head)| {
        let (before, rest) = (&text[..at], &text[at + head.len()..]);
        let rest = rest.split(|c| !is_word(c)).next().unwrap_or_default();
        let fits = match phrase.contains('*') {
            true => rest.len() > tail.len() && rest.ends_with(tail),
            false => rest.is_empty(),
        };
        fits && !before.ends_with(is_word)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_words_count_and_questions_may_ask() {
        let counts = |text: &str| FIGURES.map(|(_, words)| count(text, words));
        assert_eq!(counts("What it was, not that which WHO says."), [2, 2, 1]);
        assert_eq!(counts("What is this, and who says that? "), [0, 1, 0]);
        assert_eq!(counts("notable, whose, none-such, don't, no"), [0, 0, 2]);
        let lines = ["one two three not", "it's", "1 2 3"].map(|text| ((), text.to_owned()));
        let figures = FIGURES.map(|(_, words)| per_thousand(&lines, words));
        assert_eq!(figures, [0.0, 0.0, 200.0]);
        assert_eq!(per_thousand::<()>(&[], FREE), 0.0);
    }

    #[test]
    fn pages_are_read_without_code_and_link_targets() {
        let lines = page("A [link](no/who.md) `not` b\n```sh\nnever\n```\nend ` of\n");
        let texts: Vec<_> = lines.iter().map(|(_, text)| text.as_str()).collect();
        assert_eq!(texts, ["A [link] X b", "", "", "", "end  of"]);
        assert_eq!(lines[4].0, 5);
    }

    #[test]
    fn comments_and_long_literals_are_read_from_code() {
        let code = "/// Doc `x`.\nlet a = \"one two three four\"; // no\n    // \"a b c d\"\n\
                    f(\"a b c\", \"a \\\"b\\\" c d\", \"open end of it\n#[cfg(test)]\n\"a b c d\"\n";
        let owned = |expected: [(usize, &str); 2]| expected.map(|(n, text)| (n, text.to_owned()));
        let comments: Vec<_> = comments_of(code).collect();
        assert_eq!(comments, owned([(1, " Doc X."), (3, " \"a b c d\"")]));
        let messages: Vec<_> = messages_of(code).collect();
        let expected = [(2, "one two three four"), (4, "a \\\"b\\\" c d")];
        assert_eq!(messages, owned(expected));
    }

    #[test]
    fn phrases_are_found_as_whole_words() {
        let found = |text: &str| {
            phrases_in(text)
                .map(|(phrase, _)| phrase)
                .collect::<Vec<_>>()
        };
        assert_eq!(found("It mends, Anew."), ["anew", "mends"]);
        assert_eq!(found("The way to OpenBao"), ["the way to openbao"]);
        assert_eq!(found("it goes on serving"), ["goes on *ing"]);
        assert!(found("amend, mender, goes on ing, goes on foot").is_empty());
    }
}
