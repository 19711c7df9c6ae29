//! `version`: what was built.

use std::io::{self, Write};

use clap::Args;

use super::{Context, Failure, OutputFlag, exit::Exit};
use crate::{build_info::BuildInfo, report::Render};

/// Show version, commit, build date and whether the source was changed
#[derive(Debug, Args)]
pub(super) struct Options {
    #[command(flatten)]
    output: OutputFlag,
}

impl Options {
    pub(super) fn run(self, context: &mut Context<'_>) -> Result<Exit, Failure> {
        self.output.output.write(&BuildInfo::CURRENT, context.out)?;
        Ok(Exit::Success)
    }
}

impl Render for BuildInfo {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let Self {
            version,
            commit,
            build_date,
            dirty,
        } = self;
        writeln!(out, "version: {version}")?;
        writeln!(out, "commit: {commit}")?;
        writeln!(out, "buildDate: {build_date}")?;
        writeln!(out, "dirty: {dirty}")
    }
}
