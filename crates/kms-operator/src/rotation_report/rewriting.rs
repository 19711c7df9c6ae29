//! Progress of rewriting the stored objects after a rotation, from etcd and its backups.

mod judged;

use std::collections::BTreeMap;

use kms_domain::{
    recovery::evidence::{Rewriting, Usage, judge_rewriting},
    registry::Registry,
    transit::{KeyProfile, TransitVersion},
};
use kms_node::{
    advice::{
        Advice,
        evidence::OTHERWISE_PROTECTED,
        retirement::{BACKUPS_NEED_VERSIONS, NOT_PROMOTED, NOT_REWRITTEN},
    },
    exit::Exit,
    report::{
        CheckName, CheckResult, one_line,
        picture::Picture,
        table::{Cell as _, Table},
    },
};
use schemars::JsonSchema;
use serde::Serialize;

use super::picture;
use crate::recovery::{
    evidence::{EvidenceUnread, SourceRead},
    evidence_report::{
        self, Asker, SourceRow, check_of_withdrawn, checks_of_objects, checks_of_reading, rewrite,
        states, unread_keys,
    },
    scan,
    unread::Unread,
};

/// The read sources, with the versions of this node and of the key.
#[derive(Clone, Copy)]
pub(super) struct Facts<'a> {
    /// Every source, of which the running etcd, else the latest snapshot, decides.
    pub(super) sources: &'a [SourceRead],
    /// Of this node, if it has one.
    pub(super) registry: Option<&'a Registry>,
    /// The key, if it could be read.
    pub(super) profile: Option<&'a KeyProfile>,
    /// The name that objects are stored under.
    pub(super) provider: &'a str,
    pub(super) asker: Asker<'a>,
}

/// The members that only evidence makes.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct RewritingRow {
    /// In the source that decides; absent if nothing was read.
    #[serde(skip_serializing_if = "Option::is_none")]
    objects_under_old_versions: Option<u64>,
    /// The same by version and resource.
    under_old_versions: Vec<UnderOldVersion>,
    sources: Vec<SourceRow>,
}

/// The verdict on the sources, with its advice.
pub(super) struct Judgement {
    /// The members of the result.
    pub(super) row: RewritingRow,
    pub(super) verdict: &'static str,
    pub(super) headline: String,
    /// If nothing but the evidence is against a better one.
    pub(super) exit: Exit,
    pub(super) advice: Advice,
    pub(super) checks: Vec<CheckResult>,
    pub(super) limitations: Vec<String>,
    pub(super) picture: Picture,
    is_proven: bool,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct UnderOldVersion {
    transit_version: u64,
    resource: String,
    objects: u64,
}

impl UnderOldVersion {
    fn of((version, usage): (TransitVersion, &Usage)) -> Vec<Self> {
        let rows = usage.newest.iter().map(|(resource, objects)| Self {
            transit_version: version.get(),
            resource: resource.clone(),
            objects: *objects,
        });
        rows.collect()
    }
}

const BACKUPS: CheckName = CheckName("etcd.backups", "Backups that need an older version");
const PROTECTION: CheckName = CheckName(
    "etcd.protection",
    "Objects of the same resources that are not under this provider",
);

/// The word where nothing can be told.
const INCONCLUSIVE: &str = "inconclusive";

impl Judgement {
    /// Evaluates the sources.
    #[must_use]
    pub(super) fn of(facts: Facts<'_>) -> Self {
        let Facts {
            sources,
            registry,
            asker,
            ..
        } = facts;
        let states = registry.map(states).unwrap_or_default();
        let mut checks = checks_of_reading(sources, asker);
        checks.extend(unread_keys(sources).map(Unread::warning));
        let decisive = facts.decisive();
        checks.extend(checks_of_objects(decisive, asker));
        checks.push(facts.check());
        checks.extend(decisive.and_then(|source| protection(source, asker)));
        checks.extend(facts.backups());
        checks.extend(check_of_withdrawn(sources, &states, asker));
        let old = decisive.map_or_else(Vec::new, |source| facts.old(source));
        let judged = facts.judged();
        Self {
            verdict: judged.map_or(INCONCLUSIVE, Rewriting::as_str),
            headline: facts.headline(judged),
            exit: match judged {
                Some(Rewriting::Finished) => Exit::Success,
                Some(Rewriting::Unresolved | Rewriting::Unfinished | Rewriting::NotPromoted) => {
                    Exit::CheckFailed
                }
                Some(Rewriting::Inconclusive) | None => Exit::Runtime,
            },
            advice: facts.advice(judged),
            checks,
            limitations: facts.limitations(),
            picture: picture::objects(registry, sources),
            is_proven: facts.is_proven(judged),
            row: RewritingRow {
                objects_under_old_versions: registry.and(decisive).map(|_| {
                    let objects = old.iter().map(|(_, usage)| usage.objects());
                    objects.fold(0, u64::saturating_add)
                }),
                under_old_versions: old.into_iter().flat_map(UnderOldVersion::of).collect(),
                sources: sources
                    .iter()
                    .map(|source| SourceRow::of(source, &states))
                    .collect(),
            },
        }
    }

    /// Where a source gave no answer, nothing is said of the others.
    #[must_use]
    pub(super) fn unread(error: &EvidenceUnread, asker: Asker<'_>) -> Self {
        Self {
            verdict: INCONCLUSIVE,
            headline:
                "the evidence could not be read, so it is unknown whether anything is left to \
                       rewrite"
                    .to_owned(),
            exit: Exit::Runtime,
            advice: asker.of_failure(&error.cause),
            checks: vec![scan::READ.fail(one_line(error))],
            limitations: vec![
                "Nothing is known of the objects, since a source could not be read.".to_owned(),
            ],
            picture: Picture::default(),
            is_proven: false,
            row: RewritingRow {
                objects_under_old_versions: None,
                under_old_versions: Vec::new(),
                sources: Vec::new(),
            },
        }
    }

    /// `proven` for the running etcd that was read, or `limited`.
    #[must_use]
    pub(super) fn confidence(&self) -> &'static str {
        match self.is_proven {
            true => "proven",
            false => "limited",
        }
    }
}

impl RewritingRow {
    /// Its rows for text.
    pub(super) fn tables(&self) -> Vec<Table> {
        let old = Table::of("objects under older versions", &self.under_old_versions)
            .column("version", |it| it.transit_version)
            .column("resource", |it| &it.resource)
            .column("objects", |it| it.objects);
        let mut tables = vec![old.table()];
        tables.extend(evidence_report::tables(&self.sources));
        tables
    }
}

impl<'a> Facts<'a> {
    /// The source closest to the present content of etcd.
    fn decisive(&self) -> Option<&'a SourceRead> {
        let latest = || self.sources.iter().max_by_key(|source| source.revision);
        let live = self.sources.iter().find(|source| source.is_live());
        live.or_else(latest)
    }

    /// Keys of it that were left unread.
    fn unread(&self) -> Option<&'a Unread> {
        self.decisive()?.unread.as_ref()
    }

    /// `None` where there is nothing to judge, or nothing to measure it by.
    fn judged(&self) -> Option<Rewriting> {
        let active = self.active()?;
        Some(judge_rewriting(
            active,
            self.newest(active),
            &self.decisive()?.evidence,
        ))
    }

    fn active(&self) -> Option<TransitVersion> {
        Some(self.registry?.active().version())
    }

    /// The newest version that is known, active or not.
    fn newest(&self, active: TransitVersion) -> TransitVersion {
        let pending = self.registry.and_then(Registry::pending);
        let pending = pending.map(|record| record.key.version());
        let latest = self.profile.map(KeyProfile::latest);
        active
            .max(pending.unwrap_or(active))
            .max(latest.unwrap_or(active))
    }

    /// Objects of the source under versions older than the active one.
    fn old(&self, source: &'a SourceRead) -> Vec<(TransitVersion, &'a Usage)> {
        let Some(active) = self.active() else {
            return Vec::new();
        };
        let older = source.evidence.needs().range(..active);
        older
            .filter(|(_, usage)| usage.objects() > 0)
            .map(|(version, usage)| (*version, usage))
            .collect()
    }

    fn check(&self) -> CheckResult {
        const NAME: CheckName = CheckName("etcd.rewritten", "Objects under older versions");
        let (Some(active), Some(source)) = (self.active(), self.decisive()) else {
            return NAME.skip("there is no state that tells the active version");
        };
        let newest = self.newest(active);
        let old: Vec<_> = self
            .old(source)
            .into_iter()
            .map(|(version, usage)| format!("version {version}: {}", usage.newest.text()))
            .collect();
        if newest > active {
            return NAME
                .fail(format!(
                    "version {newest} is there, and this node still encrypts with {active}"
                ))
                .impact(self.asker.advise(&NOT_PROMOTED, &Vec::new()).data);
        }
        if old.is_empty() {
            return NAME.pass();
        }
        NAME.fail(format!("{} in {}", old.join("; "), source.name))
            .impact(self.asker.advise(&NOT_REWRITTEN, &Vec::new()).data)
    }

    /// Other sources with objects under older versions.
    fn backups(&self) -> Option<CheckResult> {
        let backups = self.needing_backups();
        let found: Vec<_> = backups
            .iter()
            .map(|(name, versions)| format!("{name} needs version {}", listed(versions)))
            .collect();
        (!found.is_empty()).then(|| {
            BACKUPS
                .warn(found.join("; "))
                .because(self.asker.advise(&BACKUPS_NEED_VERSIONS, &Vec::new()))
        })
    }

    fn needing_backups(&self) -> BTreeMap<&'a str, Vec<TransitVersion>> {
        let decisive = self.decisive().map(std::ptr::from_ref);
        let others = self
            .sources
            .iter()
            .filter(|it| Some(std::ptr::from_ref(*it)) != decisive);
        let needing = others.map(|source| {
            let versions = self.old(source).into_iter().map(|(version, _)| version);
            (source.name.as_str(), versions.collect::<Vec<_>>())
        });
        needing
            .filter(|(_, versions)| !versions.is_empty())
            .collect()
    }

    fn is_proven(&self, judged: Option<Rewriting>) -> bool {
        let told = match judged {
            Some(Rewriting::Finished | Rewriting::Unfinished | Rewriting::NotPromoted) => true,
            Some(Rewriting::Unresolved | Rewriting::Inconclusive) | None => false,
        };
        let sound = |source: &SourceRead| source.is_live() && source.is_whole();
        told && self.profile.is_some() && self.decisive().is_some_and(sound)
    }
}

/// Limits of rewriting while the provider is in use.
fn protection(source: &SourceRead, asker: Asker<'_>) -> Option<CheckResult> {
    let found = source.otherwise.iter().flat_map(|(resource, rows)| {
        rows.iter().map(move |(protected, objects)| {
            let by = protected.as_str();
            let named = protected.provider();
            let named = named.map_or(String::new(), |name| format!(" {name}"));
            format!("{resource} {objects} {by}{named}")
        })
    });
    let found: Vec<_> = found.collect();
    let resources = source.otherwise.keys().map(String::as_str);
    (!found.is_empty()).then(|| {
        PROTECTION
            .warn(found.join(", "))
            .because(asker.advise(&OTHERWISE_PROTECTED, &rewrite(resources)))
    })
}

fn listed(versions: &[TransitVersion]) -> String {
    let versions: Vec<_> = versions.iter().map(ToString::to_string).collect();
    versions.join(", ")
}
