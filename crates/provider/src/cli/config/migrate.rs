//! `config migrate`: an older, flat configuration file in the present form.

use std::path::{Path, PathBuf};

use clap::Args;
use kms_node::{
    clock::{Clock as _, SystemClock},
    config::{
        Problem,
        migrate::{Decision, Migrated, Taken, migrate_file},
    },
    report::{
        counted,
        outcome::{Outcome, PASSED},
        table::Table,
    },
    state::disk,
};
use schemars::JsonSchema;
use serde::Serialize;

use super::super::{Context, Exit, Failure, OutputFlag};

/// Write an older, flat configuration file in the present form
///
/// Every key of the old file is listed with its place in the new one, or with the reason why it is left
/// out. A key that fits no setting is refused, and then nothing is written. Secrets are never copied:
/// the report names the setting for their file. The new file is checked as serve checks it. An existing
/// file is never overwritten.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The old file
    old: PathBuf,
    /// The new file
    #[arg(long, value_name = "NEW", required_unless_present = "check")]
    out: Option<PathBuf>,
    /// Show the new file, and write nothing
    #[arg(long, conflicts_with = "out")]
    check: bool,
    #[command(flatten)]
    output: OutputFlag,
}

/// The members of `config migrate`.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Migration<'a> {
    old: &'a Path,
    /// The new file; absent with --check.
    #[serde(skip_serializing_if = "Option::is_none")]
    written: Option<&'a Path>,
    /// The text of the new file.
    content: &'a str,
    /// Each key of the old file, in its order.
    decisions: &'a [Decision],
    /// Settings of the new file that are accepted, and are unsafe or have no effect.
    setting_warnings: &'a [Problem],
}

impl Options {
    pub(super) fn run(self, context: &mut Context<'_>) -> Result<Exit, Failure> {
        let migrated = migrate_file(&self.old, context.environment)?;
        if let Some(out) = &self.out {
            disk::create_new(out, migrated.text.as_bytes()).map_err(Failure::NewConfig)?;
        }
        let outcome = self.outcome(&migrated);
        self.output.show(&outcome, context)
    }

    fn outcome<'a>(&'a self, migrated: &'a Migrated) -> Outcome<Migration<'a>> {
        let Migrated {
            text,
            decisions,
            warnings,
        } = migrated;
        let members = Migration {
            old: &self.old,
            written: self.out.as_deref(),
            content: text,
            decisions,
            setting_warnings: warnings,
        };
        let taken = decisions
            .iter()
            .filter(|it| matches!(it.outcome, Taken::Kept | Taken::Renamed))
            .count();
        let of = counted(decisions.len(), "key");
        let headline = match &self.out {
            Some(out) => format!("{} is written, with {taken} of {of}", out.display()),
            None => format!("{taken} of {of} would be taken; nothing was written"),
        };
        let mut outcome = Outcome::new("config migrate", SystemClock.now(), members);
        outcome.conclude(PASSED, Exit::Success, headline);
        let table = Table::of("keys", decisions)
            .column("line", |it| it.line)
            .column("key", |it| &it.key)
            .column("result", |it| it.outcome.as_str())
            .column("setting", |it| it.setting)
            .column("reason", |it| it.reason);
        let problems = Table::of("warnings", warnings).column("problem", ToString::to_string);
        outcome.add_tables([table.table(), problems.table()]);
        outcome
    }
}
