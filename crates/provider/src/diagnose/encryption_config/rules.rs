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

pub(super) fn check(document: &Document) -> Vec<Check> {
    let mut checks = Vec::new();
    for (key, found, expected) in [
        ("apiVersion", &document.api_version, API_VERSION),
        ("kind", &document.kind, KIND),
    ] {
        if found.as_deref() != Some(expected) {
            checks.push(
                refused("header", format!("{key} is not {expected}"))
                    .remediation(format!("write {key}: {expected}")),
            );
        }
    }
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
        let absent = |part: Option<Measured>| part.is_none_or(|part| part == Measured::Empty);
        for (name, part) in [("name", key.name), ("secret", key.secret)] {
            if absent(part) {
                let what = format!(".keys[{index}] has no {name}");
                checks.push(problem("key_incomplete", what));
            }
        }
        match key.secret {
            Some(Measured::Other) => {
                let what = format!(".keys[{index}].secret is not base64 (it is not shown)");
                checks.push(problem("key_secret", what));
            }
            Some(Measured::Base64(length)) if !sizes.contains(&length) => {
                let allowed: Vec<_> = sizes.iter().map(ToString::to_string).collect();
                let allowed = allowed.join(", ");
                let what =
                    format!(".keys[{index}].secret has {length} bytes, allowed is {allowed}");
                checks.push(problem("key_secret", what));
            }
            _ => {}
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
        Some(KmsVersion::V1) => checks.push(
            Check::warn(
                ID,
                TITLE,
                format!("{place}: kms speaks v1, which is also meant when apiVersion is absent"),
            )
            .code("kms_v1")
            .impact(
                "kube-apiserver refuses v1 from 1.29 on unless its feature gate KMSv1 is set; this \
                 provider does not speak it",
            )
            .impact_class(ImpactClass::ApiServerAvailability)
            .remediation(
                "for this provider write apiVersion: v2; another plugin's v1 entry must stay until \
                 everything that it wrote is rewritten",
            ),
        ),
    }
    if kms.socket().is_none() {
        checks.push(
            refused(
                "kms_endpoint",
                format!("{place}: kms.endpoint is not unix: with a path and without a host"),
            )
            .remediation("write endpoint: unix:// and the absolute path, so with three slashes"),
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

/// One name must lead to one plugin.
fn repeated_names(document: &Document) -> Vec<Check> {
    let mut places: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (place, kms) in document.kms().filter(|(_, kms)| !kms.name().is_empty()) {
        places
            .entry(kms.name())
            .or_default()
            .push(place.to_string());
    }
    places.retain(|_, places| places.len() > 1);
    let repeated = |places: Vec<String>| {
        refused(
            "kms_name_repeated",
            format!("one kms name is used by {}", places.join(" and ")),
        )
        .remediation(
            "put the resources of these entries into one entry, so that the provider is listed \
             once",
        )
    };
    places.into_values().map(repeated).collect()
}
