//! kube-apiserver's own rules for header, entries and providers.

use std::collections::BTreeMap;

use kms_node::report::{CheckResult, ImpactClass};

use super::{
    Place, causes,
    document::{Document, Element, Key, Kms, KmsVersion, Measured, Provider},
    fail, refused, warn,
};

const API_VERSION: &str = "apiserver.config.k8s.io/v1";
const KIND: &str = "EncryptionConfiguration";

/// Header of the same format in an early page of the documentation.
const OLD_HEADER: [(&str, &str); 2] = [("v1", "EncryptionConfig"), ("/v1", "EncryptionConfig")];

pub(super) fn check(document: &Document) -> Vec<CheckResult> {
    let mut checks = header(document);
    if document.entries.is_empty() {
        checks.push(refused(
            "no_entries",
            "resources is empty, so nothing would be encrypted",
            "list at least secrets, with its providers",
        ));
    }

    for (index, entry) in document.entries.iter().enumerate() {
        let place = Place {
            entry: index,
            provider: None,
            line: entry.line,
        };
        if entry.resources.is_empty() {
            checks.push(refused(
                "no_resources",
                format!("{place} names no resources"),
                "list the resources that its providers are for",
            ));
        }
        if entry.providers.is_empty() {
            checks.push(refused(
                "no_providers",
                format!("{place} has no providers"),
                "list its providers, the one that encrypts first",
            ));
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

fn header(document: &Document) -> Vec<CheckResult> {
    let header = (document.api_version.as_str(), document.kind.as_str());
    let mut checks = Vec::new();
    if !OLD_HEADER.contains(&header) {
        for (key, found, expected) in [
            ("apiVersion", header.0, API_VERSION),
            ("kind", header.1, KIND),
        ] {
            if found != expected {
                checks.push(refused(
                    "header",
                    format!("{key} is not {expected}"),
                    &format!("write {key}: {expected}"),
                ));
            }
        }
    }

    if let Some(line) = document.rest {
        let message = format!("line {line}: the file goes on after its first YAML document");
        let check = warn(&causes::SECOND_DOCUMENT, message, ImpactClass::Diagnosis);
        checks.push(check.code("second_document"));
    }
    checks
}

fn element_rules(place: Place, Element { kinds, .. }: &Element) -> Vec<CheckResult> {
    let mut checks = Vec::new();
    if kinds.len() != 1 {
        let many = if kinds.is_empty() {
            "no provider that kube-apiserver knows"
        } else {
            "several providers in one list element"
        };
        checks.push(refused(
            "provider_kind",
            format!("{place} has {many}"),
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

fn key_rules(place: Place, kind: &str, sizes: &[usize], keys: &[Key]) -> Vec<CheckResult> {
    let problem = |code: &'static str, what: String| {
        let message = format!("{place}: {kind}{what}");
        let class = ImpactClass::ApiServerAvailability;
        fail(&causes::KEY_INVALID, message, &[], class).code(code)
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

fn kms_rules(place: Place, kms: &Kms) -> Vec<CheckResult> {
    let mut checks = Vec::new();
    let version = kms.version();
    if kms.name().is_empty() {
        checks.push(refused(
            "kms_name",
            format!("{place}: kms has no name"),
            "write the name under which stored values are found again",
        ));
    }

    match version {
        None => checks.push(refused(
            "kms_api_version",
            format!("{place}: kms.apiVersion is neither v1 nor v2"),
            "write apiVersion: v2 for this provider",
        )),
        Some(KmsVersion::V2) => {
            if kms.name().contains(':') {
                checks.push(refused(
                    "kms_name",
                    format!("{place}: kms.name has a colon"),
                    "a name with v2 must have none, since a colon ends it in stored values",
                ));
            }
            if kms.cache_size.is_some() {
                checks.push(refused(
                    "kms_cachesize",
                    format!("{place}: kms.cachesize with apiVersion v2"),
                    "remove cachesize; v2 has no such setting",
                ));
            }
        }
        Some(KmsVersion::V1) => {
            if kms.cache_size == Some(0) {
                checks.push(refused(
                    "kms_cachesize",
                    format!("{place}: kms.cachesize is 0"),
                    "write a number above zero, or a negative one for no cache",
                ));
            }
            checks.push(v1(place));
        }
    }

    if let Err(refusal) = kms.socket() {
        checks.push(refused(
            "kms_endpoint",
            format!("{place}: kms.endpoint {refusal}"),
            "write endpoint: unix:// and the absolute path, so with three slashes",
        ));
    }

    if let Err(rule) = kms.timeout() {
        checks.push(refused(
            "kms_timeout",
            format!("{place}: kms.timeout {rule}"),
            "write timeout: 3s",
        ));
    }
    checks
}

fn v1(place: Place) -> CheckResult {
    let message = format!("{place}: kms selects API v1, the default without apiVersion");
    warn(&causes::KMS_V1, message, ImpactClass::ApiServerAvailability).code("kms_v1")
}

/// A name must identify a single plugin. kube-apiserver compares a v2 plugin with all earlier ones,
/// and a v1 plugin only during a reload.
fn repeated_names(document: &Document) -> Vec<CheckResult> {
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
        if later
            .map(|(_, version)| version)
            .all(|it| *it == Some(KmsVersion::V1))
        {
            let class = ImpactClass::ApiServerAvailability;
            warn(&causes::NAME_REPEATED, message, class)
        } else {
            refused("kms_name_repeated", message, causes::ONE_ENTRY)
        }
    };
    uses.into_values().map(repeated).collect()
}
