//! What a report shows of each `key_id` of the key.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    io::{self, Write},
};

use kms_domain::recovery::{
    origin::{Gap, Origin},
    pair::Proof,
    record::BackupRecord,
};
use schemars::JsonSchema;
use serde::Serialize;

use super::{Facts, advice::advice};
use crate::{
    recovery::{
        excerpt::{FEW_WORDS, LeftOut, few, largest},
        verify_pair::{Row, SeedProblem},
    },
    report::one_line,
};

/// The status of a `key_id` whose version OpenBao has.
const LIVE: &str = "live";
/// The status of one that evidence tells of while OpenBao does not answer.
const KNOWN: &str = "known";

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct KeyIdShown {
    #[serde(skip_serializing_if = "Option::is_none")]
    transit_version: Option<u64>,
    key_id_hash: String,
    /// `live`, `known`, or the code of what is wrong.
    status: &'static str,
    message: String,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    next_step: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    do_not: Option<&'static str>,
}

#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
struct Tried {
    proven: u64,
    failed: u64,
    untried: u64,
}

impl KeyIdShown {
    pub(super) fn of(facts: Facts<'_>, row: &Row) -> Self {
        let finding = &row.finding;
        let (status, message) = match &finding.origin {
            Origin::Live(_) => (LIVE, proven(row)),
            Origin::Known(key) => {
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
                (
                    KNOWN,
                    format!("{source}; this OpenBao did not answer for it"),
                )
            }
            Origin::Gap(gap) => (gap.code(), one_line(gap)),
        };
        let (next_step, do_not) = advice(row).unzip();
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
            deks: Tried::of(finding.seeds),
            dek_problems: problems
                .map(|(problem, &count)| (problem.code(), count))
                .collect(),
            data: finding.data.map(Tried::of),
            unopened_resources,
            unopened_resources_left_out,
            unopened_names: row.unopened_names.clone(),
            next_step: next_step.map(Cow::into_owned),
            do_not,
        }
    }

    pub(super) fn is_of_the_key(&self) -> bool {
        matches!(self.status, LIVE | KNOWN)
    }

    pub(super) fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let version = match self.transit_version {
            Some(version) => format!("version {version}"),
            None => "no version".to_owned(),
        };
        let resources: Vec<_> = self
            .resources
            .iter()
            .map(|(resource, objects)| format!("{resource} {objects}"))
            .collect();
        let more = self.resources_left_out.map_or(0, |it| it.rows);
        writeln!(
            out,
            "{version}: [{}] {} objects ({}), keyIdHash={}",
            self.status,
            self.objects,
            few(&resources, more),
            self.key_id_hash
        )?;
        writeln!(out, "    {}", self.message)?;
        if self.lost_objects > 0 {
            writeln!(out, "    lost: {} objects", self.lost_objects)?;
        }
        for (resource, objects) in self.unopened_resources.iter().take(FEW_WORDS) {
            writeln!(out, "    not opened: {resource} {objects}")?;
        }
        for name in &self.unopened_names {
            writeln!(out, "    not opened: {name}")?;
        }
        Ok(())
    }
}

/// Objects that certainly cannot be read as things are.
pub(super) fn lost(row: &Row) -> u64 {
    match &row.finding.origin {
        Origin::Gap(Gap::Hidden { .. } | Gap::OtherProvider { .. } | Gap::Unknown { .. }) => 0,
        Origin::Gap(_) => row.finding.objects,
        Origin::Live(_) | Origin::Known(_) => {
            let unopened = row.finding.data.map_or(0, |data| data.failed);
            row.objects_of_failed_seeds().saturating_add(unopened)
        }
    }
}

/// Objects of versions that OpenBao does not use as things are, so that nothing was tried.
pub(super) fn untested(row: &Row) -> u64 {
    match &row.finding.origin {
        Origin::Gap(Gap::Hidden { .. }) => row.finding.objects,
        Origin::Live(_) | Origin::Known(_) | Origin::Gap(_) => 0,
    }
}

fn proven(row: &Row) -> String {
    let seeds = row.finding.seeds;
    let all = seeds
        .proven
        .saturating_add(seeds.failed)
        .saturating_add(seeds.untried);
    let mut text = format!("{} of {all} encrypted DEKs decrypt", seeds.proven);
    for (problem, count) in &row.seed_problems {
        text.push_str(&format!("; {count} {}", problem.sentence()));
    }
    if seeds.untried > 0 {
        text.push_str(&format!("; {} were not tried", seeds.untried));
    }
    if let Some(data) = row.finding.data {
        let objects = row.finding.objects;
        text.push_str(&format!("; {} of {objects} objects open", data.proven));
        if data.failed > 0 {
            text.push_str(&format!(
                "; {} do not open with the DEK that they name: they were moved to another etcd \
                 key, or changed",
                data.failed
            ));
        }
    }
    text
}

impl Tried {
    fn of(proof: Proof) -> Self {
        Self {
            proven: proof.proven,
            failed: proof.failed,
            untried: proof.untried,
        }
    }
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
                "are no ciphertext of that version: they were exchanged or damaged"
            }
            Self::NotDecrypted => {
                "are refused by OpenBao: the key was made anew in the same second, or they or \
                 their annotations were changed"
            }
            Self::NoDek => "decrypt to something that is no DEK",
        }
    }
}
