//! Converts a `CustomResourceDefinition` from v1beta1, in which kube-apiserver stores it, to v1, the
//! one version that it serves.

use super::{
    decode::DecodeError,
    find,
    node::{Members, Name, Node},
};

const STORED: &str = "apiextensions.k8s.io/v1beta1";
const SERVED: &str = "apiextensions.k8s.io/v1";

/// Members of v1beta1 that hold for every version, and their names in a version of v1.
const OF_EVERY_VERSION: [(&str, &str); 3] = [
    ("validation", "schema"),
    ("subresources", "subresources"),
    ("additionalPrinterColumns", "additionalPrinterColumns"),
];

/// Converts such a definition; leaves other objects as they are.
///
/// # Errors
/// [`DecodeError::TooLarge`]: the members that all versions repeat would have more than `most` bytes.
pub(super) fn convert(members: &mut Members<'_>, most: usize) -> Result<(), DecodeError> {
    let Some(api_version) = find(members, "apiVersion") else {
        return Ok(());
    };
    if api_version.text() != Some(STORED) {
        return Ok(());
    }
    *api_version = Node::Text(SERVED);
    match find(members, "spec") {
        Some(Node::Map(spec)) => convert_spec(spec, most),
        _ => Ok(()),
    }
}

fn convert_spec(spec: &mut Members<'_>, most: usize) -> Result<(), DecodeError> {
    let only = take(spec, "version");
    let mut versions = match take(spec, "versions") {
        Some(Node::List(versions)) => versions,
        _ => only.map(only_version).into_iter().collect(),
    };
    for (name, of_version) in OF_EVERY_VERSION {
        let Some(shared) = take(spec, name) else {
            continue;
        };
        if shared.size().saturating_mul(versions.len()) > most {
            return Err(DecodeError::TooLarge);
        }
        for version in versions.iter_mut().filter_map(as_map) {
            if find(version, of_version).is_none() {
                version.push((Name::Borrowed(of_version), shared.clone()));
            }
        }
    }
    for version in versions.iter_mut().filter_map(as_map) {
        if let Some(Node::List(columns)) = find(version, "additionalPrinterColumns") {
            columns.iter_mut().filter_map(as_map).for_each(rename_path);
        }
    }
    spec.push((Name::Borrowed("versions"), Node::List(versions)));
    // A pointer in v1beta1; v1 omits the default.
    spec.retain(|(name, value)| {
        name.as_str() != "preserveUnknownFields" || !matches!(value, Node::Bool(false))
    });
    if let Some(Node::Map(conversion)) = find(spec, "conversion") {
        convert_webhook(conversion);
    }
    Ok(())
}

fn only_version(name: Node<'_>) -> Node<'_> {
    Node::Map(vec![
        (Name::Borrowed("name"), name),
        (Name::Borrowed("served"), Node::Bool(true)),
        (Name::Borrowed("storage"), Node::Bool(true)),
    ])
}

fn rename_path(column: &mut Members<'_>) {
    if let Some(path) = take(column, "JSONPath") {
        column.push((Name::Borrowed("jsonPath"), path));
    }
}

fn convert_webhook(conversion: &mut Members<'_>) {
    let mut webhook = Members::new();
    for (name, in_webhook) in [
        ("webhookClientConfig", "clientConfig"),
        ("conversionReviewVersions", "conversionReviewVersions"),
    ] {
        if let Some(value) = take(conversion, name) {
            webhook.push((Name::Borrowed(in_webhook), value));
        }
    }
    if !webhook.is_empty() {
        conversion.push((Name::Borrowed("webhook"), Node::Map(webhook)));
    }
}

fn as_map<'n, 'a>(node: &'n mut Node<'a>) -> Option<&'n mut Members<'a>> {
    match node {
        Node::Map(members) => Some(members),
        _ => None,
    }
}

fn take<'a>(members: &mut Members<'a>, name: &str) -> Option<Node<'a>> {
    let place = members.iter().position(|(it, _)| it.as_str() == name)?;
    Some(members.remove(place).1)
}

#[cfg(test)]
mod tests {
    use super::{
        super::{json, node::Empty},
        *,
    };

    fn converted(json: &str, expected: &str) {
        let parse = |json| json::parse(json).unwrap_or_else(|_| panic!("invalid JSON"));
        let Node::Map(mut members) = parse(json.as_bytes()) else {
            panic!("no map")
        };
        convert(&mut members, 1 << 20).unwrap();
        assert!(Node::Map(members).equals(&parse(expected.as_bytes()), Empty::Null));
    }

    #[test]
    fn what_all_versions_share_belongs_to_each() {
        converted(
            r#"{"apiVersion": "apiextensions.k8s.io/v1beta1", "spec": {
                "preserveUnknownFields": false, "version": "v1", "validation": {"openAPIV3Schema": {}}, "subresources": {"status": {}},
                "additionalPrinterColumns": [{"name": "n", "JSONPath": ".n"}],
                "conversion": {"strategy": "Webhook", "webhookClientConfig": {"url": "u"},
                               "conversionReviewVersions": ["v1"]},
                "versions": [{"name": "v1"}, {"name": "v2", "schema": {"own": 1}}]}}"#,
            r#"{"apiVersion": "apiextensions.k8s.io/v1", "spec": {
                "conversion": {"strategy": "Webhook", "webhook": {"clientConfig": {"url": "u"},
                               "conversionReviewVersions": ["v1"]}},
                "versions": [
                    {"name": "v1", "schema": {"openAPIV3Schema": {}}, "subresources": {"status": {}},
                     "additionalPrinterColumns": [{"name": "n", "jsonPath": ".n"}]},
                    {"name": "v2", "schema": {"own": 1}, "subresources": {"status": {}},
                     "additionalPrinterColumns": [{"name": "n", "jsonPath": ".n"}]}]}}"#,
        );
    }

    #[test]
    fn a_single_version_is_served_and_stored() {
        converted(
            r#"{"apiVersion": "apiextensions.k8s.io/v1beta1", "spec": {"version": "v1"}}"#,
            r#"{"apiVersion": "apiextensions.k8s.io/v1",
                "spec": {"versions": [{"name": "v1", "served": true, "storage": true}]}}"#,
        );
        let other = r#"{"apiVersion": "example.org/v1beta1", "spec": {"version": "v1"}}"#;
        converted(other, other);
    }
    #[test]
    fn versions_repeat_a_schema_within_a_limit() {
        let version = r#"{"name": "v"}"#;
        let versions = [version; 100].join(",");
        let schema = "x".repeat(100);
        let json = format!(
            r#"{{"apiVersion": "apiextensions.k8s.io/v1beta1",
                "spec": {{"validation": "{schema}", "versions": [{versions}]}}}}"#
        );
        for (most, fits) in [(20_000, true), (5_000, false)] {
            let Ok(Node::Map(mut members)) = json::parse(json.as_bytes()) else {
                panic!("no map")
            };
            assert_eq!(convert(&mut members, most).is_ok(), fits);
        }
    }
}
