//! Reads JSON into nodes that borrow its texts.
//!
//! A text with escapes is unescaped into a wiped buffer of its own. `serde_json` would use a buffer that
//! nobody wipes; here it reads numbers alone.

use zeroize::Zeroizing;

use super::node::{Members, Name, Node};

/// Levels of lists and maps, as many as `serde_json` reads.
const MAX_DEPTH: u32 = 127;

/// Error: invalid JSON, or deeper than 127 levels. It quotes no content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct InvalidJson;

/// Reads one document.
///
/// # Errors
/// [`InvalidJson`].
pub(super) fn parse(json: &[u8]) -> Result<Node<'_>, InvalidJson> {
    let text = std::str::from_utf8(json).map_err(|_| InvalidJson)?;
    let mut reader = Reader { rest: text };
    let node = reader.value(MAX_DEPTH).ok_or(InvalidJson)?;
    reader.skip_space();
    match reader.rest {
        "" => Ok(node),
        _ => Err(InvalidJson),
    }
}

struct Reader<'a> {
    rest: &'a str,
}

impl<'a> Reader<'a> {
    fn value(&mut self, depth: u32) -> Option<Node<'a>> {
        self.skip_space();
        match self.rest.as_bytes().first()? {
            b'{' => self.map(depth.checked_sub(1)?),
            b'[' => self.list(depth.checked_sub(1)?),
            b'"' => Some(match self.text()? {
                Name::Borrowed(text) => Node::Text(text),
                Name::Owned(text) => Node::Owned(text),
            }),
            b't' => self.take("true").map(|()| Node::Bool(true)),
            b'f' => self.take("false").map(|()| Node::Bool(false)),
            b'n' => self.take("null").map(|()| Node::Null),
            _ => self.number(),
        }
    }

    fn map(&mut self, depth: u32) -> Option<Node<'a>> {
        let mut members = Members::new();
        self.items('{', '}', |reader| {
            reader.skip_space();
            let name = reader.text()?;
            reader.skip_space();
            reader.take(":")?;
            members.push((name, reader.value(depth)?));
            Some(())
        })?;
        Some(Node::Map(members))
    }

    fn list(&mut self, depth: u32) -> Option<Node<'a>> {
        let mut items = Vec::new();
        self.items('[', ']', |reader| {
            items.push(reader.value(depth)?);
            Some(())
        })?;
        Some(Node::List(items))
    }

    /// Items between brackets, separated by commas.
    fn items(
        &mut self,
        open: char,
        close: char,
        mut item: impl FnMut(&mut Self) -> Option<()>,
    ) -> Option<()> {
        self.rest = self.rest.strip_prefix(open)?;
        self.skip_space();
        if let Some(rest) = self.rest.strip_prefix(close) {
            self.rest = rest;
            return Some(());
        }
        loop {
            item(self)?;
            self.skip_space();
            if let Some(rest) = self.rest.strip_prefix(close) {
                self.rest = rest;
                return Some(());
            }
            self.take(",")?;
        }
    }

    fn text(&mut self) -> Option<Name<'a>> {
        let rest = self.rest.strip_prefix('"')?;
        let mut end = 0;
        let mut has_escapes = false;
        loop {
            match rest.as_bytes().get(end)? {
                b'"' => break,
                b'\\' => {
                    has_escapes = true;
                    end += 2;
                }
                0..=0x1f => return None,
                _ => end += 1,
            }
        }
        let (text, rest) = rest.split_at_checked(end)?;
        self.rest = rest.strip_prefix('"')?;
        match has_escapes {
            true => unescaped(text).map(Name::Owned),
            false => Some(Name::Borrowed(text)),
        }
    }

    fn number(&mut self) -> Option<Node<'a>> {
        let is_part = |byte: &u8| matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
        let end = self.rest.bytes().take_while(is_part).count();
        let (number, rest) = self.rest.split_at_checked(end)?;
        self.rest = rest;
        let number: serde_json::Number = serde_json::from_str(number).ok()?;
        number
            .as_i64()
            .map(Node::Int)
            .or_else(|| number.as_u64().map(Node::Uint))
            .or_else(|| number.as_f64().map(Node::Float))
    }

    fn take(&mut self, word: &str) -> Option<()> {
        self.rest = self.rest.strip_prefix(word)?;
        Some(())
    }

    fn skip_space(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\n', '\r']);
    }
}

/// The text without its escapes, which are never shorter than their letters: the buffer does not grow.
fn unescaped(text: &str) -> Option<Zeroizing<String>> {
    let mut out = Zeroizing::new(String::with_capacity(text.len()));
    let mut rest = text;
    while let Some((plain, escaped)) = rest.split_once('\\') {
        out.push_str(plain);
        let mut letters = escaped.chars();
        let letter = match letters.next()? {
            letter @ ('"' | '\\' | '/') => letter,
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'u' => {
                let (letter, end) = unit_pair(escaped.get(1..)?)?;
                letters = escaped.get(1..)?.get(end..)?.chars();
                letter
            }
            _ => return None,
        };
        out.push(letter);
        rest = letters.as_str();
    }
    out.push_str(rest);
    Some(out)
}

/// The letter of one UTF-16 unit in four hex digits, or of a pair with `\u` between them; and its length.
fn unit_pair(digits: &str) -> Option<(char, usize)> {
    let unit = |at: usize| {
        let digits = digits.get(at..at.checked_add(4)?)?;
        let is_hex = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_hex
            .then(|| u16::from_str_radix(digits, 16).ok())
            .flatten()
    };
    let first = unit(0)?;
    if let Some(letter) = char::from_u32(first.into()) {
        return Some((letter, 4));
    }
    let has_second = digits.get(4..6) == Some("\\u");
    let second = has_second.then(|| unit(6)).flatten()?;
    let letter = char::decode_utf16([first, second]).next()?.ok()?;
    Some((letter, 10))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn same(node: &Node<'_>, value: &Value) -> bool {
        let text = |text: &str| value.as_str() == Some(text);
        match node {
            Node::Null => value.is_null(),
            Node::Bool(it) => value.as_bool() == Some(*it),
            Node::Int(it) => value.as_i64() == Some(*it),
            Node::Uint(it) => value.as_u64() == Some(*it),
            Node::Float(it) => value.as_f64() == Some(*it),
            Node::Text(it) => text(it),
            Node::Owned(it) => text(it),
            Node::Bytes(_) => false,
            Node::List(items) => value.as_array().is_some_and(|values| {
                items.len() == values.len() && items.iter().zip(values).all(|(a, b)| same(a, b))
            }),
            // Of equal names, `Value` keeps the last one.
            Node::Map(members) => members.iter().enumerate().all(|(index, (name, node))| {
                let mut later = members.iter().skip(index + 1);
                later.any(|(other, _)| other.as_str() == name.as_str())
                    || value.get(name.as_str()).is_some_and(|it| same(node, it))
            }),
        }
    }

    #[track_caller]
    fn assert_like_serde_json(json: &[u8]) {
        let shown = String::from_utf8_lossy(json);
        match (parse(json), serde_json::from_slice::<Value>(json)) {
            (Ok(node), Ok(value)) => assert!(same(&node, &value), "{shown}"),
            (Err(InvalidJson), Err(_)) => {}
            (ours, theirs) => panic!("{shown}: {:?}, {:?}", ours.is_ok(), theirs.is_ok()),
        }
    }

    #[test]
    fn documents_read_like_those_of_serde_json() {
        for json in [
            "",
            " ",
            "null",
            " true ",
            "false",
            "nul",
            "truex",
            "0",
            "-0",
            "01",
            "-",
            "+1",
            "1.",
            ".5",
            "1.5e-3",
            "1e400",
            "9223372036854775807",
            "9223372036854775808",
            "18446744073709551616",
            "-9223372036854775809",
            "\"\"",
            "\"a",
            "\"a\nb\"",
            "\"\u{7f}é😀\"",
            r#""\"\\\/\b\f\n\r\t""#,
            r#""\x""#,
            r#""\"#,
            r#""\u0041\u00e9\u2028""#,
            r#""\ud83d\ude00""#,
            r#""\uD83D\uDE00x""#,
            r#""\ud83d""#,
            r#""\ud83dx""#,
            r#""\ude00""#,
            r#""\ud83d\u0041""#,
            r#""\u12""#,
            r#""\u+123""#,
            r#""\u00é""#,
            "[]",
            "[ ]",
            "[1, 2 ,3]",
            "[1,]",
            "[,]",
            "[1 2]",
            "[1",
            "{}",
            "{ }",
            r#"{"a" : 1 , "b":{"c":[]}}"#,
            r#"{"a":1,}"#,
            r#"{"a"}"#,
            r#"{"a":}"#,
            r#"{a:1}"#,
            r#"{"a":1,"a":2}"#,
            r#"{"\n":"\n"}"#,
            "{} {}",
            "\u{feff}{}",
        ] {
            assert_like_serde_json(json.as_bytes());
        }
        assert_like_serde_json(b"\"\xff\"");
        for depth in [126, 127, 128, 100_000] {
            let nested = ["[".repeat(depth), "]".repeat(depth)].concat();
            assert_like_serde_json(nested.as_bytes());
        }
    }

    proptest! {
        #[test]
        fn any_text_reads_like_that_of_serde_json(text in "[\\[\\]{},:\"\\\\ud8c0e1.\\-ntrue\u{e9}]{0,24}") {
            assert_like_serde_json(text.as_bytes());
        }

        #[test]
        fn an_escaped_text_is_itself(text: String, name: String) {
            let json = serde_json::json!({name: [text]}).to_string();
            assert_like_serde_json(json.as_bytes());
            let escaped: String = text.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect();
            let read = unescaped(&escaped).unwrap();
            prop_assert_eq!(read.as_str(), text);
        }
    }
}
