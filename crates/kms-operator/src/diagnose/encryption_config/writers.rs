//! Treatment of each resource: the provider for encryption, and the other providers for decryption.

use kms_domain::scope::ProviderName;
use kms_node::{
    advice::Cause,
    report::{CheckResult, ImpactClass},
};
use serde_json::{Value, json};

use super::{
    causes,
    document::{Document, Provider},
    fail,
    ours::shown,
    resource::{Resource, SECRETS},
    warn,
};

/// A resource or wildcard with its providers in order, at least one. The first one encrypts.
pub(super) struct Treatment<'a> {
    resource: Resource<'a>,
    writer: &'a Provider,
    readers: Vec<&'a Provider>,
}

/// Treatment of every resource with a provider, in file order. kube-apiserver joins the provider
/// lists of several entries for a resource.
pub(super) fn treatment(document: &Document) -> Vec<Treatment<'_>> {
    let mut all: Vec<Treatment<'_>> = Vec::new();
    for entry in &document.entries {
        let providers: Vec<_> = entry.providers.iter().flat_map(|it| &it.kinds).collect();
        let Some((&writer, readers)) = providers.split_first() else {
            continue;
        };
        for resource in entry.resources() {
            match all.iter_mut().find(|known| known.resource == resource) {
                Some(known) => known.readers.extend(&providers),
                None => all.push(Treatment {
                    resource,
                    writer,
                    readers: readers.to_vec(),
                }),
            }
        }
    }
    all
}

/// Whether `identity` reads Secrets. kube-apiserver uses the first rule that covers a resource, and
/// none at all leaves it plain.
pub(super) fn reads_plaintext(treatment: &[Treatment<'_>]) -> bool {
    let rule = treatment.iter().find(|it| it.resource.covers(SECRETS));
    rule.is_none_or(|it| {
        let mut all = [it.writer].into_iter().chain(it.readers.iter().copied());
        all.any(|provider| matches!(provider, Provider::Identity))
    })
}

/// Each resource or wildcard with the names of its KMS providers, in file order.
pub(super) fn kms_names(treatment: &[Treatment<'_>]) -> Vec<(String, Vec<String>)> {
    let of = |it: &Treatment<'_>| {
        let all = [it.writer].into_iter().chain(it.readers.iter().copied());
        let names = all.filter_map(|provider| match provider {
            Provider::Kms(kms) => Some(kms.name().to_owned()),
            Provider::Identity | Provider::Local { .. } => None,
        });
        (it.resource.to_string(), names.collect())
    };
    treatment.iter().map(of).collect()
}

/// For programs: each resource with its writer and its other readers.
pub(super) fn details(treatment: &[Treatment<'_>]) -> Value {
    let of = |it: &Treatment<'_>| {
        let readers: Vec<_> = it.readers.iter().map(|provider| provider.label()).collect();
        json!({
            "resource": it.resource.to_string(),
            "writer": it.writer.label(),
            "readers": readers,
        })
    };
    treatment.iter().map(of).collect()
}

/// For people: each resource with its writer.
pub(super) fn summary(treatment: &[Treatment<'_>]) -> String {
    let of = |it: &Treatment<'_>| format!("{} by {}", it.resource, it.writer.label());
    let all: Vec<_> = treatment.iter().map(of).collect();
    format!("encrypted are {}", all.join(", "))
}

pub(super) fn check(treatment: &[Treatment<'_>], name: &ProviderName) -> Vec<CheckResult> {
    let mut checks = Vec::new();
    if !treatment.iter().any(|it| it.resource.covers(SECRETS)) {
        let message = "secrets are covered by no entry";
        let class = ImpactClass::CryptographicSafety;
        checks.push(fail(&causes::SECRETS_UNCOVERED, message, &[], class));
    }
    // The missing provider is already reported.
    let listed = |it: &Treatment<'_>| {
        it.writer.role(name) == Role::Ours || it.read_by(name).contains(&Role::Ours)
    };
    let listed = treatment.iter().any(listed);
    for finding in FINDINGS
        .iter()
        .filter(|it| listed || it.code != "not_covered")
    {
        let found: Vec<_> = treatment
            .iter()
            .filter(|it| (finding.applies)(it.writer.role(name), &it.read_by(name)))
            .map(|it| it.resource.to_string())
            .collect();
        if !found.is_empty() {
            let message = format!("{}: {}", found.join(", "), finding.fact);
            checks.push(warn(finding.cause, message, finding.class).code(finding.code));
        }
    }
    checks
}

/// Role of a provider relative to this one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Ours,
    Identity,
    Other,
}

impl<'a> Treatment<'a> {
    pub(super) fn resource(&self) -> Resource<'a> {
        self.resource
    }

    /// Whether the kms provider of this name encrypts.
    pub(super) fn is_written_by(&self, name: &str) -> bool {
        matches!(self.writer, Provider::Kms(kms) if kms.name() == name)
    }

    fn read_by(&self, name: &ProviderName) -> Vec<Role> {
        self.readers.iter().map(|it| it.role(name)).collect()
    }
}

impl Provider {
    fn role(&self, name: &ProviderName) -> Role {
        match self {
            Self::Kms(kms) if kms.name() == name.as_str() => Role::Ours,
            Self::Identity => Role::Identity,
            Self::Kms(_) | Self::Local { .. } => Role::Other,
        }
    }

    fn label(&self) -> String {
        match self {
            Self::Kms(kms) => format!("kms {}", shown(kms.name())),
            Self::Identity => "identity".to_owned(),
            Self::Local { kind, .. } => (*kind).to_owned(),
        }
    }
}

/// A valid state during a phase of a migration, so only a warning.
struct Finding {
    /// Condition on the writer and the other readers of a resource.
    applies: fn(Role, &[Role]) -> bool,
    code: &'static str,
    fact: &'static str,
    cause: &'static Cause,
    class: ImpactClass,
}

const FINDINGS: [Finding; 6] = [
    Finding {
        applies: |writer, readers| writer == Role::Identity && readers.contains(&Role::Ours),
        code: "identity_first",
        fact: "identity is the first provider, so new values are not encrypted",
        cause: &causes::READER_ONLY,
        class: ImpactClass::CryptographicSafety,
    },
    Finding {
        applies: |writer, readers| writer == Role::Identity && !readers.contains(&Role::Ours),
        code: "identity_only",
        fact: "identity is the first provider and this one is not listed, so new values are not encrypted",
        cause: &causes::NOT_COVERED,
        class: ImpactClass::CryptographicSafety,
    },
    Finding {
        applies: |writer, readers| writer == Role::Other && readers.contains(&Role::Ours),
        code: "reader_only",
        fact: "another provider comes first, so this one only decrypts",
        cause: &causes::READER_ONLY,
        class: ImpactClass::Diagnosis,
    },
    Finding {
        applies: |writer, readers| writer == Role::Other && !readers.contains(&Role::Ours),
        code: "not_covered",
        fact: "this provider is not listed for a resource",
        cause: &causes::NOT_COVERED,
        class: ImpactClass::DataRecovery,
    },
    Finding {
        applies: |writer, readers| writer != Role::Identity && readers.contains(&Role::Identity),
        code: "identity_left",
        fact: "identity is still among the providers",
        cause: &causes::OTHERS_LEFT,
        class: ImpactClass::CryptographicSafety,
    },
    Finding {
        applies: |writer, readers| writer == Role::Ours && readers.contains(&Role::Other),
        code: "others_left",
        fact: "other providers are still listed to decrypt",
        cause: &causes::OTHERS_LEFT,
        class: ImpactClass::CryptographicSafety,
    },
];
