//! The names of resources and wildcards: which of them kube-apiserver refuses, which never apply,
//! and which probably mean something else.
//!
//! kube-apiserver takes the most exact rule for a resource, and refuses a rule that a wildcard of
//! the same list or of an earlier entry covers.

use std::fmt;

use super::{
    ID, Place, TITLE,
    document::{Document, Entry},
    refused,
};
use crate::report::{Check, ImpactClass};

/// A resource or a wildcard, as kube-apiserver reads it: up to the first dot the resource, after
/// it the group, which is empty for the core group.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Resource<'a> {
    name: &'a str,
    group: &'a str,
}

/// The resource that encryption at rest is for.
pub(super) const SECRETS: Resource<'_> = Resource {
    name: "secrets",
    group: "",
};

/// What the core group stores.
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
    fn parse(text: &'a str) -> Self {
        let (name, group) = text.split_once('.').unwrap_or((text, ""));
        Self { name, group }
    }

    /// Whether it can be a name. Otherwise it may be anything, so it is not shown.
    fn is_plausible(self) -> bool {
        let allowed = |byte: u8| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.*/".contains(&byte)
        };
        let mut bytes = self.name.bytes().chain(self.group.bytes());
        let length = self.name.len() + self.group.len();
        (1..253).contains(&length) && bytes.all(allowed)
    }

    /// Whether the rule of `self` is also one for `other`.
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
        // Without its dot the wildcard of the core group would be another text.
        if self.name == "*" || !self.group.is_empty() {
            write!(f, ".{}", self.group)?;
        }
        Ok(())
    }
}

pub(super) fn check(document: &Document) -> Vec<Check> {
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
    /// Those that kube-apiserver takes for names.
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

/// The first rule that a name breaks.
fn name_rules(place: Place, index: usize, text: &str) -> Option<Check> {
    let bad = |why: &str, remedy: &str| {
        let message = format!("{place}: resources[{index}] {why}");
        Some(refused("resource_name", message).remediation(remedy))
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

/// kube-apiserver takes such a name, and nothing is ever stored under it.
fn unknown(place: Place, index: usize, why: &str) -> Option<Check> {
    let check = Check::warn(ID, TITLE, format!("{place}: resources[{index}] {why}"))
        .code("resource_unknown")
        .impact("kube-apiserver accepts the name, and encrypts nothing because of it")
        .impact_class(ImpactClass::CryptographicSafety)
        .remediation(
            "write the plural name; outside of the core group, custom resources included, with \
             the group: deployments.apps",
        );
    Some(check)
}

/// A list that names a resource twice, or beside a wildcard that covers it.
fn within(place: Place, entry: &Entry) -> Vec<Check> {
    let resources: Vec<_> = entry.resources().collect();
    let mut checks = Vec::new();
    for (index, &resource) in resources.iter().enumerate() {
        if resources.iter().take(index).any(|it| *it == resource) {
            checks.push(
                refused(
                    "resource_repeated",
                    format!("{place} lists {resource} twice"),
                )
                .remediation("keep one of them"),
            );
            continue;
        }
        let wildcard = resources
            .iter()
            .find(|it| **it != resource && it.covers(resource));
        if let Some(wildcard) = wildcard {
            checks.push(
                refused(
                    "resource_overlap",
                    format!("{place} lists {resource} beside {wildcard}, which covers it"),
                )
                .remediation(format!(
                    "remove {resource} from the list, or give it an entry of its own before this \
                     one"
                )),
            );
        }
    }
    checks
}

/// A resource that an earlier entry has a rule for.
fn across(
    place: Place,
    resource: Resource<'_>,
    earlier: &[(Place, Resource<'_>)],
) -> Option<Check> {
    let covering = |(_, rule): &&(Place, Resource<'_>)| rule.covers(resource);
    // A wildcard masks the resource even if an entry for itself comes first.
    let mask = earlier
        .iter()
        .filter(covering)
        .find(|(_, rule)| rule.name == "*");
    if let Some((first, rule)) = mask {
        let message =
            format!("{place} lists {resource}, which can never apply: {first} has {rule}");
        let check = refused("resource_masked", message).remediation(
            "move the entry with the more exact name before the one with the wildcard, or remove it",
        );
        return Some(check);
    }
    let (first, _) = earlier.iter().find(covering)?;
    let message = format!("{place} lists {resource}, for which {first} has providers already");
    let check = Check::warn(ID, TITLE, message)
        .code("resource_split")
        .impact(
            "kube-apiserver joins the two lists of providers: the first entry's first one \
             encrypts, and those of the second entry only decrypt",
        )
        .impact_class(ImpactClass::Diagnosis)
        .remediation("write the resource once, with all of its providers in one list");
    Some(check)
}
