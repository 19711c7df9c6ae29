//! The versions of the key in etcd and its backups: rows, checks and limitations common to the results on
//! retirement and rotation.

use std::collections::{BTreeMap, BTreeSet};

use kms_domain::{
    recovery::evidence::{Unresolved, Usage},
    registry::{RecordState, Registry},
    transit::TransitVersion,
};
use kms_node::{
    advice::{
        Advice, Cause, Found, Site,
        evidence::{KEY_IDS_UNKNOWN, NO_OBJECTS, OBJECTS_DAMAGED, SAME_SOURCES, UNVERIFIED},
        retirement::REMOVED_BEFORE,
        site::quoted,
        texts,
    },
    report::{
        CheckName, CheckResult, counted, one_line,
        table::{Cell as _, Table},
    },
};
use schemars::JsonSchema;
use serde::Serialize;

use super::{
    EtcdError,
    evidence::SourceRead,
    inventory::{NO_RESOURCE, without_prefix},
    scan,
    unread::Unread,
};

/// The installation and the command line that ask, for the steps of causes.
#[derive(Debug, Clone, Copy)]
pub struct Asker<'a> {
    pub site: Site<'a>,
    /// The command line without the options that apply a plan.
    pub again: &'a str,
    /// `again` without the limit to a prefix of etcd.
    pub unbounded: &'a str,
}

/// Values of placeholders.
pub type Values = Vec<(&'static str, String)>;

impl Asker<'_> {
    #[must_use]
    pub fn advise(&self, cause: &Cause, values: &Values) -> Advice {
        let mut all = texts(values);
        all.push(("again", self.again));
        cause.advise(&self.site, &all)
    }

    /// The advice after a source that could not be read.
    #[must_use]
    pub fn of_failure(&self, error: &EtcdError) -> Advice {
        let (cause, values) = error.cause();
        let mut advice = self.advise(cause, &values);
        let again = SAME_SOURCES.advise(&self.site, &[("again", self.again)]);
        advice.steps.extend(again);
        advice
    }

    /// The cause of unread keys, with its values.
    #[must_use]
    pub fn of_unread(&self, source: &str, unread: &Unread) -> Found {
        unread.cause(source, Some(self.unbounded))
    }
}

/// One source.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SourceRow {
    source: String,
    /// `running-etcd` or `snapshot`.
    kind: &'static str,
    integrity: &'static str,
    revision: i64,
    /// Of this provider: newest revisions alone.
    objects: u64,
    versions: Vec<VersionRow>,
    /// Objects of this provider that name no version that is known here.
    unresolved_objects: u64,
    /// The first few kinds of those.
    unresolved: Vec<UnresolvedRow>,
    /// Keys that were not read; absent if all were.
    #[serde(skip_serializing_if = "Option::is_none")]
    unread: Option<Unread>,
    /// Values that Kubernetes itself would refuse, by resource.
    damaged_values: BTreeMap<String, u64>,
    /// Objects that rewriting alone does not put under this provider, of resources that it protects.
    otherwise_protected: Vec<OtherwiseRow>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct VersionRow {
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
struct UnresolvedRow {
    key_id_hash: String,
    code: &'static str,
    reason: String,
    objects: u64,
    resources: BTreeMap<String, u64>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct OtherwiseRow {
    resource: String,
    protection: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    provider: Option<String>,
    objects: u64,
}

/// Record of a node for each version.
pub type States = BTreeMap<TransitVersion, RecordState>;

/// How many kinds of unresolved objects are shown.
const FEW: usize = 10;

/// The states in a registry.
#[must_use]
pub fn states(registry: &Registry) -> States {
    let records = registry.records().iter();
    records
        .map(|record| (record.key.version(), record.state))
        .collect()
}

impl SourceRow {
    /// The rows of the sources.
    #[must_use]
    pub fn of(read: &SourceRead, states: &States) -> Self {
        let evidence = &read.evidence;
        let unresolved = || unresolved(read).map(|it| it.usage.objects());
        let versions = evidence.needs().iter().map(|(version, usage)| VersionRow {
            transit_version: version.get(),
            state: states.get(version).map(|state| state.as_str()),
            objects: usage.objects(),
            resources: usage.newest.clone(),
            older_revisions: usage.older.clone(),
        });
        let otherwise = read.otherwise.iter().flat_map(|(resource, rows)| {
            rows.iter().map(|(protected, objects)| OtherwiseRow {
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
            unresolved_objects: unresolved().fold(0, u64::saturating_add),
            unresolved: self::unresolved(read)
                .take(FEW)
                .map(UnresolvedRow::of)
                .collect(),
            unread: read.unread.clone(),
            damaged_values: evidence.damaged().newest.clone(),
            otherwise_protected: otherwise.collect(),
        }
    }
}

/// Rows of the sources for text.
#[must_use]
pub fn tables(rows: &[SourceRow]) -> [Table; 5] {
    let sources = Table::of("sources", rows)
        .column("source", |it| &it.source)
        .column("kind", |it| it.kind)
        .column("integrity", |it| it.integrity)
        .column("revision", |it| it.revision)
        .column("objects", |it| it.objects);
    let versions = Table::of("versions in etcd", of_each(rows, |it| &it.versions))
        .column("version", |(_, it)| it.transit_version)
        .column("state", |(_, it)| it.state)
        .column("objects", |(_, it)| it.objects)
        .column("resources", |(_, it)| &it.resources)
        .column("older revisions", |(_, it)| &it.older_revisions)
        .column("source", |(source, _)| source);
    let unresolved = of_each(rows, |it| &it.unresolved);
    let unresolved = Table::of("objects of unknown versions", unresolved)
        .column("objects", |(_, it)| it.objects)
        .column("code", |(_, it)| it.code)
        .column("resources", |(_, it)| &it.resources)
        .column("reason", |(_, it)| &it.reason)
        .column("key_id hash", |(_, it)| &it.key_id_hash)
        .column("source", |(source, _)| source);
    let otherwise = of_each(rows, |it| &it.otherwise_protected);
    let title = "objects of the same resources outside of this provider";
    let otherwise = Table::of(title, otherwise)
        .column("resource", |(_, it)| &it.resource)
        .column("objects", |(_, it)| it.objects)
        .column("protection", |(_, it)| it.protection)
        .column("provider", |(_, it)| &it.provider)
        .column("source", |(source, _)| source);

    let mut unread = Table::new("not read, or damaged", ["source", "finding"]);
    for row in rows {
        unread.facts(&row.source, row.unread.as_ref().map(Unread::describe));
        let damaged = (!row.damaged_values.is_empty()).then(|| row.damaged_values.text());
        unread.facts(
            &row.source,
            damaged.map(|it| format!("damaged values: {it}")),
        );
    }
    [
        sources.table(),
        versions.table(),
        unresolved.table(),
        otherwise.table(),
        unread,
    ]
}

/// The rows of each source, with its name.
fn of_each<'r, T>(
    rows: &'r [SourceRow],
    of: impl Fn(&'r SourceRow) -> &'r Vec<T>,
) -> Vec<(&'r str, &'r T)> {
    let pairs = rows.iter().flat_map(|row| {
        let all = of(row).iter();
        all.map(move |it| (row.source.as_str(), it))
    });
    pairs.collect()
}

impl UnresolvedRow {
    fn of(row: &Unresolved) -> Self {
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
fn unresolved(read: &SourceRead) -> impl Iterator<Item = &Unresolved> {
    let rows = read.evidence.unresolved().iter();
    rows.filter(|row| row.usage.objects() > 0)
}

/// Whether the sources were read with proven integrity.
#[must_use]
pub fn checks_of_reading(sources: &[SourceRead], asker: Asker<'_>) -> Vec<CheckResult> {
    let read: Vec<_> = sources
        .iter()
        .map(|source| format!("{} at revision {}", source.name, source.revision))
        .collect();
    let read = scan::READ.pass().message(read.join(", "));

    let doubts: Vec<_> = sources
        .iter()
        .filter_map(|source| Some(format!("{}: {}", source.name, source.trust.doubt()?)))
        .collect();
    let integrity = match doubts.is_empty() {
        true => scan::INTEGRITY.pass(),
        false => scan::INTEGRITY
            .warn(doubts.join("; "))
            .because(asker.advise(&UNVERIFIED, &Vec::new())),
    };
    vec![read, integrity]
}

/// Keys that the sources have and that were left unread.
pub fn unread_keys(sources: &[SourceRead]) -> impl Iterator<Item = &Unread> {
    sources.iter().filter_map(|source| source.unread.as_ref())
}

const OBJECTS: CheckName = CheckName("etcd.objects", "Objects of this provider");

/// Whether every object of the sources is known.
#[must_use]
pub fn checks_of_objects<'s>(
    sources: impl IntoIterator<Item = &'s SourceRead> + Clone,
    asker: Asker<'_>,
) -> Vec<CheckResult> {
    let each = |row: &dyn Fn(&SourceRead) -> Option<String>| -> Option<String> {
        let found = sources.clone().into_iter();
        let found: Vec<_> = found
            .filter_map(|source| Some(format!("{} in {}", row(source)?, source.name)))
            .collect();
        (!found.is_empty()).then(|| found.join("; "))
    };

    let none = each(&|source| (source.evidence.objects() == 0).then(|| "none".to_owned()));
    let objects = match none {
        None => OBJECTS.pass(),
        Some(found) => OBJECTS
            .fail(found)
            .because(asker.advise(&NO_OBJECTS, &Vec::new())),
    };

    let damaged = |usage: &Usage| (usage.objects() > 0).then(|| usage.newest.text());
    let values = match each(&|source| damaged(source.evidence.damaged())) {
        None => scan::VALUES.pass(),
        Some(found) => scan::VALUES
            .fail(format!("damaged: {found}"))
            .because(asker.advise(&OBJECTS_DAMAGED, &Vec::new())),
    };

    let first = |source: &SourceRead| {
        let row = unresolved(source).next()?;
        let all = unresolved(source).map(|row| row.usage.objects());
        Some(format!(
            "{} of unknown version, such as {} ({})",
            counted(all.fold(0, u64::saturating_add), "object"),
            row.usage.newest.text(),
            one_line(&row.gap)
        ))
    };
    let key_ids = match each(&first) {
        None => scan::KEY_IDS.pass(),
        Some(found) => scan::KEY_IDS
            .fail(found)
            .because(asker.advise(&KEY_IDS_UNKNOWN, &Vec::new())),
    };
    vec![objects, values, key_ids]
}

const REMOVED: CheckName = CheckName("key.removed_before", "Versions removed on this node before");

/// Objects that this node has stopped to decrypt before, if there are any.
#[must_use]
pub fn check_of_withdrawn(
    sources: &[SourceRead],
    states: &States,
    asker: Asker<'_>,
) -> Option<CheckResult> {
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
        REMOVED
            .warn(uses.join("; "))
            .because(asker.advise(&REMOVED_BEFORE, &vec![("removed", removed.join(","))])),
    )
}

/// A line for each source with objects that need the version.
#[must_use]
pub fn uses(sources: &[SourceRead], version: TransitVersion) -> Vec<String> {
    let needed = usage_of(sources, version).filter(|(_, usage)| usage.objects() > 0);
    let lines = needed.map(|(source, usage)| {
        let objects = counted(usage.objects(), "object");
        let by = usage.newest.text();
        let name = &source.name;
        format!("version {version} is needed by {objects} ({by}) in {name}")
    });
    lines.collect()
}

/// Objects under the version, by source.
pub fn usage_of(
    sources: &[SourceRead],
    version: TransitVersion,
) -> impl Iterator<Item = (&SourceRead, &Usage)> {
    let sources = sources.iter();
    sources.filter_map(move |source| Some((source, source.evidence.needs().get(&version)?)))
}

/// Options of `rewrite` for all objects of these resources. Those below another prefix are of another
/// API server.
#[must_use]
pub fn rewrite<'r>(resources: impl IntoIterator<Item = &'r str>) -> Values {
    let (here, elsewhere): (BTreeSet<_>, BTreeSet<_>) = resources
        .into_iter()
        .filter(|resource| *resource != NO_RESOURCE)
        .partition(|resource| without_prefix(resource) == *resource);
    let named = [("resources", here), ("elsewhere", elsewhere)];
    let named = named.into_iter().filter(|(_, names)| !names.is_empty());
    let options = |names: BTreeSet<&str>| {
        let options = names.into_iter().map(without_prefix).map(in_the_api);
        let options = options.map(|name| format!("--resource {}", quoted(name)));
        options.collect::<Vec<_>>().join(" ")
    };
    named.map(|(name, names)| (name, options(names))).collect()
}

/// Some resources have another name in the keys of etcd.
fn in_the_api(resource: &str) -> &str {
    match resource {
        "minions" => "nodes",
        "controllers" => "replicationcontrollers",
        "ingress" => "ingresses",
        other => other,
    }
}

/// Limits of these sources, in whole sentences.
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
