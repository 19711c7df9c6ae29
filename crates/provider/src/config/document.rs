//! The YAML text as a tree with positions. The only module that knows the YAML crate.
//!
//! Scalars keep the type that YAML gives them: `0660` is a number, `"0660"` and `yes` are text.

use std::{collections::BTreeMap, fmt};

use serde::{
    Deserialize,
    de::{self, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Number, Value};
use serde_saphyr::{
    Spanned,
    options::{DuplicateKeyPolicy, MergeKeyPolicy, NonFiniteFloatPolicy},
};

use super::{
    origin::Origin,
    problem::{Problem, ProblemKind},
};

/// The one document of a configuration file.
#[derive(Debug)]
pub(super) struct Document {
    /// The content; of a repeated key the first value.
    pub(super) tree: Value,
    /// Where each key or list entry is, by path.
    pub(super) positions: BTreeMap<String, Origin>,
    /// Repeated keys and keys without a value.
    pub(super) problems: Vec<Problem>,
}

/// Reads one YAML document.
///
/// The budgets are far above any real configuration and far below what costs time.
///
/// # Errors
/// The parser's message with line and column, without a snippet of the file.
pub(super) fn parse(text: &str) -> Result<Document, String> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_documents: 1,
            max_events: 4096,
            max_nodes: 2048,
            max_depth: 16,
            max_anchors: 16,
            max_aliases: 64,
            max_total_scalar_bytes: 256 * 1024,
        },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: 1024 },
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        merge_keys: MergeKeyPolicy::Error,
        non_finite_float_policy: NonFiniteFloatPolicy::AsString,
        strict_booleans: true,
        // Otherwise `0660` would be text, and a file meant for other YAML readers would change.
        legacy_octal_numbers: true,
        reject_unsupported_tags: true,
        with_snippet: false,
    };
    let node: Spanned<Node> = serde_saphyr::from_str_with_options(text, options)
        .map_err(|error| without_quotations(&error.without_snippet().to_string()))?;
    let mut document = Document {
        tree: Value::Null,
        positions: BTreeMap::new(),
        problems: Vec::new(),
    };
    document.tree = document.place(String::new(), node);
    Ok(document)
}

impl Document {
    /// Notes positions and turns a node into plain data.
    fn place(&mut self, path: String, node: Spanned<Node>) -> Value {
        let origin = Origin::File {
            line: node.referenced.line(),
            column: node.referenced.column(),
        };
        let value = match node.value {
            Node::Scalar(Value::Null) if !path.is_empty() => {
                self.problem(
                    &path,
                    &origin,
                    "has no value",
                    "write a value, or remove the key to get its default",
                );
                Value::Null
            }
            Node::Scalar(value) => value,
            Node::List(nodes) => nodes
                .into_iter()
                .enumerate()
                .map(|(index, node)| self.place(format!("{path}[{index}]"), node))
                .collect(),
            Node::Map(entries) => {
                let mut map = Map::new();
                for (key, node) in entries {
                    let path = child(&path, &key);
                    if map.contains_key(&key) {
                        let origin = Origin::File {
                            line: node.referenced.line(),
                            column: node.referenced.column(),
                        };
                        self.problem(&path, &origin, "is written twice", "keep one of them");
                    } else {
                        let value = self.place(path, node);
                        map.insert(key, value);
                    }
                }
                Value::Object(map)
            }
        };
        self.positions.insert(path, origin);
        value
    }

    fn problem(&mut self, path: &str, origin: &Origin, rule: &str, hint: &str) {
        self.problems.push(Problem {
            path: path.to_owned(),
            kind: ProblemKind::Shape,
            origin: Some(origin.clone()),
            value: None,
            rule: rule.to_owned(),
            hint: Some(hint.to_owned()),
        });
    }
}

/// The parser quotes names of tags and anchors like `this`, and characters like `this': file
/// content, perhaps a secret.
fn without_quotations(message: &str) -> String {
    let mut shortened = String::new();
    let mut rest = message;
    while let Some((before, quotation)) = rest.split_once('`') {
        shortened.push_str(before);
        shortened.push_str("(…)");
        let end = quotation
            .split_once('`')
            .or_else(|| quotation.rsplit_once('\''));
        rest = end.map_or("", |(_, after)| after);
    }
    shortened + rest
}

/// `a` and `b` as `a.b`. A key that cannot be a setting may be anything, so it is not repeated.
pub(super) fn child(path: &str, key: &str) -> String {
    let printable = key.len() <= 64
        && !key.is_empty()
        && key
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte));
    let key = if printable { key } else { "(unprintable key)" };
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

#[derive(Debug)]
enum Node {
    Scalar(Value),
    List(Vec<Spanned<Self>>),
    Map(Vec<(String, Spanned<Self>)>),
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar(Value::Null))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Scalar(Value::Bool(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Scalar(Value::from(value)))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        // No setting comes near the border; beyond it a number is simply not an integer here.
        Ok(i64::try_from(value).map_or_else(|_| not_an_integer(), Node::from_integer))
    }

    fn visit_i128<E>(self, _: i128) -> Result<Node, E> {
        Ok(not_an_integer())
    }

    fn visit_u128<E>(self, _: u128) -> Result<Node, E> {
        Ok(not_an_integer())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        Ok(Number::from_f64(value)
            .map_or_else(not_an_integer, |number| Node::Scalar(Value::Number(number))))
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Scalar(Value::String(value.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let mut nodes = Vec::new();
        while let Some(node) = access.next_element()? {
            nodes.push(node);
        }
        Ok(Node::List(nodes))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = access.next_entry()? {
            entries.push(entry);
        }
        Ok(Node::Map(entries))
    }
}

impl Node {
    fn from_integer(value: i64) -> Self {
        Self::Scalar(Value::from(value))
    }
}

fn not_an_integer() -> Node {
    Node::Scalar(Number::from_f64(0.5).map_or(Value::Null, Value::Number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scalar_keeps_the_type_that_yaml_gives_it() {
        let document = parse(
            "a: 0660\nb: \"0660\"\nc: yes\nd: true\ne: 1.5\nf: 2s\ng: 0x1F\nh: 99999999999999999999\n",
        )
        .unwrap();
        let tree = &document.tree;
        assert!(tree["a"].is_i64());
        for text in ["b", "c", "f"] {
            assert!(tree[text].is_string(), "{text}: {}", tree[text]);
        }
        assert!(tree["d"].is_boolean());
        assert!(tree["e"].is_f64());
        assert!(tree["h"].is_f64());
    }

    #[test]
    fn positions_point_at_the_value() {
        let document = parse("server:\n  socketMode: \"0660\"\nlist: [a,\n  b]\n").unwrap();
        assert_eq!(
            document.positions["server.socketMode"],
            Origin::File {
                line: 2,
                column: 15
            }
        );
        assert_eq!(
            document.positions["list[1]"],
            Origin::File { line: 4, column: 3 }
        );
    }

    #[test]
    fn every_repeated_key_and_every_key_without_value_is_found() {
        let document = parse("a: 1\na: 2\nb:\nc:\n  d: 1\n  d: 1\n").unwrap();
        let found: Vec<String> = document.problems.iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            [
                "a (line 2, column 4): is written twice; keep one of them",
                "b (line 3, column 2): has no value; write a value, or remove the key to get its default",
                "c.d (line 6, column 6): is written twice; keep one of them",
            ]
        );
        assert_eq!(document.tree["a"], 1);
    }

    #[test]
    fn a_second_document_a_merge_key_and_an_alias_bomb_are_refused() {
        let bomb = "a: &a [x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\nd: [*c,*c,*c,*c,*c,*c,*c,*c]\n";
        for text in ["a: 1\n---\nb: 2\n", "a: &x {b: 1}\nc:\n  <<: *x\n", bomb] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_error_never_repeats_the_content_of_the_file() {
        for text in [
            "token: hvs.marker\n bad: [",
            "? [hvs.marker]\n: 1",
            "a: !hvs.marker x",
            "a: \"hvs.marker",
            "a: *hvs.marker",
            "hvs.marker: {",
            "a: !!int hvs.marker",
        ] {
            if let Err(message) = parse(text) {
                assert!(!message.contains("marker"), "{message}");
            }
        }
    }
}
