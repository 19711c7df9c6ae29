//! Whether the content of an object is that of its etcd key. Plaintext and most local ciphers do not
//! authenticate the key, so a writer to etcd can move or replace such an object.

use crate::{
    manifest::Manifest,
    select::{ObjectPath, is_built_in},
};

/// The object in the content, if it is another one than that of the key.
#[must_use]
pub(crate) fn other(path: &ObjectPath, manifest: &Manifest<'_>) -> Option<String> {
    let kind = manifest.text("kind").unwrap_or_default();
    let group = manifest.text("apiVersion").unwrap_or_default();
    let group = group.split_once('/').map_or("core", |(group, _)| group);
    let name = manifest.metadata("name").unwrap_or_default();
    let namespace = manifest.metadata("namespace").filter(|it| !it.is_empty());
    let is_kind = match path.resource.split_once('.') {
        Some((_, own)) => own == group,
        None => is_built_in(group) && is_plural(&path.resource, kind),
    };
    if is_kind && name == path.name && namespace == path.namespace.as_deref() {
        return None;
    }
    let namespace = namespace.map_or_else(String::new, |it| format!("{it}/"));
    Some(
        format!("{kind} {namespace}{name} of {group}")
            .escape_debug()
            .to_string(),
    )
}

/// Whether the resource is the plural of a kind of Kubernetes.
fn is_plural(resource: &str, kind: &str) -> bool {
    let kind = kind.to_lowercase();
    let of_y = kind.strip_suffix('y').map(|stem| format!("{stem}ies"));
    [format!("{kind}s"), format!("{kind}es"), kind]
        .iter()
        .chain(&of_y)
        .any(|it| it == resource)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::Descriptors;

    #[test]
    fn the_content_is_that_of_the_key() {
        let types = Descriptors::load().unwrap();
        let found = |resource: &str,
                     namespace: Option<&str>,
                     version: &str,
                     kind: &str,
                     own: &str| {
            let path = ObjectPath {
                resource: resource.to_owned(),
                namespace: namespace.map(str::to_owned),
                name: "a".to_owned(),
            };
            let json = serde_json::json!({
                "apiVersion": version, "kind": kind, "metadata": {"name": "a", "namespace": own},
            });
            other(
                &path,
                &Manifest::decode(&types, json.to_string().as_bytes()).unwrap(),
            )
        };
        for (resource, version, kind) in [
            ("configmaps", "v1", "ConfigMap"),
            ("endpoints", "v1", "Endpoints"),
            ("ingresses", "networking.k8s.io/v1", "Ingress"),
            ("networkpolicies", "networking.k8s.io/v1", "NetworkPolicy"),
            ("deployments", "apps/v1", "Deployment"),
            ("widgets.example.org", "example.org/v1", "Odd"),
        ] {
            assert_eq!(
                found(resource, Some("s"), version, kind, "s"),
                None,
                "{kind}"
            );
        }
        assert_eq!(found("nodes", None, "v1", "Node", ""), None);
        for (resource, namespace, version, kind, own) in [
            ("configmaps", Some("s"), "v1", "ConfigMap", "t"),
            ("configmaps", Some("s"), "v1", "Secret", "s"),
            (
                "configmaps",
                Some("s"),
                "rbac.authorization.k8s.io/v1",
                "ClusterRoleBinding",
                "",
            ),
            (
                "widgets.example.org",
                Some("s"),
                "example.com/v1",
                "Widget",
                "s",
            ),
            ("configmaps", Some("s"), "example.org/v1", "ConfigMap", "s"),
            ("nodes", None, "v1", "Node", "s"),
        ] {
            assert!(
                found(resource, namespace, version, kind, own).is_some(),
                "{kind}"
            );
        }
    }
}
