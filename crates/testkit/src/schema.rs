//! Results in JSON against the schemas of `docs/schema`.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "an assertion of tests may fail like they do"
)]

use std::{fs, path::Path};

use serde_json::{Value, json};

/// Asserts that a result of the program fits its published schema, which must name every member.
///
/// # Panics
/// When it does not, or no schema is known for it.
#[track_caller]
pub fn assert_published(result: &Value) {
    let name = name(result).unwrap_or_else(|| panic!("no schema is known for {result:#}"));
    assert_fits(name, result);
}

/// Asserts that a value fits the schema of this name, which must name every member.
///
/// # Panics
/// When it does not.
#[track_caller]
pub fn assert_fits(name: &str, value: &Value) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/schema");
    let text = fs::read_to_string(directory.join(name).with_extension("json")).unwrap();
    let mut schema = serde_json::from_str(&text).unwrap();
    close(&mut schema);
    let validator = jsonschema::validator_for(&schema).unwrap();
    let errors: Vec<_> = validator
        .iter_errors(value)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    assert!(errors.is_empty(), "{name}: {errors:#?}\n{value:#}");
}

/// The schema of a result, by what it says of itself.
fn name(result: &Value) -> Option<&'static str> {
    let has = |member: &str| result.get(member).is_some();
    Some(match result["command"].as_str() {
        Some("benchmark") => "benchmark",
        Some("compare-nodes") => "compare-nodes",
        Some("record-backup") => "record-backup",
        Some("recover-state") => "recover-state",
        Some("triage") => "triage",
        Some("scan-etcd") => "scan-etcd",
        Some("verify-backup") => "verify-backup",
        Some("drill") => "drill",
        Some("inspect-state") => "inspect-state",
        Some("rotation-plan" | "verify-rotation") => "rotation",
        Some("dev") if has("bao") => "dev-once",
        Some("dev") => "dev",
        Some(_) if has("operation") => "retirement",
        Some(_) if has("checks") => "checks",
        None if has("keyId") => "key-id",
        None if has("buildDate") => "version",
        None if has("settings") => "config",
        None if has("problems") => "config-invalid",
        _ => return None,
    })
}

/// Readers must accept members that they do not know; these tests must not.
fn close(schema: &mut Value) {
    let Some(object) = schema.as_object_mut() else {
        return;
    };
    for parts in ["properties", "$defs"] {
        if let Some(Value::Object(parts)) = object.get_mut(parts) {
            parts.values_mut().for_each(close);
        }
    }
    if let Some(items) = object.get_mut("items") {
        close(items);
    }
    if object.contains_key("properties") {
        object.insert("unevaluatedProperties".to_owned(), json!(false));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "surplus")]
    fn a_member_that_no_schema_names_is_found() {
        assert_published(&json!({
            "version": "", "commit": "", "buildDate": "", "dirty": "", "surplus": 1
        }));
    }

    #[test]
    #[should_panic(expected = "dirty")]
    fn a_member_that_is_missing_is_found() {
        assert_published(&json!({"version": "", "commit": "", "buildDate": ""}));
    }
}
