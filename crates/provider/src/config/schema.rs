//! The JSON Schema of the file, derived from [`super::file`], and the check of a document against
//! its shape.
//!
//! The loader finds unknown keys and wrong types by walking the same schema that
//! `config schema` prints, so that both agree and every one is found in a single pass.

use schemars::{generate::SchemaSettings, transform::RecursiveTransform};
use serde_json::{Map, Value, json};

use super::{
    defaults,
    document::{Document, child},
    file::File,
    problem::{Problem, ProblemKind},
};

/// The schema, draft 2020-12.
#[must_use]
pub fn schema() -> Value {
    let settings =
        SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    let mut schema = settings
        .with_transform(RecursiveTransform(refuse_null))
        .into_generator()
        .into_root_schema_for::<File>()
        .to_value();
    add_defaults("", &mut schema);
    schema
}

/// Finds unknown keys and values of the wrong type and takes them out of the document, so that
/// the rest can be checked further.
pub(super) fn check_shape(document: &mut Document) {
    let schema = schema();
    let mut shape = Shape {
        schema: &schema,
        found: Vec::new(),
    };
    let mut tree = document.tree.take();
    shape.check("", &mut tree, &schema);
    for (path, rule, hint) in shape.found {
        document.problems.push(Problem {
            kind: ProblemKind::Shape,
            origin: document.positions.get(&path).cloned(),
            value: None,
            path,
            rule,
            hint,
        });
    }
    document.tree = tree;
}

struct Shape<'a> {
    schema: &'a Value,
    /// Path, rule and hint of each problem.
    found: Vec<(String, String, Option<String>)>,
}

impl Shape<'_> {
    /// Returns whether `value` may stay.
    fn check(&mut self, path: &str, value: &mut Value, schema: &Value) -> bool {
        // Reported when the document was read.
        if value.is_null() && !path.is_empty() {
            return false;
        }
        match (schema["type"].as_str(), value) {
            (Some("object"), Value::Object(map)) => {
                self.check_keys(path, map, &schema["properties"]);
                true
            }
            (Some("array"), Value::Array(items)) => {
                let mut all = true;
                for (index, item) in items.iter_mut().enumerate() {
                    all &= self.check(&format!("{path}[{index}]"), item, &schema["items"]);
                }
                all
            }
            (Some("string"), Value::String(_)) | (Some("boolean"), Value::Bool(_)) => true,
            (Some("integer"), Value::Number(number)) if number.is_i64() => true,
            (expected, value) => {
                self.wrong_type(path, expected.unwrap_or_default(), value);
                false
            }
        }
    }

    fn check_keys(&mut self, path: &str, map: &mut Map<String, Value>, properties: &Value) {
        map.retain(|key, value| {
            let path = child(path, key);
            if let Some(schema) = properties.get(key) {
                self.check(&path, value, schema)
            } else {
                let hint = self.near_miss(&path, key, properties);
                self.found
                    .push((path, "is not a configuration key".to_owned(), hint));
                false
            }
        });
    }

    fn wrong_type(&mut self, path: &str, expected: &str, value: &Value) {
        let path = if path.is_empty() { "(document)" } else { path };
        let rule = format!("must be {}, not {}", name(expected), kind(value));
        let hint = match (expected, value) {
            ("string", Value::Number(_) | Value::Bool(_)) => Some("put it in quotes".to_owned()),
            ("integer" | "boolean", Value::String(_)) => Some("write it without quotes".to_owned()),
            _ => None,
        };
        self.found.push((path.to_owned(), rule, hint));
    }

    /// The key that was probably meant.
    fn near_miss(&self, path: &str, key: &str, properties: &Value) -> Option<String> {
        let siblings = || properties.as_object().into_iter().flat_map(Map::keys);
        if let Some(sibling) = siblings().find(|sibling| sibling.eq_ignore_ascii_case(key)) {
            return Some(format!("write {sibling:?}: upper and lower case differ"));
        }
        let closest = siblings()
            .max_by(|a, b| strsim::jaro_winkler(a, key).total_cmp(&strsim::jaro_winkler(b, key)));
        if let Some(sibling) = closest.filter(|sibling| strsim::jaro_winkler(sibling, key) > 0.9) {
            return Some(format!("did you mean {sibling:?}?"));
        }
        let mut leaves = Vec::new();
        collect_leaves("", self.schema, &mut leaves);
        leaves
            .into_iter()
            .find(|leaf| leaf.rsplit('.').next() == Some(key) && leaf != path)
            .map(|leaf| format!("did you mean {leaf}?"))
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

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "empty",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a section of keys",
    }
}

fn collect_leaves(path: &str, schema: &Value, leaves: &mut Vec<String>) {
    match schema["properties"].as_object() {
        Some(properties) => {
            for (key, schema) in properties {
                collect_leaves(&child(path, key), schema, leaves);
            }
        }
        None => leaves.push(path.to_owned()),
    }
}

/// What is optional may be absent, and is never null: a key without a value is refused, and no
/// result has one.
pub(crate) fn refuse_null(schema: &mut schemars::Schema) {
    let Some(object) = schema.as_object_mut() else {
        return;
    };
    if let Some(Value::Array(types)) = object.get_mut("type") {
        types.retain(|name| name != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            object.insert("type".to_owned(), only);
        }
    }
    if let Some(Value::Array(branches)) = object.get_mut("anyOf") {
        branches.retain(|branch| *branch != json!({"type": "null"}));
        if let [Value::Object(only)] = branches.as_slice() {
            let only = only.clone();
            object.remove("anyOf");
            for (keyword, value) in only {
                object.entry(keyword).or_insert(value);
            }
        }
    }
    // The format that schemars gives to Rust integers says nothing to other readers.
    object.remove("format");
}

fn add_defaults(path: &str, schema: &mut Value) {
    if let Some(default) = defaults::of(path) {
        schema["default"] = default;
    }
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        for (key, schema) in properties {
            add_defaults(&child(path, key), schema);
        }
    }
}
