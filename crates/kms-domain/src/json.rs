//! Canonical JSON, the text that is hashed, authenticated and written to disk.
//! Implements `docs/format/associated-data.md` section 2.
//!
//! The format escapes `<`, `>`, `&`, U+2028 and U+2029, which plain JSON writers leave as they are.
//! They occur only inside strings, so they are replaced in the finished text.

use serde::{Serialize, de::DeserializeOwned};

/// Reason why a text is not canonical.
#[derive(Debug, thiserror::Error)]
pub enum JsonProblem {
    /// A syntax error, an unknown or duplicate member, `null`, a wrong type, or trailing text.
    #[error("it is not the JSON of this format")]
    Unreadable(#[source] serde_json::Error),
    /// Valid JSON, but not in canonical form.
    #[error(
        "it is readable JSON but not in the form that is written here: members out of order, an \
         explicit empty or zero member, or an unusual spelling of a character"
    )]
    NotCanonical,
}

/// One line without white space.
pub(crate) fn compact<T: Serialize>(value: &T) -> String {
    escape_for_html(serde_json::to_string(value))
}

/// Two-space indent and one trailing newline: the layout of files.
pub(crate) fn indented<T: Serialize>(value: &T) -> String {
    let mut text = escape_for_html(serde_json::to_string_pretty(value));
    text.push('\n');
    text
}

/// Parses a value from canonical text. White space between tokens is ignored.
///
/// A changed byte therefore changes the value, is refused, or changes white space only.
pub(crate) fn read<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Result<T, JsonProblem> {
    let value = serde_json::from_slice(bytes).map_err(JsonProblem::Unreadable)?;
    if without_layout(bytes).eq(compact(&value).bytes()) {
        Ok(value)
    } else {
        Err(JsonProblem::NotCanonical)
    }
}

#[expect(
    clippy::expect_used,
    reason = "only structs of strings and integers are written, and those cannot fail"
)]
fn escape_for_html(text: serde_json::Result<String>) -> String {
    let text = text.expect("strings and integers have a JSON form");
    // U+2028 and U+2029 begin with this byte, as many other characters do.
    let special = |byte| matches!(byte, b'<' | b'>' | b'&' | 0xe2);
    if !text.bytes().any(special) {
        return text;
    }
    let mut escaped = String::with_capacity(text.len() + 32);
    for c in text.chars() {
        match c {
            '<' => escaped.push_str("\\u003c"),
            '>' => escaped.push_str("\\u003e"),
            '&' => escaped.push_str("\\u0026"),
            '\u{2028}' => escaped.push_str("\\u2028"),
            '\u{2029}' => escaped.push_str("\\u2029"),
            plain => escaped.push(plain),
        }
    }
    escaped
}

/// The bytes of valid JSON without the white space between tokens.
fn without_layout(bytes: &[u8]) -> impl Iterator<Item = u8> {
    let mut in_string = false;
    let mut escaped = false;
    bytes.iter().copied().filter(move |&byte| {
        if in_string {
            in_string = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
            true
        } else {
            in_string = byte == b'"';
            !matches!(byte, b' ' | b'\n' | b'\r' | b'\t')
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn strings_are_escaped_by_the_table_of_the_format() {
        for (text, written) in [
            ("\"\\", r#""\"\\""#),
            ("\u{8}\u{c}\n\r\t", r#""\b\f\n\r\t""#),
            ("\0\u{1}\u{b}\u{1f}", r#""\u0000\u0001\u000b\u001f""#),
            ("<>&", r#""\u003c\u003e\u0026""#),
            ("\u{2028}\u{2029}", r#""\u2028\u2029""#),
            (
                "/\u{7f}\u{80}äß日\u{1f511}",
                "\"/\u{7f}\u{80}äß日\u{1f511}\"",
            ),
        ] {
            assert_eq!(compact(&text), written);
        }
    }

    #[test]
    fn another_spelling_of_the_same_value_is_refused() {
        assert_eq!(read::<String>(br#" "\u003c" "#).unwrap(), "<");
        for other in [r#""<""#, r#""\u003C""#, r#""\/""#, r#""\u0061""#] {
            let problem = read::<String>(other.as_bytes()).unwrap_err();
            assert!(matches!(problem, JsonProblem::NotCanonical), "{other}");
        }
        let problem = read::<String>(b"\"a\" \"b\"").unwrap_err();
        assert!(matches!(problem, JsonProblem::Unreadable(_)));
    }

    proptest! {
        #[test]
        fn every_text_is_read_back(text in any::<Vec<String>>()) {
            prop_assert_eq!(read::<Vec<String>>(compact(&text).as_bytes()).unwrap(), text.as_slice());
            prop_assert_eq!(read::<Vec<String>>(indented(&text).as_bytes()).unwrap(), text.as_slice());
        }
    }
}
