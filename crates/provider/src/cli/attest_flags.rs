//! `--attest`: a signed statement of the result.

use std::path::PathBuf;

use clap::Args;
use kms_domain::scope::{KeyName, MountPath, TransitKeyPath};
use kms_node::{config::Config, report::outcome::Outcome};
use kms_operator::attestation::{AttestationError, Attestor, SigningKey, statement::Findings};

use super::{Exit, Failure};

/// The statement and its signing key.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Signed statement")]
pub(super) struct AttestFlags {
    /// Write a signed statement of the result to a new file, or to one named after the time in a
    /// directory
    #[arg(long, value_name = "PATH", requires = "signing_key")]
    attest: Option<PathBuf>,
    /// Sign with this private key: PEM in PKCS#8, ECDSA P-256 or Ed25519, readable for nobody else
    #[arg(long, value_name = "FILE", requires = "attest", group = "signing_key")]
    sign_key: Option<PathBuf>,
    /// Sign with this Transit key in the OpenBao of the configuration, with its login
    #[arg(
        long,
        value_name = "MOUNT/KEY",
        requires = "attest",
        group = "signing_key",
        value_parser = transit_key
    )]
    sign_transit: Option<TransitKeyPath>,
}

fn transit_key(text: &str) -> Result<TransitKeyPath, String> {
    let (mount, key) = text.rsplit_once('/').ok_or("must be MOUNT/KEY")?;
    Ok(TransitKeyPath {
        mount_path: MountPath::parse(mount).map_err(|problem| problem.to_string())?,
        key_name: KeyName::parse(key).map_err(|problem| problem.to_string())?,
    })
}

impl AttestFlags {
    /// Reads the signing key before the work; `None` without `--attest`.
    pub(super) fn attestor(&self, config: &Config) -> Result<Option<Attestor>, Failure> {
        let (Some(target), Some(key)) = (&self.attest, self.key()) else {
            return Ok(None);
        };
        Ok(Some(Attestor::new(config, target.clone(), &key)?))
    }

    /// Requires a file that the statement can be about, before the work.
    pub(super) fn require_subject(&self, has_file: bool) -> Result<(), Failure> {
        match self.attest.is_some() && !has_file {
            true => Err(AttestationError::NoSubject.into()),
            false => Ok(()),
        }
    }

    fn key(&self) -> Option<SigningKey> {
        let file = self.sign_key.clone().map(SigningKey::File);
        file.or_else(|| self.sign_transit.clone().map(SigningKey::Transit))
    }
}

/// Writes the statement, if one was requested, also of a result whose other output failed: a change was
/// made, or a backup was tried. Returns that end of the command if the statement is written.
pub(super) fn attest<R>(
    attestor: Option<&Attestor>,
    config: &Config,
    outcome: &Outcome<R>,
    findings: Findings,
    shown: Result<Exit, Failure>,
) -> Result<Exit, Failure> {
    let written = attestor.map(|attestor| attestor.write(config, outcome, findings));
    written.transpose()?;
    shown
}
