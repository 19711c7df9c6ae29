//! `drill history`: the signed statements of earlier drills.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use kms_node::{
    advice::Site,
    clock::{Clock as _, SystemClock},
    duration::parse_positive,
};
use kms_operator::attestation::history::{Request, history};

use super::super::{Context, Exit, Failure, PageFlags};

/// Show the signed statements of earlier drills, and the time without a proven restore
///
/// Reads the directory of --attest and verifies each statement and their chain. Needs neither a network
/// nor a configuration. Exit code 4 when a statement is not verified, the chain is broken, clusters, keys or
/// clocks contradict each other, or the time between proven restores was above --max-age; 5 when the
/// directory cannot be read.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// The directory of drill --attest
    directory: PathBuf,
    /// A public key of the signer: PEM, ECDSA P-256 or Ed25519, or the Base64 of Transit for Ed25519;
    /// repeatable
    #[arg(long, value_name = "FILE", required = true)]
    key: Vec<PathBuf>,
    /// Longest allowed time between proven restores and since the last one, and largest age of the backups
    /// at each of them, such as 192h
    #[arg(long, value_name = "DURATION", value_parser = parse_positive)]
    max_age: Option<Duration>,
    #[command(flatten)]
    output: PageFlags,
}

impl Options {
    pub(super) fn run(self, context: &mut Context<'_>) -> Result<Exit, Failure> {
        self.output.require_new()?;
        let request = Request {
            directory: self.directory,
            keys: self.key,
            max_age: self.max_age,
        };
        let path = context.flags.config_path(context.environment);
        let site = Site::new(&path, None);
        let outcome = history(&request, &site, SystemClock.now());
        self.output.show(&outcome, context)
    }
}
