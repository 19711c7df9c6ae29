//! `man`: the manual pages, for packages.

use std::path::PathBuf;

use clap::{Args, CommandFactory};

use super::{Cli, Context, Exit, Failure};

/// Write a manual page for every command into a directory
#[derive(Debug, Args)]
pub(super) struct Options {
    /// An existing directory
    directory: PathBuf,
}

impl Options {
    pub(super) fn run(self, _: &mut Context<'_>) -> Result<Exit, Failure> {
        let directory = self.directory;
        match clap_mangen::generate_to(Cli::command(), &directory) {
            Ok(()) => Ok(Exit::Success),
            Err(source) => Err(Failure::ManualPages { directory, source }),
        }
    }
}
