//! The parts of the report: refusals, evidence, state, versions, files.

use std::{collections::BTreeMap, path::PathBuf};

use kms_domain::{
    key::TransitKey,
    recovery::{
        journal::{EvidenceItem, Kept},
        rebuild::{Rebuilt, Unreadable},
    },
    registry::{RecordState, document::Document},
    transit::TransitVersion,
};
use kms_node::{advice::NextStep, config::Config, report::table::Table};
use schemars::JsonSchema;
use serde::Serialize;

use super::causes::Blocking;
use crate::recovery::{
    recover_state::{GatheredItem, Kind},
    rows::{Required, Tried},
};

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct RefusalRow {
    code: &'static str,
    /// Code of the cause in the catalogue of causes.
    cause: &'static str,
    /// The files or servers that it is about; empty where it is about none.
    evidence: Vec<String>,
    message: String,
    impact: String,
    next_steps: Vec<NextStep>,
    warnings: Vec<&'static str>,
}

#[derive(Debug, Default, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct EvidenceRow {
    /// `etcd-snapshot`, `etcd`, `backup-record` or `peer-state`.
    kind: String,
    name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    sha256: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    revision: Option<u64>,
    /// The highest version that it shows as promoted.
    #[serde(skip_serializing_if = "Option::is_none")]
    active_transit_version: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state_generation: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state_hash: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    required_versions: Vec<Required>,
    /// Distinct encrypted DEKs of this provider in etcd data.
    #[serde(skip_serializing_if = "Option::is_none")]
    deks: Option<Tried>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct StateRow {
    path: PathBuf,
    generation: u64,
    hash: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    previous_hash: Option<String>,
    /// `replaced-state`, `checkpoint`, `evidence` or `none`; absent where it was made by an earlier run.
    #[serde(skip_serializing_if = "Option::is_none")]
    follows: Option<&'static str>,
    active_transit_version: u64,
    active_key_id_hash: String,
    /// The evidence that shows the active version as promoted.
    active_shown_by: Vec<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct VersionRow {
    transit_version: u64,
    state: &'static str,
    key_id_hash: String,
    /// By the name of the etcd source.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    objects: BTreeMap<String, u64>,
    /// Evidence that has it as removed; it decrypts, so it is retired again.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    removed_by: Vec<String>,
}

/// Objects that stay unreadable, of one version and cause.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct UnreadableRow {
    /// The name of the etcd source.
    evidence: String,
    /// The version that they need; absent where they name none.
    #[serde(skip_serializing_if = "Option::is_none")]
    transit_version: Option<u64>,
    /// A code of refusals, such as `trimmed` or `not_decrypted`.
    cause: &'static str,
    objects: u64,
    resources: BTreeMap<String, u64>,
    /// The keys of the first few, with --show-names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    names: Vec<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct KeptRow {
    pub(super) file: String,
    pub(super) kept_as: String,
    pub(super) sha256: String,
}

impl RefusalRow {
    pub(super) fn of(finding: &Blocking) -> Self {
        let advice = &finding.advice;
        Self {
            code: finding.code,
            cause: advice.code,
            evidence: finding.evidence.clone(),
            message: finding.message.clone(),
            impact: advice.data.clone(),
            next_steps: advice.steps.clone(),
            warnings: advice.warnings.clone(),
        }
    }
}

impl EvidenceRow {
    pub(super) fn item(item: &EvidenceItem) -> Self {
        Self {
            kind: item.kind.clone(),
            name: item.name.clone(),
            sha256: item.sha256.clone(),
            revision: (item.revision > 0).then_some(item.revision),
            ..Self::default()
        }
    }

    pub(super) fn of(exhibited: &GatheredItem) -> Self {
        let state = exhibited.state.as_ref();
        let of_etcd = matches!(exhibited.kind, Kind::Etcd | Kind::EtcdSnapshot);
        Self {
            active_transit_version: exhibited.active.map(|version| version.get()),
            state_generation: state.map(|(generation, _)| generation.get()),
            state_hash: state.map(|(_, hash)| hash.to_string()),
            required_versions: Required::rows(&exhibited.objects),
            deks: of_etcd.then(|| exhibited.deks.into()),
            ..Self::item(&exhibited.item())
        }
    }
}

impl StateRow {
    pub(super) fn of(
        config: &Config,
        document: &Document,
        follows: Option<&'static str>,
        shown_by: &[String],
    ) -> Self {
        let active = document.registry().active();
        Self {
            path: config.state_path.document(),
            generation: document.generation().get(),
            hash: document.hash().to_string(),
            previous_hash: document.previous_hash().map(ToString::to_string),
            follows,
            active_transit_version: active.version().get(),
            active_key_id_hash: active.id_hash().to_string(),
            active_shown_by: shown_by.to_vec(),
        }
    }

    pub(super) fn rows(&self, table: &mut Table) {
        table.facts("state", [self.path.display()]);
        table.facts("generation", [self.generation]);
        table.facts("stateHash", [&self.hash]);
        table.facts("previousHash", &self.previous_hash);
        table.facts("follows", self.follows);
        table.facts("activeTransitVersion", [self.active_transit_version]);
        table.facts("activeKeyIdHash", [&self.active_key_id_hash]);
        table.facts("activeShownBy", &self.active_shown_by);
    }
}

impl VersionRow {
    pub(super) fn of(key: &TransitKey, state: RecordState) -> Self {
        Self {
            transit_version: key.version().get(),
            state: state.as_str(),
            key_id_hash: key.id_hash().to_string(),
            objects: BTreeMap::new(),
            removed_by: Vec::new(),
        }
    }

    pub(super) fn rebuilt(version: &Rebuilt) -> Self {
        let decrypts = version.state.is_retained();
        let removed_by = version.removed_by().filter(|_| decrypts);
        Self {
            objects: version.objects.iter().cloned().collect(),
            removed_by: removed_by.map(str::to_owned).collect(),
            ..Self::of(&version.key, version.state)
        }
    }
}

impl UnreadableRow {
    pub(super) fn of(unreadable: &Unreadable) -> Self {
        Self {
            evidence: unreadable.evidence.clone(),
            transit_version: unreadable.version.map(TransitVersion::get),
            cause: unreadable.cause,
            objects: unreadable.objects(),
            resources: unreadable.resources.clone(),
            names: unreadable.names.clone(),
        }
    }
}

impl KeptRow {
    pub(super) fn of(kept: Kept) -> Self {
        Self {
            file: kept.file,
            kept_as: kept.kept_as,
            sha256: kept.sha256,
        }
    }
}

pub(super) fn refusals(rows: &[RefusalRow]) -> Table {
    Table::of("findings", rows)
        .column("code", |it| it.code)
        .column("evidence", |it| &it.evidence)
        .column("finding", |it| &it.message)
        .table()
}

pub(super) fn evidence(rows: &[EvidenceRow]) -> Table {
    let objects = |it: &EvidenceRow| {
        let needed = it.required_versions.iter();
        needed
            .map(|it| format!("{} of version {}", it.objects, it.transit_version))
            .collect::<Vec<_>>()
    };
    let deks = |it: &EvidenceRow| {
        let Tried {
            proven,
            failed,
            untried,
        } = it.deks?;
        Some(format!(
            "{proven} decrypted, {failed} rejected, {untried} untried"
        ))
    };
    Table::of("evidence", rows)
        .column("kind", |it| &it.kind)
        .column("name", |it| &it.name)
        .column("promoted", |it| it.active_transit_version)
        .column("generation", |it| it.state_generation)
        .column("revision", |it| it.revision)
        .column("objects", objects)
        .column("deks", deks)
        .table()
}

pub(super) fn versions(rows: &[VersionRow]) -> Table {
    let objects = |it: &VersionRow| {
        let sources = it.objects.iter();
        sources
            .map(|(source, objects)| format!("{objects} in {source}"))
            .collect::<Vec<_>>()
    };
    let kept = |it: &VersionRow| {
        let by = it.removed_by.join(", ");
        (!by.is_empty()).then(|| format!("kept though it is removed by {by}: it decrypts"))
    };
    Table::of("versions", rows)
        .column("version", |it| it.transit_version)
        .column("state", |it| it.state)
        .column("objects", objects)
        .column("key_id hash", |it| &it.key_id_hash)
        .column("", kept)
        .table()
}

pub(super) fn unreadable(rows: &[UnreadableRow]) -> Table {
    Table::of("unreadable objects", rows)
        .column("objects", |it| it.objects)
        .column("version", |it| it.transit_version)
        .column("cause", |it| it.cause)
        .column("resources", |it| &it.resources)
        .column("evidence", |it| &it.evidence)
        .table()
}

/// The first few names of each row, with --show-names.
pub(super) fn names(rows: &[UnreadableRow]) -> Table {
    let mut table = Table::new("names of unreadable objects", ["name", "cause"]);
    for row in rows {
        for name in &row.names {
            table.row([name, row.cause]);
        }
    }
    table
}
