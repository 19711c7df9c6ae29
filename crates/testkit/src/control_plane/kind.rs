//! Kinds of stored test objects, each with one text.

#![expect(clippy::unwrap_used, reason = "the objects are ours")]

use base64::{Engine as _, engine::general_purpose::STANDARD};
use kube::{
    api::{ApiResource, DynamicObject},
    core::GroupVersionKind,
};
use serde_json::{Value, json};

/// A namespace of every API server from its start.
pub(super) const NAMESPACE: &str = "default";

/// An object kind. Built-in kinds are stored as protobuf, custom resources as JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A Secret.
    Secret,
    /// A `ConfigMap`.
    ConfigMap,
    /// A custom resource, defined by
    /// [`define_custom_resource`](super::ControlPlane::define_custom_resource).
    Custom,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::Secret, Self::ConfigMap, Self::Custom];

    /// Resource name in an `EncryptionConfiguration`.
    #[must_use]
    pub fn resource_name(self) -> &'static str {
        match self {
            Self::Secret => "secrets",
            Self::ConfigMap => "configmaps",
            Self::Custom => "widgets.test.example.org",
        }
    }

    /// The etcd key of the object.
    #[must_use]
    pub fn etcd_key(self, name: &str) -> String {
        let directory = match self {
            Self::Secret => "secrets",
            Self::ConfigMap => "configmaps",
            Self::Custom => "test.example.org/widgets",
        };
        format!("/registry/{directory}/{NAMESPACE}/{name}")
    }

    pub(super) fn resource(self) -> ApiResource {
        let kind = match self {
            Self::Secret => GroupVersionKind::gvk("", "v1", "Secret"),
            Self::ConfigMap => GroupVersionKind::gvk("", "v1", "ConfigMap"),
            Self::Custom => GroupVersionKind::gvk("test.example.org", "v1", "Widget"),
        };
        ApiResource::from_gvk(&kind)
    }

    pub(super) fn object(self, name: &str, text: &str) -> DynamicObject {
        let data = match self {
            Self::Secret => json!({"data": {"text": STANDARD.encode(text)}}),
            Self::ConfigMap => json!({"data": {"text": text}}),
            Self::Custom => json!({"spec": {"text": text}}),
        };
        DynamicObject::new(name, &self.resource()).data(data)
    }

    pub(super) fn text(self, object: &DynamicObject) -> String {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        match self {
            Self::Secret => {
                let text = STANDARD.decode(text(&object.data["data"]["text"])).unwrap();
                String::from_utf8(text).unwrap()
            }
            Self::ConfigMap => text(&object.data["data"]["text"]),
            Self::Custom => text(&object.data["spec"]["text"]),
        }
    }
}

pub(super) fn definitions() -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk(
        "apiextensions.k8s.io",
        "v1",
        "CustomResourceDefinition",
    ))
}

pub(super) fn definition() -> DynamicObject {
    let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let version = json!({
        "name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema},
    });
    DynamicObject::new("widgets.test.example.org", &definitions()).data(json!({"spec": {
        "group": "test.example.org",
        "names": {"kind": "Widget", "plural": "widgets"},
        "scope": "Namespaced",
        "versions": [version],
    }}))
}
