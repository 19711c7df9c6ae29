//! What a scan shows of etcd: a row for each resource and its protection, and for each `key_id`.

use std::io::{self, Write};

use kms_domain::recovery::origin::{Lineage, Origin};
use schemars::JsonSchema;
use serde::Serialize;

use super::is_secrets;
use crate::{
    config::Config,
    recovery::{
        excerpt::{Excerpt, FEW_ROWS, LeftOut, ROWS},
        inventory::{Count, DamagedValue, Group, Inventory, Protected},
        unread::Unread,
    },
    report::one_line,
};

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Content {
    source: String,
    integrity: &'static str,
    revision: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    compacted_revision: Option<i64>,
    keys: u64,
    superseded_revisions: u64,
    /// Keys by prefix, the one in question, or `/registry`, first.
    prefixes: Vec<PrefixRow>,
    /// Absent if all are shown; its objects are keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    prefixes_left_out: Option<LeftOut>,
    /// Keys that were not read; absent if all were.
    #[serde(skip_serializing_if = "Option::is_none")]
    unread: Option<Unread>,
    resources: Vec<ResourceRow>,
    /// Absent if all are shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    resources_left_out: Option<LeftOut>,
    key_ids: Vec<KeyIdRow>,
    /// Absent if all are shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    key_ids_left_out: Option<LeftOut>,
    damaged_values: u64,
    /// The first few, if names are wanted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    damaged_keys: Vec<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct PrefixRow {
    prefix: String,
    keys: u64,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct ResourceRow {
    resource: String,
    protection: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    provider: Option<String>,
    #[serde(flatten)]
    count: CountShown,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct KeyIdRow {
    pub(super) key_id_hash: String,
    pub(super) provider: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) transit_version: Option<u64>,
    /// How the version is known; absent like the version.
    #[serde(skip_serializing_if = "Option::is_none")]
    version_from: Option<&'static str>,
    distinct_encrypted_deks: usize,
    /// Why the version is none that is known here.
    #[serde(skip_serializing_if = "Option::is_none")]
    gap_code: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) gap: Option<String>,
    #[serde(flatten)]
    count: CountShown,
    /// Of the configured key.
    #[serde(skip)]
    pub(super) is_ours: bool,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct CountShown {
    objects: u64,
    superseded: u64,
    bytes: u64,
    first_mod_revision: i64,
    last_mod_revision: i64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    names: Vec<String>,
}

impl Content {
    pub(super) fn of(inventory: &Inventory, mut key_ids: Vec<KeyIdRow>) -> Self {
        key_ids.sort_by(|a, b| {
            let key = |row: &KeyIdRow| (row.provider.clone(), row.transit_version);
            key(a)
                .cmp(&key(b))
                .then_with(|| a.key_id_hash.cmp(&b.key_id_hash))
        });
        let key_ids = Excerpt::of(key_ids, ROWS, KeyIdRow::matters);
        let resources = inventory.resources.iter().flat_map(|(resource, rows)| {
            rows.iter()
                .map(move |(protected, count)| (resource, protected, count))
        });
        let resources = Excerpt::of(resources, ROWS, |(resource, ..)| is_secrets(resource));
        let prefixes = inventory.prefixes().map(PrefixRow::of);
        let prefixes = Excerpt::of(prefixes, ROWS, |_| false);
        let shown = resources
            .shown
            .into_iter()
            .map(|(resource, protected, count)| ResourceRow {
                resource: resource.clone(),
                protection: protected.as_str(),
                provider: protected.provider().map(str::to_owned),
                count: CountShown::of(count),
            });
        // Names are kept only if they are wanted.
        let named = inventory
            .resources
            .values()
            .flat_map(|rows| rows.iter())
            .any(|(protected, count)| {
                matches!(protected, Protected::Damaged(_)) && !count.names.is_empty()
            });
        let damaged: &[DamagedValue] = if named { &inventory.damaged } else { &[] };
        Self {
            source: inventory.source.clone(),
            integrity: inventory.trust.as_str(),
            revision: inventory.totals.revision,
            compacted_revision: inventory.totals.compacted,
            keys: inventory.totals.keys,
            superseded_revisions: inventory.totals.superseded,
            prefixes_left_out: LeftOut::of(&prefixes.left_out, |row| row.keys),
            prefixes: prefixes.shown,
            unread: inventory.unread.clone(),
            resources: shown.collect(),
            resources_left_out: LeftOut::of(&resources.left_out, |(.., count)| count.objects),
            key_ids: key_ids.shown,
            key_ids_left_out: LeftOut::of(&key_ids.left_out, KeyIdRow::objects),
            damaged_values: inventory.damaged_values,
            damaged_keys: damaged.iter().map(|value| value.key.clone()).collect(),
        }
    }
}

impl KeyIdRow {
    pub(super) fn of(group: &Group, config: Option<&Config>, lineage: Option<&Lineage>) -> Self {
        let annotations = group.parsed.as_ref();
        let claimed = annotations.ok().map(|it| it.transit_version().get());
        let mut row = Self {
            key_id_hash: group.key_id_hash().to_string(),
            provider: group.provider.clone(),
            transit_version: claimed,
            version_from: claimed.map(|_| "annotation"),
            distinct_encrypted_deks: group.distinct_seeds(),
            gap_code: None,
            gap: None,
            count: CountShown::of(&group.count),
            is_ours: lineage.map_or_else(
                || config.is_some_and(|it| group.provider == it.scope.provider_name.as_str()),
                |lineage| lineage.owns(group.stored()),
            ),
        };
        let Some(lineage) = lineage else {
            return row;
        };
        match lineage.origin(group.stored()) {
            Origin::Live(key) | Origin::Known(key) => {
                row.transit_version = Some(key.version().get());
                row.version_from = Some("derived");
            }
            Origin::Gap(gap) => {
                row.gap_code = Some(gap.code());
                row.gap = Some(one_line(&gap));
            }
        }
        row
    }
}

impl KeyIdRow {
    /// Whether it is to be seen among many.
    fn matters(&self) -> bool {
        self.is_ours && self.gap_code.is_none()
    }

    fn objects(&self) -> u64 {
        self.count.objects
    }

    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        write!(
            out,
            "keyId: {} provider={}",
            self.key_id_hash, self.provider
        )?;
        if let (Some(version), Some(from)) = (self.transit_version, self.version_from) {
            write!(out, " transitVersion={version} versionFrom={from}")?;
        }
        if let Some(code) = self.gap_code {
            write!(out, " gap={code}")?;
        }
        write!(
            out,
            " distinctEncryptedDeks={}",
            self.distinct_encrypted_deks
        )?;
        self.count.text(out)
    }
}

impl CountShown {
    fn of(count: &Count) -> Self {
        Self {
            objects: count.objects,
            superseded: count.superseded,
            bytes: count.bytes,
            first_mod_revision: count.first_revision,
            last_mod_revision: count.last_revision,
            names: count.names.clone(),
        }
    }

    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        write!(out, " objects={}", self.objects)?;
        if self.superseded > 0 {
            write!(out, " superseded={}", self.superseded)?;
        }
        writeln!(
            out,
            " bytes={} firstModRevision={} lastModRevision={}",
            self.bytes, self.first_mod_revision, self.last_mod_revision
        )?;
        self.names
            .iter()
            .try_for_each(|name| writeln!(out, "  {name}"))
    }
}

impl Content {
    pub(super) fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "source: {}", self.source)?;
        writeln!(out, "integrity: {}", self.integrity)?;
        writeln!(out, "revision: {}", self.revision)?;
        if let Some(revision) = self.compacted_revision {
            writeln!(out, "compactedRevision: {revision}")?;
        }
        writeln!(out, "keys: {}", self.keys)?;
        writeln!(out, "supersededRevisions: {}", self.superseded_revisions)?;
        if self.prefixes.len() > 1 {
            self.prefixes_text(out)?;
        }
        if let Some(unread) = &self.unread {
            writeln!(out, "unread: {}", unread.describe())?;
        }
        let resources = Excerpt::of(&self.resources, FEW_ROWS, |row| is_secrets(&row.resource));
        for row in &resources.shown {
            write!(out, "resource: {} {}", row.resource, row.protection)?;
            if let Some(provider) = &row.provider {
                write!(out, " provider={provider}")?;
            }
            row.count.text(out)?;
        }
        let left_out = LeftOut::of(&resources.left_out, |row| row.count.objects);
        if let Some(more) = LeftOut::and(left_out, self.resources_left_out) {
            writeln!(
                out,
                "resource: and {} more objects={}",
                more.rows, more.objects
            )?;
        }
        let key_ids = Excerpt::of(&self.key_ids, FEW_ROWS, |row| row.matters());
        for row in &key_ids.shown {
            row.text(out)?;
        }
        let left_out = LeftOut::of(&key_ids.left_out, |row| row.objects());
        if let Some(more) = LeftOut::and(left_out, self.key_ids_left_out) {
            writeln!(
                out,
                "keyId: and {} more objects={}",
                more.rows, more.objects
            )?;
        }
        for key in &self.damaged_keys {
            writeln!(out, "damaged: {key}")?;
        }
        Ok(())
    }

    fn prefixes_text(&self, out: &mut dyn Write) -> io::Result<()> {
        let prefixes = Excerpt::of(&self.prefixes, FEW_ROWS, |_| false);
        for PrefixRow { prefix, keys } in &prefixes.shown {
            writeln!(out, "prefix: {prefix} keys={keys}")?;
        }
        let left_out = LeftOut::of(&prefixes.left_out, |row| row.keys);
        match LeftOut::and(left_out, self.prefixes_left_out) {
            Some(more) => writeln!(out, "prefix: and {} more keys={}", more.rows, more.objects),
            None => Ok(()),
        }
    }
}

impl PrefixRow {
    fn of((prefix, keys): (&str, u64)) -> Self {
        Self {
            prefix: prefix.to_owned(),
            keys,
        }
    }
}
