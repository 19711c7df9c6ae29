//! Would kube-apiserver take the file? Its own rules for header, entries and providers.

use std::collections::BTreeMap;

use super::{
    ID, Place, TITLE,
    document::{Document, Element, Key, Kms, KmsVersion, Measured, Provider},
    refused,
};
use crate::report::{Check, ImpactClass};

const API_VERSION: &str = "apiserver.config.k8s.io/v1";
const KIND: &str = "EncryptionConfiguration";

/// The same format under the name that an early page of documentation gave to it.
const OLD_HEADER: [(&str, &str); 2] = [("v1", "EncryptionConfig"), ("/v1", "EncryptionConfig")];

pub(super) fn check(document: &Document) -> Vec<Check> {
    let mut checks = header(document);
    if document.entries.is_empty() {
        checks.push(
            refused(
                "no_entries",
                "resources is empty, so nothing would be encrypted",
            )
            .remediation("list at least secrets, with its providers"),
        );
    }
    for (index, entry) in document.entries.iter().enumerate() {
        let place = Place {
            entry: index,
            provider: None,
            line: entry.line,
        };
        if entry.resources.is_empty() {
            checks.push(
                refused("no_resources", format!("{place} names no resources"))
                    .remediation("list the resources that its providers are for"),
            );
        }
        if entry.providers.is_empty() {
            checks.push(
                refused("no_providers", format!("{place} has no providers"))
                    .remediation("list its providers, the one that encrypts first"),
            );
        }
        for (index, element) in entry.providers.iter().enumerate() {
            let place = Place {
                provider: Some(index),
                line: element.line,
                ..place
            };
            checks.extend(element_rules(place, element));
        }
    }
    checks.extend(repeated_names(document));
    checks
}

fn header(document: &Document) -> Vec<Check> {
    let header = (document.api_version.as_str(), document.kind.as_str());
    let mut checks = Vec::new();
    if !OLD_HEADER.contains(&header) {
        for (key, found, expected) in [
            ("apiVersion", header.0, API_VERSION),
            ("kind", header.1, KIND),
        ] {
            if found != expected {
                checks.push(
                    refused("header", format!("{key} is not {expected}"))
                        .remediation(format!("write {key}: {expected}")),
                );
            }
        }
    }
    if let Some(line) = document.rest {
        let message = format!("line {line}: the file goes on after its first YAML document");
        checks.push(
            Check::warn(ID, TITLE, message)
                .code("second_document")
                .impact("kube-apiserver reads the first document and ignores what follows it")
                .impact_class(ImpactClass::Diagnosis)
                .remediation(
                    "move the entries that must apply into the first document, and remove the rest",
                ),
        );
    }
    checks
}

fn element_rules(place: Place, Element { kinds, .. }: &Element) -> Vec<Check> {
    let mut checks = Vec::new();
    if kinds.len() != 1 {
        let many = if kinds.is_empty() {
            "no provider that kube-apiserver knows"
        } else {
            "several providers in one list element"
        };
        checks.push(refused("provider_kind", format!("{place} has {many}")).remediation(
            "write each provider as a list element of its own: kms, identity, aescbc, aesgcm or \
             secretbox",
        ));
    }
    for kind in kinds {
        match kind {
            Provider::Kms(kms) => checks.extend(kms_rules(place, kms)),
            Provider::Identity => {}
            Provider::Local { kind, sizes, keys } => {
                checks.extend(key_rules(place, kind, sizes, keys));
            }
        }
    }
    checks
}

fn key_rules(place: Place, kind: &str, sizes: &[usize], keys: &[Key]) -> Vec<Check> {
    let problem = |code, what: String| {
        refused(code, format!("{place}: {kind}{what}")).remediation(
            "repair the key from the file that kube-apiserver last ran with: an invented key does \
             not open what is stored",
        )
    };
    let mut checks = Vec::new();
    if keys.is_empty() {
        checks.push(problem("key_missing", " has no keys".to_owned()));
    }
    for (index, key) in keys.iter().enumerate() {
        for (name, part) in [("name", key.name), ("secret", key.secret)] {
            if part == Measured::Empty {
                let what = format!(".keys[{index}] has no {name}");
                checks.push(problem("key_incomplete", what));
            }
        }
        match key.secret {
            Measured::Other => {
                let what = format!(".keys[{index}].secret is not base64 (it is not shown)");
                checks.push(problem("key_secret", what));
            }
            Measured::Base64(length) if !sizes.contains(&length) => {
                let allowed: Vec<_> = sizes.iter().map(ToString::to_string).collect();
                let allowed = allowed.join(", ");
                let what =
                    format!(".keys[{index}].secret has {length} bytes, allowed is {allowed}");
                checks.push(problem("key_secret", what));
            }
            Measured::Base64(_) | Measured::Empty => {}
        }
    }
    checks
}

fn kms_rules(place: Place, kms: &Kms) -> Vec<Check> {
    let mut checks = Vec::new();
    let version = kms.version();
    if kms.name().is_empty() {
        checks.push(
            refused("kms_name", format!("{place}: kms has no name"))
                .remediation("write the name under which stored values are found again"),
        );
    }
    match version {
        None => checks.push(
            refused(
                "kms_api_version",
                format!("{place}: kms.apiVersion is neither v1 nor v2"),
            )
            .remediation("write apiVersion: v2 for this provider"),
        ),
        Some(KmsVersion::V2) => {
            if kms.name().contains(':') {
                checks.push(
                    refused("kms_name", format!("{place}: kms.name has a colon")).remediation(
                        "a name with v2 must have none, since a colon ends it in stored values",
                    ),
                );
            }
            if kms.cache_size.is_some() {
                checks.push(
                    refused(
                        "kms_cachesize",
                        format!("{place}: kms.cachesize with apiVersion v2"),
                    )
                    .remediation("remove cachesize; v2 has no such setting"),
                );
            }
        }
        Some(KmsVersion::V1) => {
            if kms.cache_size == Some(0) {
                checks.push(
                    refused("kms_cachesize", format!("{place}: kms.cachesize is 0"))
                        .remediation("write a number above zero, or a negative one for no cache"),
                );
            }
            checks.push(v1(place));
        }
    }
    if let Err(refusal) = kms.socket() {
        checks.push(
            refused("kms_endpoint", format!("{place}: kms.endpoint {refusal}")).remediation(
                "write endpoint: unix:// and the absolute path, so with three slashes",
            ),
        );
    }
    if let Err(rule) = kms.timeout() {
        checks.push(
            refused("kms_timeout", format!("{place}: kms.timeout {rule}"))
                .remediation("write timeout: 3s"),
        );
    }
    checks
}

fn v1(place: Place) -> Check {
    let message = format!("{place}: kms speaks v1, which is also meant when apiVersion is absent");
    Check::warn(ID, TITLE, message)
        .code("kms_v1")
        .impact(
            "kube-apiserver refuses v1 from 1.29 on unless its feature gate KMSv1 is set; this \
             provider does not speak it",
        )
        .impact_class(ImpactClass::ApiServerAvailability)
        .remediation(
            "for this provider write apiVersion: v2; another plugin's v1 entry must stay until \
             everything that it wrote is rewritten",
        )
}

/// One name must lead to one plugin. kube-apiserver compares a v2 plugin with all before it, and a
/// v1 plugin only if it reloads the file while it runs.
fn repeated_names(document: &Document) -> Vec<Check> {
    let mut uses: BTreeMap<&str, Vec<(Place, Option<KmsVersion>)>> = BTreeMap::new();
    for (place, kms) in document.kms().filter(|(_, kms)| !kms.name().is_empty()) {
        uses.entry(kms.name())
            .or_default()
            .push((place, kms.version()));
    }
    uses.retain(|_, uses| uses.len() > 1);
    let repeated = |uses: Vec<(Place, Option<KmsVersion>)>| {
        let places: Vec<_> = uses.iter().map(|(place, _)| place.to_string()).collect();
        let message = format!("one kms name is used by {}", places.join(" and "));
        let later = uses.iter().skip(1);
        let check = if later
            .map(|(_, version)| version)
            .all(|it| *it == Some(KmsVersion::V1))
        {
            Check::warn(ID, TITLE, message)
                .impact(
                    "kube-apiserver refuses a repeated name of v1 if \
                     --encryption-provider-config-automatic-reload is set",
                )
                .impact_class(ImpactClass::ApiServerAvailability)
                .code("kms_name_repeated")
        } else {
            refused("kms_name_repeated", message)
        };
        check.remediation(
            "put the resources of these entries into one entry, so that the provider is listed \
             once",
        )
    };
    uses.into_values().map(repeated).collect()
}
