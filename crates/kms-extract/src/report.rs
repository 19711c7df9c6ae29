//! The result of `extract`: the written files with their hashes, or the refused objects.

use std::{path::Path, time::SystemTime};

use etcd_snapshot::value::{LocalCipher, Protection};
use kms_node::{
    advice::{
        Site,
        extract::{CREATE, LIVE_OBJECTS_DIFFERENT, REPLACE},
        texts,
    },
    config::Config,
    exit::Exit,
    report::{counted, one_line, outcome::Outcome, shell, table::Table},
};
use kms_operator::recovery::{Trust, cause::ORDER, scan};
use schemars::JsonSchema;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::{
    diff::Live,
    error::ExtractError,
    open::Refusal,
    select::{ObjectPath, Stored},
};

/// The result of an extraction.
pub type Report = Outcome<Extract>;

/// The members of `extract`.
#[derive(Debug, Default, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Extract {
    /// File of the snapshot, or URLs of the running etcd.
    pub source: String,
    /// Etcd revision of the reading; absent if etcd was not read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<i64>,
    /// The directory of the files; absent if nothing was written to one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub directory: Option<String>,
    /// The selected objects, by resource, namespace and name.
    pub objects: Vec<ObjectRow>,
    /// Objects that were refused, so that nothing was written.
    pub refused: Vec<RefusedRow>,
}

/// A selected object.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ObjectRow {
    pub resource: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    pub name: String,
    /// Etcd revision of its last write.
    pub revision: i64,
    /// Size of the stored value in bytes.
    pub stored_bytes: usize,
    pub protection: &'static str,
    /// The object in the live cluster, if it was compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub live: Option<Live>,
    /// The written file, and its hash.
    #[serde(flatten)]
    pub written: Option<Written>,
}

/// A file with an object.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Written {
    /// Name of the file in the directory.
    pub file: String,
    /// Of the content of the file.
    pub sha256: String,
    pub file_bytes: usize,
    /// Reason why the file holds the stored bytes in place of YAML.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub undecoded: Option<String>,
    /// Fields of the object that the file lacks, since this program does not know them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unknown_fields: Vec<String>,
}

/// A refused object.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RefusedRow {
    pub resource: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    pub name: String,
    pub revision: i64,
    /// Code of the cause in the catalogue of causes.
    pub cause: &'static str,
    pub found: String,
}

/// All objects were written.
const EXTRACTED: &str = "extracted";
/// The objects were listed.
const LISTED: &str = "listed";
/// Every object is in the live cluster as in the backup.
const SAME: &str = "same";
/// An object is missing in the live cluster, or different.
const DIFFERENT: &str = "different";
/// An object was refused, so nothing was written.
const REFUSED: &str = "refused";

impl ObjectRow {
    #[must_use]
    pub fn of(object: &Stored) -> Self {
        let ObjectPath {
            resource,
            namespace,
            name,
        } = object.path.clone();
        Self {
            resource,
            namespace,
            name,
            revision: object.revision,
            stored_bytes: object.value.len(),
            protection: match Protection::of(&object.value) {
                Protection::KmsV2 { .. } => "kms-v2",
                Protection::KmsV1 { .. } => "kms-v1",
                Protection::Local { cipher, .. } => match cipher {
                    LocalCipher::AesCbc => "aescbc",
                    LocalCipher::AesGcm => "aesgcm",
                    LocalCipher::Secretbox => "secretbox",
                },
                Protection::Unknown | Protection::NotAnObject => "unknown",
                Protection::Plaintext(_) => "plaintext",
            },
            live: None,
            written: None,
        }
    }
}

impl Written {
    #[must_use]
    pub fn of(
        file: &str,
        content: &[u8],
        undecoded: Option<String>,
        unknown_fields: Vec<String>,
    ) -> Self {
        let hash = Sha256::digest(content);
        Self {
            file: file.to_owned(),
            sha256: hash.iter().map(|byte| format!("{byte:02x}")).collect(),
            file_bytes: content.len(),
            undecoded,
            unknown_fields,
        }
    }
}

impl RefusedRow {
    #[must_use]
    pub fn of(object: &Stored, refusal: &Refusal) -> Self {
        let ObjectPath {
            resource,
            namespace,
            name,
        } = object.path.clone();
        Self {
            resource,
            namespace,
            name,
            revision: object.revision,
            cause: refusal.cause.code,
            found: refusal.found.clone(),
        }
    }
}

/// Frame of every report.
#[derive(Clone, Copy)]
pub struct Frame<'a> {
    pub config: Option<&'a Config>,
    pub site: &'a Site<'a>,
    /// Options of the selection, for commands.
    pub selection: &'a str,
    /// Files of `--diff`, for commands.
    pub kubeconfig: Option<&'a str>,
    pub now: SystemTime,
}

impl Frame<'_> {
    fn outcome(self, members: Extract) -> Report {
        let tables = tables(&members);
        let mut outcome = Outcome::new("extract", self.now, members);
        outcome.identify_with(self.config);
        outcome.add_tables(tables);
        outcome
    }

    /// The objects of `--list`.
    #[must_use]
    pub fn listed(self, members: Extract, trust: Trust) -> Report {
        let headline = counted(count(members.objects.len()), "object");
        let mut outcome = self.outcome(members);
        outcome.conclude(LISTED, Exit::Success, headline);
        outcome.add_checks([scan::integrity(trust, self.site)]);
        outcome
    }

    /// All objects are written.
    #[must_use]
    pub fn extracted(self, members: Extract, trust: Trust) -> Report {
        let objects = counted(count(members.objects.len()), "object");
        let number = |is: fn(&Written) -> bool| {
            let written = members.objects.iter().filter_map(|it| it.written.as_ref());
            count(written.filter(|it| is(it)).count())
        };
        let undecoded = number(|it| it.undecoded.is_some());
        let incomplete = number(|it| !it.unknown_fields.is_empty());
        let mut headline = match &members.directory {
            Some(directory) => format!("{objects} written to {directory}"),
            None => format!("{objects} written to standard output"),
        };
        if undecoded > 0 {
            headline.push_str(&format!(", {undecoded} of them as stored bytes"));
        }
        if incomplete > 0 {
            headline.push_str(&format!(", {incomplete} of them without all fields"));
        }
        let directory = members.directory.as_deref().map(|it| shell(Path::new(it)));
        let mut outcome = self.outcome(members);
        outcome.conclude(EXTRACTED, Exit::Success, headline);
        if let Some(directory) = &directory {
            let values = [("directory", directory.as_str())];
            outcome.add_steps(
                [CREATE, REPLACE]
                    .iter()
                    .filter_map(|it| it.advise(self.site, &values)),
            );
        }
        outcome.add_checks([scan::integrity(trust, self.site)]);
        outcome.add_warnings([
            "do not leave the files in place: they are plaintext; delete them when they are applied",
        ]);
        outcome
    }

    /// The objects are compared with the live cluster.
    #[must_use]
    pub fn compared(self, members: Extract, trust: Trust) -> Report {
        let number = |live| {
            let rows = members.objects.iter().filter(|it| it.live == Some(live));
            count(rows.count())
        };
        let objects = counted(count(members.objects.len()), "object");
        let found = [Live::Missing, Live::Different, Live::Unknown]
            .map(|live| (live, number(live)))
            .into_iter()
            .filter(|(_, number)| *number > 0);
        let found: Vec<_> = found
            .map(|(live, number)| format!("{number} {}", live.as_str()))
            .collect();
        let (verdict, exit, headline) = match found.is_empty() {
            true => (
                SAME,
                Exit::Success,
                format!("{objects} of the backup, and the live cluster has all of them"),
            ),
            false => (
                DIFFERENT,
                Exit::CheckFailed,
                format!(
                    "{objects} of the backup; in the live cluster: {}",
                    found.join(", ")
                ),
            ),
        };
        let mut outcome = self.outcome(members);
        outcome.conclude(verdict, exit, headline);
        if exit != Exit::Success {
            let values = [("selection", self.selection)];
            outcome.add_cause(&LIVE_OBJECTS_DIFFERENT.advise(self.site, &values));
        }
        outcome.add_checks([scan::integrity(trust, self.site)]);
        outcome
    }

    /// Objects were refused. The gravest cause is that of the result.
    #[must_use]
    pub fn refused(self, members: Extract, refusals: &[&Refusal], trust: Trust) -> Report {
        let objects = counted(count(members.objects.len()), "object");
        let is_compared = members.objects.iter().any(|it| it.live.is_some());
        let rest = match is_compared {
            true => "the others are compared with the live cluster",
            false => "so nothing was written",
        };
        let headline = format!("{} of {objects} refused, {rest}", refusals.len());
        let mut causes: Vec<&Refusal> = Vec::new();
        for refusal in refusals {
            if !causes.iter().any(|it| it.cause == refusal.cause) {
                causes.push(refusal);
            }
        }
        let rank = |refusal: &&Refusal| {
            let known = ORDER.iter().position(|cause| *cause == refusal.cause);
            known.unwrap_or(ORDER.len())
        };
        causes.sort_by_key(rank);

        let mut outcome = self.outcome(members);
        outcome.conclude(REFUSED, Exit::CheckFailed, headline);
        if let Some(first) = causes.first() {
            outcome.set_found(first.found.clone());
        }
        for refusal in causes {
            outcome.add_cause(&refusal.cause.advise(self.site, &texts(&refusal.values)));
        }
        outcome.add_checks([scan::integrity(trust, self.site)]);
        outcome
    }

    /// A failure before an object was opened.
    #[must_use]
    pub fn failed(self, error: &ExtractError) -> Report {
        let (cause, values) = error.cause();
        let mut values = texts(&values);
        values.extend(self.kubeconfig.map(|it| ("kubeconfig", it)));
        let mut outcome = self.outcome(Extract::default());
        outcome.conclude_with(&cause.advise(self.site, &values));
        outcome.set_found(one_line(error));
        outcome
    }
}

fn tables(members: &Extract) -> [Table; 4] {
    let namespace = |it: &Option<String>| it.clone().unwrap_or_default();
    let has_files = members.objects.iter().any(|row| row.written.is_some());
    let mut objects = Table::of("objects", &members.objects)
        .column("resource", |it| &it.resource)
        .column("namespace", |it| namespace(&it.namespace))
        .column("name", |it| &it.name)
        .column("revision", |it| it.revision)
        .column("stored bytes", |it| it.stored_bytes)
        .column("protection", |it| it.protection);
    if members.objects.iter().any(|row| row.live.is_some()) {
        objects = objects.column("live cluster", |it| it.live.map_or("", Live::as_str));
    }
    if has_files {
        let text = |it: &ObjectRow, of: fn(&Written) -> &String| {
            it.written
                .as_ref()
                .map_or_else(String::new, |it| of(it).clone())
        };
        objects = objects
            .column("file", move |it| text(it, |it| &it.file))
            .column("sha256 of the file", move |it| text(it, |it| &it.sha256));
    }
    let undecoded: Vec<(&ObjectRow, &Written)> = members
        .objects
        .iter()
        .filter_map(|row| Some((row, row.written.as_ref()?)))
        .filter(|(_, written)| written.undecoded.is_some())
        .collect();
    let undecoded = Table::of("written as stored bytes", &undecoded)
        .column("file", |(_, it)| &it.file)
        .column("reason", |(_, it)| it.undecoded.clone().unwrap_or_default());
    let incomplete: Vec<&Written> = members
        .objects
        .iter()
        .filter_map(|row| row.written.as_ref())
        .filter(|it| !it.unknown_fields.is_empty())
        .collect();
    let incomplete = Table::of("fields that this program does not know", &incomplete)
        .column("file", |it| &it.file)
        .column("left out", |it| it.unknown_fields.join(", "));
    let refused = Table::of("refused", &members.refused)
        .column("resource", |it| &it.resource)
        .column("namespace", |it| namespace(&it.namespace))
        .column("name", |it| &it.name)
        .column("cause", |it| it.cause)
        .column("finding", |it| &it.found);
    let mut objects = objects.table();
    // The refused ones are shown instead, except beside the live ones.
    let is_compared = members.objects.iter().any(|row| row.live.is_some());
    if !members.refused.is_empty() && !is_compared {
        objects = Table::new("objects", []);
    }
    [
        objects,
        undecoded.table(),
        incomplete.table(),
        refused.table(),
    ]
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}
