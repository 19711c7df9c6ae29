//! Row of a report for each `key_id` of the key.

use std::collections::BTreeMap;

use kms_domain::recovery::{
    record::BackupRecord,
    resolve::{Resolution, ResolveError},
};
use kms_node::report::{counted, one_line, table::Table};
use schemars::JsonSchema;
use serde::Serialize;

use super::Facts;
use crate::recovery::{
    cause::Context,
    rows::Tried,
    truncated::{LeftOut, few, largest},
    verify_pair::{Row, SeedProblem},
};

/// The status of a `key_id` whose version OpenBao has.
const LIVE: &str = "live";
/// The status of one that evidence tells of while OpenBao does not answer.
const KNOWN: &str = "known";

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct KeyIdRow {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) transit_version: Option<u64>,
    key_id_hash: String,
    /// `live`, `known`, or the code of the problem.
    status: &'static str,
    pub(super) message: String,
    pub(super) objects: u64,
    lost_objects: u64,
    resources: BTreeMap<String, u64>,
    /// Absent if all are shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    resources_left_out: Option<LeftOut>,
    deks: Tried,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    dek_problems: BTreeMap<&'static str, u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Tried>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    unopened_resources: BTreeMap<String, u64>,
    /// Absent if all are shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    unopened_resources_left_out: Option<LeftOut>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unopened_names: Vec<String>,
    /// The first few with an encrypted DEK that does not decrypt, if names were requested.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    undecryptable_names: Vec<String>,
    /// Code of the cause in the catalogue of causes; absent for objects that decrypt.
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<&'static str>,
}

impl KeyIdRow {
    pub(super) fn of(facts: Facts<'_>, row: &Row) -> Self {
        let finding = &row.finding;
        let (status, message) = match &finding.origin {
            Resolution::Live(_) => (LIVE, proven(row)),
            Resolution::Known(key) => {
                let record = facts.record.map(BackupRecord::note);
                let noted = record.and_then(|note| note.versions.get(&key.version()));
                let source = match noted.filter(|noted| noted.key == *key) {
                    Some(noted) if noted.decryptable => {
                        "the record has it, and OpenBao could decrypt it when the record was made"
                    }
                    Some(_) => {
                        "the record has it, but OpenBao could not decrypt it even when the record \
                         was made"
                    }
                    None => "the state of this node has it",
                };
                (KNOWN, format!("{source}; OpenBao did not answer for it"))
            }
            Resolution::Unresolved(gap) => (gap.code(), one_line(gap)),
        };
        let cause = Context::of(facts.pair).of_row(row);
        let problems = row.seed_problems.iter();
        let (resources, resources_left_out) = largest(&row.resources);
        let (unopened_resources, unopened_resources_left_out) = largest(&row.unopened);
        Self {
            transit_version: row.version.map(|version| version.get()),
            key_id_hash: row.key_id_hash.clone(),
            status,
            message,
            objects: finding.objects,
            lost_objects: lost(row),
            resources,
            resources_left_out,
            deks: finding.seeds.into(),
            dek_problems: problems
                .map(|(problem, &count)| (problem.code(), count))
                .collect(),
            data: finding.data.map(Into::into),
            unopened_resources,
            unopened_resources_left_out,
            unopened_names: row.unopened_names.clone(),
            undecryptable_names: row.undecryptable_names.clone(),
            cause: cause.map(|cause| cause.code),
        }
    }

    pub(super) fn is_of_the_key(&self) -> bool {
        matches!(self.status, LIVE | KNOWN)
    }

    fn version(&self) -> String {
        let version = self.transit_version;
        version.map_or_else(|| "none".to_owned(), |version| version.to_string())
    }

    pub(super) fn table(rows: &[&Self]) -> Table {
        let resources = |it: &Self| {
            let counts = it.resources.iter();
            let counts: Vec<_> = counts
                .map(|(name, objects)| format!("{name} {objects}"))
                .collect();
            few(&counts, it.resources_left_out.map_or(0, |it| it.rows))
        };
        Table::of("key_ids", rows.iter().copied())
            .column("version", Self::version)
            .column("status", |it| it.status)
            .column("objects", |it| it.objects)
            .column("lost", |it| it.lost_objects)
            .column("finding", |it| &it.message)
            .column("resources", resources)
            .column("keyIdHash", |it| &it.key_id_hash)
            .table()
    }

    /// Objects that failed authentication, by resource, and the names that were requested.
    pub(super) fn tables_of_unreadable(rows: &[&Self]) -> [Table; 2] {
        let mut resources = Table::new("unreadable objects", ["version", "resource", "objects"]);
        let mut names = Table::new("the first of them", ["version", "key"]);
        for row in rows {
            let version = row.version();
            for (resource, objects) in &row.unopened_resources {
                resources.row([&*version, resource, &objects.to_string()]);
            }
            for name in row.undecryptable_names.iter().chain(&row.unopened_names) {
                names.row([&*version, name]);
            }
        }
        [resources, names]
    }
}

/// Objects that certainly cannot be read as things are.
pub(super) fn lost(row: &Row) -> u64 {
    match &row.finding.origin {
        Resolution::Unresolved(
            ResolveError::Hidden { .. }
            | ResolveError::OtherProvider { .. }
            | ResolveError::Unknown { .. },
        ) => 0,
        Resolution::Unresolved(_) => row.finding.objects,
        Resolution::Live(_) | Resolution::Known(_) => {
            let unopened = row.finding.data.map_or(0, |data| data.failed);
            row.objects_of_failed_seeds().saturating_add(unopened)
        }
    }
}

/// Objects of versions that OpenBao does not use as things are, so that nothing was tried.
pub(super) fn untested(row: &Row) -> u64 {
    match &row.finding.origin {
        Resolution::Unresolved(ResolveError::Hidden { .. }) => row.finding.objects,
        Resolution::Live(_) | Resolution::Known(_) | Resolution::Unresolved(_) => 0,
    }
}

pub(super) fn proven(row: &Row) -> String {
    let seeds = row.finding.seeds;
    let all = seeds
        .proven
        .saturating_add(seeds.failed)
        .saturating_add(seeds.untried);
    let all = counted(all, "encrypted DEK");
    let mut text = format!("decrypted: {} of {all}", seeds.proven);
    for (problem, count) in &row.seed_problems {
        text.push_str(&format!("; {}: {count}", problem.sentence()));
    }
    if seeds.untried > 0 {
        text.push_str(&format!("; not tried: {}", seeds.untried));
    }
    if let Some(data) = row.finding.data {
        let objects = counted(row.finding.objects, "object");
        text.push_str(&format!("; opened: {} of {objects}", data.proven));
        if data.failed > 0 {
            text.push_str(&format!(
                "; not opened by their DEK, since they were moved to another etcd key or changed: {}",
                data.failed
            ));
        }
    }
    text
}

impl SeedProblem {
    fn code(self) -> &'static str {
        match self {
            Self::OtherCiphertext => "other_ciphertext",
            Self::NotDecrypted => "not_decrypted",
            Self::NoDek => "no_dek",
        }
    }

    fn sentence(self) -> &'static str {
        match self {
            Self::OtherCiphertext => {
                "replaced or damaged, since it is no ciphertext of the version"
            }
            Self::NotDecrypted => {
                "refused by OpenBao, since the key was recreated in the same second, or the DEK or \
                 its annotations were changed"
            }
            Self::NoDek => "no DEK after decryption",
        }
    }
}
