//! Resources that the API server serves, and those of them that a rule selects.

use kms_operator::diagnose::encryption_config::covers;
use serde::Deserialize;

use crate::api::{Api, CallError};

/// Aggregated discovery, in both names of its version.
const ACCEPT: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,\
    application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";

/// A resource in the preferred version of its group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    pub name: String,
    /// Empty for the core group.
    pub group: String,
    version: String,
    pub is_namespaced: bool,
    verbs: Vec<String>,
}

/// The resources of a set of rules.
#[derive(Debug, Default)]
pub struct Selection {
    pub resources: Vec<Resource>,
    /// Covered by a rule and left out, with the reason.
    pub left_out: Vec<(String, &'static str)>,
}

#[derive(Deserialize)]
struct Groups {
    #[serde(default)]
    items: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    #[serde(default)]
    metadata: GroupName,
    #[serde(default)]
    versions: Vec<Version>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct GroupName {
    name: String,
}

#[derive(Deserialize)]
struct Version {
    version: String,
    #[serde(default)]
    resources: Vec<Served>,
}

#[derive(Deserialize)]
struct Served {
    resource: String,
    #[serde(default)]
    scope: String,
    #[serde(default)]
    verbs: Vec<String>,
}

/// Every resource, in the order of the API server.
///
/// # Errors
/// Those of the requests.
pub async fn discover(api: &Api) -> Result<Vec<Resource>, CallError> {
    let mut all: Vec<Resource> = Vec::new();
    for path in ["/api", "/apis"] {
        let groups: Groups = api.get(path, ACCEPT).await?;
        for group in groups.items {
            let group_name = group.metadata.name;
            for version in group.versions {
                for served in version.resources {
                    let resource = Resource {
                        name: served.resource,
                        group: group_name.clone(),
                        version: version.version.clone(),
                        is_namespaced: served.scope == "Namespaced",
                        verbs: served.verbs,
                    };
                    // The first version of a group is the preferred one.
                    let known = |it: &Resource| it.full_name() == resource.full_name();
                    if !all.iter().any(known) {
                        all.push(resource);
                    }
                }
            }
        }
    }
    Ok(all)
}

impl Selection {
    /// The served resources of the rules, in the order of the rules.
    #[must_use]
    pub fn of(rules: &[String], served: &[Resource], namespace: Option<&str>) -> Self {
        let mut selection = Self::default();
        let mut seen: Vec<String> = Vec::new();
        for rule in rules {
            let of_rule = |it: &&Resource| covers(rule, &it.full_name());
            let mut covered: Vec<_> = served.iter().filter(of_rule).collect();
            if covered.is_empty() {
                // The keys of etcd name `deployments` without its group, and so do operators.
                covered = served.iter().filter(|it| it.name == *rule).collect();
            }
            if covered.is_empty() {
                let pair = (rule.clone(), "this API server serves no such resource");
                selection.left_out.push(pair);
            }
            for resource in covered {
                let name = resource.full_name();
                if seen.contains(&name) {
                    continue;
                }
                seen.push(name.clone());
                match resource.unfit(namespace) {
                    None => selection.resources.push(resource.clone()),
                    Some(reason) => selection.left_out.push((name, reason)),
                }
            }
        }
        selection
    }
}

impl Resource {
    /// As an `EncryptionConfiguration` and `kubectl` name it.
    #[must_use]
    pub fn full_name(&self) -> String {
        match self.group.as_str() {
            "" => self.name.clone(),
            group => format!("{}.{group}", self.name),
        }
    }

    /// The path of all objects, or of those in the namespace.
    #[must_use]
    pub fn path(&self, namespace: Option<&str>) -> String {
        let Self {
            name,
            group,
            version,
            ..
        } = self;
        let root = match group.as_str() {
            "" => format!("/api/{version}"),
            group => format!("/apis/{group}/{version}"),
        };
        match namespace {
            Some(namespace) => format!("{root}/namespaces/{}/{name}", segment(namespace)),
            None => format!("{root}/{name}"),
        }
    }

    fn unfit(&self, namespace: Option<&str>) -> Option<&'static str> {
        let lacks = |verb: &str| !self.verbs.iter().any(|it| it == verb);
        if self.group == "events.k8s.io" {
            return Some("its objects are those of events");
        }
        if lacks("list") {
            return Some("the API cannot list it, so it has no stored objects to find");
        }
        if lacks("patch") {
            return Some("the API cannot patch it");
        }
        let outside = namespace.is_some() && !self.is_namespaced;
        outside.then_some("it has no namespace, and --namespace is given")
    }
}

/// The text as one segment of a path.
#[must_use]
pub fn segment(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b':' => {
                encoded.push(char::from(byte));
            }
            byte => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(name: &str, group: &str, verbs: &[&str]) -> Resource {
        Resource {
            name: name.to_owned(),
            group: group.to_owned(),
            version: "v1".to_owned(),
            is_namespaced: name != "nodes",
            verbs: verbs.iter().map(|&it| it.to_owned()).collect(),
        }
    }

    #[test]
    fn rules_select_what_is_served_and_name_the_rest() {
        let all = ["list", "patch"];
        let served = [
            resource("secrets", "", &all),
            resource("nodes", "", &all),
            resource("bindings", "", &["create"]),
            resource("deployments", "apps", &all),
            resource("events", "events.k8s.io", &all),
            resource("widgets", "example.org", &all),
        ];
        let names = |rules: &[&str], namespace| {
            let rules: Vec<_> = rules.iter().map(|&it| it.to_owned()).collect();
            let Selection {
                resources,
                left_out,
            } = Selection::of(&rules, &served, namespace);
            let chosen: Vec<_> = resources.iter().map(Resource::full_name).collect();
            let left: Vec<_> = left_out.into_iter().map(|(name, _)| name).collect();
            (chosen.join(" "), left.join(" "))
        };
        let of = |chosen: &str, left: &str| (chosen.to_owned(), left.to_owned());
        assert_eq!(
            names(&["secrets", "gone.example.org"], None),
            of("secrets", "gone.example.org")
        );
        for rule in ["*.apps", "deployments.apps", "deployments"] {
            assert_eq!(names(&[rule], None), of("deployments.apps", ""), "{rule}");
        }
        assert_eq!(
            names(&["widgets.example.org", "*.*"], None),
            of(
                "widgets.example.org secrets nodes deployments.apps",
                "bindings events.events.k8s.io"
            )
        );
        assert_eq!(names(&["*."], Some("a")), of("secrets", "nodes bindings"));
    }

    #[test]
    fn a_name_is_one_segment_of_a_path() {
        assert_eq!(segment("system:node-a.b"), "system:node-a.b");
        assert_eq!(segment("a b/?#"), "a%20b%2F%3F%23");
    }
}
