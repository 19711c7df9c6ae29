//! `inspect-state`: what a state file and its checkpoint say, and whether both may be believed.
//! Reads only, without lock and without connection.

use std::{
    io::{self, Write},
    path::PathBuf,
};

use clap::Args;
use kms_domain::{
    fingerprint::require_identity,
    registry::{Record, document::Document},
};
use schemars::JsonSchema;
use serde::Serialize;

use super::{Context, Failure, OutputFlag, exit::Exit};
use crate::{
    clock::{Clock, SystemClock},
    config::Config,
    diagnose,
    report::{Check, Render, Report},
    state::{self, StatePath, Stored},
};

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
        let inspection = inspect(&path, config.as_ref());
        self.output.output.write(&inspection, context.out)?;
        Ok(inspection.report.exit())
    }
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Inspection {
    #[serde(flatten)]
    report: Report,
    path: PathBuf,
    /// Absent when the pair is not valid: then nothing in it may be believed.
    #[serde(flatten)]
    content: Option<Content>,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Content {
    state_fingerprint: String,
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
    records: Vec<RecordShown>,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct RecordShown {
    transit_version: u64,
    transit_version_created_at_unix: u64,
    state: &'static str,
    key_id_hash: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    observed_at_unix: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stable_observation_count: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stable_at_unix: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    promoted_at_unix: Option<u64>,
}

fn inspect(path: &StatePath, config: Option<&Config>) -> Inspection {
    let mut report = Report::new("inspect-state", SystemClock.now());
    if let Some(config) = config {
        report.identify(&config.fingerprint());
    }
    let stored = state::inspect(path);
    report.push(diagnose::state::pair(path, &stored));
    let document = stored
        .as_ref()
        .ok()
        .and_then(|stored| stored.document.as_ref());
    report.push(identity_check(document, config));
    let content = stored.as_ref().ok().and_then(Content::of);
    Inspection {
        report,
        path: path.document(),
        content,
    }
}

fn identity_check(document: Option<&Document>, config: Option<&Config>) -> Check {
    const ID: &str = "registry.identity";
    const TITLE: &str = "State belongs to the configuration";
    match (document, config) {
        (None, _) => Check::skip(ID, TITLE, "there is no valid state"),
        (Some(_), None) => Check::skip(ID, TITLE, "give --config to compare"),
        (Some(document), Some(config)) => {
            match require_identity(document, &config.scope, &config.key) {
                Ok(()) => Check::pass(ID, TITLE),
                Err(other) => Check::fail(ID, TITLE, other.to_string())
                    .impact("what is encrypted cannot be read under other names")
                    .remediation(
                        "change the configuration back, or look for the state of this cluster; \
                         do not delete the state",
                    ),
            }
        }
    }
}

impl Content {
    fn of(stored: &Stored) -> Option<Self> {
        let document = stored.document.as_ref()?;
        let checkpoint = stored.checkpoint.as_ref();
        let registry = document.registry();
        Some(Self {
            state_fingerprint: document.fingerprint().to_string(),
            state_generation: document.generation().get(),
            state_hash: document.hash().to_string(),
            state_previous_hash: document.previous_hash().map(ToString::to_string),
            state_checkpoint_status: stored.checkpoint_status(),
            state_checkpoint_generation: checkpoint.map(|point| point.generation().get()),
            state_checkpoint_hash: checkpoint.map(|point| point.hash().to_string()),
            active_key_id_hash: registry.active().id_hash().to_string(),
            active_transit_version: registry.active().version().get(),
            records: registry.records().iter().map(RecordShown::of).collect(),
        })
    }
}

impl RecordShown {
    fn of(record: &Record) -> Self {
        let Record {
            key,
            state,
            bookkeeping,
        } = record;
        Self {
            transit_version: key.version().get(),
            transit_version_created_at_unix: key.created_at().get(),
            state: state.as_str(),
            key_id_hash: key.id_hash().to_string(),
            observed_at_unix: bookkeeping.observed_at().map(Into::into),
            stable_observation_count: bookkeeping.stable_observation_count().map(Into::into),
            stable_at_unix: bookkeeping.stable_at().map(Into::into),
            promoted_at_unix: bookkeeping.promoted_at().map(Into::into),
        }
    }
}

impl Render for Inspection {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        self.report.text(out)?;
        let Some(content) = &self.content else {
            return Ok(());
        };
        writeln!(out, "path: {}", self.path.display())?;
        writeln!(out, "stateFingerprint: {}", content.state_fingerprint)?;
        writeln!(out, "stateGeneration: {}", content.state_generation)?;
        writeln!(out, "stateHash: {}", content.state_hash)?;
        if let Some(hash) = &content.state_previous_hash {
            writeln!(out, "statePreviousHash: {hash}")?;
        }
        writeln!(
            out,
            "stateCheckpointStatus: {}",
            content.state_checkpoint_status
        )?;
        if let (Some(generation), Some(hash)) = (
            content.state_checkpoint_generation,
            &content.state_checkpoint_hash,
        ) {
            writeln!(out, "stateCheckpointGeneration: {generation}")?;
            writeln!(out, "stateCheckpointHash: {hash}")?;
        }
        writeln!(out, "activeKeyIdHash: {}", content.active_key_id_hash)?;
        writeln!(
            out,
            "activeTransitVersion: {}",
            content.active_transit_version
        )?;
        for record in &content.records {
            writeln!(
                out,
                "record: transitVersion={} state={} keyIdHash={} createdAtUnix={}",
                record.transit_version,
                record.state,
                record.key_id_hash,
                record.transit_version_created_at_unix,
            )?;
        }
        Ok(())
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
