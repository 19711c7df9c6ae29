//! Content of a scan report: rows by resource and protection, and by `key_id`.

use kms_domain::recovery::resolve::{KeyResolver, Resolution};
use kms_node::{
    config::{Config, VaultKubernetesKms},
    report::{
        one_line,
        table::{Rows, Table},
    },
};
use schemars::JsonSchema;
use serde::Serialize;

use super::is_secrets;
use crate::recovery::{
    inventory::{Count, Group, Inventory, Protected},
    truncated::{FEW_ROWS, LeftOut, ROWS, Truncated},
    unread::Unread,
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
    /// Keys by prefix, starting with the selected one or `/registry`.
    prefixes: Vec<PrefixRow>,
    /// Absent if all are shown; `objects` is the number of keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    prefixes_left_out: Option<LeftOut>,
    /// Unread keys; absent if all were read.
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
    /// The first few, if names were requested.
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
    count: CountRow,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct KeyIdRow {
    pub(super) key_id_hash: String,
    pub(super) provider: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) transit_version: Option<u64>,
    /// Source of the version: `derived` or `annotation`. Absent without a version.
    #[serde(skip_serializing_if = "Option::is_none")]
    version_from: Option<&'static str>,
    distinct_encrypted_deks: usize,
    /// Reason for an unresolved `key_id`.
    #[serde(skip_serializing_if = "Option::is_none")]
    gap_code: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) gap: Option<String>,
    #[serde(flatten)]
    count: CountRow,
    /// Whether the group belongs to the configured key.
    #[serde(skip)]
    pub(super) is_ours: bool,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct CountRow {
    objects: u64,
    superseded: u64,
    bytes: u64,
    first_mod_revision: i64,
    last_mod_revision: i64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    names: Vec<String>,
}

impl Content {
    pub(super) fn of(
        inventory: &Inventory,
        mut key_ids: Vec<KeyIdRow>,
        reader: Option<&VaultKubernetesKms>,
    ) -> Self {
        let protection = |protected: &Protected| match (protected, reader) {
            (Protected::KmsV2(name), Some(reader)) if *name == *reader.provider_name.as_str() => {
                "legacy"
            }
            _ => protected.as_str(),
        };

        key_ids.sort_by(|a, b| {
            let key = |row: &KeyIdRow| (row.provider.clone(), row.transit_version);
            key(a)
                .cmp(&key(b))
                .then_with(|| a.key_id_hash.cmp(&b.key_id_hash))
        });

        let key_ids = Truncated::of(key_ids, ROWS, KeyIdRow::matters);
        let resources = inventory.resources.iter().flat_map(|(resource, rows)| {
            rows.iter()
                .map(move |(protected, count)| (resource, protected, count))
        });
        let resources = Truncated::of(resources, ROWS, |(resource, ..)| is_secrets(resource));

        let prefixes = inventory.prefixes().map(PrefixRow::of);
        let prefixes = Truncated::of(prefixes, ROWS, |_| false);
        let shown = resources
            .shown
            .into_iter()
            .map(|(resource, protected, count)| ResourceRow {
                resource: resource.clone(),
                protection: protection(protected),
                provider: protected.provider().map(str::to_owned),
                count: CountRow::of(count),
            });

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
            damaged_keys: inventory.damaged_names(),
        }
    }
}

impl KeyIdRow {
    pub(super) fn of(
        group: &Group,
        config: Option<&Config>,
        lineage: Option<&KeyResolver>,
    ) -> Self {
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
            count: CountRow::of(&group.count),
            is_ours: lineage.map_or_else(
                || config.is_some_and(|it| group.provider == it.scope.provider_name.as_str()),
                |lineage| lineage.owns(group.stored()),
            ),
        };

        let Some(lineage) = lineage else {
            return row;
        };
        match lineage.origin(group.stored()) {
            Resolution::Live(key) | Resolution::Known(key) => {
                row.transit_version = Some(key.version().get());
                row.version_from = Some("derived");
            }
            Resolution::Unresolved(gap) => {
                row.gap_code = Some(gap.code());
                row.gap = Some(one_line(&gap));
            }
        }
        row
    }

    /// Whether the row has precedence in a truncated report.
    fn matters(&self) -> bool {
        self.is_ours && self.gap_code.is_none()
    }

    fn objects(&self) -> u64 {
        self.count.objects
    }
}

impl CountRow {
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
}

impl Content {
    /// Totals, then the rows by prefix, resource and `key_id`, then names that were requested.
    pub(super) fn tables(&self) -> [Table; 5] {
        let totals = Table::of("etcd", [self])
            .column("source", |it| &it.source)
            .column("integrity", |it| it.integrity)
            .column("revision", |it| it.revision)
            .column("compacted", |it| it.compacted_revision)
            .column("keys", |it| it.keys)
            .column("superseded", |it| it.superseded_revisions)
            .column("damaged", |it| it.damaged_values);
        let mut names = Table::new("names of the first objects", ["of", "object"]);
        let resources = self.resource_table(&mut names);
        let key_ids = self.key_id_table(&mut names);
        names.facts("damaged", &self.damaged_keys);
        [
            totals.table(),
            self.prefix_table(),
            resources,
            key_ids,
            names,
        ]
    }

    /// Only where there are several.
    fn prefix_table(&self) -> Table {
        let prefixes = self.prefixes.iter().filter(|_| self.prefixes.len() > 1);
        let rows = Truncated::of(prefixes, FEW_ROWS, |_| false);
        let mut table = Table::of("prefixes", rows.shown)
            .column("prefix", |it| &it.prefix)
            .column("keys", |it| it.keys)
            .table();
        let left_out = LeftOut::of(&rows.left_out, |row| row.keys);
        LeftOut::note(
            &mut table,
            left_out,
            self.prefixes_left_out,
            ("rows", "keys"),
        );
        table
    }

    fn resource_table(&self, names: &mut Table) -> Table {
        let rows = Truncated::of(&self.resources, FEW_ROWS, |row| is_secrets(&row.resource));
        for row in &rows.shown {
            let of = format!("{} {}", row.resource, row.protection);
            names.facts(&of, &row.count.names);
        }
        let table = Table::of("resources", rows.shown)
            .column("resource", |it| &it.resource)
            .column("protection", |it| it.protection)
            .column("provider", |it| &it.provider);
        let mut table = count_columns(table, |it| &it.count);
        let left_out = LeftOut::of(&rows.left_out, |row| row.count.objects);
        LeftOut::note(
            &mut table,
            left_out,
            self.resources_left_out,
            ("rows", "objects"),
        );
        table
    }

    fn key_id_table(&self, names: &mut Table) -> Table {
        let rows = Truncated::of(&self.key_ids, FEW_ROWS, |row| row.matters());
        for row in &rows.shown {
            let of = format!("key_id {}", row.key_id_hash);
            names.facts(&of, &row.count.names);
        }
        let table = Table::of("key_ids", rows.shown)
            .column("keyIdHash", |it| &it.key_id_hash)
            .column("provider", |it| &it.provider)
            .column("version", |it| it.transit_version)
            .column("version from", |it| it.version_from)
            .column("gap", |it| it.gap_code)
            .column("DEKs", |it| it.distinct_encrypted_deks);
        let mut table = count_columns(table, |it| &it.count);
        let left_out = LeftOut::of(&rows.left_out, |row| row.objects());
        LeftOut::note(
            &mut table,
            left_out,
            self.key_ids_left_out,
            ("rows", "objects"),
        );
        table
    }
}

fn count_columns<'r, T: Copy>(rows: Rows<T>, count: impl Fn(T) -> &'r CountRow + Copy) -> Table {
    rows.column("objects", move |it| count(it).objects)
        .column("superseded", move |it| count(it).superseded)
        .column("bytes", move |it| count(it).bytes)
        .column("first revision", move |it| count(it).first_mod_revision)
        .column("last revision", move |it| count(it).last_mod_revision)
        .table()
}

impl PrefixRow {
    fn of((prefix, keys): (&str, u64)) -> Self {
        Self {
            prefix: prefix.to_owned(),
            keys,
        }
    }
}
