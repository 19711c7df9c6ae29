//! The result of `rewrite`.

use std::{path::Path, time::SystemTime};

use kms_node::{
    advice::{Advice, Cause, Site, cluster},
    exit::Exit,
    report::{counted, one_line, outcome::Outcome, table::Table},
};
use kms_operator::rotation_report::Rotation;
use schemars::JsonSchema;
use serde::Serialize;

use super::{Done, End, Method, Settings};
use crate::encryption::Encryption;

/// The members of `rewrite`.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Rewrite {
    server: String,
    /// uid of the namespace kube-system.
    cluster: String,
    /// `dry-run`, `patch` or `storage-version-migration`.
    method: &'static str,
    /// Of the API server before the first write; absent if its metrics cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    encryption_before: Option<Encryption>,
    #[serde(skip_serializing_if = "Option::is_none")]
    encryption_after: Option<Encryption>,
    /// Host names of running API servers that were not compared; absent if their leases cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    unexamined: Option<Vec<String>>,
    resources: Vec<ResourceRow>,
    left_out: Vec<LeftOutRow>,
    resisted: Vec<ResistedRow>,
    /// Absent after a rewrite without open objects, which removes the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    progress_file: Option<String>,
    seconds: u64,
}

/// One resource.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResourceRow {
    pub resource: String,
    pub state: State,
    /// At the begin.
    pub objects: u64,
    /// Stored again by this run.
    pub rewritten: u64,
    /// Already stored with the present encryption.
    pub current: u64,
    /// Written since the rewrite began: by an earlier run, or by others.
    pub earlier: u64,
    /// Deleted since the list.
    pub gone: u64,
    pub resisted: u64,
    /// Name of the `StorageVersionMigration`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub migration: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Not begun.
    Counted,
    Finished,
    /// Interrupted.
    Unfinished,
    /// It cannot be listed or written.
    Failed,
}

/// A resource that is not rewritten.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LeftOutRow {
    resource: String,
    reason: &'static str,
}

/// Objects of one resource that were refused alike.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResistedRow {
    pub resource: String,
    /// 0 where the resource itself was refused.
    pub objects: u64,
    /// Absent without an answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_status: Option<u16>,
    /// Word of the API.
    pub reason: String,
    /// Code in the catalogue of causes.
    pub cause: &'static str,
    /// Webhook or policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub denied_by: Option<String>,
    /// The first few, with `--show-names`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
}

/// Command lines for the steps of causes.
#[derive(Debug, Clone, Copy)]
pub struct Lines<'a> {
    /// As typed.
    pub again: &'a str,
    /// At a low rate.
    pub slower: &'a str,
    /// Without `--dry-run`.
    pub apply: &'a str,
    /// Without `--storage-version-migration`.
    pub plain: &'a str,
}

impl ResourceRow {
    #[must_use]
    pub fn new(resource: &str) -> Self {
        Self {
            resource: resource.to_owned(),
            state: State::Counted,
            objects: 0,
            rewritten: 0,
            current: 0,
            earlier: 0,
            gone: 0,
            resisted: 0,
            migration: None,
        }
    }

    /// Objects with a result.
    #[must_use]
    pub fn done(&self) -> u64 {
        let Self {
            rewritten,
            current,
            earlier,
            gone,
            resisted,
            ..
        } = self;
        [current, earlier, gone, resisted]
            .into_iter()
            .fold(*rewritten, |sum, more| sum.saturating_add(*more))
    }
}

impl State {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counted => "counted",
            Self::Finished => "finished",
            Self::Unfinished => "unfinished",
            Self::Failed => "failed",
        }
    }
}

impl From<(String, &'static str)> for LeftOutRow {
    fn from((resource, reason): (String, &'static str)) -> Self {
        Self { resource, reason }
    }
}

/// Result of a run, and the reading of etcd after it, if one was asked for.
#[must_use]
pub fn outcome(
    done: Done,
    settings: &Settings,
    proof: Option<&Outcome<Rotation>>,
    lines: Lines<'_>,
    now: SystemTime,
) -> Outcome<Rewrite> {
    let Done {
        server,
        cluster,
        before,
        after,
        resources,
        left_out,
        resisted,
        end,
        elapsed,
    } = done;
    let progress = settings.progress.as_path();
    let advise = |cause: &Cause| advice(cause, progress, lines);
    let sum = |of: fn(&ResourceRow) -> u64| resources.iter().map(of).sum::<u64>();
    let objects = |count: u64| match count {
        1 => "1 object".to_owned(),
        count => format!("{count} objects"),
    };
    let total = objects(sum(|row| row.objects));
    let resources_of = counted(resources.len(), "resource");
    let rewritten = sum(|row| row.rewritten);
    let last = after.as_ref().unwrap_or(&before);
    let (differing, unexamined) = (last.differing.clone(), last.unexamined.clone());
    let is_compared = last.is_proven();
    let (before, after) = (before.encryption, after.and_then(|it| it.encryption));
    let unchanged = (before.as_ref(), after.as_ref());
    let changed = matches!(unchanged, (Some(before), Some(after)) if before != after);
    let open = progress.exists() && settings.method == Method::Patch;
    let mut outcome = Outcome::new(
        "rewrite",
        now,
        Rewrite {
            server,
            cluster,
            method: settings.method.as_str(),
            encryption_before: before,
            encryption_after: after,
            unexamined,
            resources,
            left_out,
            resisted,
            progress_file: open.then(|| progress.display().to_string()),
            seconds: elapsed.as_secs(),
        },
    );
    let result = &outcome.result;
    let tables = result.tables(settings.method);
    let refused = result.resisted.iter().map(|row| row.objects).sum::<u64>();
    let failed = result
        .resisted
        .iter()
        .filter(|row| row.objects == 0)
        .count();
    let causes: Vec<&'static Cause> = result
        .resisted
        .iter()
        .filter_map(|row| Cause::named(row.cause))
        .collect();
    let before_known = result.encryption_before.is_some();
    outcome.add_tables(tables);

    match end {
        End::Stopped(error) => {
            let advice = advise(error.cause());
            outcome.conclude_with(&advice);
            outcome.set_found(one_line(&error));
        }
        End::Interrupted(signal) => {
            outcome.conclude_with(&advise(&cluster::INTERRUPTED));
            outcome.set_found(format!(
                "{signal} after {} written again",
                objects(rewritten)
            ));
        }
        End::NotStarted => outcome.conclude_with(&advise(&cluster::MIGRATION_NOT_STARTED)),
        End::Completed | End::Counted if !causes.is_empty() => {
            let advice = advise(&cluster::RESISTED);
            outcome.conclude_with(&advice);
            let mut parts = Vec::new();
            if refused > 0 {
                parts.push(format!("{refused} of {total}"));
            }
            if failed > 0 {
                parts.push(format!("{} as a whole", counted(failed, "resource")));
            }
            outcome.set_found(parts.join(", "));
        }
        End::Completed | End::Counted if changed => {
            outcome.conclude_with(&advise(&cluster::ENCRYPTION_CHANGED));
        }
        End::Completed | End::Counted if !differing.is_empty() => {
            outcome.conclude_with(&advise(&cluster::SERVERS_DIFFER));
            outcome.set_found(format!("another one has {}", differing.join(", ")));
        }
        End::Counted => {
            let advice = advise(&cluster::PLANNED);
            outcome.conclude_with(&advice);
            let seconds = sum_of(&outcome.result.resources) / u64::from(settings.rate.get());
            let headline = format!(
                "{total} of {resources_of}; at {} writes a second the rewrite takes about {}",
                settings.rate,
                roughly(seconds)
            );
            outcome.conclude(advice.code, advice.exit, headline);
        }
        End::Completed => {
            let written = match settings.method {
                Method::StorageVersionMigration => {
                    format!("kube-controller-manager migrated {total} of {resources_of}")
                }
                Method::Patch | Method::DryRun => format!(
                    "{rewritten} of {total} of {resources_of} written again, and the others had the \
                     present encryption"
                ),
            };
            match proof {
                Some(proof) => prove(&mut outcome, &written, proof, is_compared),
                None => {
                    let headline = format!("{written}; etcd was not read");
                    outcome.conclude("inconclusive", Exit::Success, headline);
                    outcome.add_cause(&advise(&cluster::UNPROVEN));
                }
            }
            if !is_compared {
                outcome.add_actions(&advise(&cluster::SERVERS_UNKNOWN));
            }
        }
    }
    // The command to continue comes after the corrections of all causes.
    let actions: Vec<_> = causes.into_iter().map(advise).collect();
    let (last, first): (Vec<_>, Vec<_>) = actions
        .iter()
        .flat_map(|it| it.steps.iter().cloned())
        .partition(|step| step.command.as_deref() == Some(lines.again));
    outcome.add_steps(first.into_iter().chain(last));
    outcome.add_warnings(actions.iter().flat_map(|it| it.warnings.iter().copied()));
    if !before_known {
        outcome.add_limitations([
            "The metrics of the API server could not be read, so its key_id and its \
             EncryptionConfiguration are unknown.",
        ]);
    }
    if !is_compared {
        let hosts = outcome.result.unexamined.as_deref().unwrap_or_default();
        let hosts = match hosts.is_empty() {
            true => String::new(),
            false => format!(": {}", hosts.join(", ")),
        };
        outcome.add_limitations([format!(
            "Other API servers were not compared, and may write with another key{hosts}."
        )]);
    }
    outcome
}

/// Concludes a complete rewrite by the objects in etcd.
fn prove(
    outcome: &mut Outcome<Rewrite>,
    written: &str,
    proof: &Outcome<Rotation>,
    is_compared: bool,
) {
    outcome.take_over(proof);
    outcome.add_checks(proof.checks().iter().cloned());
    let otherwise = proof
        .checks()
        .iter()
        .find(|it| it.id() == "etcd.protection");
    match (proof.exit(), otherwise) {
        (Exit::Success, None) if proof.result.is_proven() && !is_compared => {
            let headline = format!(
                "{written}; etcd holds them under the active version, and other API servers were not \
                 compared"
            );
            outcome.conclude("inconclusive", Exit::Success, headline);
        }
        (Exit::Success, None) if proof.result.is_proven() => {
            let headline = format!("{written}; etcd holds them under the active version");
            outcome.conclude("proven", Exit::Success, headline);
        }
        (Exit::Success, Some(check)) => {
            let headline = format!("{written}; etcd still holds others: {}", check.found());
            outcome.conclude("unfinished", Exit::CheckFailed, headline);
            if let Some(advice) = check.advice() {
                outcome.add_cause(advice);
            }
        }
        (Exit::Success, None) => {
            let headline = format!("{written}; the sources show less than the running etcd");
            outcome.conclude("inconclusive", Exit::Success, headline);
        }
        (exit, _) => outcome.conclude(proof.verdict(), exit, proof.headline()),
    }
}

/// A cause with the values of this rewrite.
#[must_use]
pub fn advice(cause: &Cause, progress: &Path, lines: Lines<'_>) -> Advice {
    let progress = kms_node::advice::site::shell(progress);
    let values = [
        ("progress", progress.as_str()),
        ("again", lines.again),
        ("slower", lines.slower),
        ("apply", lines.apply),
        ("plain", lines.plain),
    ];
    cause.advise(&Site::none(), &values)
}

/// A duration for people.
#[must_use]
pub fn roughly(seconds: u64) -> String {
    match seconds {
        0..=90 => format!("{seconds} s"),
        91..=5400 => format!("{} min", seconds.div_ceil(60)),
        _ => format!("{} h", seconds.div_ceil(3600)),
    }
}

fn sum_of(rows: &[ResourceRow]) -> u64 {
    rows.iter().map(|row| row.objects).sum()
}

impl Method {
    fn as_str(self) -> &'static str {
        match self {
            Self::DryRun => "dry-run",
            Self::Patch => "patch",
            Self::StorageVersionMigration => "storage-version-migration",
        }
    }
}

impl Rewrite {
    fn tables(&self, method: Method) -> Vec<Table> {
        let resources = Table::of("resources", &self.resources)
            .column("resource", |it| &it.resource)
            .column("state", |it| it.state.as_str())
            .column("objects", |it| it.objects);
        let resources = match method {
            Method::DryRun => resources,
            Method::Patch => resources
                .column("rewritten", |it| it.rewritten)
                .column("current", |it| it.current)
                .column("earlier", |it| it.earlier)
                .column("gone", |it| it.gone)
                .column("resisted", |it| it.resisted),
            Method::StorageVersionMigration => {
                resources.column("migration", |it| it.migration.as_ref())
            }
        };
        let resisted = Table::of("objects that were not written again", &self.resisted)
            .column("resource", |it| &it.resource)
            .column("objects", |it| it.objects)
            .column("http", |it| it.http_status.map(u64::from))
            .column("reason", |it| &it.reason)
            .column("cause", |it| it.cause)
            .column("denied by", |it| it.denied_by.as_ref())
            .column("names", |it| &it.names);
        let left_out = Table::of("resources left out", &self.left_out)
            .column("resource", |it| &it.resource)
            .column("reason", |it| it.reason);
        let mut encryption =
            Table::new("encryption of the API server", ["time", "provider", "hash"]);
        for (time, read) in [
            ("before", &self.encryption_before),
            ("after", &self.encryption_after),
        ] {
            for read in read.iter() {
                for (provider, hash) in &read.key_id_hashes {
                    encryption.row([time, provider, hash]);
                }
                if let Some(hash) = &read.configuration_hash {
                    encryption.row([time, "EncryptionConfiguration", hash]);
                }
            }
        }
        vec![
            resources.table(),
            resisted.table(),
            left_out.table(),
            encryption,
        ]
    }
}
