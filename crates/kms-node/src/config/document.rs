//! The YAML text as values with positions, checked against the schema. Only this module knows the
//! YAML crate.
//!
//! Scalars keep their type in YAML: `0660` is a number, `"0660"` and `yes` are text. A walk along the
//! schema of `config schema` finds every unknown key and wrong type in a single pass.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde::{
    Deserialize,
    de::{self, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Value};
use serde_saphyr::{
    Spanned,
    options::{DuplicateKeyPolicy, MergeKeyPolicy, NonFiniteFloatPolicy},
};

use super::{
    origin::Origin,
    problem::{Problem, ProblemKind},
    schema::near_miss,
};

/// The one document of a configuration file.
#[derive(Debug, Default)]
pub(super) struct Document {
    /// Each section, setting and list entry of the right type, by path.
    pub(super) written: BTreeMap<String, (Value, Origin)>,
    /// Unknown and repeated keys, keys without a value, and values of the wrong type.
    pub(super) problems: Vec<Problem>,
}

/// Reads one YAML document.
///
/// The budgets are far above any real configuration, and too small to cost time.
///
/// # Errors
/// The parser's message with line and column, without a snippet of the file.
pub(super) fn parse(text: &str, schema: &Value) -> Result<Document, String> {
    let mut document = Document::default();
    document.place("", read(text)?, schema);
    Ok(document)
}

/// A value of any file, by the keys that lead to it.
pub(super) struct Flat {
    /// Joined by dots.
    pub(super) key: String,
    pub(super) value: Value,
    /// Line of the value, from 1.
    pub(super) line: u64,
}

/// Reads one YAML document with any keys. Lists stay whole.
///
/// # Errors
/// As for [`parse`].
pub(super) fn flat(text: &str) -> Result<Vec<Flat>, String> {
    let node = read(text)?;
    let mut all = Vec::new();
    match node.value {
        Node::Map(_) => flatten("", node, &mut all),
        Node::Scalar(_) | Node::List(_) => return Err("it is no map of keys".to_owned()),
    }
    Ok(all)
}

fn flatten(path: &str, node: Spanned<Node>, all: &mut Vec<Flat>) {
    let line = node.referenced.line();
    match node.value {
        Node::Map(entries) => {
            for (key, node) in entries {
                flatten(&child(path, &key), node, all);
            }
        }
        other => all.push(Flat {
            key: path.to_owned(),
            value: plain(other),
            line,
        }),
    }
}

fn plain(node: Node) -> Value {
    match node {
        Node::Scalar(value) => value,
        Node::List(nodes) => nodes.into_iter().map(|node| plain(node.value)).collect(),
        Node::Map(entries) => {
            let entries = entries.into_iter();
            let entries = entries.map(|(key, node)| (key, plain(node.value)));
            Value::Object(entries.collect())
        }
    }
}

fn read(text: &str) -> Result<Spanned<Node>, String> {
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
    serde_saphyr::from_str_with_options(text, options)
        .map_err(|error| without_quotations(&error.without_snippet().to_string()))
}

impl Document {
    /// Records a node and all below it; `schema` is null below an unknown key.
    fn place(&mut self, path: &str, node: Spanned<Node>, schema: &Value) -> Option<Value> {
        let origin = origin(&node);
        let (found, shown) = node.value.kind();
        if found == "null" && !path.is_empty() {
            let hint = "write a value, or remove the key to get its default";
            return self.problem(path, origin, "has no value", Some(hint));
        }
        let expected = schema["type"].as_str().unwrap_or(found);
        if expected != found {
            let rule = format!("must be {}, not {shown}", name(expected));
            let hint = match (expected, found) {
                ("string", "integer" | "number" | "boolean") => Some("put it in quotes"),
                ("integer" | "boolean", "string") => Some("write it without quotes"),
                _ => None,
            };
            return self.problem(path, origin, &rule, hint);
        }
        let value = match node.value {
            Node::Scalar(value) => value,
            Node::Map(entries) => self.place_entries(path, entries, &schema["properties"]),
            Node::List(nodes) => {
                let nodes = nodes.into_iter().enumerate();
                let placed: Vec<_> = nodes
                    .map(|(at, node)| self.place(&format!("{path}[{at}]"), node, &schema["items"]))
                    .collect();
                placed.into_iter().collect::<Option<_>>()?
            }
        };
        if !schema.is_null() {
            let written = (value.clone(), origin);
            self.written.insert(path.to_owned(), written);
        }
        Some(value)
    }

    fn place_entries(
        &mut self,
        path: &str,
        entries: Vec<(String, Spanned<Node>)>,
        properties: &Value,
    ) -> Value {
        let mut map = Map::new();
        let mut seen = BTreeSet::new();
        for (key, node) in entries {
            let path = child(path, &key);
            if !seen.insert(key.clone()) {
                let hint = Some("keep one of them");
                self.problem(&path, origin(&node), "is written twice", hint);
                continue;
            }
            let schema = &properties[&key];
            if schema.is_null() && !properties.is_null() {
                let hint = near_miss(&path, &key, properties);
                let rule = "is not a configuration key";
                self.problem(&path, origin(&node), rule, hint.as_deref());
            }
            if let Some(value) = self.place(&path, node, schema) {
                map.insert(key, value);
            }
        }
        Value::Object(map)
    }

    fn problem(
        &mut self,
        path: &str,
        origin: Origin,
        rule: &str,
        hint: Option<&str>,
    ) -> Option<Value> {
        let is_root = path.is_empty();
        self.problems.push(Problem {
            path: if is_root { "(document)" } else { path }.to_owned(),
            kind: ProblemKind::Shape,
            origin: (!is_root).then_some(origin),
            value: None,
            rule: rule.to_owned(),
            hint: hint.map(str::to_owned),
        });
        None
    }
}

fn origin(node: &Spanned<Node>) -> Origin {
    Origin::File {
        line: node.referenced.line(),
        column: node.referenced.column(),
    }
}

fn name(schema_type: &str) -> &'static str {
    match schema_type {
        "object" => "a section of keys",
        "array" => "a list",
        "string" => "text",
        "integer" => "an integer",
        _ => "true or false",
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

/// `a` and `b` as `a.b`. An unusual key may be a secret, so it is not repeated.
fn child(path: &str, key: &str) -> String {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    let key = match key.len() {
        1..=64 if key.bytes().all(allowed) => key,
        _ => "(unprintable key)",
    };
    match path {
        "" => key.to_owned(),
        path => format!("{path}.{key}"),
    }
}

#[derive(Debug)]
enum Node {
    Scalar(Value),
    List(Vec<Spanned<Self>>),
    Map(Vec<(String, Spanned<Self>)>),
}

impl Node {
    /// The type in JSON Schema, and its name in messages.
    fn kind(&self) -> (&'static str, &'static str) {
        match self {
            Self::Scalar(Value::Null) => ("null", "empty"),
            Self::Scalar(Value::Bool(_)) => ("boolean", "a boolean"),
            Self::Scalar(Value::Number(number)) if number.is_i64() => ("integer", "a number"),
            Self::Scalar(Value::Number(_)) => ("number", "a number"),
            Self::Scalar(_) => ("string", "text"),
            Self::List(_) => ("array", "a list"),
            Self::Map(_) => ("object", "a section of keys"),
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

macro_rules! scalars {
    ($($visit:ident($type:ty))+) => {$(
        fn $visit<E>(self, value: $type) -> Result<Node, E> {
            Ok(Node::Scalar(value.into()))
        }
    )+};
}

/// Stands for a number beyond 64 bits.
const NOT_AN_INTEGER: f64 = 0.5;

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar(Value::Null))
    }

    scalars! {
        visit_bool(bool)
        visit_i64(i64)
        visit_u64(u64)
        visit_f64(f64)
        visit_str(&str)
    }

    fn visit_i128<E>(self, _: i128) -> Result<Node, E> {
        Ok(Node::Scalar(NOT_AN_INTEGER.into()))
    }

    fn visit_u128<E>(self, _: u128) -> Result<Node, E> {
        Ok(Node::Scalar(NOT_AN_INTEGER.into()))
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_scalar_keeps_the_type_that_yaml_gives_it() {
        let document = parse(
            "a: 0660\nb: \"0660\"\nc: yes\nd: true\ne: 1.5\nf: 2s\ng: 0x1F\nh: 99999999999999999999\n",
            &json!({}),
        )
        .unwrap();
        let tree = &document.written[""].0;
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
        let schema = json!({"properties": {
            "server": {"properties": {"socketMode": {}}},
            "list": {"items": {}},
        }});
        let text = "server:\n  socketMode: \"0660\"\nlist: [a,\n  b]\n";
        let document = parse(text, &schema).unwrap();
        for (path, line, column) in [("server.socketMode", 2, 15), ("list[1]", 4, 3)] {
            let (_, origin) = &document.written[path];
            assert_eq!(*origin, Origin::File { line, column });
        }
    }

    #[test]
    fn every_repeated_key_and_every_key_without_value_is_found() {
        let document = parse("a: 1\na: 2\nb:\nc:\n  d: 1\n  d: 1\n", &json!({})).unwrap();
        let found: Vec<String> = document.problems.iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            [
                "a (line 2, column 4): is written twice; keep one of them",
                "b (line 3, column 2): has no value; write a value, or remove the key to get its default",
                "c.d (line 6, column 6): is written twice; keep one of them",
            ]
        );
        assert_eq!(document.written[""].0["a"], 1);
    }

    #[test]
    fn a_second_document_a_merge_key_and_an_alias_bomb_are_refused() {
        let bomb = "a: &a [x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\nd: [*c,*c,*c,*c,*c,*c,*c,*c]\n";
        for text in ["a: 1\n---\nb: 2\n", "a: &x {b: 1}\nc:\n  <<: *x\n", bomb] {
            assert!(parse(text, &json!({})).is_err(), "{text}");
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
            if let Err(message) = parse(text, &json!({})) {
                assert!(!message.contains("marker"), "{message}");
            }
        }
    }
}
