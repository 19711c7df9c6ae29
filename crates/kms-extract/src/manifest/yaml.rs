//! Writes a manifest as YAML, into a buffer that is wiped.
//!
//! Texts are plain only where YAML 1.1 and 1.2 agree on them; all others are double-quoted in the
//! escapes that both share. A library would copy texts into buffers that nobody wipes.

use std::fmt::{self, Write as _};

use zeroize::Zeroizing;

use super::node::{Members, Node, append_base64, base64_size};

/// Text that is wiped, also when it grows.
#[derive(Default)]
pub struct SecretText {
    bytes: Zeroizing<Vec<u8>>,
    /// Largest size in bytes.
    most: usize,
}

impl SecretText {
    pub(super) fn limited(most: usize) -> Self {
        Self {
            bytes: Zeroizing::default(),
            most,
        }
    }

    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Makes room, and wipes the buffer that was too small.
    fn reserve(&mut self, more: usize) -> fmt::Result {
        let needed = self.bytes.len().saturating_add(more);
        if needed > self.most {
            return Err(fmt::Error);
        }
        if needed > self.bytes.capacity() {
            let room = needed.max(self.bytes.capacity().saturating_mul(2));
            let mut larger = Zeroizing::new(Vec::with_capacity(room));
            larger.extend_from_slice(&self.bytes);
            self.bytes = larger;
        }
        Ok(())
    }

    fn push_base64(&mut self, bytes: &[u8]) -> fmt::Result {
        self.reserve(base64_size(bytes))?;
        append_base64(bytes, &mut self.bytes);
        Ok(())
    }
}

impl fmt::Write for SecretText {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.reserve(text.len())?;
        self.bytes.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

/// Writes the members of a document.
///
/// # Errors
/// The text would be larger than the limit of the buffer.
pub(super) fn document(members: &Members<'_>, out: &mut SecretText) -> fmt::Result {
    map(members, 0, out)
}

fn map(members: &Members<'_>, indent: usize, out: &mut SecretText) -> fmt::Result {
    for (index, (name, value)) in members.iter().enumerate() {
        if index > 0 {
            indentation(indent, out)?;
        }
        text(name.as_str(), out)?;
        out.write_char(':')?;
        match value {
            Node::Map(members) if !members.is_empty() => {
                out.write_char('\n')?;
                indentation(indent + 1, out)?;
                map(members, indent + 1, out)?;
            }
            Node::List(items) if !items.is_empty() => {
                out.write_char('\n')?;
                list(items, indent, out)?;
            }
            value => {
                out.write_char(' ')?;
                scalar(value, out)?;
            }
        }
    }
    Ok(())
}

fn list(items: &[Node<'_>], indent: usize, out: &mut SecretText) -> fmt::Result {
    for item in items {
        indentation(indent, out)?;
        match item {
            Node::Map(members) if !members.is_empty() => {
                out.write_str("- ")?;
                map(members, indent + 1, out)?;
            }
            Node::List(items) if !items.is_empty() => {
                out.write_str("-\n")?;
                list(items, indent + 1, out)?;
            }
            item => {
                out.write_str("- ")?;
                scalar(item, out)?;
            }
        }
    }
    Ok(())
}

fn indentation(levels: usize, out: &mut SecretText) -> fmt::Result {
    (0..levels).try_for_each(|_| out.write_str("  "))
}

/// A value on one line.
fn scalar(value: &Node<'_>, out: &mut SecretText) -> fmt::Result {
    match value {
        Node::Null => out.write_str("null"),
        Node::Bool(value) => write!(out, "{value}"),
        Node::Int(value) => write!(out, "{value}"),
        Node::Uint(value) => write!(out, "{value}"),
        // With a point or an exponent, so that it stays a floating-point number.
        Node::Float(value) => write!(out, "{value:?}"),
        Node::Text(value) => text(value, out),
        Node::Owned(value) => text(value, out),
        Node::Bytes(bytes) => {
            out.write_char('"')?;
            out.push_base64(bytes)?;
            out.write_char('"')
        }
        Node::List(_) => out.write_str("[]"),
        Node::Map(_) => out.write_str("{}"),
    }?;
    out.write_char('\n')
}

fn text(text: &str, out: &mut SecretText) -> fmt::Result {
    if is_plain(text) {
        return out.write_str(text);
    }
    out.write_char('"')?;
    for letter in text.chars() {
        match letter {
            '"' => out.write_str("\\\"")?,
            '\\' => out.write_str("\\\\")?,
            '\n' => out.write_str("\\n")?,
            '\t' => out.write_str("\\t")?,
            '\r' => out.write_str("\\r")?,
            letter if is_printable(letter) => out.write_char(letter)?,
            letter => {
                let code = u32::from(letter);
                match code {
                    0..=0xff => write!(out, "\\x{code:02x}")?,
                    0x100..=0xffff => write!(out, "\\u{code:04x}")?,
                    _ => write!(out, "\\U{code:08x}")?,
                }
            }
        }
    }
    out.write_char('"')
}

/// Whether every YAML parser reads the bare text as this string.
fn is_plain(text: &str) -> bool {
    const RESERVED: [&str; 9] = ["true", "false", "yes", "no", "on", "off", "y", "n", "null"];
    let mut bytes = text.bytes();
    bytes
        .next()
        .is_some_and(|first| first.is_ascii_alphabetic())
        && bytes
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'/'))
        && !RESERVED.iter().any(|word| text.eq_ignore_ascii_case(word))
}

/// Whether a double-quoted text may have the letter itself.
fn is_printable(letter: char) -> bool {
    !letter.is_control()
        && !matches!(
            letter,
            '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}'..='\u{ffff}'
        )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::{Value, json};

    use super::{super::json, *};

    fn written(value: &Value) -> String {
        let json = serde_json::to_vec(value).unwrap();
        let Node::Map(members) = json::parse(&json).unwrap() else {
            panic!("no map")
        };
        let mut out = SecretText::limited(1 << 20);
        document(&members, &mut out).unwrap();
        String::from_utf8(out.as_bytes().to_vec()).unwrap()
    }

    #[test]
    fn a_manifest_reads_like_those_of_kubectl() {
        let text = written(&json!({
            "apiVersion": "v1",
            "list": ["a", {"b": 1, "c": [true]}, [], [["x"], 2.0]],
            "empty": {},
            "nested": {"on": "off", "number": "1e3", "none": null},
        }));
        assert_eq!(
            text,
            "apiVersion: v1\nempty: {}\nlist:\n- a\n- b: 1\n  c:\n  - true\n- []\n-\n  -\n    - \
             x\n  - 2.0\nnested:\n  none: null\n  number: \"1e3\"\n  \"on\": \"off\"\n"
        );
    }

    #[test]
    fn every_text_is_read_back_as_it_was() {
        let odd: Vec<String> = (0..0x300_u32)
            .chain(0x2020..0x2030)
            .chain(0xfef0..0x1_0010)
            .chain([0x1_f600, 0x10_ffff])
            .filter_map(char::from_u32)
            .map(|letter| format!("a{letter}b"))
            .collect();
        let words = [
            "",
            " ",
            "a ",
            "-",
            "---",
            "- a",
            "a: b",
            "a #b",
            "~",
            "Null",
            "Y",
            "0x1f",
            "012",
            "1_0",
            "1:30",
            ".5",
            "=",
            "<<",
            "!a",
            "&a",
            "*a",
            "%a",
            "@a",
            "`a",
            "2001-01-01",
            "a\n b\n",
            "\"",
            "'",
            "\\",
            "NaN",
            ".inf",
            "a/b",
            "a.b-c_d",
        ];
        let words = words.iter().map(|&word| word.to_owned());
        let all: Vec<String> = words.chain(odd).collect();
        let map: BTreeMap<_, _> = all.iter().map(|it| (it.clone(), 1)).collect();
        let value = json!({"map": map, "list": all});
        let read: Value = serde_saphyr::from_str(&written(&value)).unwrap();
        assert_eq!(read, value);
    }

    #[test]
    fn a_growing_buffer_keeps_its_text() {
        let mut out = SecretText::limited(1 << 20);
        for number in 0..1000 {
            write!(out, "{number},").unwrap();
        }
        assert_eq!(out.as_bytes().len(), 3890);
    }
    #[test]
    fn a_text_beyond_the_limit_is_refused() {
        let mut out = SecretText::limited(9);
        out.write_str("12345").unwrap();
        assert!(out.write_str("67890").is_err());
        assert!(out.push_base64(b"1234").is_err());
        out.push_base64(b"123").unwrap();
        assert_eq!(out.as_bytes(), b"12345MTIz");
    }
}
