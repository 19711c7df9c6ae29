//! The JSON Schema of the file and the rows of its reference page, both from
//! [`super::settings`].

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{setting::Declared, settings::SECTIONS};

/// The schema, draft 2020-12.
#[must_use]
pub fn schema() -> Value {
    let mut root = Value::Null;
    for section in SECTIONS {
        let path = section.path.trim_end_matches('.');
        let object = object_at(&mut root, path);
        if object.is_null() {
            *object = json!({
                "type": "object",
                "additionalProperties": false,
                "description": section.text.trim(),
                "properties": {},
            });
            if let (Value::Object(object), Value::Object(more)) = (object, (section.keywords)()) {
                object.extend(more);
            }
            if section.is_required && !path.is_empty() {
                require(&mut root, path);
            }
        }
        for setting in section.settings {
            let mut schema = (setting.schema)();
            schema["description"] = setting.text.trim().into();
            match setting.default.map(|default| default()) {
                None => require(&mut root, setting.path),
                Some(Value::Null) => {}
                Some(default) => schema["default"] = default,
            }
            *object_at(&mut root, setting.path) = schema;
        }
    }
    root
}

/// The schema of a path; null where there is none yet.
fn object_at<'a>(root: &'a mut Value, path: &str) -> &'a mut Value {
    let keys = path.split('.').filter(|key| !key.is_empty());
    keys.fold(root, |object, key| &mut object["properties"][key])
}

fn require(root: &mut Value, path: &str) {
    let (section, key) = path.rsplit_once('.').unwrap_or(("", path));
    match &mut object_at(root, section)["required"] {
        Value::Array(keys) => keys.push(key.into()),
        none => *none = json!([key]),
    }
}

/// The rows of docs/configuration.md: setting, type, default, text.
pub fn reference_rows() -> impl Iterator<Item = (&'static str, String)> {
    all_settings().map(|setting| {
        let default = match setting.default.map(|default| default()) {
            None => "required".to_owned(),
            Some(Value::Null) => "–".to_owned(),
            Some(default) => format!("`{default}`"),
        };
        let (path, kind, text) = (setting.path, setting.kind, setting.text.trim());
        let row = format!("| `{path}` | {kind} | {default} | {text} |");
        (path, row)
    })
}

/// The key probably meant by the unknown `key` at `path`.
pub(super) fn near_miss(path: &str, key: &str, properties: &Value) -> Option<String> {
    let siblings = || properties.as_object().into_iter().flat_map(Map::keys);
    if let Some(sibling) = siblings().find(|sibling| sibling.eq_ignore_ascii_case(key)) {
        return Some(format!("write {sibling:?}: upper and lower case differ"));
    }
    let similarity = |sibling: &str| strsim::jaro_winkler(sibling, key);
    let closest = siblings().max_by(|a, b| similarity(a).total_cmp(&similarity(b)));
    if let Some(sibling) = closest.filter(|sibling| similarity(sibling) > 0.9) {
        return Some(format!("did you mean {sibling:?}?"));
    }
    all_settings()
        .map(|setting| setting.path)
        .find(|other| other.rsplit('.').next() == Some(key) && *other != path)
        .map(|other| format!("did you mean {other}?"))
}

/// A setting as the reference page shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Described {
    /// Such as `server.socketPath`.
    pub path: &'static str,
    /// Such as `text`, `integer`, `boolean` or `list`.
    pub kind: &'static str,
    pub text: &'static str,
}

/// Every setting, in the order of the reference page.
pub fn described() -> impl Iterator<Item = Described> {
    all_settings().map(|setting| Described {
        path: setting.path,
        kind: setting.kind,
        text: setting.text.trim(),
    })
}

/// A setting that a release accepts, for another release to compare.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Accepted {
    /// Such as `auth.method`.
    pub path: String,
    /// All values, where they are a list of words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
}

/// Every setting that this release accepts, in the order of the reference page.
pub fn accepted() -> impl Iterator<Item = Accepted> {
    all_settings().map(|setting| {
        let schema = (setting.schema)();
        let words = schema["enum"].as_array().into_iter().flatten();
        Accepted {
            path: setting.path.to_owned(),
            values: words.filter_map(Value::as_str).map(str::to_owned).collect(),
        }
    })
}

fn all_settings() -> impl Iterator<Item = &'static Declared> {
    SECTIONS.iter().flat_map(|section| section.settings)
}
