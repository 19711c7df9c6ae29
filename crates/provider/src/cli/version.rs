//! `version`: this build.

use clap::Args;
use kms_node::{
    build_info::BuildInfo,
    clock::{Clock as _, SystemClock},
    formats::Formats,
    report::{
        outcome::{Outcome, PASSED},
        table::Table,
    },
};
use schemars::JsonSchema;
use serde::Serialize;

use super::{Context, Exit, Failure, OutputFlag};

/// Show version, commit, build date and whether the source was changed
#[derive(Debug, Args)]
pub(super) struct Options {
    #[command(flatten)]
    output: OutputFlag,
}

/// The members of `version`; the version itself is one of every result.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Build {
    /// The source revision, or `unknown`.
    commit: &'static str,
    /// RFC 3339, or `unknown`.
    build_date: &'static str,
    /// Whether the source differed from the revision, or `unknown`.
    dirty: &'static str,
    /// Formats that this release reads and writes, for `doctor --for-version` of another release.
    #[serde(flatten)]
    formats: Formats,
}

impl Options {
    pub(super) fn run(self, context: &mut Context<'_>) -> Result<Exit, Failure> {
        let BuildInfo {
            version,
            commit,
            build_date,
            dirty,
        } = BuildInfo::CURRENT;
        let members = Build {
            commit,
            build_date,
            dirty,
            formats: Formats::ours(),
        };
        let mut outcome = Outcome::new("version", SystemClock.now(), members);
        outcome.conclude(PASSED, Exit::Success, version);
        let mut build = Table::new("build", ["commit", "buildDate", "dirty"]);
        build.row([commit, build_date, dirty]);
        outcome.add_table(build);
        self.output.show(&outcome, context)
    }
}
