//! Compares the output of a command with the page.

use std::collections::BTreeMap;

/// Words bound to names such as `plan-hash`.
pub(super) type Words = BTreeMap<String, String>;

/// The bindings after this output, or `None` if it differs from the expected output.
pub(super) fn compare(expected: &[String], actual: &str, known: &Words) -> Option<Words> {
    let actual: Vec<&str> = actual.lines().map(str::trim_end).collect();
    lines(expected, &actual, known)
}

fn lines(expected: &[String], actual: &[&str], known: &Words) -> Option<Words> {
    let Some((pattern, rest)) = expected.split_first() else {
        return actual.is_empty().then(|| known.clone());
    };
    if pattern.trim() == "..." {
        return (0..=actual.len()).find_map(|skipped| lines(rest, &actual[skipped..], known));
    }
    let (line, following) = actual.split_first()?;
    lines(rest, following, &within(pattern, line, known)?)
}

/// Matches one line.
fn within(pattern: &str, text: &str, known: &Words) -> Option<Words> {
    if let Some(rest) = pattern.strip_prefix("[..]") {
        let ends = (0..=text.len()).filter(|&end| text.is_char_boundary(end));
        return ends.rev().find_map(|end| within(rest, &text[end..], known));
    }
    if let Some((name, rest)) = name(pattern) {
        if let Some(word) = known.get(name) {
            return within(rest, text.strip_prefix(word.as_str())?, known);
        }
        let word = text.split(char::is_whitespace).next().unwrap_or_default();
        let ends = (1..=word.len()).filter(|&end| word.is_char_boundary(end));
        return ends.rev().find_map(|end| {
            let mut known = known.clone();
            known.insert(name.to_owned(), word[..end].to_owned());
            within(rest, &text[end..], &known)
        });
    }
    match (pattern.chars().next(), text.chars().next()) {
        (None, None) => Some(known.clone()),
        (Some(wanted), Some(found)) if wanted == found => within(
            &pattern[wanted.len_utf8()..],
            &text[found.len_utf8()..],
            known,
        ),
        _ => None,
    }
}

/// The name at the start of a text, and the rest of the text.
fn name(text: &str) -> Option<(&str, &str)> {
    let (name, rest) = text.strip_prefix('<')?.split_once('>')?;
    let part = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let named = !name.is_empty() && name.chars().all(part);
    named.then_some((name, rest))
}

/// Replaces the names in a command with their words. The error is an unbound name.
pub(super) fn filled(command: &str, known: &Words) -> Result<String, String> {
    let mut filled = String::new();
    let mut rest = command;
    while let Some(c) = rest.chars().next() {
        if let Some((name, after)) = name(rest) {
            filled.push_str(known.get(name).ok_or(name)?);
            rest = after;
        } else {
            filled.push(c);
            rest = &rest[c.len_utf8()..];
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fits(expected: &str, actual: &str) -> Option<Words> {
        let expected: Vec<_> = expected.lines().map(str::to_owned).collect();
        compare(&expected, actual, &Words::new())
    }

    #[test]
    fn only_what_the_page_says_fits() {
        for (expected, actual) in [
            ("", ""),
            ("a\nb", "a \nb\n"),
            ("...\nb", "a\na\nb"),
            ("...", ""),
            ("a [..] c[..]", "a b c c"),
        ] {
            assert!(fits(expected, actual).is_some(), "{expected} {actual}");
        }
        for (expected, actual) in [
            ("", "a"),
            ("a", ""),
            ("a\nb", "a\nc"),
            ("...\nb", "a\nb\nc"),
            ("a [..] c", "a b d"),
            ("<x> <x>", "a b"),
            ("a<x>", "a"),
        ] {
            assert_eq!(fits(expected, actual), None, "{expected} {actual}");
        }
    }

    #[test]
    fn a_name_stands_for_the_word_that_was_met() {
        let known = fits("hash: <a-hash>,\n... <a-hash>", "hash: krs1.X,\n... krs1.X").unwrap();
        assert_eq!(known["a-hash"], "krs1.X");
        assert_eq!(
            filled("--is <a-hash> < in", &known),
            Ok("--is krs1.X < in".to_owned())
        );
        assert_eq!(filled("--is <other>", &known), Err("other".to_owned()));
    }
}
