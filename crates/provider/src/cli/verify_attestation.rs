//! `verify-attestation`: checks a signed statement, without network and configuration.

use std::path::PathBuf;

use clap::Args;
use kms_node::{
    advice::Site,
    clock::{Clock as _, SystemClock},
};
use kms_operator::attestation::{
    statement::Role,
    verification::{Request, verify},
};

use super::{Context, Exit, Failure, OutputFlag};

/// Check the signature of a statement that --attest wrote, and the digests of its files
///
/// Needs neither a network nor a configuration. Exit code 0 when the statement is signed by the given key
/// and about the given files, 4 when it is not, 5 when a file cannot be read. The exit code is independent
/// of the stated verdict.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// The statement
    statement: PathBuf,
    /// A public key of the signer: PEM, ECDSA P-256 or Ed25519, or the Base64 of Transit for Ed25519;
    /// repeatable
    #[arg(long, value_name = "FILE", required = true)]
    key: Vec<PathBuf>,
    /// Require the statement to be about this etcd snapshot
    #[arg(long, value_name = "FILE")]
    etcd_snapshot: Option<PathBuf>,
    /// Require the statement to be about this OpenBao snapshot
    #[arg(long, value_name = "FILE")]
    openbao_snapshot: Option<PathBuf>,
    #[command(flatten)]
    output: OutputFlag,
}

impl Options {
    pub(super) fn run(self, context: &mut Context<'_>) -> Result<Exit, Failure> {
        let etcd = self.etcd_snapshot.map(|path| (Role::EtcdSnapshot, path));
        let openbao = self
            .openbao_snapshot
            .map(|path| (Role::OpenbaoSnapshot, path));
        let request = Request {
            statement: self.statement,
            keys: self.key,
            subjects: etcd.into_iter().chain(openbao).collect(),
        };
        let path = context.flags.config_path(context.environment);
        let site = Site::new(&path, None);
        let outcome = verify(&request, &site, SystemClock.now());
        self.output.show(&outcome, context)
    }
}
