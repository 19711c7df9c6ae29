//! The evidence on a plan that retires versions: objects that need them, checks, and the cause that
//! forbids the plan.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use kms_domain::{
    key::TransitKey, recovery::evidence::Retirement, registry::retire::Plan,
    transit::TransitVersion,
};
use kms_node::{
    advice::{
        Advice, Found,
        evidence::{KEY_IDS_UNKNOWN, KEYS_UNREAD, NO_OBJECTS},
        retirement::{NEEDED, OLDER_REVISIONS, REVERSIBLE_LIMITATION},
    },
    exit::Exit,
    report::{CheckName, CheckResult, table::Cell as _},
};
use schemars::JsonSchema;
use serde::Serialize;

use super::{
    evidence::SourceRead,
    evidence_report::{
        Asker, SourceRow, States, Values, check_of_withdrawn, checks_of_objects, checks_of_reading,
        limits, rewrite, unread_keys, usage_of, uses,
    },
    unread::Unread,
};

/// Evidence on a plan.
#[derive(Debug)]
pub struct Findings {
    /// Whether the plan may be carried out.
    pub verdict: Retirement,
    /// All that was read.
    pub sources: Vec<SourceRead>,
    /// The records that the plan was made for.
    pub states: States,
}

/// The members of a plan's result that only evidence makes.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EvidenceRow {
    /// `proven` for the sources that were read, or `limited`.
    pub confidence: &'static str,
    pub sources: Vec<SourceRow>,
}

/// Objects of which the newest revision needs a version.
#[derive(Debug, Serialize, JsonSchema)]
pub struct NeededBy {
    pub source: String,
    pub resource: String,
    pub objects: u64,
}

/// Revisions that a later one replaced or deleted, and that compaction has left so far.
#[derive(Debug, Serialize, JsonSchema)]
pub struct OlderRevisions {
    pub source: String,
    pub resource: String,
    pub revisions: u64,
}

impl Findings {
    /// The exit code of a plan, or of its application.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self.verdict {
            Retirement::Allowed => Exit::Success,
            Retirement::Needed | Retirement::Unresolved => Exit::CheckFailed,
            Retirement::Inconclusive | Retirement::Unread => Exit::Runtime,
        }
    }

    /// The rows of the sources.
    #[must_use]
    pub fn shown(&self) -> EvidenceRow {
        let sources = self.sources.iter();
        EvidenceRow {
            confidence: match self.is_proven() {
                true => "proven",
                false => "limited",
            },
            sources: sources.map(|it| SourceRow::of(it, &self.states)).collect(),
        }
    }

    /// The evidence on `plan`.
    #[must_use]
    pub fn checks(&self, plan: &Plan, asker: Asker<'_>) -> Vec<CheckResult> {
        let mut checks = checks_of_reading(&self.sources, asker);
        checks.extend(unread_keys(&self.sources).map(Unread::check));
        checks.extend(checks_of_objects(&self.sources, asker));
        checks.push(self.needed(plan.removed(), asker));
        checks.push(self.older(plan.removed(), asker));
        checks.extend(check_of_withdrawn(&self.sources, &self.states, asker));
        checks
    }

    /// Objects that need the version, by source.
    #[must_use]
    pub fn needed_by(&self, version: TransitVersion) -> Vec<NeededBy> {
        let rows = usage_of(&self.sources, version).flat_map(|(source, usage)| {
            usage.newest.iter().map(|(resource, objects)| NeededBy {
                source: source.name.clone(),
                resource: resource.clone(),
                objects: *objects,
            })
        });
        rows.collect()
    }

    /// Older revisions under the version, by source.
    #[must_use]
    pub fn older_revisions(&self, version: TransitVersion) -> Vec<OlderRevisions> {
        let rows = usage_of(&self.sources, version).flat_map(|(source, usage)| {
            usage
                .older
                .iter()
                .map(|(resource, revisions)| OlderRevisions {
                    source: source.name.clone(),
                    resource: resource.clone(),
                    revisions: *revisions,
                })
        });
        rows.collect()
    }

    /// Open points.
    #[must_use]
    pub fn limitations(&self) -> Vec<String> {
        let mut limits = limits(&self.sources);
        limits.push(REVERSIBLE_LIMITATION.to_owned());
        limits
    }

    /// The cause that forbids the plan; `None` if it may be carried out.
    #[must_use]
    pub fn advise(&self, plan: &Plan, asker: Asker<'_>) -> Option<Advice> {
        let (cause, values): Found = match self.verdict {
            Retirement::Allowed => return None,
            Retirement::Needed => (&NEEDED, self.rewrite_or_keep(plan.removed())),
            Retirement::Unresolved => (&KEY_IDS_UNKNOWN, Vec::new()),
            Retirement::Inconclusive => (&NO_OBJECTS, Vec::new()),
            Retirement::Unread => {
                let unread = |source: &SourceRead| {
                    let unread = source.unread.as_ref().filter(|it| !it.is_allowed())?;
                    Some(asker.of_unread(&source.name, unread))
                };
                let first = self.sources.iter().find_map(unread);
                first.unwrap_or((&KEYS_UNREAD, Vec::new()))
            }
        };
        Some(asker.advise(cause, &values))
    }

    /// Objects of an etcd can be rewritten; the versions of a backup must be kept.
    fn rewrite_or_keep(&self, removed: &[Arc<TransitKey>]) -> Values {
        let mut resources = BTreeSet::new();
        let mut backups: BTreeMap<&str, BTreeSet<TransitVersion>> = BTreeMap::new();
        for key in removed {
            let needed = usage_of(&self.sources, key.version());
            for (source, usage) in needed.filter(|(_, usage)| usage.objects() > 0) {
                if source.is_live() {
                    resources.extend(usage.newest.keys().map(String::as_str));
                } else {
                    backups
                        .entry(&source.name)
                        .or_default()
                        .insert(key.version());
                }
            }
        }
        let mut values = rewrite(resources);
        let kept = backups.into_iter().map(|(backup, versions)| {
            let versions: Vec<_> = versions.iter().map(ToString::to_string).collect();
            format!("version {} for {backup}", versions.join(", "))
        });
        let kept: Vec<_> = kept.collect();
        if !kept.is_empty() {
            values.push(("kept", kept.join("; ")));
        }
        values
    }

    fn needed(&self, removed: &[Arc<TransitKey>], asker: Asker<'_>) -> CheckResult {
        const NAME: CheckName = CheckName("key.needed", "Objects under a version to be removed");
        let found: Vec<_> = removed
            .iter()
            .flat_map(|key| uses(&self.sources, key.version()))
            .collect();
        if found.is_empty() {
            return NAME.pass();
        }
        NAME.fail(found.join("; "))
            .impact(asker.advise(&NEEDED, &Vec::new()).data)
    }

    fn older(&self, removed: &[Arc<TransitKey>], asker: Asker<'_>) -> CheckResult {
        const NAME: CheckName = CheckName("key.older_revisions", "Older revisions");
        let found = removed.iter().flat_map(|key| {
            let version = key.version();
            usage_of(&self.sources, version)
                .filter(|(_, usage)| !usage.older.is_empty())
                .map(move |(source, usage)| {
                    let older = usage.older.text();
                    format!("version {version}: {older} in {}", source.name)
                })
        });
        let found: Vec<_> = found.collect();
        if found.is_empty() {
            return NAME.pass();
        }
        NAME.warn(found.join("; "))
            .because(asker.advise(&OLDER_REVISIONS, &Vec::new()))
    }

    fn is_proven(&self) -> bool {
        let told = match self.verdict {
            Retirement::Allowed | Retirement::Needed => true,
            Retirement::Unresolved | Retirement::Unread | Retirement::Inconclusive => false,
        };
        let sound = |source: &SourceRead| source.trust.doubt().is_none() && source.is_whole();
        told && self.sources.iter().all(sound)
    }

    /// The verdict in a sentence.
    #[must_use]
    pub fn headline(&self) -> &'static str {
        match self.verdict {
            Retirement::Allowed => "no object in the sources needs a version to be removed",
            Retirement::Needed => {
                "objects need a version to be removed, so --apply is refused; nothing was changed \
                 and all data is readable as before"
            }
            Retirement::Unresolved => {
                "the version that some objects need is unknown, so --apply is refused; nothing was \
                 changed"
            }
            Retirement::Unread => {
                "etcd has keys that were not read, whose objects may need the versions, so --apply is \
                 refused; nothing was changed"
            }
            Retirement::Inconclusive => {
                "a source shows nothing about the key, so the versions may be needed and --apply is \
                 refused; nothing was changed"
            }
        }
    }
}
