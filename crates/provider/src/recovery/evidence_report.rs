//! What etcd and its backups show about the versions of the key, as the reports on retirement and
//! rotation have it in common.

use std::{
    collections::BTreeMap,
    io::{self, Write},
};

use kms_domain::{
    recovery::evidence::{Unaccounted, Usage},
    registry::{RecordState, Registry},
    transit::TransitVersion,
};
use schemars::JsonSchema;
use serde::Serialize;

use super::{evidence::SourceRead, inventory::without_prefix, scan, unread::Unread};
use crate::report::{Check, one_line};

/// One source.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SourceShown {
    source: String,
    /// `running-etcd` or `snapshot`.
    kind: &'static str,
    integrity: &'static str,
    revision: i64,
    /// Of this provider: newest revisions alone.
    objects: u64,
    versions: Vec<VersionShown>,
    /// Objects of this provider that name no version that is known here.
    unaccounted_objects: u64,
    /// The first few kinds of those.
    unaccounted: Vec<UnaccountedShown>,
    /// Keys that were not read; absent if all were.
    #[serde(skip_serializing_if = "Option::is_none")]
    unread: Option<Unread>,
    /// Values that Kubernetes itself would refuse, by resource.
    damaged_values: BTreeMap<String, u64>,
    /// Objects that rewriting alone does not put under this provider, of resources that it protects.
    otherwise_protected: Vec<OtherwiseShown>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct VersionShown {
    transit_version: u64,
    /// In the state of this node; absent if the state does not have the version.
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<&'static str>,
    objects: u64,
    resources: BTreeMap<String, u64>,
    /// Replaced or deleted since, and not yet compacted.
    older_revisions: BTreeMap<String, u64>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct UnaccountedShown {
    key_id_hash: String,
    code: &'static str,
    reason: String,
    objects: u64,
    resources: BTreeMap<String, u64>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct OtherwiseShown {
    resource: String,
    protection: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    provider: Option<String>,
    objects: u64,
}

/// What the records of a node say of each version.
pub type States = BTreeMap<TransitVersion, RecordState>;

/// How many kinds of unaccounted objects are shown.
const FEW: usize = 10;

/// The states in a registry.
#[must_use]
pub fn states(registry: &Registry) -> States {
    let records = registry.records().iter();
    records
        .map(|record| (record.key.version(), record.state))
        .collect()
}

impl SourceShown {
    /// Puts what was read into rows.
    #[must_use]
    pub fn of(read: &SourceRead, states: &States) -> Self {
        let evidence = &read.evidence;
        let unaccounted = || unaccounted(read).map(|it| it.usage.objects());
        let versions = evidence
            .needs()
            .iter()
            .map(|(version, usage)| VersionShown {
                transit_version: version.get(),
                state: states.get(version).map(|state| state.as_str()),
                objects: usage.objects(),
                resources: usage.newest.clone(),
                older_revisions: usage.older.clone(),
            });
        let otherwise = read.otherwise.iter().flat_map(|(resource, rows)| {
            rows.iter().map(|(protected, objects)| OtherwiseShown {
                resource: resource.clone(),
                protection: protected.as_str(),
                provider: protected.provider().map(str::to_owned),
                objects: *objects,
            })
        });
        Self {
            source: read.name.clone(),
            kind: match read.is_live() {
                true => "running-etcd",
                false => "snapshot",
            },
            integrity: read.trust.as_str(),
            revision: read.revision,
            objects: evidence.objects(),
            versions: versions.collect(),
            unaccounted_objects: unaccounted().fold(0, u64::saturating_add),
            unaccounted: self::unaccounted(read)
                .take(FEW)
                .map(UnaccountedShown::of)
                .collect(),
            unread: read.unread.clone(),
            damaged_values: evidence.damaged().newest.clone(),
            otherwise_protected: otherwise.collect(),
        }
    }

    /// Writes its lines.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(
            out,
            "source: {} ({}, {}, revision {}): {} objects of this provider",
            self.source, self.kind, self.integrity, self.revision, self.objects
        )?;
        for version in &self.versions {
            write!(out, "  version {}", version.transit_version)?;
            if let Some(state) = version.state {
                write!(out, " ({state})")?;
            }
            write!(out, ": {} objects", version.objects)?;
            if version.objects > 0 {
                write!(out, " ({})", counted(&version.resources))?;
            }
            if !version.older_revisions.is_empty() {
                write!(
                    out,
                    "; older revisions: {}",
                    counted(&version.older_revisions)
                )?;
            }
            writeln!(out)?;
        }
        for row in &self.unaccounted {
            writeln!(
                out,
                "  unaccounted: {} objects ({}), keyIdHash={}: [{}] {}",
                row.objects,
                counted(&row.resources),
                row.key_id_hash,
                row.code,
                row.reason
            )?;
        }
        if let Some(unread) = &self.unread {
            writeln!(out, "  unread: {}", unread.describe())?;
        }
        if !self.damaged_values.is_empty() {
            writeln!(out, "  damaged values: {}", counted(&self.damaged_values))?;
        }
        for row in &self.otherwise_protected {
            write!(
                out,
                "  not under this provider: {} {} {}",
                row.resource, row.objects, row.protection
            )?;
            match &row.provider {
                Some(provider) => writeln!(out, " provider={provider}")?,
                None => writeln!(out)?,
            }
        }
        Ok(())
    }
}

impl UnaccountedShown {
    fn of(row: &Unaccounted) -> Self {
        Self {
            key_id_hash: row.key_id_hash.to_string(),
            code: row.gap.code(),
            reason: one_line(&row.gap),
            objects: row.usage.objects(),
            resources: row.usage.newest.clone(),
        }
    }
}

/// Those of whose older revisions nothing follows left out.
fn unaccounted(read: &SourceRead) -> impl Iterator<Item = &Unaccounted> {
    let rows = read.evidence.unaccounted().iter();
    rows.filter(|row| row.usage.objects() > 0)
}

/// `secrets 2, configmaps 1`
#[must_use]
pub fn counted(resources: &BTreeMap<String, u64>) -> String {
    let counts: Vec<_> = resources
        .iter()
        .map(|(resource, objects)| format!("{resource} {objects}"))
        .collect();
    counts.join(", ")
}

/// Whether the sources were read, and vouched for.
#[must_use]
pub fn checks_of_reading(sources: &[SourceRead]) -> Vec<Check> {
    let (id, title) = scan::READ;
    let read: Vec<_> = sources
        .iter()
        .map(|source| format!("{} at revision {}", source.name, source.revision))
        .collect();
    let read = Check::pass(id, title).message(read.join(", "));

    let (id, title) = scan::INTEGRITY;
    let doubts: Vec<_> = sources
        .iter()
        .filter_map(|source| Some(format!("{}: {}", source.name, source.trust.doubt()?)))
        .collect();
    let integrity = match doubts.is_empty() {
        true => Check::pass(id, title),
        false => Check::warn(id, title, doubts.join("; "))
            .impact("what was read may not be all that is there")
            .remediation("save snapshots with: etcdctl snapshot save FILE"),
    };
    vec![read, integrity]
}

/// Keys that the sources have and that were left unread.
pub fn unread_keys(sources: &[SourceRead]) -> impl Iterator<Item = &Unread> {
    sources.iter().filter_map(|source| source.unread.as_ref())
}

const OBJECTS: (&str, &str) = ("etcd.objects", "Objects of this provider");

/// Whether what the sources hold can be told to the last object.
#[must_use]
pub fn checks_of_objects<'s>(
    sources: impl IntoIterator<Item = &'s SourceRead> + Clone,
    provider: &str,
) -> Vec<Check> {
    let each = |row: &dyn Fn(&SourceRead) -> Option<String>| -> Option<String> {
        let found = sources.clone().into_iter();
        let found: Vec<_> = found
            .filter_map(|source| Some(format!("{} in {}", row(source)?, source.name)))
            .collect();
        (!found.is_empty()).then(|| found.join("; "))
    };

    let (id, title) = OBJECTS;
    let none = each(&|source| (source.evidence.objects() == 0).then(|| "none".to_owned()));
    let objects = match none {
        None => Check::pass(id, title),
        Some(found) => Check::fail(id, title, found)
            .impact(format!(
                "without an object of provider {provider} it shows nothing about the key"
            ))
            .remediation(
                "check that it is of this cluster, and transit.keyIdScope.providerName; leave out a \
                 snapshot from before the provider was in use",
            ),
    };

    let (id, title) = scan::VALUES;
    let damaged = |usage: &Usage| (usage.objects() > 0).then(|| counted(&usage.newest));
    let values = match each(&|source| damaged(source.evidence.damaged())) {
        None => Check::pass(id, title),
        Some(found) => Check::fail(id, title, format!("damaged: {found}"))
            .impact("nobody can tell which version these objects need")
            .remediation(
                "find them with scan-etcd --show-names and restore them from a backup; do not \
                 retire a version before",
            ),
    };

    let (id, title) = scan::KEY_IDS;
    let first = |source: &SourceRead| {
        let row = unaccounted(source).next()?;
        let all = unaccounted(source).map(|row| row.usage.objects());
        Some(format!(
            "{} objects name no version that is known here, such as {} ({})",
            all.fold(0, u64::saturating_add),
            counted(&row.usage.newest),
            one_line(&row.gap)
        ))
    };
    let key_ids = match each(&first) {
        None => Check::pass(id, title),
        Some(found) => Check::fail(id, title, found)
            .impact("nobody can tell which version these objects need")
            .remediation(
                "verify-backup tells for each key_id what is missing and what helps; do not \
                 retire a version before, and do not delete the objects",
            ),
    };
    vec![objects, values, key_ids]
}

/// Objects that this node has stopped to decrypt before, if there are any.
#[must_use]
pub fn check_of_withdrawn(sources: &[SourceRead], states: &States) -> Option<Check> {
    let withdrawn = states.iter().filter(|(_, state)| !state.is_retained());
    let needed: Vec<_> = withdrawn
        .map(|(version, state)| (*version, *state, uses(sources, *version)))
        .filter(|(.., uses)| !uses.is_empty())
        .collect();
    let removed: Vec<_> = needed
        .iter()
        .filter(|(_, state, _)| *state == RecordState::Removed)
        .map(|(version, ..)| version.to_string())
        .collect();
    if removed.is_empty() {
        return None;
    }
    let uses: Vec<_> = needed.into_iter().flat_map(|(.., uses)| uses).collect();
    Some(
        Check::warn(
            "key.removed_before",
            "Versions that this node does not decrypt any more",
            uses.join("; "),
        )
        .impact("the API server of this node cannot read these objects")
        .remediation(format!(
            "bring them back: bao-kms-provider restore-versions --versions {}",
            removed.join(",")
        )),
    )
}

/// A line for each source with objects that need the version.
#[must_use]
pub fn uses(sources: &[SourceRead], version: TransitVersion) -> Vec<String> {
    let needed = usage_of(sources, version).filter(|(_, usage)| usage.objects() > 0);
    let lines = needed.map(|(source, usage)| {
        let objects = usage.objects();
        let by = counted(&usage.newest);
        let name = &source.name;
        format!("version {version} is needed by {objects} objects ({by}) in {name}")
    });
    lines.collect()
}

/// What is under the version, source by source.
pub fn usage_of(
    sources: &[SourceRead],
    version: TransitVersion,
) -> impl Iterator<Item = (&SourceRead, &Usage)> {
    let sources = sources.iter();
    sources.filter_map(move |source| Some((source, source.evidence.needs().get(&version)?)))
}

/// The way to put all objects of these resources under the active version. Those below another
/// prefix are of another API server.
#[must_use]
pub fn rewrite<'r>(resources: impl IntoIterator<Item = &'r str>) -> String {
    let resources: Vec<_> = resources.into_iter().collect();
    let elsewhere = |resource: &&str| without_prefix(resource) != *resource;
    let through = match resources.iter().any(elsewhere) {
        true => " at the API server with that prefix",
        false => "",
    };
    format!(
        "rewrite {} under the active version, each with \
         `kubectl get RESOURCE --all-namespaces -o json | kubectl replace -f -`{through}",
        resources.join(", ")
    )
}

/// What no reading of these sources can show, in whole sentences.
#[must_use]
pub fn limits(sources: &[SourceRead]) -> Vec<String> {
    let mut limits = vec![
        "What is said of objects holds for the sources that are named here, as they were when \
         they were read; an API server whose node has not promoted the active version yet goes on \
         writing under an older one. Other etcd backups that may be restored are not known here, \
         so keep every version that one of them may need."
            .to_owned(),
    ];
    match sources.iter().any(SourceRead::is_live) {
        true => limits.push(
            "A running etcd shows the newest revision of each key alone; older ones, which a \
             watch may still read, are in a snapshot."
                .to_owned(),
        ),
        false => limits.push(
            "No running etcd was read, so what has been written since the snapshots were saved is \
             not shown."
                .to_owned(),
        ),
    }
    for source in sources {
        if let Some(unread) = &source.unread {
            limits.push(format!(
                "Of {}: {}; objects of this provider among them are not counted.",
                source.name,
                unread.describe()
            ));
        }
        if let Some(doubt) = source.trust.doubt() {
            limits.push(format!("Of {}: {doubt}.", source.name));
        }
    }
    limits
}
