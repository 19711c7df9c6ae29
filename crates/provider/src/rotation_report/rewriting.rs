//! How far the stored objects have followed a rotation, as etcd and its backups show it.

mod advice;

use std::{
    collections::BTreeMap,
    io::{self, Write},
};

use kms_domain::{
    recovery::evidence::{Rewriting, Usage, judge_rewriting},
    registry::Registry,
    transit::{KeyProfile, TransitVersion},
};
use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    cli::exit::Exit,
    recovery::{
        evidence::{EvidenceUnread, SourceRead},
        evidence_report::{
            SourceShown, check_of_withdrawn, checks_of_objects, checks_of_reading, counted, states,
            unread_keys,
        },
        scan,
        unread::Unread,
    },
    report::{Check, DoNot, one_line},
};

/// What was read, and what this node and the key say it is to be measured by.
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
}

/// The part of the report that only evidence makes.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct RewritingShown {
    verdict: &'static str,
    summary: String,
    /// In the source that decides; absent if nothing was read.
    #[serde(skip_serializing_if = "Option::is_none")]
    objects_under_old_versions: Option<u64>,
    /// The same by version and resource.
    under_old_versions: Vec<UnderOldVersion>,
    checks: Vec<Check>,
    sources: Vec<SourceShown>,
    next_step: String,
    do_not: Vec<&'static str>,
    #[serde(skip)]
    is_proven: bool,
    #[serde(skip)]
    limitations: String,
    #[serde(skip)]
    exit: Exit,
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

const KEEP: &str = "do not retire an older version, do not raise min_decryption_version, and do not \
    trim the key";

/// The word where nothing can be told.
const INCONCLUSIVE: &str = "inconclusive";

impl RewritingShown {
    /// Judges what was read, and puts it into words.
    #[must_use]
    pub(super) fn of(facts: Facts<'_>) -> Self {
        let Facts {
            sources,
            registry,
            provider,
            ..
        } = facts;
        let states = registry.map(states).unwrap_or_default();
        let mut checks = checks_of_reading(sources);
        checks.extend(unread_keys(sources).map(Unread::warning));
        let decisive = facts.decisive();
        checks.extend(checks_of_objects(decisive, provider));
        checks.push(facts.check());
        checks.extend(decisive.and_then(protection));
        checks.extend(facts.backups());
        checks.extend(check_of_withdrawn(sources, &states));
        let old = decisive.map_or_else(Vec::new, |source| facts.old(source));
        let judged = facts.judged();
        let is_proven = facts.is_proven(judged);
        Self {
            verdict: judged.map_or(INCONCLUSIVE, Rewriting::as_str),
            summary: facts.summary(judged),
            objects_under_old_versions: registry.and(decisive).map(|_| {
                old.iter().fold(0, |sum: u64, (_, usage)| {
                    sum.saturating_add(usage.objects())
                })
            }),
            under_old_versions: old.into_iter().flat_map(UnderOldVersion::of).collect(),
            checks,
            sources: sources
                .iter()
                .map(|source| SourceShown::of(source, &states))
                .collect(),
            next_step: facts.next_step(judged),
            do_not: match judged {
                Some(Rewriting::Finished) if facts.unread().is_none() => Vec::new(),
                _ => vec![KEEP],
            },
            is_proven,
            limitations: facts.limitations(),
            exit: match judged {
                Some(Rewriting::Finished) => Exit::Success,
                Some(Rewriting::Unaccounted | Rewriting::Unfinished | Rewriting::NotPromoted) => {
                    Exit::CheckFailed
                }
                Some(Rewriting::Inconclusive) | None => Exit::Runtime,
            },
        }
    }

    /// Where a source gave no answer, nothing is said of the others.
    #[must_use]
    pub(super) fn unread(error: &EvidenceUnread) -> Self {
        let (id, title) = scan::READ;
        Self {
            verdict: INCONCLUSIVE,
            summary: "the evidence could not be read, so it is not established whether anything \
                      is left to rewrite"
                .to_owned(),
            objects_under_old_versions: None,
            under_old_versions: Vec::new(),
            checks: vec![Check::fail(id, title, one_line(error))],
            sources: Vec::new(),
            next_step: error.cause.next_step().unwrap_or_else(|| {
                "mend the cause, or name a sound copy, and verify again".to_owned()
            }),
            do_not: vec![KEEP],
            is_proven: false,
            limitations: "Nothing is known of the objects, since a source could not be read."
                .to_owned(),
            exit: Exit::Runtime,
        }
    }

    /// The exit code, if nothing but the evidence is against a better one.
    #[must_use]
    pub(super) fn exit(&self) -> Exit {
        self.exit
    }

    /// `proven` for the running etcd that was read, or `limited`.
    #[must_use]
    pub(super) fn confidence(&self) -> &'static str {
        match self.is_proven {
            true => "proven",
            false => "limited",
        }
    }

    /// What was not, or cannot be, looked at.
    #[must_use]
    pub(super) fn limitations(&self) -> &str {
        &self.limitations
    }

    /// Writes its lines.
    ///
    /// # Errors
    /// Those of `out`.
    pub(super) fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        for source in &self.sources {
            source.text(out)?;
        }
        for check in &self.checks {
            check.text(out)?;
        }
        if let Some(objects) = self.objects_under_old_versions {
            writeln!(out, "objectsUnderOldVersions: {objects}")?;
        }
        for row in &self.under_old_versions {
            writeln!(
                out,
                "underOldVersions: transitVersion={} {} objects={}",
                row.transit_version, row.resource, row.objects
            )?;
        }
        writeln!(out, "verdict: {}", self.verdict)?;
        writeln!(out, "summary: {}", self.summary)?;
        writeln!(out, "next: {}", self.next_step)?;
        self.do_not
            .iter()
            .try_for_each(|not| writeln!(out, "{}", DoNot(not)))
    }
}

impl<'a> Facts<'a> {
    /// What etcd holds now, as nearly as it was given.
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

    /// What of the source is under older versions than the active one.
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

    fn check(&self) -> Check {
        let (id, title) = ("etcd.rewritten", "Every object is under the active version");
        let (Some(active), Some(source)) = (self.active(), self.decisive()) else {
            return Check::skip(id, title, "there is no state that tells the active version");
        };
        let newest = self.newest(active);
        let old: Vec<_> = self
            .old(source)
            .into_iter()
            .map(|(version, usage)| format!("version {version}: {}", counted(&usage.newest)))
            .collect();
        if newest > active {
            return Check::fail(
                id,
                title,
                format!("version {newest} is there, and this node still encrypts with {active}"),
            )
            .impact("what is rewritten now has to be rewritten again");
        }
        if old.is_empty() {
            return Check::pass(id, title);
        }
        Check::fail(id, title, format!("{} in {}", old.join("; "), source.name))
            .impact("without these versions the objects cannot be read")
    }

    /// The other sources that still need what the running etcd may not.
    fn backups(&self) -> Option<Check> {
        let backups = self.needing_backups();
        let found: Vec<_> = backups
            .iter()
            .map(|(name, versions)| format!("{name} needs version {}", listed(versions)))
            .collect();
        (!found.is_empty()).then(|| {
            Check::warn(
                "etcd.backups",
                "Backups that need an older version",
                found.join("; "),
            )
            .impact("without these versions they cannot be restored")
            .remediation("keep the versions for as long as one of the backups may be restored")
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
            Some(Rewriting::Unaccounted | Rewriting::Inconclusive) | None => false,
        };
        let sound = |source: &SourceRead| {
            let evidence = &source.evidence;
            source.is_live()
                && source.unread.is_none()
                && evidence.unknown_objects() == 0
                && evidence.objects() > 0
        };
        told && self.profile.is_some() && self.decisive().is_some_and(sound)
    }
}

/// What rewriting alone does not change, where the provider is in use.
fn protection(source: &SourceRead) -> Option<Check> {
    let found = source.otherwise.iter().flat_map(|(resource, rows)| {
        rows.iter().map(move |(protected, objects)| {
            let by = protected.as_str();
            let named = protected.provider();
            let named = named.map_or(String::new(), |name| format!(" {name}"));
            format!("{resource} {objects} {by}{named}")
        })
    });
    let found: Vec<_> = found.collect();
    (!found.is_empty()).then(|| {
        Check::warn(
            "etcd.protection",
            "Objects of the same resources that are not under this provider",
            found.join(", "),
        )
        .impact(
            "they stay protected as they are, or in plaintext, however often this key is rotated",
        )
        .remediation(
            "name this provider first for these resources in the EncryptionConfiguration, and \
             rewrite them like the others",
        )
    })
}

fn listed(versions: &[TransitVersion]) -> String {
    let versions: Vec<_> = versions.iter().map(ToString::to_string).collect();
    versions.join(", ")
}
