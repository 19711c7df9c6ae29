//! Signed statements of results: evidence that an auditor can check later, without OpenBao, etcd or this
//! program. Implements `docs/format/attestation.md`.
//!
//! A statement has digests, counts and verdicts only: no names of namespaces or objects. Existing files
//! are never overwritten.

pub mod envelope;
pub mod history;
pub mod public_key;
pub mod signer;
pub mod statement;
pub mod verification;

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use jiff::Timestamp;
use kms_domain::{digest::sha256_hex, scope::TransitKeyPath};
use kms_node::{
    advice::{self, Cause, attestation::*, openbao::of_call},
    auth::CallFailure,
    config::Config,
    connection::ConnectionError,
    exit::Exit,
    report::outcome::Outcome,
    state::disk::{self, DiskError},
};
use openbao_client::credential_file::CredentialFileProblem;
use rustix::fs::{Access, AtFlags, CWD, accessat};

use crate::recovery::recover_state::read_file;
use envelope::{Envelope, MAX_BYTES};
use public_key::KeyProblem;
use signer::Signer;
use statement::{Digest, Findings, Statement};

/// End of the names of statements in a directory.
pub const SUFFIX: &str = ".dsse.json";

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
    /// The file exists, or the key is unusable. Nothing was signed.
    pub fn new(
        config: &Config,
        target: PathBuf,
        key: &SigningKey,
    ) -> Result<Self, AttestationError> {
        if !target.is_dir() && target.symlink_metadata().is_ok() {
            return Err(AttestationError::File(DiskError::Exists { path: target }));
        }
        let signer = match key {
            SigningKey::File(path) => Signer::file(path)?,
            SigningKey::Transit(path) => Signer::transit(config, path.clone())?,
        };
        Ok(Self { target, signer })
    }

    /// Requires a writable directory, once this process has the user that writes the statement.
    ///
    /// # Errors
    /// The directory is missing or closed to this user.
    pub fn require_writable(&self) -> Result<(), AttestationError> {
        let directory = match (self.target.is_dir(), self.target.parent()) {
            (false, Some(parent)) if parent.as_os_str().is_empty() => Path::new("."),
            (false, Some(parent)) => parent,
            _ => &self.target,
        };
        let access = Access::WRITE_OK | Access::EXEC_OK;
        accessat(CWD, directory, access, AtFlags::EACCESS).map_err(|errno| {
            AttestationError::File(DiskError::System {
                attempt: "write to the directory",
                path: directory.to_owned(),
                space: None,
                source: errno.into(),
            })
        })
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
        now: SystemTime,
    ) -> Result<(), AttestationError> {
        if findings.is_empty() {
            return Err(AttestationError::NoSubject);
        }
        let (path, previous) = if self.target.is_dir() {
            let path = self.target.join(dated(outcome.command(), now));
            (path, newest(&self.target)?)
        } else {
            (self.target.clone(), None)
        };
        let statement = Statement::new(config, outcome, findings, previous);
        let payload = statement.encode();
        let signature = self.signer.sign(config, &envelope::encoded(&payload))?;
        let envelope = Envelope::signed(payload, self.signer.key_id(), signature);
        disk::create_new(&path, envelope.encode().as_bytes()).map_err(AttestationError::File)
    }
}

/// A name that sorts by time.
fn dated(command: &str, now: SystemTime) -> String {
    let time = Timestamp::try_from(now).unwrap_or_default();
    format!("{}-{command}{SUFFIX}", time.strftime("%Y%m%dT%H%M%S%.3fZ"))
}

/// Paths of the statements in a directory, by name and so by time.
///
/// # Errors
/// The directory cannot be read.
pub fn statements(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        if name.to_str().is_some_and(|name| name.ends_with(SUFFIX)) {
            paths.push(directory.join(name));
        }
    }
    paths.sort();
    Ok(paths)
}

/// Digest of the newest statement.
fn newest(directory: &Path) -> Result<Option<Digest>, AttestationError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| AttestationError::Previous { path, source }
    };
    let paths = statements(directory).map_err(failed(directory))?;
    let Some(path) = paths.last() else {
        return Ok(None);
    };
    let bytes = read_file(path, MAX_BYTES).map_err(failed(path))?;
    Ok(Some(Digest {
        sha256: sha256_hex(&bytes),
    }))
}
