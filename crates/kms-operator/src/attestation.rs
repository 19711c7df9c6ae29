//! Signed statements of results: evidence that an auditor can check later, without OpenBao, etcd or this
//! program. Implements `docs/format/attestation.md`.
//!
//! A statement has digests, counts and verdicts only: no names of namespaces or objects. Existing files
//! are never overwritten.

mod directory;
pub mod envelope;
pub mod history;
pub mod public_key;
pub mod signer;
pub mod statement;
pub mod verification;

use std::{
    io,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use kms_domain::scope::TransitKeyPath;
use kms_node::{
    advice::{self, Cause, attestation::*, openbao::of_call},
    auth::CallFailure,
    clock::{Clock as _, SystemClock},
    config::Config,
    connection::ConnectionError,
    exit::Exit,
    report::outcome::Outcome,
    state::disk::{self, DiskError},
};
use openbao_client::credential_file::CredentialFileProblem;

use directory::{Turn, dated};
use envelope::Envelope;
use public_key::KeyProblem;
use signer::Signer;
use statement::{Findings, Statement};

/// The key for a statement.
#[derive(Debug, Clone)]
pub enum SigningKey {
    /// PEM file with a private key.
    File(PathBuf),
    /// Key of the configured OpenBao.
    Transit(TransitKeyPath),
}

/// Failure to write or read a statement.
#[derive(Debug, thiserror::Error)]
pub enum AttestationError {
    #[error("cannot use the signing key {}", path.display())]
    KeyFile {
        path: PathBuf,
        #[source]
        problem: CredentialFileProblem,
    },
    #[error("cannot use the signing key {}", path.display())]
    Key {
        path: PathBuf,
        #[source]
        problem: KeyProblem,
    },
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    /// OpenBao refused the request, or did not answer.
    #[error("OpenBao did not sign with the Transit key {key}")]
    Transit {
        /// Mount and key.
        key: String,
        #[source]
        failure: Box<CallFailure>,
    },
    #[error("cannot use the Transit key {key} of the type {key_type}")]
    TransitKey {
        /// Mount and key.
        key: String,
        /// In the words of Transit.
        key_type: String,
        #[source]
        problem: KeyProblem,
    },
    /// The new signature is invalid by the public key.
    #[error("the signature with the key {key} is invalid")]
    Signature {
        /// The file, or mount and key.
        key: String,
    },
    #[error("no file was read that the statement could be about")]
    NoSubject,
    #[error("cannot read {}, the statement before the new one", path.display())]
    Previous {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the signed statement was not written")]
    File(#[source] DiskError),
}

impl AttestationError {
    /// Cause in the catalogue.
    #[must_use]
    pub fn cause(&self) -> &'static Cause {
        match self {
            Self::Connection(error) => advice::openbao::of_connection(error),
            // Its own refusals concern the signing key, never the key of the objects.
            Self::Transit { failure, .. } => match &**failure {
                CallFailure::OpenBao(refused) if !refused.class().is_outage() => {
                    &SIGNING_KEY_UNUSABLE
                }
                failure => of_call(failure),
            },
            Self::KeyFile { .. }
            | Self::Key { .. }
            | Self::TransitKey { .. }
            | Self::Signature { .. } => &SIGNING_KEY_UNUSABLE,
            Self::NoSubject => &WITHOUT_SUBJECT,
            Self::Previous { .. } | Self::File(_) => &advice::command::OUTPUT_NOT_WRITTEN,
        }
    }

    /// Exit code of a command whose statement is missing.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Connection(_) | Self::Transit { .. } => Exit::Runtime,
            _ => Exit::Unclassified,
        }
    }
}

/// Writes the statement of one command.
pub struct Attestor {
    target: PathBuf,
    signer: Signer,
}

impl Attestor {
    /// Reads the key, before the work of the command. `target` is a new file, or a directory that gets
    /// one more file, linked to the newest statement in it.
    ///
    /// # Errors
    /// The file exists, its directory is closed to this user, or the key is unusable. Nothing was signed.
    pub fn new(
        config: &Config,
        target: PathBuf,
        key: &SigningKey,
    ) -> Result<Self, AttestationError> {
        require_writable(&target)?;
        let signer = match key {
            SigningKey::File(path) => Signer::file(path)?,
            SigningKey::Transit(path) => Signer::transit(config, path.clone())?,
        };
        Ok(Self { target, signer })
    }

    /// Requires a writable directory. A command that goes on as another user asks again.
    ///
    /// # Errors
    /// The file exists, or the directory is missing or closed to this user.
    pub fn require_writable(&self) -> Result<(), AttestationError> {
        require_writable(&self.target)
    }

    /// Signs and writes the statement on a result. The file is complete or absent.
    ///
    /// # Errors
    /// No subject, a failed signature, or a failed write.
    pub fn write<R>(
        &self,
        config: &Config,
        outcome: &Outcome<R>,
        findings: Findings,
    ) -> Result<(), AttestationError> {
        if findings.is_empty() {
            return Err(AttestationError::NoSubject);
        }
        let mut turn = match self.target.is_dir() {
            true => Some(Turn::take(&self.target, outcome.command(), || {
                SystemClock.now()
            })?),
            false => None,
        };
        let previous = turn.as_mut().and_then(|turn| turn.previous.take());
        let path = turn.as_ref().map_or(&self.target, |turn| &turn.path);
        let statement = Statement::new(config, outcome, findings, previous);
        let payload = statement.encode();
        let signature = self.signer.sign(config, &envelope::encoded(&payload))?;
        let envelope = Envelope::signed(payload, self.signer.key_id(), signature);
        disk::create_new(path, envelope.encode().as_bytes()).map_err(AttestationError::File)
    }
}

fn require_writable(target: &Path) -> Result<(), AttestationError> {
    let checked = match target.is_dir() {
        true => disk::require_new(&target.join(dated("", Timestamp::now()))),
        false => disk::require_new(target),
    };
    checked.map_err(AttestationError::File)
}
