//! `config`: the configuration in effect; `config schema`: its JSON Schema; `config migrate`: an
//! older file in its form.

pub(super) mod migrate;

use std::{fs, io, os::unix::fs::MetadataExt as _, path::Path, time::SystemTime};

use clap::{Args, Subcommand};
use kms_node::{
    clock::{Clock as _, SystemClock},
    config::{Environment, Loaded, Problem, Setting, schema},
    report::{
        counted,
        outcome::{Outcome, PASSED},
        table::Table,
    },
};
use schemars::JsonSchema;
use serde::Serialize;

use super::{Context, Exit, Failure, OutputFlag};

/// Show every setting with its origin, or all problems of the configuration
///
/// Accepts what serve accepts on this node: also the files and directories that it names are
/// examined, for the owner of the state directory. Exit code 3, as of serve, when it is refused.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Options {
    #[command(subcommand)]
    command: Option<Part>,
    /// Examine the settings alone, not the files that they name: for use elsewhere than on the node
    #[arg(long)]
    settings_only: bool,
    #[command(flatten)]
    output: OutputFlag,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// Print the JSON Schema of the configuration file
    Schema,
    Migrate(migrate::Options),
}

impl Options {
    pub(super) fn run(self, context: &mut Context<'_>) -> Result<Exit, Failure> {
        match self.command {
            Some(Part::Schema) => {
                serde_json::to_writer_pretty(&mut *context.out, &schema())
                    .map_err(io::Error::from)?;
                writeln!(context.out)?;
                return Ok(Exit::Success);
            }
            Some(Part::Migrate(options)) => return options.run(context),
            None => {}
        }
        let loaded = match self.settings_only {
            true => {
                let loaded = context.load()?;
                loaded.config.auth.supported()?;
                loaded
            }
            false => {
                let state = context.load()?.config.state_path;
                let owner = fs::metadata(state.directory()).map(|directory| directory.uid());
                let environment = Environment {
                    effective_uid: owner.unwrap_or(context.environment.effective_uid),
                    ..context.environment.clone()
                };
                context.load_for_serve(&environment)?
            }
        };
        let outcome = Effective::outcome(&loaded, SystemClock.now());
        self.output.show(&outcome, context)
    }
}

/// The members of `config`.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Effective<'a> {
    path: &'a Path,
    valid: bool,
    /// With the longer of two settings put in for 0s.
    effective_login_timeout: String,
    settings: &'a [Setting],
    /// Settings that are accepted, and are unsafe or have no effect.
    setting_warnings: &'a [Problem],
}

impl<'a> Effective<'a> {
    fn outcome(loaded: &'a Loaded, now: SystemTime) -> Outcome<Self> {
        let Loaded {
            path,
            config,
            settings,
            warnings,
        } = loaded;
        let members = Self {
            path,
            valid: true,
            effective_login_timeout: format!("{:?}", config.auth.login_timeout),
            settings,
            setting_warnings: warnings,
        };
        let count = counted(settings.len(), "setting");
        let headline = match warnings.len() {
            0 => format!("{} is valid, with {count}", path.display()),
            number => format!(
                "{} is valid, with {count} and {}",
                path.display(),
                counted(number, "warning")
            ),
        };
        let mut outcome = Outcome::new("config", now, members);
        outcome.identify(&config.fingerprint());
        outcome.conclude(PASSED, Exit::Success, headline);
        let mut identity = Table::new("identity", ["name", "value"]);
        identity.facts("identityFingerprint", [config.fingerprint()]);
        let problems = Table::of("warnings", warnings).column("problem", ToString::to_string);
        // Values last: one that is long must not move the origins.
        let table = Table::of("settings", settings)
            .column("setting", |it| it.path)
            .column("origin", |it| it.origin.to_string())
            .column("value", |it| it.value.to_string());
        outcome.add_tables([identity, problems.table(), table.table()]);
        outcome
    }
}
