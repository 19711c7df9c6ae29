//! Writes a manifest as YAML.

use std::fmt;

use serde::{Serialize, Serializer};
use serde_saphyr::{LitStr, ser_options, to_fmt_writer_with_options};
use zeroize::Zeroizing;

use super::node::{Members, Node, base64};

/// Text that is wiped, up to a limit.
#[derive(Default)]
pub struct SecretText {
    text: Zeroizing<String>,
    /// Largest size in bytes.
    most: usize,
}

impl SecretText {
    pub(super) fn limited(most: usize) -> Self {
        Self {
            text: Zeroizing::default(),
            most,
        }
    }

    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.text.as_bytes()
    }
}

impl fmt::Write for SecretText {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.text.len().saturating_add(text.len()) > self.most {
            return Err(fmt::Error);
        }
        self.text.push_str(text);
        Ok(())
    }
}

/// Writes the members of a document. Texts that YAML 1.1, which `kubectl` reads, takes for another type
/// are quoted; texts of several lines are literal blocks.
///
/// # Errors
/// The text would be larger than the limit of the buffer.
pub(super) fn document(members: &Members<'_>, out: &mut SecretText) -> fmt::Result {
    let options = ser_options! {
        prefer_block_scalars: false,
    };
    to_fmt_writer_with_options(out, &Map(members), options).map_err(|_| fmt::Error)
}

struct Map<'n, 'a>(&'n Members<'a>);

impl Serialize for Map<'_, '_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(self.0.iter().map(|(name, value)| (name.as_str(), value)))
    }
}

impl Serialize for Node<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => to.serialize_unit(),
            Self::Bool(value) => to.serialize_bool(*value),
            Self::Int(value) => to.serialize_i64(*value),
            Self::Uint(value) => to.serialize_u64(*value),
            Self::Float(value) => to.serialize_f64(*value),
            Self::Text(value) => text(value, to),
            Self::Owned(value) => text(value, to),
            Self::Bytes(bytes) => to.serialize_str(&base64(bytes)),
            Self::List(items) => to.collect_seq(items),
            Self::Map(members) => Map(members).serialize(to),
        }
    }
}

fn text<S: Serializer>(text: &str, to: S) -> Result<S::Ok, S::Error> {
    match is_block(text) {
        true => LitStr(text).serialize(to),
        false => to.serialize_str(text),
    }
}

/// Whether every parser reads a text of several lines from a literal block: without letters that need an
/// escape, a blank or empty first line, which sets the indentation, blanks before a line end, which nobody
/// sees, or empty lines at the end.
fn is_block(text: &str) -> bool {
    let lines = text.strip_suffix('\n').unwrap_or(text);
    text.contains('\n')
        && !lines.starts_with([' ', '\t', '\n'])
        && !lines.ends_with('\n')
        && !lines.is_empty()
        && !lines.split('\n').any(|line| line.ends_with([' ', '\t']))
        && lines
            .chars()
            .all(|it| matches!(it, '\n' | '\t') || is_printable(it))
}

fn is_printable(letter: char) -> bool {
    !letter.is_control()
        && !matches!(
            letter,
            '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}'..='\u{ffff}'
        )
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fmt::Write as _};

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
            "files": {"a.conf": "[a]\nb = \"c\"\n\nd\n", "b": ["x\ny"]},
            "nested": {"on": "off", "number": "1e3", "none": null},
        }));
        assert_eq!(
            text,
            "apiVersion: v1\nempty: {}\nfiles:\n  a.conf: |\n    [a]\n    b = \"c\"\n\n    d\n  \
             b:\n  - |-\n    x\n    y\nlist:\n- a\n- b: 1\n  c:\n  - true\n- []\n- - - x\n  - 2.0\nnested:\n  none: null\n  number: \"1e3\"\n  \"on\": \"off\"\n"
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
            "a\n\n\tb \n  c: |\n# d",
            "a\n",
            "\n",
            "a\n\n",
            " a\nb",
            "\ta\nb",
            "\na",
            "a\r\nb\n",
            "---\n- a\n...\n",
            "a\n   ",
            "a\n  \n",
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
    fn a_text_beyond_the_limit_is_refused() {
        let mut out = SecretText::limited(9);
        out.write_str("12345").unwrap();
        assert!(out.write_str("67890").is_err());
        assert_eq!(out.as_bytes(), b"12345");
    }
}
