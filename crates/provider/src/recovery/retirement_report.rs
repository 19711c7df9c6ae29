//! What the evidence says of a plan that retires versions: who needs them, what that means, and what
//! to do about it.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Write},
    sync::Arc,
};

use kms_domain::{
    key::TransitKey, recovery::evidence::Retirement, registry::retire::Plan,
    transit::TransitVersion,
};
use schemars::JsonSchema;
use serde::Serialize;

use super::{
    evidence::SourceRead,
    evidence_report::{
        SourceShown, States, check_of_withdrawn, checks_of_objects, checks_of_reading, counted,
        limits, rewrite, unread_keys, usage_of, uses,
    },
    unread::Unread,
};
use crate::{
    cli::exit::Exit,
    report::{Check, DoNot},
};

/// What the evidence says of a plan.
#[derive(Debug)]
pub struct Findings {
    /// Whether the plan may be carried out.
    pub verdict: Retirement,
    /// All that was read.
    pub sources: Vec<SourceRead>,
    /// The records that the plan was made for.
    pub states: States,
}

/// The part of a plan's report that only evidence makes.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EvidenceShown {
    verdict: &'static str,
    summary: &'static str,
    /// `proven` for the sources that were read, or `limited`.
    confidence: &'static str,
    checks: Vec<Check>,
    sources: Vec<SourceShown>,
    do_not: Vec<&'static str>,
}

/// Objects of which the newest revision needs a version.
#[derive(Debug, Serialize, JsonSchema)]
pub struct NeededBy {
    source: String,
    resource: String,
    objects: u64,
}

/// Revisions that a later one replaced or deleted, and that compaction has left so far.
#[derive(Debug, Serialize, JsonSchema)]
pub struct OlderRevisions {
    source: String,
    resource: String,
    revisions: u64,
}

impl Findings {
    /// The exit code of a plan, or of its application.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self.verdict {
            Retirement::Allowed => Exit::Success,
            Retirement::Needed | Retirement::Unaccounted => Exit::CheckFailed,
            Retirement::Inconclusive | Retirement::Unread => Exit::Runtime,
        }
    }

    /// Puts what the evidence says of `plan` into words.
    #[must_use]
    pub fn shown(&self, plan: &Plan) -> EvidenceShown {
        let provider = &plan.next().registry().scope().identity().provider_name;
        let mut checks = checks_of_reading(&self.sources);
        checks.extend(unread_keys(&self.sources).map(Unread::check));
        checks.extend(checks_of_objects(&self.sources, provider.as_str()));
        checks.push(self.needed(plan.removed()));
        checks.push(self.older(plan.removed()));
        checks.extend(check_of_withdrawn(&self.sources, &self.states));
        EvidenceShown {
            verdict: self.verdict.as_str(),
            summary: self.summary(),
            confidence: match self.is_proven() {
                true => "proven",
                false => "limited",
            },
            checks,
            sources: self
                .sources
                .iter()
                .map(|source| SourceShown::of(source, &self.states))
                .collect(),
            do_not: self.do_not(),
        }
    }

    /// What needs the version, source by source.
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

    /// What of the past is under the version, source by source.
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

    /// What stays unknown all the same.
    #[must_use]
    pub fn limitations(&self) -> String {
        let mut limits = limits(&self.sources);
        limits.push(
            "Until a version is trimmed in OpenBao, restore-versions brings it back.".to_owned(),
        );
        limits.join(" ")
    }

    /// The way to a plan that may be carried out; `None` if this is one.
    #[must_use]
    pub fn next_step(&self, plan: &Plan) -> Option<String> {
        let step = match self.verdict {
            Retirement::Allowed => return None,
            Retirement::Needed => self.rewrite_or_keep(plan.removed()),
            Retirement::Unaccounted => {
                "run verify-backup with the source that the failed checks name: it tells for each \
                 key_id what is missing and what helps"
                    .to_owned()
            }
            Retirement::Inconclusive => {
                "name the etcd and the snapshots of this cluster; leave out a snapshot from before \
                 this provider was in use"
                    .to_owned()
            }
            Retirement::Unread => {
                let steps: Vec<_> = unread_keys(&self.sources)
                    .filter(|unread| !unread.is_allowed())
                    .map(|unread| format!("{}; {}", unread.remedy(), unread.allow()))
                    .collect();
                steps.join("; ")
            }
        };
        Some(format!("{step}; then plan again with the same evidence"))
    }

    /// An etcd can be mended, a backup only be kept company.
    fn rewrite_or_keep(&self, removed: &[Arc<TransitKey>]) -> String {
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
        let mut steps = Vec::new();
        if !resources.is_empty() {
            steps.push(rewrite(resources));
        }
        for (backup, versions) in backups {
            let versions: Vec<_> = versions.iter().map(ToString::to_string).collect();
            steps.push(format!(
                "keep version {} for as long as {backup} may be restored (if it only shows what \
                 etcd held before the objects were rewritten, save a new snapshot in its place)",
                versions.join(", ")
            ));
        }
        steps.join("; ")
    }

    fn needed(&self, removed: &[Arc<TransitKey>]) -> Check {
        let (id, title) = ("key.needed", "No object needs a version to be removed");
        let found: Vec<_> = removed
            .iter()
            .flat_map(|key| uses(&self.sources, key.version()))
            .collect();
        if found.is_empty() {
            return Check::pass(id, title);
        }
        Check::fail(id, title, found.join("; "))
            .impact("once a node has retired the version, its API server cannot read these objects")
    }

    fn older(&self, removed: &[Arc<TransitKey>]) -> Check {
        let (id, title) = ("key.older_revisions", "Older revisions");
        let found = removed.iter().flat_map(|key| {
            let version = key.version();
            usage_of(&self.sources, version)
                .filter(|(_, usage)| !usage.older.is_empty())
                .map(move |(source, usage)| {
                    let older = counted(&usage.older);
                    format!("version {version}: {older} in {}", source.name)
                })
        });
        let found: Vec<_> = found.collect();
        if found.is_empty() {
            return Check::pass(id, title);
        }
        Check::warn(id, title, found.join("; "))
            .impact(
                "no object is lost with them, but a watch that begins before they were replaced \
                 fails, and its client lists anew",
            )
            .remediation(
                "wait for the API server to compact etcd, at most ten minutes after the last \
                 rewriting with its defaults",
            )
    }

    fn is_proven(&self) -> bool {
        let told = match self.verdict {
            Retirement::Allowed | Retirement::Needed => true,
            Retirement::Unaccounted | Retirement::Unread | Retirement::Inconclusive => false,
        };
        told && self.sources.iter().all(|source| {
            let evidence = &source.evidence;
            source.trust.doubt().is_none()
                && source.unread.is_none()
                && evidence.unknown_objects() == 0
                && evidence.objects() > 0
        })
    }

    fn summary(&self) -> &'static str {
        match self.verdict {
            Retirement::Allowed => "no object in what was read needs a version to be removed",
            Retirement::Needed => {
                "objects need a version to be removed, so --apply is refused; nothing was changed \
                 and all data is readable as before"
            }
            Retirement::Unaccounted => {
                "it cannot be told what some objects need, so --apply is refused; nothing was \
                 changed and no data is lost by it"
            }
            Retirement::Unread => {
                "etcd holds keys that were not read, so it is not established that no object needs \
                 the versions and --apply is refused; nothing was changed"
            }
            Retirement::Inconclusive => {
                "a source shows nothing about the key, so it is not established that nobody needs \
                 the versions and --apply is refused; nothing was changed"
            }
        }
    }

    fn do_not(&self) -> Vec<&'static str> {
        const MINIMUM: &str = "do not raise min_decryption_version, and do not trim the key";
        match self.verdict {
            Retirement::Allowed => Vec::new(),
            Retirement::Needed => vec![
                "do not delete these objects, and do not edit etcd",
                MINIMUM,
                "do not apply without the evidence: the versions are known to be needed",
            ],
            Retirement::Unaccounted | Retirement::Unread | Retirement::Inconclusive => vec![
                MINIMUM,
                "do not apply without the evidence: nothing else shows that nobody needs them",
            ],
        }
    }
}

impl EvidenceShown {
    /// Writes what comes before the next step.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        self.sources
            .iter()
            .try_for_each(|source| source.text(out))?;
        self.checks.iter().try_for_each(|check| check.text(out))?;
        writeln!(out, "verdict: {}", self.verdict)?;
        writeln!(out, "summary: {}", self.summary)?;
        writeln!(out, "confidence: {}", self.confidence)
    }

    /// Writes what comes after it.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn do_not_text(&self, out: &mut dyn Write) -> io::Result<()> {
        self.do_not
            .iter()
            .try_for_each(|not| writeln!(out, "{}", DoNot(not)))
    }
}

impl NeededBy {
    /// Writes its line.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let Self {
            source,
            resource,
            objects,
        } = self;
        writeln!(
            out,
            "  neededBy: {resource} objects={objects} source={source}"
        )
    }
}

impl OlderRevisions {
    /// Writes its line.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let Self {
            source,
            resource,
            revisions,
        } = self;
        writeln!(
            out,
            "  olderRevisions: {resource} revisions={revisions} source={source}"
        )
    }
}
