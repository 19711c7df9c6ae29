//! The parts of the report: refusals, evidence, state, versions, files.

use std::{collections::BTreeMap, path::PathBuf};

use kms_domain::{
    key::TransitKey,
    recovery::{
        journal::{EvidenceItem, Kept},
        rebuild::{PlanBlocker, Rebuilt, Unreadable},
    },
    registry::{RecordState, document::Document},
    transit::TransitVersion,
};
use kms_node::{
    advice::{Advice, NextStep},
    config::Config,
    report::{one_line, table::Table},
};
use schemars::JsonSchema;
use serde::Serialize;

use crate::recovery::{
    evidence_report::counted,
    recover_state::{GatheredItem, InputError, Kind},
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

#[derive(Debug, Serialize, JsonSchema)]
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
struct Tried {
    proven: u64,
    failed: u64,
    untried: u64,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Required {
    transit_version: u64,
    objects: u64,
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
    pub(super) fn input_error(error: &InputError, advice: &Advice) -> Self {
        let evidence = error.evidence().into_iter().collect();
        Self::new(error.code(), evidence, one_line(error), advice)
    }

    pub(super) fn blocker(blocker: &PlanBlocker, advice: &Advice) -> Self {
        let evidence = blocker.evidence().to_vec();
        Self::new(blocker.code(), evidence, blocker.to_string(), advice)
    }

    fn new(code: &'static str, evidence: Vec<String>, message: String, advice: &Advice) -> Self {
        Self {
            code,
            cause: advice.code,
            evidence,
            message,
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
            active_transit_version: None,
            state_generation: None,
            state_hash: None,
            required_versions: Vec::new(),
            deks: None,
        }
    }

    pub(super) fn of(exhibited: &GatheredItem) -> Self {
        let state = exhibited.state.as_ref();
        let of_etcd = matches!(exhibited.kind, Kind::Etcd | Kind::EtcdSnapshot);
        Self {
            kind: exhibited.kind.as_str().to_owned(),
            name: exhibited.name.clone(),
            sha256: exhibited.sha256.clone(),
            revision: (exhibited.revision > 0).then_some(exhibited.revision),
            active_transit_version: exhibited.active.map(|version| version.get()),
            state_generation: state.map(|(generation, _)| generation.get()),
            state_hash: state.map(|(_, hash)| hash.to_string()),
            required_versions: exhibited
                .objects
                .iter()
                .map(|(version, &objects)| Required {
                    transit_version: version.get(),
                    objects,
                })
                .collect(),
            deks: of_etcd.then_some(Tried {
                proven: exhibited.deks.proven,
                failed: exhibited.deks.failed,
                untried: exhibited.deks.untried,
            }),
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
        table.row(["state", &self.path.display().to_string()]);
        table.row(["generation", &self.generation.to_string()]);
        table.row(["stateHash", &self.hash]);
        if let Some(previous) = &self.previous_hash {
            table.row(["previousHash", previous]);
        }
        if let Some(follows) = self.follows {
            table.row(["follows", follows]);
        }
        let active = self.active_transit_version.to_string();
        table.row(["activeTransitVersion", &active]);
        table.row(["activeKeyIdHash", &self.active_key_id_hash]);
        for name in &self.active_shown_by {
            table.row(["activeShownBy", name]);
        }
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
    pub(super) fn of(kept: &Kept) -> Self {
        let Kept {
            file,
            kept_as,
            sha256,
        } = kept.clone();
        Self {
            file,
            kept_as,
            sha256,
        }
    }
}

pub(super) fn refusals(rows: &[RefusalRow]) -> Table {
    let mut table = Table::new("findings", ["code", "evidence", "finding"]);
    for row in rows {
        table.row([row.code, &row.evidence.join(", "), &row.message]);
    }
    table
}

pub(super) fn evidence(rows: &[EvidenceRow]) -> Table {
    let mut table = Table::new(
        "evidence",
        [
            "kind",
            "name",
            "promoted",
            "generation",
            "revision",
            "objects",
            "deks",
        ],
    );
    let number = |it: Option<u64>| it.map_or(String::new(), |it| it.to_string());
    for row in rows {
        let required = row.required_versions.iter();
        let objects =
            required.map(|it| format!("{} of version {}", it.objects, it.transit_version));
        let deks = row.deks.as_ref().map(|it| {
            format!(
                "{} decrypted, {} rejected, {} untried",
                it.proven, it.failed, it.untried
            )
        });
        table.row([
            row.kind.clone(),
            row.name.clone(),
            number(row.active_transit_version),
            number(row.state_generation),
            number(row.revision),
            objects.collect::<Vec<_>>().join(", "),
            deks.unwrap_or_default(),
        ]);
    }
    table
}

pub(super) fn versions(rows: &[VersionRow]) -> Table {
    let mut table = Table::new(
        "versions",
        ["version", "state", "objects", "key_id hash", ""],
    );
    for row in rows {
        let objects = row.objects.iter();
        let objects = objects.map(|(source, objects)| format!("{objects} in {source}"));
        let kept = match row.removed_by.is_empty() {
            true => String::new(),
            false => format!(
                "kept though it is removed by {}: it decrypts",
                row.removed_by.join(", ")
            ),
        };
        table.row([
            row.transit_version.to_string(),
            row.state.to_owned(),
            objects.collect::<Vec<_>>().join(", "),
            row.key_id_hash.clone(),
            kept,
        ]);
    }
    table
}

pub(super) fn unreadable(rows: &[UnreadableRow]) -> Table {
    let columns = ["objects", "version", "cause", "resources", "evidence"];
    let mut table = Table::new("unreadable objects", columns);
    for row in rows {
        let version = row.transit_version.map(|it| it.to_string());
        table.row([
            row.objects.to_string(),
            version.unwrap_or_default(),
            row.cause.to_owned(),
            counted(&row.resources),
            row.evidence.clone(),
        ]);
    }
    table
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
