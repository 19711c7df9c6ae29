//! The deep probe: encrypts and decrypts random bytes in Transit with the active version. `doctor`
//! makes the same probe.

use std::time::Duration;

use kms_domain::{
    aad::AssociatedData, health::DeepFailure, limits::check_sizes, registry::ProbeKey,
    transit::TransitVersion,
};
use openbao_client::transit::Transit;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::is_sealed;
use crate::auth::{CallFailure, Session};

/// Why a deep probe failed.
#[derive(Debug, thiserror::Error)]
pub enum DeepError {
    /// The system call for random bytes failed.
    #[error("no random bytes from the system")]
    Random(#[source] rustix::io::Errno),
    #[error("Transit cannot encrypt with key version {version}")]
    Encrypt {
        version: TransitVersion,
        #[source]
        source: Box<CallFailure>,
    },
    /// The ciphertext has another version than requested, or is too large for Kubernetes.
    #[error("Transit answered with a ciphertext of another version or of impossible size")]
    Invalid,
    /// Transit could not decrypt the new ciphertext.
    #[error("Transit fails to decrypt its own ciphertext of key version {version}")]
    Decrypt {
        version: TransitVersion,
        #[source]
        source: Box<CallFailure>,
    },
    /// The decrypted bytes differ from the plaintext.
    #[error("Transit decrypted to other bytes than it was given")]
    WrongPlaintext,
}

impl DeepError {
    /// The reason for Status and readiness.
    #[must_use]
    pub fn failure(&self) -> DeepFailure {
        match self {
            Self::Encrypt { source, .. } | Self::Decrypt { source, .. } if is_sealed(source) => {
                DeepFailure::OpenBaoSealed
            }
            Self::Invalid => DeepFailure::Invalid,
            Self::Random(_)
            | Self::Encrypt { .. }
            | Self::Decrypt { .. }
            | Self::WrongPlaintext => DeepFailure::Failed,
        }
    }

    /// The failed call, for the error class; `None` for a finding.
    #[must_use]
    pub fn call(&self) -> Option<&CallFailure> {
        match self {
            Self::Encrypt { source, .. } | Self::Decrypt { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// Encrypts and decrypts 32 random bytes with the version of the probe key.
///
/// # Errors
/// The first failed step.
pub async fn probe(session: &Session, transit: &Transit, key: &ProbeKey) -> Result<(), DeepError> {
    let aad = AssociatedData::status_probe();
    round_trip(session, transit, key.version(), &aad)
        .await
        .map(drop)
}

/// Durations of the two calls of a round trip, including the wait for a connection.
#[derive(Debug, Clone, Copy)]
pub struct Took {
    pub encrypt: Duration,
    pub decrypt: Duration,
}

/// Encrypts and decrypts 32 random bytes with exactly this version.
///
/// # Errors
/// The first failed step.
pub async fn round_trip(
    session: &Session,
    transit: &Transit,
    version: TransitVersion,
    aad: &AssociatedData,
) -> Result<Took, DeepError> {
    let mut plaintext = Zeroizing::new([0_u8; 32]);
    rustix::rand::getrandom(&mut plaintext[..], rustix::rand::GetRandomFlags::empty())
        .map_err(DeepError::Random)?;

    let start = Instant::now();
    let encrypted = session
        .call(async |token| transit.encrypt(&token, version, &plaintext[..], aad).await)
        .await
        .map_err(|source| DeepError::Encrypt {
            version,
            source: Box::new(source),
        })?;
    let encrypt = start.elapsed();

    let ciphertext = encrypted.ciphertext;
    check_sizes(ciphertext.as_str().as_bytes(), "", []).map_err(|_| DeepError::Invalid)?;
    let of_version = encrypted
        .key_version
        .is_none_or(|answered| answered == version);
    if ciphertext.version() != version || !of_version {
        return Err(DeepError::Invalid);
    }

    let start = Instant::now();
    let decrypted = session
        .call(async |token| transit.decrypt(&token, &ciphertext, aad).await)
        .await
        .map_err(|source| DeepError::Decrypt {
            version,
            source: Box::new(source),
        })?;
    let decrypt = start.elapsed();
    if decrypted.expose() == &plaintext[..] {
        Ok(Took { encrypt, decrypt })
    } else {
        Err(DeepError::WrongPlaintext)
    }
}
