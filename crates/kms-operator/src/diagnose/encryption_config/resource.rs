//! Names of resources and wildcards: reports names rejected by kube-apiserver, names without
//! effect, and probable mistakes.
//!
//! kube-apiserver applies the most specific rule to a resource. It rejects a rule covered by a
//! wildcard in the same list or in an earlier entry.

use std::fmt;

use kms_node::report::{CheckResult, ImpactClass};

use super::{
    Place, causes,
    document::{Document, Entry},
    refused, warn,
};

/// A resource or wildcard in kube-apiserver's syntax: name and group, separated by the first dot.
/// The core group is empty.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Resource<'a> {
    name: &'a str,
    group: &'a str,
}

/// The main resource for encryption at rest.
pub(super) const SECRETS: Resource<'_> = Resource {
    name: "secrets",
    group: "",
};

/// Resources of the core group.
const CORE: [&str; 15] = [
    "configmaps",
    "endpoints",
    "events",
    "limitranges",
    "namespaces",
    "nodes",
    "persistentvolumeclaims",
    "persistentvolumes",
    "pods",
    "podtemplates",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "serviceaccounts",
    "services",
];

impl<'a> Resource<'a> {
    pub(super) fn parse(text: &'a str) -> Self {
        let (name, group) = text.split_once('.').unwrap_or((text, ""));
        Self { name, group }
    }

    /// Whether the text is a possible name. Any other text may be secret, so it is not printed.
    fn is_plausible(self) -> bool {
        let allowed = |byte: u8| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.*/".contains(&byte)
        };
        let mut bytes = self.name.bytes().chain(self.group.bytes());
        let length = self.name.len() + self.group.len();
        (1..253).contains(&length) && bytes.all(allowed)
    }

    /// Whether the rule `self` also applies to `other`.
    pub(super) fn covers(self, other: Self) -> bool {
        self == other || self.name == "*" && (self.group == other.group || self.is_everything())
    }

    fn is_everything(self) -> bool {
        self.name == "*" && self.group == "*"
    }
}

impl fmt::Display for Resource<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.is_plausible() {
            return f.write_str("(a name that is not shown)");
        }
        f.write_str(self.name)?;
        // The wildcard of the core group requires its dot.
        if self.name == "*" || !self.group.is_empty() {
            write!(f, ".{}", self.group)?;
        }
        Ok(())
    }
}

pub(super) fn check(document: &Document) -> Vec<CheckResult> {
    let mut checks = Vec::new();
    let mut earlier: Vec<(Place, Resource<'_>)> = Vec::new();
    for (index, entry) in document.entries.iter().enumerate() {
        let place = Place {
            entry: index,
            provider: None,
            line: entry.line,
        };
        let names = entry.resources.iter().enumerate();
        checks.extend(names.filter_map(|(index, text)| name_rules(place, index, text)));
        checks.extend(within(place, entry));
        for resource in entry.resources() {
            checks.extend(across(place, resource, &earlier));
        }
        earlier.extend(entry.resources().map(|resource| (place, resource)));
    }
    checks
}

impl Entry {
    /// Texts accepted as names by kube-apiserver.
    pub(super) fn resources(&self) -> impl Iterator<Item = Resource<'_>> {
        let texts = self.resources.iter().map(String::as_str);
        texts
            .filter(|text| *text != "*" && !has_capital(text))
            .map(Resource::parse)
    }
}

fn has_capital(text: &str) -> bool {
    text.to_lowercase() != text
}

/// First violated rule of a name.
fn name_rules(place: Place, index: usize, text: &str) -> Option<CheckResult> {
    let bad = |why: &str, remedy: &str| {
        let message = format!("{place}: resources[{index}] {why}");
        Some(refused("resource_name", message, remedy))
    };

    if has_capital(text) {
        return bad(
            "has a capital letter",
            "write the plural name of the resource in small letters, such as secrets",
        );
    }
    if text == "*" {
        return bad(
            "is * alone",
            "write '*.' for everything in the core group or '*.*' for everything",
        );
    }

    let resource = Resource::parse(text);
    match (resource.name, resource.group) {
        ("apiserveripinfo" | "serviceipallocations" | "servicenodeportallocations", "") => bad(
            "has no API, so it cannot be encrypted",
            "remove it from the list",
        ),
        (_, "events.k8s.io") => bad(
            "is of events.k8s.io, whose objects are stored as events of the core group",
            "write events",
        ),
        (_, "extensions") => bad(
            "is of the group extensions, which no longer exists",
            "write the group that the resource has now",
        ),
        (name, "*") if name != "*" => bad(
            "stands for one resource in all groups",
            "name the group, or write '*.*' for everything",
        ),
        _ if !resource.is_plausible() => unknown(
            place,
            index,
            "cannot be a resource's name (it is not shown)",
        ),
        (name, "") if name != "*" && !CORE.contains(&name) => unknown(
            place,
            index,
            &format!("is {resource}, which is no resource of the core group"),
        ),
        _ => None,
    }
}

/// kube-apiserver accepts the name, but never stores objects under it.
fn unknown(place: Place, index: usize, why: &str) -> Option<CheckResult> {
    let message = format!("{place}: resources[{index}] {why}");
    let class = ImpactClass::CryptographicSafety;
    Some(warn(&causes::RESOURCE_UNKNOWN, message, class))
}

/// Reports a repeated resource, or a resource next to a wildcard covering it.
fn within(place: Place, entry: &Entry) -> Vec<CheckResult> {
    let resources: Vec<_> = entry.resources().collect();
    let mut checks = Vec::new();
    for (index, &resource) in resources.iter().enumerate() {
        if resources.iter().take(index).any(|it| *it == resource) {
            let message = format!("{place} lists {resource} twice");
            checks.push(refused("resource_repeated", message, "keep one of them"));
            continue;
        }
        let wildcard = resources
            .iter()
            .find(|it| **it != resource && it.covers(resource));
        if let Some(wildcard) = wildcard {
            let message = format!("{place} lists {resource} beside {wildcard}, which covers it");
            let correction = format!(
                "remove {resource} from the list, or give it an entry of its own before this one"
            );
            checks.push(refused("resource_overlap", message, &correction));
        }
    }
    checks
}

/// Reports a resource with a rule in an earlier entry.
fn across(
    place: Place,
    resource: Resource<'_>,
    earlier: &[(Place, Resource<'_>)],
) -> Option<CheckResult> {
    let covering = |(_, rule): &&(Place, Resource<'_>)| rule.covers(resource);
    // A wildcard masks the resource even after an entry for the resource itself.
    let mask = earlier
        .iter()
        .filter(covering)
        .find(|(_, rule)| rule.name == "*");
    if let Some((first, rule)) = mask {
        let message =
            format!("{place} lists {resource}, which can never apply: {first} has {rule}");
        let correction = "move the entry with the more exact name before the one with the wildcard, or remove it";
        return Some(refused("resource_masked", message, correction));
    }
    let (first, _) = earlier.iter().find(covering)?;
    let message = format!("{place} lists {resource}, for which {first} has providers already");
    let check = warn(&causes::ENTRIES_OVERLAP, message, ImpactClass::Diagnosis);
    Some(check.code("resource_split"))
}
