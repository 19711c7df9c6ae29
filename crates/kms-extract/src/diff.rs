//! Compares objects of the backup with those of the live cluster. Only the verdict leaves this module.

use kms_cluster::{
    api::{Api, CallError, JSON},
    discovery::segment,
};
use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    manifest::{Descriptors, Manifest},
    select::ObjectPath,
};

/// The live object beside that of the backup. Members that the API server sets are not compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Live {
    Same,
    Different,
    Missing,
    /// One of both cannot be decoded, or the API server does not serve the stored version of its type.
    Unknown,
}

impl Live {
    /// Code in reports.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Different => "different",
            Self::Missing => "missing",
            Self::Unknown => "unknown",
        }
    }
}

/// The live object was not read.
#[derive(Debug, thiserror::Error)]
#[error("the live object {path} was not read")]
pub struct DiffError {
    path: ObjectPath,
    pub source: CallError,
}

/// Compares one object by its plaintext.
///
/// # Errors
/// Those of the request, except for a missing object.
pub async fn compare(
    api: &Api,
    types: &Descriptors,
    path: &ObjectPath,
    plaintext: &[u8],
) -> Result<Live, DiffError> {
    let Ok(manifest) = Manifest::decode(types, plaintext) else {
        return Ok(Live::Unknown);
    };
    let Some(api_version) = manifest.text("apiVersion") else {
        return Ok(Live::Unknown);
    };
    let found = match api.object(&url(api_version, path), JSON).await {
        Ok(Some(found)) => found,
        Ok(None) => return Ok(Live::Missing),
        Err(error) if error.refusal().is_some_and(|it| it.status == 404) => {
            return Ok(Live::Unknown);
        }
        Err(source) => {
            return Err(DiffError {
                path: path.clone(),
                source,
            });
        }
    };
    Ok(match Manifest::decode(types, &found) {
        Ok(_) if !manifest.unknown().is_empty() => Live::Unknown,
        Ok(live) if live.equals(&manifest) => Live::Same,
        Ok(_) => Live::Different,
        Err(_) => Live::Unknown,
    })
}

/// Path of the object in the API, in the version in which it is stored.
fn url(api_version: &str, path: &ObjectPath) -> String {
    let root = match api_version.split_once('/') {
        None => format!("/api/{}", segment(api_version)),
        Some((group, version)) => format!("/apis/{}/{}", segment(group), segment(version)),
    };
    let resource = path.resource.split('.').next().unwrap_or_default();
    let (resource, name) = (segment(resource), segment(&path.name));
    match &path.namespace {
        Some(namespace) => {
            format!("{root}/namespaces/{}/{resource}/{name}", segment(namespace))
        }
        None => format!("{root}/{resource}/{name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_has_a_path_in_the_api() {
        let path = |resource: &str, namespace: Option<&str>, name: &str| ObjectPath {
            resource: resource.to_owned(),
            namespace: namespace.map(str::to_owned),
            name: name.to_owned(),
        };
        for (api_version, path, expected) in [
            (
                "v1",
                path("secrets", Some("a"), "b"),
                "/api/v1/namespaces/a/secrets/b",
            ),
            ("v1", path("nodes", None, "n"), "/api/v1/nodes/n"),
            (
                "example.org/v2",
                path("widgets.example.org", Some("a"), "b"),
                "/apis/example.org/v2/namespaces/a/widgets/b",
            ),
        ] {
            assert_eq!(url(api_version, &path), expected);
        }
    }
}
