//! `pkcs11-helper`: the processes in which a PKCS#11 module runs. The provider starts them.

use clap::Args;
use kms_node::pkcs11_helper::worker;

use super::{Context, Exit, Failure};

/// Serve the process at the other end of standard input
#[derive(Debug, Args)]
pub(super) struct Options {
    /// Load the module; without it, start the processes that do
    #[arg(long)]
    worker: bool,
}

impl Options {
    pub(super) fn run(self, _: &mut Context<'_>) -> Result<Exit, Failure> {
        let channel = rustix::stdio::stdin();
        if self.worker {
            pkcs11_signer::work(channel)?;
        } else {
            pkcs11_signer::keep(channel, worker)?;
        }
        Ok(Exit::Success)
    }
}
