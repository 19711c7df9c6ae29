//! `config`: the configuration as it takes effect; `config schema`: what may be written.

use std::{
    io::{self, Write},
    path::Path,
};

use clap::{Args, Subcommand};
use schemars::JsonSchema;
use serde::Serialize;

use super::{Context, Failure, OutputFlag, exit::Exit};
use crate::{
    config::{LoadError, Loaded, Problem, Setting, schema},
    report::{Output, Render},
};

/// Show every setting with its origin, or all problems of the configuration
///
/// Files that the configuration names are not examined. Exit code 3 when the configuration is
/// invalid.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Options {
    #[command(subcommand)]
    command: Option<Part>,
    #[command(flatten)]
    output: OutputFlag,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// Print the JSON Schema of the configuration file
    Schema,
}

impl Options {
    pub(super) fn run(self, context: &mut Context<'_>) -> Result<Exit, Failure> {
        if let Some(Part::Schema) = self.command {
            serde_json::to_writer_pretty(&mut *context.out, &schema()).map_err(io::Error::from)?;
            writeln!(context.out)?;
            return Ok(Exit::Success);
        }
        match context.load() {
            Ok(loaded) => {
                self.output
                    .output
                    .write(&Effective::of(&loaded), context.out)?;
                Ok(Exit::Success)
            }
            Err(error) => {
                // A program gets the problems as data, a person on standard error.
                if let (Output::Json, LoadError::Invalid { path, problems }) =
                    (self.output.output, &error)
                {
                    self.output.output.write(
                        &Invalid {
                            path,
                            valid: false,
                            problems,
                        },
                        context.out,
                    )?;
                }
                Err(error.into())
            }
        }
    }
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Effective<'a> {
    path: &'a Path,
    valid: bool,
    identity_fingerprint: String,
    /// With the longer of two settings put in for 0s.
    effective_login_timeout: String,
    settings: &'a [Setting],
    warnings: &'a [Problem],
}

#[derive(Serialize, JsonSchema)]
pub(super) struct Invalid<'a> {
    path: &'a Path,
    valid: bool,
    problems: &'a [Problem],
}

impl<'a> Effective<'a> {
    fn of(loaded: &'a Loaded) -> Self {
        Self {
            path: &loaded.path,
            valid: true,
            identity_fingerprint: loaded.config.fingerprint().to_string(),
            effective_login_timeout: format!("{:?}", loaded.config.auth.login_timeout),
            settings: &loaded.settings,
            warnings: &loaded.warnings,
        }
    }
}

impl Render for Effective<'_> {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "configuration: {}", self.path.display())?;
        writeln!(out, "identityFingerprint: {}", self.identity_fingerprint)?;
        writeln!(out)?;
        let lines: Vec<_> = self
            .settings
            .iter()
            .map(|setting| {
                (
                    format!("{}: {}", setting.path, setting.value),
                    &setting.origin,
                )
            })
            .collect();
        // One long value must not push every origin off the screen.
        let width = lines
            .iter()
            .map(|(line, _)| line.chars().count())
            .filter(|width| *width <= 72)
            .max()
            .unwrap_or_default();
        for (line, origin) in &lines {
            writeln!(out, "{line:<width$}  ({origin})")?;
        }
        if !self.warnings.is_empty() {
            writeln!(out, "\nwarnings:")?;
        }
        for warning in self.warnings {
            writeln!(out, "- {warning}")?;
        }
        Ok(())
    }
}

impl Render for Invalid<'_> {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        self.problems
            .iter()
            .try_for_each(|problem| writeln!(out, "{problem}"))
    }
}
