//! `man`: the manual pages, for packages.

use std::path::PathBuf;

use clap::Args;

use super::{Context, Exit, Failure, examples};

/// Write a manual page for every command into a directory
#[derive(Debug, Args)]
pub(super) struct Options {
    /// An existing directory
    directory: PathBuf,
}

impl Options {
    pub(super) fn run(self, _: &mut Context<'_>) -> Result<Exit, Failure> {
        let directory = self.directory;
        match clap_mangen::generate_to(examples::command(), &directory) {
            Ok(()) => Ok(Exit::Success),
            Err(source) => Err(Failure::ManualPages { directory, source }),
        }
    }
}
