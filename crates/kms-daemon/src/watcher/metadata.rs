//! The metadata probe: checks mount and key settings, and reads the key for the rotation rules.

use kms_domain::{
    bootstrap::BootstrapDenied, health::MetadataFailure, registry::rotation::RotationRefused,
    transit::TransitVersion,
};
use kms_node::{auth::CallFailure, transit_key::KeyReadError};

use super::{committer::CommitterError, discovery::DiscoveryFailed};

/// Why a metadata probe failed.
#[derive(Debug, thiserror::Error)]
pub enum MetadataError {
    /// The key could not be read, or is refused.
    #[error(transparent)]
    Key(#[from] KeyReadError),
    /// The key in OpenBao conflicts with the state of this node.
    #[error(transparent)]
    Rotation(#[from] RotationRefused),
    /// There is no state, and creating one is denied.
    #[error(transparent)]
    Bootstrap(#[from] BootstrapDenied),
    /// The next state could not be saved, and the state in use is absent or contradicts the disk.
    #[error(transparent)]
    Save(#[from] CommitterError),
    /// The next state could not be saved. The state in use is confirmed and continues to serve.
    #[error(
        "a change of the state could not be saved; the rotation waits, everything else goes on"
    )]
    Deferred(#[source] CommitterError),
    /// A discovery exceeded its time limit.
    #[error("reading the key's metadata for a discovery took too long")]
    CutOff,
    /// Transit refuses to encrypt with the active version.
    #[error(
        "min_encryption_version of the Transit key is above the active version {active}, so \
         nothing can be encrypted; decrypting goes on. Set min_encryption_version to {active} or 0"
    )]
    EncryptionBlocked {
        /// Active version in the registry.
        active: TransitVersion,
    },
}

impl MetadataError {
    /// The reason for Status and readiness.
    #[must_use]
    pub fn failure(&self) -> MetadataFailure {
        match self {
            Self::Key(failure) => failure.failure(),
            Self::Rotation(refused) => refused.failure(),
            Self::Bootstrap(_) => MetadataFailure::StateUnavailable,
            Self::Save(_) | Self::Deferred(_) => MetadataFailure::StateSaveFailed,
            Self::EncryptionBlocked { .. } => MetadataFailure::EncryptionBlocked,
            Self::CutOff => MetadataFailure::ProbeFailed,
        }
    }

    /// Whether the registry was compared with the key and confirmed: only then the activation wait
    /// of a pending version advances.
    #[must_use]
    pub fn leaves_the_registry_valid(&self) -> bool {
        matches!(self, Self::EncryptionBlocked { .. })
    }

    /// The result for a decrypt waiting for a discovery. It is `Ok` also for found versions whose
    /// commit failed.
    ///
    /// # Errors
    /// The key could not be read or was refused.
    pub fn of_discovery(&self) -> Result<(), DiscoveryFailed> {
        match self {
            Self::Save(_) | Self::Deferred(_) => Ok(()),
            Self::Key(KeyReadError::UpsertRead { .. } | KeyReadError::Read { .. })
            | Self::CutOff => Err(DiscoveryFailed::Unanswered),
            Self::Key(KeyReadError::UpsertAllowed { .. } | KeyReadError::Profile(_))
            | Self::Rotation(_)
            | Self::Bootstrap(_)
            | Self::EncryptionBlocked { .. } => Err(DiscoveryFailed::Refused),
        }
    }

    /// The failed commit, with or without a confirmed state in use.
    #[must_use]
    pub fn unsaved(&self) -> Option<&CommitterError> {
        match self {
            Self::Save(unsaved) | Self::Deferred(unsaved) => Some(unsaved),
            _ => None,
        }
    }

    /// The failed call, for the breaker and for the error class; `None` for a finding.
    #[must_use]
    pub fn call(&self) -> Option<&CallFailure> {
        match self {
            Self::Key(failure) => failure.call(),
            _ => None,
        }
    }
}
