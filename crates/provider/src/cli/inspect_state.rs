//! `inspect-state`: what a state file and its checkpoint say, and whether both may be believed.
//! Reads only, without lock and without connection.

use std::{num::NonZeroU64, path::PathBuf};

use clap::Args;
use kms_domain::{
    identity::require_identity,
    registry::{Record, document::Document},
};
use kms_node::{
    advice::{self, Site},
    clock::{Clock as _, SystemClock},
    config::Config,
    report::{CheckName, CheckResult, outcome::Outcome, table::Table, utc},
    state::{self, StateError, StatePath, Stored},
};
use kms_operator::diagnose;
use schemars::JsonSchema;
use serde::Serialize;

use super::{Context, Exit, Failure, OutputFlag};

/// Check a state file with its checkpoint and show the versions in it
///
/// Without FILE the configured state is checked, and that it belongs to the configuration. With
/// FILE that is checked only if --config is given too. Exit code 4 when the state is not valid.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// A state file; its checkpoint is FILE.checkpoint
    file: Option<PathBuf>,
    #[command(flatten)]
    output: OutputFlag,
}

impl Options {
    pub(super) fn run(self, context: &mut Context<'_>) -> Result<Exit, Failure> {
        let (path, config) = match self.file {
            Some(file) => {
                let config = match &context.flags.config {
                    Some(_) => Some(context.load()?.config),
                    None => None,
                };
                (state_path(file)?, config)
            }
            None => {
                let config = context.load()?.config;
                (config.state_path.clone(), Some(config))
            }
        };
        let config_path = context.flags.config_path(context.environment);
        let site = Site::new(&config_path, config.as_ref());
        let outcome = inspect(&path, config.as_ref(), &site);
        self.output.show(&outcome, context)
    }
}

/// The members of `inspect-state`.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Inspection {
    path: PathBuf,
    /// Absent when the pair is not valid: then nothing in it may be believed.
    #[serde(flatten)]
    content: Option<Content>,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Content {
    /// Absent in a state of a preview.
    #[serde(skip_serializing_if = "Option::is_none")]
    state_fingerprint: Option<String>,
    state_generation: u64,
    state_hash: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    state_previous_hash: Option<String>,
    state_checkpoint_status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    state_checkpoint_generation: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state_checkpoint_hash: Option<String>,
    active_key_id_hash: String,
    active_transit_version: u64,
    records: Vec<RecordRow>,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct RecordRow {
    transit_version: u64,
    transit_version_created_at_unix: u64,
    /// RFC 3339, like the members beside other Unix seconds.
    transit_version_created_at: String,
    state: &'static str,
    key_id_hash: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    observed_at_unix: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    observed_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stable_observation_count: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stable_at_unix: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stable_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    promoted_at_unix: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    promoted_at: Option<String>,
}

fn inspect(path: &StatePath, config: Option<&Config>, site: &Site<'_>) -> Outcome<Inspection> {
    let stored = state::inspect(path);
    let preview = match &stored {
        Err(StateError::OfPreview { .. }) => Some(state::inspect_preview(path)),
        Ok(_) | Err(_) => None,
    };
    let shown = preview.as_ref().unwrap_or(&stored).as_ref().ok();
    let content = shown.and_then(Content::of);
    let document = shown.and_then(|it| it.document.as_ref());
    let tables = content.as_ref().map(|content| content.tables(path));
    let members = Inspection {
        path: path.document(),
        content,
    };

    let mut outcome = Outcome::new("inspect-state", SystemClock.now(), members);
    outcome.identify_with(config);
    let identity = identity_check(document, config, site);
    let pair = diagnose::state::pair(site, path, &stored).without_the_key();
    outcome.add_checks([pair, identity]);
    outcome.conclude_by_checks();
    outcome.add_tables(tables.into_iter().flatten());
    outcome
}

fn identity_check(
    document: Option<&Document>,
    config: Option<&Config>,
    site: &Site<'_>,
) -> CheckResult {
    const NAME: CheckName = CheckName(
        "registry.identity",
        "Names of the state and of the configuration",
    );
    let (document, config) = match (document, config) {
        (None, _) => return NAME.skip("there is no valid state"),
        (Some(_), None) => return NAME.skip("give --config to compare"),
        (Some(document), Some(config)) => (document, config),
    };
    match require_identity(document, &config.scope, &config.key) {
        Ok(()) => NAME.pass(),
        Err(other) => NAME
            .fail(other.to_string())
            .because(advice::configuration::IDENTITY_CHANGED.advise(site, &[])),
    }
}

impl Content {
    fn of(stored: &Stored) -> Option<Self> {
        let document = stored.document.as_ref()?;
        let checkpoint = stored.checkpoint.as_ref();
        let registry = document.registry();
        Some(Self {
            state_fingerprint: document.fingerprint().map(ToString::to_string),
            state_generation: document.generation().get(),
            state_hash: document.hash().to_string(),
            state_previous_hash: document.previous_hash().map(ToString::to_string),
            state_checkpoint_status: stored.checkpoint_status(),
            state_checkpoint_generation: checkpoint.map(|point| point.generation().get()),
            state_checkpoint_hash: checkpoint.map(|point| point.hash().to_string()),
            active_key_id_hash: registry.active().id_hash().to_string(),
            active_transit_version: registry.active().version().get(),
            records: registry.records().iter().map(RecordRow::of).collect(),
        })
    }

    /// The pair, and the versions of the state.
    fn tables(&self, path: &StatePath) -> [Table; 2] {
        let title = format!("state and checkpoint of {}", path.document().display());
        let mut pair = Table::new(title, ["name", "value"]);
        pair.facts("stateFingerprint", &self.state_fingerprint);
        pair.facts("stateGeneration", [self.state_generation]);
        pair.facts("stateHash", [&self.state_hash]);
        pair.facts("statePreviousHash", &self.state_previous_hash);
        pair.facts("stateCheckpointStatus", [self.state_checkpoint_status]);
        pair.facts(
            "stateCheckpointGeneration",
            self.state_checkpoint_generation,
        );
        pair.facts("stateCheckpointHash", &self.state_checkpoint_hash);
        pair.facts("activeKeyIdHash", [&self.active_key_id_hash]);
        pair.facts("activeTransitVersion", [self.active_transit_version]);
        let versions = Table::of("versions", &self.records)
            .column("version", |it| it.transit_version)
            .column("state", |it| it.state)
            .column("created at", |it| &it.transit_version_created_at)
            .column("keyIdHash", |it| &it.key_id_hash);
        [pair, versions.table()]
    }
}

impl RecordRow {
    fn of(record: &Record) -> Self {
        let Record {
            key,
            state,
            bookkeeping,
        } = record;
        let unix = |time: Option<NonZeroU64>| time.map(NonZeroU64::get);
        let (observed, stable, promoted) = (
            unix(bookkeeping.observed_at()),
            unix(bookkeeping.stable_at()),
            unix(bookkeeping.promoted_at()),
        );
        Self {
            transit_version: key.version().get(),
            transit_version_created_at_unix: key.created_at().get(),
            transit_version_created_at: utc(key.created_at().get()),
            state: state.as_str(),
            key_id_hash: key.id_hash().to_string(),
            observed_at_unix: observed,
            observed_at: observed.map(utc),
            stable_observation_count: bookkeeping.stable_observation_count().map(Into::into),
            stable_at_unix: stable,
            stable_at: stable.map(utc),
            promoted_at_unix: promoted,
            promoted_at: promoted.map(utc),
        }
    }
}

/// A relative path is meant from the working directory.
pub(super) fn state_path(file: PathBuf) -> Result<StatePath, Failure> {
    let absolute = std::path::absolute(&file)?;
    StatePath::parse(&absolute).map_err(|problem| Failure::StateFile {
        path: file,
        problem,
    })
}
