//! The parts of the report: refusals, evidence, state, versions, files.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    path::PathBuf,
};

use kms_domain::{
    key::TransitKey,
    recovery::{
        journal::{Exhibit, Kept},
        rebuild::{Rebuilt, Refusal, Unreadable},
    },
    registry::{RecordState, document::Document},
    transit::TransitVersion,
};
use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    config::Config,
    recovery::{
        evidence_report::counted,
        recover_state::{Exhibited, Kind, Obstacle},
    },
    report::{DoNot, one_line},
};

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct RefusalShown {
    code: &'static str,
    /// The files or servers that it is about; empty where it is about none.
    evidence: Vec<String>,
    message: String,
    impact: &'static str,
    pub(super) next_step: String,
    pub(super) do_not: &'static str,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct EvidenceShown {
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
pub(super) struct StateShown {
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
pub(super) struct VersionShown {
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
pub(super) struct UnreadableShown {
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
pub(super) struct KeptShown {
    pub(super) file: String,
    pub(super) kept_as: String,
    sha256: String,
}

impl RefusalShown {
    pub(super) fn obstacle(obstacle: &Obstacle) -> Self {
        Self {
            code: obstacle.code(),
            evidence: obstacle.evidence().into_iter().collect(),
            message: one_line(obstacle),
            impact: obstacle.consequence(),
            next_step: obstacle.next_step(),
            do_not: obstacle.do_not(),
        }
    }

    /// With `next_step` instead of the refusal's own, if there is one.
    pub(super) fn refusal(refusal: &Refusal, next_step: Option<String>) -> Self {
        Self {
            code: refusal.code(),
            evidence: refusal.evidence().to_vec(),
            message: refusal.to_string(),
            impact: refusal.consequence(),
            next_step: next_step.unwrap_or_else(|| refusal.next_step()),
            do_not: refusal.do_not(),
        }
    }

    pub(super) fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let about = match &*self.evidence {
            [one] => format!("{one}: "),
            _ => String::new(),
        };
        writeln!(out, "refused: [{}] {about}{}", self.code, self.message)?;
        writeln!(out, "    impact: {}", self.impact)?;
        writeln!(out, "    next: {}", self.next_step)?;
        writeln!(out, "    {}", DoNot(self.do_not))
    }
}

impl EvidenceShown {
    pub(super) fn exhibit(exhibit: &Exhibit) -> Self {
        Self {
            kind: exhibit.kind.clone(),
            name: exhibit.name.clone(),
            sha256: exhibit.sha256.clone(),
            revision: (exhibit.revision > 0).then_some(exhibit.revision),
            active_transit_version: None,
            state_generation: None,
            state_hash: None,
            required_versions: Vec::new(),
            deks: None,
        }
    }

    pub(super) fn of(exhibited: &Exhibited) -> Self {
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

    pub(super) fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        write!(out, "evidence: {} {}", self.kind, self.name)?;
        if let Some(version) = self.active_transit_version {
            write!(out, " promoted={version}")?;
        }
        if let Some(generation) = self.state_generation {
            write!(out, " generation={generation}")?;
        }
        if let Some(revision) = self.revision {
            write!(out, " revision={revision}")?;
        }
        for required in &self.required_versions {
            write!(
                out,
                " objectsOfVersion{}={}",
                required.transit_version, required.objects
            )?;
        }
        if let Some(deks) = &self.deks {
            let Tried {
                proven,
                failed,
                untried,
            } = deks;
            write!(
                out,
                " deksProven={proven} deksFailed={failed} deksUntried={untried}"
            )?;
        }
        if !self.sha256.is_empty() {
            write!(out, " sha256={}", self.sha256)?;
        }
        writeln!(out)
    }
}

impl StateShown {
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

    pub(super) fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "state: {}", self.path.display())?;
        writeln!(out, "generation: {}", self.generation)?;
        writeln!(out, "stateHash: {}", self.hash)?;
        if let Some(previous) = &self.previous_hash {
            writeln!(out, "previousHash: {previous}")?;
        }
        if let Some(follows) = self.follows {
            writeln!(out, "follows: {follows}")?;
        }
        writeln!(out, "activeTransitVersion: {}", self.active_transit_version)?;
        writeln!(out, "activeKeyIdHash: {}", self.active_key_id_hash)?;
        for name in &self.active_shown_by {
            writeln!(out, "activeShownBy: {name}")?;
        }
        Ok(())
    }
}

impl VersionShown {
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

    pub(super) fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        write!(
            out,
            "version {}: {} keyIdHash={}",
            self.transit_version, self.state, self.key_id_hash
        )?;
        for (source, objects) in &self.objects {
            write!(out, ", {objects} objects in {source}")?;
        }
        if !self.removed_by.is_empty() {
            let by = self.removed_by.join(", ");
            write!(out, ", kept though it is removed by {by}: it decrypts")?;
        }
        writeln!(out)
    }
}

impl UnreadableShown {
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

    pub(super) fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        write!(
            out,
            "unreadable: {} objects in {}",
            self.objects, self.evidence
        )?;
        if let Some(version) = self.transit_version {
            write!(out, ", version={version}")?;
        }
        writeln!(out, ", cause={}: {}", self.cause, counted(&self.resources))?;
        for name in &self.names {
            writeln!(out, "    {name}")?;
        }
        Ok(())
    }
}

impl KeptShown {
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
