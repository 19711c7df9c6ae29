//! Checks JSON results against the schemas in `docs/schema`.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "an assertion of tests may panic"
)]

use std::{fs, path::Path};

use serde_json::{Value, json};

/// Asserts that a result of the program is valid by its published schema and has only members
/// defined there.
///
/// # Panics
/// When the result is invalid or its schema is unknown.
#[track_caller]
pub fn assert_published(result: &Value) {
    let name = name(result).unwrap_or_else(|| panic!("unknown schema of {result:#}"));
    assert_fits(name, result);
}

/// Asserts that a value is valid by the schema `name` and has only members defined there.
///
/// # Panics
/// When the value is invalid.
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

/// Name of the schema for a result, by its members.
fn name(result: &Value) -> Option<&'static str> {
    let has = |member: &str| result.get(member).is_some();
    // A command that ends without a result has a cause, and no members of its own.
    let failed = has("cause") && result["checks"] == json!([]) && result["exitCode"] != 0;
    if failed
        && !["rotationState", "steps", "method", "servers", "refused"]
            .into_iter()
            .any(has)
    {
        return Some("failure");
    }
    Some(match result["command"].as_str() {
        Some("backups") => "backups",
        Some("benchmark") => "benchmark",
        Some("compare-nodes") => "compare-nodes",
        Some("config") => "config",
        Some("key-id") => "key-id",
        Some("version") => "version",
        Some("record-backup") => "record-backup",
        Some("recover-state") => "recover-state",
        Some("support-bundle") => "support-bundle",
        Some("triage") => "triage",
        Some("scan-etcd") => "scan-etcd",
        Some("verify-attestation") => "verify-attestation",
        Some("verify-backup") => "verify-backup",
        Some("drill") => "drill",
        Some("drill history") => "drill-history",
        Some("extract") => "extract",
        Some("init") => "init",
        Some("inspect-state") => "inspect-state",
        Some("rollout") if has("servers") => "rollout",
        Some("rewrite") if has("method") => "rewrite",
        Some("rotation-plan" | "verify-rotation") => "rotation",
        Some("node prepare" | "node start" | "node remove") => "node",
        Some("dev") if has("bao") => "dev-once",
        Some("dev") => "dev",
        Some(_) if has("operation") => "retirement",
        Some(_) if has("checks") => "checks",
        _ => return None,
    })
}

/// Forbids undefined members. Published schemas allow them, because readers must ignore unknown
/// members.
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

    fn version() -> Value {
        json!({
            "schemaVersion": "v1", "command": "version", "name": "version", "version": "v1.0.0",
            "time": "1970-01-01T00:00:00Z", "verdict": "passed", "exitCode": 0,
            "headline": "v1.0.0", "nextSteps": [], "warnings": [], "checks": [],
            "limitations": [], "commit": "", "buildDate": "", "dirty": ""
        })
    }

    #[test]
    #[should_panic(expected = "surplus")]
    fn a_member_that_no_schema_names_is_found() {
        let mut result = version();
        result["surplus"] = json!(1);
        assert_published(&result);
    }

    #[test]
    #[should_panic(expected = "dirty")]
    fn a_member_that_is_missing_is_found() {
        let mut result = version();
        result.as_object_mut().unwrap().remove("dirty");
        assert_published(&result);
    }
}
