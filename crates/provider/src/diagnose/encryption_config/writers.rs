//! What happens to each resource: which provider encrypts what is written, and which others still
//! decrypt what is read.

use kms_domain::scope::ProviderName;
use serde_json::{Value, json};

use super::{
    ID, TITLE,
    document::{Document, Provider},
    ours::shown,
    resource::{Resource, SECRETS},
};
use crate::report::{Check, ImpactClass};

/// One resource or wildcard with its providers in their order, at least one. The first one
/// encrypts.
pub(super) struct Treatment<'a> {
    resource: Resource<'a>,
    writer: &'a Provider,
    readers: Vec<&'a Provider>,
}

/// Every resource of the file that has a provider, in its order. kube-apiserver joins the lists of
/// a resource that is named in several entries.
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

pub(super) fn check(treatment: &[Treatment<'_>], name: &ProviderName) -> Vec<Check> {
    let mut checks = Vec::new();
    if !treatment.iter().any(|it| it.resource.covers(SECRETS)) {
        checks.push(uncovered());
    }
    // If it is nowhere, that was said already.
    let listed = |it: &Treatment<'_>| {
        it.writer.role(name) == Role::Ours || it.read_by(name).contains(&Role::Ours)
    };
    let listed = treatment.iter().any(listed);
    for finding in FINDINGS
        .iter()
        .filter(|it| listed || it.code != NOT_COVERED)
    {
        let found: Vec<_> = treatment
            .iter()
            .filter(|it| (finding.applies)(it.writer.role(name), &it.read_by(name)))
            .map(|it| it.resource.to_string())
            .collect();
        if !found.is_empty() {
            checks.push(finding.check(&found.join(", ")));
        }
    }
    checks
}

/// What a provider is in the life of this one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Ours,
    Identity,
    Other,
}

impl Treatment<'_> {
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

/// A state that is right at some time of a migration, so only a warning.
struct Finding {
    /// To the writer and the other readers of a resource.
    applies: fn(Role, &[Role]) -> bool,
    code: &'static str,
    /// Follows the names of the resources.
    what: &'static str,
    impact: &'static str,
    class: ImpactClass,
    remedy: &'static str,
}

const NOT_COVERED: &str = "not_covered";

const FINDINGS: [Finding; 6] = [
    Finding {
        applies: |writer, readers| writer == Role::Identity && readers.contains(&Role::Ours),
        code: "identity_first",
        what: "identity is the first provider, so what is written is not encrypted",
        impact: "this node reads what this provider encrypted and writes plaintext into etcd: right \
                 only while not every kube-apiserver has this provider as reader, or on the way back",
        class: ImpactClass::CryptographicSafety,
        remedy: "once every kube-apiserver has loaded a file with this provider, put its kms entry \
                 before identity, one node at a time",
    },
    Finding {
        applies: |writer, readers| writer == Role::Identity && !readers.contains(&Role::Ours),
        code: "identity_only",
        what: "identity is the first provider and this one is not listed, so what is written is not \
                 encrypted",
        impact: "these resources lie in etcd and its backups as plaintext, and what this provider may \
                 have encrypted of them cannot be read",
        class: ImpactClass::CryptographicSafety,
        remedy: "leave it if these resources are excepted on purpose; otherwise list this provider's \
                 kms entry after identity on every node, and then before it",
    },
    Finding {
        applies: |writer, readers| writer == Role::Other && readers.contains(&Role::Ours),
        code: "reader_only",
        what: "another provider comes first, so this one only decrypts",
        impact: "new values do not depend on this provider yet: right in the first phase of a \
                 migration to it",
        class: ImpactClass::Diagnosis,
        remedy: "once every kube-apiserver has loaded a file with this provider, put its kms entry \
                 first, one node at a time",
    },
    Finding {
        applies: |writer, readers| writer == Role::Other && !readers.contains(&Role::Ours),
        code: NOT_COVERED,
        what: "this provider is not listed",
        impact: "these resources are encrypted by another provider, and what this provider may have \
                 encrypted of them cannot be read",
        class: ImpactClass::DataRecovery,
        remedy: "leave it if another provider is meant for them; otherwise list this provider's kms \
                 entry for them too",
    },
    Finding {
        applies: |writer, readers| writer != Role::Identity && readers.contains(&Role::Identity),
        code: "identity_left",
        what: "identity is still among the providers",
        impact: "objects that were never rewritten may still lie in etcd as plaintext, and whoever can \
                 write to etcd can put plaintext there that kube-apiserver believes",
        class: ImpactClass::CryptographicSafety,
        remedy: "rewrite every object of these resources, verify that none is left in plaintext, and \
                 remove identity; before that it must stay",
    },
    Finding {
        applies: |writer, readers| writer == Role::Ours && readers.contains(&Role::Other),
        code: "others_left",
        what: "other providers are still listed to decrypt",
        impact: "objects that were never rewritten still depend on them, and their keys may stand in \
                 this file",
        class: ImpactClass::CryptographicSafety,
        remedy: "rewrite every object of these resources, verify that none is left under the others, \
                 and remove them; before that they must stay",
    },
];

impl Finding {
    fn check(&self, resources: &str) -> Check {
        Check::warn(ID, TITLE, format!("{resources}: {}", self.what))
            .code(self.code)
            .impact(self.impact)
            .impact_class(self.class)
            .remediation(self.remedy)
    }
}

fn uncovered() -> Check {
    Check::fail(ID, TITLE, "secrets are covered by no entry")
        .code("secrets_uncovered")
        .impact("Secrets are written into etcd and its backups as plaintext")
        .impact_class(ImpactClass::CryptographicSafety)
        .remediation("list secrets under resources of the entry with this provider")
}
