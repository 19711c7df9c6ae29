//! The metadata probe: checks mount and key settings, and reads the key for the rotation rules.

use kms_domain::{
    bootstrap::BootstrapDenied,
    health::MetadataFailure,
    registry::rotation::RotationRefused,
    scope::TransitKeyPath,
    transit::{KeyProfile, ProfileRefused, TransitVersion},
};
use openbao_client::{failure::FailureClass, transit::Transit};

use super::{committer::CommitterError, discovery::DiscoveryFailed};
use crate::auth::{CallFailure, Session};

/// Why a metadata probe failed.
#[derive(Debug, thiserror::Error)]
pub enum MetadataError {
    /// `config/keys` of the mount could not be read.
    #[error("cannot read {mount}/config/keys of OpenBao")]
    UpsertRead {
        mount: String,
        #[source]
        source: Box<CallFailure>,
    },
    /// Encrypting under a missing key would create one.
    #[error(
        "the Transit mount {mount} creates missing keys on encryption, so a lost key would be \
         replaced unnoticed by one that decrypts nothing; no data is lost. Run \
         `bao write {mount}/config/keys disable_upsert=true`"
    )]
    UpsertAllowed { mount: String },
    /// The key's metadata could not be read.
    #[error("cannot read the metadata of Transit key {key} on mount {mount}")]
    Read {
        mount: String,
        key: String,
        #[source]
        source: Box<CallFailure>,
    },
    /// The type or the settings of the key are unacceptable.
    #[error(transparent)]
    Profile(#[from] ProfileRefused),
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
            Self::UpsertRead { source, .. } | Self::Read { source, .. } if is_sealed(source) => {
                MetadataFailure::OpenBaoSealed
            }
            Self::UpsertRead { .. } => MetadataFailure::UpsertCheckFailed,
            Self::UpsertAllowed { .. } => MetadataFailure::UpsertAllowed,
            Self::Read { .. } => MetadataFailure::MetadataReadFailed,
            Self::Profile(_) => MetadataFailure::ProfileInvalid,
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
            Self::UpsertRead { .. } | Self::Read { .. } | Self::CutOff => {
                Err(DiscoveryFailed::Unanswered)
            }
            Self::UpsertAllowed { .. }
            | Self::Profile(_)
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
            Self::UpsertRead { source, .. } | Self::Read { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// Whether the call failed because OpenBao is sealed.
pub(super) fn is_sealed(failure: &CallFailure) -> bool {
    failure.class() == Some(FailureClass::Sealed)
}

/// Reads and checks the mount and the key.
///
/// # Errors
/// The first failure.
pub async fn read_profile(
    session: &Session,
    transit: &Transit,
    path: &TransitKeyPath,
) -> Result<KeyProfile, MetadataError> {
    let mount = || path.mount_path.to_string();
    let key = || path.key_name.to_string();
    let upsert_disabled = session
        .call(async |token| transit.upsert_disabled(&token).await)
        .await
        .map_err(|source| MetadataError::UpsertRead {
            mount: mount(),
            source: Box::new(source),
        })?;
    if !upsert_disabled {
        return Err(MetadataError::UpsertAllowed { mount: mount() });
    }
    let metadata = session
        .call(async |token| transit.key_metadata(&token).await)
        .await
        .map_err(|source| MetadataError::Read {
            mount: mount(),
            key: key(),
            source: Box::new(source),
        })?;
    Ok(KeyProfile::check(&metadata, &path.key_name)?)
}
